"""A run is queried by another process while it is written: no lock error, no torn row, nothing but SELECT."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from glossator.errors import StoreError, UsageError
from glossator.store.files import beside
from glossator.store.live import SNAPSHOT, WANT_SNAPSHOT, WRITER, serving, writer_of
from glossator.store.reading import LiveReader, open_for_reading
from glossator.store.store import Store
from tests.store.rows import explanation

QUACK = importlib.util.find_spec("duckdb_extension_quack") is not None
WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(not QUACK, reason="needs the extra `live`"), id="live"),
    pytest.param(False, id="snapshot"),
]

WRITE = """
import asyncio, os, sys, time
from glossator.rows import ExplanationRow
from glossator.store.live import serving
from glossator.store.store import Store

async def main(store):
    until, number = time.time() + float(sys.argv[2]), 0
    while time.time() < until and not os.path.exists(sys.argv[1] + ".enough"):
        rows = [ExplanationRow(f"x{number}", "d", number, part, None, "text " * 50, None, False, None, "run") for part in "ab"]
        await store.put(*rows)
        number += 1
    return number

with Store(sys.argv[1]) as store, serving(store, lambda line: print(line, flush=True), live=sys.argv[3] == "live"):
    print("open", flush=True)
    print("wrote", asyncio.run(main(store)), flush=True)
