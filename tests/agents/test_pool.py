"""A bounded number of things in progress: begun in order, made ahead, and what is in flight finishes whatever goes wrong."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from glossator.agents.pool import in_progress
from glossator.llm.limiter import Limiter


def run(items: Iterator[int], total: int, in_hand: int, work, progress=lambda done, of: None) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(in_progress(items, total, in_hand, work, progress))


@pytest.mark.parametrize("in_hand", [1, 3, 50])
def test_all_are_done_in_their_order_and_no_more_at_once_than_allowed(in_hand: int) -> None:
    begun: list[int] = []
    told: list[tuple[int, int]] = []
    here, most = 0, 0

    async def work(item: int) -> None:
        nonlocal here, most
        begun.append(item)
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.002)
        here -= 1

    run(iter(range(20)), 20, in_hand, work, lambda done, of: told.append((done, of)))
    assert begun == list(range(20)) and most == min(in_hand, 20)
    assert told[0] == (0, 20) and told[-1] == (20, 20) and told == sorted(told)


def test_the_next_is_made_while_one_is_worked_on() -> None:
    second = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        second.set()
        yield 1

    async def work(item: int) -> None:
        if item == 0:  # at once one place: nothing else is begun until this ends
            assert await asyncio.to_thread(second.wait, 10)

    run(items(), 2, 1, work)


def test_no_more_are_made_than_are_soon_wanted() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            made.append(item)
            yield item

    async def work(item: int) -> None:
        await asyncio.sleep(0.05)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        run(items(), 1000, 8, work)
    assert len(made) <= 8 + 8 // 4 + 1


def test_what_goes_wrong_comes_out_when_what_is_in_flight_has_ended_and_nothing_more_is_begun() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def work(item: int) -> None:
        begun.append(item)
        await asyncio.sleep(0.01 if item == 1 else 0.05)
        if item == 1:
            raise ValueError("the second")
        ended.append(item)

    with pytest.raises(ValueError, match="the second"):
        run(iter(range(100)), 100, 4, work)
    assert begun == [0, 1, 2, 3] and ended == [0, 2, 3]


def test_an_item_that_cannot_be_made_ends_it_in_the_same_way() -> None:
    ended: list[int] = []

    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise ValueError("no third")

    async def work(item: int) -> None:
        await asyncio.sleep(0.02)
        ended.append(item)

    with pytest.raises(ValueError, match="no third"):
        run(items(), 5, 4, work)
    assert ended == [0, 1]


def test_who_is_cancelled_gives_up_what_is_in_flight_and_leaves_no_thread() -> None:
    given_up: list[int] = []

    async def work(item: int) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.append(item)
            raise

    async def whole() -> None:
        task = asyncio.ensure_future(in_progress(iter(range(9)), 9, 3, work, lambda done, of: None))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not [one for one in threading.enumerate() if one.name.startswith("glossator-prepare")]

    asyncio.run(whole())
    assert sorted(given_up) == [0, 1, 2]


def test_what_was_begun_first_is_served_first() -> None:
    served: list[tuple[int, int]] = []
    limiter = Limiter(1, 60.0)

    async def work(item: int) -> None:
        for question in range(3):  # they follow from one another
            async with limiter.slot():
                served.append((item, question))
                await asyncio.sleep(0.002)

    run(iter(range(6)), 6, 6, work)
    assert served.index((0, 2)) < served.index((5, 0)) and len(served) == 18
