"""Questions that wait to be sent together: each has its reservation in the ledger, and all of them fit into one batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from glossator.llm.ledger import Ledger, Money
from glossator.rows import CallRow
from glossator.types import Request


@dataclass(frozen=True, slots=True)
class Waiting:
    request: Request
    reserved: Money


class Gathering:
    """`room` and `most_bytes`: of one batch. size: the bytes that a request takes. full: sends what is there."""

    def __init__(
        self, ledger: Ledger, limits: tuple[int, int], size: Callable[[Request], int], full: Callable[[], None]
    ) -> None:
        self.ledger, self.size, self.full = ledger, size, full
        self.room, self.most_bytes = limits
        self.entries: dict[str, Waiting] = {}
        self._bytes = 0
        self._turns: dict[asyncio.Task[None], BaseException | None] = {}  # who waits for room in the budget

    async def reserve(self, most: Money) -> None:
        """As the ledger does; but whoever waits there can be stopped by `fail`."""
        if self.ledger.budget_usd is None and self.ledger.budget_tokens is None:  # it never waits
            await self.ledger.reserve(most)
            return
        turn = asyncio.create_task(self.ledger.reserve(most))
        self._turns[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            if error := self._turns[turn]:
                raise error from None
            if turn.done() and not turn.cancelled() and not turn.exception():
                self.ledger.release(most)  # it got its room as it was given up
            raise
        finally:
            del self._turns[turn]

    def add(self, call_id: str, waiting: Waiting) -> None:
        """What does not fit beside the others waits for the next batch: `full` is called before."""
        size = self.size(waiting.request)
        if self.entries and (len(self.entries) >= self.room or self._bytes + size > self.most_bytes):
            self.full()
        self.entries[call_id] = waiting
        self._bytes += size

    def take(self) -> dict[str, Waiting]:
        """All that is there; nothing is there any more."""
        taken, self.entries, self._bytes = self.entries, {}, 0
        return taken

    def drop(self, call_id: str) -> bool:
        """One that nobody waits for any longer. False where it is not here."""
        waiting = self.entries.pop(call_id, None)
        if waiting is None:
            return False
        self._bytes -= self.size(waiting.request)
        self.ledger.release(waiting.reserved)
        return True

    def drop_all(self) -> None:
        for call_id in [*self.entries]:
            self.drop(call_id)

    def fail(self, error: BaseException) -> None:
        """Stop those who wait for room in the budget."""
        for turn in self._turns:
            self._turns[turn] = error
            turn.cancel()


def end(future: asyncio.Future[CallRow], outcome: CallRow | BaseException) -> None:
    """Give it its value or its error, once; it is no one's fault if nobody waits any more."""
    if future.done():
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
        future.exception()
    else:
        future.set_result(outcome)
