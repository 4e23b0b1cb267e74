"""What `glossator sql` gives: every format, results larger than are held, one line for what is wrong, the schema."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
from rich.console import Console

from glossator.errors import StoreError, UsageError
from glossator.store.output import render
from glossator.store.query import query, schema
from glossator.store.reading import Reader, open_for_reading
from glossator.store.store import Store

N = 12_000  # more than a batch
MANY = f"SELECT i AS n, 'text ' || i AS words, [i, NULL] AS pair FROM range({N}) r(i)"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store(tmp_path / "run.duckdb").close()
    return tmp_path / "run.duckdb"


def rendered(path: Path, text: str, form: str, to: Path | None = None, width: int = 100) -> str:
    paper = io.StringIO()
    with open_for_reading(path) as reader, reader.stream(text) as batches:
        render(batches, form, Console(file=paper, width=width), to)
    return paper.getvalue()


@pytest.mark.parametrize("form", ["table", "csv", "json", "markdown", "parquet"])
def test_long_results_are_whole_in_every_format(path: Path, tmp_path: Path, form: str) -> None:
    to = tmp_path / f"result.{form}"
    rendered(path, MANY, form, to)
    if form == "csv":
        rows = [(int(r["n"]), r["words"], json.loads(r["pair"])) for r in csv.DictReader(to.open())]
    elif form == "json":
        rows = [(r["n"], r["words"], r["pair"]) for r in map(json.loads, to.read_text().splitlines())]
    elif form == "parquet":
        rows = duckdb.execute("FROM read_parquet(?)", [str(to)]).fetchall()
    else:
        lines = to.read_text().splitlines()[2 : -1 if form == "table" else None]
        mark = "|" if form == "markdown" else "│"
        cells = [[c.strip() for c in line.strip("| ").split(mark)] for line in lines]
        rows = [(int(c[0]), c[1], [int(c[0]), None]) for c in cells if len(c) == 3]
    assert rows == [(i, f"text {i}", [i, None]) for i in range(N)]
    assert not list(tmp_path.glob("*.unfinished"))


def test_columns_of_a_long_table_stand_below_each_other(path: Path) -> None:
    lines = rendered(path, "SELECT i AS n, repeat('x', 3 + i // 900) AS x FROM range(3000) r(i)", "table").splitlines()
    assert len({line.index("│") for line in lines if "│" in line}) == 1
    assert lines[-1].strip() == "3000 rows"


def test_markdown_cells_stay_cells(path: Path) -> None:
    said = rendered(path, "SELECT 'a|b' AS a, 'c' || chr(10) || 'd' AS b, '<i>' AS c, NULL AS d", "markdown")
    assert said == "" or "|" in said
    to = path.with_suffix(".md")
    rendered(path, "SELECT 'a|b' AS a, 'c' || chr(10) || 'd' AS b, '<i>' AS c, NULL AS d", "markdown", to)
    assert to.read_text() == "| a | b | c | d |\n| --- | --- | --- | --- |\n| a\\|b | c d | &lt;i> |  |\n"


def test_parquet_is_for_files_and_a_failed_query_leaves_none(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--format parquet: .*--out FILE"):
        rendered(path, MANY, "parquet")
    with pytest.raises(UsageError, match="no folder"):
        rendered(path, MANY, "csv", tmp_path / "no" / "where.csv")
    broken = "SELECT CAST(if(i = 90000, 'x', '1') AS INTEGER) AS n FROM range(100000) r(i)"
    for form in ("csv", "parquet", "json"):
        with pytest.raises(UsageError, match=r"^sql: Conversion Error: Could not convert string 'x' .*"):
            rendered(path, broken, form, tmp_path / "result")
    assert not list(tmp_path.glob("result*"))


def test_a_result_is_not_held_in_memory(path: Path) -> None:
    script = (
        "import resource, sys; from glossator.cli import main\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "def ask(n): \n    try: main(['sql', sys.argv[1], f\"SELECT i, repeat('x', 200) AS x FROM range({n}) r(i)\", '--format', 'csv', '--out', sys.argv[2]])\n"
        "    except SystemExit: pass\n"
        "ask(1000); before = peak(); ask(2000000); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), str(path) + ".csv"], capture_output=True, text=True)
    grown = int(done.stdout.split()[-1]) // 1024
    assert Path(str(path) + ".csv").stat().st_size > 400 << 20
    assert grown < 150, f"{grown} MB more for a result of 420 MB"


def test_who_stops_reading_is_no_failure(path: Path) -> None:
    command = f"{sys.executable} -m glossator.cli sql {path} '{MANY.replace(chr(39), chr(39) + chr(92) + chr(39) + chr(39))}' --format json | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "" and json.loads(done.stdout)["n"] == 0


def test_the_schema_names_every_view_with_its_columns_and_what_they_mean(path: Path) -> None:
    with open_for_reading(path) as reader:
        found = {name: (kind, about, columns) for name, kind, about, columns in schema(reader)}
    kind, about, columns = found["labels"]
    assert kind == "view" and about
    assert ("simulation", "DOUBLE") in [(name, type_) for name, type_, _ in columns]
    assert all(meaning for _, (kind, _, columns) in found.items() if kind == "view" for _, _, meaning in columns)
    assert found["experiment"][0] == "table"


def test_readers_do_not_stand_in_each_others_way(path: Path) -> None:
    with Reader(path) as one, Reader(path) as another:
        assert one.sql("SELECT 1") == another.sql("SELECT 1")
        assert query(path, "SELECT 1 AS n").to_pylist() == [{"n": 1}]


def test_a_reader_writes_nothing(path: Path) -> None:
    before = path.read_bytes()
    with open_for_reading(path) as reader:
        with pytest.raises(StoreError, match="reading only"):
            reader.execute("DROP TABLE label")
        with pytest.raises(StoreError, match="reading only"):
            reader.checkpoint()
        with pytest.raises(duckdb.Error, match="read-only"):
            reader.sql("DROP TABLE label")
    assert path.read_bytes() == before


def test_rows_of_a_killed_run_are_there_at_once(path: Path) -> None:
    script = "import sys, os; from glossator.store.store import Store; from tests.store.rows import explanation; s = Store(sys.argv[1]); s.put_now(explanation(1)); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=Path(__file__).parent.parent.parent)
    assert Path(f"{path}.wal").exists()
    began = time.monotonic()
    assert query(path, "SELECT count(*) AS n FROM explanation").to_pylist() == [{"n": 1}]
    assert time.monotonic() - began < 3
