"""Queries by people: read-only, without access to other files, whoever has the run file open."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from glossator.store.live import Say
from glossator.store.reading import Reader, open_for_reading

_COLUMNS = """
SELECT c.table_name AS name, c.column_name AS "column", c.data_type AS type, coalesce(c.comment, '') AS meaning
FROM duckdb_columns() c WHERE c.database_name = current_database() AND c.schema_name = 'main' AND NOT c.internal
ORDER BY c.table_name, c.column_index
"""
_OBJECTS = """
SELECT view_name AS name, 'view' AS kind, coalesce(comment, '') AS meaning FROM duckdb_views()
WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
UNION ALL SELECT table_name, 'table', coalesce(comment, '') FROM duckdb_tables()
WHERE database_name = current_database() AND schema_name = 'main' AND NOT internal
ORDER BY kind DESC, name
"""


def query(path: Path, text: str, parameters: list[object] | None = None, say: Say = lambda line: None) -> pa.Table:
    """The result of one SELECT (or FROM ...). Raises UsageError where the SQL is wrong, StoreError where the file is."""
    with (
        open_for_reading(path, say, live=True, current=False) as reader,
        reader.stream(text, parameters or []) as batches,
    ):
        return batches.read_all()


def schema(reader: Reader) -> list[tuple[str, str, str, list[tuple[str, str, str]]]]:
    """Every view, then every table: its name, kind and meaning, and for each column name, type and meaning."""
    columns: dict[str, list[tuple[str, str, str]]] = {}
    for name, column, kind, meaning in reader.sql(_COLUMNS):
        columns.setdefault(name, []).append((column, kind, meaning))
    return [(name, kind, meaning, columns.get(name, [])) for name, kind, meaning in reader.sql(_OBJECTS)]