"""


@contextmanager
def writing(path: Path, seconds: float, way: str = "live") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WRITE, str(path), str(seconds), way]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.duckdb"


@pytest.mark.parametrize("live", WAYS)
def test_queries_never_meet_a_lock_nor_half_a_transaction(path: Path, live: bool) -> None:
    Store(path).close()
    counts, ways = [], set()
    with writing(path, 25, "live" if live else "none") as process:
        while process.poll() is None:
            with open_for_reading(path, live=True) as reader:
                ways.add(reader.way)
                both, odd = reader.sql(
                    "SELECT count(*), count(*) FILTER (n <> 2) FROM (SELECT count(*) AS n FROM explanation GROUP BY explanation_id)"
                )[0]
            assert odd == 0
            counts.append(both)
            if len(set(counts)) > 3:
                Path(f"{path}.enough").touch()
        assert process.stdout is not None
        wrote = int(process.stdout.read().split()[1])
    with open_for_reading(path) as reader:
        assert reader.way == "file" and reader.sql("SELECT count(*) FROM explanation") == [(2 * wrote,)]
    assert ("live" if live else "snapshot") in ways, ways
    assert counts == sorted(counts) and len(set(counts)) > 2  # it saw the run go on
    assert not beside(path).exists()


REFUSED = [
    "DROP TABLE explanation",
    "INSERT INTO schema_version VALUES (99)",
    "COPY explanation TO '{folder}/stolen.csv'",
    "SELECT * FROM read_text('/etc/hostname')",
    "FROM '{folder}/other.csv'",
    "ATTACH '{folder}/other.duckdb'",
    "SET enable_external_access = true",
    "SELECT 1; DROP TABLE explanation",
]


@pytest.mark.parametrize("live", WAYS)
def test_nothing_can_be_changed_and_no_other_file_be_read(path: Path, live: bool, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a\n1\n")
    Store(path).close()
    with writing(path, 60, "live" if live else "none"), open_for_reading(path, live=live) as reader:
        assert reader.way == ("live" if live else "snapshot")
        for query in REFUSED:
            with pytest.raises(UsageError, match=r"^sql: "), reader.stream(query.format(folder=tmp_path)) as batches:
                batches.read_all()
        with pytest.raises(StoreError, match="reading only"):
            reader.put_now(explanation(1))
    assert not (tmp_path / "stolen.csv").exists()


LIVE_ONLY = [
    "FROM quack_stop('quack:127.0.0.1:1')",
    "FROM QUACK_server_list()",
    "FROM query('FROM quack_server_list()')",
    "FROM force_checkpoint()",
    "SELECT * FROM enable_logging()",
    "PIVOT (SELECT 1 AS a) ON a USING count(*)",
    "SELECT count(*) FROM range(10000000) a, range(10000000) b",
    "SELECT count(*) FROM range(10000000) a(i) JOIN range(10000000) b(i) ON a.i + b.i = 7 OR a.i = 3",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    "SELECT 1; SELECT 2",
    "SELECT count(*) FROM (SELECT unnest(range(1000000)) FROM (SELECT unnest(range(1000000)) FROM label))",
    "SELECT (SELECT count(*) FROM generate_series(1, feature)) FROM label",
    "SELECT len(range(20000000000))",
    "SELECT length(main.repeat('x', 20000000000))",
    "SELECT length(LPAD('x', 2000000000, 'y')) + length(printf('%2000000000d', 1)) + length(format('{:>2000000000}', 'a'))",
    "SELECT 3.sleep_ms()",
    'SELECT "pg_sleep"(1e6)',
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM quack_server_list()'))",
    "SELECT " + "-".join(["feature"] * 900) + " FROM label",
]


@pytest.mark.parametrize("query", LIVE_ONLY)
def test_the_writers_own_database_takes_no_query_that_acts_or_may_never_end(query: str) -> None:
    from glossator.store.guard import Guard

    with Store(":memory:") as store:
        assert not Guard(store.cursor).allows("", query)


@pytest.mark.parametrize(
    "view", ["labels", "scoreboard", "coverage", "spend", "counterexamples", "transcript", "ratings", "flow"]
)
def test_the_views_may_be_asked_for(view: str) -> None:
    from glossator.store.guard import Guard

    with Store(":memory:") as store:
        assert Guard(store.cursor).allows("", f"FROM {view}")
        assert Guard(store.cursor).allows("", "SELECT nothing FROM labels")  # it fails by itself, and says why


@pytest.mark.skipif(not QUACK, reason="needs the extra `live`")
def test_what_the_server_will_not_do_is_done_by_a_snapshot(path: Path) -> None:
    Store(path).close()
    said: list[str] = []
    with writing(path, 60), open_for_reading(path, said.append, live=True) as reader:
        assert reader.sql("SELECT 'it''s ?', ?, ?", ["Robert'); DROP TABLE x;-- ?", None]) == [
            ("it's ?", "Robert'); DROP TABLE x;-- ?", None)
        ]
        with pytest.raises(UsageError, match=r'sql: .*"nothing" not found'):
            reader.sql("SELECT nothing FROM labels")
        assert said == []
        with reader.stream("EXPLAIN SELECT 1") as batches:
            assert batches.read_all().num_rows == 1
        assert len(said) == 1 and " s ago" in said[0]


@pytest.mark.skipif(not QUACK, reason="needs the extra `live`")
def test_the_server_needs_the_token_that_only_the_user_can_read(path: Path) -> None:
    from glossator.store.extensions import LIVE, load

    Store(path).close()
    with writing(path, 60):
        with open_for_reading(path, live=True) as reader:
            assert reader.way == "live"
        file = beside(path) / WRITER
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        found = json.loads(file.read_text())
        with duckdb.connect() as stranger:
            load(stranger, LIVE)
            with pytest.raises(duckdb.Error, match="Authentication"):
                stranger.execute(
                    f"FROM quack_query('quack:127.0.0.1:{found['port']}', 'SELECT 1', token = 'a guess')"
                ).fetchall()
        writer = writer_of(path)
        assert writer is not None
        with pytest.raises(StoreError, match="does not answer"):  # as if another run had come to that port
            LiveReader(path, replace(writer, run="another"), lambda: open_for_reading(path))


@pytest.mark.skipif(not QUACK, reason="needs the extra `live`")
def test_a_run_that_was_suspended_keeps_nobody_waiting(path: Path) -> None:
    Store(path).close()
    with writing(path, 60) as process:
        with open_for_reading(path, live=True) as reader:
            assert reader.way == "live"
        writer = writer_of(path)
        assert writer is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(StoreError, match="does not answer"):
                LiveReader(path, writer, lambda: open_for_reading(path), patience=0.5)
            assert time.monotonic() - began < 10, "what is asked cannot be stopped, and is not waited for"
        finally:
            os.kill(process.pid, signal.SIGCONT)
        with open_for_reading(path, live=True) as reader:
            assert reader.sql("SELECT 1") == [(1,)]


# ------------------------------------------------------------------ snapshots


def test_a_run_nobody_looks_at_makes_no_snapshot_and_leaves_nothing(path: Path) -> None:
    with Store(path) as store, serving(store):
        store.put_now(explanation(1))
        time.sleep(0.5)
        assert [p.name for p in beside(path).iterdir()] == [WRITER]
    assert not beside(path).exists()


def test_a_snapshot_keeps_the_lock_and_says_its_age(path: Path) -> None:
    said: list[str] = []
    with Store(path) as store, serving(store, live=False):
        store.put_now(explanation(1))
        with open_for_reading(path, said.append) as reader:
            assert reader.way == "snapshot" and reader.path == str(path)
            assert reader.sql("SELECT count(*) FROM explanation") == [(1,)]
        assert f"PID {os.getpid()}" in said[0]
        intruder = subprocess.run(
            [sys.executable, "-c", "import duckdb, sys; duckdb.connect(sys.argv[1])", str(path)],
            capture_output=True,
            text=True,
        )
        assert "Could not set lock" in intruder.stderr  # copying must not have dropped it
        store.put_now(explanation(2))
    with Store(path) as store:
        assert store.sql("SELECT count(*) FROM explanation") == [(2,)]


def test_writing_goes_on_while_the_file_is_copied(path: Path) -> None:
    with Store(path) as store, serving(store, live=False):
        with store.steady:  # as during a copy
            before = path.stat().st_mtime_ns
            for number in range(20):
                store.put_now(*(explanation(number * 2000 + i, f"{i} words " * 100) for i in range(2000)))
            assert Path(f"{path}.wal").stat().st_size > 1 << 24  # over what would be taken into the file
            assert path.stat().st_mtime_ns == before
        store.put_now(explanation(-1))
        store.put_now(explanation(-2))  # begins when the first one is over and done with
        assert Path(f"{path}.wal").stat().st_size < 1 << 20


def test_a_snapshot_is_not_made_anew_of_what_has_not_changed(path: Path) -> None:
    with Store(path) as store, serving(store, live=False):
        store.put_now(explanation(1))
        with open_for_reading(path):
            inode = (beside(path) / SNAPSHOT).stat().st_ino
        old = time.time() - 100
        os.utime(beside(path) / SNAPSHOT, (old, old))
        with open_for_reading(path):
            assert (beside(path) / SNAPSHOT).stat().st_ino == inode
            assert (beside(path) / SNAPSHOT).stat().st_mtime > old + 90


def test_a_snapshot_that_cannot_be_made_is_one_line_and_the_run_goes_on(path: Path) -> None:
    said: list[str] = []
    with Store(path) as store, serving(store, said.append, live=False):
        (beside(path) / f"{SNAPSHOT}.unfinished").mkdir()  # the copy cannot be written
        with pytest.raises(StoreError, match=r"run\.duckdb: a run is writing it .* no snapshot"):
            open_for_reading(path)
        store.put_now(explanation(1))
        assert len(said) == 1 and "no snapshot" in said[0]


def test_what_cannot_be_started_is_one_line_and_the_run_goes_on(path: Path) -> None:
    said: list[str] = []
    beside(path).write_text("in the way")
    with Store(path) as store, serving(store, said.append):
        store.put_now(explanation(1))
    assert len(said) == 1 and "cannot be queried while this runs" in said[0]


def test_what_a_killed_run_left_does_not_mislead(path: Path) -> None:
    Store(path).close()
    with writing(path, 60) as process:
        (beside(path) / WANT_SNAPSHOT).touch()
        time.sleep(0.5)
        process.kill()
        process.wait()
    assert writer_of(path) is not None
    with open_for_reading(path, live=True) as reader:
        assert reader.way == "file" and reader.sql("SELECT count(*) % 2 FROM explanation") == [(0,)]
    with Store(path) as store, serving(store):
        found = writer_of(path)
        assert found is not None and found.pid == os.getpid()


# ------------------------------------------------------------------ who else has the file


HOLD = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == 'r'); print('open', flush=True); time.sleep(float(sys.argv[3]))"


@contextmanager
def held(path: Path, how: str, seconds: float) -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_another_program_that_writes_is_named(path: Path) -> None:
    Store(path).close()
    with (
        held(path, "w", 60) as pid,
        pytest.raises(StoreError, match=rf"another process is writing this file \(PID {pid}\)"),
    ):
        open_for_reading(path, live=True)


def test_a_run_waits_until_a_query_is_over(path: Path) -> None:
    Store(path).close()
    with held(path, "r", 1.5):
        began = time.monotonic()
        with Store(path) as store:
            store.put_now(explanation(1))
        assert time.monotonic() - began < 10
