"""Predictors turn an explanation into numbers. `rule` executes the program; its p(fires) is calibrated on `select`.

It is calibrated twice, since a probability is one of a mix of windows: `firing_rates` to as many active as background
windows, as in a pool of edits, and `corpus_rates` to the corpus, where nearly all windows are silent. A rule that is right
in half of an even mix may be right once in a hundred windows of the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from glossator.scorers.bounds import kish
from glossator.scorers.rates import Census, census
from glossator.scorers.rule import Rule
from glossator.types import Bools, FeatureRecord, Floats, Ints, Prediction, Windows

_BANDS = (0.5, 3.5, 6.5)


class RulePredictor:
    """A rule with four firing rates: for windows whose highest strength is 0, 1-3, 4-6, 7-10."""

    predictor = "rule"

    def __init__(self, explanation_id: str, rule: Rule, rates: Sequence[float]) -> None:
        self.explanation_id, self.rule, self.rates = explanation_id, rule, np.asarray(rates)

    def fires(self, strengths: Ints) -> Floats:
        """[n] p(fires) of windows on which the rule says these strengths [n, WINDOW]."""
        return np.asarray(self.rates[np.digitize(strengths.max(1, initial=0), _BANDS)])

    async def predict(self, windows: Windows) -> list[Prediction]:
        """Awaited as every predictor is; it asks nobody."""
        strengths = self.rule.strengths(windows)
        p = self.fires(strengths)
        lengths = windows.mask.sum(1)
        return [
            Prediction(tuple(int(s) for s in row[:n]), float(q))
            for row, n, q in zip(strengths, lengths, p, strict=True)
        ]


def firing_rates(strengths: Floats, fires: Bools) -> list[float]:
    """How often windows of each band of predicted strength fire: (k + 1/2) / (n + 1), made monotone, kept within 0.02-0.98.

    strengths [n, WINDOW], fires [n], of the active and as many background windows of `select`: an even mix, as in a pool of edits.
    """
    band = np.digitize(strengths.max(1, initial=0), _BANDS)
    rates = [(float(fires[band == b].sum()) + 0.5) / (float((band == b).sum()) + 1) for b in range(len(_BANDS) + 1)]
    return [float(x) for x in np.clip(np.maximum.accumulate(rates), 0.02, 0.98)]


def corpus_predictor(record: FeatureRecord, rule: Rule, explanation_id: str = "") -> RulePredictor:
    """A rule whose p(fires) is that of the corpus, as far as `select` tells."""
    learnt = census(record.exemplars["select"], record.background["select"], record.threshold)
    return RulePredictor(explanation_id, rule, corpus_rates(rule.strengths(learnt.sample.windows), learnt))


def corpus_rates(strengths: Ints, seen: Census) -> list[float]:
    """How often windows of each band of predicted strength fire in the corpus; they rise with strength (isotonic regression).

    strengths [n, WINDOW] on the windows of a census of `select`; weak windows are left out. A band of few windows is drawn
    to the rate of all bands: (k + rate) / (n + 1), n the effective number of its weighted windows.
    """
    band, weight = np.digitize(strengths.max(1, initial=0), _BANDS), np.where(seen.weak, 0.0, seen.sample.weight)
    mass = np.bincount(band, weight, len(_BANDS) + 1)
    fires = np.bincount(band, weight * seen.fires, len(_BANDS) + 1)
    every = fires.sum() / max(mass.sum(), 1e-12)
    n = np.asarray([kish(weight[band == b]) for b in range(len(_BANDS) + 1)])
    share = np.divide(fires, mass, out=np.zeros_like(mass), where=mass > 0)
    found = isotonic_regression((share * n + every) / (n + 1), weights=n + 1).x
    return [float(x) for x in found]
