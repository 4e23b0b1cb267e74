"""The reply log: what was put is found again, by the same process and by the next; what was spent is known after a kill."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from glossator.errors import StoreError
from glossator.rows import BatchRequestRow, BatchRow, CallRow
from glossator.store.replies import Replies
from glossator.store.store import Store


def call(name: str, reply: str | None = "yes", usd: float | None = 0.25, tokens: int | None = 10) -> CallRow:
    return CallRow(
        name, "s", "explain", "d/1", "p", "openai", "host", "m", '{"messages": []}', reply, "m-1", "stop",
        tokens, 2, None, None, usd, "[[[\"a\", -0.5]]]", 1.5, 17.0,
    )  # fmt: skip


def test_a_reply_is_found_as_it_was_put_but_for_the_question() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            row = call("a", "né \N{DOG FACE} \x00 {}")
            assert await log.get("a") is None
            await log.put(row)
            found = dataclasses.replace(row, request="")
            assert await log.get("a") == found
            assert await Replies(store, 2).get("a") == found
            assert (len(log), len(Replies(store, 2))) == (1, 1)

    asyncio.run(run())


def test_what_has_no_reply_is_no_reply_and_the_first_of_two_stays() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            await log.put(call("a", None))
            assert await log.get("a") is None
            await log.put(call("a", "first"))
            await log.put(call("a", "second"))
            for each in (log, Replies(store, 2)):
                found = await each.get("a")
                assert found is not None and found.reply == "first"

    asyncio.run(run())


def test_thousands_are_found_in_any_order_while_more_are_put() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            names = [f"c{number}" for number in range(3000)]
            for first in range(0, 2000, 500):
                await log.put(*(call(name, name) for name in names[first : first + 500]))

            async def read(name: str) -> None:
                found = await log.get(name)
                assert found is not None and found.reply == name

            writing = [log.put(call(name, name)) for name in names[2000:]]
            await asyncio.gather(*writing, *(read(name) for name in reversed(names[:2000])))
            await asyncio.gather(*(read(name) for name in names[::-7]))
            assert len(log) == 3000

    asyncio.run(run())


def test_what_cannot_be_written_is_an_error_and_is_not_taken_for_logged(tmp_path: Path) -> None:
    async def run() -> None:
        with Store(tmp_path / "run.duckdb") as store:
            log = Replies(store, 1)
            with pytest.raises(StoreError):
                await log.put(call("a", "half a character \ud83d"))
            assert await log.get("a") is None
            await log.put(call("b"))
            assert await log.get("b") is not None

    asyncio.run(run())


def test_what_was_spent_is_what_was_logged_and_what_kills_may_have_hidden(tmp_path: Path) -> None:
    async def run() -> None:
        with Store(tmp_path / "run.duckdb") as store:
            assert Replies(store, 0).spent() == (0, 0)
            one, two, three = (Replies(store, started) for started in (1, 2, 3))
            await one.put(call("a"), call("b", None, usd=0.5, tokens=100), call("c", usd=None, tokens=None))
            logged = (0.75, 10 + 2 + 100 + 2 + 2)
            assert one.spent() == logged
            await one.mark(1.0, 1000)
            await one.mark(2.0, 3000)
            assert two.spent() == (logged[0] + 2.0, logged[1] + 3000), "killed: the last mark counts"
            await two.mark(8.0, 8000)
            await two.finish(0.0, 0)
            assert three.spent() == (logged[0] + 2.0, logged[1] + 3000), "an orderly end hides nothing"
            await three.mark(16.0, 9000)
            await three.finish(0.125, 7)
            assert Replies(store, 4).spent() == (logged[0] + 2.125, logged[1] + 3007), "but for what it gave up"
        with Store(tmp_path / "run.duckdb") as store:
            assert Replies(store, 5).spent() == (logged[0] + 2.125, logged[1] + 3007)

    asyncio.run(run())


def test_a_question_is_out_until_its_batch_has_something_of_it_or_is_over() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            assert log.out_in_batches() == frozenset()
            for name, state in (("b1", "intent"), ("b2", "sent"), ("b3", "sent"), ("b4", "sent")):
                row = BatchRow(name, "files", "", "m", state, None, 2, 0.0, 0, 1.0)
                asked = [BatchRequestRow(name, f"{name}{call}", "explain", None, None, "{}") for call in "xy"]
                await log.put_batch(row, asked)
            await log.put_batch(dataclasses.replace(row, state="lost"))
            await log.put_batch(dataclasses.replace(row, batch_id="b3", state="done"))
            await log.put(dataclasses.replace(call("b2x"), batch_id="b2"), call("b1x"))
            for each in (log, Replies(store, 2)):
                assert each.out_in_batches() == {"b1x", "b1y", "b2y"}

    asyncio.run(run())


def test_what_has_no_price_is_told_by_who_was_asked_and_what_may_be_lost_as_a_sum() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            assert log.unpriced() == []
            free, killed, priced = (Replies(store, started) for started in (2, 3, 4))
            await log.put(call("a"), call("b", usd=None), call("c", usd=None), call("d", usd=None, tokens=None))
            await log.put(dataclasses.replace(call("e", usd=None), batch_id="b"))
            await log.put(dataclasses.replace(call("f", usd=0.0), session_id=free.session_id))
            await free.mark(0.0, 50)  # what costs nothing
            await killed.mark(0.0, 70)
            await priced.mark(0.5, 90)
            batch = BatchRow("b1", "anthropic", "h", "n", "sent", "r", 2, 0.0, 300, 1.0)
            await log.put_batch(batch)
            await log.put_batch(dataclasses.replace(batch, batch_id="b2", reserved_usd=1.0))
            await log.put_batch(dataclasses.replace(batch, batch_id="b3"))
            await log.put_batch(dataclasses.replace(batch, batch_id="b3", state="done"))
            assert sorted(log.unpriced()) == [
                ("", "", "", False, 0, 70),
                ("anthropic", "h", "n", True, 0, 300),
                ("openai", "host", "m", False, 20, 6),
                ("openai", "host", "m", True, 10, 2),
            ]

    asyncio.run(run())


def test_a_batch_is_reserved_until_it_is_done_and_its_replies_come_with_its_end() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            intent = BatchRow("b1", "openai", "host", "m", "intent", None, 2, 3.0, 300, 1.0)
            asked = [BatchRequestRow("b1", name, "explain", None, None, "{}") for name in ("x", "y")]
            await log.put_batch(intent, asked)
            assert log.spent() == (3.0, 300)
            await log.put_batch(dataclasses.replace(intent, state="sent", remote_id="r", changed=2.0))
            (still,) = Replies(store, 2).open_batches()
            assert (still.state, still.remote_id, still.reserved_tokens) == ("sent", "r", 300)
            assert [row.call_id for row in log.batch_requests("b1")] == ["x", "y"]
            await log.settle_batch(dataclasses.replace(still, state="done"), [call("x"), call("y", None)])
            assert log.open_batches() == [] and log.spent() == (0.5, 24)
            found = await log.get("x")
            assert found is not None and found.reply == "yes"
            assert await log.get("y") is None
            assert store.sql("SELECT count(*) FROM llm_session") == [(0,)]

    asyncio.run(run())
