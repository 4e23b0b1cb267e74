"""Questions one by one: a place in the limiter, a reservation in the ledger, one attempt, the log; retries by tenacity alone.

Every attempt ends in one of four ways: a reply, logged before it is returned; a fault after which nothing was billed;
a fault after which something may have been billed, booked in full; or an error that ends the question or the run.
"""

from __future__ import annotations

import asyncio
import json
import time

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from glossator.config import LLMConfig
from glossator.errors import BatchWaiting, ProviderError, RejectedError, UnavailableError
from glossator.llm.base import Address, Fault, Provider, RawReply, ReplyLog, request_json
from glossator.llm.ledger import Ledger, Money
from glossator.llm.limiter import Limiter
from glossator.llm.prices import Price, booked, exceeds, most, plausible, worst
from glossator.llm.secrets import printable, redact, without_keys
from glossator.rows import CallRow
from glossator.types import Request, Usage

_SHARE_LOGGING = 4  # beside the questions in flight, replies on their way to the disk: at most one for so many of them


class Live:
    """`price` None: dollars are unknown, and are logged as such."""

    def __init__(
        self,
        provider: Provider,
        limiter: Limiter,
        log: ReplyLog,
        ledger: Ledger,
        price: Price | None,
        config: LLMConfig,
        session_id: str,
    ) -> None:
        self.provider, self.limiter, self.log, self.ledger, self.price = provider, limiter, log, ledger, price
        self.config, self.session_id = config, session_id
        self.out: frozenset[str] = frozenset()  # calls that are out in a batch: they are paid for
        self._turn = asyncio.Lock()
        self._logging = 0  # replies that are here and not yet on disk
        self._wait = wait_random_exponential(multiplier=config.first_wait, max=config.longest_wait)

    @property
    def address(self) -> Address:
        return self.provider.address

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        """One reply, or UnavailableError, RejectedError; ProviderError where the run is over, BudgetSpent, BatchWaiting."""
        if call_id in self.out:
            raise BatchWaiting(
                f"{self.address}: this question and {len(self.out) - 1} others are out in a batch; run with +batch to have the replies"
            )
        began = time.monotonic()
        attempts = AsyncRetrying(
            stop=lambda state: self._enough(state, began),
            retry=retry_if_exception_type(Fault),
            wait=self._pause,
            sleep=self.limiter.sleep,
            reraise=True,
        )
        try:
            return await attempts(self._attempt, call_id, request)
        except Fault as fault:
            said = redact(str(fault))
        count = attempts.statistics["attempt_number"]
        raise UnavailableError(f"{self.address}: no reply after {count} attempts, the last: {said}")

    async def close(self) -> None:
        await self.provider.close()

    def _enough(self, state: RetryCallState, began: float) -> bool:
        """Whether a question is given up. Where nobody gets through, that is not its fault: patience ends the run."""
        fault = state.outcome.exception() if state.outcome else None
        if isinstance(fault, Fault) and (fault.overload or fault.unreached):
            return state.attempt_number >= self.config.attempts and self.limiter.succeeded_since(began)
        return state.attempt_number >= self.config.attempts

    def _pause(self, state: RetryCallState) -> float:
        """What the provider asked for, or ever longer, with jitter."""
        fault = state.outcome.exception() if state.outcome else None
        own = self._wait(state)
        asked = fault.retry_after if isinstance(fault, Fault) else None
        return own if asked is None else min(asked, self.config.patience) + own / 10

    async def _attempt(self, call_id: str, request: Request) -> CallRow:
        async with self.limiter.slot() as leave:
            reserved = most(request, self.price)
            await self.ledger.reserve(reserved)
            try:
                await self.limiter.ready()  # that may have taken long
            except BaseException:
                self.ledger.release(reserved)
                raise
            await self._take_turn(reserved)
            started, when = time.monotonic(), (time.time(), time.monotonic())
            try:
                raw = await self._ask(request)
            except Fault as fault:
                await self._faulted(fault, call_id, request, reserved, when)
                if fault.overload:
                    self.limiter.overloaded(started)
                    self.limiter.pause(fault.retry_after or 0.0)
                raise
            except ProviderError as error:
                self.ledger.release(reserved)
                self.limiter.stop(str(error))
                raise
            except RejectedError:
                self.ledger.release(reserved)
                self.limiter.succeeded()  # it is there, and reads what it is sent
                raise
            except BaseException:  # stopped in the middle: it may be billed, and nobody will know
                self.ledger.lose(reserved)
                raise
            self.limiter.succeeded()
            if self._logging < self.limiter.most // _SHARE_LOGGING:
                leave()  # the next question need not wait for the disk; what a kill may repeat stays bounded
            self._logging += 1
            try:
                row = await self._book(call_id, request, raw, reserved, when, None)
            finally:
                self._logging -= 1
            self._check_bound(request, raw)
            return row

    async def _take_turn(self, reserved: Money) -> None:
        """One question is begun in a round of the event loop: many at once would hold it up, and come back all at once."""
        try:
            async with self._turn:
                await asyncio.sleep(0)
        except BaseException:
            self.ledger.release(reserved)
            raise

    def _check_bound(self, request: Request, raw: RawReply) -> None:
        """Where a server bills more than was reserved, all that is in flight may pass the budget: send no more. The reply is kept."""
        budgeted = self.ledger.budget_usd is not None or self.ledger.budget_tokens is not None
        if budgeted and exceeds(request, raw.usage):
            assert raw.usage is not None
            self.limiter.stop(
                f"{self.address}: the server at {self.address.host or 'hand'} bills more than max_tokens and the question allow "
                f"({raw.usage.input:,} tokens in, {raw.usage.output:,} out, of at most {request.max_tokens:,}); "
                "a budget cannot hold here: run without --budget-usd and --budget-tokens, or ask another server"
            )
            self.limiter.check()

    async def _ask(self, request: Request) -> RawReply:
        try:
            async with asyncio.timeout(self.config.timeout):
                return await self.provider.ask(request)
        except TimeoutError:
            raise Fault(f"no reply within {self.config.timeout:g} s", billed=True) from None

    async def _faulted(
        self, fault: Fault, call_id: str, request: Request, reserved: Money, when: tuple[float, float]
    ) -> None:
        said = redact(str(fault))
        if fault.billed:
            await self._book(call_id, request, None, reserved, when, said[:300])
        else:
            self.ledger.release(reserved)
        self.limiter.failed(said, call_id, everybody=fault.overload or fault.unreached, unreached=fault.unreached)

    async def _book(
        self,
        call_id: str,
        request: Request,
        raw: RawReply | None,
        reserved: Money,
        when: tuple[float, float],
        error: str | None,
    ) -> CallRow:
        """Log, then settle. What is not known to be on disk is lost, and stays booked in full."""
        actual = None
        try:
            row = call_row(self.address, call_id, request, raw, error, (self.session_id, self.price, *when))
            putting = asyncio.ensure_future(self.log.put(row))
            try:
                await asyncio.shield(putting)
            finally:
                await asyncio.wait([putting])  # it was bought: the log gets it, even as the run is stopped
                if not putting.cancelled() and putting.exception() is None:
                    actual = Money(row.usd or 0.0, (row.input_tokens or 0) + (row.output_tokens or 0))
            return row
        finally:
            if actual is None:
                self.ledger.lose(reserved)
            else:
                self.ledger.settle(reserved, actual)


