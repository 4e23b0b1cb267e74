"""How many questions are in flight, when nothing is sent, and when the run gives up."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from glossator.errors import ProviderError
from glossator.llm.limiter import TURN, Limiter


def overloaded(limiter: Limiter, started: float, times: int = 1) -> None:
    for _ in range(times):
        limiter.overloaded(started)


def test_no_more_are_in_flight_than_allowed_and_all_get_their_turn_in_order() -> None:
    async def run() -> None:
        limiter, most, order = Limiter(5, 60), 0, []

        async def one(number: int) -> None:
            nonlocal most
            async with limiter.slot():
                most = max(most, limiter.in_flight)
                order.append(number)
                await asyncio.sleep(0.001)
                limiter.succeeded()

        await asyncio.gather(*(one(number) for number in range(50)))
        assert (most, limiter.in_flight, order) == (5, 0, list(range(50)))

    asyncio.run(run())


def test_one_round_of_refusals_halves_once_and_the_next_round_halves_again() -> None:
    limiter = Limiter(64, 60)
    overloaded(limiter, time.monotonic(), 64)
    assert limiter.limit == 32
    overloaded(limiter, time.monotonic(), 32)
    assert limiter.limit == 16
    for _ in range(10):
        overloaded(limiter, time.monotonic())
    assert limiter.limit == 1, "one question is always let through"


def test_a_round_that_goes_well_allows_one_more_and_never_more_than_the_most() -> None:
    limiter = Limiter(20, 60)
    overloaded(limiter, time.monotonic())
    for wanted in (11, 12, 13):
        for _ in range(int(limiter.limit) + 1):
            limiter.succeeded()
        assert int(limiter.limit) == wanted
    for _ in range(1000):
        limiter.succeeded()
    assert limiter.limit == 20


def test_after_halving_nobody_enters_until_enough_have_left() -> None:
    async def run() -> None:
        limiter = Limiter(4, 60)
        leave, inside = asyncio.Event(), 0

        async def one() -> None:
            nonlocal inside
            async with limiter.slot():
                inside += 1
                await leave.wait()
                await asyncio.sleep(0.01 * inside)

        first = [asyncio.create_task(one()) for _ in range(4)]
        await asyncio.sleep(0)
        limiter.overloaded(time.monotonic())
        late = asyncio.create_task(one())
        await asyncio.sleep(0.01)
        assert (inside, limiter.in_flight) == (4, 4)
        leave.set()
        await asyncio.gather(*first, late)
        assert (inside, limiter.in_flight) == (5, 0)

    asyncio.run(run())


def test_a_pause_holds_for_all_and_for_no_longer_than_there_is_patience() -> None:
    async def run() -> None:
        limiter = Limiter(4, 0.3)
        limiter.pause(86_400)
        began = time.monotonic()

        async def one() -> float:
            async with limiter.slot():
                return time.monotonic() - began

        waits = await asyncio.gather(*(one() for _ in range(6)))
        assert all(0.29 <= wait < 0.6 for wait in waits), waits

    asyncio.run(run())


def test_a_place_that_was_left_early_is_given_once() -> None:
    async def run() -> None:
        limiter = Limiter(1, 60)
        async with limiter.slot() as leave:
            leave()
            leave()
            async with asyncio.timeout(1), limiter.slot():
                assert limiter.in_flight == 1
            assert limiter.in_flight == 0
        assert limiter.in_flight == 0

    asyncio.run(run())


@pytest.mark.parametrize("moment", ["waiting for a place", "in a pause", "in the tick of its turn"])
def test_who_gives_up_leaves_no_place_behind(moment: str) -> None:
    async def run() -> None:
        limiter = Limiter(1, 60)
        holding = limiter.slot()
        if moment == "in a pause":
            limiter.pause(30)
        else:
            await holding.__aenter__()

        async def one() -> None:
            async with limiter.slot():
                pass

        waiting = asyncio.create_task(one())
        await asyncio.sleep(0.01)
        if moment == "in the tick of its turn":
            await holding.__aexit__(None, None, None)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        if moment == "waiting for a place":
            await holding.__aexit__(None, None, None)
        assert limiter.in_flight == 0
        if moment != "in a pause":
            await asyncio.wait_for(one(), 1)

    asyncio.run(run())


def fail(limiter: Limiter, question: str, *, everybody: bool = True) -> None:
    limiter.failed("503 too much to do", question, everybody=everybody)


def test_it_gives_up_when_nothing_has_succeeded_for_longer_than_there_is_patience() -> None:
    limiter = Limiter(4, 0.1)
    fail(limiter, "a")
    fail(limiter, "b")
    time.sleep(0.12)
    with pytest.raises(
        ProviderError, match=r"nothing has succeeded for 0\.1 s and 3 questions, the last: 503 too much"
    ):
        fail(limiter, "c")


def test_waiting_is_said_once_and_who_was_never_there_gets_little_patience() -> None:
    said: list[str] = []
    limiter = Limiter(4, 60, 0.05, said.append)
    for _ in range(3):
        limiter.failed("cannot reach h", "a", everybody=True, unreached=True)
    assert len(said) == 1 and re.fullmatch(r"cannot reach h; trying until \d\d:\d\d", said[0])
    time.sleep(0.06)
    with pytest.raises(ProviderError, match=r"nothing has succeeded for 0\.05 s"):
        limiter.failed("cannot reach h", "a", everybody=True, unreached=True)


def test_who_was_there_before_gets_all_patience() -> None:
    for meet in (Limiter.succeeded, lambda limiter: fail(limiter, "overloaded")):
        limiter = Limiter(4, 60, 0.05)
        meet(limiter)
        limiter.failed("cannot reach h", "a", everybody=True, unreached=True)
        time.sleep(0.06)
        limiter.failed("cannot reach h", "a", everybody=True, unreached=True)


def test_a_fault_of_one_question_is_no_news() -> None:
    said: list[str] = []
    limiter = Limiter(4, 60, 60, said.append)
    fail(limiter, "a", everybody=False)
    assert said == []


def test_patience_runs_from_the_first_failure_after_a_success_not_from_an_old_success() -> None:
    limiter = Limiter(4, 0.1)
    limiter.succeeded()
    time.sleep(0.12)  # nothing was asked for a while
    fail(limiter, "a")
    fail(limiter, "b")
    time.sleep(0.06)
    limiter.succeeded()
    time.sleep(0.06)
    fail(limiter, "a")


def test_a_few_questions_that_never_get_a_reply_do_not_end_the_run_but_a_full_house_does() -> None:
    limiter = Limiter(3, 0.05)
    fail(limiter, "a", everybody=False)
    time.sleep(0.06)
    fail(limiter, "a", everybody=False)
    fail(limiter, "b", everybody=False)
    with pytest.raises(ProviderError):
        fail(limiter, "c", everybody=False)


def test_once_all_is_over_those_who_wait_sleep_or_come_learn_it_at_once() -> None:
    async def run() -> None:
        limiter = Limiter(1, 60)

        async def one() -> None:
            async with limiter.slot():
                await asyncio.sleep(0.05)

        held = asyncio.create_task(one())
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(one()) for _ in range(3)]
        asleep = asyncio.create_task(limiter.sleep(30))
        await asyncio.sleep(0.01)
        began = time.monotonic()
        limiter.stop("the key is wrong")
        ended = await asyncio.gather(*waiting, asleep, one(), return_exceptions=True)
        assert [str(error) for error in ended] == ["the key is wrong"] * 5
        assert time.monotonic() - began < 0.04
        assert len({id(error) for error in ended}) == 5, "each has an exception of its own"
        await held
        assert limiter.in_flight == 0

    asyncio.run(run())


def test_who_waits_is_served_by_turn_and_then_in_order_of_arrival() -> None:
    served: list[str] = []
    limiter = Limiter(1, 60.0)

    async def one(name: str, turn: int) -> None:
        TURN.set(turn)
        async with limiter.slot():
            served.append(name)
            await asyncio.sleep(0)

    async def whole() -> None:
        places = [("first here", 9), ("young", 7), ("old", 2), ("young, later", 7), ("old, later", 2)]
        await asyncio.gather(*(one(*place) for place in places))

    asyncio.run(whole())
    assert served == ["first here", "old", "old, later", "young", "young, later"]
