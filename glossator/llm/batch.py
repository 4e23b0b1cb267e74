"""Questions by the batch: what is asked within a while is sent together, costs less, and is answered within a day.

A question is reserved in the ledger and joins those that wait. They are sent when a batch is full, or when nothing was
added for `batch_idle` seconds and the caller has nothing more to add. Before a batch is sent, what it holds is written
down; when it was sent, its id. So the next process goes on where this one was stopped: a batch that is out is waited for,
one that may be out is looked for first, and a question that is in either is not sent again. The end of a batch and its
replies are one transaction.

Reservations of what was not sent die with the process; those of a batch stand in its row. So there is no mark to keep.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from glossator.config import LLMConfig
from glossator.errors import BatchWaiting, ProviderError, RejectedError, UnavailableError
from glossator.llm.base import Address, Fault
from glossator.llm.batch_rows import (
    BatchBooks,
    BatchProvider,
    Progress,
    Result,
    custom_id,
    in_batch,
    kept_rows,
    reserved,
    settle,
)
from glossator.llm.gathering import Gathering, Waiting, end
from glossator.llm.ledger import Ledger, Money
from glossator.llm.patience import patiently
from glossator.llm.prices import Price, most
from glossator.llm.secrets import redact
from glossator.rows import BatchRow, CallRow
from glossator.types import Request, content_id

_KEPT = 31 * 86_400  # seconds after which no provider has a batch's results any more

T = TypeVar("T")


class _RefusedError(Exception):
    """The provider took nothing of a batch, and will not."""


class Batches:
    """`price` None: dollars are unknown. idle: whether the caller has nothing more to add just now. say: for what people should know."""

    def __init__(
        self,
        provider: BatchProvider,
        books: BatchBooks,
        ledger: Ledger,
        price: Price | None,
        config: LLMConfig,
        idle: Callable[[], bool] = lambda: True,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.provider, self.books, self.ledger = provider, books, ledger
        self.price, self.config, self.idle = in_batch(price), config, idle
        self.say = say or logging.getLogger(__name__).warning
        self._gathering = Gathering(ledger, provider.limits, provider.size, self._send_off)
        self._member: dict[str, str] = {}  # call -> the batch that it is in, or will be
        self._futures: dict[str, asyncio.Future[CallRow]] = {}  # of calls that somebody waits for
        self._unclaimed: dict[str, Exception] = {}  # how questions ended that nobody had asked yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._unseen: set[str] = set()  # batches of earlier processes that were not looked at yet
        self._sent: dict[str, str] = {}  # batches that are out: our id, the provider's
        self._stirred, self._stirred_at = asyncio.Event(), 0.0
        self._not_before, self._number, self._crowded = 0.0, 0, 0
        self._blockers: set[str] = set()
        self._ready: asyncio.Task[None] | None = None
        self._over: BaseException | None = None

    @property
    def address(self) -> Address:
        return self.provider.address

    def start(self) -> None:
        """In a running event loop: see what earlier processes left open, whether or not anybody asks for it."""
        if self._ready is None:
            self._ready = self._task(self._adopt())
            self._task(self._tend())

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        """One reply, or UnavailableError, RejectedError; ProviderError where the run is over, BudgetSpent, BatchWaiting."""
        self.start()
        assert self._ready is not None
        await asyncio.shield(self._ready)
        while True:
            if self._over:
                raise self._over
            if call_id in self._unclaimed:
                raise self._unclaimed.pop(call_id)
            if row := await self.books.get(call_id):
                return row
            if call_id not in self._member:
                await self._join(call_id, request)
                continue  # it may have ended, or the run, while this one waited for room
            self._stirred_at = time.monotonic()
            self._stirred.set()
            future = self._futures.get(call_id)
            if future is None:
                future = self._futures[call_id] = asyncio.get_running_loop().create_future()
            try:
                return await asyncio.shield(future)
            except Fault:  # nothing came of it in its batch: it goes into the next one
                continue
            except asyncio.CancelledError:
                self._leave(call_id)
                raise

    async def close(self) -> None:
        """What is out stays out, for the next process. What earlier ones left is looked at once, unless we were interrupted."""
        task = asyncio.current_task()
        if self._ready and not self._over and not (task and task.cancelling()):
            with suppress(TimeoutError):
                async with asyncio.timeout(self.config.timeout):
                    await asyncio.wait([self._ready])
                    while self._unseen and not self._over:
                        await asyncio.sleep(0.01)
        for task in [*self._tasks]:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.provider.close()

    # ------------------------------------------------------------------ joining and sending

    async def _join(self, call_id: str, request: Request) -> None:
        if any(0xD800 <= ord(c) < 0xE000 for m in request.messages if not m.text.isascii() for c in m.text):
            raise RejectedError(f"{self.address}: the question holds half characters")  # it would sink the whole batch
        bound = most(request, self.price)
        await self._gathering.reserve(bound)
        if self._over or call_id in self._member:  # found out while this one waited
            self.ledger.release(bound)
            return
        self._add(call_id, Waiting(request, bound))

    def _add(self, call_id: str, waiting: Waiting) -> None:
        self._gathering.add(call_id, waiting)
        self._member[call_id] = self._next_id()
        self._stirred_at = time.monotonic()
        self._stirred.set()

    def _leave(self, call_id: str) -> None:
        """Whoever asked does not wait any longer: what was not sent need not be."""
        if self._gathering.drop(call_id):
            self._answer(call_id, Fault("given up"), 0)

    def _next_id(self) -> str:
        return content_id("batch", self.books.session_id, self._number)

    def _send_off(self) -> None:
        task = self._task(self._carry(self._next_id(), self._gathering.take()))
        self._number += 1
        self._carriers.add(task)
        task.add_done_callback(self._carriers.discard)

    async def _tend(self) -> None:
        """Send what waits when nothing is added any more; where nobody waits for an end, stop those who do."""
        while True:
            await self._stirred.wait()
            idle = self.config.batch_idle
            while (left := self._stirred_at + idle - time.monotonic()) > 0 or not self.idle():
                await asyncio.sleep(max(left, idle / 10))
            self._stirred.clear()
            if self._gathering.entries:
                self._send_off()
            if self.provider.where is not None:
                if self._carriers:
                    await asyncio.wait(self._carriers)
                missing = Counter(batch for call, batch in self._member.items() if call not in self._gathering.entries)
                if missing:
                    said = "; ".join(self.provider.where(batch, n) for batch, n in missing.items())
                    self._halt(BatchWaiting(f"{self.address}: {said}; then run this again"), over=False)

    async def _carry(self, batch_id: str, entries: dict[str, Waiting]) -> None:
        """One batch from the intent to its end."""
        while (hold := self._not_before - time.monotonic()) > 0 or (
            self._blockers and self._blockers <= self._sent.keys()
        ):
            await asyncio.sleep(max(hold, self.config.batch_poll))
        if self._over:  # nobody waits any more
            self.ledger.release(sum((waiting.reserved for waiting in entries.values()), Money()))
            return
        if len(entries) > self._gathering.room:  # less is sent at once than when they were gathered
            for call_id, waiting in entries.items():
                self._add(call_id, waiting)
            return
        total = sum((waiting.reserved for waiting in entries.values()), Money())
        asked = {call_id: waiting.request for call_id, waiting in entries.items()}
        entries.clear()
        a, n = self.address, len(asked)
        row = BatchRow(batch_id, a.provider, a.host, a.model, "intent", None, n, total.usd, total.tokens, time.time())
        kept = await asyncio.to_thread(kept_rows, batch_id, a, asked)
        await asyncio.shield(self.books.put_batch(row, kept))
        kept.clear()
        row = await self._submit(row, [(custom_id(batch_id, call_id), r) for call_id, r in asked.items()])
        asked.clear()
        await self._follow(row)

    async def _submit(self, row: BatchRow, requests: Sequence[tuple[str, Request]]) -> BatchRow:
        """Send it, once: after an attempt of which nobody knows what came, it is looked for before the next."""
        tried = False

        async def attempt() -> str:
            nonlocal tried
            if tried and (found := await self.provider.find(row, {*self._sent.values()})):
                return found
            tried = True
            try:
                return await self.provider.send(row.batch_id, requests)
            except (ProviderError, RejectedError) as error:
                raise _RefusedError(str(error)) from error

        try:
            return await self._was_sent(row, await self._patiently(attempt))
        except _RefusedError as refused:
            error = ProviderError(f"{self.address}: the batch was not taken: {refused}")
            await self._give_up(row, str(refused), error)
            raise error from refused

    async def _was_sent(self, row: BatchRow, remote_id: str) -> BatchRow:
        row = replace(row, state="sent", remote_id=remote_id, changed=time.time())
        await asyncio.shield(self.books.put_batch(row))
        return row

    # ------------------------------------------------------------------ what earlier processes left

    async def _adopt(self) -> None:
        a = self.address
        rows = [r for r in await asyncio.to_thread(self.books.open_batches) if r.provider == a.provider]
        mine = [row for row in rows if (row.host, row.model) == (a.host, a.model)]
        for row in rows:
            if row not in mine:
                self.say(
                    f"batch {row.batch_id} of {row.provider}:{row.model} is open too; run with that model to have it"
                )
        for row in mine:
            kept = await asyncio.to_thread(list, self.books.batch_requests(row.batch_id))
            logged = await asyncio.to_thread(self.books.batch_logged, row.batch_id)
            self._member |= {one.call_id: row.batch_id for one in kept if one.call_id not in logged}
            self.ledger.take_over(reserved(row))
        self._unseen |= {row.batch_id for row in mine}
        tasks = [self._task(self._resume(row)) for row in mine]
        if tasks and self.provider.where is not None:  # what is there is read before anybody asks
            await asyncio.wait(tasks)

    async def _resume(self, row: BatchRow) -> None:
        try:
            if row.remote_id is None:
                found = await self._patiently(lambda: self.provider.find(row, {*self._sent.values()}))
                if found is None:
                    await self._lose(row, "it was never sent")
                    return
                row = await self._was_sent(row, found)
            await self._follow(row)
        finally:
            self._unseen.discard(row.batch_id)

    # ------------------------------------------------------------------ the end of a batch

    async def _follow(self, row: BatchRow) -> None:
        self._sent[row.batch_id] = row.remote_id or ""
        try:
            while True:
                progress = await self._patiently(lambda: self.provider.progress(row))
                if progress.ended or self.provider.where is not None:
                    break
                self._unseen.discard(row.batch_id)
                await asyncio.sleep(self.config.batch_poll)
        finally:
            del self._sent[row.batch_id]
        if progress.gone:
            await self._gone(row)
        elif progress.refused is not None:
            await self._refused(row, progress.refused, progress.crowded)
        else:
            self._crowded = 0
            results = await self._patiently(lambda: self.provider.results(row))
            await self._settle(row, results, progress)

    async def _settle(self, row: BatchRow, results: Sequence[Result], progress: Progress) -> None:
        books = (self.address, self.books.session_id, self.price)
        logged = await asyncio.to_thread(self.books.batch_logged, row.batch_id)
        asked = self.books.batch_requests(row.batch_id)
        found = await asyncio.to_thread(settle, row, asked, logged, results, progress, books)  # seconds, for a full one
        if found.missing:
            left = replace(row, reserved_usd=found.left.usd, reserved_tokens=found.left.tokens)
        else:
            left = replace(row, state="done", changed=time.time())
        if left != row or found.calls:
            await asyncio.shield(self.books.settle_batch(left, found.calls))
        self.ledger.settle(reserved(row) - found.left, found.billed)
        if found.strange:
            places = ", ".join(f"{r.custom_id[:40]}{' in ' + r.place if r.place else ''}" for r in found.strange[:3])
            self.say(
                f"{self.address}: batch {row.remote_id}: {len(found.strange)} replies are to no question of it, and were left out: {places}"
            )
        times: dict[str, int] = {}
        if any(isinstance(outcome, Fault) for outcome in found.outcomes.values()):
            times = await asyncio.to_thread(self.books.times_batched, row.batch_id)
        for call_id, outcome in found.outcomes.items():
            if self._member.get(call_id) == row.batch_id or isinstance(outcome, CallRow):
                self._answer(call_id, outcome, times.get(call_id, 0))
        for outcome in found.outcomes.values():
            if isinstance(outcome, ProviderError):
                self._halt(outcome, over=True)
                break

    def _answer(self, call_id: str, outcome: CallRow | Exception, times: int) -> None:
        if isinstance(outcome, Fault) and times >= self.config.attempts:
            outcome = UnavailableError(f"{self.address}: no reply in {times} batches, the last: {redact(str(outcome))}")
        self._member.pop(call_id, None)
        if future := self._futures.pop(call_id, None):
            end(future, outcome)
        elif isinstance(outcome, Exception) and not isinstance(outcome, Fault):
            self._unclaimed[call_id] = outcome

    async def _refused(self, row: BatchRow, why: str, crowded: bool) -> None:
        """As a whole, so nothing was billed. Where too much waits at the provider, it is tried again later, and in smaller parts."""
        self._blockers = {*self._sent}  # of ours: when one of them ends, there may be room
        self._crowded += not self._blockers
        if crowded and self._crowded < self.config.attempts:
            self._not_before = time.monotonic() + self.config.longest_wait
            if not self._blockers:
                self._gathering.room = max(1, min(self._gathering.room, row.requests // 2))
            self.say(f"{self.address}: batch {row.remote_id}: {redact(why)[:200]}; its questions are sent again later")
            await self._lose(row, why)
            return
        error = ProviderError(f"{self.address}: the provider refused batch {row.remote_id}: {redact(why)[:300]}")
        await self._give_up(row, why, error)
        raise error

    async def _give_up(self, row: BatchRow, why: str, error: ProviderError) -> None:
        """A batch is lost and the run over: written down before anybody learns of it, for then we may be closed."""
        self._over = self._over or error
        await self._lose(row, why)
        self._halt(error, over=True)

    async def _gone(self, row: BatchRow) -> None:
        """Not at the provider. If it cannot be there any more it is as good as billed; else this is another account."""
        if self.provider.where is not None:
            self.say(f"{self.address}: {row.remote_id} is gone; what it asked is asked again")
            await self._lose(row, "its requests are gone")
        elif time.time() - row.changed > _KEPT:
            await self._settle(row, [], Progress(ended=True))
        else:
            when = datetime.datetime.fromtimestamp(row.changed, datetime.UTC).isoformat(" ", "minutes")[:16]
            raise ProviderError(
                f"{self.address}: batch {row.remote_id}, sent {when} with {row.requests} requests, is not there; "
                "use the key that it was sent with, or run without +batch"
            )

    async def _lose(self, row: BatchRow, note: str) -> None:
        """A batch of which nothing will come and nothing was billed: its questions go into the next one."""
        said = redact(note)[:300].encode("utf-8", "replace").decode()
        await asyncio.shield(self.books.put_batch(replace(row, state="lost", changed=time.time(), note=said)))
        self.ledger.release(reserved(row))
        for call_id in [call for call, batch in self._member.items() if batch == row.batch_id]:
            self._answer(call_id, Fault(note), 0)

    # ------------------------------------------------------------------ tasks

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """What goes wrong beside the questions ends them all: nobody waits for ever."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._halt(error, over=True)

    def _halt(self, error: BaseException, *, over: bool) -> None:
        """End the questions that wait for a batch that is out, or for room in the budget; `over`: all, from now on."""
        if over:
            self._over = self._over or error
            self._gathering.drop_all()
        self._gathering.fail(error)
        for call_id in [call for call in self._futures if call not in self._gathering.entries]:
            end(self._futures.pop(call_id), error)

    async def _patiently(self, what: Callable[[], Awaitable[T]]) -> T:
        return await patiently(what, self.address, self.config)