def call_row(
    address: Address,
    call_id: str,
    request: Request,
    raw: RawReply | None,
    error: str | None,
    books: tuple[str, Price | None, float, float],
) -> CallRow:
    """A question and what came of it, as the log keeps it: without our keys, and as text that a file can hold.

    books: session, price, and when it was asked by both clocks. A usage that cannot be, and a reply that may have been
    billed and never came, are booked at the most they can be; a usage beyond that as it was told.
    """
    session_id, price, asked_at, began = books
    note = error
    usage: Usage | None = raw.usage if raw else None
    if raw is None or not plausible(request, raw.text, usage):
        taken = booked(request, usage)
        if raw is not None and exceeds(request, usage):
            note = f"usage is more than it can be ({usage}): booked as it was told"[:300]
        elif raw is not None:
            note = f"usage cannot be right ({usage}): booked at the most it can be"[:300]
        usage, usd = None, worst(taken, price).usd
    else:
        assert usage is not None
        usd, taken = (price.of(usage) if price else 0.0), usage
    said = (_text(raw.text), printable(_text(raw.model)), printable(_text(raw.finish))) if raw else (None, None, None)
    return CallRow(
        call_id, session_id, request.purpose, request.about, request.prompt_id, address.provider, address.host, address.model,
        request_json(address, request), said[0], said[1], said[2],
        taken.input, taken.output, usage.cache_read if usage else None, usage.cache_write if usage else None,
        None if price is None else usd, json.dumps(raw.logprobs) if raw and raw.logprobs is not None else None,
        time.monotonic() - began, asked_at, None, note,
    )  # fmt: skip


def _text(said: str) -> str:
    """What a server said, without half characters, which no file takes, and without a key that it echoed."""
    return without_keys(said.encode("utf-8", "replace").decode("utf-8"))
