"""Two label sets on the same windows, in the store: what is compared, what is left out and said, what is written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest

from glossator.agents.others.compare_sets import compare_sets
from glossator.agents.run import Run
from glossator.config import CompareConfig, LLMConfig, LLMScoreConfig
from glossator.rows import ExplanationRow, RepeatScoreRow, ScoreRow

WHO = "llm:reader"
CONFIG = CompareConfig(draws=300)
FAILED, NOTHING = "failed", "no firing window in the split test"
NUMBERS = itertools.count()
ROWS = "SELECT * FROM set_comparison ORDER BY ALL"


def scored(
    run: Run,
    explainer: str,
    values: Mapping[int, float | str],
    config: LLMScoreConfig | None = None,
    *,
    n: int = 20,
    model: str | None = None,
    llm: LLMConfig | None = None,
) -> list[str]:
    """A set with these values on `test`; a value in words is a note that says why there is none, or that it failed."""
    ids = []
    with run.stage("score:llm", config or LLMScoreConfig(), llm or LLMConfig(concurrency=2)) as run_id:
        for feature, value in values.items():
            ids.append(f"{explainer}-{feature}-{next(NUMBERS)}")
            what = (None, None if value == FAILED else value) if isinstance(value, str) else (value, None)
            run.store.put_now(
                ExplanationRow(ids[-1], run.dictionary, feature, explainer, model, "text", None, False, None, ""),
                ScoreRow(
                    ids[-1], run.dictionary, feature, explainer, WHO, "reader", "detection", "test", what[0], None, None,
                    0 if isinstance(value, str) else n, what[1], run_id,
                ),
            )  # fmt: skip
    return ids


def compared(run: Run, sets: Sequence[str] = ("imported:b",), against: Sequence[str] = ()) -> list[str]:
    return [line.strip() for line in compare_sets(run, sets, WHO, ["detection"], against, CONFIG)]


def sets_of(*differences: float) -> tuple[dict[int, float | str], dict[int, float | str]]:
    a: dict[int, float | str] = {i: 0.5 + 0.03 * (i % 4) for i in range(len(differences))}
    return a, {i: float(a[i]) + d for i, d in enumerate(differences)}


BETTER = (0.05, 0.07, 0.05, 0.07, 0.05, 0.07, 0.05, 0.07)


def test_the_better_set_is_named_first_with_difference_interval_and_number_of_features(run: Run) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "lexical", a | {10: 0.9})
    scored(run, "imported:b", b | {11: 0.1})
    coverage, said = compared(run)
    assert coverage == "planted  of 12 features that can be scored, imported:b labels 9, lexical labels 9, both 8"
    assert said == "imported:b beats lexical by 0.06 [0.05, 0.07] on 8 features (detection by llm:reader)"
    ((dictionary, one, other, by, metric, split, n, mean_a, mean_b, value, low, high, p, run_id),) = run.store.sql(ROWS)
    assert (dictionary, one, other, by, metric, split, n) == (
        "planted",
        "lexical",
        "imported:b",
        WHO,
        "detection",
        "test",
        8,
    )
    assert mean_b - mean_a == pytest.approx(0.06) == value and low < value < high and p < 0.01
    assert run.store.sql("SELECT stage FROM run WHERE run_id = ?", [run_id]) == [("compare",)]


def test_a_set_that_is_worse_is_beaten(run: Run) -> None:
    a, b = sets_of(*(-d for d in BETTER))
    scored(run, "lexical", a)
    scored(run, "imported:b", b)
    assert compared(run)[1].startswith("lexical beats imported:b by 0.06 [0.05, 0.07] on 8 features")
    assert run.store.sql("SELECT difference < 0, high < 0, p_value > 0.99 FROM set_comparison") == [(True, True, True)]


def test_where_the_interval_holds_0_the_sets_cannot_be_told_apart(run: Run) -> None:
    a, b = sets_of(0.1, -0.1, 0.08, -0.09, 0.02, -0.01, 0.03, -0.02)
    scored(run, "lexical", a)
    scored(run, "imported:b", b)
    assert compared(run)[1].startswith("imported:b and lexical cannot be told apart: ")


def test_failures_are_left_out_counted_and_put_at_chance_level_beside(run: Run) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "lexical", a | {8: 0.9, 9: 0.9, 10: 0.9, 11: NOTHING})
    scored(run, "imported:b", b | {8: FAILED, 9: FAILED, 10: NOTHING, 11: FAILED})
    said = compared(run)[1]
    assert "by 0.06 [0.05, 0.07] on 8 features" in said and "; 3 left out because a score failed" in said
    assert (
        "with failures counted as 0.5: -0.03 [" in said and "] for imported:b on 10" in said
    )  # (8 * 0.06 - 2 * 0.4) / 10
    assert run.store.sql("SELECT n FROM set_comparison") == [(8,)]


@pytest.mark.parametrize(
    "other",
    [
        {"config": LLMScoreConfig(seed=1)},
        {"config": LLMScoreConfig(near=3)},
        {"n": 19},
        {"llm": LLMConfig(effort="high")},
    ],
)
def test_scores_on_other_windows_or_by_a_reader_that_was_asked_otherwise_are_not_compared(
    run: Run, other: dict[str, object]
) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "lexical", a)
    scored(run, "imported:b", b, **other)  # type: ignore[arg-type]
    said = compared(run)[1]
    assert said.startswith("imported:b and lexical share no feature with a value for both") and "beats" not in said
    assert said.endswith("8 left out because the two were read on other windows or with other settings")
    assert run.store.sql("SELECT n, difference, low, p_value FROM set_comparison") == [(0, None, None, None)]


def test_settings_that_decide_no_window_are_no_hindrance(run: Run) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "lexical", a, LLMScoreConfig(draws=100, max_tokens=99))
    scored(run, "imported:b", b)
    assert "on 8 features" in compared(run)[1]


def test_too_few_features_have_a_difference_without_an_interval(run: Run) -> None:
    a, b = sets_of(0.1, 0.2)
    scored(run, "lexical", a)
    scored(run, "imported:b", b)
    assert (
        compared(run)[1]
        == "imported:b and lexical: +0.15 on 2 features, too few for an interval (detection by llm:reader)"
    )
    assert run.store.sql("SELECT difference, low, p_value FROM set_comparison") == [(pytest.approx(0.15), None, None)]


def test_every_other_set_is_compared_once_and_one_alone_on_request(run: Run) -> None:
    a, b = sets_of(*BETTER)
    for name in ("typed", "lexical", "imported:a", "imported:b"):
        scored(run, name, b if name == "imported:b" else a)
    compared(run, ["imported:b", "imported:a"])
    pairs = "SELECT a, b FROM set_comparison ORDER BY ALL"
    own = [(mine, theirs) for mine in ("lexical", "typed") for theirs in ("imported:a", "imported:b")]
    assert run.store.sql(pairs) == sorted([("imported:a", "imported:b"), *own])
    assert len(compared(run, ["imported:b"], ["typed"])) == 2
    (said,) = compared(run, ["imported:b"], ["oneshot"])
    assert "oneshot has no scores by llm:reader" in said and "--every" in said


def test_scores_of_another_predictor_are_never_compared(run: Run) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "lexical", a)
    run.store.execute("UPDATE score SET predictor = 'rule'")
    scored(run, "imported:b", b)
    assert compared(run) == []


def test_an_explainer_that_asked_two_models_is_two_sets(run: Run) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "oneshot", a, model="small")
    scored(run, "oneshot", b, model="large")
    scored(run, "imported:b", a, model="x")
    scored(run, "imported:b", {9: 0.5}, model="y")  # rows of a file may name several: it stays one set
    said = compared(run)
    assert "oneshot by large beats imported:b by 0.06" in said[1]
    assert "imported:b and oneshot by small cannot be told apart" in said[3]
    assert compared(run, against=["oneshot"]) == said and compared(run, against=["oneshot by large"]) == said[:2]


def test_of_several_labels_of_one_feature_the_last_counts_unless_one_is_the_label(run: Run) -> None:
    a, b = sets_of(*BETTER)
    first = scored(run, "lexical", dict.fromkeys(range(8), 0.9))
    scored(run, "lexical", a)
    scored(run, "imported:b", b)
    assert "imported:b beats lexical by 0.06" in compared(run)[1]
    run.store.execute("UPDATE label SET explanation_id = ? WHERE feature = 0", [first[0]])
    assert run.store.sql("SELECT mean_a FROM set_comparison")[0][0] == pytest.approx(0.545)
    compared(run)
    assert run.store.sql("SELECT mean_a FROM set_comparison")[0][0] == pytest.approx(0.545 + 0.4 / 8)


def test_comparing_again_changes_no_row_and_new_scores_replace_them(run: Run) -> None:
    a, b = sets_of(*BETTER)
    scored(run, "lexical", a)
    ids = scored(run, "imported:b", b)
    compared(run)
    before = run.store.sql(ROWS), run.store.sql("FROM run ORDER BY ALL")
    compared(run)
    assert (run.store.sql(ROWS), run.store.sql("FROM run ORDER BY ALL")) == before
    run.store.execute("UPDATE score SET value = 0.99 WHERE explanation_id = ?", [ids[0]])
    compared(run)
    assert len(run.store.sql(ROWS)) == 1 and run.store.sql(ROWS) != before[0]


def test_the_spread_over_repeated_draws_stands_beside_the_difference(run: Run) -> None:
    a, b = sets_of(*BETTER)
    mine, theirs = scored(run, "lexical", a), scored(run, "imported:b", b)
    assert "standard deviation" not in compared(run)[1]
    for ids, values, name, shift in ((mine, a, "lexical", 0.0), (theirs, b, "imported:b", 0.04)):
        assert "standard deviation" not in compared(run)[1]  # one that was drawn again has nothing to be compared with
        run.store.put_now(
            *(
                RepeatScoreRow(
                    i, run.dictionary, f, name, WHO, "detection", "test", 1, float(values[f]) + shift, 20, None, ""
                )
                for i, f in list(zip(ids, values, strict=True))[:6]
            )
        )
    # mean differences 0.06 and 0.10
    assert compared(run)[1].endswith("; standard deviation over 2 draws 0.028 (of 6 features)")
