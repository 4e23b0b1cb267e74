"""How a night stops: by its budget, its deadline, by Ctrl-C once and twice; the report is written, and the next one goes on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from glossator.errors import BudgetSpent, Stopped
from glossator.night.log import events
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.planted_night import asks, run, sql, written

ORDER = 'which = "0-5"\norder = "density desc"'


def test_a_budget_stops_the_night_the_report_is_written_and_a_larger_one_goes_on(folder: Path) -> None:
    with serving(Server(answer=answers)) as server:
        sections = {
            "top": 'report = "r.html"',
            "features": ORDER,
            "explain": 'explainer = "oneshot"',
            "score": 'scorers = ["detection"]',
        }
        with pytest.raises(BudgetSpent, match="budget"):
            run(written(folder, **sections, llm=asks(server), limits="tokens = 30_000"))
        assert (folder / "r.html").exists()
        (done,) = sql(folder, "SELECT count(reply) FROM llm_call")[0]
        assert int(str(done)) > 0
        run(written(folder, **sections, llm=asks(server), limits="tokens = 3_000_000"))
    assert sql(folder, "SELECT count(*) - count(DISTINCT call_id) FROM llm_call") == [(0,)]
    assert (
        sql(
            folder,
            "SELECT count(DISTINCT feature) FROM score WHERE metric = 'detection' AND predictor <> 'rule' AND split = 'test'",
        )[0][0]
        == 6
    )


def test_a_deadline_stops_the_night_when_what_was_in_flight_is_there(folder: Path) -> None:
    with serving(Server(answer=answers, delay=0.7)) as server:
        sections = {
            "top": 'report = "r.html"',
            "features": 'which = "0-19"',
            "probe": 'by = "none"',
            "explain": 'explainer = "oneshot"',
            "score": "scorers = []",
        }
        run(written(folder, **sections | {"explain": 'explainer = "lexical"'}))  # so that what is stopped is the asking
        began = time.monotonic()
        with pytest.raises(Stopped, match="the deadline of"):
            run(written(folder, **sections, llm=asks(server, 1), limits='deadline = "4s"'))
        assert time.monotonic() - began < 14
        (rows,) = sql(folder, "SELECT count(*), count(reply) FROM llm_call")
        assert rows[0] == rows[1] and 0 < int(str(rows[0])) < 20, "what was asked was waited for"
        assert (folder / "r.html").exists()
    assert any(one["event"] == "run ended" and "deadline" in one["why"] for one in events(folder / "run.duckdb"))


def test_ctrl_c_finishes_what_is_in_flight_and_a_second_one_does_not_wait(folder: Path) -> None:
    with serving(Server(answer=answers, delay=3.0)) as server:
        sections = {
            "features": 'which = "0-19"',
            "probe": 'by = "none"',
            "explain": 'explainer = "oneshot"',
            "score": "scorers = []",
        }
        run(written(folder, **sections | {"explain": 'explainer = "lexical"'}))
        path = written(folder, **sections, llm=asks(server))
        waiting = _pressed_when_asked(server, 1)
        with pytest.raises(Stopped, match="stopped by hand"):
            run(path)
        waiting.join()
        (rows,) = sql(folder, "SELECT count(*), count(reply) FROM llm_call")
        assert rows[0] == rows[1] and int(str(rows[0])) >= 4
        waiting = _pressed_when_asked(server, 2)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            run(path)
        assert time.monotonic() - began < 60
        waiting.join()
    assert sql(folder, "SELECT count(*) - count(DISTINCT call_id) FROM llm_call WHERE reply IS NOT NULL") == [(0,)]


def _pressed_when_asked(server: Server, times: int) -> threading.Thread:
    """Ctrl-C, so often, once the server is being asked."""

    def wait() -> None:
        until = time.monotonic() + 30
        while server.in_flight == 0 and time.monotonic() < until:
            time.sleep(0.05)
        for _ in range(times):
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread
