"""Results of queries as people want them: a table, markdown, CSV, JSON lines or Parquet; to the terminal or into a file.

Results come in batches and leave in batches: a result may be larger than the memory. A table's columns are as wide as its
first rows need, and become wider where later ones need it. What a terminal would obey is shown as an escape.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console
from rich.table import Table
from rich.text import Text

from glossator.errors import UsageError
from glossator.types import visible

FORMATS = ("table", "csv", "json", "markdown", "parquet")
_WIDEST = 90
_READABLE = 24
_FIRST = 1000  # rows that a table is measured by
_FILE_WIDTH = 150


def check(output: str, to: Path | None) -> None:
    """Raise UsageError for a format that there is not, before anything is asked."""
    if output not in FORMATS:
        raise UsageError(f"--format {output}: known are {', '.join(FORMATS)}")
    if output == "parquet" and to is None:
        raise UsageError("--format parquet: is for files; name one with --out FILE")
    if to is not None and not to.absolute().parent.is_dir():
        raise UsageError(f"--out {to}: there is no folder {to.parent}")


def render(batches: pa.RecordBatchReader, output: str, console: Console, to: Path | None = None) -> int:
    """Write a result to standard output, or whole or not at all to a file. Returns the number of rows."""
    check(output, to)
    if to is None:
        return _written(batches, output, console, sys.stdout.buffer)
    with _whole(to) as file:
        if output != "table":
            return _written(batches, output, console, file)
        with io.TextIOWrapper(file, "utf-8", write_through=True) as text:
            paper = Console(file=text, width=_FILE_WIDTH, highlight=False, emoji=False, markup=False)
            return _written(batches, output, paper, file)


@contextmanager
def _whole(to: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name until it is complete."""
    unfinished = to.with_name(to.name + ".unfinished")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(to)
    except OSError as error:
        raise UsageError(f"--out {to}: could not be written ({error.strerror or error})") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _written(batches: pa.RecordBatchReader, output: str, console: Console, file: IO[bytes]) -> int:
    names = _told_apart(batches.schema.names)
    tables = (_readable(pa.Table.from_batches([batch]), names) for batch in batches)
    if output == "table":
        return _table(tables, names, console)
    if output == "markdown":
        return _markdown(tables, names, file)
    if output == "json":
        return _json(tables, file)
    empty = _readable(batches.schema.empty_table(), names)
    if output == "csv":
        with pyarrow.csv.CSVWriter(file, _flat(empty).schema) as csv:
            return _each(tables, lambda table: csv.write_table(_flat(table)))
    with pyarrow.parquet.ParquetWriter(file, empty.schema, compression="zstd") as parquet:
        return _each(tables, parquet.write_table)


def _each(tables: Iterator[pa.Table], write: Callable[[pa.Table], object]) -> int:
    rows = 0
    for table in tables:
        write(table)
        rows += table.num_rows
    return rows


def _json(tables: Iterator[pa.Table], file: IO[bytes]) -> int:
    """One object a line."""

    def write(table: pa.Table) -> None:
        for row in table.to_pylist():
            file.write((json.dumps(row, ensure_ascii=False, default=str) + "\n").encode())

    rows = _each(tables, write)
    file.flush()
    return rows


def _markdown(tables: Iterator[pa.Table], names: list[str], file: IO[bytes]) -> int:
    def line(cells: list[str]) -> bytes:
        return ("| " + " | ".join(cells) + " |\n").encode()

    def cell(value: object) -> str:
        return (
            _cell(value, whole=True).replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
        )

    def write(table: pa.Table) -> None:
        for row in table.to_pylist():
            file.write(line([cell(value) for value in row.values()]))

    file.write(line([cell(name) for name in names]) + line(["---"] * len(names)))
    rows = _each(tables, write)
    file.flush()
    return rows


def _table(tables: Iterator[pa.Table], names: list[str], console: Console) -> int:
    """A box; one column a line where it would be wider than the terminal. A long one begins with the widths of its first rows."""
    first, more = _first(tables, names)
    if _width(first) > console.width:
        rows = _records(first, 0, console)
        for table in more:
            rows += _records(table, rows, console)
    else:
        widths = _widths(first, console.width, []) if first.num_rows >= _FIRST else None
        console.print(_box(first, widths, header=True))
        rows = first.num_rows
        for table in more:
            widths = _widths(table, console.width, widths or [])
            console.print(_box(table, widths, header=False))
            rows += table.num_rows
    console.print(f"{rows} row{'s' * (rows != 1)}", style="dim")
    return rows


