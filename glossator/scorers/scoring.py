"""All scores of one feature's rule, and of the lookups that it is compared with, as rows. Pure: records in, rows out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glossator.config import ScoreConfig
from glossator.rows import NullScoreRow, ScoreRow
from glossator.scorers import discrimination as discriminating
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.discrimination import DiscriminationScene, discrimination, discrimination_scene
from glossator.scorers.estimators import paired_difference, pearson, pearson_of
from glossator.scorers.predictor import corpus_predictor
from glossator.scorers.rates import Draws, against_near, census, rates
from glossator.scorers.rule import Rule
from glossator.scorers.simulation import Predict, Scene, draws_for, literature, near, scene, sums_of, within
from glossator.types import Estimate, FeatureRecord, Floats, Ints, Windows, content_id

# what they are called in rates.py; all over the whole census of `test`
CORPUS_METRICS = {
    "detection": "auroc",
    "auprc": "auprc",
    "precision": "precision",
    "recall": "recall",
    "f1": "f1",
    "false_positive_rate": "false_positive_rate",
    "brier_skill": "brier_skill",
}
RATE_METRICS = (*CORPUS_METRICS, "detection_near", *discriminating.METRICS)


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
        self._moments = _moments(self.scene)

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
        """`simulation` of other features' rules on this feature's windows: values alone, so no sums by document."""
        if not predicts:
            return []
        fixed, weights = self._moments
        told = np.stack([predict(self.windows).ravel() for predict in predicts]).astype(np.float64)
        x, xy = (told @ weights).T
        sums = np.empty((len(told), 6))
        sums[:, [0, 2, 4]] = fixed
        sums[:, 1], sums[:, 3], sums[:, 5] = x, (told * told) @ weights[:, 0], xy
        return [float(r) for r in pearson_of(sums)]

    def compare(self, c: Candidate, comparison: str, mine: Floats, other: Floats) -> NullScoreRow:
        """A paired difference; for `lexical` a lift, for `neighbour` with its one-sided p."""
        difference, p = paired_difference(mine, other, self.times, len(self.windows))
        f = self.record.feature
        return NullScoreRow(
            c.explanation_id, f.dictionary, f.index, "simulation", comparison, finite(float(pearson_of(other.sum(0)))), finite(p), None,
            finite(difference.value), finite(difference.low), finite(difference.high), difference.n, self.run_id,
        )  # fmt: skip


def rate_rows(record: FeatureRecord, c: Candidate, draws: Draws, rivals: Ints, run_id: str) -> list[ScoreRow]:
    """How well a rule's p(fires) tells windows of `test` apart: over the corpus, against near misses, against neighbours.

    draws: for the documents of `test`, made once for all features. rivals: as `discrimination_scene` has it.
    """
    found = _rates(record, c.rule, draws, rivals)
    who = (c.explanation_id, c.explainer)
    return [score_row(record, who, m, found[m].estimate, run_id, note=found[m].note) for m in RATE_METRICS]


def _moments(scene: Scene) -> tuple[Floats, Floats]:
    """What r needs of the activations whatever is predicted: sums of w, wy, wyy, and [tokens, 2] the weights w and wy."""
    w = np.where(scene.windows.mask, scene.weight[:, None], 0.0).ravel()
    y = scene.activations.astype(np.float64).ravel()
    return np.asarray([w.sum(), w @ y, w @ (y * y)]), np.stack([w, w * y], 1)


def _rates(record: FeatureRecord, rule: Rule, draws: Draws, rivals: Ints) -> dict[str, Measured]:
    """RATE_METRICS of a rule on `test`; its probabilities are those of `select`. A metric without a value has a note."""
    if record.status == "dense":
        return dict.fromkeys(RATE_METRICS, missing("dense: it fires in too many windows to be told apart by windows"))
    active, near_misses = record.exemplars["test"], record.near_misses.get("test")
    predictor = corpus_predictor(record, rule)

    def told(windows: Windows) -> Floats:
        return predictor.fires(rule.strengths(windows))

    seen = census(active, record.background["test"], record.threshold)
    over = rates(told(seen.sample.windows), seen, draws, tuple(CORPUS_METRICS.values()))
    found = {name: over[of] for name, of in CORPUS_METRICS.items()}
    if near_misses is None or not len(near_misses.windows):
        found["detection_near"] = missing("no near miss is known")
    else:
        hard = against_near(active, near_misses, record.threshold)
        found["detection_near"] = rates(told(hard.sample.windows), hard, draws, ("auroc",))["auroc"]
    apart = discrimination_scene(record, "test", rivals)
    if isinstance(apart, DiscriminationScene):
        return found | discrimination(apart, told(apart.windows), draws)
    return found | dict.fromkeys(discriminating.METRICS, missing(apart))
