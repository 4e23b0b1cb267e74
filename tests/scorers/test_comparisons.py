"""Which labels are tried on whom, how many there are, and what their pool says."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from glossator.scorers.comparisons import (
    benjamini_hochberg,
    density_strata,
    few_strata,
    mismatched,
    permutation_p,
    strata_by,
)
from glossator.types import Ints


def chosen(asked: Ints, known: Ints, most: int = 40, least: int = 999, strata: Ints | None = None, seed: int = 0) -> dict[int, list[int]]:  # fmt: skip
    mine = np.zeros(len(asked), np.int64) if strata is None else strata
    theirs = np.zeros(len(known), np.int64) if strata is None else strata
    tried = mismatched(asked, mine, known, theirs, most, least, seed)
    return dict(zip(asked.tolist(), [t.tolist() for t in tried], strict=True))


@pytest.mark.parametrize(("features", "strata"), [(12, 1), (998, 1), (1997, 1), (1998, 2), (7992, 8), (16_000, 8)])
def test_no_more_strata_than_have_full_pools_with_one_pair_a_feature(features: int, strata: int) -> None:
    assert few_strata(features, 999) == strata
    assert len(np.unique(density_strata(np.arange(features) / features, few_strata(features, 999)))) == strata


def test_of_many_features_just_999_of_a_stratum_get_one_label_and_the_others_none() -> None:
    n = 8_000
    strata = density_strata(np.random.default_rng(0).random(n), few_strata(n, 999))
    found = chosen(np.arange(n), np.arange(n), strata=strata)
    pool = Counter(int(strata[f]) for f, tried in found.items() for _ in tried)
    assert pool == dict.fromkeys(range(8), 999) and Counter(map(len, found.values())) == {0: n - 7992, 1: 7992}
    assert all(strata[other] == strata[f] and other != f for f, tried in found.items() for other in tried)


@pytest.mark.parametrize("n", [33, 50, 998])
def test_of_few_features_each_gets_several_others_none_twice(n: int) -> None:
    found = chosen(np.arange(n), np.arange(n))
    counts = [len(tried) for tried in found.values()]
    assert sum(counts) == 999 and max(counts) - min(counts) <= 1 and max(counts) <= 40
    assert all(f not in tried and len(set(tried)) == len(tried) for f, tried in found.items())


def test_where_the_pool_cannot_be_filled_every_feature_gets_one() -> None:
    assert set(map(len, chosen(np.arange(12), np.arange(12)).values())) == {1}
    assert [len(t) for t in chosen(np.arange(1), np.arange(5_000)).values()] == [1]  # 40 labels at most on one feature
    assert chosen(np.arange(1), np.arange(1)) == {0: []}


def test_a_feature_that_comes_later_changes_few_pairs() -> None:
    before, after = (chosen(np.arange(n), np.arange(n)) for n in (200, 201))
    pairs = [{(f, other) for f, tried in found.items() for other in tried} for found in (before, after)]
    assert len(pairs[1] - pairs[0]) < 30 and pairs[0] == {(f, o) for f, t in chosen(np.arange(200), np.arange(200)).items() for o in t}  # fmt: skip


def test_other_labels_come_from_the_stratum_of_their_density() -> None:
    like = np.array([0.1, 0.2, 0.3, 0.4])
    strata = np.array([0, 0, 1, 1])
    assert strata_by(np.array([0.01, 0.1, 0.29, 0.3, 0.9]), like, strata).tolist() == [0, 0, 0, 1, 1]


def test_p_is_the_share_of_the_pool_that_does_as_well_failures_among_it() -> None:
    null = [np.array([0.1, 0.2, np.inf]), np.array([0.3, np.nan])]
    p, mean, size = permutation_p(np.array([0.25, 0.05]), np.zeros(2, int), null, 4)
    assert p.tolist() == [(1 + 2) / 5, 1.0] and mean == pytest.approx([0.15, 0.3]) and size.tolist() == [4, 4]
    assert np.isnan(permutation_p(np.array([0.25, 0.05]), np.zeros(2, int), null, 5)[0]).all()


def test_who_says_nothing_does_not_beat_labels_that_do_worse_than_nothing() -> None:
    null = [np.full(50, -0.1), np.full(50, 0.1)]
    p, mean, _ = permutation_p(np.array([0.0, 0.2]), np.zeros(2, int), null, 99, 0.0)
    assert p.tolist() == [1.0, 1 / 101] and mean == pytest.approx([-0.1, 0.1])
    assert permutation_p(np.array([0.0, 0.2]), np.zeros(2, int), null, 99)[0][0] == pytest.approx(51 / 101)


def test_p_values_of_labels_that_are_no_better_than_others_are_uniform() -> None:
    """Rejection on held-out nulls: at 5% in about 5%."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=2_000)
    p, _, _ = permutation_p(values, np.zeros(2_000, int), [rng.normal(size=1) for _ in values], 999)
    assert 0.035 < (p <= 0.05).mean() < 0.065


def test_benjamini_and_hochberg_by_hand() -> None:
    q = benjamini_hochberg(np.array([0.01, np.nan, 0.04, 0.03]))
    assert q[[0, 2, 3]] == pytest.approx([0.03, 0.04, 0.04]) and np.isnan(q[1])
