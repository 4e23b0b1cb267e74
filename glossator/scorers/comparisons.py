"""Three comparisons that are never merged: against other features' labels, the nearest feature's label, a token lookup.

- `permuted`: labels of other features of like density, scored on this feature. Their scores are pooled over a density
  stratum to at least 999 pairs; p is the share of the pool that does as well.
- `neighbour`: the label of the nearest decoder direction, on the same windows, same resamples of documents.
- `lexical`: for rules, the single token that explains most; for labels, the lexical rule. A difference with interval.

A p-value is evidence against its null, not quality. q-values are Benjamini-Hochberg over all features of one comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import false_discovery_control

from glossator.types import Floats, Ints


def density_strata(density: Floats, size: int = 8) -> Ints:
    """[n] stratum of each feature: equal groups by density, fewer where there are few features."""
    groups = max(1, min(size, len(density) // 40))
    rank = np.argsort(np.argsort(density, kind="stable"), kind="stable")
    return np.asarray(rank * groups // max(len(density), 1))


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


def permutation_p(value: Floats, strata: Ints, null: Sequence[Floats], least: int) -> tuple[Floats, Floats, Ints]:
    """p, the mean of the feature's own pairs, and the size of its stratum's pool, [n] each; p is NaN under `least` pairs."""
    p, mean, size = np.full(len(value), np.nan), np.full(len(value), np.nan), np.zeros(len(value), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        drawn = [null[int(i)] for i in members]
        pool = np.sort(np.concatenate(drawn)) if drawn else np.empty(0)
        pool = pool[np.isfinite(pool)]
        if not len(pool):
            continue
        above = len(pool) - np.searchsorted(pool, value[members], side="left")
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
