"""Which explanation becomes the label, by whose scores, whose nulls stand beside it, and what the scoreboard makes of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glossator.rows import ExplanationRow, NullScoreRow, RepeatScoreRow, ScoreRow
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from tests.store.rows import feature_table

A, B = "llm:openai:a", "llm:openai:b"


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(":memory:") as opened:
        opened.put_tables({"feature": feature_table(["waiting"] * 6)})
        yield opened


def explained(store: Store, feature: int, *names: str, model: str | None = "m") -> None:
    for name in names:
        store.put_now(
            ExplanationRow(f"{name}{feature}", "d", feature, name, model, f"what {name} says", None, False, None, "r")
        )


def scored(
    store: Store, name: str, feature: int, predictor: str, metric: str, value: float | None, split: str = "select", dictionary: str = "d"
) -> None:  # fmt: skip
    store.put_now(ScoreRow(f"{name}{feature}", dictionary, feature, name, predictor, None, metric, split, value, None, None, 9, None, "r"))  # fmt: skip


def null(
    store: Store, name: str, feature: int, predictor: str, metric: str, comparison: str, p: float | None, low: float | None = None, dictionary: str = "d"
) -> None:  # fmt: skip
    store.put_now(NullScoreRow(f"{name}{feature}", dictionary, feature, metric, comparison, 0.1, p, p, 0.5, low, 0.9, 99, "r", predictor))  # fmt: skip


def label(store: Store, feature: int = 0) -> tuple[object, ...]:
    materialise_labels(store)
    found: tuple[object, ...] = store.sql("SELECT explainer, predictor FROM labels WHERE feature = ?", [feature])[0]
    return found


# ------------------------------------------------------------------ which explanation


def test_the_best_by_simulation_of_a_model_goes_before_the_best_by_detection_and_by_a_rule(store: Store) -> None:
    explained(store, 0, "x", "y", "z")
    scored(store, "x", 0, "rule", "simulation", 0.99)
    assert label(store) == ("x", "rule")
    scored(store, "y", 0, A, "detection", 0.9)
    scored(store, "z", 0, A, "detection", 0.95)
    assert label(store) == ("z", A)
    scored(store, "y", 0, A, "simulation", 0.3)
    scored(store, "x", 0, A, "simulation", 0.2)
    assert label(store) == ("y", A)


def test_detection_decides_among_explanations_under_one_model_alone(store: Store) -> None:
    explained(store, 0, "x", "y")
    explained(store, 1, "x")
    scored(store, "x", 0, A, "detection", 0.6)
    scored(store, "y", 0, A, "detection", 0.7)
    scored(store, "x", 0, B, "detection", 0.99)  # a kinder reader; it has read fewer
    assert label(store) == ("y", A)


def test_two_models_are_never_compared_and_the_one_that_has_read_more_decides(store: Store) -> None:
    explained(store, 0, "x", "y")
    explained(store, 1, "x")
    scored(store, "x", 0, A, "simulation", 0.2)
    scored(store, "y", 0, B, "simulation", 0.9)
    assert label(store) == ("x", A)  # level: by name
    scored(store, "x", 1, B, "simulation", 0.1)
    assert label(store) == ("y", B)
    scored(store, "y", 0, A, "simulation", None)  # a failure is no reading
    assert label(store) == ("y", B)
    for feature in (2, 3, 4):  # readings that are no labels of this dictionary count for nothing
        scored(store, "x", feature, A, "simulation", 0.5)
    assert label(store) == ("y", B)
    explained(store, 2, "x")
    explained(store, 3, "x")
    assert label(store) == ("x", A)


def test_a_model_that_has_not_read_this_feature_does_not_decide_about_it(store: Store) -> None:
    explained(store, 0, "x", "y")
    for feature in (1, 2):
        explained(store, feature, "x")
        scored(store, "x", feature, A, "simulation", 0.9)
    scored(store, "x", 0, B, "simulation", 0.1)
    scored(store, "y", 0, B, "simulation", 0.2)
    assert label(store) == ("y", B) and label(store, 1) == ("x", A)


def test_other_metrics_and_predictors_decide_nothing(store: Store) -> None:
    explained(store, 0, "x", "y")
    scored(store, "y", 0, A, "fuzzing", 0.9)
    scored(store, "y", 0, "embedding", "detection", 0.9)
    scored(store, "y", 0, A, "simulation", 0.9, "test")
    assert label(store)[0] == "x"


@pytest.mark.parametrize("others", [["imported:theirs"], ["imported:theirs", "x"]])
def test_what_others_wrote_never_becomes_the_label(store: Store, others: list[str]) -> None:
    explained(store, 0, *others)
    scored(store, "imported:theirs", 0, A, "simulation", 0.99)
    scored(store, "imported:theirs", 0, A, "simulation", 0.99, "test")
    assert label(store) == (("x", None) if "x" in others else (None, None))
    scored(store, "x", 0, "rule", "simulation", 0.2)
    assert label(store) == (("x", "rule") if "x" in others else (None, None))


# ------------------------------------------------------------------ whose nulls


def test_nulls_are_those_of_the_predictor_that_the_label_was_chosen_by(store: Store) -> None:
    explained(store, 0, "x")
    for predictor, p in (("rule", 0.5), (A, 0.01)):
        scored(store, "x", 0, predictor, "simulation", 0.7)
        scored(store, "x", 0, predictor, "simulation", 0.7, "test")
        for comparison, low in (("permuted", None), ("neighbour", None), ("lexical", 0.1)):
            null(store, "x", 0, predictor, "simulation", comparison, p, low)
    label(store)
    row = "SELECT predictor, p_vs_permuted, p_vs_neighbour, lift_over_lexical, trusted FROM labels WHERE feature = 0"
    assert store.sql(row) == [(A, 0.01, 0.01, 0.5, True)]
    store.execute("DELETE FROM null_score WHERE predictor <> 'rule'")
    label(store)
    assert store.sql(row) == [(A, None, None, None, None)]
    store.execute("DELETE FROM score WHERE predictor <> 'rule'")
    label(store)
    assert store.sql(row) == [("rule", 0.5, 0.5, 0.5, False)]


def test_trust_is_about_simulation_where_it_has_nulls_and_about_detection_else(store: Store) -> None:
    explained(store, 0, "x")
    scored(store, "x", 0, A, "simulation", 0.7)
    scored(store, "x", 0, A, "detection", 0.7)
    for comparison, low in (("permuted", None), ("neighbour", None), ("lexical", 0.1)):
        null(store, "x", 0, A, "detection", comparison, 0.02, low)
        null(store, "x", 0, A, "fuzzing", comparison, 0.001, low)
    label(store)
    row = "SELECT p_vs_permuted, trusted FROM labels WHERE feature = 0"
    assert store.sql(row) == [(0.02, True)]
    for comparison, low in (("permuted", None), ("neighbour", None), ("lexical", -0.1)):
        null(store, "x", 0, A, "simulation", comparison, 0.03, low)
    label(store)
    assert store.sql(row) == [(0.03, False)]  # its lift may be nothing


def test_a_failed_reading_of_what_others_wrote_is_no_failure_of_the_feature(store: Store) -> None:
    for stage in ("score:detection:llm:a:imported:theirs", "score:detection:llm:a:nulls:imported:theirs"):
        store.execute(f"INSERT INTO failure VALUES ('d', 0, '{stage}', 'RefusedError', 'no', '', 'r', 0)")
    label(store)
    assert store.sql("SELECT status, reason FROM labels WHERE feature = 0") == [("waiting", None)]


# ------------------------------------------------------------------ the scoreboard


def board(store: Store, columns: str, where: str = "true") -> list[tuple[object, ...]]:
    return store.sql(f"SELECT {columns} FROM scoreboard WHERE {where}")


def test_shares_are_of_all_labels_with_a_value_by_predictor_and_metric(store: Store) -> None:
    for feature in range(4):
        explained(store, feature, "x")
        for predictor, value in ((A, 0.8), ("rule", 0.4)):
            scored(store, "x", feature, predictor, "simulation", value, "test")
        null(store, "x", feature, A, "simulation", "permuted", 0.01 if feature < 3 else None)
        null(store, "x", feature, A, "simulation", "neighbour", 0.01 if feature < 1 else 0.2)
        null(store, "x", feature, A, "simulation", "lexical", None, 0.1 if feature < 2 else -0.1)
        null(store, "x", feature, A, "detection", "permuted", 0.01)  # of another metric
    columns = "predictor, n, mean, null_mean, p_permuted_share, p_neighbour_share, lift_share"
    found = board(store, columns)
    assert found == [(A, 4, pytest.approx(0.8), pytest.approx(0.1), 0.75, 0.25, 0.5), ("rule", 4, pytest.approx(0.4), None, None, None, None)]  # fmt: skip


def test_controls_stand_apart_from_real_dictionaries_and_from_one_another(store: Store) -> None:
    for name, control, value in (("d", None, 0.8), ("e", None, 0.6), ("d-random", "random-dictionary", 0.1), ("d-frozen", "frozen-decoder", 0.3)):  # fmt: skip
        if name != "d":
            store.put_tables({"feature": feature_table(["waiting"] * 2, name)})
        store.execute("INSERT INTO dictionary BY NAME SELECT ? AS dictionary, ?::VARCHAR AS control", [name, control])
        scored(store, name, 0, "rule", "simulation", value, "test", name)
        scored(store, name, 1, "rule", "simulation", None, "test", name)
    store.execute("UPDATE score SET explainer = 'lexical'")
    found = board(store, "control, n, mean, mean_with_failures, coverage")
    assert found == [
        (None, 2, pytest.approx(0.7), pytest.approx(0.35), 2 / 8),
        ("frozen-decoder", 1, 0.3, 0.15, 0.5),
        ("random-dictionary", 1, 0.1, 0.05, 0.5),
    ]


def test_the_spread_of_repeats_is_that_of_means_over_labels_that_all_draws_have(store: Store) -> None:
    """Means 0.5 and 0.7 of features 0 and 1; feature 2 was not drawn again, and the draw of feature 3 failed."""
    for feature, (first, again) in enumerate([(0.4, 0.6), (0.6, 0.8), (0.1, None), (0.9, None)]):
        explained(store, feature, "x")
        scored(store, "x", feature, A, "simulation", first, "test")
        if feature != 2:
            store.put_now(RepeatScoreRow(f"x{feature}", "d", feature, "x", A, "simulation", "test", 1, again, 9, None, "r"))  # fmt: skip
    scored(store, "x", 0, A, "detection", 0.5, "test")
    found = board(store, "metric, mean, repeat_sd")
    assert found == [("detection", 0.5, None), ("simulation", 0.5, pytest.approx(0.2 / 2**0.5))]


def test_detection_is_against_near_misses_too_as_explainers_weigh_their_candidates(store: Store) -> None:
    explained(store, 0, "broad", "right")
    scored(store, "broad", 0, A, "detection", 1.0)
    scored(store, "broad", 0, A, "detection_near", 0.5)
    scored(store, "right", 0, A, "detection", 0.95)
    scored(store, "right", 0, A, "detection_near", 0.95)
    assert label(store) == ("right", A)
    explained(store, 1, "x", "y")
    scored(store, "x", 1, A, "detection", 0.9)
    scored(store, "x", 1, A, "detection_near", None)
    scored(store, "y", 1, A, "detection", 0.8)
    assert label(store, 1) == ("x", A)


def test_a_rule_that_stands_stays_and_an_escalated_feature_shows_what_was_read(store: Store) -> None:
    for feature in (0, 1, 2):
        explained(store, feature, "lexical", model=None)
        scored(store, "lexical", feature, "rule", "simulation", 0.95 if feature == 0 else 0.4)
    explained(store, 1, "cascade", "cascade:candidate")
    scored(store, "cascade", 1, A, "detection", 0.7)
    scored(store, "cascade:candidate", 1, A, "detection", 0.9)
    store.put_now(ExplanationRow("cascade2", "d", 2, "cascade", "m", None, None, True, "nothing shared", "r"))
    assert [label(store, feature)[0] for feature in (0, 1, 2)] == ["lexical", "cascade", "lexical"]
