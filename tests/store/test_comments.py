"""Every table, view and column says what it means, in the file itself; nothing is described that is not there."""

from __future__ import annotations

from pathlib import Path

import duckdb

from glossator.store.comments import COLUMNS, HERE, RELATIONS
from glossator.store.store import Store

_COLUMNS = "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
_RELATIONS = """
SELECT view_name, comment FROM duckdb_views() WHERE NOT internal
UNION ALL SELECT table_name, comment FROM duckdb_tables() WHERE NOT internal
"""


def test_a_run_file_describes_itself_to_whoever_opens_it_without_us(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    Store(path).close()
    Store(path).close()  # opening it again loses nothing
    with duckdb.connect(str(path), read_only=True) as connection:
        columns = connection.execute(_COLUMNS).fetchall()
        relations = dict(connection.execute(_RELATIONS).fetchall())
    assert not [(table, column) for table, column, comment in columns if not comment]
    assert relations == RELATIONS
    assert {c: m for t, c, m in columns if t == "labels"}["density"] == COLUMNS["density"]


def test_nothing_is_described_that_no_view_or_table_has() -> None:
    with Store(":memory:") as store:
        there = [(table, column) for table, column, _ in store.sql(_COLUMNS)]
    assert set(HERE) <= {f"{table}.{column}" for table, column in there}
    plain = {column for table, column in there if f"{table}.{column}" not in HERE}
    assert set(COLUMNS) == plain


def test_a_table_that_somebody_added_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            "CREATE TABLE schema_version (version INTEGER); CREATE TABLE my_notes (feature INTEGER, note VARCHAR)"
        )
    with Store(path) as store:
        assert store.sql("SELECT comment FROM duckdb_columns() WHERE table_name = 'my_notes'") == [(None,), (None,)]
