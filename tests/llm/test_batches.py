"""Batches: every question ends once, is paid for once, and nothing that is out is lost. Real SDKs, a real store, a loopback server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from glossator.config import LLMConfig
from glossator.errors import BudgetSpent, ProviderError, RejectedError, UnavailableError
from glossator.llm.base import Address, Fault, RawReply
from glossator.llm.batch import Batches
from glossator.llm.batch_rows import BatchProvider, Progress, Result, custom_id, kept_rows, parts, settle
from glossator.llm.client import Client
from glossator.llm.ledger import Ledger, Money
from glossator.llm.opening import batch_provider, open_llm
from glossator.llm.prices import Price, most
from glossator.llm.spec import parse_spec
from glossator.rows import BatchRow
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Message, Request
from tests.llm.batch_server import BatchServer

PRICES = (
    '[openai."m"]\ninput = 2.0\noutput = 10.0\nbatch = 0.5\n[anthropic."m"]\ninput = 2.0\noutput = 10.0\nbatch = 0.5\n'
)
PRICE = Price(2.0, 10.0, 2.0, 2.0, 0.5)
BOTH = pytest.mark.parametrize("protocol", ["openai", "anthropic"])


class Number(BaseModel):
    number: int


def question(number: int, words: str = "") -> Request:
    said = (Message("system", "Say the number."), Message("user", f"{words}number {number}"))
    return Request("explain", said, Number, 50, about=f"d/{number}", prompt_id="p")


def config(tmp_path: Path, **changes: Any) -> LLMConfig:
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    quick: dict[str, Any] = {
        "batch_idle": 0.05, "batch_poll": 0.02, "first_wait": 0.01, "longest_wait": 0.05, "timeout": 1.0, "attempts": 4, "prices": str(path),
    }  # fmt: skip
    return LLMConfig(**(quick | changes))


def run(spec: str, store: Store, numbers: Sequence[int], config: LLMConfig) -> list[Any]:
    """Numbers, or the errors that came instead."""

    async def ask() -> list[Any]:
        async with open_llm(spec, Replies(store, time.time()), config) as llm:
            found = await asyncio.gather(*(llm.complete(question(n)) for n in numbers), return_exceptions=True)
            return [reply if isinstance(reply, BaseException) else reply.value.number for reply in found]

    return asyncio.run(ask())


def rows(store: Store) -> list[tuple[Any, ...]]:
    """What must be the same whatever happened on the way."""
    return store.sql(
        "SELECT about, call_id, reply, input_tokens, output_tokens, usd FROM llm_call WHERE reply IS NOT NULL ORDER BY ALL"
    )


def states(store: Store) -> list[str]:
    return [
        s for (s,) in store.sql("SELECT arg_max(state, rowid) FROM llm_batch GROUP BY batch_id ORDER BY min(rowid)")
    ]


@BOTH
def test_what_is_asked_together_is_sent_together_at_the_price_of_a_batch(protocol: str, tmp_path: Path) -> None:
    with BatchServer().running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, range(40), config(tmp_path)) == [*range(40)]
        assert [len(b.requests) for b in server.batches.values()] == [40]
        assert all(len(name) <= 64 and parts(name) for name, _ in server.batches.popitem()[1].requests)
        found = store.sql(
            "SELECT count(*), sum(usd), sum(input_tokens), sum(output_tokens), count(batch_id) FROM llm_call"
        )
        count, usd, read, written, batched = found[0]
        assert (count, batched) == (40, 40) and (read, written) == tuple(map(sum, zip(*server.billed, strict=True)))
        assert usd == pytest.approx((read * 2 + written * 10) / 1e6 / 2)
        assert states(store) == ["done"]
        assert Replies(store, 0.0).spent()[0] == pytest.approx(usd)
        assert run(getattr(server, protocol), store, range(40), config(tmp_path)) == [*range(40)]
        assert len(server.bill) == sum(server.bill.values()) == 40


@BOTH
@pytest.mark.parametrize("fate", ["expired", "canceled", "overloaded", "missing"])
def test_what_was_not_answered_goes_into_the_next_batch(protocol: str, fate: str, tmp_path: Path) -> None:
    def plan(name: str, body: dict[str, Any], seen: int) -> str:
        return fate if seen == 0 and "number 3" in str(body) else "good"

    with BatchServer(fate=plan).running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, range(6), config(tmp_path)) == [*range(6)]
        assert [len(b.requests) for b in server.batches.values()] == [6, 1]
        assert set(server.bill.values()) == {1} and len(rows(store)) == 6
        assert store.sql("SELECT count(*) FROM llm_call") == [(6,)], "what was not billed is not in the log"


@BOTH
def test_a_request_that_never_succeeds_is_given_up(protocol: str, tmp_path: Path) -> None:
    plan = BatchServer(fate=lambda name, body, seen: "overloaded" if "number 1" in str(body) else "good", polls=1)
    with plan.running() as server, Store(":memory:") as store:
        good, bad = run(getattr(server, protocol), store, [0, 1], config(tmp_path))
        assert good == 0 and isinstance(bad, UnavailableError) and "4 batches" in str(bad)
        assert [len(b.requests) for b in server.batches.values()] == [2, 1, 1, 1]
        assert Replies(store, 0.0).spent()[0] == rows(store)[0][5], "no reservation is left behind"


@BOTH
def test_a_refused_request_ends_alone(protocol: str, tmp_path: Path) -> None:
    plan = BatchServer(fate=lambda name, body, seen: "invalid" if "number 1" in str(body) else "good")
    with plan.running() as server, Store(":memory:") as store:
        found = run(getattr(server, protocol), store, range(3), config(tmp_path))
        assert found[0] == 0 and found[2] == 2 and isinstance(found[1], RejectedError)


@BOTH
def test_a_model_that_there_is_not_ends_the_run_and_keeps_what_came(protocol: str, tmp_path: Path) -> None:
    plan = BatchServer(fate=lambda name, body, seen: "no model" if "number 1" in str(body) else "good")
    with plan.running() as server, Store(":memory:") as store:
        found = run(getattr(server, protocol), store, range(3), config(tmp_path))
        assert isinstance(found[1], ProviderError) and "no such model" in str(found[1])
        assert [row[0] for row in rows(store)] == ["d/0", "d/2"] and states(store) == ["done"]


@BOTH
def test_doubles_strangers_and_another_order_change_nothing(
    protocol: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = BatchServer(fate=lambda name, body, seen: "twice" if "number 2" in str(body) else "good", strange=3)
    with plan.running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, range(8), config(tmp_path)) == [*range(8)]
        assert store.sql("SELECT count(*) FROM llm_call") == [(8,)]
        assert "3 replies are to no question of it" in caplog.text and "stranger-" in caplog.text


@BOTH
@pytest.mark.parametrize("fate", ["wrong usage", "garbled", "swallowed"])
def test_a_bill_that_cannot_be_known_is_booked_at_the_most_it_can_be(protocol: str, fate: str, tmp_path: Path) -> None:
    plan = BatchServer(fate=lambda name, body, seen: fate if seen == 0 else "good")
    with plan.running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, [5], config(tmp_path)) == [5]
        bound = most(question(5), PRICE, batch=True).usd
        (first, *_) = store.sql("SELECT usd, reply IS NULL, error FROM llm_call ORDER BY rowid")
        assert first[0] == pytest.approx(bound) and first[1] == (fate != "wrong usage") and first[2]


@BOTH
@pytest.mark.parametrize("ends_as", ["expired", "cancelled"])
def test_a_batch_that_ended_early_gives_what_it_has(protocol: str, ends_as: str, tmp_path: Path) -> None:
    fate = "expired" if ends_as == "expired" else "canceled"
    plan = BatchServer(fate=lambda name, body, seen: fate if seen == 0 and int(name[0], 16) % 2 else "good")
    plan.ends_as = ends_as
    with plan.running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, range(12), config(tmp_path)) == [*range(12)]
        assert len(server.batches) == 2 and set(server.bill.values()) == {1}


def test_a_batch_that_the_provider_cannot_read_ends_the_run_with_one_line(tmp_path: Path) -> None:
    plan = BatchServer(refuse=lambda batch: ("invalid_json_line", "line 1 is no JSON"))
    with plan.running() as server, Store(":memory:") as store:
        (error,) = run(server.openai, store, [1], config(tmp_path))
        assert isinstance(error, ProviderError) and "invalid_json_line: line 1 is no JSON" in str(error)
        assert "\n" not in str(error) and states(store) == ["lost"] and Replies(store, 0.0).spent() == (0.0, 0)


def test_over_the_limit_of_waiting_tokens_it_waits_and_sends_smaller_batches(tmp_path: Path) -> None:
    def refuse(batch: Any) -> tuple[str, str] | None:
        return ("token_limit_exceeded", "too many tokens are enqueued") if len(batch.requests) > 4 else None

    with BatchServer(refuse=refuse).running() as server, Store(":memory:") as store:
        assert run(server.openai, store, range(10), config(tmp_path)) == [*range(10)]
        assert set(server.bill.values()) == {1}
        taken = [len(b.requests) for b in server.batches.values() if b.status == "completed"]
        assert sum(taken) == 10 and max(taken) <= 4


def test_over_that_limit_by_what_is_out_it_waits_for_the_end_of_that(tmp_path: Path) -> None:
    def refuse(batch: Any) -> tuple[str, str] | None:
        out = any(b.status == "in_progress" for b in server.batches.values())
        return ("token_limit_exceeded", "too many tokens are enqueued") if out else None

    async def ask(server: BatchServer, store: Store) -> None:
        async with open_llm(server.openai, Replies(store, time.time()), config(tmp_path)) as llm:
            first = asyncio.create_task(llm.complete(question(1)))
            while not server.batches:
                await asyncio.sleep(0.01)
            others = asyncio.gather(*(llm.complete(question(n)) for n in range(2, 6)))
            await asyncio.sleep(0.8)  # time enough for many attempts
            assert len(server.batches) == 2
            server.held = False
            await asyncio.gather(first, others)

    server = BatchServer(refuse=refuse, held=True)
    with server.running(), Store(":memory:") as store:
        asyncio.run(ask(server, store))
        assert [len(b.requests) for b in server.batches.values()] == [1, 4, 4] and set(server.bill.values()) == {1}


def test_over_that_limit_for_good_it_gives_up(tmp_path: Path) -> None:
    plan = BatchServer(refuse=lambda batch: ("token_limit_exceeded", "too many tokens are enqueued"))
    with plan.running() as server, Store(":memory:") as store:
        (error,) = run(server.openai, store, [1], config(tmp_path))
        assert isinstance(error, ProviderError) and len(server.batches) == 4


@BOTH
@pytest.mark.parametrize("fault", ["429", "500", "cut", "late"])
def test_a_batch_is_created_once_whatever_happens_on_the_way(protocol: str, fault: str, tmp_path: Path) -> None:
    path = "POST /v1/batches" if protocol == "openai" else "POST /v1/messages/batches"
    with BatchServer(faults={path: [fault]}).running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, range(3), config(tmp_path)) == [0, 1, 2]
        assert len(server.batches) == 1 and set(server.bill.values()) == {1}


@BOTH
def test_faults_while_waiting_and_reading_are_outlasted(protocol: str, tmp_path: Path) -> None:
    one, content = ("/v1/batches/batch_0", "/v1/files/out-batch_0/content")
    if protocol == "anthropic":
        one, content = ("/v1/messages/batches/msgbatch_0", "/v1/messages/batches/msgbatch_0/results")
    faults = {f"GET {one}": ["500", "429", "cut"], f"GET {content}": ["cut", "503", "cut"]}
    with BatchServer(faults=faults).running() as server, Store(":memory:") as store:
        assert run(getattr(server, protocol), store, range(3), config(tmp_path)) == [0, 1, 2]
        assert not any(faults.values()) and set(server.bill.values()) == {1}


@BOTH
def test_a_bad_key_ends_the_run_and_reserves_nothing(protocol: str, tmp_path: Path) -> None:
    path = "POST /v1/files" if protocol == "openai" else "POST /v1/messages/batches"
    with BatchServer(faults={path: ["401"]}).running() as server, Store(":memory:") as store:
        found = run(getattr(server, protocol), store, range(3), config(tmp_path))
        assert all(isinstance(e, ProviderError) and "does not accept the key" in str(e) for e in found)
        assert not server.batches and states(store) == ["lost"] and Replies(store, 0.0).spent() == (0.0, 0)


# --------------------------------------------------------------------------- limits and budgets


@BOTH
def test_a_batch_keeps_the_limits_on_requests_and_bytes(protocol: str, tmp_path: Path) -> None:
    with BatchServer().running() as server, Store(":memory:") as store:
        spec, settings = parse_spec(getattr(server, protocol)), config(tmp_path)
        for limits, sizes in (((4, 10**6), [4, 4, 2]), ((100, 3300), None)):
            provider = batch_provider(spec, settings)
            provider.limits = limits
            server.batches.clear()
            first = 0 if sizes else 100

            async def ask(provider: BatchProvider = provider, first: int = first) -> None:
                books = Replies(store, time.time())
                llm = Client(Batches(provider, books, Ledger(), PRICE, settings), books)
                await asyncio.gather(*(llm.complete(question(n)) for n in range(first, first + 10)))
                await llm.close()

            asyncio.run(ask())
            found = [len(b.requests) for b in server.batches.values()]
            assert found == sizes if sizes else (sum(found) == 10 and len(found) > 1)
        assert all(len(json.dumps(b.requests)) <= 3300 for b in server.batches.values())
        assert all(len(server.files[f"file-{n}"]) <= 3300 for n in range(3, len(server.files)))


@BOTH
def test_the_budget_is_never_exceeded_and_a_small_one_goes_on_batch_by_batch(protocol: str, tmp_path: Path) -> None:
    bound = most(question(10), PRICE, batch=True).usd
    with BatchServer(polls=1).running() as server, Store(":memory:") as store:
        found = run(getattr(server, protocol), store, range(10, 30), config(tmp_path, budget_usd=bound * 3.5))
        spent = sum(read * 2 + written * 10 for read, written in server.billed) / 1e6 / 2
        assert spent <= bound * 3.5
        assert len(server.batches) > 1 and len(server.batches.popitem()[1].requests) <= 3
        answered = [n for n in found if not isinstance(n, BaseException)]
        assert len(answered) > 3 and all(isinstance(n, int | BudgetSpent) for n in found)


# --------------------------------------------------------------------------- stopped and run again


def interrupted(spec: str, store: Store, numbers: Sequence[int], server: BatchServer, config: LLMConfig) -> None:
    """A run that is stopped, as Ctrl-C does, while its batch is out."""

    async def ask() -> None:
        async with open_llm(spec, Replies(store, time.time()), config) as llm:
            asking = asyncio.gather(*(llm.complete(question(n)) for n in numbers))
            while not server.batches:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            asking.cancel()
            await asking

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ask())


@BOTH
def test_an_interrupted_run_leaves_its_batch_to_the_next_one(protocol: str, tmp_path: Path) -> None:
    with BatchServer(held=True).running() as server, Store(":memory:") as store:
        spec, settings = getattr(server, protocol), config(tmp_path)
        interrupted(spec, store, range(5), server, settings)
        bound = sum(most(question(n), PRICE, batch=True).usd for n in range(5))
        assert states(store) == ["sent"] and Replies(store, 0.0).spent()[0] == pytest.approx(bound)
        server.held = False
        tight = config(tmp_path, budget_usd=bound * 1.01)  # has room for the batch once, not twice
        assert run(spec, store, range(3, 7), tight) == [3, 4, 5, 6]
        assert set(server.bill.values()) == {1} and len(server.bill) == 7
        assert [len(b.requests) for b in server.batches.values()] == [5, 2]
        assert len(rows(store)) == 7, "also what this run did not ask for"
        assert states(store) == ["done", "done"]
        assert Replies(store, 0.0).spent()[0] == pytest.approx(sum(row[5] for row in rows(store)))


@BOTH
def test_a_run_that_asks_nothing_still_logs_what_was_left(protocol: str, tmp_path: Path) -> None:
    with BatchServer(held=True).running() as server, Store(":memory:") as store:
        spec, settings = getattr(server, protocol), config(tmp_path)
        interrupted(spec, store, range(5), server, settings)
        server.held, server.polls = False, 1
        assert run(spec, store, [], settings) == []
        assert len(rows(store)) == 5 and states(store) == ["done"]


@BOTH
def test_a_batch_that_is_not_there_is_never_sent_again_while_it_may_be(protocol: str, tmp_path: Path) -> None:
    with BatchServer(held=True).running() as server, Store(":memory:") as store:
        spec, settings = getattr(server, protocol), config(tmp_path)
        interrupted(spec, store, range(2), server, settings)
        server.batches.clear()
        (error,) = run(spec, store, [0], settings)
        assert isinstance(error, ProviderError) and "use the key that it was sent with" in str(error)
        assert not server.batches and states(store) == ["sent"]


CHILD = """
import asyncio, os, signal, sys, time
from pathlib import Path
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.llm.opening import open_llm
from tests.llm.test_batches import config, question

