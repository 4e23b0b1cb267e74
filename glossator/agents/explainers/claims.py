"""What explainers by a model share: a claim, how well a reader of it predicts `select`, and what was found about a feature.

Explainers are plain async functions of prepared material and of the models that they ask: no store, no rows. `explaining.py`
runs them over many features and writes the rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from glossator.agents.run import Run
from glossator.agents.scoring.scenes import METRICS, AnyScene, answer, measured, scene_of, seed_of
from glossator.config import LLMScoreConfig
from glossator.llm.base import LLM
from glossator.rows import PromptRow
from glossator.scorers import detection
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureId, FeatureRecord, Request, content_id

By = Literal["detection", "simulation"]
_DECIDE: dict[By, tuple[str, ...]] = {"detection": detection.METRICS, "simulation": ("simulation",)}
PERFECT = 1.0


@dataclass(frozen=True)
class Claim:
    """One sentence about a feature. text None: an abstention, for a reason."""

    text: str | None
    reason: str | None = None
    scope: str | None = None
    prompt_id: str | None = None  # None: nobody was asked


@dataclass(frozen=True)
class Candidate:
    """A claim, and its scores on `select`: none where it was not read."""

    claim: Claim
    scores: Mapping[str, Measured] = field(default_factory=dict)
    value: float | None = None  # what it is chosen by


@dataclass(frozen=True)
class Step:
    """What came of one node of a graph. value: of what it looked at, on `select`."""

    node: str
    outcome: str
    value: float | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Found:
    """What an explainer found. how: the way to it, in words; failures: what went wrong on the way, and where.

    best None: nothing was found; the last failure says why, or, where nothing failed, `how` says why nothing was looked for.
    """

    best: Candidate | None
    how: str | None = None
    candidates: tuple[Candidate, ...] = ()
    failures: tuple[tuple[str, Exception], ...] = ()
    exposure: str | None = None  # as in ExplanationRow
    steps: tuple[Step, ...] = ()  # of its graph, if it has one


Job = Callable[[LLM, LLMPredictor], Awaitable[Found]]  # the writer, and who reads what it wrote


@dataclass(frozen=True)
class Explainer:
    """reading: how claims are read on `select`; None where none is. depth: questions that wait for one another, at most.

    opened(run id, features): what has to stand open while it works.
    """

    name: str
    prompts: tuple[PromptRow, ...]
    prepare: Callable[[FeatureRecord], Job]
    reading: LLMScoreConfig | None = None
    depth: int = 1
    opened: Callable[[str, Sequence[int]], AbstractAsyncContextManager[object]] = lambda run_id, features: nullcontext()


@dataclass(frozen=True)
class Material:
    """The windows of `select` that a claim about one feature is read on, or why there are none."""

    feature: FeatureId
    threshold: float
    by: By
    scene: AnyScene | str


def identity_of(feature: FeatureId, explainer: str, model: str | None, claim: Claim) -> str:
    """The id of the explanation that a claim is stored as. model: who wrote it; None where nobody was asked."""
    given = (feature.dictionary, feature.index, explainer, model if claim.prompt_id else None)
    return content_id("explanation", *given, claim.text, claim.reason)


async def ask(llm: LLM, request: Request) -> Claim:
    """One question of an explainer. Raises as `LLM.complete` does."""
    said = (await llm.complete(request)).value
    if said.abstain:
        return Claim(None, said.notes, None, request.prompt_id)
    return Claim(said.claim, None, said.scope, request.prompt_id)


def material(run: Run, record: FeatureRecord, by: By, config: LLMScoreConfig) -> Material:
    """Drawn as the scorers draw it, so that they find the same questions in the log."""
    rare = "rare: too few active windows for a score"
    scene = rare if record.status == "rare" else scene_of(run, record, by, "select", config)
    return Material(record.feature, record.threshold, by, scene)


def unread(claim: Claim, on: Material) -> Candidate:
    """A claim whose reading failed: scores without value and note, which count as failures."""
    return Candidate(claim, {metric: missing("") for metric in METRICS[on.by]})


async def read(reader: LLMPredictor, claim: Claim, on: Material) -> Candidate:
    """What a reader of the claim predicts of `select`, scored. An abstention is not read. Raises as `LLM.complete` does."""
    if claim.text is None:
        return Candidate(claim)
    if isinstance(on.scene, str):
        return Candidate(claim, {metric: missing(on.scene) for metric in METRICS[on.by]})
    config = reader.config
    told = await answer(reader, on.scene, claim.text, str(on.feature), 1)
    scores = measured(on.scene, told, on.threshold, config.draws, seed_of(config, on.feature.index))
    values = [scores[metric].estimate.value for metric in _DECIDE[on.by] if not np.isnan(scores[metric].estimate.value)]
    return Candidate(claim, scores, float(np.mean(values)) if values else None)


def draft_of(run: Run, record: FeatureRecord, model: str) -> Claim | None:
    """What `oneshot` wrote of the feature with this model, the last if it wrote several."""
    rows = run.store.sql(
        "SELECT text, reason, scope, prompt_id FROM explanation WHERE dictionary = ? AND feature = ? AND explainer = 'oneshot' "
        "AND model = ? ORDER BY rowid DESC LIMIT 1",
        [record.feature.dictionary, record.feature.index, model],
    )
    return Claim(*rows[0]) if rows else None
