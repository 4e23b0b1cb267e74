"""What is in a batch, and what its rows mean: ids, progress, results, and the rows of the log that they become.

A batch's requests are kept with it in the run file, so that its replies can be logged by a process that never asked for
them. Pure: no network and no store. What sends and waits is `batch.py`; what speaks a protocol is beside it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pydantic import BaseModel

from glossator.errors import ProviderError, RejectedError
from glossator.llm.base import Address, Fault, RawReply, ReplyLog, request_json
from glossator.llm.faults import translate
from glossator.llm.ledger import Money
from glossator.llm.live import call_row
from glossator.llm.prices import Price, most
from glossator.rows import BatchRequestRow, BatchRow, CallRow
from glossator.types import Message, Request

Outcome = RawReply | Fault | RejectedError | ProviderError


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a batch's results. A Fault may succeed in another batch; RejectedError ends the question, ProviderError the run."""

    custom_id: str
    outcome: Outcome
    place: str = ""  # file and line, where there is one


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. `refused`: why it was refused as a whole; `crowded`: it may be taken when others have ended."""

    ended: bool
    succeeded: int | None = None  # requests that the provider says it answered; None: it does not say
    refused: str | None = None
    crowded: bool = False
    gone: bool = False  # the provider knows no such batch


class BatchProvider(Protocol):
    """One protocol's batches. All of it raises Fault where another attempt may succeed, ProviderError where none will."""

    @property
    def address(self) -> Address: ...

    @property
    def where(self) -> Callable[[str, int], str] | None:
        """None: the end of a batch is waited for. Else rows are read as far as they are there, and the run is stopped;
        from a batch's id and how many replies are missing, this says what is to be done for them."""
        ...

    @property
    def limits(self) -> tuple[int, int]:
        """Requests and bytes of one batch, at most."""
        ...

    def size(self, request: Request) -> int:
        """Bytes that a request takes in a batch, at most."""
        ...

    async def send(self, batch_id: str, requests: Sequence[tuple[str, Request]]) -> str:
        """Send custom ids and requests. Returns the id that the provider gave the batch."""
        ...

    async def find(self, row: BatchRow, known: Set[str]) -> str | None:
        """The provider's id of a batch that may have been sent without our knowing; `known` are other batches' ids."""
        ...

    async def progress(self, row: BatchRow) -> Progress: ...

    async def results(self, row: BatchRow) -> list[Result]: ...

    async def close(self) -> None: ...


class BatchBooks(ReplyLog, Protocol):
    """A reply log that also keeps batches: the store's."""

    session_id: str

    async def put_batch(self, row: BatchRow, requests: Sequence[BatchRequestRow] = ()) -> None: ...

    async def settle_batch(self, row: BatchRow, calls: Sequence[CallRow]) -> None: ...

    def open_batches(self) -> list[BatchRow]: ...

    def batch_requests(self, batch_id: str) -> Iterator[BatchRequestRow]: ...

    def batch_logged(self, batch_id: str) -> set[str]: ...

    def times_batched(self, batch_id: str) -> dict[str, int]: ...


# --------------------------------------------------------------------------- ids


def custom_id(batch_id: str, call_id: str) -> str:
    """33 characters of those that all providers accept; who reads it knows the batch."""
    return f"{call_id}-{batch_id}"


def parts(custom: str) -> tuple[str, str] | None:
    """(call id, batch id), or None where the id is not of our making."""
    call_id, dash, batch_id = custom.partition("-")
    good = dash and all(len(x) == 16 and set(x) <= set("0123456789abcdef") for x in (call_id, batch_id))
    return (call_id, batch_id) if good else None


# --------------------------------------------------------------------------- rows


class RowError(Exception):
    """An error inside a batch, in the shape of an SDK's, so that it means what it means elsewhere."""

    def __init__(self, status_code: int, body: Any) -> None:
        super().__init__(str(body))
        self.status_code, self.body = status_code, body


def failed(address: Address, status: int, body: Any) -> Outcome:
    """What a row's error means. What was not answered in a batch is not billed."""
    error = translate(address, RowError(status, body))
    if isinstance(error, RejectedError | ProviderError):
        return error
    return Fault(str(error))


