"""What others published is stored once and whole, gives every field back, and stands beside our own numbers, not among them."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.exchange import export, import_files
from tests.exchange.conftest import HOSTILE
from tests.exchange.test_round_trips import lines, seen

TABLES = ("imported_file", "imported_feature", "imported_activation", "imported_explanation")


def feature(index: Any = "1", **more: Any) -> dict[str, Any]:
    """A row as neuronpedia.org exports it, with fields that our tables have no column for."""
    return {
        "modelId": "gpt2-small", "layer": "6-res-jb", "index": index, "sourceSetName": "res-jb", "creatorId": "c1", "createdAt": "2024-01-17T01:02:03Z",
        "maxActApprox": 9.5, "hasVector": False, "vector": [], "hookName": "blocks.6.hook_resid_pre", "topkCosSimIndices": [1, 2],
        "topkCosSimValues": [0.25, 0.125], "neg_str": [HOSTILE, "b"], "neg_values": [-1.5, -0.1], "pos_str": [" x", "\u2028"], "pos_values": [0.1, 1e-320],
        "frac_nonzero": 0.000123456789012345, "freq_hist_data_bar_heights": [3, 2, 1], "freq_hist_data_bar_values": [0.1, 0.2, 0.3],
        "logits_hist_data_bar_heights": [1], "logits_hist_data_bar_values": [-0.5], "umap_cluster": None,
    } | more  # fmt: skip


def activation(identity: Any, index: Any = "1", **more: Any) -> dict[str, Any]:
    return {
        "id": identity, "tokens": ["<b>", " Ġ", HOSTILE], "dataIndex": None, "index": index, "layer": "6-res-jb", "modelId": "gpt2-small",
        "dataSource": None, "maxValue": 7.25, "maxValueTokenIndex": 1, "minValue": 0, "values": [0, 7.25, 0.1], "dfaValues": [], "dfaTargetIndex": None,
        "lossValues": [], "logitContributions": "{}", "binMin": 6.5, "binMax": 7.5, "binContains": 0.01, "qualifyingTokenIndex": None, "creatorId": "c1",
    } | more  # fmt: skip


def explanation(identity: str, index: str, text: str | None) -> dict[str, Any]:
    return {
        "id": identity, "modelId": "gpt2-small", "layer": "6-res-jb", "index": index, "description": text, "authorId": "a1", "triggeredByUserId": None,
        "notes": None, "typeName": "oai_token-act-pair", "explanationModelName": "small", "embedding": [0.5, 0.25], "umap_x": 0,
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two batches of features, activations, and explanations, of which one feature has several."""
    folder = tmp_path / "theirs"
    write(folder / "features" / "batch-0.jsonl.gz", [feature(str(i)) for i in (3, 1)])
    write(folder / "features" / "batch-1.jsonl.gz", [feature(str(i), maxActApprox=None) for i in (2, 7)])
    write(folder / "activations" / "batch-0.jsonl.gz", [activation(f"a{i}", str(i % 3 + 1)) for i in range(9)])
    rows = [explanation("e1", "1", "years"), explanation("e2", "1", HOSTILE), explanation("e3", "2", None)]
    write(folder / "explanations" / "batch-0.jsonl.gz", rows)
    return folder


def everything(folder: Path) -> dict[str, list[list[tuple[str, Any]]]]:
    """Every field of every row in its order, by file."""
    files = sorted(folder.rglob("*.jsonl.gz"))
    return {str(file.relative_to(folder)): [list(row.items()) for row in lines(file)] for file in files}


def stored(run: Run) -> list[Any]:
    return [run.store.sql(f"SELECT * EXCLUDE (source) FROM {table} ORDER BY ALL") for table in TABLES[1:]]


def test_every_field_of_every_row_comes_out_as_it_came_in(other: Run, folder: Path, tmp_path: Path) -> None:
    before = seen(other)
    told = import_files(other, [folder])
    assert "4 features stored as published by 'theirs'" in told and "9 activations stored" in told
    assert seen(other) == before  # nothing of it is a label or a score of ours
    said = export(other, "neuronpedia", tmp_path / "again", imported="theirs")
    assert "4 features, 9 activations, 3 explanations, as 'theirs' published them" in said
    assert everything(tmp_path / "again") == everything(folder)
    first = stored(other)
    import_files(other, [tmp_path / "again"], name="twice")
    for rows, table in zip(first, TABLES[1:], strict=True):
        back = other.store.sql(f"SELECT * EXCLUDE (source) FROM {table} WHERE source = 'twice' ORDER BY ALL")
        assert len(rows) and back == rows