spec, path, moment = sys.argv[1:]

class Killed(Replies):
    async def put_batch(self, row, requests=()):
        if moment == "after the submit" and row.state == "sent":
            os.kill(os.getpid(), signal.SIGKILL)
        await super().put_batch(row, requests)
        if moment == "after the intent" and row.state == "intent" or moment == "while waiting" and row.state == "sent":
            os.kill(os.getpid(), signal.SIGKILL)

    async def settle_batch(self, row, calls):
        if moment == "in the middle of logging":
            asyncio.ensure_future(super().settle_batch(row, calls))
            await asyncio.sleep(0.031)
            os.kill(os.getpid(), signal.SIGKILL)
        await super().settle_batch(row, calls)

async def main():
    store = Store(path)
    async with open_llm(spec, Killed(store, time.time()), config(Path(path).parent)) as llm:
        await asyncio.gather(*(llm.complete(question(n)) for n in range(20)))

asyncio.run(main())
"""
MOMENTS = [("openai", "after the intent"), ("openai", "after the submit"), ("openai", "while waiting"), ("openai", "in the middle of logging"), ("anthropic", "after the intent"), ("anthropic", "after the submit")]  # fmt: skip


@pytest.mark.parametrize(("protocol", "moment"), MOMENTS)
def test_a_killed_run_ends_as_if_it_had_not_been(protocol: str, moment: str, tmp_path: Path) -> None:
    with BatchServer().running() as server:
        with Store(":memory:") as store:
            run(getattr(server, protocol), store, range(20), config(tmp_path))
            expected = rows(store)
        server.bill.clear()
        server.batches.clear()
        path, spec = tmp_path / "run.duckdb", getattr(server, protocol)
        root = Path(__file__).parents[2]
        child = subprocess.run(
            [sys.executable, "-c", CHILD, spec, str(path), moment],
            cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.PIPE, check=False, timeout=60,
        )  # fmt: skip
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        with Store(path) as store:
            assert run(spec, store, range(20), config(tmp_path)) == [*range(20)]
            assert rows(store) == expected
            assert len(server.bill) == 20 and set(server.bill.values()) == {1}, "each is paid for once"
            assert sum(len(b.requests) for b in server.batches.values()) == 20, "and sent once"
            assert Replies(store, 0.0).spent()[0] == pytest.approx(sum(row[5] for row in expected))
            assert "intent" not in states(store) and "sent" not in states(store)


# --------------------------------------------------------------------------- a double, where the moment matters


class Held:
    """A provider without a server: what is sent is answered when `answers` is set."""

    where = None

    def __init__(self) -> None:
        self.address = Address("openai", "h", "m")
        self.limits = (1000, 10**6)
        self.batches: dict[str, Sequence[tuple[str, Request]]] = {}
        self.answers = False
        self.finds: list[str] = []

    def size(self, request: Request) -> int:
        return 100

    async def send(self, batch_id: str, requests: Sequence[tuple[str, Request]]) -> str:
        self.batches[batch_id] = list(requests)
        return f"remote-{batch_id}"

    async def find(self, row: BatchRow, known: set[str]) -> str | None:
        self.finds.append(row.batch_id)
        return f"remote-{row.batch_id}" if row.batch_id in self.batches else None

    async def progress(self, row: BatchRow) -> Progress:
        return Progress(ended=self.answers)

    async def results(self, row: BatchRow) -> list[Result]:
        reply = RawReply('{"number": 1}', "stop", None, "m")
        return [Result(name, reply) for name, _ in self.batches[row.batch_id]]

    async def close(self) -> None: ...


def test_nothing_is_sent_while_the_caller_may_add_more(tmp_path: Path) -> None:
    async def ask() -> None:
        with Store(":memory:") as store:
            held, busy = Held(), [True]
            books = Replies(store, 0.0)
            batches = Batches(held, books, Ledger(), None, config(tmp_path), idle=lambda: not busy[0])
            first = asyncio.create_task(batches.fetch("a" * 16, question(1)))
            await asyncio.sleep(0.2)
            assert not held.batches
            second = asyncio.create_task(batches.fetch("b" * 16, question(2)))
            await asyncio.sleep(0)
            busy[0], held.answers = False, True
            await asyncio.gather(first, second)
            assert [len(sent) for sent in held.batches.values()] == [2]
            await batches.close()

    asyncio.run(ask())


def test_what_nobody_waits_for_any_more_is_not_sent_and_reserves_nothing(tmp_path: Path) -> None:
    async def ask() -> None:
        with Store(":memory:") as store:
            held, ledger = Held(), Ledger(budget_tokens=10**6)
            held.answers = True
            batches = Batches(held, Replies(store, 0.0), ledger, None, config(tmp_path))
            given_up = asyncio.create_task(batches.fetch("a" * 16, question(1)))
            kept = asyncio.create_task(batches.fetch("b" * 16, question(2)))
            await asyncio.sleep(0.01)
            given_up.cancel()
            await kept
            assert [[name for name, _ in sent] for sent in held.batches.values()] == [[custom_id(b, "b" * 16) for b in held.batches]]  # fmt: skip
            assert ledger.reserved == Money(0.0, 0)
            await batches.close()

    asyncio.run(ask())


def test_an_error_beside_the_questions_leaves_nobody_waiting(tmp_path: Path) -> None:
    class Broken(Held):
        async def results(self, row: BatchRow) -> list[Result]:
            raise KeyError("a bug")

    async def ask() -> None:
        with Store(":memory:") as store:
            broken = Broken()
            broken.answers = True
            batches = Batches(broken, Replies(store, 0.0), Ledger(), None, config(tmp_path))
            with pytest.raises(KeyError):
                await asyncio.wait_for(batches.fetch("a" * 16, question(1)), 5)
            await batches.close()

    asyncio.run(ask())


def test_when_the_run_is_over_nothing_more_is_sent_and_nobody_waits(tmp_path: Path) -> None:
    class Refusing(Held):
        async def send(self, batch_id: str, requests: Sequence[tuple[str, Request]]) -> str:
            await asyncio.sleep(0.05)
            await super().send(batch_id, requests)
            raise ProviderError("no credit left")

    async def ask() -> None:
        with Store(":memory:") as store:
            refusing = Refusing()
            room = most(question(1), None).tokens
            batches = Batches(refusing, Replies(store, 0.0), Ledger(budget_tokens=room), None, config(tmp_path))
            calls = [f"{n:016x}" for n in range(5)]  # one has room in the budget, the others wait for it
            found = await asyncio.wait_for(
                asyncio.gather(*(batches.fetch(call, question(1)) for call in calls), return_exceptions=True), 5
            )
            assert all(isinstance(error, ProviderError) for error in found) and len(refusing.batches) == 1
            with pytest.raises(ProviderError, match="no credit left"):
                await asyncio.wait_for(batches.fetch("f" * 16, question(1)), 5)
            await asyncio.sleep(0.2)
            assert len(refusing.batches) == 1 and batches.ledger.reserved.tokens == 0
            await batches.close()

    asyncio.run(ask())


def test_half_characters_sink_their_own_question_alone(tmp_path: Path) -> None:
    async def ask() -> None:
        with Store(":memory:") as store:
            held = Held()
            held.answers = True
            batches = Batches(held, Replies(store, 0.0), Ledger(), None, config(tmp_path))
            good = asyncio.create_task(batches.fetch("a" * 16, question(1)))
            with pytest.raises(RejectedError, match="half characters"):
                await batches.fetch("b" * 16, question(2, "\ud83d "))
            assert (await good).reply
            await batches.close()

    asyncio.run(ask())


def test_a_provider_that_cannot_be_reached_ends_the_run_with_its_batch_kept(tmp_path: Path) -> None:
    class Away(Held):
        async def progress(self, row: BatchRow) -> Progress:
            raise Fault("cannot reach it")

    async def ask() -> None:
        with Store(":memory:") as store:
            batches = Batches(Away(), Replies(store, 0.0), Ledger(), None, config(tmp_path))
            with pytest.raises(ProviderError, match="4 attempts, the last: cannot reach it; open batches are kept"):
                await asyncio.wait_for(batches.fetch("a" * 16, question(1)), 5)
            assert states(store) == ["sent"]
            await batches.close()

    asyncio.run(ask())


# --------------------------------------------------------------------------- what is told apart


def test_a_later_row_that_says_less_does_not_take_the_place_of_a_reply() -> None:
    reply, error = RawReply('{"number": 1}', "stop", None, "m"), Fault("500 broke")
    batch = BatchRow("b" * 16, "openai", "h", "m", "sent", "r", 1, 0.0, 0, time.time())
    asked = kept_rows(batch.batch_id, Address("openai", "h", "m"), {"a" * 16: question(1)})
    for outcomes in ([reply, error], [error, reply], [error, reply, error]):
        found = [Result(custom_id(batch.batch_id, "a" * 16), outcome) for outcome in outcomes]
        books = (Address("openai", "h", "m"), "s", PRICE)
        settled = settle(batch, asked, set(), found, Progress(ended=True), books)
        assert [call.reply for call in settled.calls] == [reply.text]
        assert settled.outcomes["a" * 16] is settled.calls[0]


def test_two_lost_batches_of_equal_size_are_told_apart(tmp_path: Path) -> None:
    """Sent, and killed before their ids were written down."""
    names = ["1" * 16, "2" * 16]

    async def ask() -> list[tuple[str | None, str]]:
        provider = batch_provider(parse_spec(server.anthropic), config(tmp_path))
        try:
            sent = [await provider.send(name, [(custom_id(name, "a" * 16), question(1))]) for name in names]
            lost = [BatchRow(n, "anthropic", "h", "m", "intent", None, 1, 0.0, 0, time.time()) for n in names]
            return [(await provider.find(row, set()), right) for row, right in zip(lost, sent, strict=True)]
        finally:
            await provider.close()

    with BatchServer().running() as server:
        found = asyncio.run(ask())
    assert len(set(found)) == 2 and all(one == right for one, right in found)


def test_a_batch_that_was_lost_is_none_in_which_a_question_failed() -> None:
    with Store(":memory:") as store:
        books = Replies(store, 0.0)
        for name, state in (("one", "lost"), ("two", "done"), ("three", "lost"), ("four", "sent")):
            row = BatchRow(name, "openai", "h", "m", "intent", None, 1, 0.0, 0, 0.0)
            asyncio.run(books.put_batch(row, kept_rows(name, Address("openai", "h", "m"), {"a" * 16: question(1)})))
            asyncio.run(books.put_batch(replace(row, state=state)))
        assert books.times_batched("four") == {"a" * 16: 2}


@BOTH
@pytest.mark.parametrize("status", ["404", "405", "501"])
def test_a_server_without_batches_is_said_so_and_leaves_nothing_open(
    protocol: str, status: str, tmp_path: Path
) -> None:
    none = {"POST /v1/files": [status] * 9, "POST /v1/messages/batches": [status] * 9}
    none |= {"GET /v1/batches": [status] * 9, "GET /v1/messages/batches": [status] * 9}
    with BatchServer(faults=none).running() as server, Store(":memory:") as store:
        for error in run(getattr(server, protocol), store, range(3), config(tmp_path)):
            assert isinstance(error, ProviderError) and "no batch interface; leave out +batch" in str(error)
        assert states(store) == ["lost"] and Replies(store, 0.0).spent() == (0.0, 0)
        left = BatchRow("c" * 16, *str_address(server, protocol), "intent", None, 1, 1.0, 9, time.time())
        store.put_now(left)  # by a process that was killed before it asked
        run(getattr(server, protocol), store, [], config(tmp_path))
        assert "intent" not in states(store)


def str_address(server: BatchServer, protocol: str) -> tuple[str, str, str]:
    spec = parse_spec(getattr(server, protocol))
    return spec.provider, spec.host, spec.name
