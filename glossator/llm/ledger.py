"""The ledger: no question is sent whose worst price does not fit into what is left of the budget.

The worst price is reserved before the call and settled after it, by what the provider says it billed where that is
possible, in full where it is not, and where it is not known whether it billed. What does not fit waits while others are in flight, for they give
back what they did not use: a small budget is slow, not stuck.

What is reserved is lost sight of when the process is killed. So the most that was ever reserved at once is written down
before it is exceeded; the next run takes that much as spent. A budget is for all that a run file has spent and will.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from glossator.errors import BudgetSpent

_SLACK = 1.05  # of the mark over what it must cover, so that it is written seldom

Mark = Callable[[float, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Money:
    """Dollars and tokens, together. Dollars are 0 where no price is known (then there is no budget in dollars)."""

    usd: float = 0.0
    tokens: int = 0

    def __add__(self, other: Money) -> Money:
        return Money(self.usd + other.usd, self.tokens + other.tokens)

    def __sub__(self, other: Money) -> Money:
        return Money(self.usd - other.usd, self.tokens - other.tokens)


class Ledger:
    """budget: None where there is none. spent: by this run file before. mark: writes down what may be lost by a kill."""

    def __init__(
        self,
        budget_usd: float | None = None,
        budget_tokens: int | None = None,
        spent: Money = Money(),
        mark: Mark | None = None,
    ) -> None:
        self.budget_usd, self.budget_tokens, self._mark = budget_usd, budget_tokens, mark
        self.spent, self.reserved = spent, Money()
        self.lost = Money()  # given up in the middle: it may have been billed, and no log says so
        self._waiting: deque[tuple[Money, asyncio.Future[None]]] = deque()
        self._marked = Money()
        self._marking = asyncio.Lock()

    async def reserve(self, most: Money) -> None:
        """Set `most` aside. Raises BudgetSpent where it does not fit and nothing that is in flight could make room."""
        if self._waiting or not self._fits(most):
            await self._wait(most)
        else:
            self.reserved += most
        try:
            await self._write_down()
        except BaseException:
            self.release(most)
            raise

    def settle(self, most: Money, actual: Money) -> None:
        """Give back the reservation `most`, and book what was billed."""
        self.spent += actual
        self.release(most)

    def lose(self, most: Money) -> None:
        """A question was given up in the middle: its whole reservation is as good as spent."""
        self.lost += most
        self.settle(most, most)

    def take_over(self, most: Money) -> None:
        """An earlier process's batch, which counts as spent: its end may still give something back."""
        self.spent -= most
        self.reserved += most

    def release(self, most: Money) -> None:
        """Give back a reservation of which nothing was billed."""
        self.reserved -= most
        self._serve()

    def _fits(self, most: Money) -> bool:
        total = self.spent + self.reserved + most
        usd = self.budget_usd is None or total.usd <= self.budget_usd + 1e-12
        return usd and (self.budget_tokens is None or total.tokens <= self.budget_tokens)

    async def _wait(self, most: Money) -> None:
        if self.reserved.tokens <= 0 and not self._waiting:
            raise BudgetSpent(self._spent(most))
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((most, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.release(most)
            else:
                self._serve()  # those behind may fit now
            raise

    def _serve(self) -> None:
        """In the order of asking: who asks for much is not overtaken for ever by those who ask for little."""
        while self._waiting:
            most, turn = self._waiting[0]
            if turn.done():  # given up
                self._waiting.popleft()
            elif self._fits(most):
                self._waiting.popleft()
                self.reserved += most
                turn.set_result(None)
            elif self.reserved.tokens <= 0:
                self._waiting.popleft()
                turn.set_exception(BudgetSpent(self._spent(most)))
            else:
                return

    async def _write_down(self) -> None:
        """See that the mark covers what a kill could hide, also where no budget is set: a later run may have one."""
        if self._mark is None or self._covered():
            return
        async with self._marking:
            if self._covered():  # by who was here before
                return
            now, last = self.reserved + self.lost, self._marked
            wanted = Money(max(now.usd * _SLACK, last.usd), max(int(now.tokens * _SLACK), last.tokens))
            await self._mark(wanted.usd, wanted.tokens)
            self._marked = wanted

    def _covered(self) -> bool:
        now = self.reserved + self.lost
        return now.usd <= self._marked.usd and now.tokens <= self._marked.tokens

    def _spent(self, most: Money) -> str:
        parts = []
        if self.budget_usd is not None:
            parts.append(f"${self.spent.usd:.4f} of ${self.budget_usd:g} (the next question may cost ${most.usd:.4f})")
        if self.budget_tokens is not None:
            parts.append(
                f"{self.spent.tokens:,} of {self.budget_tokens:,} tokens (the next question may take {most.tokens:,})"
            )
        return f"the budget is spent: {', '.join(parts)}; raise it and run again, what was bought is kept"
