"""The seams of the language-model layer: who is asked, how one attempt goes wrong, what is kept.

    LLM        complete(request) -> Reply; what explainers and predictors see. `Client` is one, the doubles are others.
    Transport  fetch(call_id, request) -> CallRow; how a question that is not in the log gets a reply: live, or by batches.
    Provider   ask(request) -> RawReply; one attempt, by one protocol. Raises the faults below.
    ReplyLog   get, put; what was asked and answered. The store has the real one, in memory too.

A reply is logged as it came, before anybody reads it: what it means is found out from the log, so a run that is started
again reads the same. Nothing here knows a protocol, a price or a prompt.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Protocol

from glossator.rows import CallRow
from glossator.types import Reply, Request, Usage, content_id


class LLM(Protocol):
    @property
    def name(self) -> str:
        """What rows call it, such as `openai:gpt-5-mini`."""
        ...

    @property
    def address(self) -> Address:
        """Who is asked: with a request, what makes its `call_id`."""
        ...

    async def complete(self, request: Request) -> Reply:
        """Raises ReplyError for this question alone; ProviderError and Stopped for all that would follow."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Address:
    """Who is asked, and how hard it is to think: a part of what makes two questions equal."""

    provider: str
    host: str
    model: str
    effort: str | None = None  # None: the model's own default

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"


@dataclass(frozen=True)
class RawReply:
    """What a provider said. finish: stop, length or refusal. usage None: it did not say what it billed."""

    text: str
    finish: str
    usage: Usage | None
    model: str
    logprobs: tuple[tuple[tuple[str, float], ...], ...] | None = None


class Provider(Protocol):
    address: Address

    async def ask(self, request: Request) -> RawReply:
        """One attempt. Raises Fault where another may succeed, RejectedError for this question, ProviderError for all."""
        ...

    async def close(self) -> None: ...


class Transport(Protocol):
    @property
    def address(self) -> Address: ...

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        """The logged reply to a question that the log lacks. Raises as `LLM.complete` does."""
        ...

    async def close(self) -> None: ...


class ReplyLog(Protocol):
    async def get(self, call_id: str) -> CallRow | None:
        """The reply to a question, if it was logged."""
        ...

    async def put(self, *rows: CallRow) -> None:
        """Returns when they are on disk."""
        ...


class Fault(Exception):
    """One attempt failed. overload: the provider has too much to do. unreached: there is nobody to ask.

    billed: it may have answered, and charged, all the same.
    """

    def __init__(
        self,
        message: str,
        *,
        overload: bool = False,
        unreached: bool = False,
        billed: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.overload, self.unreached, self.billed, self.retry_after = overload, unreached, billed, retry_after


def call_id(address: Address, request: Request) -> str:
    """What makes two questions equal, as 16 hex digits."""
    return content_id(
        "call",
        dataclasses.astuple(address),
        [(m.role, m.text) for m in request.messages],
        request.schema,
        request.max_tokens,
        request.temperature,
        request.logprobs,
        request.sample,
        request.attempt,
    )


def request_json(address: Address, request: Request) -> str:
    """A question as the log keeps it."""
    kept: dict[str, Any] = {
        "messages": [{"role": m.role, "content": m.text} for m in request.messages],
        "schema": request.schema,
    }
    kept |= {"effort": address.effort} if address.effort else {}
    names = ("max_tokens", "temperature", "logprobs", "sample", "attempt")
    return json.dumps(kept | {name: getattr(request, name) for name in names}, ensure_ascii=False)
