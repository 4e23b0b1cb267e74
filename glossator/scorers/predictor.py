"""Predictors turn an explanation into numbers. `rule` executes the program; its p(fires) is calibrated on `select`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glossator.scorers.rule import Rule
from glossator.types import Bools, Floats, Prediction, Windows

_BANDS = (0.5, 3.5, 6.5)


class RulePredictor:
    """A rule with four firing rates: for windows whose highest strength is 0, 1-3, 4-6, 7-10."""

    predictor = "rule"

    def __init__(self, explanation_id: str, rule: Rule, rates: Sequence[float]) -> None:
        self.explanation_id, self.rule, self.rates = explanation_id, rule, np.asarray(rates)

    def predict(self, windows: Windows) -> list[Prediction]:
        strengths = self.rule.strengths(windows)
        p = self.rates[np.digitize(strengths.max(1, initial=0), _BANDS)]
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
