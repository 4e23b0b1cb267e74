"""Queries by people: read-only, without access to other files, and their results as table, CSV or JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.errors import StoreError, UsageError
from glossator.store.migrations import MIGRATIONS
from glossator.types import visible

FORMATS = ("table", "csv", "json")
_WIDEST = 90
_READABLE = 24


def query(path: Path, text: str, parameters: list[object] | None = None) -> pa.Table:
    """The result of one SELECT (or FROM ...). Raises UsageError where the SQL is wrong, StoreError where the file is."""
    if not path.exists():
        raise StoreError(f"{path}: no such run file; make one with `glossator demo` or `glossator harvest`")
    try:
        connection = duckdb.connect(
            str(path),
            read_only=True,
            config={"enable_external_access": "false", "lock_configuration": "true"},
        )
    except duckdb.Error as error:
        message = str(error)
        if "Could not set lock" in message:
            raise StoreError(f"{path}: another process is writing this file; wait for it, or query a copy") from error
        raise StoreError(f"{path}: is not a DuckDB file; name a run file of Glossator") from error
    with connection:
        _check(connection, path)
        try:
            if len(connection.extract_statements(text)) != 1:
                raise UsageError("sql: give one statement at a time")
            return connection.execute(text, parameters or []).to_arrow_table()
        except duckdb.Error as error:
            raise UsageError("sql: " + " ".join(str(error).split())[:400]) from error


def _check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    try:
        found = connection.execute("SELECT max(version) FROM schema_version").fetchall()[0][0]
    except duckdb.Error as error:
        raise StoreError(f"{path}: a DuckDB file, but not a run of Glossator") from error
    if found > len(MIGRATIONS):
        raise StoreError(
            f"{path}: written with schema {found}, this Glossator knows {len(MIGRATIONS)}; upgrade: pip install -U glossator"
        )


def search_labels(path: Path, words: str, limit: int) -> pa.Table:
    """Labels that hold every word, in any order, whatever the case."""
    wanted = words.split()
    if not wanted:
        raise UsageError('search: name at least one word, such as "golden gate bridge"')
    condition = " AND ".join(["contains(lower(label), lower(?))"] * len(wanted))
    return query(
        path,
        f"SELECT dictionary, feature, label, round(simulation, 2) AS simulation, round(adversarial, 2) AS adversarial, density, status "
        f"FROM labels WHERE {condition} ORDER BY simulation DESC NULLS LAST LIMIT ?",
        [*wanted, limit],
    )


def render(table: pa.Table, output: str, console: Console) -> None:
    """Write a result to standard output."""
    if output not in FORMATS:
        raise UsageError(f"--format {output}: known are {', '.join(FORMATS)}")
    table = pa.table([_readable(column) for column in table.columns], names=_told_apart(table.column_names))
    if output == "csv":
        flat = pa.table([_flat(column) for column in table.columns], names=table.column_names)
        pyarrow.csv.write_csv(flat, sys.stdout.buffer)
        return
    if output == "json":
        for row in table.to_pylist():
            sys.stdout.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        return
    if _width(table) > console.width:
        _records(table, console)
        return
    shown = Table(show_edge=False, pad_edge=False)
    for name in table.column_names:
        kind = table.schema.field(name).type
        wide = pa.types.is_string(kind) or pa.types.is_nested(kind)
        shown.add_column(
            Text(name), overflow="fold", no_wrap=not wide, justify="right" if pa.types.is_floating(kind) else "left"
        )
    for row in table.to_pylist():
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(shown)
    console.print(f"{table.num_rows} rows", style="dim")


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """A column that CSV can hold: lists as JSON."""
    if pa.types.is_nested(column.type):
        return pa.array([None if v is None else json.dumps(v, default=str) for v in column.to_pylist()], pa.string())
    return column


def _told_apart(names: list[str]) -> list[str]:
    """Columns of one name, as a join gives them: the second is name_1, the third name_2."""
    found: list[str] = []
    for name in names:
        tried = (name, *(f"{name}_{number}" for number in range(1, len(names))))
        found.append(next(one for one in tried if one not in found))
    return found


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Intervals and bytes as DuckDB writes them: neither CSV nor JSON has them."""
    kind = column.type
    if not (pa.types.is_interval(kind) or pa.types.is_duration(kind) or pa.types.is_binary(kind)):
        return column
    return duckdb.from_arrow(pa.table({"v": column})).project("CAST(v AS VARCHAR) AS v").to_arrow_table()["v"]


def _width(table: pa.Table) -> int:
    """Characters that a row needs at the least: names and numbers whole, text at a readable width."""
    widths = []
    for name in table.column_names:
        cells = [len(_cell(value)) for value in table[name].to_pylist()]
        widths.append(max(len(name), min(max(cells, default=0), _READABLE)))
    return sum(widths) + 3 * len(widths)


def _records(table: pa.Table, console: Console) -> None:
    """A wide result, one column a line."""
    widest = max(len(name) for name in table.column_names)
    for number, row in enumerate(table.to_pylist(), 1):
        console.print(f"row {number}", style="bold")
        for name, value in row.items():
            console.print(Text(f"  {name:<{widest}}  {_cell(value)}"))
    console.print(f"{table.num_rows} rows", style="dim")


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else visible(str(value), "\n\t")
    return text if len(text) <= _WIDEST * 4 else text[: _WIDEST * 4] + "…"
