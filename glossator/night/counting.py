"""How large the questions of a stage are, before anybody is asked: real prompts of a few features, rendered and counted.

A model that only counts is put where the real one would be, so what is counted is what would be sent. It raises at the first
question: what would come after an answer is not known. Bytes become tokens by a measured ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glossator.agents.explainers.named import explainer
from glossator.agents.pool import wait_for
from glossator.agents.run import Run
from glossator.agents.scoring.scenes import answer, scene_of
from glossator.agents.scoring.score_llm import SPLITS_READ
from glossator.config import ExplainerConfig, LLMScoreConfig, OneshotConfig
from glossator.errors import GlossatorError, UsageError
from glossator.llm.base import Address
from glossator.scorers.reading import LLMPredictor
from glossator.types import Reply, Request

BYTES_A_TOKEN = 3.1  # MiniLM's WordPiece: 3.09 oneshot, 3.38 detection, 3.04 fuzzing, 3.12 contrastive; 1.91 simulation, whose brackets it counts singly
SAMPLE = 16  # features whose prompts are rendered
_LABEL = "the word mortgage and other words about borrowing money for a house, mostly in news about prices"  # of usual length


class _Asked(GlossatorError):
    """The question was counted, and is not answered."""


class _Counting:
    """An LLM that only counts."""

    name, address = "counting", Address("counting", "", "counting")

    def __init__(self) -> None:
        self.calls = self.bytes = 0

    async def complete(self, request: Request) -> Reply:
        self.calls += 1
        self.bytes += sum(len(m.text.encode("utf-8", "replace")) for m in request.messages)
        raise _Asked

    async def close(self) -> None:
        return


@dataclass(frozen=True)
class Size:
    """Of the questions about one feature, on the average: how many, and tokens in all of them."""

    calls: float
    tokens: float


def explain_size(run: Run, config: ExplainerConfig, features: Sequence[int]) -> Size | None:
    """The first question of an explainer; None where none of these features has one. Raises UsageError as the explainer does."""
    made = explainer(run, config, "counting")

    async def whole() -> list[_Counting]:
        found = []
        for record in run.records(_spread(features)):
            if record.active("explain"):
                counting = _Counting()
                await _ended(
                    made.prepare(record)(counting, LLMPredictor(counting, run.lexicon.vocabulary, LLMScoreConfig()))
                )
                found.append(counting)
        return found

    return _mean(wait_for(whole()))


def oneshot_size(run: Run, features: Sequence[int]) -> Size | None:
    return explain_size(run, OneshotConfig(), features)


def read_size(run: Run, scorer: str, config: LLMScoreConfig, features: Sequence[int]) -> Size | None:
    """All questions of a scorer about one label of a feature, on `select` and `test`."""

    async def whole() -> list[_Counting]:
        found = []
        for record in run.records(_spread(features)):
            counting = _Counting()
            predictor = LLMPredictor(counting, run.lexicon.vocabulary, config)
            for split in SPLITS_READ:
                shown = scene_of(run, record, scorer, split, config)
                if not isinstance(shown, str):
                    await _ended(answer(predictor, shown, _LABEL, str(record.feature), 1))
            if counting.calls:
                found.append(counting)
        return found

    return _mean(wait_for(whole()))


async def _ended(job: object) -> None:
    try:
        await job  # type: ignore[misc]
    except (_Asked, UsageError, ValueError):
        return


def _spread(features: Sequence[int]) -> list[int]:
    """A few of them, evenly over the order in which they are wanted."""
    step = max(1, len(features) // SAMPLE)
    return list(features[::step][:SAMPLE])


def _mean(found: Sequence[_Counting]) -> Size | None:
    if not found:
        return None
    n = len(found)
    return Size(sum(one.calls for one in found) / n, sum(one.bytes for one in found) / n / BYTES_A_TOKEN)
