"""Which labels people are asked about, what is kept of their answers, and what is made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from glossator.agents.others.rated import summarise
from glossator.agents.others.ratings import Sitting, _frame, forget, keep, sitting
from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.rows import ExplanationRow, RatingRow, ScoreRow
from glossator.store.labels import materialise_labels
from glossator.types import WINDOW


def explain(run: Run, explainer: str = "typed", features: Iterable[int] = range(12), text: str = "label") -> None:
    run.store.put_now(
        *(
            ExplanationRow(f"{explainer}-{i}", run.dictionary, i, explainer, None, f"{text} {i}", None, False, None, "")
            for i in features
        )
    )
    materialise_labels(run.store)


def score(run: Run, values: dict[int, float | None], explainer: str = "typed", metric: str = "simulation", by: str = "rule") -> None:  # fmt: skip
    run.store.put_now(
        *(
            ScoreRow(
                f"{explainer}-{i}", run.dictionary, i, explainer, by, None, metric, "test", v, None, None, 9, None, ""
            )
            for i, v in values.items()
        )
    )
    materialise_labels(run.store)


def judge(run: Run, asked: Sitting, judgements: Iterable[str], when: float = 0.0) -> None:
    for shown, judgement in zip(asked.left, judgements, strict=False):
        keep(run, shown, judgement, asked.rater, 1.0, when)


def features(asked: Sitting) -> list[int]:
    return [shown.feature for shown in asked.left]


# ------------------------------------------------------------------ the sample


def test_the_same_seed_asks_every_rater_the_same_and_another_seed_something_else(run: Run) -> None:
    explain(run)
    ada, bob, other = sitting(run, "ada", 5, 0), sitting(run, "bob", 5, 0), sitting(run, "ada", 5, 1)
    assert features(ada) == features(bob) != features(other)
    assert ada.size == 5 and ada.ratable == 12 and len(set(features(ada))) == 5


def test_what_a_rater_has_rated_is_not_asked_again_and_a_larger_sample_goes_on(run: Run) -> None:
    explain(run)
    whole = features(sitting(run, "ada", 12, 0))
    judge(run, sitting(run, "ada", 3, 0), ["good", "skipped", "wrong"])
    assert features(sitting(run, "ada", 3, 0)) == []
    assert features(sitting(run, "ada", 7, 0)) == whole[3:7]
    assert features(sitting(run, "bob", 7, 0)) == whole[:7]


def test_a_feature_with_a_new_label_is_asked_about_again(run: Run) -> None:
    explain(run)
    judge(run, sitting(run, "ada", 12, 0), ["good"] * 12)
    run.store.execute("UPDATE explanation SET explanation_id = 'new' WHERE feature = 3")
    materialise_labels(run.store)
    assert features(sitting(run, "ada", 12, 0)) == [3]


def test_the_sample_covers_all_densities_and_scores(run: Run) -> None:
    """The first of every stratum before the second of any, whatever the seed."""
    explain(run)
    score(run, {i: float(np.sin(7 * i)) for i in range(12)})
    cell = {row["feature"]: (row["by_density"], row["by_score"]) for row in _frame(run, None)}
    cells = set(cell.values())
    assert {density for density, _ in cells} == {score for _, score in cells} == {1, 2, 3} and len(cells) >= 5
    for seed in range(5):
        assert {cell[feature] for feature in features(sitting(run, "ada", len(cells), seed))} == cells


def test_scores_of_different_predictors_are_not_ranked_with_one_another(run: Run) -> None:
    """Six labels read by a model score above all rules: still a third of each kind is low."""
    explain(run)
    score(run, {i: 0.1 * i for i in range(6)})
    score(run, {i: 0.8 + 0.01 * i for i in range(6, 12)}, by="llm:m")
    cells = {row["feature"]: row["by_score"] for row in _frame(run, None)}
    assert [cells[i] for i in range(12)] == [1, 1, 2, 2, 3, 3] * 2


def test_abstained_empty_and_rare_features_are_not_asked_about(run: Run) -> None:
    explain(run, features=range(2, 12))
    run.store.put_now(ExplanationRow("none", run.dictionary, 0, "typed", None, None, None, True, "saw nothing", ""))
    run.store.put_now(ExplanationRow("blank", run.dictionary, 1, "typed", None, "  ", None, False, None, ""))
    run.store.execute("UPDATE feature SET status = 'rare' WHERE feature = 2")
    materialise_labels(run.store)
    assert set(features(sitting(run, "ada", 99, 0))) == set(range(3, 12))


def test_a_feature_that_never_fires_in_the_split_test_is_not_asked_about(run: Run) -> None:
    explain(run)
    run.store.execute("DELETE FROM exemplar WHERE feature = 4 AND split = 'test'")
    assert 4 not in features(sitting(run, "ada", 99, 0))


@pytest.mark.parametrize("n", [0, -3])
def test_a_wrong_number_is_told_in_one_line(run: Run, n: int) -> None:
    with pytest.raises(UsageError, match=f"^--n {n}: write how many labels to rate, 1 or more$"):
        sitting(run, "ada", n, 0)


def test_without_labels_the_way_out_is_named(run: Run) -> None:
    with pytest.raises(UsageError, match=r"no feature of planted has a label .* run `glossator label"):
        sitting(run, "ada", 5, 0)


# ------------------------------------------------------------------ windows


def test_firing_windows_fire_silent_ones_are_silent_and_all_are_of_the_split_test(run: Run) -> None:
    explain(run)
    split = dict(run.store.sql("SELECT window_id, split FROM text_window"))
    quiet: dict[int, set[tuple[int, ...]]] = {}
    for feature, ids, start in run.store.sql(
        "SELECT f.feature, w.ids, w.start FROM feature f JOIN background b ON b.split = 'test' AND NOT list_contains(b.features, f.feature) "
        "JOIN text_window w USING (window_id) UNION ALL "
        "SELECT m.feature, w.ids, w.start FROM near_miss m JOIN text_window w USING (window_id) WHERE m.split = 'test'"
    ):
        quiet.setdefault(feature, set()).add(tuple(ids[start : start + WINDOW]))
    for shown in sitting(run, "ada", 99, 0).left:
        windows = shown.firing.windows
        peaks = shown.firing.activations.max(1)
        assert 1 <= len(windows) <= 5 and (peaks >= np.float32(shown.threshold)).all()
        assert (np.diff(peaks) <= 0).all(), "strongest first"
        assert len({tuple(ids[windows.scored]) for ids in windows.ids}) == len(windows), "each text once"
        assert {split[w] for w in windows.window_id.tolist()} == {"test"}
        assert {tuple(ids.tolist()) for ids in shown.silent} <= quiet.get(shown.feature, set())
        if shown.feature != 5:  # `sea` is active everywhere
            assert len(shown.silent) == 3


def test_features_do_not_all_show_the_same_silent_windows(run: Run) -> None:
    explain(run)
    run.store.execute("DELETE FROM near_miss")
    seen = Counter(ids.tobytes() for shown in sitting(run, "ada", 99, 0).left for ids in shown.silent)
    assert max(seen.values()) <= 3


def test_others_than_the_strongest_are_a_uniform_draw(run: Run) -> None:
    """A rater who saw the strongest windows alone would take a label for right that holds for them alone."""
    explain(run)
    held = run.store.sql(
        "SELECT feature, stratum, count(DISTINCT window_id) FROM exemplar JOIN feature USING (feature) "
        "WHERE split = 'test' AND exemplar.max_activation >= threshold GROUP BY ALL"
    )
    firing = {(feature, stratum): n for feature, stratum, n in held}
    tried = 0
    for shown in sitting(run, "ada", 99, 0).left:
        if min(firing.get((shown.feature, stratum), 0) for stratum in ("top", "sample")) >= 6:
            tried += 1
            assert (shown.firing.stratum == "top").sum() <= 2
    assert tried


# ------------------------------------------------------------------ two labels


def test_against_another_explainer_both_labels_are_shown_in_an_order_of_chance(run: Run) -> None:
    explain(run)
    explain(run, "imported:theirs", range(2, 12), "their words")
    asked = sitting(run, "ada", 99, 0, "imported:theirs")
    assert set(features(asked)) == set(range(2, 12))
    for shown in asked.left:
        assert {i for i, _ in shown.labels} == {f"typed-{shown.feature}", f"imported:theirs-{shown.feature}"}
    orders = {}
    for who in ("ada", "bob", "cyd"):
        first = [shown.labels[0][0] for shown in sitting(run, who, 99, 0, "imported:theirs").left]
        assert 0 < sum(identity.startswith("typed") for identity in first) < 10
        orders[who] = tuple(first)
    assert len(set(orders.values())) > 1, "raters do not all see the same side first"


def test_equal_texts_are_not_compared(run: Run) -> None:
    explain(run)
    explain(run, "imported:theirs", range(12), "label")
    with pytest.raises(UsageError, match="no feature that can be rated has another label"):
        sitting(run, "ada", 5, 0, "imported:theirs")


def test_an_unknown_explainer_is_told_in_one_line_with_those_that_there_are(run: Run) -> None:
    explain(run)
    explain(run, "imported:theirs")
    with pytest.raises(UsageError, match=r"^--against nobody: planted has labels of imported:theirs, typed; name one"):
        sitting(run, "ada", 5, 0, "nobody")
    run.store.execute("DELETE FROM explanation")
    with pytest.raises(UsageError, match=r"^--against nobody: planted has no labels"):
        sitting(run, "ada", 5, 0, "nobody")


def test_a_pair_is_asked_once_and_apart_from_its_labels_alone(run: Run) -> None:
    explain(run)
    explain(run, "imported:theirs", range(12), "their words")
    judge(run, sitting(run, "ada", 99, 0, "imported:theirs"), ["a better"] * 4)
    assert len(sitting(run, "ada", 99, 0, "imported:theirs").left) == 8
    assert len(sitting(run, "ada", 99, 1, "imported:theirs").left) == 8, "another seed may show the other side first"
    assert len(sitting(run, "ada", 99, 0).left) == 12


# ------------------------------------------------------------------ what is kept


def test_a_judgement_is_a_row_that_can_be_taken_back(run: Run) -> None:
    explain(run)
    shown = sitting(run, "ada", 1, 0).left[0]
    row = keep(run, shown, "half", "ada", 2.5, 1000.0)
    assert run.store.sql("SELECT feature, explanation_id, rival_id, judgement, rater, seconds, rated_at FROM rating") == [
        (shown.feature, f"typed-{shown.feature}", None, "half", "ada", 2.5, 1000.0)
    ]  # fmt: skip
    keep(run, shown, "good", "bob", 1.0, 1001.0)
    forget(run, row)
    assert run.store.sql("SELECT rater FROM rating") == [("bob",)]


def test_the_view_tells_ratings_in_words_and_numbers(run: Run) -> None:
    explain(run, features=[3])
    explain(run, "imported:theirs", [3], "their words")
    run.store.put_now(
        RatingRow("1", run.dictionary, 3, "typed-3", None, "good", "ada", 2.0, 1_000_000_000.5),
        RatingRow("2", run.dictionary, 3, "typed-3", "imported:theirs-3", "b better", "ada", 3.0, 1_000_000_001.0),
        RatingRow("3", run.dictionary, 3, "typed-3", None, "skipped", "bob", 3.0, 1_000_000_002.0),
        RatingRow("4", run.dictionary, 3, "replaced", None, "wrong", "bob", 3.0, 1_000_000_003.0),
    )
    assert run.store.sql("SELECT label, explainer, judgement, rating, rival, preferred, rater, rated_at::VARCHAR FROM ratings") == [
        ("label 3", "typed", "good", 4, None, None, "ada", "2001-09-09 01:46:40.5"),
        ("label 3", "typed", "b better", None, "their words 3", "imported:theirs", "ada", "2001-09-09 01:46:41"),
        ("label 3", "typed", "skipped", None, None, None, "bob", "2001-09-09 01:46:42"),
        (None, None, "wrong", 1, None, None, "bob", "2001-09-09 01:46:43"),
    ]  # fmt: skip


# ------------------------------------------------------------------ what it says


def rated(run: Run, grades: dict[int, str], rater: str = "ada") -> None:
    asked = {shown.feature: shown for shown in sitting(run, rater, 99, 0).left}
    for feature, grade in grades.items():
        keep(run, asked[feature], grade, rater, 1.0, 0.0)


def test_scores_are_ranked_against_mean_ratings_each_metric_and_predictor_by_itself(run: Run) -> None:
    """Means 1.5 2 4 5 3 have ranks 1 2 4 5 3; the rule's scores have 2 1 4 5 3: 1 - 6 * 2 / 120 = 0.9; the model's, the reverse."""
    explain(run)
    score(run, {0: 0.2, 1: 0.1, 2: 0.6, 3: 0.9, 4: 0.5})
    score(run, {0: 0.9, 1: 0.8, 2: 0.2, 3: 0.1, 4: 0.5}, by="llm:m")
    score(run, {0: 0.9, 1: None, 2: 0.2}, metric="fuzzing", by="llm:m")
    rated(run, {0: "wrong", 1: "poor", 2: "good", 3: "right", 4: "half"})
    rated(run, {0: "poor"}, "bob")
    found = summarise(run)
    assert found.raters == {"ada": 5, "bob": 1} and found.labels == 5 and found.ratings == 6
    assert found.means["typed"].estimate.value == pytest.approx((1.5 + 2 + 4 + 5 + 3) / 5)
    assert found.scores["simulation", "rule"].estimate.value == pytest.approx(0.9)
    assert found.scores["simulation", "rule"].note == "under 10 labels: no interval"
    assert found.scores["simulation", "llm:m"].estimate.value == pytest.approx(-1)
    assert found.scores["fuzzing", "llm:m"].note == "2 rated labels with this score, under 3"


def test_skipped_labels_are_counted_and_not_rated(run: Run) -> None:
    explain(run)
    rated(run, {0: "skipped", 1: "good"})
    found = summarise(run)
    assert (found.skipped, found.ratings, found.labels) == (1, 1, 1)


def test_constant_ratings_have_no_correlation_but_a_reason(run: Run) -> None:
    explain(run)
    score(run, {i: 0.1 * i for i in range(12)})
    rated(run, dict.fromkeys(range(12), "right"))
    found = summarise(run).scores["simulation", "rule"]
    assert np.isnan(found.estimate.value) and found.note == "all ratings are alike"


def test_raters_are_compared_on_what_both_rated(run: Run) -> None:
    explain(run)
    rated(run, {0: "wrong", 1: "poor", 2: "good", 3: "right"})
    rated(run, {1: "poor", 2: "good", 3: "good", 4: "half"}, "bob")
    (both,) = summarise(run).between
    assert both.raters == ("ada", "bob") and not both.pairs
    assert both.same.value == pytest.approx(2 / 3) and both.kappa.estimate.n == 3
    assert 0 < both.kappa.estimate.value < 1


def preferred(run: Run, rater: str, winners: dict[int, str]) -> None:
    """Words for the side that is meant, whichever was shown first."""
    for shown in sitting(run, rater, 99, 0, "theirs").left:
        if (said := winners.get(shown.feature)) is None:
            continue
        side = {f"{who}-{shown.feature}": who for who in ("typed", "theirs")}
        places = {
            side[identity]: word for (identity, _), word in zip(shown.labels, ("a better", "b better"), strict=True)
        }
        keep(run, shown, places.get(said, said), rater, 1.0, 0.0)


def test_wins_are_counted_by_feature_whichever_side_was_shown_first(run: Run) -> None:
    explain(run)
    explain(run, "theirs", range(12), "their words")
    score(run, dict.fromkeys(range(6), 0.5))
    score(run, {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.1, 4: 0.5}, "theirs")
    preferred(
        run,
        "ada",
        {0: "theirs", 1: "theirs", 2: "typed", 3: "typed", 4: "theirs", 5: "both alike", 6: "neither", 7: "typed"},
    )
    preferred(run, "bob", {0: "theirs", 7: "theirs"})
    found = summarise(run)
    (duel,) = found.duels
    assert duel.explainers == ("theirs", "typed")
    assert (duel.wins, duel.alike, duel.neither, duel.split) == ((3, 2), 1, 1, 1)
    assert duel.share.value == 0.6 and 0 < duel.share.low < 0.6 < duel.share.high < 1
    sides = duel.scores["simulation", "rule"]
    assert sides.estimate.value == 0.75 and sides.estimate.n == 4, "features 0, 1 and 3 of 0 to 3; 4 is alike"
    assert sides.note == "1 left out, where the score gives both sides the same"
    assert found.shown_first.n == 8 and found.means == {}
    (both,) = found.between
    assert both.pairs and both.same.value == 0.5


def test_ratings_of_another_dictionary_do_not_count(run: Run) -> None:
    explain(run)
    run.store.put_now(RatingRow("x", "other", 0, "typed-0", None, "good", "ada", 1.0, 0.0))
    assert summarise(run).ratings == 0 and len(sitting(run, "ada", 99, 0).left) == 12
