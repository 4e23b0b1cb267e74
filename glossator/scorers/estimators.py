"""The estimators that scores share: signed Pearson, its bootstrap over documents, Wilson's interval.

Pearson's r is kept signed and is never taken after a regression on the scored data, which would turn r into |r|.
Resampling documents, not tokens, is what makes an interval honest: tokens of one text are not independent.
Sums over a document are sufficient for r, so 500 resamples cost one small matrix product.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from glossator.types import Bools, Estimate, Floats, Ints

_MIN_DOCUMENTS = 5
_LEAST_REFERENCE = 0.1  # of a Brier score that another one is compared with


def document_sums(prediction: Floats, activation: Floats, weight: Floats, mask: Bools, document: Ints) -> Floats:
    """[documents, 6]: sums of w, wx, wy, wxx, wyy, wxy over the tokens [n, WINDOW] of each document; weight [n]."""
    w = np.where(mask, weight[:, None], 0.0)
    x, y = prediction.astype(np.float64), activation.astype(np.float64)
    terms = np.stack([w, w * x, w * y, w * x * x, w * y * y, w * x * y], -1).sum(1)
    _, number = np.unique(document, return_inverse=True)
    return np.stack([np.bincount(number, terms[:, k]) for k in range(6)], 1)


def pearson_of(sums: Floats) -> Floats:
    """r from sums [..., 6]; 0 where the prediction does not vary (a constant knows nothing), NaN where the activation does not."""
    w, x, y, xx, yy, xy = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    w = np.maximum(w, 1e-12)
    var_x, var_y = xx - x * x / w, yy - y * y / w
    flat_x, flat_y = var_x <= 1e-9 * np.maximum(xx, 1e-12), var_y <= 1e-9 * np.maximum(yy, 1e-12)
    r = (xy - x * y / w) / np.sqrt(np.maximum(var_x * var_y, 1e-30))
    return np.where(flat_y, np.nan, np.where(flat_x, 0.0, np.clip(r, -1, 1)))


def resamples(documents: int, draws: int, rng: np.random.Generator) -> Floats:
    """[draws, documents]: how often each document comes in each resample."""
    drawn = rng.integers(0, documents, (draws, documents))
    drawn += np.arange(draws)[:, None] * documents  # counting is ten times as fast as drawing from a multinomial
    return np.bincount(drawn.ravel(), minlength=draws * documents).reshape(draws, documents).astype(np.float64)


def pearson(sums: Floats, times: Floats, n: int) -> Estimate:
    """r over all documents, with the percentile interval of its resamples; no interval under five documents."""
    value = float(pearson_of(sums.sum(0)))
    if len(sums) < _MIN_DOCUMENTS:
        return Estimate(value, float("nan"), float("nan"), n)
    drawn = pearson_of(times @ sums)
    low, high = np.nanpercentile(drawn, [2.5, 97.5]) if np.isfinite(drawn).any() else (np.nan, np.nan)
    return Estimate(value, float(low), float(high), n)


def paired_difference(sums_a: Floats, sums_b: Floats, times: Floats, n: int) -> tuple[Estimate, float]:
    """r_a - r_b on the same resamples, and the one-sided p-value of "a is not better"."""
    value = float(pearson_of(sums_a.sum(0)) - pearson_of(sums_b.sum(0)))
    if len(sums_a) < _MIN_DOCUMENTS:
        return Estimate(value, float("nan"), float("nan"), n), float("nan")
    drawn = pearson_of(times @ sums_a) - pearson_of(times @ sums_b)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(value, float("nan"), float("nan"), n), float("nan")
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n), float((1 + (drawn <= 0).sum()) / (1 + len(drawn)))


def wilson(successes: float, n: int, level: float = 0.95) -> Estimate:
    """A rate with Wilson's score interval (Wilson 1927). successes: halves, for ties, are welcome."""
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    z = float(norm.ppf(0.5 + level / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(p, float(centre - half), float(centre + half), n)


def brier_skill(predicted: Floats, outcome: Floats, base: Floats) -> Estimate:
    """1 - sum (p - y)^2 / sum base (1 - base), with a bootstrap over experiments; base (1 - base) is what base is expected to score.

    0: no better than can be expected of the base rate. NaN where the base rates alone tell what comes out.
    """
    mine, theirs = (predicted - outcome) ** 2, base * (1 - base)
    n = len(outcome)
    if not n or theirs.sum() < _LEAST_REFERENCE:
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    value = float(1 - mine.sum() / theirs.sum())
    if n < _MIN_DOCUMENTS:
        return Estimate(value, float("nan"), float("nan"), n)
    times = resamples(n, 500, np.random.default_rng(n))
    drawn = 1 - (times @ mine) / np.maximum(times @ theirs, _LEAST_REFERENCE)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), n)
