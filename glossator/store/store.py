"""One DuckDB file a run. All rows are written by one thread, in groups; an awaited `put` has been committed.

Single-row statements reach a few hundred rows a second, groups through Arrow tens of thousands, and the event loop
stays free while the disk works. What one `put` is given is written in one transaction: all of it or nothing. A stream
of tables is read by the writer itself, one table at a time, in a transaction of its own: it cannot be read twice.
`Store(":memory:")` is its own double.
"""

from __future__ import annotations

import asyncio
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import chain, groupby
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from glossator.errors import StoreError, UnsealedError
from glossator.rows import MeasurementRow, PredictionRow, Row, StatusRow
from glossator.store.files import Config, backed_up, connected, missing, refuse_other_files, writing
from glossator.store.migrations import migrate
from glossator.store.reckoned import changes, count_stages, forget, keep_scoreboard
from glossator.store.row_tables import TABLES, arrow

_GROUP_ROWS = 1024
_GROUP_SECONDS = 0.03
_GROUP_ENOUGH, _GROUP_NEXT = (
    256,
    0.003,
)  # rows that are worth a transaction; seconds in which more of the same burst would come
_SEALS = 1 << 17  # experiments that are remembered: what is measured was mostly predicted just before
_COUNTED = 1 << 16  # rows of `stage` after which they are counted: what came later costs who asks for `coverage`
_KEPT_SHARE = 20  # the scoreboard is kept for so many times as long as that took, if there is no end
_WAL_BYTES = 1 << 24  # from which on what was committed is taken into the file itself
_PATIENCE = (0.1, 0.5, 2.0, 5.0)  # seconds between tries where somebody's query has taken the memory
_CONFIG: Config = {
    "autoinstall_known_extensions": False,  # nothing is downloaded
    "checkpoint_threshold": "1TB",  # the writer makes them itself, never while the file is copied
    "memory_limit": "1GB",
    "storage_compatibility_version": "v1.2.0",
    "threads": 2,
}

_Step = Callable[[duckdb.DuckDBPyConnection], object]


@dataclasses.dataclass(frozen=True)
class _Replacement:
    """Rows that take the place of others: `before` deletes, `after` amends, all in the transaction of the rows."""

    before: _Step
    rows: Sequence[Row]
    after: _Step

    def __len__(self) -> int:
        return len(self.rows)


@dataclasses.dataclass(frozen=True)
class _Stream:
    """Tables that are made while they are written; `before` and `after` are of their transaction."""

    tables: Iterable[tuple[str, pa.Table]]
    before: _Step = lambda connection: None
    after: _Step = lambda connection: None

    def __len__(self) -> int:
        return _GROUP_ROWS  # nothing more is gathered behind it


_What = Sequence[Row] | _Stream | _Replacement
_Job = tuple[_What, "Future[None]"]


