"""A night that is killed, again and again, while others look in: the pieces of the drill, the long one and the short one.

The command that is run, the server and the run file are given. Kills come when the server has seen so many questions more, or after
some seconds, so they fall into any stage. What must come out is what a night comes to that was left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from tests.llm.server import Server

ROOT = Path(__file__).parents[2]
FAULTS = ("429", "500", "502", "cut in the middle", "no JSON", "truncated JSON", "usage null")
COMPARED = {
    "labels": "FROM labels",
    "score": "SELECT * EXCLUDE (run_id) FROM score",
    "experiment": "SELECT * EXCLUDE (run_id) FROM experiment",
    "prediction": "SELECT * EXCLUDE (sealed_at) FROM prediction",
    "null_score": "SELECT * EXCLUDE (run_id) FROM null_score",
    "last word": "SELECT dictionary, feature, stage, arg_max(status, rowid) AS status FROM stage GROUP BY ALL",
}
_LIFE = 900.0  # seconds that one life may take


def rows(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What two nights must agree in, in an order of its own."""
    with duckdb.connect(str(path), read_only=True) as connection:
        return {
            name: connection.execute(f"SELECT * FROM ({query}) ORDER BY ALL").fetchall()
            for name, query in COMPARED.items()
        }


def repeated(path: Path) -> int:
    """Questions that have more than one logged reply."""
    with duckdb.connect(str(path), read_only=True) as connection:
        found = connection.execute(
            "SELECT count(*) FROM (SELECT call_id FROM llm_call WHERE reply IS NOT NULL GROUP BY call_id HAVING count(*) > 1)"
        )
        return int(found.fetchall()[0][0])


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    """A life, in a process group of its own."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def finish(command: Sequence[str]) -> str:
    """A life that is left alone; what it said."""
    process = started(command)
    _, said = process.communicate(timeout=_LIFE)
    assert process.returncode == 0, said
    return said


def kill_after(command: Sequence[str], server: Server, questions: int, seconds: float, most: float = 120.0) -> bool:
    """Kill a life a little after so many questions, or after `most` seconds; False if it came to its end before."""
    process, before, began = started(command), len(server.seen), time.monotonic()
    while len(server.seen) < before + questions and time.monotonic() < began + most and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    ended = process.poll()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert ended in (None, 0), said
    return ended is None


@contextlib.contextmanager
def looking(path: Path, told: Path) -> Iterator[None]:
    """Another process that queries the run file all the time, and writes down what came of it: tests/night/looker.py."""
    command = [sys.executable, "-m", "tests.night.looker", str(path), str(told)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=60)