def test_what_no_column_can_give_back_is_kept_beside_and_absent_is_not_null(other: Run, tmp_path: Path) -> None:
    rows = [
        feature("01", frac_nonzero=2**53 + 1, vector=[2**60 + 1, 0.5]),
        feature(2, hasVector=True, maxActApprox=None, pos_str=None),
        {"modelId": "m", "layer": "6-res-jb", "index": "3", "FRAC_nonzero": 0.5},
        feature("4", umap_cluster="\ud800 half a character", neg_str=["\x00", "", "\ud83d"]),
        feature("5", **{"": {"": [None, True, 1e300]}}),
    ]
    path = write(tmp_path / "odd" / "features" / "batch-0.jsonl.gz", rows)
    import_files(other, [path])
    export(other, "neuronpedia", tmp_path / "again", imported="odd")
    back = lines(tmp_path / "again" / "features" / "batch-0.jsonl.gz")
    assert [list(row.items()) for row in back] == [list(row.items()) for row in rows]
    assert type(back[0]["frac_nonzero"]) is int and type(back[1]["index"]) is int and back[1]["hasVector"] is True
    columns = "SELECT feature, density, top_logits, max_activation FROM imported_feature WHERE feature = 3"
    assert other.store.sql(columns) == [(3, 0.5, None, None)]
    marked = other.store.sql("SELECT bottom_logits FROM imported_feature WHERE feature = 4")
    assert marked == [(["\x00", "", "\ufffd"],)]


def test_the_same_file_is_stored_once_and_a_changed_one_takes_its_place(other: Run, folder: Path) -> None:
    import_files(other, [folder])
    before = stored(other)
    assert "0 features stored" in (told := import_files(other, [folder])) and "2 of 2 files were here already" in told
    assert stored(other) == before
    write(folder / "features" / "batch-1.jsonl.gz", [feature("2", maxActApprox=1.5)])
    assert "1 features stored" in (told := import_files(other, [folder])) and "in place of 2 of earlier files" in told
    found = other.store.sql("SELECT feature, max_activation FROM imported_feature ORDER BY ALL")
    assert found == [(1, 9.5), (2, 1.5), (3, 9.5)]
    assert other.store.sql("SELECT count(*), count(DISTINCT file) FROM imported_file WHERE kind = 'features'") == [
        (2, 2)
    ]


def test_files_of_one_export_may_come_one_by_one(other: Run, folder: Path) -> None:
    import_files(other, [folder / "features" / "batch-1.jsonl.gz"])
    import_files(other, [folder / "features", folder / "activations"])
    assert other.store.sql("SELECT DISTINCT source FROM imported_file") == [("theirs",)]
    assert other.store.sql("SELECT feature FROM imported_feature ORDER BY 1") == [(1,), (2,), (3,), (7,)]


def test_sql_has_theirs_beside_ours(other: Run, folder: Path) -> None:
    import_files(other, [folder])
    columns = (
        "feature, source, their_density, their_max_activation, their_token, their_windows, their_explanations, density"
    )
    (density,) = other.store.sql("SELECT density FROM feature WHERE feature = 1")[0]
    found = other.store.sql(f"SELECT {columns} FROM published ORDER BY feature")
    assert [row[0] for row in found] == [1, 2, 3, 7]
    assert found[0] == (1, "theirs", 0.000123456789012345, 9.5, " Ġ", 3, 2, density)
    assert found[1][3] == 7.25  # of its windows, where the file of features says nothing
    assert found[3][4:7] == (None, 0, 0)
    told = other.store.sql("SELECT their_id, description FROM imported_explanation ORDER BY 1")
    assert told == [("e1", "years"), ("e2", HOSTILE), ("e3", None)]  # the second of a feature, too, and the empty one


