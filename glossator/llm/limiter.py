"""How many questions are in flight: one more for every round that goes well, half as many when the provider has too much to do.

Additive increase, multiplicative decrease (Chiu and Jain, 1989). It starts at the most that is allowed; one round of
refusals halves it once, however many they are. A pause that the provider asked for holds for all. It gives up when
nothing has succeeded for `patience` seconds: somebody should look.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from glossator.errors import ProviderError


class Limiter:
    """`async with limiter.slot() as started`, then `succeeded()` or `overloaded(started, ...)`. Raises ProviderError when it gives up."""

    def __init__(self, most: int, patience: float) -> None:
        self.most, self.patience = most, patience
        self.limit = float(most)
        self.in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._not_before = 0.0
        self._halved = 0.0
        self._last_success: float | None = None
        self._failures = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[float]:
        await self._enter()
        try:
            while (pause := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            yield time.monotonic()
        finally:
            self.in_flight -= 1
            self._wake()

    def succeeded(self) -> None:
        self._last_success, self._failures = time.monotonic(), 0
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def failed(self, message: str) -> None:
        """Something went wrong that may pass. Raises ProviderError where nothing has gone well for too long."""
        now = time.monotonic()
        self._failures += 1
        if self._last_success is None:
            self._last_success = now  # patience runs from the first failure
        if self._failures > 1 and now - self._last_success > self.patience:
            raise ProviderError(
                f"nothing has succeeded for {self.patience:.0f} s and {self._failures} attempts, the last: {message}; look at the provider, then run again"
            )

    def overloaded(self, started: float) -> None:
        """The provider turned away a question that was sent at `started`."""
        now = time.monotonic()
        if started >= self._halved:  # what was sent before the last halving says nothing new
            self.limit, self._halved = max(1.0, self.limit / 2), now

    def pause(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def _enter(self) -> None:
        if self.in_flight < int(self.limit) and not self._waiting:
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.in_flight -= 1  # the place was given as the wait was given up
                self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self.in_flight < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
