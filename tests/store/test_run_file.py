"""The file on disk: what is refused and why, and what survives a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from glossator.errors import StoreError
from glossator.store.migrations import MIGRATIONS
from glossator.store.store import Store
from tests.store.rows import explanation


@contextmanager
def another_process(script: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLD = """
import sys, time
from glossator.store.store import Store
store = Store(sys.argv[1])
print("open", flush=True)
time.sleep(60)
"""

WRITE = """
import asyncio, sys
from glossator.store.store import Store
from glossator.rows import ExplanationRow

store = Store(sys.argv[1])
written = 0

async def writer(n):
    for i in range(10 ** 6):
        number = i * 8 + n
        name = f"x{number}"
        rows = [ExplanationRow(name, "d", number, part, None, "text " * 200, None, False, None, "run") for part in "ab"]
        await store.put(*rows)
        print(name, flush=True)

async def main():
    await asyncio.gather(*(writer(n) for n in range(8)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 100, 400])
def test_a_killed_run_has_every_acknowledged_row_and_opens_again(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "run.duckdb"
    with another_process(WRITE, path) as process:
        names = {line(process) for _ in range(acknowledged)}
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        names |= {name.strip() for name in process.stdout.read().splitlines(keepends=True) if name.endswith("\n")}
    with Store(path, create=False) as store:
        found = store.sql("SELECT explanation_id, count(*), min(length(text)) FROM explanation GROUP BY ALL")
        store.put_now(explanation(-1))
    assert "" not in names
    assert names <= {name for name, _, _ in found}
    assert {(count, length) for _, count, length in found} == {(2, 1000)}  # both rows of a put or neither


# ------------------------------------------------------------------ files that are refused


def test_a_missing_file_is_not_made_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "gone.duckdb"
    with pytest.raises(StoreError, match=r"gone\.duckdb: no such run file; make one with"):
        Store(path, create=False)
    assert not path.exists()
    Store(path).close()
    assert path.exists()


def test_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"run\.duckdb: cannot be opened"):
        Store(tmp_path / "no such folder" / "run.duckdb")


@pytest.mark.parametrize("name", ["run.duckdb", "block.duckdb"])
@pytest.mark.parametrize("content", [b"", b"hi", b"some text\n" * 2000])
def test_a_file_that_is_not_of_duckdb_is_refused_and_left_alone(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{name}: is not a DuckDB file; name a run file"):
        Store(path)
    assert path.read_bytes() == content


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path)


def test_a_database_of_sqlite_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE a (b)")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match=r"other\.db: is not a DuckDB file"):
        Store(path)


@pytest.mark.parametrize("table", ["customers (id INTEGER)", "schema_version (name VARCHAR, since DATE)"])
def test_a_duckdb_file_of_another_program_is_refused_and_left_alone(tmp_path: Path, table: str) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"CREATE TABLE {table}")
    with pytest.raises(StoreError, match=r"shop\.duckdb: .*not a run of Glossator"):
        Store(path)
    with duckdb.connect(str(path)) as connection:
        assert len(connection.execute("SHOW TABLES").fetchall()) == 1


def test_a_file_of_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    Store(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute("INSERT INTO schema_version VALUES (?)", [len(MIGRATIONS) + 3])
    with pytest.raises(
        StoreError, match=rf"schema {len(MIGRATIONS) + 3}, this Glossator knows {len(MIGRATIONS)}; upgrade"
    ):
        Store(path)


def test_a_file_that_another_process_writes_is_refused_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with another_process(HOLD, path) as process:
        assert line(process) == "open"
        with pytest.raises(StoreError, match=r"run\.duckdb: another process is writing this file"):
            Store(path)
    Store(path).close()


def test_a_refused_file_is_not_kept_open(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE customers (id INTEGER)")
    with pytest.raises(StoreError):
        Store(path)
    with duckdb.connect(str(path), config={"threads": 1}) as connection:  # fails where the file is still open
        connection.execute("CREATE TABLE more (id INTEGER)")


# ------------------------------------------------------------------ migrations

PUBLIC = {
    "labels": "dictionary feature label explainer predictor model density max_activation threshold simulation simulation_within "
    "detection adversarial p_vs_permuted p_vs_neighbour lift_over_lexical trusted status reason",
    "scoreboard": "explainer predictor metric n mean mean_with_failures median low high null_mean coverage control p_permuted_share "
    "p_neighbour_share lift_share repeat_sd",
    "counterexamples": "dictionary feature label kind p_fires fires fired_share max_activation threshold text edit split predictor "
    "experiment_id explanation_id",
    "coverage": "stage done failed abstained waiting",
    "transcript": "dictionary feature debate_id number kind proposer text a b p_a p_b p_both p_overlap p_neither fired fired_share "
    "max_activation leader lead speaker statement unsupported verdict sentence predictor experiment_id",
}


def test_opening_again_keeps_rows_and_migrates_once(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    for i in range(3):
        with Store(path) as store:
            store.put_now(explanation(i))
    with Store(path) as store:
        assert store.sql("SELECT count(*) FROM explanation") == [(3,)]
        assert store.sql("SELECT version FROM schema_version ORDER BY 1") == [(i + 1,) for i in range(len(MIGRATIONS))]


@pytest.mark.parametrize("view", PUBLIC)
def test_the_public_views_keep_their_columns(view: str) -> None:
    with Store(":memory:") as store:
        assert store.arrow(f"SELECT * FROM {view}").column_names == PUBLIC[view].split()
