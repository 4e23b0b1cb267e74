"""The reply log in the run file: what was asked of language models, what came back, what it cost, what is still out.

All call ids are known in memory; replies are read in blocks of rows, because a run that is started again asks in about
the same order. A row is found by its place in the table: nothing is ever deleted from `llm_call`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import fields

from glossator.rows import BatchRequestRow, BatchRow, CallRow, SessionRow
from glossator.store.store import Store
from glossator.types import content_id

_BLOCK = 256  # rows that are read at once
_BLOCKS = 64  # that stay in memory
_OPEN = ("intent", "sent")  # states in which replies may still come
_COLUMNS = [f.name for f in fields(CallRow)]
_READ = ", ".join("'' AS request" if name == "request" else name for name in _COLUMNS)


class Replies:
    """The log of one process's questions. `get` leaves `CallRow.request` empty: who asks has it."""

    def __init__(self, store: Store, started: float) -> None:
        self.store = store
        self.session_id = content_id("session", store.path, started)
        self._place: dict[str, int] = {}
        self._fresh: set[str] = set()  # logged by us, place not known yet
        self._next = 0
        self._blocks: OrderedDict[int, dict[int, CallRow]] = OrderedDict()
        self._reading = asyncio.Lock()
        self._look_up()

    def __len__(self) -> int:
        return len(self._place) + len(self._fresh)

    async def get(self, call_id: str) -> CallRow | None:
        """The reply to a question, if one was logged."""
        if call_id not in self._place and call_id not in self._fresh:
            return None
        async with self._reading:
            if call_id in self._fresh:
                await asyncio.to_thread(self._look_up)
            place = self._place[call_id]
            block = self._blocks.get(place // _BLOCK)
            if block is None or place not in block:
                block = self._blocks[place // _BLOCK] = await asyncio.to_thread(self._read, place // _BLOCK)
                while len(self._blocks) > _BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(place // _BLOCK)
            return block[place]

    async def put(self, *rows: CallRow) -> None:
        """Returns when they are on disk."""
        await self.store.put(*rows)
        self._fresh.update(row.call_id for row in rows if row.reply is not None and row.call_id not in self._place)

    async def mark(self, usd: float, tokens: int) -> None:
        """Write down the most that is reserved, before it is."""
        await self.store.put(SessionRow(self.session_id, usd, tokens, False))

    async def finish(self, lost_usd: float, lost_tokens: int) -> None:
        """An orderly end: nothing is in flight any more, but for what was given up in the middle."""
        await self.store.put(SessionRow(self.session_id, lost_usd, lost_tokens, lost_tokens == 0))

    def spent(self) -> tuple[float, int]:
        """Dollars and tokens that this run file has spent, may have lost by kills, and has out in batches."""
        return self.store.sql(
            "SELECT sum(usd), sum(tokens)::BIGINT FROM ("
            "SELECT coalesce(sum(usd), 0) AS usd, coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0) AS tokens FROM llm_call "
            "UNION ALL SELECT coalesce(sum(usd), 0), coalesce(sum(tokens), 0) FROM ("
            "SELECT arg_max(reserved_usd, rowid) AS usd, arg_max(reserved_tokens, rowid) AS tokens FROM llm_session "
            "GROUP BY session_id HAVING NOT arg_max(finished, rowid)) "
            "UNION ALL SELECT coalesce(sum(usd), 0), coalesce(sum(tokens), 0) FROM ("
            "SELECT arg_max(reserved_usd, rowid) AS usd, arg_max(reserved_tokens, rowid) AS tokens FROM llm_batch "
            "GROUP BY batch_id HAVING arg_max(state, rowid) IN ('intent', 'sent')))"
        )[0]

    def unpriced(self) -> list[tuple[str, str, str, bool, int, int]]:
        """Tokens in and out that were spent, or may be, when no price was known: provider, host, model, in a batch, tokens.

        Of what is out in batches and of what kills may have hidden only a sum of tokens is known, given as tokens out; of
        the latter not even who was asked ('').
        """
        return self.store.sql(
            "SELECT provider, host, model, batch_id IS NOT NULL, coalesce(sum(input_tokens), 0)::BIGINT, coalesce(sum(output_tokens), 0)::BIGINT "
            "FROM llm_call WHERE usd IS NULL GROUP BY ALL "
            "UNION ALL SELECT provider, host, model, true, 0, sum(tokens)::BIGINT FROM ("
            "SELECT any_value(provider) AS provider, any_value(host) AS host, any_value(model) AS model, "
            "arg_max(reserved_usd, rowid) AS usd, arg_max(reserved_tokens, rowid) AS tokens FROM llm_batch "
            "GROUP BY batch_id HAVING arg_max(state, rowid) IN ('intent', 'sent')) "
            "WHERE usd = 0 AND tokens > 0 GROUP BY ALL "
            "UNION ALL SELECT '', '', '', false, 0, sum(tokens)::BIGINT FROM ("
            "SELECT session_id, arg_max(reserved_usd, rowid) AS usd, arg_max(reserved_tokens, rowid) AS tokens FROM llm_session "
            "GROUP BY session_id HAVING NOT arg_max(finished, rowid)) "
            "WHERE usd = 0 AND tokens > 0 AND session_id NOT IN ("
            "SELECT session_id FROM llm_call GROUP BY session_id HAVING bool_and(usd IS NOT NULL)) HAVING count(*) > 0"
        )

    # ------------------------------------------------------------------ batches

    def out_in_batches(self) -> frozenset[str]:
        """The questions whose replies are to come with a batch."""
        found = self.store.sql(
            "SELECT call_id FROM llm_batch_request WHERE batch_id IN ("
            "SELECT batch_id FROM llm_batch GROUP BY batch_id HAVING arg_max(state, rowid) IN ('intent', 'sent')) "
            "AND (batch_id, call_id) NOT IN (SELECT (batch_id, call_id) FROM llm_call WHERE batch_id IS NOT NULL)"
        )
        return frozenset(call_id for (call_id,) in found)

    async def put_batch(self, row: BatchRow, requests: Sequence[BatchRequestRow] = ()) -> None:
        """A batch's new state; with its requests where it is an intent. One transaction."""
        await self.store.put(row, *requests)

    async def settle_batch(self, row: BatchRow, calls: Sequence[CallRow]) -> None:
        """Replies of a batch, and its end, in one transaction: none is booked twice, none is lost."""
        await self.store.put(row, *calls)
        self._fresh.update(c.call_id for c in calls if c.reply is not None and c.call_id not in self._place)

    def open_batches(self) -> list[BatchRow]:
        """Batches that an earlier process meant to send, or sent, and whose replies are not all in the log."""
        names = [f.name for f in fields(BatchRow)]
        last = ", ".join(f"arg_max({name}, rowid) AS {name}" for name in names if name != "batch_id")
        rows = self.store.arrow(
            f"SELECT batch_id, {last} FROM llm_batch GROUP BY batch_id ORDER BY min(rowid)"
        ).to_pylist()
        return [BatchRow(**row) for row in rows if row["state"] in _OPEN]

    def batch_requests(self, batch_id: str) -> Iterator[BatchRequestRow]:
        table = self.store.arrow("SELECT * FROM llm_batch_request WHERE batch_id = ? ORDER BY rowid", [batch_id])
        for batch in table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                yield BatchRequestRow(**row)

    def batch_logged(self, batch_id: str) -> set[str]:
        """The questions of a batch of which something is in the log."""
        return {call_id for (call_id,) in self.store.sql("SELECT call_id FROM llm_call WHERE batch_id = ?", [batch_id])}

    def times_batched(self, batch_id: str) -> dict[str, int]:
        """For each question of a batch: in how many batches it was sent, this one included."""
        found = self.store.sql(
            "SELECT call_id, count(DISTINCT batch_id) FROM llm_batch_request "
            "WHERE call_id IN (SELECT call_id FROM llm_batch_request WHERE batch_id = ?) AND batch_id NOT IN "
            "(SELECT batch_id FROM llm_batch GROUP BY batch_id HAVING arg_max(state, rowid) = 'lost') GROUP BY call_id",
            [batch_id],
        )
        return dict(found)

    # ------------------------------------------------------------------ blocks

    def _look_up(self) -> None:
        """Learn the places of rows that were added since."""
        found = self.store.sql(
            "SELECT rowid, call_id, reply IS NOT NULL FROM llm_call WHERE rowid >= ? ORDER BY rowid", [self._next]
        )
        for place, call_id, answered in found:
            if answered:
                self._place.setdefault(call_id, place)
                self._fresh.discard(call_id)
        if found:
            self._next = found[-1][0] + 1

    def _read(self, number: int) -> dict[int, CallRow]:
        rows = self.store.arrow(
            f"SELECT rowid AS place, {_READ} FROM llm_call WHERE rowid >= ? AND rowid < ?",
            [number * _BLOCK, (number + 1) * _BLOCK],
        ).to_pylist()
        return {row.pop("place"): CallRow(**row) for row in rows}
