"""The adversarial score and what stands beside it, computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from glossator.scorers.adversarial import METRICS, Outcome, Step, adversarial, adversarial_metrics, base_rates


def others(kind: str, fired: int, silent: int) -> list[Outcome]:
    return [Outcome(99, kind, 0.5, n < fired) for n in range(fired + silent)]


def mine(*told: tuple[str, float, bool]) -> list[Outcome]:
    return [Outcome(1, *one) for one in told]


def test_the_reference_is_what_the_base_rate_of_the_other_features_is_expected_to_score() -> None:
    own = mine(("swap", 0.8, True), ("swap", 0.1, False), ("random", 0.2, False))
    rates = base_rates([*own, *others("swap", 5, 4), *others("random", 0, 9)])
    swap, random = 5.5 / 10, 0.5 / 10
    expected = 1 - (0.2**2 + 0.1**2 + 0.2**2) / (2 * swap * (1 - swap) + random * (1 - random))
    assert adversarial(own, rates).value == pytest.approx(expected)


def test_a_perfect_prediction_is_1_and_the_base_rate_itself_0_on_average() -> None:
    rest = others("swap", 300, 700)
    perfect = mine(*(("swap", float(n < 3), n < 3) for n in range(10)))
    assert adversarial(perfect, base_rates([*rest, *perfect])).value == 1.0
    knows = mine(*(("swap", 0.3, n < 3) for n in range(10)))
    assert adversarial(knows, base_rates([*rest, *knows])).value == pytest.approx(0.0, abs=0.01)


def test_outcomes_that_happen_to_be_what_their_kind_does_give_no_wild_value() -> None:
    """With the score that came out as the reference this one would be below -20."""
    own = mine(*(("transplant", 0.5, True) for _ in range(5)), ("random", 0.5, False))
    rates = base_rates([*own, *others("transplant", 95, 5), *others("random", 10, 90)])
    realised = sum((0.95 - 1) ** 2 for _ in range(5)) + 0.1**2
    assert 1 - 6 * 0.25 / realised < -20
    assert -4 < adversarial(own, rates).value < -3


def test_where_the_kinds_alone_tell_what_happens_there_is_no_value_but_a_reason() -> None:
    own = mine(("random", 0.1, False), ("random", 0.1, False))
    found = adversarial_metrics(own, base_rates([*own, *others("random", 0, 500)]))["adversarial"]
    assert np.isnan(found.estimate.value) and found.estimate.n == 2 and "alone tell" in str(found.note)


def test_shares_and_their_harmonic_mean() -> None:
    own = mine(
        ("positive", 0.9, True), ("positive", 0.9, True), ("positive", 0.2, True), ("positive", 0.9, False),
        ("boundary", 0.9, True), ("boundary", 0.1, False), ("swap", 0.1, False),
    )  # fmt: skip
    found = {m: x.estimate.value for m, x in adversarial_metrics(own, base_rates(own)).items()}
    assert found["adversarial_precision"] == 3 / 4 and found["adversarial_recall"] == 3 / 4
    assert found["activation_rate"] == 3 / 4 and found["boundary_rate"] == 1 / 2
    assert found["activation_boundary"] == pytest.approx(2 * 0.75 * 0.5 / 1.25)


def test_the_smallest_piece_that_fires_and_what_its_word_loses_alone() -> None:
    steps = [Step(1, 0, False, 0.25), Step(3, 1, True, 0.9), Step(9, 4, True, 1.0)]
    own = mine(("swap", 0.5, True))
    found = adversarial_metrics(own, base_rates(own), steps)
    assert found["trigger_span"].estimate.value == 3 and found["context_dependence"].estimate.value == 0.75
    stronger = adversarial_metrics(own, base_rates(own), [Step(1, 0, True, 1.4)])["context_dependence"]
    assert stronger.estimate.value == 0.0  # stronger alone: nothing is lost


@pytest.mark.parametrize("steps", [[], [Step(1, 0, False, None)]])
def test_what_cannot_be_computed_has_no_value_and_a_reason(steps: list[Step]) -> None:
    found = adversarial_metrics([], {}, steps)
    assert set(found) == set(METRICS)
    for metric, one in found.items():
        assert np.isnan(one.estimate.value) and one.note, metric
