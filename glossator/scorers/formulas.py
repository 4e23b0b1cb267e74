"""The metrics of rates.py as formulas: masses of windows under weights of documents in, [draws] values out. Pure arithmetic.

s: masses of real windows; hit, miss, false, right: of made-up ones. A made-up hit or false alarm is ranked above every real
window, level with each other; a miss or a quiet silent window below. rates.py says what made-up windows are for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glossator.types import Floats


@dataclass(frozen=True)
class Sums:
    """Masses under weights of documents: [draws], and [m, draws] for the m distinct predictions on firing windows, falling."""

    fires: Floats
    silent: Floats
    hits: Floats
    false: Floats
    error: Floats  # sum w (p - fires)^2
    lowest: float  # prediction
    highest: float
    at: Floats  # [m, draws]: firing mass with just this prediction
    above: Floats  # [m, draws]: silent mass with this prediction or a higher one
    true: Floats  # [m, draws]: firing mass with this prediction or a higher one
    lost: Floats  # sum over pairs, firing times silent mass, where the silent window is ranked higher; ties half


def _auroc(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """Hanley and McNeil (1982): the chance that a firing window is ranked above a silent one, ties half. Chance level 0.5."""
    silent = s.silent + false + right
    lost = s.lost + s.fires * false + miss * (silent - right / 2) + hit * false / 2
    return np.asarray(1 - lost / ((s.fires + hit + miss) * silent))


def _auprc(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """Average precision: of the steps of recall, each with its precision. Chance level: the share of firing windows."""
    fires, silent = s.fires + hit + miss, s.silent + false + right
    precision = s.true + hit
    precision /= s.above + (s.true + (hit + false))
    steps = np.einsum("ij,ij->j", s.at, precision)
    first = hit * hit / np.maximum(hit + false, 1e-30)
    return np.asarray((steps + first + miss * fires / (fires + silent)) / fires)


def _precision(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """Of what is predicted to fire, the share that does. Chance level: the share of firing windows. Blind to misses."""
    return np.asarray((s.hits + hit) / np.maximum(s.hits + hit + s.false + false, 1e-30))


def _recall(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """Of what fires, the share that is predicted to. Blind to false positives: "always" has 1."""
    return np.asarray((s.hits + hit) / (s.fires + hit + miss))


def _specificity(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    return np.asarray(1 - (s.false + false) / (s.silent + false + right))


def _f1(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """The harmonic mean of precision and recall."""
    hits = s.hits + hit
    return np.asarray(2 * hits / (hits + s.false + false + s.fires + hit + miss))


def _balanced(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """The mean of recall and specificity. Chance level 0.5."""
    return (_recall(s, hit, miss, false, right) + _specificity(s, hit, miss, false, right)) / 2


def _hits(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """Firing mass that is found, over silent mass."""
    return np.asarray((s.hits + hit) / (s.silent + false + right))


def _brier(s: Sums, hit: Floats, miss: Floats, false: Floats, right: Floats) -> Floats:
    """1 - mean squared error over that of the weighted base rate. Chance level 0; below it for overconfident predictors."""
    fires, silent = s.fires + hit + miss, s.silent + false + right
    made_up = hit * (1 - s.highest) ** 2 + miss * (1 - s.lowest) ** 2 + false * s.highest**2 + right * s.lowest**2
    return np.asarray(1 - (s.error + made_up) * (fires + silent) / (fires * silent))


RATES: dict[str, Callable[..., Floats]] = {
    "auroc": _auroc,
    "auprc": _auprc,
    "precision": _precision,
    "recall": _recall,
    "specificity": _specificity,
    "f1": _f1,
    "balanced_accuracy": _balanced,
    "brier_skill": _brier,
    "hits": _hits,
}
