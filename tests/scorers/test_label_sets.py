"""The difference of two label sets: hand-computed values, intervals that cover, near-copies that count as one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glossator.scorers.label_sets import CHANCE, difference, groups
from glossator.types import Floats, Ints


def each(n: int) -> Ints:
    return np.arange(n)


def test_the_difference_is_the_mean_of_b_less_a_with_the_means_beside_it() -> None:
    a, b = np.asarray([0.5, 0.6, 0.7, 0.5, 0.2]), np.asarray([0.6, 0.9, 0.6, 0.7, 0.7])
    found = difference(a, b, each(5), 2000, 0)
    assert (found.n, found.groups) == (5, 5)
    assert [found.mean_a, found.mean_b] == pytest.approx([0.5, 0.7])
    assert found.value == pytest.approx((0.1 + 0.3 - 0.1 + 0.2 + 0.5) / 5)
    assert -0.1 <= found.low < found.value < found.high <= 0.5  # no resample's mean leaves what there is


def test_turning_the_sets_round_turns_the_sign_the_interval_and_p() -> None:
    rng = np.random.default_rng(1)
    a = rng.uniform(size=60)
    b = a + rng.normal(0.05, 0.1, 60)
    one, other = difference(a, b, each(60), 1000, 0), difference(b, a, each(60), 1000, 0)
    assert [other.value, other.low, other.high] == pytest.approx([-one.value, -one.high, -one.low])
    assert one.told_apart and other.told_apart and one.p < 0.025 and other.p > 0.975


def test_what_all_features_have_in_common_does_not_widen_the_interval() -> None:
    hardness = np.random.default_rng(0).uniform(0.5, 1, 40)
    found = difference(hardness, hardness + 0.03, each(40), 1000, 0)
    assert [found.value, found.low, found.high] == pytest.approx([0.03] * 3)


def test_equal_sets_cannot_be_told_apart() -> None:
    found = difference(np.full(20, 0.7), np.full(20, 0.7), each(20), 500, 0)
    assert (found.low, found.high, found.p) == (0, 0, 1) and not found.told_apart


@pytest.mark.parametrize(("n", "group"), [(4, each(4)), (40, np.repeat(each(4), 10))])
def test_under_five_groups_of_features_there_is_no_interval(n: int, group: Ints) -> None:
    found = difference(np.zeros(n), np.ones(n), group, 500, 0)
    assert found.value == 1 and math.isnan(found.low) and math.isnan(found.p) and not found.told_apart


def test_without_features_there_is_no_value() -> None:
    found = difference(np.empty(0), np.empty(0), np.empty(0, int), 500, 0)
    assert found.n == 0 and math.isnan(found.value) and math.isnan(found.mean_a)


def test_copies_of_features_are_no_more_evidence_than_one_of_each() -> None:
    rng = np.random.default_rng(2)
    d: Floats = rng.normal(0.02, 0.1, 50)
    alone = difference(np.zeros(50), d, each(50), 2000, 0)
    copied = difference(np.zeros(200), np.repeat(d, 4), np.repeat(each(50), 4), 2000, 0)
    assert [copied.low, copied.high] == pytest.approx([alone.low, alone.high])
    counted = difference(np.zeros(200), np.repeat(d, 4), each(200), 2000, 0)
    assert counted.high - counted.low < 0.6 * (alone.high - alone.low)


@pytest.mark.parametrize(("n", "size"), [(30, 1), (100, 1), (120, 4)])
def test_intervals_cover_the_truth_and_p_rejects_as_seldom_as_it_says(n: int, size: int) -> None:
    """Skewed differences, with a part that near-copies share."""
    covered, rejected = 0, 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(n // size), size)
        d = (rng.exponential(size=n // size)[group] - 1) + rng.normal(0, 0.5, n)
        a = rng.normal(size=n)
        found = difference(a, a + d, group, 300, seed)
        covered += found.low <= 0 <= found.high
        rejected += found.p <= 0.05
    assert covered / 300 >= 0.88 and rejected / 300 <= 0.09


def test_groups_are_chains_of_near_copies() -> None:
    neighbours = [[1, 4], [0, 2], [1], [4], [3, 0], []]
    cosines = [[0.9, 0.1], [0.9, 0.6], [0.6], [0.49], [0.49, 0.1], []]
    found = groups(6, neighbours, cosines, 0.5)
    assert found[0] == found[1] == found[2] and len(set(found.tolist())) == 4
    assert len(set(groups(3, [[]] * 3, [[]] * 3, 0.5).tolist())) == 3


def test_every_metric_of_a_reader_has_its_chance_level() -> None:
    from glossator.agents.scoring.scenes import METRICS

    assert {metric for metrics in METRICS.values() for metric in metrics} <= CHANCE.keys()
