"""Runs texts through the subject and one feature of a dictionary: the only caller of the subject after the harvest.

Requests from many features are gathered into canonical batches: one is run when it is full, or 20 ms after the last
request came. One thread owns the model; the event loop stays free.

Where the subject runs out of memory on a batch, the batch is run again in a canonical shape of half the rows, which stays
for what follows, and this is said aloud: another shape gives the same numbers up to rounding, not to the bit.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from glossator.errors import HarvestError, UsageError
from glossator.harness.dictionary import Dictionary, check_width
from glossator.harness.subject import Subject, TokenBatch, batches, bucket_widths
from glossator.types import Activations, FeatureId

_WAIT = 0.02
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # as torch's allocators put it


@dataclass
class _Request:
    ids: list[int]
    feature: int
    future: asyncio.Future[Activations]


class Measurer:
    """`await measure([(text, feature), ...])`. Use as `async with`; results do not depend on what shares a batch."""

    def __init__(
        self,
        subject: Subject,
        dictionary: Dictionary,
        *,
        batch_tokens: int = 2048,
        say: Callable[[str], object] = warnings.warn,
    ) -> None:
        """say: is told when batches become smaller; a warning if not given."""
        check_width(dictionary, subject.widths[dictionary.hook], dictionary.hook)
        self._say = say
        self.subject, self.dictionary, self.batch_tokens = subject, dictionary, batch_tokens
        self._waiting: dict[int, list[_Request]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="glossator-measure")
        self._runs: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.texts = 0

    async def __aenter__(self) -> Measurer:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._runs:
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        self._thread.shutdown(wait=True)

    async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]:
        """One result a pair, in order. Texts that do not fit the context are cut on the right."""
        loop = asyncio.get_running_loop()
        size = self.subject.context_size - len(self.subject.prefix) - len(self.subject.suffix)
        widths = bucket_widths(self.subject.context_size)
        futures = []
        for (_, feature), ids in zip(pairs, self.tokenize([text for text, _ in pairs]), strict=True):
            request = _Request(ids[:size], feature.index, loop.create_future())
            futures.append(request.future)
            need = len(request.ids) + self.subject.context_size - size
            width = next(w for w in widths if w >= need)
            waiting = self._waiting.setdefault(width, [])
            waiting.append(request)
            if len(waiting) >= max(1, self.batch_tokens // width):
                self._start(self._waiting.pop(width))
        self._later(loop)
        return list(await asyncio.gather(*futures))

    def measure_all(self, text: str) -> tuple[list[int], torch.Tensor]:
        """Every feature on one text: content token ids [n] and activations [n, n_features]. Raises UsageError for no text."""
        size = self.subject.context_size - len(self.subject.prefix) - len(self.subject.suffix)
        ids = self.tokenize([text])[0]
        if not ids:
            raise UsageError("--text: holds no tokens; give it some words")
        if len(ids) > size:
            raise UsageError(f"--text: has {len(ids)} tokens, the context holds {size}; shorten it")
        batch = next(iter(batches([ids], self.subject, batch_tokens=self.batch_tokens)))
        content = batch.content[0]
        return batch.ids[0][content].tolist(), self._encode(batch)[0][content]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.subject.tokenize(texts)

    def _later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(_WAIT, self._flush)

    def _flush(self) -> None:
        """Nothing came for a while: run what waits, unless the thread has work anyway and more may come meanwhile."""
        if self._runs:
            self._later(asyncio.get_running_loop())
            return
        for width in list(self._waiting):
            self._start(self._waiting.pop(width))

    def _start(self, requests: list[_Request]) -> None:
        task = asyncio.create_task(self._run(requests))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)

    async def _run(self, requests: list[_Request]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self._forward, requests)
        except Exception as error:  # noqa: BLE001  whatever the model raised belongs to those who wait for it
            for request in requests:
                if not request.future.done():
                    request.future.set_exception(error)
            return
        for request, result in zip(requests, results, strict=True):
            if not request.future.done():
                request.future.set_result(result)

    def _forward(self, requests: list[_Request]) -> list[Activations]:
        """In a smaller shape where the memory asks for it."""
        while True:
            try:
                return self._pass(requests)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                self._halve(requests, error)

    def _halve(self, requests: list[_Request], error: Exception) -> None:
        """Half of the rows from now on. Raises HarvestError where a single row is too much."""
        frame = len(self.subject.prefix) + len(self.subject.suffix)
        need = max(len(request.ids) for request in requests) + frame
        width = next(w for w in bucket_widths(self.subject.context_size) if w >= need)
        rows = max(1, self.batch_tokens // width)
        if rows == 1:
            raise HarvestError(
                f"the subject runs out of memory on a single text of {need} tokens ({type(error).__name__}); free some memory and run again"
            ) from error
        self.batch_tokens = width * (rows // 2)
        self._say(
            f"the subject ran out of memory on {rows} texts of {width} tokens; measuring goes on with {rows // 2} at once, "
            "and equals what was measured before up to rounding"
        )

    def _pass(self, requests: list[_Request]) -> list[Activations]:
        out: dict[int, Activations] = {}
        names = self.subject.vocabulary
        for batch in batches([r.ids for r in requests], self.subject, batch_tokens=self.batch_tokens):
            values = self._encode(batch)
            for row, member in enumerate(batch.row_context):
                if member < 0:
                    continue
                request = requests[member]
                content = batch.content[row]
                ids = tuple(batch.ids[row][content].tolist())
                numbers = tuple(values[row, :, request.feature][content].tolist())
                out[int(member)] = Activations(ids, tuple(names.name(i) for i in ids), numbers)
        self.texts += len(requests)
        return [out[i] for i in range(len(requests))]

    def _encode(self, batch: TokenBatch) -> torch.Tensor:
        """[rows, width, n_features]."""
        acts = self.subject.read(batch)[self.dictionary.hook]
        rows, width = batch.ids.shape
        encoded = self.dictionary.encode(acts.reshape(rows * width, -1))
        if not torch.isfinite(encoded).all():
            raise HarvestError("a measured text gave activations that are not finite; try another dtype")
        return encoded.reshape(rows, width, -1)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)
