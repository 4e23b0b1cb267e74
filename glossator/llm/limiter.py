"""How many questions are in flight: one more for every round that goes well, half as many when the provider has too much to do.

Additive increase, multiplicative decrease (Chiu and Jain, 1989). It starts at the most that is allowed; one round of
refusals halves it once, however many they are. A pause that the provider asked for holds for all. It gives up when
nothing has succeeded for `patience` seconds: somebody should look.

Who waits is served by TURN, then in order of arrival: what was begun first is ended first, so that a stop leaves little
half done, and of many things of several questions each, not all are at the same question at the same time.
"""

from __future__ import annotations

import asyncio
import datetime
import heapq
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar

from glossator.errors import ProviderError

TURN: ContextVar[int] = ContextVar("turn", default=0)  # the number of what a task works on: the lowest goes first


class Limiter:
    """`async with limiter.slot() as leave`, then `succeeded()`, `failed(...)` or `overloaded(started)`.

    `leave()` gives the place back before the end, for one who only waits for the disk.
    Once it has given up, or was told to (`stop`), whoever waits in it or comes to it gets ProviderError.
    """

    def __init__(
        self, most: int, patience: float, unreached: float = math.inf, say: Callable[[str], None] | None = None
    ) -> None:
        """unreached: patience where nobody was ever there. say: told once that something is waited for."""
        self.most, self.patience, self.unreached, self.say = most, patience, unreached, say
        self._reached = False
        self.limit = float(most)
        self.in_flight = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap: turn, arrival
        self._arrivals = itertools.count()
        self._asleep: set[asyncio.Future[None]] = set()
        self._not_before = 0.0
        self._halved = 0.0
        self._last_success = 0.0
        self._failing_since: float | None = None
        self._failing: set[str] = set()  # the questions that failed since
        self._over: str | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Callable[[], None]]:
        self.check()
        await self._enter()
        here = True

        def leave() -> None:
            nonlocal here
            if here:
                here = False
                self.in_flight -= 1
                self._wake()

        try:
            self.check()
            await self.ready()
            yield leave
        finally:
            leave()

    async def ready(self) -> None:
        """Returns when no pause holds."""
        while (pause := self._not_before - time.monotonic()) > 0:
            await self.sleep(pause)
        self.check()

    async def sleep(self, seconds: float) -> None:
        """As `asyncio.sleep`, but ends when all is over."""
        self.check()
        waking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asleep.add(waking)
        try:
            await asyncio.wait([waking], timeout=seconds)
        finally:
            self._asleep.discard(waking)
        self.check()

    def check(self) -> None:
        """Raises ProviderError where all is over."""
        if self._over is not None:
            raise ProviderError(self._over)  # a new one each time: a shared one would gather the traces of all

    def stop(self, why: str) -> None:
        """No question will be answered any more; those who wait learn it now."""
        self._over = self._over or why
        for waking in self._asleep:
            if not waking.done():
                waking.set_result(None)
        while self._waiting:
            if not (turn := heapq.heappop(self._waiting)[-1]).done():
                turn.set_exception(ProviderError(self._over))

    def succeeded(self) -> None:
        self._last_success, self._failing_since, self._reached = time.monotonic(), None, True
        self._failing.clear()
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def succeeded_since(self, moment: float) -> bool:
        """Whether the provider has answered anything since then."""
        return self._last_success >= moment

    def failed(self, message: str, question: str, *, everybody: bool, unreached: bool = False) -> None:
        """An attempt went wrong in a way that may pass. Raises ProviderError where nothing has gone well for too long.

        everybody: the fault says nothing about the question (nobody there, overload). Of other faults there must have been
        as many questions as may be in flight: a few that never get a reply, at the end of a run, are failures of their own.
        """
        now = time.monotonic()
        self._failing.add(question)
        if self._failing_since is None:
            self._failing_since = now  # not the last success: a run may have asked nothing for an hour
        self._reached = self._reached or not unreached
        patience = self.patience if self._reached else min(self.patience, self.unreached)
        if everybody and self.say is not None:
            until = datetime.datetime.now() + datetime.timedelta(seconds=patience)
            self.say(f"{message}; trying until {until:%H:%M}")
            self.say = None
        if now - self._failing_since > patience and (everybody or len(self._failing) >= self.most):
            self.stop(
                f"nothing has succeeded for {patience:.3g} s and {len(self._failing)} questions, the last: {message}; look at the provider, then run again"
            )
            self.check()

    def overloaded(self, started: float) -> None:
        """The provider turned away a question that was sent at `started`."""
        now = time.monotonic()
        if started >= self._halved:  # what was sent before the last halving says nothing new
            self.limit, self._halved = max(1.0, self.limit / 2), now

    def pause(self, seconds: float) -> None:
        """Send nothing for so long, though never for longer than there is patience: then one attempt finds out."""
        self._not_before = max(self._not_before, time.monotonic() + min(seconds, self.patience))

    async def _enter(self) -> None:
        if self.in_flight < int(self.limit) and not self._waiting:
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (TURN.get(), next(self._arrivals), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.in_flight -= 1  # the place was given as the wait was given up
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            turn = heapq.heappop(self._waiting)[-1]
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
