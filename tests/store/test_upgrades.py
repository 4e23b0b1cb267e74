"""A run file of every schema opens: a copy is kept, its rows stay, the views work. What cannot be upgraded says so."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pytest

from glossator.errors import StoreError
from glossator.store import files
from glossator.store.files import opening
from glossator.store.labels import materialise_labels
from glossator.store.migrations import MIGRATIONS
from glossator.store.query import query
from glossator.store.reading import open_for_reading, upgraded
from glossator.store.store import Store

OLD = range(1, len(MIGRATIONS))
VIEWS = ("labels", "scoreboard", "counterexamples", "coverage", "spend", "transcript", "ratings", "flow", "outcome")
ROWS = """
INSERT INTO dictionary BY NAME SELECT 'd' AS dictionary, 3 AS n_features;
INSERT INTO feature BY NAME SELECT 'd' AS dictionary, f AS feature, 'waiting' AS status, 0.5 AS density, 1.0 AS threshold FROM range(3) r(f);
INSERT INTO explanation BY NAME SELECT 'x1' AS explanation_id, 'd' AS dictionary, 1 AS feature, 'lexical' AS explainer, 'dogs' AS text, false AS abstained;
INSERT INTO score BY NAME SELECT 'x1' AS explanation_id, 'd' AS dictionary, 1 AS feature, 'lexical' AS explainer, 'rule' AS predictor,
    'simulation' AS metric, unnest(['select', 'test']) AS split, 0.5 AS value;
INSERT INTO null_score BY NAME SELECT 'x1' AS explanation_id, 'd' AS dictionary, 1 AS feature, 'simulation' AS metric, 'permuted' AS comparison, 0.01 AS p_value;
INSERT INTO stage BY NAME SELECT 'd' AS dictionary, 1 AS feature, 'explain' AS stage, 'done' AS status;
"""


def of_schema(path: Path, number: int) -> Path:
    """A run file as a Glossator of that schema left it."""
    with duckdb.connect(str(path), config={"storage_compatibility_version": "v1.2.0"}) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        for n, step in enumerate(MIGRATIONS[:number], 1):
            connection.execute(step)
            connection.execute("INSERT INTO schema_version VALUES (?)", [n])
        connection.execute(ROWS)
        if number >= 4:  # from which on nulls say whose they are
            connection.execute("UPDATE null_score SET predictor = 'rule'")
    return path


@pytest.mark.parametrize("number", OLD)
def test_a_file_of_every_schema_is_upgraded_after_a_copy_was_kept(tmp_path: Path, number: int) -> None:
    path = of_schema(tmp_path / "run.duckdb", number)
    with Store(path, create=False) as store:
        assert store.backup == tmp_path / f"run.schema-{number}.duckdb"
        assert f"upgraded to schema {len(MIGRATIONS)}; as it was: {store.backup}" in upgraded(store)
        materialise_labels(store)
        assert store.sql("SELECT feature, label, simulation, p_vs_permuted FROM labels WHERE label IS NOT NULL") == [
            (1, "dogs", 0.5, 0.01)
        ]
        for view in VIEWS:
            store.sql(f"FROM {view}")
        assert store.sql("SELECT done FROM coverage WHERE stage = 'explain'") == [(1,)]
    with open_for_reading(path) as reader:  # what views show was kept when the file was closed
        assert reader.sql("SELECT n, mean, null_mean IS NULL FROM scoreboard") == [(1, 0.5, True)]
        assert reader.sql("SELECT n, mean FROM scoreboard_row") == [(1, 0.5)]
        assert reader.sql("SELECT what FROM reckoned ORDER BY what") == [("coverage",), ("scoreboard",)]
    with duckdb.connect(str(store.backup), read_only=True) as kept:
        assert kept.execute("SELECT max(version), (SELECT count(*) FROM feature) FROM schema_version").fetchall() == [
            (number, 3)
        ]
    with Store(path) as again:
        assert again.backup is None and upgraded(again) == ""


@pytest.mark.parametrize("number", OLD)
def test_an_old_file_that_was_only_opened_to_be_read_shows_its_scoreboard(tmp_path: Path, number: int) -> None:
    path = of_schema(tmp_path / "run.duckdb", number)
    with open_for_reading(path) as reader:
        assert reader.sql("SELECT explainer, n, mean FROM scoreboard") == [("lexical", 1, 0.5)]
        assert reader.sql("SELECT stage, done FROM coverage") == [("explain", 1), ("probe", 0), ("score", 0)]
        assert reader.sql("SELECT count(*) FROM scoreboard_row") == [(1,)]


def test_a_new_file_has_no_copy(tmp_path: Path) -> None:
    with Store(tmp_path / "run.duckdb") as store:
        assert store.backup is None
    assert [p.name for p in tmp_path.iterdir()] == ["run.duckdb"]


def test_without_room_for_a_copy_nothing_is_upgraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = of_schema(tmp_path / "run.duckdb", 2)
    (tmp_path / "run.schema-2.duckdb.unfinished").mkdir()  # the copy cannot be written
    with pytest.raises(
        StoreError, match=r"run\.duckdb: of schema 2, and not upgraded, since no copy of it could be kept"
    ):
        Store(path)
    assert query(path, "SELECT max(version) AS n FROM schema_version").to_pylist() == [{"n": 2}]


def test_a_query_leaves_an_old_file_as_it_is_and_a_card_upgrades_it(tmp_path: Path) -> None:
    path = of_schema(tmp_path / "run.duckdb", 1)
    said: list[str] = []
    with open_for_reading(path, said.append, current=False) as reader:
        assert reader.schema == 1 and said == []
    with open_for_reading(path, said.append) as reader:
        assert reader.schema == len(MIGRATIONS) and "upgraded to schema" in said[0]
        assert reader.sql("SELECT name FROM feature ORDER BY feature") == [("0",), ("1",), ("2",)]


def test_where_it_may_not_be_written_an_upgraded_copy_is_read(tmp_path: Path) -> None:
    path = of_schema(tmp_path / "run.duckdb", 1)
    (tmp_path / "run.schema-1.duckdb.unfinished").mkdir()
    said: list[str] = []
    with open_for_reading(path, said.append) as reader:
        assert reader.path == str(path) and reader.schema == len(MIGRATIONS)
        assert "may not be written: read through an upgraded copy" in said[0]
        assert reader.place is not None
        place = Path(reader.place.name)
    assert not place.exists()
    assert query(path, "SELECT max(version) AS n FROM schema_version").to_pylist() == [{"n": 1}]


@pytest.mark.parametrize("message", ["Permission denied", "Read-only file system"])
def test_a_read_only_place_is_told_with_the_way_out(message: str) -> None:
    error = duckdb.IOException(f'IO Error: Cannot open file "/mnt/run.duckdb": {message}')
    assert "read-only); copy it to where you may write" in opening("/mnt/run.duckdb", error)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_file_is_refused_for_writing_and_read(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    Store(path).close()
    path.chmod(0o400)
    with pytest.raises(StoreError, match="may not be written"):
        Store(path)
    assert query(path, "SELECT 1 AS n").to_pylist() == [{"n": 1}]


def test_a_copy_is_whole_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    files.copied(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x" * 100_000
    with pytest.raises(OSError, match="could not be written"):
        files.copied(tmp_path / "none", tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]
