"""Two label sets on the same windows: by how much is one better, over the features that both label?

The mean of b - a over features, each feature's own windows being the same for both, so that what makes a feature easy or
hard cancels. Interval: percentile bootstrap over groups of features, 95%; p: the share of resamples in which b is not
better (one-sided). Nobody's windows are resampled: how far chance in a feature's windows moved its difference is part of
how differences vary between features, and is in the interval already.

**Groups.** Near-copies of one direction fire on the same windows and are given the same label, so they are right or wrong
together: they are no two pieces of evidence. Features whose decoder directions have a cosine of at least `alike` are
resampled as one (connected groups). In a dictionary without copies that is the bootstrap over features. Under five
groups there is no interval.

What the interval is about: other features of the same dictionary, on this corpus. It does not cover another corpus,
another predictor, or a second answer of the same one (repeats do). All features share their test documents; where those
are few, the interval is too narrow by what they have in common. p-values are not corrected for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import bootstrap

from glossator.types import Floats, Ints

CHANCE = {  # what a label that knows nothing gets
    "simulation": 0.0, "simulation_within": 0.0, "simulation_literature": 0.0, "adversarial": 0.0,
    "detection": 0.5, "detection_near": 0.5, "fuzzing": 0.5, "discrimination": 0.5, "discrimination_hard": 0.5, "embedding": 0.5, "embedding_near": 0.5,
}  # fmt: skip
_MIN_GROUPS = 5
_AT_ONCE = 2_000_000  # numbers that a batch of resamples holds


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of b - a over n features; NaN: too few groups for an interval, or no feature at all."""

    n: int
    groups: int
    mean_a: float
    mean_b: float
    value: float
    low: float
    high: float
    p: float  # one-sided: b is not better than a

    @property
    def told_apart(self) -> bool:
        """Whether the interval is there and does not hold 0."""
        return self.low > 0 or self.high < 0


def difference(a: Floats, b: Floats, group: Ints, draws: int, seed: int) -> Difference:
    """a, b [n]: scores of the same features; group [n]: features of one number are resampled together."""
    none = float("nan")
    if not len(a):
        return Difference(0, 0, none, none, none, none, none, none)
    _, member = np.unique(group, return_inverse=True)
    sums, sizes = np.bincount(member, b - a), np.bincount(member).astype(float)
    mean_a, mean_b, value = float(a.mean()), float(b.mean()), float((b - a).mean())
    if len(sums) < _MIN_GROUPS:
        return Difference(len(a), len(sums), mean_a, mean_b, value, none, none, none)
    found = bootstrap(
        (sums, sizes),
        lambda x, n, axis=-1: x.sum(axis) / n.sum(axis),
        n_resamples=draws,
        batch=max(1, _AT_ONCE // len(sums)),
        paired=True,
        vectorized=True,
        method="percentile",
        random_state=np.random.default_rng(seed),
    )
    drawn, (low, high) = found.bootstrap_distribution, found.confidence_interval
    p = float((1 + (drawn <= 0).sum()) / (1 + len(drawn)))
    return Difference(len(a), len(sums), mean_a, mean_b, value, float(low), float(high), p)


def groups(n: int, neighbours: Sequence[Sequence[int]], cosines: Sequence[Sequence[float]], alike: float) -> Ints:
    """[n features] the number of the group of each: features are in one where a chain of near-copies leads from one to the other."""
    lengths = [len(near) for near in neighbours]
    here = np.repeat(np.arange(n), lengths)
    there = np.asarray([other for near in neighbours for other in near], int)
    close = np.asarray([c for near in cosines for c in near], float) >= alike
    links = coo_matrix((np.ones(int(close.sum())), (here[close], there[close])), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1])
