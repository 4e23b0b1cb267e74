"""Three comparisons that are never merged: against other features' labels, the nearest feature's label, a token lookup.

- `permuted`: labels of other features of like density, scored on this feature. Their scores are pooled over a density
  stratum to at least 999 pairs; p is the share of the pool that does as well.
- `neighbour`: the label of the nearest decoder direction, on the same windows, same resamples of documents.
- `lexical`: for rules, the single token that explains most; for labels that a model reads, the lexical rule of the same
  feature, executed. A difference with interval.

Rules cost nothing, so each is tried on by two dozen others (`partners`). A model's reading of a mismatched label costs a
question, so no more are asked for than the pools need: about 999 in all, in one stratum, where there are fewer than 1,998
features; never more than one a feature on average where there are more (`few_strata`, `mismatched`). Which pairs these are
is drawn for each feature by its own number, so that a feature that comes later changes few of the pairs of the others.

A pair whose question failed counts as one that did as well: p can only rise by it.

A p-value is evidence against its null, not quality. q-values are Benjamini-Hochberg over all features of one comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from glossator.types import Floats, Ints

STRATA = 8
_ROUNDING = 1e-9  # what is level but for it is level


def density_strata(density: Floats, size: int = STRATA) -> Ints:
    """[n] stratum of each feature: equal groups by density, fewer where there are few features."""
    groups = max(1, min(size, len(density) // 40))
    rank = np.argsort(np.argsort(density, kind="stable"), kind="stable")
    return np.asarray(rank * groups // max(len(density), 1))


def strata_by(density: Floats, like: Floats, strata: Ints) -> Ints:
    """[n] the stratum of each of these densities, as features `like` them were put into `strata`."""
    lowest = [like[strata == stratum].min() for stratum in np.unique(strata)]
    return np.asarray(np.maximum(np.searchsorted(np.asarray(lowest), density, side="right") - 1, 0))


def few_strata(features: int, least: int) -> int:
    """How many strata can each have a pool of `least` pairs with one pair a feature: 1 where there are too few for two."""
    return max(1, min(STRATA, features // max(least, 1)))


def partners(strata: Ints, per_feature: int, least: int, seed: int) -> list[Ints]:
    """For each feature, positions of others of its stratum whose labels are tried on it: enough to pool `least` pairs."""
    rng = np.random.default_rng(seed)
    chosen: list[Ints] = [np.empty(0, np.int64)] * len(strata)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        want = min(max(per_feature, -(-least // len(members))), len(members) - 1)
        for at in members:
            others = members[members != at]
            chosen[at] = rng.choice(others, want, replace=False) if want > 0 else np.empty(0, np.int64)
    return chosen


def mismatched(
    asked: Ints, strata_asked: Ints, known: Ints, strata_known: Ints, most: int, least: int, seed: int
) -> list[Ints]:
    """For each feature `asked` about, the features `known` to have labels, those of whose labels are tried on it.

    asked, known: numbers of features, each with its stratum; most: labels tried on one feature. In every stratum just
    `least` pairs where that many can be had, spread evenly; where not, one a feature, for their mean alone.
    """
    chosen: list[Ints] = [np.empty(0, np.int64)] * len(asked)
    beyond = int(max(asked.max(initial=0), known.max(initial=0))) + 1
    for stratum in np.unique(strata_asked):
        mine, others = np.flatnonzero(strata_asked == stratum), known[strata_known == stratum]
        mine = mine[np.argsort(np.random.default_rng(seed).random(beyond)[asked[mine]], kind="stable")]
        can = np.minimum(most, len(others) - np.isin(asked[mine], others)).tolist()
        wanted = _spread(can, least if sum(can) >= least else 0)
        for at, n in zip(mine.tolist(), wanted, strict=True):
            if not n:
                continue
            rest = others[others != asked[at]]
            key = np.random.default_rng([seed, int(asked[at])]).random(beyond)[rest]
            chosen[at] = rest[np.argsort(key, kind="stable")[:n]]
    return chosen


def _spread(can: Sequence[int], total: int) -> list[int]:
    """`total` pairs over features in turn, to none more than it can have; 0: one to each."""
    given = [min(1, n) for n in can] if not total else [0] * len(can)
    left = total
    while left > 0:
        open_ = [i for i, n in enumerate(can) if given[i] < n][:left]
        for i in open_:
            given[i] += 1
        left -= len(open_)
    return given


def permutation_p(
    value: Floats, strata: Ints, null: Sequence[Floats], least: int, chance: float = -np.inf
) -> tuple[Floats, Floats, Ints]:
    """p, the mean of the feature's own pairs, and the size of its stratum's pool, [n] each; p is NaN under `least` pairs.

    A pair without a value is NaN and left out; one whose question failed is infinite: in the pool, and in no mean. A pair
    below `chance` counts as chance: who says nothing does no better than a mismatched label that does worse than nothing.
    """
    p, mean, size = np.full(len(value), np.nan), np.full(len(value), np.nan), np.zeros(len(value), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = [null[int(i)] for i in members]
        pool = np.sort(np.maximum(np.concatenate(drawn), chance)) if drawn else np.empty(0)
        pool = pool[~np.isnan(pool)]
        if not len(pool):
            continue
        above = len(pool) - np.searchsorted(pool, value[members] - _ROUNDING, side="left")
        size[members] = len(pool)
        for i in members:
            own = np.asarray(null[int(i)])[np.isfinite(null[int(i)])]
            mean[i] = own.mean() if len(own) else np.nan
        if len(pool) >= least:
            p[members] = np.where(np.isfinite(value[members]), (1 + above) / (1 + len(pool)), np.nan)
    return p, mean, size


def benjamini_hochberg(p: Floats) -> Floats:
    """q-values [n]; NaN stays NaN and is no member of the family."""
    q = np.full(len(p), np.nan)
    known = np.isfinite(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q
