"""Anthropic's Message Batches: the requests are sent in one body, the results are one JSONL file.

A batch carries no mark of ours. One that was sent without our knowing is found by its time and its number of requests,
and known for sure by the ids in its results, for which its end has to be awaited.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from glossator.config import LLMConfig
from glossator.errors import ProviderError, RejectedError
from glossator.llm.anthropic_messages import AnthropicMessages, read_message
from glossator.llm.base import Address, Fault
from glossator.llm.batch_rows import Outcome, Progress, Result, failed, json_lines, parts
from glossator.llm.faults import translate
from glossator.llm.openai_batch import NO_INTERFACE
from glossator.llm.spec import Spec
from glossator.rows import BatchRow
from glossator.types import Request

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

LIMITS = (95_000, 240_000_000)  # the provider's: 100,000 requests, 256 MB
_EARLIER = 3600  # seconds that the provider's clock may be behind ours
_STATUS = {
    "invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403, "not_found_error": 404,
    "request_too_large": 413, "rate_limit_error": 429, "timeout_error": 504, "overloaded_error": 529,
}  # fmt: skip


class AnthropicBatch:
    """`AnthropicBatch(spec, config)`: raises ProviderError where the provider's own host is asked without a key."""

    where = None  # its end is waited for

    def __init__(self, spec: Spec, config: LLMConfig, limits: tuple[int, int] = LIMITS) -> None:
        self.messages = AnthropicMessages(spec, config)
        self.client, self.limits, self.poll = self.messages.client, limits, config.batch_poll

    @property
    def address(self) -> Address:
        return self.messages.address

    def size(self, request: Request) -> int:
        return len(json.dumps(self.messages.body(request))) + 100  # its id, and what is around both

    async def send(self, batch_id: str, requests: Sequence[tuple[str, Request]]) -> str:
        asked = ({"custom_id": name, "params": self.messages.body(request)} for name, request in requests)
        sent: list[Any] = await asyncio.to_thread(list, asked)  # seconds, for a full one
        async with self._translated(sending=True):
            return (await self.client.messages.batches.create(requests=sent)).id

    async def find(self, row: BatchRow, known: Set[str]) -> str | None:
        import anthropic

        candidates = []
        async with self._translated():
            try:
                async for batch in self.client.messages.batches.list(limit=100):  # newest first
                    if batch.created_at.timestamp() < row.changed - _EARLIER:
                        break
                    if _total(batch) == row.requests and batch.archived_at is None and batch.id not in known:
                        candidates.append(batch)
            except anthropic.APIStatusError as error:
                if error.status_code not in NO_INTERFACE:
                    raise
        for batch in sorted(candidates, key=lambda b: b.processing_status != "ended"):
            while batch.processing_status != "ended":
                await asyncio.sleep(self.poll)
                async with self._translated():
                    batch = await self.client.messages.batches.retrieve(batch.id)
            names = [parts(str(one.get("custom_id"))) for one in json_lines(await self._content(batch.id))]
            if any(name and name[1] == row.batch_id for name in names):
                return batch.id
        return None

    async def progress(self, row: BatchRow) -> Progress:
        import anthropic

        async with self._translated():
            try:
                batch = await self.client.messages.batches.retrieve(row.remote_id or "")
            except anthropic.NotFoundError:
                return Progress(ended=True, gone=True)
        if batch.archived_at is not None:
            return Progress(ended=True, gone=True)
        return Progress(ended=batch.processing_status == "ended", succeeded=batch.request_counts.succeeded)

    async def results(self, row: BatchRow) -> list[Result]:
        content = await self._content(row.remote_id or "")
        return [Result(str(one.get("custom_id")), _outcome(self.address, one)) for one in json_lines(content)]

    async def close(self) -> None:
        await self.messages.close()

    async def _content(self, remote_id: str) -> bytes:
        """The results as they are: the SDK's own reader says nothing of a line that is cut, and raises errors of another tree."""
        async with self._translated():
            return await self.client.get(f"/v1/messages/batches/{remote_id}/results", cast_to=bytes)

    @asynccontextmanager
    async def _translated(self, *, sending: bool = False) -> AsyncIterator[None]:
        import anthropic

        try:
            yield
        except anthropic.AnthropicError as error:
            if sending and getattr(error, "status_code", None) in NO_INTERFACE:
                raise ProviderError(f"{self.address.host} has no batch interface; leave out +batch") from None
            raise translate(self.address, error) from None  # its own words may hold a key


def _total(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def _outcome(address: Address, content: dict[str, Any]) -> Outcome:
    result = content.get("result")
    if not isinstance(result, dict):
        return Fault("the row holds no result", billed=True)
    if result.get("type") == "succeeded":
        try:
            return read_message(result.get("message"))
        except (Fault, RejectedError, ProviderError) as wrong:
            return wrong
    if result.get("type") == "errored":
        body = result.get("error")
        inner = body.get("error", body) if isinstance(body, dict) else None
        kind = inner.get("type") if isinstance(inner, dict) else None
        return failed(address, _STATUS.get(str(kind), 500), body)
    return Fault(f"the request was {result.get('type')} in the batch")  # expired, canceled: not billed
