"""What the report sums over features: the numbers agree with the rows, and what is not there is left out or said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from glossator import rows as row_types
from glossator.agents.run import Run
from glossator.report import cards, cascade, debates, figures, plots, sections, write_report
from glossator.store.labels import materialise_labels
from tests.report import tiny
from tests.report.tiny import NAME, Page


def more_labels(run: Run, n: int) -> None:
    """Features from 6 on, each with a label whose simulation falls with its number."""
    run.store.put_tables({"feature": pa.Table.from_pylist([tiny.feature_row(i, "waiting") for i in range(6, 6 + n)])})
    rows: list[Any] = []
    for k in range(n):
        me = f"explanation-{6 + k}"
        rows.append(row_types.ExplanationRow(me, NAME, 6 + k, "lexical", None, "words", "{}", False, None, "r"))
        for split in ("select", "test"):
            rows.append(
                row_types.ScoreRow(me, NAME, 6 + k, "lexical", "rule", None, "simulation", split, 0.4 - k / 100, None, None, 9, None, "r")
            )  # fmt: skip
    run.store.put_now(*rows)
    materialise_labels(run.store)


def test_the_best_and_the_worst_are_in_order_and_no_label_is_both(run: Run) -> None:
    (few,) = sections.ranked(run)
    assert [row["feature"] for row in few["best"]] == [0] and [row["feature"] for row in few["worst"]] == [5]
    more_labels(run, 30)
    (group,) = sections.ranked(run)
    assert (group["predictor"], group["metric"], group["n"]) == ("rule", "simulation", 32)
    assert [row["feature"] for row in group["best"]] == [0, 5, *range(6, 14)]
    assert [row["feature"] for row in group["worst"]] == list(range(35, 25, -1))


def test_labels_are_ranked_by_their_own_predictor_alone(run: Run) -> None:
    run.store.execute(
        "UPDATE score SET predictor = 'llm:m', value = -1 WHERE explanation_id = 'explanation-5' AND metric = 'adversarial'"
    )
    run.store.execute(
        "UPDATE score SET predictor = 'llm:m', metric = 'detection' WHERE explanation_id = 'explanation-5' AND metric = 'simulation'"
    )
    materialise_labels(run.store)
    assert [(g["predictor"], g["metric"], g["n"]) for g in sections.ranked(run)] == [("llm:m", "detection", 1), ("rule", "simulation", 1)]  # fmt: skip
    groups = figures.score_figures(run)
    assert [(g["predictor"], [f["metric"] for f in g["figures"]]) for g in groups] == [
        ("llm:m", ["detection", "adversarial"]),
        ("rule", ["simulation", "adversarial"]),
    ]


def test_contradicted_experiments_are_counted_once_by_kind(run: Run) -> None:
    found = sections.edits(run)
    assert (found["n"], found["against"]) == (10, 8)
    assert [(row["feature"], row["p_fires"], row["fires"]) for row in found["worst"]] == [(0, 0.98, False), (5, 0.98, False)]  # fmt: skip
    run.store.execute("INSERT INTO prediction FROM prediction")
    assert sections.edits(run)["against"] == 8


def test_only_the_last_pool_of_a_label_counts(run: Run) -> None:
    rows = [row for row in tiny.labelled(0, "x", 0.75) if hasattr(row, "experiment_id")]
    for row in rows:
        old = {"experiment_id": "old-" + row.experiment_id}
        if isinstance(row, row_types.ExperimentRow):
            old["pool"] = "test:earlier"
        if isinstance(row, row_types.PredictionRow):
            old["sealed_at"] = -1.0
        run.store.put_now(replace(row, **old))
    assert run.store.sql("SELECT count(*) FROM experiment")[0][0] == 15
    assert (sections.edits(run)["n"], sections.edits(run)["against"]) == (10, 8)
    block = cards.cards(run, cards.read_features(run))[1][0]
    assert block["tested"][0] == [[4, 5]] and len(block["counterexamples"][0]) == 3


def test_spending_is_summed_by_purpose_and_an_unknown_price_is_not_zero(full: Run) -> None:
    found = sections.spending(full)
    assert (found["dollars"], found["tokens"], found["known"]) == (1.0, 630, True)
    assert str(found["picture"]).index("score") < str(found["picture"]).index("explain")  # the dearest first
    assert "$0.75, 520 tokens" in found["picture"]
    full.store.put_now(tiny.call("debate", "unpriced", None, 50))
    found = sections.spending(full)
    assert not found["known"] and found["dollars"] == 1.0
    assert "$" not in found["picture"] and "60 tokens" in found["picture"]


def test_a_run_that_asked_nobody_has_no_cost_section(run: Run, page: Path, full_page: Path) -> None:
    assert "Cost by purpose" not in Page(page).text
    text = Page(full_page).text
    assert "Cost by purpose" in text and "$1.00" in text


def test_an_unknown_price_is_said_on_the_page(full: Run, tmp_path: Path) -> None:
    full.store.execute("UPDATE llm_call SET usd = NULL")
    write_report(full, tmp_path / "x.html")
    text = Page(tmp_path / "x.html").text
    assert "no price known" in text and "$0.00" not in text


def test_failures_are_counted_by_kind_and_mended_ones_are_not_still_failed(run: Run) -> None:
    run.store.put_now(
        row_types.FailureRow(NAME, 3, "score", "RefusedError", "no", "", "r"),
        row_types.FailureRow(NAME, 5, "score", "RefusedError", "not again", "", "r"),
        row_types.StatusRow(NAME, 5, "score", "failed", None, "r"),
        row_types.StatusRow(NAME, 5, "score", "done", None, "r"),
    )
    first, second = sections.failures(run)
    assert (first["stage"], first["error"], first["rows"], first["features"], first["still"]) == ("score", "RefusedError", 2, 2, 1)  # fmt: skip
    assert first["message"] == "not again" and second["error"] == "ValueError"


def test_controls_stand_beside_the_labels_and_never_among_them(run: Run) -> None:
    assert sections.controls(run) == []
    other = NAME + "~random"
    for table in ("feature", "explanation", "score"):
        changed = "" if table == "feature" else ", explanation_id || '~' AS explanation_id"
        run.store.execute(f"INSERT INTO {table} SELECT * REPLACE ('{other}' AS dictionary{changed}) FROM {table} WHERE dictionary = '{NAME}'")  # fmt: skip
    run.store.execute("INSERT INTO dictionary SELECT * REPLACE (? AS dictionary, 'random' AS control, ? AS control_of) FROM dictionary", [other, NAME])  # fmt: skip
    run.store.execute(f"UPDATE score SET value = value / 10 WHERE dictionary = '{other}'")
    materialise_labels(run.store)
    rows = sections.controls(run)
    assert [(row["control"], row["labels"], row["simulation"]) for row in rows] == [(None, 2, 0.625), ("random", 2, 0.0625)]  # fmt: skip
    figure = figures.score_figures(run)[0]["figures"][0]
    assert [(name, n) for name, _, n in figure["key"]] == [("labels", 2), ("lookup", 2), ("null", 2), ("near", 2), ("control1", 2)]  # fmt: skip
    assert "s-control1" in figure["picture"]


def test_the_flow_has_each_node_with_its_outcomes(full: Run, full_page: Path) -> None:
    (found,) = cascade.cascade(full)
    assert (found["graph"], found["n"]) == ("cascade", 3)
    assert [(r["node"], r["outcome"], r["features"]) for r in found["rows"]][-2:] == [("gate", "kept", 1), ("gate", "sent on", 1)]  # fmt: skip
    assert "<img" not in found["picture"] and "explained 2" in found["picture"] and "sent on 1" in found["picture"]
    assert "Cascade" in Page(full_page).text


def test_chances_leave_out_what_is_the_same_as_another_and_sum_to_one(full: Run) -> None:
    found = debates.debates(full, {0: 4.0})
    (shown,) = found["shown"]
    assert found["all"] == 1 and shown["alive"] == [True, True, False, True, True]
    kind, _, text, tokens, levels, predicted, fired, *_ = shown["turns"][0]
    assert (kind, text, tokens, levels, fired) == ("swap", None, ["t"], "08", False)  # 3 of 4, in tenths
    assert predicted == [0.98, 0.02, 0.98, 0.0, 0.5]
    chances = shown["turns"][0][9]
    assert chances[2] is None and sum(x for x in chances if x) == pytest.approx(1, abs=0.002)
    assert chances[0] / chances[1] == pytest.approx(np.e, rel=0.01)
    assert shown["turns"][-1] == [None, "B", f"I won 9 of 9 {tiny.IMAGE}", ["9", tiny.IMAGE]]


def test_of_very_many_debates_the_clearest_are_shown_and_the_others_counted(
    full: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debates, "MOST", 2)
    for number, (verdict, lead) in enumerate([(None, 9.0), ("B", 5.0)], 1):
        full.store.put_now(*tiny.debate(number, verdict, lead))
    write_report(full, tmp_path / "x.html")
    seen = Page(tmp_path / "x.html")
    assert [d["lead"] for d in seen.block("transcripts")] == [5.0, 3.5]
    assert "3 debates" in seen.text and "the 2 that were decided most clearly" in seen.text


def test_values_outside_of_the_axis_are_drawn_in_its_first_bin_and_one_value_is_enough() -> None:
    picture = plots.histogram({"labels": np.asarray([-7.0]), "null": np.asarray([])}, "adversarial")
    assert "NaN" not in picture and "nan" not in picture and "s-null" not in picture
    assert "median -7.00 of 1" in picture and "chance" not in picture
    assert 'class="chance"' in plots.histogram({"labels": np.asarray([0.7])}, "detection", 0.5)
    assert "nan" not in plots.scatter([], "simulation")
    assert "nan" not in plots.scatter([plots.Dot(1e-5, -3.0, "open")], "simulation")


def test_a_bar_that_was_not_measured_has_no_bar() -> None:
    picture = plots.bars([plots.Bar("a<b", None, "no price known"), plots.Bar("c", 0.0, "$0.00")], "cost")
    assert picture.count('class="bar"') == 1 and "a&lt;b" in picture and "no price known" in picture
