"""All scores of one feature's rule, and of the lookups that it is compared with, as rows. Pure: records in, rows out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glossator.config import ScoreConfig
from glossator.rows import NullScoreRow, ScoreRow
from glossator.scorers.estimators import paired_difference, pearson, pearson_of
from glossator.scorers.rule import Rule
from glossator.scorers.simulation import Predict, Scene, draws_for, literature, near, scene, sums_of, within
from glossator.types import Estimate, FeatureRecord, Floats, content_id


@dataclass(frozen=True)
class Candidate:
    """An explanation that is to be scored as a rule."""

    explanation_id: str
    explainer: str
    rule: Rule


def finite(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def score_row(
    record: FeatureRecord,
    c: tuple[str, str],
    metric: str,
    e: Estimate,
    run_id: str,
    split: str = "test",
    note: str | None = None,
) -> ScoreRow:
    """c: (explanation id, explainer). NaN becomes NULL."""
    f = record.feature
    return ScoreRow(
        c[0],
        f.dictionary,
        f.index,
        c[1],
        "rule",
        None,
        metric,
        split,
        finite(e.value),
        finite(e.low),
        finite(e.high),
        e.n,
        note,
        run_id,
    )


class FeatureScorer:
    """Scores on `test`, with one set of resamples per feature so that differences are paired."""

    def __init__(self, record: FeatureRecord, config: ScoreConfig, run_id: str) -> None:
        self.record, self.config, self.run_id = record, config, run_id
        self.scene: Scene = scene(record, "test")
        self.windows = self.scene.windows
        self.seed = config.seed * 1_000_003 + record.feature.index
        self.times = draws_for(self.scene, config.draws, self.seed)

    def sums(self, prediction: Floats) -> Floats:
        return sums_of(self.scene, prediction)

    def rule_rows(self, c: Candidate) -> tuple[list[ScoreRow], Floats]:
        """Its four simulation scores, and the sums that comparisons need."""
        prediction = c.rule.strengths(self.windows)
        sums = self.sums(prediction)
        draws, seed, record = self.config.draws, self.seed, self.record
        found = {
            "simulation": pearson(sums, self.times, len(self.windows)),
            "simulation_within": within(self.scene, prediction, record.threshold, draws, seed),
            "simulation_literature": literature(self.scene, prediction, draws, seed),
            "simulation_near": near(self.scene, c.rule.strengths, prediction, draws, seed),
        }
        who = (c.explanation_id, c.explainer)
        quiet = "no silent background window on which the rule speaks"
        notes = {"simulation_near": quiet if found["simulation_near"].n == 0 else None}
        return [score_row(record, who, m, e, self.run_id, note=notes.get(m)) for m, e in found.items()], sums

    def lookup_row(self, name: str, prediction: Floats) -> tuple[ScoreRow, Floats]:
        """`simulation` of a baseline that has no explanation row: lookup-1, lookup-5, lookup-full."""
        f = self.record.feature
        sums = self.sums(prediction)
        who = (content_id("lookup", f.dictionary, f.index, name), name)
        return score_row(
            self.record, who, "simulation", pearson(sums, self.times, len(self.windows)), self.run_id
        ), sums

    def null_values(self, predicts: Sequence[Predict]) -> list[float]:
        """`simulation` of other features' rules on this feature's windows."""
        return [float(pearson_of(self.sums(predict(self.windows)).sum(0))) for predict in predicts]

    def compare(self, c: Candidate, comparison: str, mine: Floats, other: Floats) -> NullScoreRow:
        """A paired difference; for `lexical` a lift, for `neighbour` with its one-sided p."""
        difference, p = paired_difference(mine, other, self.times, len(self.windows))
        f = self.record.feature
        return NullScoreRow(
            c.explanation_id, f.dictionary, f.index, "simulation", comparison, finite(float(pearson_of(other.sum(0)))), finite(p), None,
            finite(difference.value), finite(difference.low), finite(difference.high), difference.n, self.run_id,
        )  # fmt: skip
