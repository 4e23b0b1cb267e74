"""Estimators agree with scipy and with published tables, keep their sign, and their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, pearsonr

from glossator.scorers.estimators import (
    brier_skill,
    document_sums,
    paired_difference,
    pearson,
    pearson_of,
    resamples,
    wilson,
)
from glossator.types import WINDOW, Floats


def sums_of(
    x: Floats, y: Floats, weight: Floats | None = None, document: Floats | None = None, mask: Floats | None = None
) -> Floats:
    n = len(x)
    return document_sums(
        x,
        y,
        np.ones(n) if weight is None else weight,
        np.ones((n, WINDOW), bool) if mask is None else mask,
        np.arange(n) if document is None else document,
    )


def drawn(n: int, r: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Predictions and activations [n, WINDOW] that correlate by r, half of it through the document."""
    share = 0.5
    shared = rng.standard_normal((2, n, 1)) * np.sqrt(share)
    own = rng.standard_normal((2, n, WINDOW)) * np.sqrt(1 - share)
    x = shared[0] + own[0]
    y = r * x + np.sqrt(1 - r * r) * (shared[1] + own[1])
    return x, y


# ------------------------------------------------------------------ pearson


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e5])
def test_pearson_is_that_of_scipy(scale: float) -> None:
    rng = np.random.default_rng(0)
    for r in (-0.9, -0.1, 0.0, 0.5, 0.99):
        x, y = drawn(20, r, rng)
        x, y = x * 3 + 2, (y - 1) * scale
        mask = rng.random((20, WINDOW)) < 0.8
        found = float(pearson_of(sums_of(x, y, mask=mask, document=rng.integers(0, 6, 20)).sum(0)))
        assert found == pytest.approx(pearsonr(x[mask], y[mask]).statistic, abs=1e-9)


def test_pearson_is_signed() -> None:
    y = np.random.default_rng(1).random((10, WINDOW))
    assert float(pearson_of(sums_of(-y, y).sum(0))) == pytest.approx(-1)
    assert float(pearson_of(sums_of(5 - 2 * y, y).sum(0))) == pytest.approx(-1)
    assert float(pearson_of(sums_of(5 + 2 * y, y).sum(0))) == pytest.approx(1)


@pytest.mark.parametrize("constant", [0.0, 1.0, 3.0, 0.1, 10.0])
def test_a_constant_prediction_knows_nothing(constant: float) -> None:
    y = np.random.default_rng(2).random((10, WINDOW))
    found = pearson(sums_of(np.full((10, WINDOW), constant), y), resamples(10, 100, np.random.default_rng(0)), 10)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_activations_that_do_not_vary_give_no_number() -> None:
    x = np.random.default_rng(3).random((4, WINDOW))
    assert np.isnan(pearson_of(sums_of(x, np.full((4, WINDOW), 0.3)).sum(0)))


def test_a_window_of_weight_three_counts_as_three_windows() -> None:
    rng = np.random.default_rng(4)
    x, y = drawn(12, 0.4, rng)
    weight = rng.integers(1, 5, 12)
    repeated = np.repeat(np.arange(12), weight)
    once = pearson_of(sums_of(x, y, weight.astype(float)).sum(0))
    assert float(once) == pytest.approx(pearsonr(x[repeated].ravel(), y[repeated].ravel()).statistic)
    assert abs(float(once) - pearsonr(x.ravel(), y.ravel()).statistic) > 1e-3


def test_tokens_outside_of_the_mask_and_windows_of_weight_zero_do_not_count() -> None:
    rng = np.random.default_rng(5)
    x, y = drawn(8, 0.5, rng)
    mask = np.ones((8, WINDOW), bool)
    mask[:, 20:] = False
    weight = np.asarray([1.0] * 6 + [0.0] * 2)
    expected = pearsonr(x[:6, :20].ravel(), y[:6, :20].ravel()).statistic
    x[:, 20:], y[:, 20:] = 1e6, -1e6
    assert float(pearson_of(sums_of(x, y, weight, mask=mask).sum(0))) == pytest.approx(expected)


def test_sums_of_documents_are_those_of_their_windows_in_any_order() -> None:
    x, y = drawn(9, 0.5, np.random.default_rng(6))
    document = np.asarray([4, 7, 4, 4, 9, 7, 9, 9, 2])
    sums = sums_of(x, y, document=document)
    assert sums.shape == (4, 6)
    assert sums[:, 0].tolist() == [WINDOW * n for n in (1, 3, 2, 3)]  # documents 2, 4, 7, 9
    order = np.random.default_rng(0).permutation(9)
    assert np.allclose(sums, sums_of(x[order], y[order], document=document[order]))


