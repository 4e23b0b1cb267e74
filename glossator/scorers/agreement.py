"""Do scores put labels into the order in which people put them, and do people agree with one another?

- `spearman`: Pearson's r between ranks, ties at their mean rank (Spearman 1904; value from scipy). Chance level 0; 1 where
  a score and the people order the labels alike, -1 where they order them the other way round. 95% percentile interval
  of a bootstrap over labels; under ten labels there is a value and no interval, under three neither.
- `kappa`: agreement of two raters beyond what their own habits give by chance (Cohen 1960); for grades a disagreement
  counts by the square of its distance (Cohen 1968), so that 4 against 5 is nearly agreement. Chance level 0.
- `same_side`: of the labels that somebody preferred, how often a score is higher on that side. Chance level 0.5.

Blind spots. Ranks forget distances: a score that gives every label 0.90 to 0.91 in the right order has 1. A correlation
says nothing about whether a score's values mean anything, and it holds for the labels that were sampled: spread them over
good and bad ones, else there is nothing to order. It is at most as high as the people agree with themselves.
Where all ratings are alike, or all scores, there is no order and no value: that is said, and is not a 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata, spearmanr

from glossator.scorers.bounds import Measured, missing
from glossator.scorers.estimators import wilson
from glossator.types import Estimate, Floats, Ints

FEWEST = 10  # labels, from which on there is an interval
_LEAST = 3  # labels, from which on there is an order to speak of
_DRAWS = 2_000
_LOST = 0.05  # share of resamples without a value, up to which the others make an interval
_NAN = float("nan")


def spearman(rating: Floats, score: Floats, seed: int = 0) -> Measured:
    """rating, score [n]: of the same labels, in the same order. No value: the note says why."""
    x, y = np.asarray(rating, np.float64), np.asarray(score, np.float64)
    n = len(x)
    if n < _LEAST:
        return missing(f"{n} rated label{'s' * (n != 1)} with this score, under {_LEAST}", n)
    if (x == x[0]).all():
        return missing("all ratings are alike", n)
    if (y == y[0]).all():
        return missing("all scores are alike", n)
    value = float(spearmanr(x, y).statistic)
    return _with_interval(value, lambda at: _pearson(rankdata(x[at], axis=1), rankdata(y[at], axis=1)), n, seed)


def mean(values: Floats, seed: int = 0) -> Measured:
    """The mean over labels, with the interval of a bootstrap over them."""
    v = np.asarray(values, np.float64)
    if not len(v):
        return missing("nothing was rated")
    return _with_interval(float(v.mean()), lambda at: v[at].mean(1), len(v), seed)


def kappa(a: Ints, b: Ints, categories: int, *, graded: bool, seed: int = 0) -> Measured:
    """a, b [n]: what two raters said of the same things, numbers from 0 on. graded: the categories have an order."""
    a, b = np.asarray(a, int), np.asarray(b, int)
    step = np.arange(categories)
    cost = (step[:, None] - step) ** 2 if graded else (step[:, None] != step)
    if len(a) < _LEAST:
        return missing(f"{len(a)} rated by both, under {_LEAST}", len(a))

    def drawn(at: Ints) -> Floats:
        return _kappa(a[at], b[at], cost.astype(np.float64))

    value = float(drawn(np.arange(len(a))[None])[0])
    if np.isnan(value):
        return missing("one of them gave the same answer throughout", len(a))
    return _with_interval(value, drawn, len(a), seed)


def same_side(preferred: Ints, difference: Floats) -> Measured:
    """preferred [n]: 1, -1, or 0 where neither side was; difference [n]: of the scores, NaN where one is missing."""
    preferred, difference = np.asarray(preferred), np.asarray(difference, np.float64)
    told = (preferred != 0) & np.isfinite(difference)
    if not told.any():
        return missing("no label that was preferred has this score on both sides")
    decided = told & (difference != 0)
    alike = int(told.sum() - decided.sum())
    note = f"{alike} left out, where the score gives both sides the same" if alike else None
    if not decided.any():
        return missing("the score gives both sides the same throughout", int(told.sum()))
    agree = int((np.sign(difference[decided]) == preferred[decided]).sum())
    return Measured(wilson(agree, int(decided.sum())), note)


def _with_interval(value: float, statistic: Callable[[Ints], Floats], n: int, seed: int) -> Measured:
    """statistic: indices [draws, n] -> [draws]."""
    found = Measured(Estimate(value, _NAN, _NAN, n))
    if n < FEWEST:
        return replace(found, note=f"under {FEWEST} labels: no interval")
    drawn = statistic(np.random.default_rng(seed).integers(n, size=(_DRAWS, n)))
    if np.isnan(drawn).mean() > _LOST:
        return replace(found, note="too many alike: no interval")
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Measured(Estimate(value, float(low), float(high), n))


def _pearson(x: Floats, y: Floats) -> Floats:
    """Row by row; NaN where a row does not vary."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    square = (x * x).sum(1) * (y * y).sum(1)
    return np.where(square > 0, (x * y).sum(1) / np.sqrt(np.where(square > 0, square, 1.0)), np.nan)


def _kappa(a: Ints, b: Ints, cost: Floats) -> Floats:
    """Row by row: 1 - observed cost / the cost that the two habits give by chance.

    NaN where a rater always says the same: kappa would be 0 whatever the other one says.
    """
    categories = np.arange(len(cost))
    habit_a, habit_b = ((x[..., None] == categories).mean(1) for x in (a, b))
    expected = np.einsum("di,ij,dj->d", habit_a, cost, habit_b)
    observed = cost[a, b].mean(1)
    constant = (habit_a.max(1) == 1) | (habit_b.max(1) == 1)
    return np.where(constant, np.nan, 1 - observed / np.where(constant, 1.0, expected))
