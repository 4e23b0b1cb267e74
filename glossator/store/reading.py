"""Reading a run file, whoever has it: the file itself, the run that is writing it, or a snapshot that the run makes.

`open_for_reading` finds the way. A `Reader` is a Store that cannot write: whatever reads a Store reads a Reader.

    free file              opened read-only, with access to other files off
    a run of ours has it   `live`: by its server (SELECT only, see live.Guard); else, and for what the server will not do,
                           by a snapshot, with a line that says how old it is
    anybody else has it    StoreError, which names the process

It waits for a while where a run is just starting or ending. A file of an older schema is upgraded where it may be written
(a copy of it is kept), and else in a temporary copy; with `current` False it is read as it is.
"""

from __future__ import annotations

import base64
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from glossator.errors import StoreError, UsageError
from glossator.store.extensions import LIVE, load
from glossator.store.files import Config, beside, copied, holder, is_locked, missing, opening
from glossator.store.live import SNAPSHOT, WANT_LIVE, WANT_SNAPSHOT, Say, Writer, writer_of
from glossator.store.migrations import MIGRATIONS
from glossator.store.store import Store

_STARTING = 3.0  # seconds until a run that has just opened its file must have shown itself
_ENDING = 60.0  # seconds that are given to a run of ours to answer, or to end
_FRESH = 2.0  # seconds: a snapshot of that age is as good as a new one
_OLD = 60.0  # seconds: an older one is used only if no new one comes
_SOON = 1.5  # seconds that a new one is waited for where the old one would do
_LIVE_SECONDS = 30.0  # for an answer of the server
_HELLO_SECONDS = 8.0  # for its first one; a run that was suspended gives none
_LOOK = 0.05
ROWS = 10_000  # of a result in hand at a time


class Reader(Store):
    """A run file, or a snapshot of it, read-only. `path` is the run's own path. `way` says what is read."""

    def __init__(self, path: str | Path, file: Path | None = None, extensions: tuple[str, ...] = ()) -> None:
        self.path, self.way = str(path), "file" if file is None else "snapshot"
        self._closed = False
        self.place: tempfile.TemporaryDirectory[str] | None = None  # of a file that is there for this reader alone
        config = _config()
        self._connection = duckdb.connect(str(file or path), read_only=True, config=config)
        self.without = load(self._connection, extensions) if extensions else "not asked for"  # why they are not there
        if not self._connection.execute("SELECT current_setting('lock_configuration')").fetchall()[0][0]:
            self._connection.execute("SET GLOBAL enable_external_access = false; SET GLOBAL lock_configuration = true")
        try:
            self.schema = _schema(self._connection, self.path)
        except StoreError:
            self._connection.close()
            raise

    def _submit(self, what: object) -> Any:
        raise StoreError(f"{self.path}: is open for reading only")

    def execute(self, script: str, parameters: Sequence[Any] = ()) -> None:
        self._submit(script)

    def checkpoint(self) -> None:
        self._submit(None)

    def close(self) -> None:
        self._closed = True
        self._connection.close()
        if self.place is not None:
            self.place.cleanup()

    @contextmanager
    def stream(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatchReader]:
        """The result of one query of a person, in batches. Raises UsageError where the SQL is wrong, then or later."""
        with self.cursor() as cursor, sql_errors():
            if len(cursor.extract_statements(query)) != 1:
                raise UsageError("sql: give one statement at a time")
            yield _told(cursor.execute(query, list(parameters)).to_arrow_reader(ROWS))


