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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain, groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from glossator.errors import GlossatorError, StoreError, UnsealedError
from glossator.rows import (
    BatchRequestRow,
    BatchRow,
    CallRow,
    DebateRow,
    DebateTurnRow,
    ExperimentRow,
    ExplanationRow,
    FailureRow,
    MeasurementRow,
    NullScoreRow,
    PredictionRow,
    PromptRow,
    RatingRow,
    RepeatScoreRow,
    Row,
    ScoreRow,
    SessionRow,
    SetComparisonRow,
    StatusRow,
)
from glossator.store.migrations import migrate

_TABLES: dict[type, str] = {
    ExplanationRow: "explanation",
    ExperimentRow: "experiment",
    PredictionRow: "prediction",
    MeasurementRow: "measurement",
    ScoreRow: "score",
    NullScoreRow: "null_score",
    RepeatScoreRow: "repeat_score",
    RatingRow: "rating",
    SetComparisonRow: "set_comparison",
    DebateRow: "debate",
    DebateTurnRow: "debate_turn",
    FailureRow: "failure",
    StatusRow: "stage",
    PromptRow: "prompt",
    CallRow: "llm_call",
    SessionRow: "llm_session",
    BatchRow: "llm_batch",
    BatchRequestRow: "llm_batch_request",
}
_GROUP_ROWS = 1024
_GROUP_SECONDS = 0.03
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
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
    """Tables that are made while they are written."""

    tables: Iterable[tuple[str, pa.Table]]

    def __len__(self) -> int:
        return _GROUP_ROWS  # nothing more is gathered behind it


_What = Sequence[Row] | _Stream | _Replacement
_Job = tuple[_What, "Future[None]"]


class Store:
    """Open or create a run file. Raises StoreError where it is no run of Glossator, newer, locked or unwritable."""

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = str(path)
        if not create and self.path != ":memory:" and not Path(self.path).exists():
            raise StoreError(f"{self.path}: no such run file; make one with `glossator demo` or `glossator harvest`")
        _refuse_other_files(self.path)
        try:
            self._connection = duckdb.connect(self.path, config=_CONFIG)
        except duckdb.Error as error:
            raise StoreError(_opening(self.path, str(error))) from error
        try:
            migrate(self._connection, self.path)
        except StoreError:
            self._connection.close()
            raise
        except duckdb.Error as error:
            self._connection.close()
            cause = str(error).splitlines()[0][:160]
            raise StoreError(f"{self.path}: a DuckDB file, but not a run of Glossator ({cause})") from error
        self._sealed = {
            str(i) for (i,) in self._connection.execute("SELECT DISTINCT experiment_id FROM prediction").fetchall()
        }
        self._columns: dict[str, list[str]] = {}
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

    def put_tables(self, tables: Mapping[str, pa.Table] | Iterable[tuple[str, pa.Table]]) -> None:
        """Append whole Arrow tables, all in one transaction; a name may come more than once.

        Pairs are taken one by one in the writer's thread, so that no more than one table need be in memory. What their
        iterator raises undoes all of them, and is raised here: a GlossatorError as itself, anything else as StoreError.
        """
        self._submit(_Stream(tables.items() if isinstance(tables, Mapping) else tables)).result()

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
        """The writer thread: gather what comes within 30 ms, write it as one transaction."""
        while (job := self._jobs.get()) is not None:
            group = [job]
            size = len(job[0])
            stop = False
            while size < _GROUP_ROWS:
                try:
                    following = self._jobs.get(timeout=_GROUP_SECONDS)
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
            self._transaction([what for what, _ in group])
        except Exception as error:  # noqa: BLE001  it belongs to those who wait; a writer that died would leave them waiting
            if len(group) > 1:  # one bad put must not sink its neighbours
                for job in group:
                    self._commit([job])
                return
            group[0][1].set_exception(_writing(self.path, error))
            return
        for _, future in group:
            future.set_result(None)

    def _transaction(self, batch: Sequence[_What]) -> None:
        rows: dict[type, list[Row]] = {}
        streams = [what.tables for what in batch if isinstance(what, _Stream)]
        for what in batch:
            if not isinstance(what, _Stream):
                for row in what.rows if isinstance(what, _Replacement) else what:
                    rows.setdefault(type(row), []).append(row)
        for row in rows.get(MeasurementRow, []):
            if isinstance(row, MeasurementRow) and row.experiment_id not in self._sealed:
                raise UnsealedError(
                    f"experiment {row.experiment_id}: its outcome came before any prediction was stored"
                )
        tables = [(_TABLES[kind], _arrow(kind, members)) for kind, members in rows.items()]
        self._connection.execute("BEGIN")
        try:
            replaced = [what for what in batch if isinstance(what, _Replacement)]
            for what in replaced:
                what.before(self._connection)
            for name, table in chain(*streams, tables):
                self._insert(name, table)
            for what in replaced:
                what.after(self._connection)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._sealed.update(row.experiment_id for row in rows.get(PredictionRow, []) if isinstance(row, PredictionRow))

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
        with self.cursor() as cursor:
            try:
                cursor.execute("BEGIN")
                cursor.execute(script, list(parameters)) if parameters else cursor.execute(script)
                cursor.execute("COMMIT")
            except duckdb.Error as error:
                raise _writing(self.path, error) from error

    def checkpoint(self) -> None:
        self.put_now()
        self._connection.execute("CHECKPOINT")

    def close(self) -> None:
        """Write what is waiting, checkpoint, close. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        self._thread.join()
        try:
            self._connection.execute("CHECKPOINT")
        except duckdb.Error as error:
            raise _writing(self.path, error) from error
        finally:
            self._connection.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _arrow(kind: type, rows: Sequence[Row]) -> pa.Table:
    names = [f.name for f in dataclasses.fields(kind)]
    return pa.table({name: pa.array([getattr(row, name) for row in rows]) for name in names})


def _refuse_other_files(path: str) -> None:
    """Before DuckDB looks: for some files of others it would fetch an extension."""
    if path == ":memory:" or not Path(path).is_file():
        return
    try:
        with Path(path).open("rb") as file:
            head = file.read(12)
    except OSError:  # DuckDB will say why
        return
    if head[8:] != b"DUCK":
        raise StoreError(f"{path}: is not a DuckDB file; name a run file of Glossator")


def _opening(path: str, message: str) -> str:
    if "Could not set lock" in message:
        return f"{path}: another process is writing this file; wait for it, or query a copy"
    return f"{path}: cannot be opened ({message.splitlines()[0][:160]})"


def _writing(path: str, error: BaseException) -> GlossatorError:
    if isinstance(error, GlossatorError):
        return error
    message = (str(error) or type(error).__name__).splitlines()[0][:200]
    found = StoreError(f"{path}: could not be written ({message})")
    if "No space left" in message or "Could not write" in message or "out of disk" in message.lower():
        found = StoreError(
            f"{path}: the disk is full ({message}); free some space and run again, what was committed is kept"
        )
    found.__cause__ = error  # it may come from whoever made the tables: the trace says where
    return found