# ------------------------------------------------------------------ intervals


def test_the_interval_of_pearson_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(300):
        x, y = drawn(40, 0.4, rng)
        found = pearson(sums_of(x, y), resamples(40, 300, rng), 40)
        assert found.low < found.value < found.high
        covered.append(found.low <= 0.4 <= found.high)
    assert 0.88 < np.mean(covered) < 0.99


def test_more_tokens_of_the_same_documents_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(8)
    x, y = drawn(10, 0.4, rng)
    times = resamples(10, 2000, rng)
    once = pearson(sums_of(x, y), times, 10)
    again = np.repeat(np.arange(10), 50)
    many = pearson(sums_of(x[again], y[again], document=again), times, 500)
    assert many.low == pytest.approx(once.low) and many.high == pytest.approx(once.high)


def test_too_few_documents_have_a_value_and_no_interval() -> None:
    x, y = drawn(4, 0.5, np.random.default_rng(9))
    found = pearson(sums_of(x, y), resamples(4, 100, np.random.default_rng(0)), 4)
    assert np.isfinite(found.value)
    assert np.isnan([found.low, found.high]).all()


def test_a_resample_draws_as_many_documents_as_there_are() -> None:
    times = resamples(12, 500, np.random.default_rng(0))
    assert times.shape == (500, 12)
    assert (times.sum(1) == 12).all()
    assert times.mean(0) == pytest.approx(np.ones(12), abs=0.2)
    assert (times > 1).any()


def test_a_paired_difference_has_its_sign_and_its_p_value() -> None:
    rng = np.random.default_rng(10)
    x, y = drawn(60, 0.8, rng)
    worse = x + 3 * rng.standard_normal(x.shape)
    times = resamples(60, 500, rng)
    better, p = paired_difference(sums_of(x, y), sums_of(worse, y), times, 60)
    assert better.value == pytest.approx(pearsonr(x.ravel(), y.ravel())[0] - pearsonr(worse.ravel(), y.ravel())[0])
    assert 0 < better.low < better.value < better.high
    assert p == pytest.approx(1 / 501)
    other, p = paired_difference(sums_of(worse, y), sums_of(x, y), times, 60)
    assert other.value == pytest.approx(-better.value) and p == 1
    same, p = paired_difference(sums_of(x, y), sums_of(x, y), times, 60)
    assert (same.value, same.low, same.high, p) == (0, 0, 0, 1)


def test_p_values_of_equally_good_predictions_are_not_small_too_often() -> None:
    rng = np.random.default_rng(11)
    small = 0
    for _ in range(200):
        x, y = drawn(40, 0.5, rng)
        a, b = (x + rng.standard_normal(x.shape) for _ in range(2))
        small += paired_difference(sums_of(a, y), sums_of(b, y), resamples(40, 200, rng), 40)[1] <= 0.05
    assert 1 <= small <= 24  # 10 by chance


# ------------------------------------------------------------------ rates


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (round(found.low, 4), round(found.high, 4)) == (low, high)
    assert found.value == successes / n and found.n == n


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_wilson_is_that_of_scipy_at_any_level(level: float) -> None:
    for successes, n in ((0, 1), (1, 1), (3, 7), (50, 51)):
        expected = binomtest(successes, n).proportion_ci(level, method="wilson")
        found = wilson(successes, n, level)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_rate_over_nothing_is_no_number() -> None:
    found = wilson(0, 0)
    assert found.n == 0 and np.isnan([found.value, found.low, found.high]).all()


# ------------------------------------------------------------------ brier skill


def test_brier_skill_compares_with_the_base_rate() -> None:
    outcome = np.asarray([1.0, 0, 0, 1, 0, 0, 0, 0] * 4)
    base = np.full(32, 0.25)
    assert brier_skill(outcome, outcome, base).value == 1
    assert brier_skill(base, outcome, base).value == 0
    wrong = brier_skill(1 - outcome, outcome, base)
    assert wrong.value == pytest.approx(1 - 32 / (8 * 0.75**2 + 24 * 0.25**2))
    assert wrong.high < 0
    half = brier_skill((outcome + base) / 2, outcome, base)
    assert half.value == pytest.approx(0.75) and half.low <= half.value <= half.high


def test_brier_skill_needs_experiments_and_a_base_rate_that_errs() -> None:
    one = np.ones(8)
    assert np.isnan(brier_skill(one, one, one).value)
    assert np.isnan(brier_skill(one[:0], one[:0], one[:0]).value)
    few = brier_skill(one[:3], one[:3], one[:3] / 2)
    assert few.value == 1 and np.isnan(few.low)