class LiveReader(Reader):
    """The server of a running run. What it will not do, or not in time, is done by a snapshot."""

    def __init__(
        self, path: str | Path, writer: Writer, otherwise: Callable[[], Reader], patience: float = _HELLO_SECONDS
    ) -> None:
        self._asking: threading.Thread | None = None
        self.path, self.way, self.schema, self.without = str(path), "live", len(MIGRATIONS), "a run is going on"
        self._closed = False
        self._uri, self._token, self._otherwise = f"quack:127.0.0.1:{writer.port}", writer.token, otherwise
        self.place = None
        self._instead: Reader | None = None
        config = _config()
        self._connection = duckdb.connect(config=config)
        why = load(self._connection, LIVE)
        if why is None:
            with suppress(StoreError, UsageError):
                self._ask("SELECT glossator_live.main.run_id() AS run", [], "_hello", patience)
                if self._connection.execute("FROM _hello").fetchall() == [(writer.run,)]:
                    return
            why = "its server does not answer"
        self._leave()
        raise StoreError(f"{path}: {why}")

    def close(self) -> None:
        self._closed = True
        self._leave()
        if self._instead is not None:
            self._instead.close()

    def _leave(self) -> None:
        """A question that is still asked cannot be stopped, and closing would wait for it: then the thread that waits keeps its own."""
        if self._asking is None or not self._asking.is_alive():
            self._connection.close()

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        table = self.arrow(query, parameters)
        return [tuple(row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]

    def arrow(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> pa.Table:
        if isinstance(parameters, Mapping):
            raise StoreError(f"{self.path}: named parameters are not for a live run")
        with self.stream(query, parameters) as batches:
            return batches.read_all()

    @contextmanager
    def stream(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[pa.RecordBatchReader]:
        """The whole result is fetched before its first batch is given: the run does not wait for who reads slowly."""
        try:
            if self._instead is None:
                self._ask(query, parameters, "_result")
        except StoreError:
            self._instead = self._otherwise()
        if self._instead is not None:
            with self._instead.stream(query, parameters) as batches:
                yield batches
            return
        with self.cursor() as cursor:
            yield cursor.execute("FROM _result").to_arrow_reader(ROWS)

    def _ask(self, query: str, parameters: Sequence[Any], table: str, patience: float = _LIVE_SECONDS) -> None:
        """Fetch a result. Raises UsageError where the query is wrong, StoreError where the server will not or cannot."""
        text, said = _with_values(query, parameters), []

        def fetch() -> None:
            try:
                with self.cursor() as cursor:
                    cursor.execute(
                        f"CREATE OR REPLACE TABLE {table} AS FROM quack_query(?, ?, token = ?)",
                        [self._uri, text, self._token],
                    )
            except duckdb.Error as error:
                said.append(str(error))

        thread = threading.Thread(target=fetch, name="glossator-reader", daemon=True)  # it cannot be interrupted
        self._asking = thread
        thread.start()
        thread.join(patience)
        if thread.is_alive():
            raise StoreError(f"{self.path}: no answer within {patience:.0f} seconds")
        if said and any(
            sign in said[0]
            for sign in ("Authorization", "Authentication", "Failed to send", "IO Error", "Out of Memory")
        ):
            raise StoreError(f"{self.path}: {said[0].splitlines()[0][:200]}")
        if said:
            raise UsageError("sql: " + _one_line(said[0].split("LINE 1: FROM quack_query(")[0]))


def _config() -> Config:
    """What does not fit into memory goes to the folder for temporary files, and nothing is downloaded."""
    return {"temp_directory": str(Path(tempfile.gettempdir()) / "glossator"), "autoinstall_known_extensions": False}


@contextmanager
def sql_errors() -> Iterator[None]:
    """What DuckDB says of a person's query, as one line."""
    try:
        yield
    except duckdb.Error as error:
        raise UsageError("sql: " + _one_line(str(error))) from error


def _told(batches: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same batches; what DuckDB meets on the way comes out of Arrow as an error of its own, and is told as `sql_errors` does."""

    def each() -> Iterator[pa.RecordBatch]:
        while True:
            try:
                batch = batches.read_next_batch()
            except StopIteration:
                return
            except (OSError, pa.ArrowException) as error:
                raise UsageError("sql: " + _one_line(str(error))) from error
            yield batch

    return pa.RecordBatchReader.from_batches(batches.schema, each())


def _one_line(message: str) -> str:
    return " ".join(message.split())[:400]


def open_for_reading(
    path: str | Path,
    say: Say = lambda line: None,
    *,
    live: bool = False,
    current: bool = True,
    extensions: tuple[str, ...] = (),
) -> Reader:
    """Open a run for reading, whoever has it; see above. `say` hears how old a snapshot is.

    `live`: plain queries (`sql`, `arrow`, `stream`; no cursor, no named parameters) may go to the run itself.
    Raises StoreError where there is no run, or no way to it.
    """
    if not Path(path).exists():
        raise missing(path)
    began = time.time()
    while True:
        try:
            reader = Reader(path, extensions=extensions)
        except duckdb.Error as error:
            if not is_locked(error):
                raise StoreError(
                    f"{path}: is not a DuckDB file, or not a whole one; name a run file of Glossator"
                ) from error
            writer = writer_of(path)
            ours = writer is not None and writer.pid == holder(error)
            found = _beside(path, writer, began, say, live=live) if writer is not None and ours else None
            if found is not None:
                return found
            if time.time() > began + (_ENDING if ours else _STARTING):
                raise StoreError(_no_way(path, writer) if writer and ours else opening(str(path), error)) from error
            time.sleep(_LOOK)
        else:
            return _upgraded(reader, path, say, extensions) if current and reader.schema < len(MIGRATIONS) else reader


def _beside(path: str | Path, writer: Writer, began: float, say: Say, *, live: bool) -> Reader | None:
    """A reader by way of the run that is writing the file; None: not yet."""
    folder = beside(path)
    if writer.ending:
        return None
    with suppress(OSError):  # the run is ending: its folder has gone
        if live and writer.refused is None:
            if writer.port is None:
                (folder / WANT_LIVE).touch()
                if time.time() < began + _STARTING:
                    return None
            else:
                with suppress(StoreError):
                    return LiveReader(path, writer, lambda: open_for_reading(path, say, current=False))
        return _snapshot(path, folder, writer, began, say)
    return None


def _snapshot(path: str | Path, folder: Path, writer: Writer, began: float, say: Say) -> Reader | None:
    """The snapshot, if it is new, or none newer came for a while. Raises OSError where there is none yet."""
    if writer.no_snapshot and not (folder / SNAPSHOT).exists():
        raise StoreError(_no_way(path, writer))
    with suppress(OSError):
        age = time.time() - (folder / SNAPSHOT).stat().st_mtime
        waited = time.time() - began
        if age < _FRESH + waited or (age < _OLD and waited > _SOON) or waited > 10 * _SOON or writer.no_snapshot:
            with suppress(duckdb.Error):  # the run has ended, and taken it along
                reader = Reader(path, folder / SNAPSHOT)
                say(f"{path}: a run is writing it (PID {writer.pid}); this is as it was {age:.0f} s ago")
                return reader
    (folder / WANT_SNAPSHOT).touch()
    return None


def _no_way(path: str | Path, writer: Writer) -> str:
    why = writer.no_snapshot or ("it is closing the file" if writer.ending else "it does not answer")
    return f"{path}: a run is writing it (PID {writer.pid}), and there is no snapshot of it ({why}); try again later"


def _schema(connection: duckdb.DuckDBPyConnection, path: str) -> int:
    """The version of the schema. Raises StoreError where it is newer than this Glossator, or none of its files."""
    try:
        found = int(connection.execute("SELECT max(version) FROM schema_version").fetchall()[0][0])
    except (duckdb.Error, TypeError) as error:
        raise StoreError(f"{path}: a DuckDB file, but not a run of Glossator") from error
    if found > len(MIGRATIONS):
        raise StoreError(
            f"{path}: written with schema {found}, this Glossator knows {len(MIGRATIONS)}; upgrade: pip install -U glossator"
        )
    return found


def _upgraded(reader: Reader, path: str | Path, say: Say, extensions: tuple[str, ...]) -> Reader:
    """The same file with today's schema; where it may not be written, a temporary copy of it."""
    found = reader.schema
    reader.close()
    try:
        with Store(path, create=False) as store:
            say(upgraded(store))
        return Reader(path, extensions=extensions)
    except StoreError as refused:
        if "read-only" not in str(refused) and "no copy of it" not in str(refused):
            raise
    place = tempfile.TemporaryDirectory(prefix="glossator-")
    copy = Path(place.name) / Path(path).name
    with Reader(path):  # nobody writes meanwhile
        for suffix in ("", ".wal"):
            if Path(f"{path}{suffix}").exists():
                copied(f"{path}{suffix}", Path(f"{copy}{suffix}"))
    Store(copy, create=False).close()
    say(f"{path}: of schema {found}, and may not be written: read through an upgraded copy")
    reader = Reader(path, copy, extensions)
    reader.way, reader.place = "file", place
    return reader


def upgraded(store: Store) -> str:
    """What to say of a file that was upgraded when it was opened; empty if it was not."""
    return f"{store.path}: upgraded to schema {len(MIGRATIONS)}; as it was: {store.backup}" if store.backup else ""


def _with_values(query: str, values: Sequence[Any]) -> str:
    """A query with its values in the places of `?`. Text goes in as base64: whatever it holds, it ends nowhere."""
    raw = query.encode()
    marks = [at for at, _ in duckdb.tokenize(query) if raw[at : at + 1] == b"?"]
    if len(marks) != len(values):
        raise UsageError(f"sql: {len(marks)} values are asked for, {len(values)} given")
    for at, value in reversed(list(zip(marks, values, strict=True))):
        raw = raw[:at] + _literal(value).encode() + raw[at + 1 :]
    return raw.decode()


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool | int | float):
        return f"({value!r})" if value == value and abs(value) != float("inf") else f"'{value!r}'::DOUBLE"
    return f"decode(from_base64('{base64.b64encode(str(value).encode()).decode()}'))"
