"""A run that is killed by SIGKILL and started again, and again: nothing is lost, nothing bought twice beyond what was in flight.

The server bills a token a byte, so that a question costs nearly what is reserved for it: the budget has no slack to hide in.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest

from glossator.llm.ledger import Money
from glossator.llm.prices import Price, most
from tests.llm.asking import priced, question, spec
from tests.llm.killed_run import IN_FLIGHT, MAX_TOKENS, PADDING, QUESTIONS
from tests.llm.server import WRONG_USAGE, Plan, Server, echo, serving

FAULTS = ("500", "502", "cut in the middle", "no JSON", *WRONG_USAGE)
WANTED = {str(number): number for number in range(QUESTIONS)}

AT_RISK = IN_FLIGHT + IN_FLIGHT // 4  # at the provider, and on their way to the disk


def long_echo(body: dict[str, Any]) -> str:
    """An answer that takes all the room there is."""
    return echo(body).ljust(MAX_TOKENS - 1)


def lying() -> Server:
    return Server(answer=long_echo, delay=0.15, plan=Plan(0.2, 5, FAULTS), token=1)


def dearest() -> Money:
    return most(question(QUESTIONS - 1, MAX_TOKENS, PADDING), Price(1.0, 4.0, 1.0, 1.0, 1.0))


@dataclass
class Lives:
    """The lives of one run at one server."""

    server: Server
    protocol: str
    folder: Path

    def start(self, **settings: object) -> subprocess.Popen[str]:
        """A life in a process group of its own."""
        given = json.dumps({"prices": priced(self.folder), "patience": 30} | settings)
        command = [sys.executable, "-m", "tests.llm.killed_run", str(self.run), spec(self.server, self.protocol)]
        root = Path(__file__).parents[2]
        return subprocess.Popen(
            [*command, str(self.out), given], cwd=root, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def finish(self, **settings: object) -> tuple[int, str]:
        process = self.start(**settings)
        _, said = process.communicate(timeout=120)
        return process.returncode, said

    @property
    def run(self) -> Path:
        return self.folder / "run.duckdb"

    @property
    def out(self) -> Path:
        return self.folder / "out.json"

    def rows(self) -> tuple[int, int]:
        """Rows in the log, and replies."""
        if not self.run.exists():
            return 0, 0
        with duckdb.connect(str(self.run), read_only=True) as connection:
            return connection.execute("SELECT count(*), count(reply) FROM llm_call").fetchall()[0]

    def replies(self) -> list[tuple[str, str]]:
        """What was asked, and answered, in an order of its own."""
        with duckdb.connect(str(self.run), read_only=True) as connection:
            return connection.execute(
                "SELECT request, reply FROM llm_call WHERE reply IS NOT NULL ORDER BY ALL"
            ).fetchall()

    def billed(self) -> int:
        return sum(one.tokens > 0 for one in self.server.seen)

    def kill_after(self, more: int, seconds: float, **settings: object) -> None:
        """Kill a life once it has asked so much and a little later."""
        before = len(self.server.seen)
        process = self.start(**settings)
        while len(self.server.seen) < before + more:
            assert process.poll() is None, f"it ended before it was killed: {process.communicate()[1]}"
            time.sleep(0.002)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_ten_kills_lose_nothing_buy_little_twice_and_never_pass_the_budget(tmp_path: Path) -> None:
    draw = random.Random(4)
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    with serving(lying()) as server, serving(lying()) as other:
        whole, killed = Lives(other, "openai", tmp_path / "whole"), Lives(server, "openai", tmp_path / "killed")
        assert whole.finish()[0] == 0
        budget = dearest().usd * (QUESTIONS * 1.2 + 11 * AT_RISK * 1.05)
        unlogged = 0
        for number in range(10):
            killed.kill_after(draw.randint(1, 80), draw.uniform(0, 0.1), budget_usd=budget)
            before, unlogged = unlogged, killed.billed() - killed.rows()[0]
            assert unlogged - before <= AT_RISK, f"kill {number}: more was lost than can have been in flight"
        code, said = killed.finish(budget_usd=budget)
        assert code == 0, said
        assert json.loads(killed.out.read_text()) == json.loads(whole.out.read_text()) == WANTED
        assert 0 < unlogged <= 10 * AT_RISK
        assert killed.rows()[1] == QUESTIONS, "no logged reply was asked for again"
        assert killed.replies() == whole.replies()
        assert max(usd for _, usd, _ in server.bills) <= budget
        assert killed.finish(budget_usd=budget)[0] == 0
        assert killed.billed() - killed.rows()[0] == unlogged, "a run over the whole log asks nothing"


@pytest.mark.slow
def test_a_tight_budget_holds_over_all_kills_together_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    draw = random.Random(7)
    budget = dearest().usd * 200
    with serving(lying()) as server:
        lives = Lives(server, "anthropic", tmp_path)
        for _ in range(2):
            lives.kill_after(draw.randint(40, 70), draw.uniform(0, 0.1), budget_usd=budget)
        code, said = lives.finish(budget_usd=budget)
        assert code == 3 and "the budget is spent" in said and said.count("\n") == 1, said
        assert max(usd for _, usd, _ in server.bills) <= budget
        assert server.usd > 0.3 * budget, "the budget was not kept for nothing"
        assert 0 < lives.rows()[1] < QUESTIONS
        code, said = lives.finish(budget_usd=budget * 10)
        assert code == 0, said
        assert json.loads(lives.out.read_text()) == WANTED
        assert lives.rows()[1] == QUESTIONS
