"""What is exported comes back field by field: Neuronpedia's files, JSON lines, Parquet; and only what may leave does."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from glossator.agents.run import Run
from glossator.errors import FeatureError, UsageError
from glossator.exchange import export, import_files
from glossator.exchange.neuronpedia import read_activations, read_features
from tests.exchange.conftest import HOSTILE

_EXPLANATIONS = "SELECT dictionary, feature, text, model FROM explanation WHERE "
_OWN = "text IS NOT NULL AND NOT starts_with(explainer, 'imported:') AND NOT ends_with(explainer, ':candidate') ORDER BY ALL"


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def seen(run: Run) -> list[Any]:
    """What people look at: no import may change it."""
    return [run.store.sql(f"FROM {view}") for view in ("labels", "scoreboard", "counterexamples", "coverage")]


def test_explanations_come_back_from_neuronpedias_files(labelled: Run, other: Run, tmp_path: Path) -> None:
    said = export(labelled, "neuronpedia", tmp_path / "np")
    assert "12 features, 264 activations, 13 explanations" in said
    before = seen(other)
    told = import_files(other, [tmp_path / "np"])
    assert "13 labels" in told and "rank correlation 1.00 over 12 features, the median feature's 1 times ours" in told
    assert other.store.sql(_EXPLANATIONS + "true ORDER BY ALL") == labelled.store.sql(_EXPLANATIONS + _OWN)
    names = {name for (name,) in other.store.sql("SELECT DISTINCT explainer FROM explanation")}
    assert names == {"imported:np:lexical", "imported:np:oneshot/small model"}
    assert (HOSTILE,) in other.store.sql("SELECT text FROM explanation")
    assert seen(other) == before


def test_features_of_neuronpedias_files_are_those_of_the_run(labelled: Run, tmp_path: Path) -> None:
    labelled.store.execute(
        "UPDATE feature SET top_logits = ['a', ' b'], top_logit_values = [1.5, 0.5], bottom_logits = ['c'], bottom_logit_values = [-2] WHERE feature = 3"
    )
    export(labelled, "neuronpedia", tmp_path / "np")
    rows = [row for _, row in read_features(tmp_path / "np" / "features")]
    columns = (
        "feature, density, max_activation, top_logits, top_logit_values, bottom_logits, bottom_logit_values, histogram"
    )
    stored = labelled.store.arrow(f"SELECT {columns} FROM feature ORDER BY feature").to_pylist()
    model, hook = labelled.store.sql("SELECT model, hook FROM dictionary")[0]
    assert [row.index for row in rows] == [str(one["feature"]) for one in stored]
    for row, one in zip(rows, stored, strict=True):
        assert (row.modelId, row.layer, row.hookName) == (model, labelled.dictionary, hook)
        assert row.maxActApprox == pytest.approx(one["max_activation"], rel=1e-5)
        assert row.frac_nonzero == pytest.approx(one["density"], rel=1e-5)
        assert row.pos_str == (one["top_logits"] or []) and row.neg_str == (one["bottom_logits"] or [])
        assert row.pos_values == (one["top_logit_values"] or []) and row.neg_values == (
            one["bottom_logit_values"] or []
        )
        used = np.flatnonzero(one["histogram"])
        assert row.freq_hist_data_bar_heights == one["histogram"][used[0] : used[-1] + 1]
        assert row.freq_hist_data_bar_values[0] == pytest.approx(2.0 ** (used[0] / 8 - 16), rel=1e-5)
        assert row.vector == [] and row.logits_hist_data_bar_heights == []
    assert rows[3].pos_values == [1.5, 0.5]


def test_activations_are_the_windows_of_explain_token_by_token(labelled: Run, tmp_path: Path) -> None:
    export(labelled, "neuronpedia", tmp_path / "np")
    rows = [row for _, row in read_activations(tmp_path / "np" / "activations")]
    stored = labelled.store.sql(
        "SELECT e.feature, e.activations, w.ids[w.start + 1 : w.start + 32] FROM exemplar e JOIN text_window w USING (window_id) "
        "WHERE e.split = 'explain' ORDER BY e.feature, e.stratum DESC, e.rank"
    )
    vocabulary = labelled.lexicon.vocabulary
    assert len(rows) == len(stored) == 264
    for row, (feature, activations, ids) in zip(rows, stored, strict=True):
        keep = [k for k, token in enumerate(ids) if token >= 0 and not vocabulary.special[token]]
        assert row.index == str(feature) and row.layer == labelled.dictionary
        assert "".join(row.tokens).strip() == vocabulary.join(ids)
        assert row.values == pytest.approx([activations[k] for k in keep], rel=1e-5)
        assert row.maxValue == max(row.values) == row.values[row.maxValueTokenIndex or 0]
        assert row.minValue == min(row.values) and row.dataSource == "planted" and row.binMin is None
    assert len({row.id for row in rows}) == len(rows)


def test_every_key_stands_on_every_row_and_the_same_run_gives_the_same_bytes(labelled: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(labelled, "neuronpedia", tmp_path / name)
    for kind, most in (("features", 14), ("activations", 13), ("explanations", 8)):
        rows = lines(tmp_path / "one" / kind / "batch-0.jsonl.gz")
        assert len({tuple(row) for row in rows}) == 1 and len(rows[0]) >= most
        names = [f"{name}/{kind}/batch-0.jsonl.gz" for name in ("one", "two")]
        assert (tmp_path / names[0]).read_bytes() == (tmp_path / names[1]).read_bytes()


def test_labels_and_scores_come_back_from_json_lines(labelled: Run, other: Run, tmp_path: Path) -> None:
    export(labelled, "jsonl", tmp_path / "theirs.jsonl.gz")
    rows = lines(tmp_path / "theirs.jsonl.gz")
    wanted = labelled.store.arrow("SELECT * FROM label ORDER BY feature").to_pylist()
    for row, one in zip(rows, wanted, strict=True):
        for name in ("dictionary", "feature", "label", "explainer", "model", "predictor", "status", "reason", "density", "max_activation", "threshold", "trusted"):  # fmt: skip
            assert row[name] == one[name]
        by = {score["metric"]: score["value"] for score in row["scores"] if score["predictor"] == "rule"}
        assert all(by[name] == one[name] for name in ("simulation", "detection", "adversarial"))
        nulls = {null["comparison"]: null for null in row["nulls"]}
        assert nulls["permuted"]["p_value"] == one["p_vs_permuted"]
    before = seen(other)
    told = import_files(other, [tmp_path / "theirs.jsonl.gz"])
    assert "in no view of ours" in told and seen(other) == before
    columns = "e.feature, e.text, s.metric, s.value, s.low, s.high, s.n"
    stored = f"SELECT {columns} FROM score s JOIN explanation e USING (explanation_id) WHERE "
    back = other.store.sql(stored + "s.split = 'theirs' AND s.predictor = 'theirs:rule' ORDER BY ALL")
    ours = labelled.store.sql(stored + "s.split = 'test' AND e.explainer = 'lexical' ORDER BY ALL")
    assert len(back) > 100 and back == ours
    assert other.store.sql("SELECT DISTINCT split FROM score") == [("theirs",)]


def test_a_feature_without_a_label_says_why(labelled: Run, other: Run, tmp_path: Path) -> None:
    other.store.execute("UPDATE label SET label = NULL, status = 'abstained', reason = 'no pattern' WHERE feature = 1")
    other.store.execute("UPDATE label SET density = 'nan'::DOUBLE WHERE feature = 2")
    export(other, "jsonl", tmp_path / "x.jsonl", [1, 2])
    first, second = lines(tmp_path / "x.jsonl")
    assert (first["feature"], first["label"], first["status"], first["reason"]) == (1, None, "abstained", "no pattern")
    assert first["scores"] == [] and second["density"] is None


def test_poles_have_their_signs_in_lines_and_only_the_positive_ones_are_neuronpedias(
    other: Run, tmp_path: Path
) -> None:
    other.store.execute("UPDATE dictionary SET signed = true")
    other.store.execute("UPDATE label SET label = 'words' WHERE feature IN (1, 7)")
    run = Run(other.store)
    export(run, "jsonl", tmp_path / "x.jsonl", [1, 7])
    assert [row["feature"] for row in lines(tmp_path / "x.jsonl")] == ["1+", "1-"]
    import_files(run, [tmp_path / "x.jsonl"])
    assert run.store.sql("SELECT feature FROM explanation ORDER BY ALL") == [(1,), (7,)]
    assert "6 features" in (said := export(run, "neuronpedia", tmp_path / "np")) and "6 negative poles left out" in said
    with pytest.raises(UsageError, match="none of them can be written"):
        export(run, "neuronpedia", tmp_path / "np2", [7])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["np", "x.jsonl"]


def test_every_view_is_a_parquet_file_with_all_of_its_rows(labelled: Run, other: Run, tmp_path: Path) -> None:
    export(labelled, "parquet", tmp_path / "pq")
    views = {name for (name,) in labelled.store.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal")}
    assert {path.stem for path in (tmp_path / "pq").iterdir()} == views and "labels" in views
    for name in views:
        file, table = pq.read_table(tmp_path / "pq" / f"{name}.parquet"), labelled.store.arrow(f"FROM {name}")
        assert file.schema.names == table.schema.names
        assert sorted(map(repr, file.to_pylist())) == sorted(map(repr, table.to_pylist()))
    import_files(other, [tmp_path / "pq" / "labels.parquet"], name="back")
    assert other.store.sql("SELECT feature, text FROM explanation WHERE explainer = 'imported:back' ORDER BY feature") == labelled.store.sql("SELECT feature, label FROM labels ORDER BY feature")  # fmt: skip


def test_some_features_alone_are_exported(labelled: Run, tmp_path: Path) -> None:
    said = export(labelled, "parquet", tmp_path / "pq", [3, 1])
    assert pq.read_table(tmp_path / "pq" / "labels.parquet")["feature"].to_pylist() == [1, 3]
    assert "of the whole run file" in said and "scoreboard" in said
    export(labelled, "neuronpedia", tmp_path / "np", [3, 1])
    assert [row["index"] for row in lines(tmp_path / "np" / "features" / "batch-0.jsonl.gz")] == ["1", "3"]
    with pytest.raises(FeatureError, match="feature 12"):
        export(labelled, "jsonl", tmp_path / "x.jsonl", [12])


def test_an_export_is_whole_or_not_there(labelled: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for form, out, part in (
        ("neuronpedia", tmp_path / "full", "something already"), ("parquet", tmp_path / "full" / "mine.txt", "something already"),
        ("jsonl", tmp_path / "full", "is a folder"), ("jsonl", tmp_path / "no" / "x.jsonl", "no folder"), ("excel", tmp_path / "x", "known are"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=part):
            export(labelled, form, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
