"""Rank correlation, kappa and preferences against examples that were computed by hand, and where there is no value."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from glossator.scorers.agreement import FEWEST, kappa, mean, same_side, spearman

NONE = float("nan")


def test_spearman_of_a_hand_computed_example() -> None:
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: d = 1 1 1 1 0, so 1 - 6 * 4 / (5 * 24) = 0.8."""
    found = spearman(np.asarray([1, 2, 3, 4, 5]), np.asarray([0.2, 0.1, 0.7, 0.4, 0.9]))
    assert found.estimate.value == pytest.approx(0.8) and found.estimate.n == 5


def test_spearman_with_ties_is_pearson_of_mean_ranks() -> None:
    """Ratings 1 1 2 3 have ranks 1.5 1.5 3 4; scores 0.1 0.2 0.2 0.9 have 1 2.5 2.5 4.

    Products of the deviations from 2.5: 1.5 + 0 + 0 + 2.25 = 3.75; squares: 4.5 and 4.5. 3.75 / 4.5 = 0.8333.
    """
    assert spearman(np.asarray([1, 1, 2, 3]), np.asarray([0.1, 0.2, 0.2, 0.9])).estimate.value == pytest.approx(
        3.75 / 4.5
    )


def test_a_score_that_orders_labels_the_other_way_round_has_a_negative_correlation() -> None:
    found = spearman(np.arange(12), -np.arange(12.0)).estimate
    assert found.value == found.low == found.high == pytest.approx(-1)


def test_an_interval_holds_its_value_and_is_absent_under_ten_labels() -> None:
    rng = np.random.default_rng(0)
    rating = rng.integers(1, 6, 40)
    score = rating + rng.normal(0, 2, 40)
    whole, few = spearman(rating, score), spearman(rating[: FEWEST - 1], score[: FEWEST - 1])
    assert -1 <= whole.estimate.low < whole.estimate.value < whole.estimate.high <= 1 and whole.note is None
    assert np.isfinite(few.estimate.value) and np.isnan(few.estimate.low) and few.note == "under 10 labels: no interval"


def test_intervals_cover_the_true_correlation() -> None:
    """A normal pair with r = 0.6 has a Spearman correlation of 6 / pi * asin(r / 2) = 0.582."""
    rng = np.random.default_rng(1)
    truth = 6 / np.pi * np.arcsin(0.3)
    held = 0
    for draw in range(100):
        x = rng.normal(size=40)
        found = spearman(x, 0.6 * x + 0.8 * rng.normal(size=40), draw).estimate
        held += found.low <= truth <= found.high
    assert 88 <= held <= 100


@pytest.mark.parametrize(
    ("rating", "score", "reason"),
    [
        ([3.0] * 12, list(range(12)), "all ratings are alike"),
        (list(range(12)), [0.5] * 12, "all scores are alike"),
        ([1.0, 2.0], [0.1, 0.2], "2 rated labels with this score, under 3"),
        ([], [], "0 rated labels with this score, under 3"),
    ],
)
def test_where_there_is_no_order_there_is_no_value_but_a_reason(
    rating: list[float], score: list[float], reason: str
) -> None:
    found = spearman(np.asarray(rating), np.asarray(score))
    assert np.isnan(found.estimate.value) and found.note == reason


def test_ratings_that_hardly_vary_have_a_value_and_no_interval() -> None:
    found = spearman(np.asarray([5.0] * 11 + [4.0]), np.arange(12.0))
    assert np.isfinite(found.estimate.value) and np.isnan(found.estimate.low)
    assert found.note == "too many alike: no interval"


def test_the_mean_has_an_interval_over_labels() -> None:
    found = mean(np.asarray([1.0, 5.0] * 10)).estimate
    assert found.value == 3 and found.n == 20
    assert found.low == pytest.approx(3 - 1.96 * 2 / np.sqrt(20), abs=0.2)
    assert np.isnan(mean(np.asarray([1.0, 5.0])).estimate.low)
    assert mean(np.empty(0)).note == "nothing was rated"


def test_kappa_of_a_hand_computed_example() -> None:
    """Eight of ten alike; chance gives 0.6 * 0.6 + 0.4 * 0.4 = 0.52: (0.8 - 0.52) / 0.48 = 0.5833."""
    a, b = np.asarray([0] * 6 + [1] * 4), np.asarray([0] * 5 + [1] + [1] * 3 + [0])
    assert kappa(a, b, 2, graded=False).estimate.value == pytest.approx(0.28 / 0.48)


@pytest.mark.parametrize("graded", [True, False])
def test_kappa_is_that_of_scikit_learn(graded: bool) -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 5, 60)
    b = np.clip(a + rng.integers(-1, 2, 60), 0, 4)
    expected = cohen_kappa_score(a, b, labels=range(5), weights="quadratic" if graded else None)
    found = kappa(a, b, 5, graded=graded).estimate
    assert found.value == pytest.approx(expected) and found.low < found.value < found.high


@pytest.mark.parametrize("other", [[4] * 12, [3] * 12, [0, 1, 2, 3] * 3])
def test_a_rater_who_always_says_the_same_has_no_kappa(other: list[int]) -> None:
    found = kappa(np.full(12, 4), np.asarray(other), 5, graded=True)
    assert np.isnan(found.estimate.value) and found.note == "one of them gave the same answer throughout"
    assert kappa(np.asarray([1]), np.asarray([2]), 5, graded=True).note == "1 rated by both, under 3"


def test_same_side_counts_decided_labels_alone() -> None:
    """Preferred 1 1 -1 0 1 -1 1; the score has + - - + 0 (missing) +: agrees on the first, third and last of four."""
    found = same_side(np.asarray([1, 1, -1, 0, 1, -1, 1]), np.asarray([0.1, -0.1, -0.2, 0.3, 0.0, NONE, 0.4]))
    assert found.estimate.value == 0.75 and found.estimate.n == 4
    assert found.note == "1 left out, where the score gives both sides the same"
    assert 0 < found.estimate.low < 0.75 < found.estimate.high < 1


def test_same_side_says_why_it_has_no_value() -> None:
    assert (
        same_side(np.asarray([0, 0]), np.asarray([0.1, 0.2])).note
        == "no label that was preferred has this score on both sides"
    )
    assert same_side(np.asarray([1, 1]), np.zeros(2)).note == "the score gives both sides the same throughout"