def json_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """Raises Fault for what is no JSON: a download may have been cut."""
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise Fault(f"line {number} of a batch's results is no JSON") from error
            if isinstance(found, dict):
                yield found


# --------------------------------------------------------------------------- what was kept


@dataclass(frozen=True)
class _Kept(Request):
    """A question as the run file has it: of the form of its reply, the schema alone is known."""

    form: Mapping[str, Any] = field(default_factory=dict)

    @property
    def schema(self) -> dict[str, Any]:
        return dict(self.form)


def kept_rows(batch_id: str, address: Address, requests: Mapping[str, Request]) -> list[BatchRequestRow]:
    """Questions by their call ids, as the run file keeps them."""
    return [
        BatchRequestRow(batch_id, call_id, r.purpose, r.about, r.prompt_id, request_json(address, r))
        for call_id, r in requests.items()
    ]


def _kept(row: BatchRequestRow) -> Request:
    found = json.loads(row.request)
    return _Kept(
        purpose=row.purpose,
        messages=tuple(Message(m["role"], m["content"]) for m in found["messages"]),
        answer=BaseModel,
        max_tokens=found["max_tokens"],
        temperature=found["temperature"],
        logprobs=found["logprobs"],
        sample=found["sample"],
        attempt=found["attempt"],
        about=row.about,
        prompt_id=row.prompt_id,
        form=found["schema"],
    )


def reserved(row: BatchRow) -> Money:
    return Money(row.reserved_usd, row.reserved_tokens)


def in_batch(price: Price | None) -> Price | None:
    """The price of a token in a batch."""
    if price is None:
        return None
    share = price.batch
    return Price(price.input * share, price.output * share, price.cache_read * share, price.cache_write * share, 1.0)


@dataclass
class Settled:
    """calls: to log. outcomes: of each call that has one. missing: calls that still wait, and what they have reserved."""

    calls: list[CallRow] = field(default_factory=list)
    outcomes: dict[str, CallRow | Exception] = field(default_factory=dict)
    missing: int = 0
    left: Money = field(default_factory=Money)
    billed: Money = field(default_factory=Money)
    strange: list[Result] = field(default_factory=list)


def settle(
    batch: BatchRow,
    requests: Iterable[BatchRequestRow],
    logged: Set[str],
    results: Sequence[Result],
    progress: Progress,
    books: tuple[Address, str, Price | None],
) -> Settled:
    """Match results, in any order and as often as they come, with a batch's requests. books: address, session, price.

    logged: calls of the batch that are in the log. A request without a result is as good as billed where the provider says that it answered more than it gave.
    """
    address, session_id, price = books
    began = time.monotonic() - max(0.0, time.time() - batch.changed)
    found: dict[str, Result] = {}
    out = Settled()
    for result in results:
        ours = parts(result.custom_id)
        if ours is None or ours[1] != batch.batch_id:
            out.strange.append(result)
        elif ours[0] not in found or not isinstance(found[ours[0]].outcome, RawReply):
            found[ours[0]] = result
    answered = sum(isinstance(result.outcome, RawReply) for result in found.values())
    doubtful = progress.succeeded is None or progress.succeeded > answered
    for row in requests:
        match = found.pop(row.call_id, None)
        if row.call_id in logged:  # when less of the batch was there
            continue
        kept = _kept(row)
        if match is None and not progress.ended:
            out.missing, out.left = out.missing + 1, out.left + most(kept, price)
            continue
        outcome = match.outcome if match else Fault("the batch ended without its reply", billed=doubtful)
        raw = outcome if isinstance(outcome, RawReply) else None
        if raw is None and not (isinstance(outcome, Fault) and outcome.billed):
            assert not isinstance(outcome, RawReply)
            out.outcomes[row.call_id] = outcome
            continue
        error = None if raw else str(outcome)[:300]
        call = call_row(address, row.call_id, kept, raw, error, (session_id, price, batch.changed, began))
        call = replace(call, request=row.request, batch_id=batch.batch_id)
        out.calls.append(call)
        out.billed += Money(call.usd or 0.0, (call.input_tokens or 0) + (call.output_tokens or 0))
        out.outcomes[row.call_id] = call if isinstance(outcome, RawReply) else outcome
    out.strange += found.values()
    return out