class Store:
    """Open or create a run file. Raises StoreError where it is no run of Glossator, newer, locked or unwritable."""

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = str(path)
        if not create and self.path != ":memory:" and not Path(self.path).exists():
            raise missing(self.path)
        refuse_other_files(self.path)
        self._connection = connected(self.path, _CONFIG)
        self.backup: Path | None = None  # the file as it was before it was upgraded, if it was
        self.changes = 0  # transactions so far: whether a snapshot is still what the file is
        self.served = False  # others may query it while it is written (see live.serving)
        self.on_close: Callable[[], object] = lambda: None  # what is left to do when others may open the file
        self.steady = threading.Lock()  # held while the file must not change under a copy: no checkpoint
        try:
            migrate(self._connection, self.path, self._back_up)
        except StoreError:
            self._connection.close()
            raise
        except duckdb.Error as error:
            self._connection.close()
            cause = str(error).splitlines()[0][:160]
            raise StoreError(f"{self.path}: a DuckDB file, but not a run of Glossator ({cause})") from error
        self._changing = threading.Lock()  # one change at a time: what is reckoned is of one moment
        self._said = 0  # rows of `stage` since they were counted
        self._kept, self._keeping = -1e9, 0.0  # when the scoreboard was kept, and how long it took
        self._sealed: dict[str, None] = {}  # experiments that were predicted lately, oldest first
        self._jobs: queue.Queue[_Job | None] = queue.Queue()
        self._closed = False
        self._thread = threading.Thread(target=self._write, name="glossator-store", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ writing

    async def put(self, *rows: Row) -> None:
        """Write rows in one transaction; returns when it has been committed. Cancelled before the writer took it: nothing."""
        await asyncio.wrap_future(self._submit(rows))

    def put_now(self, *rows: Row) -> None:
        """`put` for synchronous callers."""
        self._submit(rows).result()

    def put_tables(
        self,
        tables: Mapping[str, pa.Table] | Iterable[tuple[str, pa.Table]],
        before: _Step = lambda connection: None,
        after: _Step = lambda connection: None,
    ) -> None:
        """Append whole Arrow tables, all in one transaction, between `before` and `after`; a name may come more than once.

        Pairs are taken one by one in the writer's thread, so that no more than one table need be in memory. What their
        iterator raises undoes all of them, and is raised here: a GlossatorError as itself, anything else as StoreError.
        """
        self._submit(_Stream(tables.items() if isinstance(tables, Mapping) else tables, before, after)).result()

    def replace_now(self, before: _Step, rows: Sequence[Row], after: _Step = lambda connection: None) -> None:
        """Delete with `before`, write rows, amend with `after`: one transaction, so that a kill leaves the old or the new."""
        self._submit(_Replacement(before, rows, after)).result()

    def _submit(self, what: _What) -> Future[None]:
        if self._closed:
            raise StoreError(f"{self.path}: the store is closed")
        future: Future[None] = Future()
        self._jobs.put((what, future))
        return future

    def _write(self) -> None:
        """The writer thread: gather what comes within 30 ms, or 3 ms after many rows, write it as one transaction."""
        while (job := self._jobs.get()) is not None:
            group = [job]
            size = len(job[0])
            stop = False
            while size < _GROUP_ROWS:
                try:
                    following = self._jobs.get(timeout=_GROUP_SECONDS if size < _GROUP_ENOUGH else _GROUP_NEXT)
                except queue.Empty:
                    break
                if following is None:
                    stop = True
                    break
                group.append(following)
                size += len(following[0])
            wanted = [job for job in group if job[1].set_running_or_notify_cancel()]
            for _, together in groupby(enumerate(wanted), lambda of: of[0] if isinstance(of[1][0], _Stream) else -1):
                self._commit([job for _, job in together])
            if stop:
                return

    def _commit(self, group: Sequence[_Job]) -> None:
        if not group:
            return
        try:
            self._patiently([what for what, _ in group])
        except Exception as error:  # noqa: BLE001  it belongs to those who wait; a writer that died would leave them waiting
            if len(group) > 1:  # one bad put must not sink its neighbours
                for job in group:
                    self._commit([job])
                return
            group[0][1].set_exception(writing(self.path, error))
            return
        self.changes += 1
        for _, future in group:
            future.set_result(None)
        self._checkpoint_when_due()
        if self._said >= _COUNTED:
            self._reckon(self._connection, count_stages)

    def _patiently(self, batch: Sequence[_What]) -> None:
        """A transaction that may lack memory for a while, where somebody else's query has taken it."""
        again = self.served and not any(isinstance(what, _Stream) for what in batch)  # a stream cannot be read twice
        for pause in _PATIENCE if again else ():
            try:
                self._transaction(batch)
                return
            except duckdb.OutOfMemoryException:
                time.sleep(pause)
        self._transaction(batch)

    def _checkpoint_when_due(self) -> None:
        """What DuckDB does at the end of a transaction, but never while the file is copied; next time will do."""
        if self.path == ":memory:" or not self.steady.acquire(blocking=False):
            return
        try:
            log = Path(self.path + ".wal")
            with suppress(OSError, duckdb.TransactionException):
                if log.stat().st_size > _WAL_BYTES:
                    self._connection.execute("CHECKPOINT")
        finally:
            self.steady.release()

    def _transaction(self, batch: Sequence[_What]) -> None:
        rows: dict[type, list[Row]] = {}
        streams = [what.tables for what in batch if isinstance(what, _Stream)]
        for what in batch:
            if not isinstance(what, _Stream):
                for row in what.rows if isinstance(what, _Replacement) else what:
                    rows.setdefault(type(row), []).append(row)
        self._refuse_unsealed(rows.get(MeasurementRow, []))
        tables = [(TABLES[kind], arrow(kind, members)) for kind, members in rows.items()]
        replaced = [what for what in batch if isinstance(what, _Replacement | _Stream)]
        with self._changing:
            self._connection.execute("BEGIN")
            try:
                for what in replaced:
                    what.before(self._connection)
                for name, table in chain(*streams, tables):
                    self._insert(name, table)
                for what in replaced:
                    what.after(self._connection)
                if replaced:
                    forget(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
        self._said += len(rows.get(StatusRow, []))
        self._sealed |= {
            row.experiment_id: None for row in rows.get(PredictionRow, []) if isinstance(row, PredictionRow)
        }
        while len(self._sealed) > _SEALS:
            del self._sealed[next(iter(self._sealed))]

    def _refuse_unsealed(self, measured: Sequence[Row]) -> None:
        """Raise UnsealedError for outcomes of what nobody had predicted; of what was not predicted lately the file is asked."""
        unknown = {row.experiment_id for row in measured if isinstance(row, MeasurementRow)} - self._sealed.keys()
        if unknown:
            asked = "SELECT DISTINCT experiment_id FROM prediction WHERE experiment_id IN (SELECT unnest(?))"
            unknown -= {str(found) for (found,) in self._connection.execute(asked, [list(unknown)]).fetchall()}
        if unknown:
            raise UnsealedError(f"experiment {min(unknown)}: its outcome came before any prediction was stored")

    def _insert(self, name: str, table: pa.Table) -> None:
        columns = ", ".join(f'"{column}"' for column in table.column_names)
        self._connection.register("_incoming", table)
        try:
            self._connection.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM _incoming")
        finally:
            self._connection.unregister("_incoming")

    # ------------------------------------------------------------------ reading and closing

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows of a query, on a cursor of its own: sees what has been committed."""
        with self.cursor() as cursor:
            return self._read(cursor, query, list(parameters)).fetchall()

    def pending(self, stage: str, dictionary: str) -> list[int]:
        """Features that this stage has not dealt with: dead ones never wait, failed ones wait again."""
        rows = self.sql(
            "SELECT f.feature FROM feature f LEFT JOIN (SELECT dictionary, feature, arg_max(status, rowid) AS status FROM stage "
            "WHERE stage = ? GROUP BY ALL) s USING (dictionary, feature) WHERE f.dictionary = ? AND f.status <> 'dead' "
            "AND (s.status IS NULL OR s.status = 'failed') ORDER BY f.feature",
            [stage, dictionary],
        )
        return [feature for (feature,) in rows]

    def arrow(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        """`sql` as an Arrow table; a mapping holds named parameters."""
        with self.cursor() as cursor:
            given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
            return self._read(cursor, query, given).to_arrow_table()

    def _read(self, cursor: duckdb.DuckDBPyConnection, query: str, given: Any) -> duckdb.DuckDBPyConnection:
        """Run a query; what does not fit into DuckDB's share of the memory is told in one line."""
        try:
            return cursor.execute(query, given)
        except duckdb.OutOfMemoryException as error:
            limit = _CONFIG["memory_limit"]
            raise StoreError(
                f"{self.path}: a query needs more than the {limit} that DuckDB may use here; ask for fewer --features at a time"
            ) from error

    @contextmanager
    def cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    def execute(self, script: str, parameters: Sequence[Any] = ()) -> None:
        """A change that is not rows (materialising, replacing a stage's output). Waits for the writer first."""
        self.put_now()
        with self._changing, self.cursor() as cursor:
            try:
                cursor.execute("BEGIN")
                if changes(cursor, script):
                    forget(cursor)
                cursor.execute(script, list(parameters)) if parameters else cursor.execute(script)
                cursor.execute("COMMIT")
                self.changes += 1
            except duckdb.Error as error:
                raise writing(self.path, error) from error

    def reckon(self) -> None:
        """Keep what `scoreboard` and `coverage` show (see reckoned.py). For the end of a stage; the views are right without, but slow.

        The scoreboard of a large run, which takes seconds, is kept once in a while only.
        """
        self.put_now()
        due = time.monotonic() > self._kept + _KEPT_SHARE * self._keeping
        with self.cursor() as cursor:
            self._reckon(cursor, count_stages, *([keep_scoreboard] if due else []))

    def _reckon(self, connection: duckdb.DuckDBPyConnection, *steps: _Step) -> None:
        """Each in a transaction. What cannot be done, for want of memory or disk, is left: nobody needs it to be right."""
        with self._changing:
            for step in steps:
                began = time.monotonic()
                try:
                    connection.execute("BEGIN")
                    step(connection)
                    connection.execute("COMMIT")
                except duckdb.Error:
                    with suppress(duckdb.Error):
                        connection.execute("ROLLBACK")
                if step is keep_scoreboard:
                    self._kept, self._keeping = time.monotonic(), time.monotonic() - began
            self._said = 0
            self.changes += 1

    def checkpoint(self) -> None:
        """Take what was committed into the file itself; waits while somebody copies it."""
        self.put_now()
        with self.steady, self.cursor() as cursor:
            _checkpoint(cursor)

    def _back_up(self, schema: int) -> None:
        self._connection.execute("CHECKPOINT")
        self.backup = backed_up(self.path, schema)

    def close(self) -> None:
        """Write what is waiting, reckon, checkpoint, close. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join()
        try:
            if self.path != ":memory:":
                self._reckon(self._connection, count_stages, keep_scoreboard)
            with suppress(duckdb.TransactionException):  # a reader that was cut off: what is in the log stays there
                _checkpoint(self._connection)
        except duckdb.Error as error:
            raise writing(self.path, error) from error
        finally:
            self.on_close()
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checkpoint(connection: duckdb.DuckDBPyConnection) -> None:
    """Raises TransactionException where a query of somebody else still holds a transaction after some patience."""
    for pause in _PATIENCE[:3]:
        try:
            connection.execute("CHECKPOINT")
            return
        except duckdb.TransactionException:
            time.sleep(pause)
    connection.execute("CHECKPOINT")