def _first(tables: Iterator[pa.Table], names: list[str]) -> tuple[pa.Table, Iterator[pa.Table]]:
    """The first rows, `_FIRST` or more unless that is all, and the rest."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.num_rows for one in held) >= _FIRST:
            break
    empty = pa.table({name: pa.array([], pa.string()) for name in names})
    return pa.concat_tables(held) if held else empty, tables


def _box(table: pa.Table, widths: list[int] | None, *, header: bool) -> Table:
    shown = Table(show_edge=False, pad_edge=False, show_header=header)
    for number, name in enumerate(table.column_names):
        kind = table.schema.field(name).type
        shown.add_column(
            Text(name),
            overflow="fold",
            no_wrap=not _wide(kind),
            justify="right" if pa.types.is_floating(kind) else "left",
            width=None if widths is None else widths[number],
        )
    for row in table.to_pylist():
        shown.add_row(*(Text(_cell(value)) for value in row.values()))
    return shown


def _wide(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_nested(kind))


def _widths(table: pa.Table, room: int, before: list[int]) -> list[int]:
    """Numbers and names whole; text has the rest of the line, in equal shares. No column becomes narrower than before."""
    needed = [max(len(name), *(len(_cell(v)) for v in table[name].to_pylist())) for name in table.column_names]
    wide = [_wide(table.schema.field(name).type) for name in table.column_names]
    fixed = sum(n for n, w in zip(needed, wide, strict=True) if not w) + 3 * len(needed)
    share = max((room - fixed) // max(sum(wide), 1), _READABLE)
    found = [min(n, share) if w else n for n, w in zip(needed, wide, strict=True)]
    return [max(pair) for pair in zip(found, before, strict=True)] if before else found


def _flat(table: pa.Table) -> pa.Table:
    """A table that CSV can hold: lists as JSON."""

    def flat(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
        if not pa.types.is_nested(column.type):
            return column
        return pa.array([None if v is None else json.dumps(v, default=str) for v in column.to_pylist()], pa.string())

    return pa.table([flat(column) for column in table.columns], names=table.column_names)


def _told_apart(names: list[str]) -> list[str]:
    """Columns of one name, as a join gives them: the second is name_1, the third name_2."""
    found: list[str] = []
    for name in names:
        tried = (name, *(f"{name}_{number}" for number in range(1, len(names))))
        found.append(next(one for one in tried if one not in found))
    return found


def _readable(table: pa.Table, names: list[str]) -> pa.Table:
    """Intervals and bytes as DuckDB writes them: neither CSV nor JSON has them."""

    def readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
        kind = column.type
        if not (pa.types.is_interval(kind) or pa.types.is_duration(kind) or pa.types.is_binary(kind)):
            return column
        return duckdb.from_arrow(pa.table({"v": column})).project("CAST(v AS VARCHAR) AS v").to_arrow_table()["v"]

    return pa.table([readable(column) for column in table.columns], names=names)


def _width(table: pa.Table) -> int:
    """Characters that a row needs at the least: names and numbers whole, text at a readable width."""
    widths = []
    for name in table.column_names:
        cells = [len(_cell(value)) for value in table[name].to_pylist()]
        widths.append(max(len(name), min(max(cells, default=0), _READABLE)))
    return sum(widths) + 3 * len(widths)


def _records(table: pa.Table, before: int, console: Console) -> int:
    """A wide result, one column a line; rows are numbered on from `before`."""
    widest = max(len(name) for name in table.column_names)
    for number, row in enumerate(table.to_pylist(), before + 1):
        console.print(f"row {number}", style="bold")
        for name, value in row.items():
            console.print(Text(f"  {name:<{widest}}  {_cell(value)}"))
    return int(table.num_rows)


def _cell(value: object, *, whole: bool = False) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else visible(str(value), "\n\t")
    return text if whole or len(text) <= _WIDEST * 4 else text[: _WIDEST * 4] + "…"
