"""How a night stops: by its budget, its deadline, by Ctrl-C once and twice; the report is written, and the next one goes on."""

from __future__ import annotations

import datetime
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from glossator.config import read_night
from glossator.errors import BatchWaiting, BudgetSpent, Stopped
from glossator.night.log import events
from glossator.night.running import run_night
from glossator.night.stopping import Stopping
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.planted_night import asks, model, run, sql, written

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


def test_a_provider_that_does_not_answer_is_not_waited_for_longer_than_the_grace(folder: Path) -> None:
    sections = {
        "top": 'report = "r.html"',
        "features": 'which = "0-5"',
        "probe": 'by = "none"',
        "score": 'scorers = ["detection"]',
    }
    with serving(Server(answer=answers, delay=90.0)) as server:
        run(written(folder, **sections | {"explain": 'explainer = "lexical"', "score": "scorers = []"}))
        (folder / "r.html").unlink()
        path = written(folder, **sections, explain='explainer = "cascade"', llm=asks(server), limits='deadline = "3s"')
        began = time.monotonic()
        with pytest.raises(Stopped, match="the deadline of"):
            run_night(read_night(path), model=model(), grace=2.0)
        assert time.monotonic() - began < 25 and server.seen, "it was asked, and not waited for"
        assert (folder / "r.html").exists(), "the night ends in order all the same"
    assert sql(folder, "SELECT count(*) FROM failure") == [(0,)] and sql(
        folder, "SELECT count(reply) FROM llm_call"
    ) == [(0,)]
    told = list(events(folder / "run.duckdb"))
    assert any(one["event"] == "said" and "is let go" in one["text"] for one in told)
    assert "the deadline of" in told[-1]["why"]
    with serving(Server(answer=answers)) as server:
        run(written(folder, **sections, explain='explainer = "cascade"', llm=asks(server)))
    assert sql(folder, "SELECT count(DISTINCT feature) FROM score WHERE predictor LIKE 'llm:%' AND split = 'test'") == [
        (6,)
    ]


def test_features_in_hand_are_finished_within_the_grace_and_no_other_is_begun(folder: Path) -> None:
    sections = {"features": 'which = "0-19"', "probe": 'by = "none"', "score": "scorers = []"}
    with serving(Server(answer=answers, delay=1.2)) as server:
        run(written(folder, **sections | {"explain": 'explainer = "lexical"'}))
        path = written(
            folder, **sections, explain='explainer = "refine:1"', llm=asks(server, 2), limits='deadline = "4s"'
        )
        with pytest.raises(Stopped, match="the deadline of"):
            run_night(read_night(path), model=model(), grace=60.0)
    begun = sql(folder, "SELECT count(DISTINCT about) FROM llm_call")[0][0]
    ended = sql(
        folder,
        "SELECT count(DISTINCT feature) FROM stage WHERE stage = 'explain:refine' AND status IN ('done', 'abstained')",
    )
    assert begun == ended[0][0] and 0 < int(str(begun)) < 12


def test_the_end_of_a_night_is_not_let_go_by_a_deadline_that_is_long_past() -> None:
    stopping = Stopping(datetime.datetime.now() - datetime.timedelta(seconds=5), grace=1.0)
    with stopping.on_interrupt(lambda line: None):
        assert stopping.long_past()
        with pytest.raises(Stopped, match="the deadline of"):
            stopping.check()
        with pytest.raises(Stopped, match="the deadline of"), stopping.in_order():
            stopping.let_go()
            time.sleep(5)
        assert not stopping.long_past(), "once is enough"
    again = Stopping(datetime.datetime.now() - datetime.timedelta(seconds=5), grace=1.0)
    with again.on_interrupt(lambda line: None):
        again.ends()
        again.check()
        assert not again.long_past()
    assert not Stopping(datetime.datetime.now() - datetime.timedelta(seconds=5), 1.0).long_past(), (
        "nobody would hear it"
    )


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


def test_a_night_that_waits_for_a_batch_asks_nothing_about_labels_that_are_yet_to_come(folder: Path) -> None:
    path = written(
        folder,
        top='report = "r.html"',
        features=ORDER + "\nwave = 4",
        probe='by = "none"',
        explain='explainer = "oneshot"',
        score='scorers = ["detection"]',
        llm='writer = "files:m@asked"',
    )
    with pytest.raises(BatchWaiting):
        run(path)
    asked = [line for file in (folder / "asked").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(asked) == 4, "the first wave is to be explained; nothing is read, and the next wave waits"
    assert (folder / "r.html").exists()
    assert sql(folder, "SELECT count(*) FROM run WHERE stage = 'night:read'") == [(0,)]
