"""The double that says what it is told to: a language model for tests of whoever asks one.

It is the real client before a transport that answers from a script, so replies are parsed, asked for once more, shared
and logged as they are from a provider. Nothing here knows a prompt; `oracle.py` does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from glossator.errors import ProviderError
from glossator.llm.base import Address, RawReply, ReplyLog
from glossator.llm.client import Client
from glossator.llm.live import call_row
from glossator.llm.prices import FREE
from glossator.rows import CallRow
from glossator.types import Reply, Request, Usage

Said = str | RawReply | Exception  # an exception is raised instead of a reply
Answers = Callable[[Request], Said] | Mapping[str, Said] | Sequence[Said]

_BYTES_A_TOKEN = 4


class ScriptedLLM:
    """`ScriptedLLM(answers)`: by a function of the request, by `request.about`, or one after the other.

    `requests` are those that came through to it, in order. `log`: where replies are kept; in memory if not given.
    """

    def __init__(self, answers: Answers, log: ReplyLog | None = None, name: str = "llm") -> None:
        self.answers = answers
        self.requests: list[Request] = []
        self.address = Address("scripted", "", name)
        self.log = Memory() if log is None else log  # an empty log is a log too
        self._client = Client(self, self.log)

    @property
    def name(self) -> str:
        return str(self.address)

    async def complete(self, request: Request) -> Reply:
        return await self._client.complete(request)

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        """The transport's side: what the script says, logged."""
        self.requests.append(request)
        asked_at, began = time.time(), time.monotonic()
        said = self._said(request)
        await asyncio.sleep(0)
        if isinstance(said, Exception):
            raise said
        raw = said if isinstance(said, RawReply) else RawReply(said, "stop", _usage(request, said), self.name)
        row = call_row(self.address, call_id, request, raw, None, ("scripted", FREE, asked_at, began))
        await self.log.put(row)
        return row

    async def close(self) -> None:
        """Nothing is open."""

    def _said(self, request: Request) -> Said:
        try:
            if callable(self.answers):
                return self.answers(request)
            if isinstance(self.answers, Mapping):
                return self.answers[str(request.about)]
            return self.answers[len(self.requests) - 1]
        except LookupError:
            raise ProviderError(
                f"{self.name}: the script has no answer for question {len(self.requests)}, about {request.about}"
            ) from None


class Memory:
    """A reply log that ends with the process."""

    def __init__(self) -> None:
        self.rows: dict[str, CallRow] = {}

    async def get(self, call_id: str) -> CallRow | None:
        return self.rows.get(call_id)

    async def put(self, *rows: CallRow) -> None:
        self.rows |= {row.call_id: row for row in rows if row.reply is not None}


def _usage(request: Request, reply: str) -> Usage:
    size = sum(len(message.text.encode()) for message in request.messages)
    return Usage(size // _BYTES_A_TOKEN + 1, len(reply.encode()) // _BYTES_A_TOKEN + 1)
