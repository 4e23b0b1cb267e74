"""What is seen of a night from outside: its log, `status`, the board on a terminal, the quiet line elsewhere."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from glossator import progress
from glossator.config import read_night
from glossator.errors import Stopped, StoreError
from glossator.night.log import Log, events, log_path
from glossator.night.plan import forecast
from glossator.night.plan_shown import table
from glossator.night.status import standing_in, status_of
from glossator.night.stopping import Stopping
from glossator.night.watching import Watch
from glossator.progress import Stage, Standing, board, clock, one_line
from glossator.rows import StatusRow
from glossator.store.store import Store
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.planted_night import asks, run, written

STANDING = Standing(
    "run.duckdb", (Stage("rules", "done", 9, 9, 3.0), Stage("explain", "running", 120, 500, 60.0, 2.0, 190.0, 3, "cascade"), Stage("read")),
    1.5, 1000, 6.25, 12, 64, "07:00",
)  # fmt: skip


def text(what: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_board_shows_counts_rate_time_left_spend_failures_and_concurrency() -> None:
    shown = text(progress.drawn(STANDING))
    for said in (
        "120 of 500",
        "2.0/s",
        "left 3:10",
        "3 failed",
        "cascade",
        "$1.5000 spent",
        "$6.25 projected",
        "12 of 64 in flight",
        "until 07:00",
        "read",
    ):
        assert said in shown, said
    assert one_line(STANDING).count(
        "\n"
    ) == 0 and "explain (cascade): 120 of 500, 2.0/s, 3:10 left, 3 failed" in one_line(STANDING)
    unknown = dataclasses.replace(STANDING, usd=None, projected=None)
    assert "dollars unknown" in one_line(unknown)


def test_without_a_terminal_there_is_one_line_a_minute() -> None:
    now = [1000.0]
    console = Console(file=io.StringIO(), width=80)
    with board(console, lambda: now[0]) as show:
        for _ in range(150):
            now[0] += 1
            show(STANDING)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("\n") == 2, "and the line is not broken"


def test_times_are_written_as_people_read_them() -> None:
    assert [clock(s) for s in (None, 0.2, 59, 61, 3599, 7384)] == ["?", "0 s", "59 s", "1:01", "59:59", "2:03:04"]


def test_a_watch_stops_what_reports_to_it_and_not_what_is_done(tmp_path: Path) -> None:
    stopping = Stopping()
    watch = Watch("run", ["explain"], Log(tmp_path / "run"), lambda standing: None, lambda line: None, stopping)
    with watch.stage("explain", "d", 10):
        watch.progress("oneshot", 3, 10)
        time.sleep(0.02)
        watch.progress("oneshot", 5, 10)
        one = watch.standing().stages[0]
        assert (one.done, one.total) == (5, 10) and one.rate and one.left
        assert one.rate == pytest.approx(5 / one.left, rel=0.01)
        stopping.asked = "enough"
        watch.progress("oneshot", 10, 10)
        with pytest.raises(Stopped, match="enough"):
            watch.progress("compare", 0, 4)
    assert watch.standing().stages[0].state == "done"


def test_a_log_survives_torn_lines_and_keeps_keys_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret-of-mine-77")
    log = Log(tmp_path / "run")
    log.write("said", text="asked with secret-of-mine-77", more={"deep": ["secret-of-mine-77"]})
    with log_path(tmp_path / "run").open("a") as file:
        file.write('{"at": 1, "event": "torn')
    assert "secret-of-mine" not in log_path(tmp_path / "run").read_text()
    assert [one["event"] for one in events(tmp_path / "run")] == ["said"]


def test_status_says_where_it_stands_and_whether_it_lives(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with pytest.raises(StoreError, match="no such run file"):
        status_of(path)
    log = Log(path)
    log.write("run begun", night="night.toml")
    log.write("standing", standing=dataclasses.asdict(STANDING))
    assert standing_in(list(events(path))) == STANDING
    shown = text(status_of(path))
    assert f"running as process {os.getpid()}" in shown and "120 of 500" in shown
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    ).stdout.strip()
    lines = log_path(path).read_text().replace(f'"pid": {os.getpid()}', f'"pid": {gone}')
    log_path(path).write_text(lines)
    assert "so it was killed; run it again" in text(status_of(path))
    log.write("said", text="12 skipped\nspent now nothing")
    assert [line.strip() for line in text(status_of(path)).splitlines()][-2:] == ["12 skipped", "spent now nothing"]
    log.write("run ended", why="done")
    assert "not running: done" in text(status_of(path))


def test_status_makes_do_with_a_log_that_something_else_wrote_into(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    log = Log(path)
    log.write("run begun", night="night.toml")
    log.write("standing", standing=dataclasses.asdict(STANDING))
    odd = (
        '[1]', '3', '"x"', '{"at": "now", "event": "said"}', '{"at": 1, "event": 2}', '{"at": 1, "event": "said", "pid": "x"}', '{"at": 1, "event": "said", "begun": []}',
        '{"at": 1, "event": "standing", "standing": [1]}', '{"at": 1, "event": "standing", "standing": {"run": "x", "stages": "abc"}}',
        '{"at": 1, "event": "standing", "standing": {"run": "x", "stages": [{"name": ["a"], "done": "many", "total": 4}]}}',
        '{"at": 1, "event": "stage ended", "done": "x"}', '{"at": 1, "event": "said", "text": ["\u001b[31m"]}', "\x00\xff",
    )  # fmt: skip
    with log_path(path).open("a") as file:
        file.write("\n".join(odd) + "\n")
    assert standing_in(list(events(path))) == STANDING
    assert "120 of 500" in text(status_of(path)) and "\x1b" not in text(status_of(path))


def test_status_of_a_long_night_knows_when_it_began(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    log = Log(path)
    log.write("run begun", night="night.toml")
    log.write("standing", standing=dataclasses.asdict(STANDING))
    lines = log_path(path).read_text()
    (at, begun) = (json.loads(lines.splitlines()[0])[one] for one in ("at", "begun"))
    log_path(path).write_text(lines.replace(str(at), "1000.0").replace(str(begun), "1000.0"))
    log._begun = 1000.0
    for _ in range(400):
        log.write("said", text="x" * 1000)
    log.write("standing", standing=dataclasses.asdict(STANDING))
    assert len(list(events(path))) < 402, "its first line is not in what is read"
    assert f"begun {datetime.datetime.fromtimestamp(1000):%Y-%m-%d %H:%M}" in text(status_of(path))


def test_status_counts_rows_of_a_file_that_was_never_run(folder: Path) -> None:
    assert "explain: 0 done" in text(status_of(folder / "run.duckdb"))


def test_a_plan_counts_real_prompts_and_then_what_the_file_itself_has_seen(folder: Path) -> None:
    with serving(Server(answer=answers)) as server:
        path = written(
            folder,
            features='which = "0-11"',
            probe='by = "none"',
            explain='explainer = "oneshot"',
            score="scorers = []",
            llm=asks(server),
        )
        before = {one.stage: one for one in forecast(read_night(path)).stages}
        assert (before["explain"].features, before["explain"].calls, before["explain"].usd) == (12, 12.0, None)
        assert before["explain"].basis.startswith("prompts of a few features")
        assert not server.seen and not log_path(folder / "run.duckdb").exists(), "nothing is asked, and nothing begun"
        with Store(folder / "run.duckdb") as store:
            assert store.sql("SELECT count(*) FROM run") == [(0,)]
        run(path)
        with Store(folder / "run.duckdb") as store:
            ((calls, tokens),) = store.sql("SELECT count(*), sum(input_tokens) FROM llm_call WHERE reply IS NOT NULL")
    assert calls == 12 and before["explain"].input == pytest.approx(tokens, rel=0.5), (
        "the server counts four bytes a token, the plan three"
    )
    path = written(
        folder,
        features='which = "0-19"',
        probe='by = "none"',
        explain='explainer = "oneshot"',
        score="scorers = []",
        llm=asks(server),
    )
    after = {one.stage: one for one in forecast(read_night(path)).stages}
    assert after["explain"].basis == "this file's own averages"
    assert after["explain"].features == 8 and after["explain"].input == pytest.approx(8 * tokens / 12, rel=0.01)
    shown = text(table(forecast(read_night(path))), 150)
    assert "Cannot know: dollars" in shown and "own averages" in shown


def test_a_plan_without_a_harvest_says_what_it_takes_instead(tmp_path: Path) -> None:
    path = written(
        tmp_path, subject='model = "demo"\ndictionaries = ["demo"]', corpus='text = ["themes", "python-docs"]', explain='explainer = "best_of:4"',
        llm='writer = "openai:x@http://127.0.0.1:9/v1+batch"', limits='tokens = 1_000_000\ndeadline = "1m"',
    )  # fmt: skip
    plan = forecast(read_night(path))
    by = {one.stage: one for one in plan.stages}
    assert by["explain"].features == 2048 and by["explain"].rounds == 2 and by["explain"].seconds is None
    assert by["harvest"].seconds and by["rules"].basis.startswith("the demo")
    assert any("limits.tokens" in note for note in plan.notes) and any("deadline" in note for note in plan.notes)
    assert not (tmp_path / "run.duckdb").exists()
    assert json.dumps(plan.unknown)
    assert not any("waves" in note for note in plan.notes)
    path.write_text(path.read_text() + "[features]\nwave = 500\n")
    assert any("each of 5 waves takes these rounds" in note for note in forecast(read_night(path)).notes)


def test_a_plan_tells_what_is_read_from_what_is_compared_and_knows_offline_scores(folder: Path) -> None:
    path = written(
        folder,
        features='which = "0-11"',
        probe='by = "none"',
        score='scorers = ["detection", "embedding"]',
        llm='writer = "openai:x@http://127.0.0.1:9/v1"',
    )
    by = {one.stage: one for one in forecast(read_night(path)).stages}
    assert by["read"].calls == 24 and by["compare"].calls == pytest.approx(12 + 12, abs=1), (
        "one pair each, and the neighbour's"
    )
    assert by["embedding"].calls is None and by["embedding"].seconds


def test_those_of_the_night_that_failed_in_this_stage_are_counted(folder: Path, tmp_path: Path) -> None:
    watch = Watch("run", ["explain"], Log(tmp_path / "run"), lambda standing: None, lambda line: None, Stopping())
    with Store(folder / "run.duckdb") as store:
        said = [
            (0, "explain:x", "failed"),
            (1, "explain:x", "failed"), (1, "explain:x", "done"),  # at last
            (2, "score", "failed"),  # elsewhere
            (3, "explain:x", "failed"), (3, "explain:x:more", "failed"),  # once
            (9, "explain:x", "failed"),  # not of this night
        ]  # fmt: skip
        store.put_now(*(StatusRow("planted", feature, stage, status, None, "r") for feature, stage, status in said))
        watch.reads(store)
        with watch.stage("explain", "planted", 4, failing=(("explain:x", "explain:x:more"), range(4))):
            assert watch.look().stages[0].failed == 2