def test_some_features_alone_are_written(other: Run, folder: Path, tmp_path: Path) -> None:
    import_files(other, [folder])
    export(other, "neuronpedia", tmp_path / "some", [3], imported="theirs")
    found = everything(tmp_path / "some")
    assert set(found) == {"features/batch-0.jsonl.gz", "activations/batch-0.jsonl.gz"}
    assert {dict(row)["index"] for rows in found.values() for row in rows} == {"3"}
    for form, features, name, part in (
        ("neuronpedia", None, "nobody", "this run has theirs"), ("neuronpedia", [5], "theirs", "holds nothing of those features"),
        ("jsonl", None, "theirs", "add --format neuronpedia"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=part):
            export(other, form, tmp_path / "x", features, imported=name)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("bad", "part"),
    [
        ([feature("2"), feature("2")], r"line 2: feature 2 is in batch-1.jsonl.gz, line 1, already"),
        ([feature("2"), feature("3")], r"line 2: feature 3 is in batch-0.jsonl.gz, line 1, already"),
        ([feature("2"), feature("12")], r"line 2: feature 12 does not exist: planted has 0 to 11"),
        ([feature("2"), feature("99999999999")], r"line 2: feature 99999999999 does not exist"),
        ([feature("2"), feature("4", layer="other")], r"line 2: source other beside 6-res-jb, and which dictionaries"),
        ([feature("2"), feature("4", frac_nonzero="much")], r"line 2: frac_nonzero: Input should be a valid number"),
        ([feature("2"), feature("4", maxActApprox=True)], r"line 2: maxActApprox: Input should be a valid number"),
        ([feature("2"), feature("4", pos_values=[float("nan")])], r"line 2: not a whole JSON object \(NaN is no JSON number"),
        ([feature("2"), feature("4") | {"INDEX": "5"}], r"line 2: names that differ in case alone"),
    ],
)  # fmt: skip
def test_one_bad_row_and_nothing_of_its_file_is_stored(
    other: Run, folder: Path, bad: list[dict[str, Any]], part: str
) -> None:
    write(folder / "features" / "batch-1.jsonl.gz", bad)
    with pytest.raises(UsageError, match=part) as error:
        import_files(other, [folder / "features"])
    said = str(error.value)
    assert "\n" not in said and "batch-1.jsonl.gz: " in said and said.endswith("; 1 files before it are stored")
    assert other.store.sql("SELECT feature FROM imported_feature ORDER BY 1") == [(1,), (3,)]
    assert other.store.sql("SELECT file, items FROM imported_file") == [("batch-0.jsonl.gz", 2)]
    write(folder / "features" / "batch-1.jsonl.gz", [feature("2")])
    import_files(other, [folder / "features"])  # mended
    assert other.store.sql("SELECT count(*) FROM imported_feature") == [(3,)]


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (gzip.compress(json.dumps(feature("2")).encode() * 50)[:-60], r"(cut off|a damaged gzip)"),
        (json.dumps(feature("2")).encode() + b"\n" + json.dumps(feature("4"))[:60].encode(), r"line 2: not a whole JSON object"),
        (b"\x1f\x8b not gzip at all", r"a damaged gzip file"),
        (b'{"modelId": "\xff"}', r"line 1: not UTF-8"),
        (b'{"index": "1", "index": "2"}', r"line 1: not a whole JSON object \(the name index twice"),
        (b"[1, 2]", r"line 1: is \[1, 2\], not an object"),
        (b"[" * 100_000, r"line 1: nested too deeply"),
        (b'{"modelId": "m", "layer": "6-res-jb", "index": "2", "extra": 1e999}', r"line 1: extra: a number that is too large"),
    ],
)  # fmt: skip
def test_files_that_are_no_whole_json_lines_are_refused(other: Run, folder: Path, data: bytes, part: str) -> None:
    (folder / "features" / "batch-1.jsonl.gz").write_bytes(data)
    with pytest.raises(UsageError, match=rf"batch-1.jsonl.gz: {part}"):
        import_files(other, [folder / "features"])
    assert other.store.sql("SELECT feature FROM imported_feature ORDER BY 1") == [(1,), (3,)]


def test_batches_of_two_dictionaries_are_told_apart_before_anything_is_stored(other: Run, folder: Path) -> None:
    write(folder / "features" / "batch-1.jsonl.gz", [feature("2", layer="7-res-jb")])
    with pytest.raises(UsageError, match=r"batch-1.jsonl.gz: line 1: source 7-res-jb beside 6-res-jb"):
        import_files(other, [folder / "features"])
    assert [other.store.sql(f"SELECT count(*) FROM {table}") for table in TABLES] == [[(0,)]] * 4


def test_a_batch_without_rows_is_one_and_an_export_without_any_is_refused(
    other: Run, folder: Path, tmp_path: Path
) -> None:
    write(folder / "activations" / "batch-0.jsonl.gz", [])
    with pytest.raises(UsageError, match="activations: holds no rows"):
        import_files(other, [folder / "activations"])
    write(folder / "activations" / "batch-1.jsonl.gz", [activation("a")])
    assert "1 activations stored" in import_files(other, [folder / "activations"])
    assert "2 of 2 files were here already" in import_files(other, [folder / "activations"])
    export(other, "neuronpedia", tmp_path / "again", imported="theirs")
    assert list(everything(tmp_path / "again")) == ["activations/batch-1.jsonl.gz"]


def test_memory_does_not_grow_with_the_file(other: Run, tmp_path: Path) -> None:
    def most(n: int) -> int:
        row = activation("x", tokens=[f" token{i}" for i in range(64)], values=[i / 7 for i in range(64)])
        path = write(tmp_path / f"{n}.jsonl", [row | {"id": f"{n}-{i}"} for i in range(n)])
        tracemalloc.start()
        import_files(other, [path])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = most(1_000), most(5_000)
    assert many < 1.5 * few
