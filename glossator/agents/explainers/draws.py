"""A model whose unusable replies may be drawn again: for whoever asks several questions about one feature.

A question is asked as its first draw. Where that reply cannot be used, the next draw takes its place if it was bought by an
earlier run, or if it is to be bought now. So a run that is started again finds the draw that counted, and pays for nothing.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from glossator.errors import CutOffError, RefusedError, UnparsableError
from glossator.llm.base import LLM, Address, call_id
from glossator.types import Reply, Request

_UNUSABLE = (RefusedError, UnparsableError, CutOffError)  # the reply stands in the log


class Draws:
    """An LLM before another one. answered: the questions whose replies are in the log.

    `last[about]`: the number of the last draw of any question about a feature; 0 where it is not there.
    """

    def __init__(self, llm: LLM, answered: Set[str] = frozenset(), *, retry_failed: bool = False) -> None:
        """`retry_failed`: what was unusable in an earlier run is asked anew, once."""
        self.llm, self.answered, self.retry_failed = llm, answered, retry_failed
        self.last: dict[str | None, int] = {}

    @property
    def name(self) -> str:
        return self.llm.name

    @property
    def address(self) -> Address:
        return self.llm.address

    async def complete(self, request: Request) -> Reply:
        """The first draw, and those after it as long as they are in the log: of these, the last one counts."""
        while True:
            try:
                return await self.llm.complete(request)
            except _UNUSABLE:
                following = replace(request, attempt=request.attempt + 1)
                if not self._had(request, following):
                    raise
            request = following
            self.last[request.about] = max(request.attempt, self.last.get(request.about, 0))

    async def close(self) -> None:
        await self.llm.close()

    def _had(self, request: Request, following: Request) -> bool:
        """Whether the next draw is to be had: it was bought before, or is to be, because this one was, and is unusable.

        Told by the identity of this very question to this very model. What did not come is no draw: it is asked for itself.
        """
        bought = call_id(self.address, request) in self.answered
        return call_id(self.address, following) in self.answered or (self.retry_failed and bought)
