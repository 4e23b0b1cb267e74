"""OpenAI's Batch API: a file of requests is uploaded, a batch is made of it, and its two files of results are read.

The batch carries our own id as metadata, so one that was sent without our knowing is found in the provider's list. A file
that was uploaded and never used costs nothing and expires. Nothing is learned from refusals here: a batch's bodies are
those of a model that takes structured output.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence, Set
from contextlib import asynccontextmanager
from typing import Any

from glossator.config import LLMConfig
from glossator.errors import ProviderError, RejectedError
from glossator.llm.base import Address, Fault
from glossator.llm.batch_rows import Outcome, Progress, Result, failed, json_lines
from glossator.llm.faults import translate
from glossator.llm.openai_chat import OpenAIChat, read_completion
from glossator.llm.spec import Spec
from glossator.rows import BatchRow
from glossator.types import Request

LIMITS = (49_000, 190_000_000)  # the provider's: 50,000 requests, 200 MB
URL = "/v1/chat/completions"
_MARK = "glossator_batch"  # the metadata that holds our id
_EARLIER = 86_400  # seconds that the provider's clock may be behind ours
NO_INTERFACE = (404, 405, 501)  # what a server says that knows no such address
_ENDED = ("completed", "expired", "cancelled")
_CROWDED = "token_limit_exceeded"  # more tokens waiting than the account may have


class OpenAIBatch:
    """`OpenAIBatch(spec, config)`: raises ProviderError where the provider's own host is asked without a key."""

    where = None  # its end is waited for

    def __init__(self, spec: Spec, config: LLMConfig, limits: tuple[int, int] = LIMITS) -> None:
        self.chat = OpenAIChat(spec, config)
        self.client, self.limits = self.chat.client, limits

    @property
    def address(self) -> Address:
        return self.chat.address

    def size(self, request: Request) -> int:
        return len(line("x" * 33, self.chat.body(request)))

    async def send(self, batch_id: str, requests: Sequence[tuple[str, Request]]) -> str:
        lines = (line(custom_id, self.chat.body(request)) for custom_id, request in requests)
        content = await asyncio.to_thread(b"".join, lines)  # seconds, for a full one
        async with self._translated(sending=True):
            file = await self.client.files.create(file=(f"{batch_id}.jsonl", content), purpose="batch")
            batch = await self.client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_MARK: batch_id},
            )
            return batch.id

    async def find(self, row: BatchRow, known: Set[str]) -> str | None:
        import openai

        async with self._translated():
            try:
                async for batch in self.client.batches.list(limit=100):  # newest first
                    if (batch.metadata or {}).get(_MARK) == row.batch_id:
                        return batch.id
                    if batch.created_at < row.changed - _EARLIER:
                        break
            except openai.APIStatusError as error:
                if error.status_code not in NO_INTERFACE:
                    raise
        return None

    async def progress(self, row: BatchRow) -> Progress:
        import openai

        async with self._translated():
            try:
                batch = await self.client.batches.retrieve(row.remote_id or "")
            except openai.NotFoundError:
                return Progress(ended=True, gone=True)
        if batch.status == "failed":
            errors = (batch.errors.data if batch.errors else None) or []
            words = [f"{e.code}: {e.message}" + (f" (line {e.line})" if e.line else "") for e in errors[:2]]
            crowded = any(e.code == _CROWDED for e in errors)
            return Progress(ended=True, refused="; ".join(words) or "it does not say why", crowded=crowded)
        counts = batch.request_counts
        return Progress(ended=batch.status in _ENDED, succeeded=counts.completed if counts else None)

    async def results(self, row: BatchRow) -> list[Result]:
        found: list[Result] = []
        async with self._translated():
            batch = await self.client.batches.retrieve(row.remote_id or "")
            for file in (batch.output_file_id, batch.error_file_id):
                if file:
                    content = (await self.client.files.content(file)).content
                    found += [
                        Result(str(one.get("custom_id")), read_row(self.address, one)) for one in json_lines(content)
                    ]
        return found

    async def close(self) -> None:
        await self.chat.close()

    @asynccontextmanager
    async def _translated(self, *, sending: bool = False) -> AsyncIterator[None]:
        import openai

        try:
            yield
        except openai.OpenAIError as error:
            if sending and getattr(error, "status_code", None) in NO_INTERFACE:
                raise ProviderError(f"{self.address.host} has no batch interface; leave out +batch") from None
            raise translate(self.address, error) from None  # its own words may hold a key


def line(custom_id: str, body: dict[str, Any]) -> bytes:
    """A request as a batch's file holds it."""
    content = {"custom_id": custom_id, "method": "POST", "url": URL, "body": body}
    return json.dumps(content).encode() + b"\n"


def read_row(address: Address, content: dict[str, Any]) -> Outcome:
    """What a row of an output file or an error file says."""
    response, error = content.get("response"), content.get("error")
    if isinstance(response, dict) and isinstance(status := response.get("status_code"), int):
        body = response.get("body")
        if status != 200:
            return failed(address, status, body or error)
        try:
            return read_completion(body)
        except (Fault, RejectedError, ProviderError) as wrong:
            return wrong
    if isinstance(error, dict):  # batch_expired, batch_cancelled, or a failure inside the provider
        return Fault(f"{error.get('code')}: {' '.join(str(error.get('message')).split())[:160]}")
    return Fault("the row holds neither a response nor an error", billed=True)
