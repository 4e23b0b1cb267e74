"""What measured texts say for five hypotheses: by hand, and on simulated debates whose truth is known and whose predictor errs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from glossator.scorers import evidence
from glossator.scorers.evidence import Measured


def measured(*texts: tuple[float, float, str, str, bool]) -> Measured:
    p_a, p_b, kinds, words, fired = zip(*texts, strict=True)
    return Measured(np.asarray(p_a), np.asarray(p_b), kinds, words, np.asarray(fired))


def test_claims_of_both_and_of_the_overlap_follow_from_the_rivals() -> None:
    assert evidence.claims(np.asarray([0.9, 0.2]), np.asarray([0.4, 0.5])) == pytest.approx(
        np.asarray([[0.9, 0.4, 1 - 0.1 * 0.6, 0.36], [0.2, 0.5, 1 - 0.8 * 0.5, 0.1]])
    )


def test_one_text_by_hand() -> None:
    told = evidence.log_likelihoods(measured((1.0, 0.0, "swap", "bank", True)), 0.1)
    # p' = 0.1 + 0.8 p: 0.9 for A and both, 0.1 for B and the overlap; nothing seen yet, so one half for neither
    assert told[0] == pytest.approx([math.log(0.9), math.log(0.1), math.log(0.9), math.log(0.1), math.log(0.5)])


def test_a_silent_text_speaks_for_who_said_so() -> None:
    told = evidence.log_likelihoods(measured((0.5, 0.0, "swap", "bank", False)), 0.1)
    assert told[0, :2] == pytest.approx([math.log(0.5), math.log(0.9)])


def test_neither_learns_its_rate_from_earlier_texts_alone() -> None:
    kinds, fired = ["swap", "swap", "case"], [True, True, False]
    every = (2 + 0.5) / (3 + 1)
    assert evidence.running_rate("swap", kinds, fired) == pytest.approx((2 + every) / 3)
    assert evidence.running_rate("delete", kinds, fired) == pytest.approx(every)  # a kind of which nothing was seen
    assert evidence.running_rate("swap", [], []) == 0.5
    whole = measured(*[(0.5, 0.5, "swap", str(i), True) for i in range(4)])
    first = measured(*[(0.5, 0.5, "swap", str(i), i < 2) for i in range(4)])
    assert evidence.log_likelihoods(whole, 0.1)[:2] == pytest.approx(evidence.log_likelihoods(first, 0.1)[:2])


def test_texts_that_turn_on_one_word_count_less_and_less() -> None:
    same = measured(*[(1.0, 0.0, "swap", "bank", True)] * 4)
    told = evidence.log_likelihoods(same, 0.1, power=0.5)[:, 0] / math.log(0.9)
    assert told == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])
    assert evidence.log_likelihoods(same, 0.1, power=0.0)[:, 0] == pytest.approx([math.log(0.9)] * 4)


def test_the_leader_has_to_lead_all_others_and_not_only_its_rival() -> None:
    per_text = np.log(np.asarray([[0.9, 0.1, 0.9, 0.1, 0.5]] * 4))
    found = evidence.standing(per_text, {})
    assert found.leader == "A"
    assert found.lead == pytest.approx(0.0)  # both is as good
    alone = evidence.standing(per_text, {"both": "A"})
    assert alone.lead == pytest.approx(4 * math.log(0.9 / 0.5))


def test_an_amended_explanation_starts_from_zero_and_counts_only_later_texts() -> None:
    lost = np.log(np.asarray([[0.1, 0.9, 0.9, 0.1, 0.5]] * 5))  # A was wrong five times, then amended
    won = np.log(np.asarray([[0.9, 0.1, 0.9, 0.1, 0.5]] * 3))
    found = evidence.standing(np.concatenate([lost, won]), {"both": ""}, since={"A": 5})
    assert (found.leader, found.counted) == ("A", 3)
    assert found.lead == pytest.approx(
        3 * math.log(0.9 / 0.5)
    )  # neither a pardon from others nor a penalty: the same three texts
    assert evidence.standing(np.concatenate([lost, won]), {"both": ""}).leader != "A"


def test_what_nothing_is_expected_of_is_not_chosen() -> None:
    weights = np.asarray([0.5, 0.5, 0, 0, 0])
    p = np.asarray([[0.9, 0.1, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0.9, 0.9, 0, 0, 0]])
    gain = evidence.information_gain(p, weights)
    # H(1/2) - H(0.9) by hand
    assert gain == pytest.approx([math.log(2) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1), 0, 0])


def test_kinds_of_edits_are_balanced_among_those_that_tell_enough() -> None:
    gain = np.asarray([0.5, 0.4, 0.3, 0.1])
    kinds = ["swap", "swap", "case", "random"]
    assert evidence.choose(gain, kinds, []) == 0
    assert evidence.choose(gain, kinds, ["swap"]) == 2  # case has not been used, and offers over half
    assert evidence.choose(gain, kinds, ["swap", "case"]) == 0  # random offers too little


def test_hypotheses_that_no_text_tells_apart_are_one() -> None:
    broad, narrow = np.asarray([0.98] * 10 + [0.02] * 10), np.asarray([0.98] * 5 + [0.02] * 15)
    assert evidence.same_as(narrow, broad, 0.1, 0.1, (30, 3.0)) == {"both": "B", "overlap": "A"}
    assert evidence.same_as(broad, broad, 0.1, 0.1, (30, 3.0))["B"] == "A"
    assert evidence.same_as(narrow, narrow[::-1], 0.1, 0.1, (30, 3.0)) == {
        "overlap": ""
    }  # they share nothing: it would never fire
    nearly = np.where(np.arange(20) < 4, 0.02, narrow)  # which shares one text with the narrow one
    assert evidence.same_as(broad, nearly, 0.1, 0.0, (30, 3.0)) == {"both": "A", "overlap": ""}
    few = np.where(np.arange(20) == 9, 0.02, broad) * np.where(np.arange(20) == 10, 49, 1)
    assert "overlap" not in evidence.same_as(
        broad, few, 0.1, 0.0, (30, 3.0)
    )  # a rule that is executed misreads nothing
    assert "overlap" in evidence.same_as(broad, few, 0.1, 0.1, (30, 3.0))
    one = np.where(np.arange(20) == 0, 0.02, broad)
    assert evidence.same_as(broad, one, 0.1, 0.1, (30, 3.0))["B"] == "A"  # one text cannot tell three nats


def test_who_foresaw_nothing_that_fired_cannot_win() -> None:
    quiet = measured(*[(0.02, 0.98, "swap", str(i), i > 6) for i in range(10)])
    assert not evidence.accounts_for(quiet, "A")
    assert evidence.accounts_for(quiet, "B")
    assert not evidence.accounts_for(quiet, "overlap")
    assert evidence.accounts_for(quiet, "neither")


def test_who_foresaw_less_than_a_quarter_of_eight_that_fired_is_out_of_the_race() -> None:
    texts = [(0.02, 0.98 if i < 2 else 0.02, "window", str(i), True) for i in range(8)]
    assert evidence.refuted(measured(*texts[:7])) == {}
    assert evidence.refuted(measured(*texts)) == {"A": "", "overlap": ""}  # B foresaw two of eight: a quarter
    silent = [(0.02, 0.02, "window", str(i), False) for i in range(20)]
    assert evidence.refuted(measured(*silent)) == {}  # silence refutes nobody
    assert evidence.refuted(measured(*texts), {"A": 1}) == {}  # seven texts are not enough for what was amended then


def test_what_is_refuted_need_not_be_led() -> None:
    one = [(0.02, 0.02, "window", "canal", True), *[(0.02, 0.02, "window", "other", False)] * 3]
    seen = measured(*[(*text[:3], f"{text[3]}{i}", text[4]) for i in range(8) for text in one])
    per_text = evidence.log_likelihoods(seen, 0.1, 0.25)
    assert evidence.standing(per_text, {}).lead < 3.0
    found = evidence.standing(per_text, evidence.refuted(seen))
    assert found.leader == "neither" and math.isinf(found.lead)


def test_an_amended_side_is_judged_by_later_texts_alone() -> None:
    texts = [(0.02 if i < 8 else 0.98, 0.02, "window", str(i), True) for i in range(12)]
    seen = measured(*texts)
    assert not evidence.accounts_for(seen, "A") and evidence.accounts_for(seen, "A", {"A": 8})
    assert "A" not in evidence.refuted(seen, {"A": 8}) and "B" in evidence.refuted(seen, {"A": 8})
    assert not evidence.accounts_for(seen, "B", {"A": 8})


def test_the_error_is_fitted_and_bounded() -> None:
    p = np.asarray([0.98] * 50 + [0.02] * 50)
    fired = p > 0.5
    assert evidence.fitted_error(p, fired, 0.1, 0.3) == 0.1
    wrong = fired ^ (np.arange(100) % 5 == 0)
    assert evidence.fitted_error(p, wrong, 0.1, 0.3) == pytest.approx(0.19, abs=0.02)
    assert evidence.fitted_error(p, ~fired, 0.1, 0.3) == 0.3
    assert evidence.fitted_error(p[:0], fired[:0], 0.1, 0.3) == 0.1


# --------------------------------------------------------------------------- simulated debates

KINDS = (
    "window",
    "window",
    "window",
    "transplant",
    "transplant",
    "swap",
    "swap",
    "delete",
    "cut_left",
    "case",
    "random",
)
# regions of words: which rivals claim them (A, B), and which truly fire
WORLDS = {
    "broader": ({"AB": (1, 4), "B": (1, 5)}, "A"),
    "narrower": ({"AB": (1, 3), "A": (1, 4)}, "A"),
    "correlated": ({"AB": (1, 4), "A": (1, 3), "B": (1, 3)}, "A"),
    "parts": ({"A": (1, 4), "B": (1, 4)}, "both"),
    "overlap": ({"AB": (1, 4), "A": (1, 3), "B": (1, 3)}, "overlap"),
    "wrong": ({"A": (1, 4), "B": (1, 4), "T": (1, 4)}, "neither"),
}


@dataclass(frozen=True)
class World:
    """A pool of 60 texts in three carriers each: what a predictor that errs says of them, and what they do."""

    seen: Measured

    @staticmethod
    def draw(sort: str, error: float, rng: np.random.Generator) -> World:
        """The predictor errs on words in their contexts, of which a word has two: its errors come together."""
        regions, truth = WORLDS[sort]
        words = {region: rng.integers(low, high + 1) for region, (low, high) in regions.items()}
        wrong: dict[tuple[str, int], bool] = {}
        rows = []
        for i in range(60):
            kind = KINDS[i % len(KINDS)]
            region = str(rng.choice(sorted(regions)))
            word = f"{region}{rng.integers(words[region])}"
            if kind in ("delete", "random") or rng.random() < 0.35:
                region, word = "", f"none{i}"
            a, b = "A" in region, "B" in region
            fires = {"A": a, "both": a or b, "overlap": a and b, "neither": "T" in region}[truth]
            told: list[list[float]] = [[], []]
            for _ in range(3):
                context = int(rng.integers(20 if kind == "transplant" else 2))
                together = wrong.setdefault((word, context), bool(rng.random() < error))
                for side, says in zip(told, (a, b), strict=True):
                    errs = together if says else bool(rng.random() < error)
                    side.append(0.95 if says != errs else 0.05)
            rows.append((majority(told[0]), majority(told[1]), kind, word, fires ^ (rng.random() < 0.02)))
        return World(measured(*rows))


def majority(p: list[float]) -> float:
    a, b, c = p
    return a * b + a * c + b * c - 2 * a * b * c


def held(world: World, error: float, power: float = 0.25, budget: int = 30) -> tuple[str, int]:
    """A debate as agents/debate/debater.py holds it: who won, after how many texts."""
    pool = world.seen
    same = evidence.same_as(pool.p_a, pool.p_b, error, error, (budget, 3.0))
    p = evidence.softened(evidence.claims(pool.p_a, pool.p_b), error)
    left, at = list(range(len(pool))), list[int]()
    totals = np.zeros(5)
    while left and len(at) < budget:
        kinds, words, fired = [pool.kinds[i] for i in at], [pool.words[i] for i in at], pool.fired[at]
        rates = [evidence.running_rate(pool.kinds[i], kinds, fired) for i in left]
        votes = [evidence.vote(pool.words[i], words, power) for i in left]
        gain = np.asarray(votes) * evidence.information_gain(
            np.column_stack([p[left], rates]), evidence.posterior(totals, same)
        )
        at.append(left.pop(evidence.choose(gain, [pool.kinds[i] for i in left], kinds)))
        seen = Measured(
            pool.p_a[at], pool.p_b[at], [pool.kinds[i] for i in at], [pool.words[i] for i in at], pool.fired[at]
        )
        now = evidence.standing(evidence.log_likelihoods(seen, error, power), same)
        totals = now.totals
        if len(at) >= 6 and now.lead >= 3.0 and evidence.accounts_for(seen, now.leader):
            return now.leader, len(at)
    return "undecided", len(at)


def debates(sort: str, error: float, n: int) -> list[tuple[str, int]]:
    found = []
    for seed in range(n):
        rng = np.random.default_rng([seed, list(WORLDS).index(sort)])
        found.append(held(World.draw(sort, error, rng), 0.1))
    return found


@pytest.mark.parametrize("sort", WORLDS)
def test_without_errors_the_truth_wins(sort: str) -> None:
    verdicts = [verdict for verdict, _ in debates(sort, 0.0, 25)]
    assert verdicts.count(WORLDS[sort][1]) >= 22
    assert sum(verdict not in (WORLDS[sort][1], "undecided") for verdict in verdicts) <= 1


def test_at_a_tenth_of_correlated_errors_hardly_any_verdict_is_wrong() -> None:
    found = {sort: debates(sort, 0.1, 40) for sort in WORLDS}
    every = [(verdict, n, WORLDS[sort][1]) for sort, ones in found.items() for verdict, n in ones]
    wrong = [verdict for verdict, _, right in every if verdict not in (right, "undecided")]
    assert len(wrong) <= 0.03 * len(every), wrong
    assert sum(verdict == right for verdict, _, right in every) >= 0.85 * len(every)
    assert np.median([n for _, n, _ in every]) <= 16
    assert sum(verdict == "neither" != right for verdict, _, right in every) <= 0.05 * len(every)
