"""The one LLM that is no double: the log first, then a transport; the reply is read from the log, and asked for once more if it cannot be.

Equal questions that are in flight at the same time share one call. A reply that has not the form asked for is shown to the
model with what is wrong with it, as a new question with an identity of its own, so that this too is replayed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from dataclasses import replace

from pydantic import BaseModel, ValidationError

from glossator.errors import CutOffError, RefusedError, UnparsableError
from glossator.llm.base import Address, ReplyLog, Transport, call_id
from glossator.llm.secrets import printable
from glossator.rows import CallRow
from glossator.types import Message, Reply, Request, Usage

_MORE_ROOM = 4  # times max_tokens: models that think spend them on thinking too
_TRIES = 256  # braces in a reply at which an object is looked for
_BROKEN = re.compile(r'\{\s*"[^"]*"\s*:')  # begins as an object does
_SHOWN = 2000  # characters of a bad reply that the model is shown again


class Client:
    """`Client(transport, log)`: raises RefusedError, CutOffError and UnparsableError, and whatever the transport raises."""

    def __init__(self, transport: Transport, log: ReplyLog) -> None:
        self.transport, self.log = transport, log
        self._flying: dict[str, asyncio.Task[CallRow]] = {}

    @property
    def name(self) -> str:
        return str(self.transport.address)

    @property
    def address(self) -> Address:
        return self.transport.address

    async def complete(self, request: Request) -> Reply:
        row = await self._row(request)
        try:
            return _read(request, row)
        except (UnparsableError, CutOffError) as error:
            again = _again(request, row, error)
        return _read(again, await self._row(again))

    async def close(self) -> None:
        """Gives up what is still in flight, and waits until it is booked."""
        flying = list(self._flying.values())
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)
        await self.transport.close()

    async def _row(self, request: Request) -> CallRow:
        identity = call_id(self.transport.address, request)
        task = self._flying.get(identity)
        if task is None:
            task = self._flying[identity] = asyncio.create_task(self._find(identity, request))
            task.add_done_callback(lambda done: self._landed(identity, done))
        return await asyncio.shield(task)  # who gives up waiting does not take the others' reply away

    def _landed(self, identity: str, done: asyncio.Task[CallRow]) -> None:
        self._flying.pop(identity, None)
        if not done.cancelled():
            done.exception()  # those who still wait have it; if nobody does, it was abandoned on purpose

    async def _find(self, identity: str, request: Request) -> CallRow:
        return await self.log.get(identity) or await self.transport.fetch(identity, request)


def _read(request: Request, row: CallRow) -> Reply:
    """The value in a reply. Raises where the model declined, was cut off, or said something else."""
    text = row.reply or ""
    if row.finish == "refusal":
        raise RefusedError(
            f"{row.model}: the model declined: {' '.join(printable(text).split())[:200] or 'it gave no reason'}"
        )
    try:
        value = _value(request, text)
    except ValidationError as error:
        if row.finish == "length":
            raise CutOffError(f"{row.model}: the reply was cut off at {request.max_tokens} tokens") from error
        raise UnparsableError(f"{row.model}: the reply has not the form asked for: {_what(error)}") from error
    except RecursionError as error:
        raise UnparsableError(f"{row.model}: the reply is nested without end") from error
    known = row.input_tokens is not None and row.output_tokens is not None
    usage = (
        Usage(row.input_tokens or 0, row.output_tokens or 0, row.cache_read_tokens or 0, row.cache_write_tokens or 0)
        if known
        else None
    )
    logprobs = (
        None
        if row.logprobs is None
        else tuple(tuple((token, float(value)) for token, value in place) for place in json.loads(row.logprobs))
    )
    return Reply(value, text, row.replied_by or row.model, usage, row.seconds, row.call_id, logprobs)


def _value(request: Request, text: str) -> BaseModel:
    """The first object in a reply that has the form asked for. Raises what is wrong with the first one, if none has."""
    wrong: ValidationError | None = None
    for found in _objects(text):
        try:
            return request.answer.model_validate_json(found, context=request.asked)
        except ValidationError as error:
            wrong = wrong or error
    if wrong:
        raise wrong
    first, last = text.find("{"), text.rfind("}")
    return request.answer.model_validate_json(
        text[first : last + 1] if 0 <= first < last else text, context=request.asked
    )


def _objects(text: str) -> Iterator[str]:
    """The JSON objects of a reply, without the thoughts, fences and words that some models put around them.

    First those after the last thought; a claim may hold the mark of a thought's end itself, so then those of the whole. An
    object that is broken or cut off ends the search: a part of it is not the reply.
    """
    decoder = json.JSONDecoder()
    for part in dict.fromkeys((text.rpartition("</think>")[2], text)):
        place = part.find("{")
        for _ in range(_TRIES):
            if place < 0:
                break
            try:
                _, after = decoder.raw_decode(part, place)
            except ValueError:
                if _BROKEN.match(part, place):
                    break
                after = place + 1
            else:
                yield part[place:after]
            place = part.find("{", after)


def _what(error: ValidationError) -> str:
    """What is wrong, without the text that was wrong: it may be long, and came from outside."""
    found = [f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors(include_input=False)[:4]]
    return " ".join(printable("; ".join(found)).split())[:400]


def _again(request: Request, row: CallRow, error: Exception) -> Request:
    """The question once more: with the bad reply and what is wrong with it, or with more room where it was cut off."""
    if isinstance(error, CutOffError):
        return replace(request, max_tokens=request.max_tokens * _MORE_ROOM)
    said = (row.reply or "").strip()[:_SHOWN] or "(an empty reply)"
    complaint = f"That reply cannot be used ({str(error).split(': ', 1)[-1]}). Answer again, with one JSON object of the form asked for and nothing else."
    return replace(request, messages=(*request.messages, Message("assistant", said), Message("user", complaint)))
