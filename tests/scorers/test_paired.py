"""Two labels on the same windows: differences worked by hand, equal to the scores they are differences of, honest about doubt."""

from __future__ import annotations

import numpy as np
import pytest

from glossator.scorers.paired import auroc, paired_auroc, paired_simulation
from glossator.scorers.rates import draw, measure
from glossator.scorers.simulation import Scene, draws_for, simulation
from glossator.types import WINDOW, Bools, Floats, Ints, Sample, Windows

FIRES = np.arange(20) < 10
EVEN, DOCUMENT = np.ones(20), np.arange(20)


def test_auroc_by_hand() -> None:
    """Firing 0.9 (weight 1) and 0.3 (weight 3) against silent 0.3 and 0.1: 1 x 2 won, 3 x 1 won, 3 x 1 half, of 4 x 2."""
    p, fires = np.array([0.9, 0.3, 0.3, 0.1]), np.array([True, True, False, False])
    assert auroc(p, fires, np.array([1.0, 3, 1, 1])) == pytest.approx((2 + 3 + 1.5) / 8)
    assert auroc(np.zeros(4), fires, np.ones(4)) == 0.5 and np.isnan(auroc(p, np.ones(4, bool), np.ones(4)))


def test_the_difference_is_that_of_the_scores_and_turns_with_its_sides() -> None:
    rng = np.random.default_rng(0)
    a, b, weight = rng.random(20) + 0.6 * FIRES, rng.random(20), rng.random(20) + 0.1
    scores = [
        measure(p, FIRES, weight, DOCUMENT, draw(DOCUMENT, 200, 0), ("auroc",))["auroc"].estimate.value for p in (a, b)
    ]
    found, p = paired_auroc(a, b, FIRES, weight, DOCUMENT, 200, 0)
    assert found.value == pytest.approx(scores[0] - scores[1]) and found.n == 20
    assert found.low <= found.value <= found.high and 0 < p < 0.5
    turned, p_turned = paired_auroc(b, a, FIRES, weight, DOCUMENT, 200, 0)
    assert [turned.value, turned.low, turned.high] == pytest.approx([-found.value, -found.high, -found.low])
    assert p_turned > 0.5


def test_a_label_is_not_better_than_itself_and_better_than_a_constant() -> None:
    p = np.where(FIRES, 0.9, 0.1)
    same, p_same = paired_auroc(p, p, FIRES, EVEN, DOCUMENT, 100, 0)
    assert (same.value, same.low, same.high, p_same) == (0, 0, 0, 1)
    found, p_better = paired_auroc(p, np.zeros(20), FIRES, EVEN, DOCUMENT, 100, 0)
    assert found.value == pytest.approx(0.5) and p_better == pytest.approx(1 / 101)


@pytest.mark.parametrize(
    ("fires", "document", "told"),
    [(np.ones(20, bool), DOCUMENT, False), (np.zeros(20, bool), DOCUMENT, False), (FIRES, DOCUMENT // 5, True)],
)
def test_what_cannot_be_said_is_not_said(fires: Bools, document: Ints, told: bool) -> None:
    """No firing window, no silent one; under five documents with firing windows a value alone."""
    found, p = paired_auroc(np.arange(20.0), np.zeros(20), fires, EVEN, document, 100, 0)
    assert np.isfinite(found.value) == told and np.isnan([found.low, found.high, p]).all()


def test_windows_of_weight_zero_are_left_out_and_no_number_is_refused() -> None:
    a = np.where(FIRES, 0.9, 0.1)
    a[19], weight = 1.0, EVEN.copy()
    weight[19] = 0
    assert paired_auroc(a, np.zeros(20), FIRES, weight, DOCUMENT, 100, 0)[0].value == 0.5
    with pytest.raises(ValueError, match="no prediction"):
        paired_auroc(np.full(20, np.nan), a, FIRES, EVEN, DOCUMENT, 100, 0)


def test_equally_good_labels_are_rejected_about_as_often_as_is_said() -> None:
    """Two readers that err alike and apart, 10 firing and 10 silent windows: p <= 0.05 in no more than 12% of 300."""
    rng = np.random.default_rng(1)
    rejected = []
    for i in range(300):
        document = rng.integers(0, 40, 20)
        a, b = (np.round(1 / (1 + np.exp(-rng.normal(size=20) - 1.2 * FIRES)), 1) for _ in range(2))
        rejected.append(paired_auroc(a, b, FIRES, EVEN, document, 200, i)[1] <= 0.05)
    assert 0.005 < np.mean(rejected) < 0.12


def _sample(activations: Floats, first: int) -> Sample:
    n = len(activations)
    windows = Windows(np.ones((n, WINDOW), np.int32), np.arange(n, dtype=np.int32) + first, 0, np.arange(n) + first)
    return Sample(windows, activations, np.full(n, "sample"), np.ones(n))


def test_simulation_is_compared_on_the_same_resamples() -> None:
    rng = np.random.default_rng(2)
    active = np.where(rng.random((10, WINDOW)) < 0.1, 5.0, 0.0)
    scene = Scene(_sample(active, 0), _sample(np.zeros((10, WINDOW)), 10), _sample(np.zeros((10, WINDOW)), 10))
    right, wrong = scene.activations, rng.integers(0, 10, (20, WINDOW))
    found, p = paired_simulation(scene, right, wrong, 200, 3)
    times = draws_for(scene, 200, 3)
    assert found.value == pytest.approx(simulation(scene, right, times).value - simulation(scene, wrong, times).value)
    assert found.low > 0.5 and p == pytest.approx(1 / 201)
    assert paired_simulation(scene, wrong, wrong, 200, 3)[1] == 1
