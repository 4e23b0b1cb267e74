"""Weighted rates: worked by hand, equal to scikit-learn's, and silent about what cannot be known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import beta, binomtest
from sklearn import metrics

from glossator.scorers.bounds import (
    Measured,
    f1_bound,
    false_positive_bound,
    few_false_positives,
    kish,
    precision_bound,
    upper_rate,
)
from glossator.scorers.rates import METRICS, Draws, against_near, auroc_draws, census, draw, measure, rates
from glossator.types import WINDOW, Bools, Floats, Ints, Sample, Windows


def sample(
    maxima: Sequence[float], weight: Sequence[float] | float, stratum: str | Sequence[str], documents: int = 7
) -> Sample:
    n = len(maxima)
    activations = np.zeros((n, WINDOW), np.float32)
    activations[np.arange(n), np.arange(n) % WINDOW] = maxima
    windows = Windows(
        np.ones((n, WINDOW), np.int32), np.arange(n, dtype=np.int32) % documents, 0, np.arange(n) + 100 * len(stratum)
    )
    weights = np.broadcast_to(np.asarray(weight, float), n)
    return Sample(windows, activations, np.broadcast_to(np.asarray(stratum), n), weights)


ACTIVE = sample([9, 8, 5, 3, 1], [1, 1, 2, 2, 2], ["top", "top", "sample", "sample", "sample"])  # of 8 active windows
BACKGROUND = sample([0, 0, 7, 0, 1, 0, 0, 0, 0, 0], 10.0, "background")  # of 100 windows
THRESHOLD = 3.0


def of(
    p: Sequence[float],
    fires: Sequence[int],
    weight: Sequence[float] | None = None,
    document: Sequence[int] | None = None,
    **how: float,
) -> dict[str, Measured]:
    d = np.arange(len(p)) if document is None else np.asarray(document)
    w = np.ones(len(p)) if weight is None else np.asarray(weight, float)
    return measure(np.asarray(p, float), np.asarray(fires, bool), w, d, draw(d, 300, 0), **how)  # type: ignore[arg-type]


def values(found: dict[str, Measured]) -> dict[str, float]:
    return {name: measured.estimate.value for name, measured in found.items()}


def drawn_scene(
    seed: int, n_fires: int = 60, n_silent: int = 2000, levels: int = 11, documents: int = 40
) -> tuple[Floats, Bools, Floats, Ints]:
    """p with ties, fires, weights of three strata, documents that matter."""
    rng = np.random.default_rng(seed)
    n = n_fires + n_silent
    fires = np.arange(n) < n_fires
    document = rng.integers(0, documents, n)
    shared = rng.standard_normal(documents)[document]
    p = np.round((levels - 1) / (1 + np.exp(1.5 - 3 * fires - shared - rng.standard_normal(n)))) / (levels - 1)
    weight = np.where(fires, np.where(np.arange(n) < 20, 1.0, 7.3), 41.0)
    return p, fires, weight, document


def scikit_learn(p: Floats, fires: Bools, w: Floats) -> dict[str, float]:
    said, base = p >= 0.5, np.full(len(p), np.average(fires, weights=w))
    return {
        "auroc": metrics.roc_auc_score(fires, p, sample_weight=w),
        "auprc": metrics.average_precision_score(fires, p, sample_weight=w),
        "precision": metrics.precision_score(fires, said, sample_weight=w),
        "recall": metrics.recall_score(fires, said, sample_weight=w),
        "f1": metrics.f1_score(fires, said, sample_weight=w),
        "balanced_accuracy": metrics.balanced_accuracy_score(fires, said, sample_weight=w),
        "false_positive_rate": 1 - metrics.recall_score(~fires, ~said, sample_weight=w),
        "brier_skill": 1
        - metrics.brier_score_loss(fires, p, sample_weight=w) / metrics.brier_score_loss(fires, base, sample_weight=w),
    }


# ------------------------------------------------------------------ windows that stand for the corpus


def test_weights_add_up_to_the_corpus_and_no_window_counts_twice() -> None:
    seen = census(ACTIVE, BACKGROUND, THRESHOLD)
    assert seen.sample.stratum.tolist() == ["top"] * 2 + ["sample"] * 3 + ["silent"] * 8
    assert seen.sample.weight.tolist() == [1, 1, 2, 2, 2] + [92 / 8] * 8
    assert seen.sample.weight.sum() == 100
    assert len(np.unique(seen.sample.windows.window_id)) == 13


def test_a_weak_window_is_neither_a_hit_nor_a_false_alarm() -> None:
    seen = census(ACTIVE, BACKGROUND, THRESHOLD)
    assert seen.fires.tolist() == [True] * 4 + [False] * 9
    assert np.flatnonzero(seen.weak).tolist() == [4]
    draws = draw(seen.sample.windows.document, 300, 0)
    p = np.where(seen.fires, 0.9, 0.1)
    said, unsaid = (
        rates(np.where(seen.weak, weak, p), seen, draws, ("recall", "false_positive_rate", "auroc"))
        for weak in (1.0, 0.0)
    )
    assert said == unsaid
    assert values(said) == {"recall": 1, "false_positive_rate": 0, "auroc": 1}


def test_near_misses_count_one_each_and_only_when_asked_for() -> None:
    near = sample([0, 0, 0], 0.0, "near_overlap")
    seen = against_near(ACTIVE, near, THRESHOLD)
    assert seen.sample.weight.tolist() == [1, 1, 2, 2, 2, 1, 1, 1]
    p, fires, document = np.array([0.9, 0.2, 0.8, 0.1]), np.array([1, 1, 0, 0], bool), np.arange(4)
    found = measure(p, fires, np.array([1, 1, 0, 1]), document, draw(document, 300, 0), ("auroc",))
    assert found["auroc"].estimate.value == 1  # the window of weight 0 would have been ranked above a firing one
    assert found["auroc"].estimate.n == 3


def test_a_background_without_silent_windows_has_no_score() -> None:
    seen = census(ACTIVE, sample([4, 5], 50.0, "background"), THRESHOLD)
    found = rates(np.ones(5), seen, draw(seen.sample.windows.document, 300, 0))
    for name in METRICS:
        assert np.isnan(found[name].estimate.value)
        assert found[name].note == "no silent window beside the firing ones"


# ------------------------------------------------------------------ values


def test_values_worked_by_hand() -> None:
    # firing: 0.9 (1), 0.6 (2), 0.2 (1); silent: 0.6 (10), 0.1 (30), by weight
    p, fires, w = [0.9, 0.6, 0.2, 0.6, 0.1], [1, 1, 1, 0, 0], [1, 2, 1, 10, 30]
    found = values(of(p, fires, w))
    assert found["auroc"] == pytest.approx((1 * 40 + 2 * (30 + 5) + 1 * 30) / (4 * 40))
    assert found["recall"] == pytest.approx(3 / 4)
    assert found["balanced_accuracy"] == pytest.approx((3 / 4 + 3 / 4) / 2)
    error = 1 * 0.01 + 2 * 0.16 + 1 * 0.64 + 10 * 0.36 + 30 * 0.01
    assert found["brier_skill"] == pytest.approx(1 - error / (44 * (4 / 44) * (40 / 44)))
    # the same with each silent window ten times, so that false positives are enough for a precision
    many = values(of([*p[:3], *[0.6] * 10, *[0.1] * 30], [1] * 3 + [0] * 40, [1, 2, 1, *[1] * 40]))
    assert many["auprc"] == pytest.approx(1 / 4 * 1 + 2 / 4 * 3 / 13 + 1 / 4 * 4 / 14)
    assert many["precision"] == pytest.approx(3 / 13)
    assert many["false_positive_rate"] == pytest.approx(10 / 40)
    assert many["f1"] == pytest.approx(2 * 3 / (2 * 3 + 10 + 1))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [2, 11, 10_001])
def test_values_are_those_of_scikit_learn(seed: int, levels: int) -> None:
    p, fires, weight, document = drawn_scene(seed, levels=levels)
    found = measure(p, fires, weight, document, draw(document, 300, 0))
    assert values(found) == pytest.approx(scikit_learn(p, fires, weight))
    assert all(m.estimate.low <= m.estimate.value <= m.estimate.high for m in found.values())


def test_draws_are_the_same_rates_with_documents_weighted() -> None:
    p, fires, weight, document = drawn_scene(7, n_silent=600)
    draws = draw(document, 100, 1)
    plain = Draws(draws.documents, draws.times, draws.made_up * 0)
    found = measure(p, fires, weight, document, plain)
    each = [scikit_learn(p, fires, weight * draws.times[document, k]) for k in range(100)]
    firing = kish(np.bincount(document, weight * fires))
    false = kish(np.bincount(document, (p >= 0.5) & ~fires).astype(float))
    for name in METRICS:
        e = found[name].estimate
        low, high = np.sort([one[name] for one in each])[[2, 97]]
        few = {"false_positive_rate": false, "precision": min(firing, false), "f1": min(firing, false)}.get(
            name, firing
        )
        wider = np.sqrt((few + 1) / (few - 1))
        assert e.low == pytest.approx(e.value + (low - e.value) * wider, abs=1e-4)
        assert e.high == pytest.approx(min(e.value + (high - e.value) * wider, 1), abs=1e-4)


def test_made_up_windows_are_the_worst_and_the_best_that_could_have_been() -> None:
    """With documents that all weigh 1, only they move the ends: scikit-learn, given those windows, finds the same."""
    p, fires, weight, document = drawn_scene(10, n_silent=600)
    p = 0.1 + 0.8 * p  # so that windows can be ranked before and after all others
    draws = draw(document, 100, 0)
    found = measure(p, fires, weight, document, Draws(draws.documents, draws.times * 0 + 1, draws.made_up * 0 + 1))
    wrong = np.bincount(document[(p >= 0.5) & ~fires])
    firing = (weight[fires] ** 2).sum() / weight[fires].sum()
    cluster = 41.0 * (wrong**2).sum() / wrong.sum()  # false positives come as many as they come to a document
    tiny = 1e-9
    worst = (p.min() - tiny, True, firing), (p.max() + tiny, False, cluster)
    best = (p.max() + tiny, True, firing), (p.min() - tiny, False, 41.0)
    with_worst, with_best = (
        scikit_learn(
            np.append(p, [one[0] for one in more]),
            np.append(fires, [one[1] for one in more]),
            np.append(weight, [one[2] for one in more]),
        )
        for more in (worst, best)
    )
    effective = kish(np.bincount(document, weight * fires))
    few = {
        "precision": min(effective, kish(wrong)),
        "f1": min(effective, kish(wrong)),
        "false_positive_rate": kish(wrong),
    }
    for name in METRICS:
        low, high = sorted([with_worst[name], with_best[name]])
        wider = np.sqrt((few.get(name, effective) + 1) / (few.get(name, effective) - 1))
        e = found[name].estimate
        assert e.low == pytest.approx(e.value + (low - e.value) * wider, abs=1e-4)
        assert e.high == pytest.approx(min(e.value + (high - e.value) * wider, 1), abs=1e-4)


def test_order_and_chunks_of_one_document_change_nothing() -> None:
    p, fires, weight, document = drawn_scene(3)
    order = np.random.default_rng(0).permutation(len(p))
    draws = draw(document, 300, 0)
    a = measure(p, fires, weight, document, draws)
    b = measure(p[order], fires[order], weight[order], document[order], draws)
    for name in METRICS:
        for end in ("value", "low", "high"):
            assert getattr(a[name].estimate, end) == pytest.approx(getattr(b[name].estimate, end), abs=1e-5)


def test_a_metric_asked_for_alone_is_the_same() -> None:
    p, fires, weight, document = drawn_scene(4)
    draws = draw(document, 300, 0)
    together = measure(p, fires, weight, document, draws)
    for name in METRICS:
        assert measure(p, fires, weight, document, draws, (name,)) == {name: together[name]}


def test_scores_that_know_nothing_and_scores_that_know_the_opposite() -> None:
    p, fires, weight, document = drawn_scene(5)
    draws = draw(document, 300, 0)
    constant = values(measure(np.full(len(p), 0.7), fires, weight, document, draws))
    base = np.average(fires, weights=weight)
    assert constant["auroc"] == pytest.approx(0.5)
    assert constant["balanced_accuracy"] == pytest.approx(0.5)
    assert constant["auprc"] == pytest.approx(base)
    assert constant["precision"] == pytest.approx(base)
    assert values(measure(np.full(len(p), base), fires, weight, document, draws))["brier_skill"] == pytest.approx(0)
    opposite = measure(1 - p, fires, weight, document, draws)
    assert opposite["auroc"].estimate.high < 0.5
    assert opposite["brier_skill"].estimate.high < 0


# ------------------------------------------------------------------ intervals


def test_flawless_predictions_on_few_windows_are_no_certainty() -> None:
    p, fires, document = np.repeat([0.9, 0.1], [40, 1000]), np.repeat([True, False], [40, 1000]), np.arange(1040) % 60
    found = measure(p, fires, np.ones(1040), document, draw(document, 1000, 0))
    for name in ("auroc", "recall"):
        e = found[name].estimate
        assert e.value == e.high == 1
        assert 0.9 < e.low < 0.97  # about 2.5 misses in 40 windows could have gone unseen
    # windows that stand for hardly anything tell hardly anything: 20 light and 20 heavy ones are like 20
    light = np.where(np.arange(1040) < 20, 0.001, 1.0)
    heavy = slice(20, None)
    mixed = measure(p, fires, light, document, draw(document, 4000, 0))["recall"].estimate
    alone = measure(p[heavy], fires[heavy], light[heavy], document[heavy], draw(document[heavy], 4000, 0))[
        "recall"
    ].estimate
    assert mixed.low == pytest.approx(alone.low, abs=0.01)
    assert mixed.low < found["recall"].estimate.low - 0.02


def test_windows_of_one_document_tell_less_than_windows_of_many() -> None:
    p, fires, weight, _ = drawn_scene(6)
    many, few = np.arange(len(p)), np.arange(len(p)) % 12
    p = np.where(few < 6, p, 1 - p)  # half of the documents read the label the other way round
    a, b = (measure(p, fires, weight, d, draw(d, 500, 0))["auroc"].estimate for d in (many, few))
    assert a.value == pytest.approx(b.value)
    assert b.high - b.low > 1.5 * (a.high - a.low)


def test_no_interval_under_five_firing_documents() -> None:
    p, fires, weight, document = drawn_scene(8)
    document = np.where(fires, document % 4, document)
    found = measure(p, fires, weight, document, draw(document, 300, 0))
    for name in set(METRICS) - {"false_positive_rate"}:
        e = found[name].estimate
        assert np.isfinite(e.value)
        assert np.isnan(e.low)
        assert np.isnan(e.high)
        assert found[name].note == "under 5 firing documents: no interval"


# ------------------------------------------------------------------ few false positives


@pytest.mark.parametrize(("count", "n"), [(0, 2000), (3, 1998), (9, 50)])
def test_the_bound_is_clopper_and_pearsons_where_no_document_repeats(count: int, n: int) -> None:
    exact = binomtest(count, n, alternative="less").proportion_ci(0.95, method="exact").high
    assert false_positive_bound(np.arange(count), n) == pytest.approx(exact)
    measured = few_false_positives(np.arange(count), n)
    assert (measured.estimate.value, measured.estimate.low) == (count / n, 0)
    assert measured.note
    assert measured.note.startswith(f"{count} false positives among {n} silent windows")


def test_false_positives_of_one_document_bound_less() -> None:
    together, apart = np.array([5] * 6), np.arange(6)
    assert false_positive_bound(together, 600) == pytest.approx(beta.ppf(0.95, 2, 99))  # one in a hundred
    assert false_positive_bound(together, 600) > 1.5 * false_positive_bound(apart, 600)
    assert upper_rate(5, 5, 0.95) == 1


def test_precision_is_a_bound_under_ten_false_positives_and_a_number_from_ten_on() -> None:
    document = np.arange(540)
    fires = document < 40
    for wrong in (0, 9, 10):
        p = np.where(fires | (document >= 540 - wrong), 0.9, 0.1)
        found = measure(p, fires, np.where(fires, 5.0, 400.0), document, draw(document, 500, 0))
        precision, rate = found["precision"].estimate, found["false_positive_rate"].estimate
        if wrong < 10:
            for name in ("precision", "f1", "auprc"):
                e = found[name].estimate
                assert np.isnan(e.value)
                assert np.isnan(e.high)
                assert 0 < e.low < 40 * 5 / (40 * 5 + wrong * 400 + 1)
                assert "lower bound" in str(found[name].note)
            assert precision.low <= 200 / (200 + rate.high * 500 * 400)
            assert "upper bound" in str(found["false_positive_rate"].note)
        else:
            assert precision.value == pytest.approx(200 / (200 + 4000))
            assert rate.value == pytest.approx(10 / 500)
            assert rate.low > 0
            assert not any(measured.note for measured in found.values())


def test_bounds_worked_by_hand() -> None:
    assert precision_bound(0.03, 0.01) == pytest.approx(0.75)
    assert f1_bound(0.03, 0.6, 0.01) == pytest.approx(2 / (1 / 0.75 + 1 / 0.6))
    assert precision_bound(0.0, 0.01) == f1_bound(0.0, 0.5, 0.0) == f1_bound(0.1, 0.0, 0.0) == 0
    assert kish(np.array([1.0, 1.0, 2.0])) == pytest.approx(16 / 6)
    assert kish(np.empty(0)) == 0


# ------------------------------------------------------------------ nothing to say


@pytest.mark.parametrize(("fires", "reason"), [(0, "no firing window"), (1, "no silent window beside the firing ones")])
def test_without_firing_or_silent_windows_there_is_a_reason_and_no_number(fires: int, reason: str) -> None:
    for measured in of([0.9, 0.1, 0.5], [fires] * 3).values():
        assert np.isnan([measured.estimate.value, measured.estimate.low, measured.estimate.high]).all()
        assert measured.note == reason
    assert of([], [])["auroc"].note == "no firing window"


def test_a_label_that_never_says_yes_has_no_precision() -> None:
    found = of([0.1] * 40, [1] * 10 + [0] * 30)
    assert np.isnan(found["precision"].estimate.value)
    assert found["precision"].note == "nothing is predicted to fire"
    assert found["recall"].estimate.value == 0


def test_a_missing_prediction_and_a_strange_document_are_refused() -> None:
    with pytest.raises(ValueError, match="no prediction"):
        of([0.1, float("nan"), 0.3], [1, 0, 0])
    p, fires, weight, document = drawn_scene(9)
    with pytest.raises(ValueError, match="document"):
        measure(p, fires, weight, document + 1, draw(document, 300, 0))


def test_a_perfect_reversal_is_zero_and_no_rounding_error_below_it() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        fires = np.arange(300) < 40
        weight = rng.random(300) * 7 + 0.1
        p = np.where(fires, -1.0, 1.0) + rng.random(300) / 3
        document = rng.integers(0, 30, 300)
        e = measure(p, fires, weight, document, draw(document, 100, seed), ("auroc",))["auroc"].estimate
        assert 0 <= e.low <= e.value <= e.high <= 1 and e.value == pytest.approx(0, abs=1e-9)


def test_auroc_under_each_draw_is_that_of_the_weighted_windows() -> None:
    rng = np.random.default_rng(1)
    fires, document, weight = np.arange(60) < 15, rng.integers(0, 12, 60), rng.random(60) + 0.5
    p = np.round(rng.random(60) + fires * 0.2, 1)
    draws = draw(document, 5, 0)
    found = auroc_draws(p, fires, weight, document, draws)
    for number in range(5):
        mass = weight * draws.times[np.searchsorted(draws.documents, document), number]
        assert found[number] == pytest.approx(metrics.roc_auc_score(fires, p, sample_weight=mass), abs=1e-5)
