"""Questions one by one: a place in the limiter, a reservation in the ledger, one attempt, the log; retries by tenacity alone.

Every attempt ends in one of four ways: a reply, logged before it is returned; a fault after which nothing was billed;
a fault after which something may have been billed, booked in full; or an error that ends the question or the run.
"""

from __future__ import annotations

import asyncio
import json
import time

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from glossator.config import LLMConfig
from glossator.errors import ProviderError, RejectedError, UnavailableError
from glossator.llm.base import Address, Fault, Provider, RawReply, ReplyLog, request_json
from glossator.llm.ledger import Ledger, Money
from glossator.llm.limiter import Limiter
from glossator.llm.prices import Price, most, plausible
from glossator.llm.secrets import redact
from glossator.rows import CallRow
from glossator.types import Request, Usage


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
        self._wait = wait_random_exponential(multiplier=config.first_wait, max=config.longest_wait)
        self._over: ProviderError | None = None

    @property
    def address(self) -> Address:
        return self.provider.address

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        """One reply, or UnavailableError, RejectedError; ProviderError where the run is over, BudgetSpent."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self.config.attempts),
            retry=retry_if_exception_type(Fault),
            wait=self._pause,
            reraise=True,
        )
        try:
            return await attempts(self._attempt, call_id, request)
        except Fault as fault:
            raise UnavailableError(
                f"{self.address}: no reply after {self.config.attempts} attempts, the last: {redact(str(fault))}"
            ) from fault

    async def close(self) -> None:
        await self.provider.close()

    def _pause(self, state: RetryCallState) -> float:
        """What the provider asked for, or ever longer, with jitter."""
        fault = state.outcome.exception() if state.outcome else None
        own = self._wait(state)
        asked = fault.retry_after if isinstance(fault, Fault) else None
        return own if asked is None else min(asked, self.config.longest_wait) + own / 10

    async def _attempt(self, call_id: str, request: Request) -> CallRow:
        if self._over:
            raise self._over
        async with self.limiter.slot() as started:
            if self._over:  # found out while this one waited
                raise self._over
            reserved = most(request, self.price)
            await self.ledger.reserve(reserved)
            asked_at, began = time.time(), time.monotonic()
            try:
                async with asyncio.timeout(self.config.timeout):
                    raw = await self.provider.ask(request)
            except TimeoutError as error:
                fault = Fault(f"no reply within {self.config.timeout:g} s", billed=True)
                await self._faulted(fault, call_id, request, reserved, (asked_at, began))
                raise fault from error
            except Fault as fault:
                await self._faulted(fault, call_id, request, reserved, (asked_at, began))
                if fault.overload:
                    self.limiter.overloaded(started)
                    if fault.retry_after:
                        self.limiter.pause(min(fault.retry_after, self.config.longest_wait))
                raise
            except ProviderError as error:
                self._over = error
                self.ledger.release(reserved)
                raise
            except RejectedError:
                self.ledger.release(reserved)
                raise
            except BaseException:  # stopped in the middle: it may be billed, and nobody will know
                self.ledger.lose(reserved)
                raise
            self.limiter.succeeded()
            return await self._keep(raw, call_id, request, reserved, (asked_at, began))

    async def _faulted(
        self, fault: Fault, call_id: str, request: Request, reserved: Money, when: tuple[float, float]
    ) -> None:
        try:
            if fault.billed:
                await self.log.put(self._row(call_id, request, None, reserved, when, redact(str(fault))[:300]))
        finally:
            self.ledger.settle(reserved, reserved if fault.billed else Money())
        self.limiter.failed(redact(str(fault)))

    async def _keep(
        self, raw: RawReply, call_id: str, request: Request, reserved: Money, when: tuple[float, float]
    ) -> CallRow:
        row = self._row(call_id, request, raw, reserved, when, None)
        try:
            await asyncio.shield(self.log.put(row))
        finally:
            billed = Money(row.usd or 0.0, (row.input_tokens or 0) + (row.output_tokens or 0))
            self.ledger.settle(reserved, billed)
        return row

    def _row(
        self,
        call_id: str,
        request: Request,
        raw: RawReply | None,
        reserved: Money,
        when: tuple[float, float],
        error: str | None,
    ) -> CallRow:
        return call_row(self.address, call_id, request, raw, error, (self.session_id, self.price, *when))


def call_row(
    address: Address,
    call_id: str,
    request: Request,
    raw: RawReply | None,
    error: str | None,
    books: tuple[str, Price | None, float, float],
) -> CallRow:
    """A question and what came of it, as the log keeps it. books: session, price, and when it was asked by both clocks.

    A usage that cannot be, and a reply that may have been billed and never came, are booked at the most they can be.
    """
    session_id, price, asked_at, began = books
    note = error
    usage: Usage | None = raw.usage if raw else None
    if raw is None or not plausible(request, raw.text, usage):
        bound = most(request, price)
        if raw is not None:
            note = f"usage cannot be right ({usage}): booked at the most it can be"[:300]
        usage, usd = None, bound.usd
        tokens: tuple[int | None, int | None] = (bound.tokens - request.max_tokens, request.max_tokens)
    else:
        assert usage is not None
        usd, tokens = (price.of(usage) if price else 0.0), (usage.input, usage.output)
    return CallRow(
        call_id, session_id, request.purpose, request.about, request.prompt_id, address.provider, address.host, address.model,
        request_json(address, request), raw.text if raw else None, raw.model if raw else None, raw.finish if raw else None,
        tokens[0], tokens[1], usage.cache_read if usage else None, usage.cache_write if usage else None,
        None if price is None else usd, json.dumps(raw.logprobs) if raw and raw.logprobs is not None else None,
        time.monotonic() - began, asked_at, None, note,
    )  # fmt: skip
