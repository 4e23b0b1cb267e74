"""Every command through its entry point, on a real run; what it prints is checked for sense, not for bytes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests import mini
from tests.mini import glossator

pytestmark = pytest.mark.real


@pytest.fixture
def run(mini_run: Path, tmp_path: Path) -> Path:
    return mini.copy(mini_run, tmp_path)


def rows(run: Path, query: str) -> list[dict[str, object]]:
    done = glossator("sql", run, query, "--format", "json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_help_and_every_commands_help_show_an_example() -> None:
    assert "demo" in glossator("--help").stdout
    for name in ("demo", "harvest", "label", "probe", "score", "sql", "search", "show", "inspect", "report"):
        assert "Example: glossator" in glossator(name, "--help").stdout


def test_labels_have_the_columns_that_users_rely_on(run: Path) -> None:
    found = rows(run, "SELECT * FROM labels LIMIT 1")[0]
    assert list(found) == [
        "dictionary", "feature", "label", "explainer", "predictor", "model", "density", "max_activation", "threshold", "simulation",
        "simulation_within", "detection", "adversarial", "p_vs_permuted", "p_vs_neighbour", "lift_over_lexical", "trusted", "status", "reason",
    ]  # fmt: skip


def test_every_feature_is_a_row_and_labelled_ones_have_scores(run: Path) -> None:
    assert rows(run, "SELECT count(*) AS n FROM labels") == [{"n": 2048}]
    labelled = rows(run, f"SELECT * FROM labels WHERE feature < {mini.LABELLED} AND status = 'labelled'")
    assert len(labelled) > 20
    for row in labelled:
        assert row["label"] and row["predictor"] == "rule" and -1 <= float(str(row["simulation"])) <= 1
    assert all(
        row["reason"]
        for row in rows(run, "SELECT * FROM labels WHERE status IN ('abstained', 'rare', 'dead', 'dense')")
    )


def test_labels_beat_labels_of_other_features(run: Path) -> None:
    found = rows(run, "SELECT avg(s.value) AS own, avg(n.null_mean) AS null_mean FROM score s JOIN null_score n USING (explanation_id, metric) "
                      "WHERE s.split = 'test' AND s.metric = 'simulation' AND n.comparison = 'permuted'")[0]  # fmt: skip
    assert float(str(found["own"])) > 0.5
    assert abs(float(str(found["null_mean"]))) < 0.1


def test_labelling_again_changes_nothing_and_adds_no_row(run: Path) -> None:
    before = {t: rows(run, f"SELECT count(*) AS n FROM {t}") for t in ("experiment", "prediction", "measurement")}
    labels = rows(run, "SELECT feature, label, simulation, adversarial FROM labels")
    done = glossator("label", run, "--features", "0-3")
    assert done.returncode == 0, done.stderr
    assert {t: rows(run, f"SELECT count(*) AS n FROM {t}") for t in before} == before
    after = rows(run, "SELECT feature, label, simulation, adversarial FROM labels")
    assert [r["label"] for r in after] == [r["label"] for r in labels]


def test_sql_formats_agree(run: Path) -> None:
    query = "SELECT feature, label, density FROM labels WHERE label IS NOT NULL ORDER BY feature LIMIT 5"
    as_json = rows(run, query)
    as_csv = list(csv.DictReader(io.StringIO(glossator("sql", run, query, "--format", "csv").stdout)))
    assert [int(r["feature"]) for r in as_csv] == [r["feature"] for r in as_json]
    assert [r["label"] for r in as_csv] == [r["label"] for r in as_json]
    assert "5 rows" in glossator("sql", run, query).stdout


@pytest.mark.parametrize(
    "query",
    [
        "DROP TABLE feature", "DELETE FROM label", "COPY labels TO 'stolen.csv'", "SELECT * FROM read_text('/etc/hostname')",
        "ATTACH 'other.duckdb'", "SET enable_external_access = true", "INSTALL httpfs",
    ],
)  # fmt: skip
def test_sql_can_change_nothing_and_read_no_other_file(run: Path, query: str) -> None:
    done = glossator("sql", run, query)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("glossator: sql:")
    assert rows(run, "SELECT count(*) AS n FROM feature") == [{"n": 2048}]


def test_search_finds_labels_that_hold_every_word(run: Path) -> None:
    word = str(
        rows(
            run,
            "SELECT regexp_extract(label, '\"([a-z]{4,})\"', 1) AS w FROM labels WHERE label SIMILAR TO '.*\"[a-z]{4,}\".*' LIMIT 1",
        )[0]["w"]
    )
    assert word in glossator("search", run, word.upper()).stdout
    assert "0 rows" in glossator("search", run, "no-label-has-this").stdout


def test_show_prints_label_scores_windows_and_experiments(run: Path) -> None:
    feature = rows(run, "SELECT feature FROM labels WHERE simulation > 0.6 LIMIT 1")[0]["feature"]
    shown = glossator("show", run, feature).stdout
    for part in (f"feature {feature}", "simulation", "strongest windows", "vs permuted", "transplant"):
        assert part in shown


def test_inspect_names_features_that_fire_with_their_tokens(run: Path) -> None:
    done = glossator("inspect", run, "--text", "The chihuahua barked at the mailman.")
    assert done.returncode == 0, done.stderr
    assert "features fire on this text" in done.stdout and "barked" in done.stdout


def test_probe_shows_predictions_beside_outcomes(run: Path) -> None:
    feature = rows(run, "SELECT feature FROM labels WHERE simulation > 0.6 LIMIT 1")[0]["feature"]
    done = glossator("probe", run, "--feature", feature)
    assert done.returncode == 0, done.stderr
    assert "predicted before measured" in done.stdout


def test_every_prediction_was_sealed_before_its_outcome(run: Path) -> None:
    late = rows(
        run,
        "SELECT count(*) AS n FROM prediction p JOIN measurement m USING (experiment_id) WHERE p.sealed_at >= m.measured_at",
    )
    unsealed = rows(
        run, "SELECT count(*) AS n FROM measurement WHERE experiment_id NOT IN (SELECT experiment_id FROM prediction)"
    )
    assert late == unsealed == [{"n": 0}]


def test_no_feature_costs_more_texts_than_its_budget(run: Path) -> None:
    assert (
        int(str(rows(run, "SELECT max(n) AS n FROM (SELECT count(*) AS n FROM measurement GROUP BY feature)")[0]["n"]))
        <= 12
    )


def test_score_replaces_scores_and_keeps_one_for_each_metric(run: Path) -> None:
    done = glossator("score", run, "--features", "0-9")
    assert done.returncode == 0, done.stderr
    doubled = rows(run, "SELECT explanation_id FROM score GROUP BY explanation_id, metric, split HAVING count(*) > 1")
    assert doubled == []


def test_report_is_one_page_without_outside_resources(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    assert glossator("report", run, "--out", page).returncode == 0
    text = page.read_text("utf-8")
    assert "<script src" not in text and "<link" not in text and text.count("</html>") == 1
