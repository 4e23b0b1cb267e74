"""After the verdict: how well both rivals, and what won, predict the split `test`, which the debate never saw.

By `simulation` (scorers/simulation.py): strengths of a rule, or those that a language model gives when it reads the text.
Both together are as strong as the stronger of the two, their overlap as the weaker. A reversal: the interval of the
winner's simulation over the better loser's lies below 0. Experiments and corpus ask different things, and may differ: a
rival that is right about rare texts may lose on common ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossator.agents.debate.rivals import Reads, Rival, RuleReader
from glossator.agents.scoring.scenes import simulated_scene
from glossator.config import DebateConfig, LLMScoreConfig
from glossator.scorers.estimators import paired_difference, pearson_of
from glossator.scorers.scoring import finite
from glossator.scorers.simulation import draws_for, scene, sums_of
from glossator.types import FeatureRecord

METRIC = "simulation"


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
    by_rule = isinstance(reader, RuleReader)
    if "test" not in record.exemplars or not len(record.exemplars["test"].windows):
        return OnTest()
    shown = scene(record, "test") if by_rule else simulated_scene(record, "test", LLMScoreConfig(seed=config.seed))
    if isinstance(shown, str):
        return OnTest()
    told = [np.asarray(await reader.strengths(rival, shown.windows)) for rival in rivals]
    by_name = {"A": told[0], "B": told[1], "both": np.maximum(*told), "overlap": np.minimum(*told)}
    sums = {name: sums_of(shown, strengths) for name, strengths in by_name.items()}
    value = {name: float(pearson_of(one.sum(0))) for name, one in sums.items()}
    if verdict not in by_name:
        return OnTest(METRIC, finite(value["A"]), finite(value["B"]))
    losers = [side for side in ("A", "B") if side != verdict]
    loser = max(losers, key=lambda side: np.nan_to_num(value[side], nan=-1.0))
    times = draws_for(shown, config.draws, config.seed * 1_000_003 + record.feature.index)
    found, _ = paired_difference(sums[verdict], sums[loser], times, len(shown.windows))
    low, high = finite(found.low), finite(found.high)
    return OnTest(
        METRIC, finite(value["A"]), finite(value["B"]), finite(value[verdict]), finite(found.value), low, high,
        None if high is None else high < 0,
    )  # fmt: skip
