"""After the verdict: how well both rivals, and what won, predict the split `test`, which the debate never saw.

Rules by `simulation` (scorers/simulation.py): both together are as strong as the stronger of the two, their overlap as the weaker.
What a language model reads by `detection` (scorers/detection.py) on twenty windows, because strengths for every token would
cost more tokens than the debate itself; both together and the overlap from p_A and p_B as in the debate. A reversal: the
interval of the winner's score over the better loser's lies below 0. Experiments and corpus ask different things, and may
differ: a rival that is right about rare texts may lose on common ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from glossator.agents.debate.rivals import Reads, Rival, RuleReader
from glossator.agents.scoring.scenes import AnyScene, difference, value_of
from glossator.config import DebateConfig, LLMScoreConfig
from glossator.scorers import evidence
from glossator.scorers.detection import detection_scene
from glossator.scorers.scoring import finite
from glossator.scorers.simulation import scene
from glossator.types import FeatureRecord, Floats

_WINDOWS = LLMScoreConfig(firing=10, silent=10, near=0)


@dataclass(frozen=True)
class OnTest:
    """Values on `test`, None where they cannot be computed; the difference is the winner's over the better loser's."""

    metric: str | None = None
    a: float | None = None
    b: float | None = None
    winner: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    reversal: bool | None = None


async def on_test(
    record: FeatureRecord, rivals: tuple[Rival, Rival], reader: Reads, verdict: str | None, config: DebateConfig
) -> OnTest:
    """Nothing but None where there is nothing to score on."""
    if "test" not in record.exemplars or not len(record.exemplars["test"].windows):
        return OnTest()
    seed = config.seed * 1_000_003 + record.feature.index
    if isinstance(reader, RuleReader):
        metric, shown = "simulation", scene(record, "test")
        a, b = [np.asarray(await reader.strengths(rival, shown.windows)) for rival in rivals]
        told = {"A": a, "B": b, "both": np.maximum(a, b), "overlap": np.minimum(a, b)}
        return _compared(metric, shown, told, verdict, config.draws, seed)
    metric, drawn = "detection", detection_scene(record, "test", _WINDOWS.model_copy(update={"seed": config.seed}))
    if isinstance(drawn, str) or not (~drawn.fires).any():
        return OnTest()
    a, b = [np.asarray(await reader.fires(rival, drawn.windows)) for rival in rivals]
    told = dict(zip(evidence.HYPOTHESES, evidence.claims(a, b).T, strict=False))
    return _compared(metric, drawn, told, verdict, config.draws, seed)


def _compared(
    metric: str, shown: AnyScene, told: Mapping[str, Floats], verdict: str | None, draws: int, seed: int
) -> OnTest:
    value = {name: value_of(shown, one) for name, one in told.items()}
    a, b = finite(value["A"]), finite(value["B"])
    if verdict is None or verdict not in told:
        return OnTest(metric, a, b)
    losers = [side for side in ("A", "B") if side != verdict]
    loser = max(losers, key=lambda side: np.nan_to_num(value[side], nan=-1.0))
    found, _ = difference(shown, told[verdict], told[loser], draws, seed)
    low, high = finite(found.low), finite(found.high)
    return OnTest(
        metric, a, b, finite(value[verdict]), finite(found.value), low, high, None if high is None else high < 0
    )
