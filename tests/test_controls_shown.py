"""Controls are labelled, probed and scored like any dictionary, and never mixed into what is said of the real one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from glossator import pipeline
from glossator.agents.run import Run
from glossator.commands.common import each
from glossator.config import CONTROLS, ControlConfig, EditorConfig, LexicalConfig, ScoreConfig
from glossator.store.store import Store
from glossator.summary import compared, controlled, controls_table, demo_figures
from tests import mini
from tests.harness.planted_runs import small_recipe

REAL, CONTROL, IDLE = "real", "real~random-dictionary", "real~frozen-decoder"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Twenty features of a dictionary and of its control, with scores put in by hand; another control has none."""
    path = tmp_path / "run.duckdb"
    with Store(path) as store:
        for name, of in ((REAL, None), (CONTROL, REAL), (IDLE, REAL)):
            control = name.partition("~")[2] or None
            store.execute(
                "INSERT INTO dictionary BY NAME SELECT ? AS dictionary, ? AS control, ? AS control_of",
                [name, control, of],
            )
            store.execute(
                "INSERT INTO feature BY NAME SELECT ? AS dictionary, i::INT AS feature, 'waiting' AS status, 0.01 AS density, "
                "[100, 100, 100] AS active_windows, ['a'] AS top_tokens FROM range(20) t(i)", [name]
            )  # fmt: skip
        for name, low in ((REAL, 0.6), (CONTROL, 0.1)):
            store.execute(
                "INSERT INTO stage BY NAME SELECT ? AS dictionary, i::INT AS feature, 'explain' AS stage FROM range(20) t(i)",
                [name],
            )
            columns = "? AS dictionary, i::INT AS feature, ? || i AS explanation_id, 'simulation' AS metric, 'rule' AS predictor"
            for explainer, value in (("lexical", low), ("lookup-1", low - 0.05)):
                store.execute(
                    f"INSERT INTO score BY NAME SELECT {columns}, 'test' AS split, ? AS explainer, ? + i / 100 AS value FROM range(16) t(i)",
                    [name, name, explainer, value],
                )
            for comparison, value in (("permuted", 0.02), ("neighbour", 0.04)):
                store.execute(
                    f"INSERT INTO null_score BY NAME SELECT {columns}, ? AS comparison, ? AS null_mean FROM range(16) t(i)",
                    [name, name, comparison, value],
                )
            store.execute(
                "INSERT INTO label BY NAME SELECT ? AS dictionary, i::INT AS feature, 0.01 AS density, if(i < 16, 'labelled', 'abstained') AS status, "
                "CASE WHEN i < 14 THEN i < ? END AS trusted, 0.5 AS adversarial FROM range(20) t(i)", [name, 10 if name == REAL else 1]
            )  # fmt: skip
    return path


def test_the_figures_of_a_dictionary_are_those_that_it_has_alone(scored: Path) -> None:
    rows = {row["name"][2:]: row for row in compared(scored)}
    assert rows["rule, at most 12 items"]["n"] == 16
    assert rows["rule, at most 12 items"]["mean"] == pytest.approx(0.675)
    console = Console(width=180, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(demo_figures(scored))
    said = console.export_text()
    assert "features: 16 labelled, 4 abstained" in said
    assert "trusted: 10 of 14" in said
    assert "~random-dictionary" in said  # beside it, in a table of its own


def test_a_dictionary_and_its_controls_stand_side_by_side_with_intervals(scored: Path) -> None:
    rows = {(row["dictionary"], row["what"]): row for row in controlled(scored)}
    assert [name for name, what in rows if what == "rule"] == [REAL, IDLE, CONTROL]
    real, control = rows[REAL, "rule"], rows[CONTROL, "rule"]
    assert (real["n"], real["features"]) == (16, 20)  # what was abstained from is in the denominator
    assert real["mean"][0] == pytest.approx(0.675)
    assert real["mean"][1] < 0.675 < real["mean"][2]
    assert control["median"][0] == pytest.approx(0.175)
    assert (real["trusted"].value, control["trusted"].value) == (
        10 / 14,
        1 / 14,
    )  # of 20 features two have no verdict, four no label
    assert rows[CONTROL, "single-token lookup"]["mean"][0] == pytest.approx(0.125)
    assert rows[REAL, "rules of other features"]["mean"][0] == pytest.approx(0.02)
    assert rows[REAL, "rule of the nearest feature"]["mean"][0] == pytest.approx(0.04)


def test_a_control_without_scores_is_shown_without_values(scored: Path) -> None:
    row = next(row for row in controlled(scored) if row["dictionary"] == IDLE)
    assert (row["n"], row["mean"], row["trusted"]) == (0, (None, None, None), None)
    console = Console(width=180, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(controls_table(scored))
    assert "nan" not in console.export_text()


def test_label_deals_with_every_dictionary_of_a_file_alike(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, 60)
    one = {"dictionaries": recipe.subject.dictionaries[:1], "hooks": recipe.subject.hooks[:1]}
    quick = ControlConfig(tokens=2048, steps=40, rows=128, sample=1024)
    what = recipe.subject.model_copy(update=one)
    path = tmp_path / "run.duckdb"
    pipeline.harvest(path, recipe.model_copy(update={"subject": what, "controls": CONTROLS, "control": quick}))
    seen = []
    with each(path, None) as runs:
        for run in runs:
            some = run.store.sql(
                "SELECT feature FROM feature WHERE dictionary = ? ORDER BY status IN ('dead', 'rare', 'dense'), feature LIMIT 6",
                [run.dictionary],
            )
            chosen = [feature for (feature,) in some]
            pipeline.label(run, LexicalConfig(min_select=-1, min_fit=0), EditorConfig(texts=3), ScoreConfig(), chosen)
            seen.append(run.dictionary)
    assert seen == ["one", *sorted(f"one~{control}" for control in CONTROLS)]
    measured: dict[str, int] = {}
    with Store(path) as store:
        for name in seen:
            done = store.sql("SELECT stage, status FROM stage WHERE dictionary = ? GROUP BY ALL", [name])
            assert {stage for stage, _ in done} == {"explain", "probe", "score"}
            assert "failed" not in {status for _, status in done}
            ((probed,),) = store.sql(
                "SELECT count(*) FILTER (reason LIKE '% texts%') FROM stage WHERE dictionary = ? AND stage = 'probe'",
                [name],
            )
            assert store.sql("SELECT count(DISTINCT feature) FROM measurement WHERE dictionary = ?", [name]) == [
                (probed,)
            ]
            measured[name] = probed
        assert measured["one"] and sum(measured.values()) > measured["one"], measured
        controls = {c for (c,) in store.sql("SELECT DISTINCT control FROM scoreboard WHERE metric = 'simulation'")}
        assert controls == {None, *CONTROLS}
    with each(path, f"one~{CONTROLS[0]}") as runs:
        assert [run.dictionary for run in runs] == [f"one~{CONTROLS[0]}"]
    with Store(path) as store:
        assert Run(store).dictionary == "one"


def test_a_control_that_there_is_not_is_bad_usage(tmp_path: Path) -> None:
    done = mini.glossator(
        "harvest", tmp_path / "r.duckdb", "--model", "m", "--dictionary", "d", "--corpus", "c", "--control", "frozen"
    )
    assert done.returncode == 2
    assert "--control frozen: known are random-dictionary, frozen-decoder, reinitialised-subject" in done.stderr
