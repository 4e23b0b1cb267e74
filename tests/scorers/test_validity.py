"""How scores are judged: shares by hand, ties, first places, and the words that follow from the figures."""

from __future__ import annotations

import math

import pytest

from glossator.scorers.estimators import wilson
from glossator.scorers.validity import FAULTS, RIGHT, RIVALS, first, in_words, known, ranked

NAN = math.nan


def test_ties_count_half_and_are_counted() -> None:
    values = [
        {RIGHT: 0.9, "broader": 0.5},
        {RIGHT: 0.7, "broader": 0.7},
        {RIGHT: 0.2, "broader": 0.4},
        {RIGHT: 0.3, "broader": 0.1},
    ]
    found = ranked(values, "broader")
    assert (found.share.value, found.ties, found.share.n) == (2.5 / 4, 1, 4)
    assert (found.share.low, found.share.high) == (wilson(2.5, 4).low, wilson(2.5, 4).high)
    # 0.9 beats all 4; 0.7 beats 0.5, 0.4, 0.1 and ties one; 0.3 and 0.2 beat 0.1
    assert found.auroc == pytest.approx((4 + 3.5 + 1 + 1) / 16)


def test_a_feature_without_a_value_is_left_out_and_n_says_so() -> None:
    values = [{RIGHT: 0.9, "empty": NAN}, {RIGHT: NAN, "empty": 0.1}, {RIGHT: 0.9}, {}, {RIGHT: 0.9, "empty": 0.2}]
    assert ranked(values, "empty").share.n == len(known(values, ["empty"])) == 1
    nothing = ranked(values, "broader")
    assert nothing.share.n == 0 and math.isnan(nothing.auroc) and not nothing.seen


def test_a_shared_first_place_counts_as_its_share() -> None:
    low = dict.fromkeys(RIVALS, 0.1)
    values = [
        {RIGHT: 0.9} | low,
        {RIGHT: 0.9} | low | {"broader": 0.9},
        {RIGHT: 0.1} | low,
        {RIGHT: 0.5} | low | {"narrower": 0.6},
    ]
    assert first(values).value == pytest.approx((1 + 1 / 2 + 1 / 5 + 0) / 4)
    assert first([{RIGHT: 0.9, "broader": 0.1}]).n == 0  # the others have no value


def test_a_score_that_ties_always_does_not_see() -> None:
    found = ranked([{RIGHT: 0.5, "constant": 0.5}] * 100, "constant")
    assert found.share.value == 0.5 and found.ties == 100 and not found.seen


def test_what_is_said_follows_from_the_lower_bound() -> None:
    def table(wins: int, n: int) -> str:
        values = [{RIGHT: 0.5, "broader": 0.0 if i < wins else 1.0} for i in range(n)]
        return in_words("detection", {"broader": ranked(values, "broader")}, FAULTS)

    assert table(80, 100) == "detection sees every fault that it was shown"
    assert table(62, 100).startswith("detection does not see: broader (0.62 [0.52, 0.71])")
    assert table(4, 5).startswith("detection too few features to say whether it sees: broader (0.80")
    assert table(0, 0) == "detection without a value: broader"


def test_rounding_is_a_tie() -> None:
    assert ranked([{RIGHT: 0.1 + 0.2, "broader": 0.3}], "broader").ties == 1
