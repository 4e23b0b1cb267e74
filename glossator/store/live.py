"""A run that is being written lets others look in: the writer's side. `reading.open_for_reading` is the other one.

Beside the run lies a folder `RUN.duckdb.live` that only the user can enter. `writer.json` says who writes (0600, with the
token of the server). Who wants to read puts a file `want.live` or `want.snapshot` there; nothing is done before, so that a
run nobody looks at pays for a look at a folder five times a second.

- Live: DuckDB's Quack protocol on a free port of 127.0.0.1, where the extensions of the extra `live` can be loaded. From
  then on the writer's DuckDB can read no file but its own, and its settings are locked. `guard.Guard` judges each query.
- Snapshot: a checkpoint, a copy by another process, a rename. While it is copied the writer goes on: it commits to its log,
  and makes no checkpoint. At most a twentieth of the time goes into copies, and none is made of what has not changed.

Nothing of this can fail a run: what goes wrong becomes one line, and readers are told why.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import duckdb

from glossator.store.extensions import LIVE, SEARCH, load
from glossator.store.files import beside, copied
from glossator.store.guard import Guard
from glossator.store.store import Store

WRITER, SNAPSHOT, WANT_LIVE, WANT_SNAPSHOT = "writer.json", "snapshot.duckdb", "want.live", "want.snapshot"
_LOOK = 0.2  # seconds between two looks at what is wanted
_SHARE = 20  # a copy that took a second is followed by twenty without one
_SOONEST = 1.0  # seconds between two copies, however fast they are
_STARTING = 0.3  # seconds that a process takes to start: no work on the disk
_SPARE = 1 << 28  # bytes of the disk that a snapshot must leave free

Say = Callable[[str], None]


@dataclass(frozen=True)
class Writer:
    """What `writer.json` holds. `refused` and `no_snapshot` say why one of the ways is closed."""

    pid: int
    run: str  # a new one for each opening: that the server is this writer's is checked by it
    port: int | None = None
    token: str | None = None
    refused: str | None = None
    no_snapshot: str | None = None
    copy_seconds: float | None = None  # how long the last snapshot took
    ending: bool = False  # the file will be free in a moment


def writer_of(path: str | Path) -> Writer | None:
    """Who writes a run, where it is one that lets others look in."""
    try:
        return Writer(**json.loads((beside(path) / WRITER).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@contextmanager
def serving(store: Store, say: Say = lambda line: None, *, live: bool = True) -> Iterator[None]:
    """While this is open, other processes can query the run. `live` False: by snapshots alone.

    To be opened inside of `with Store(...)`, around whatever takes long. A second one inside the first does nothing.
    """
    if store.path == ":memory:" or store.served:
        yield
        return
    try:
        watch = _Watch(store, say, live)
    except OSError as error:
        say(f"{store.path}: cannot be queried while this runs ({error})")
        yield
        return
    try:
        yield
    finally:
        watch.stop()


class _Watch:
    """A thread that does what readers ask for."""

    def __init__(self, store: Store, say: Say, live: bool) -> None:
        self._store, self._say = store, say
        self._folder = beside(store.path)
        shutil.rmtree(self._folder, ignore_errors=True)  # of a run that was killed
        self._folder.mkdir(mode=0o700)
        self._writer = Writer(os.getpid(), secrets.token_hex(8), refused=None if live else "switched off")
        self._tell()
        self._server: _Server | None = None
        self._copied_at, self._copied_changes, self._took = -1e9, -1, 0.0
        self._over = threading.Event()
        store.served = True
        self._thread = threading.Thread(target=self._look, name="glossator-live", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()
        if self._server is not None:
            self._server.stop()
        self._store.served = False
        (self._folder / SNAPSHOT).unlink(missing_ok=True)
        self._writer = replace(self._writer, ending=True)
        self._tell()
        self._store.on_close = self._gone

    def _gone(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _look(self) -> None:
        while not self._over.wait(_LOOK):
            if self._writer.port is None and self._writer.refused is None and (self._folder / WANT_LIVE).exists():
                self._serve()
            if (self._folder / WANT_SNAPSHOT).exists() and time.monotonic() > self._copied_at + max(
                _SOONEST, _SHARE * self._took
            ):
                self._snapshot()

    def _serve(self) -> None:
        try:
            self._server = _Server(self._store, self._writer.run)
            self._writer = replace(self._writer, port=self._server.port, token=self._server.token)
        except (duckdb.Error, OSError) as error:
            why = str(error).splitlines()[0][:200]
            self._writer = replace(self._writer, refused=why)
        self._tell()

    def _snapshot(self) -> None:
        """The file as of now under the name of the snapshot; its time of change says as of when."""
        (self._folder / WANT_SNAPSHOT).unlink(missing_ok=True)
        target = self._folder / SNAPSHOT
        began, changes, as_of = time.monotonic(), self._store.changes, time.time()
        try:
            if changes != self._copied_changes:
                size, free = Path(self._store.path).stat().st_size, shutil.disk_usage(self._folder).free
                if size + _SPARE > free:
                    raise OSError(f"no room for a snapshot of {size >> 20} MB, {free >> 20} MB are free")
                with self._store.steady, self._store.cursor() as cursor:
                    cursor.execute("CHECKPOINT")
                    as_of = time.time()
                    copied(self._store.path, target)
                self._copied_changes, self._took = changes, max(0.0, time.monotonic() - began - _STARTING)
            os.utime(target, (as_of, as_of))
            self._writer = replace(self._writer, no_snapshot=None, copy_seconds=self._took)
        except (duckdb.Error, OSError) as error:
            why = str(error).splitlines()[0][:200]
            if self._writer.no_snapshot is None:
                self._say(f"{self._store.path}: no snapshot for those who query this run ({why})")
            self._writer = replace(self._writer, no_snapshot=why)
        self._copied_at = time.monotonic()
        self._tell()

    def _tell(self) -> None:
        """Write `writer.json`, readable for the user alone, in one go."""
        unfinished = self._folder / f"{WRITER}.unfinished"
        with suppress(OSError):  # a full disk; readers see what was told before
            unfinished.unlink(missing_ok=True)
            with os.fdopen(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                json.dump(asdict(self._writer), file)
            unfinished.replace(self._folder / WRITER)


class _Server:
    """Quack in the writer's own DuckDB. Raises duckdb.Error or OSError where it cannot be started."""

    def __init__(self, store: Store, run: str) -> None:
        self._open = ExitStack()
        self._cursor = self._open.enter_context(store.cursor())
        missing = load(self._cursor, LIVE)
        if missing is not None:
            self._open.close()
            raise OSError(missing)
        load(self._cursor, SEARCH)  # queries may use it; it does without
        self.token = secrets.token_urlsafe(32)
        with socket.socket() as probe:  # two servers on one port would not be noticed
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._uri = f"quack:127.0.0.1:{self.port}"
        locked = self._cursor.execute("SELECT current_setting('lock_configuration')").fetchall()[0][0]
        if not locked:  # else all of this stands from an earlier time in this opening of the file
            self._cursor.execute("ATTACH ':memory:' AS glossator_live")
            self._cursor.create_function(
                "glossator_allows", Guard(store.cursor).allows, ["VARCHAR", "VARCHAR"], "BOOLEAN", side_effects=True
            )
            self._cursor.execute("SET GLOBAL quack_authorization_function = 'glossator_allows'")
        self._cursor.execute(f"CREATE OR REPLACE MACRO glossator_live.main.run_id() AS '{run}'")
        self._cursor.execute("CALL quack_serve(?, token = ?)", [self._uri, self.token])
        if not locked:
            self._cursor.execute("SET GLOBAL enable_external_access = false; SET GLOBAL lock_configuration = true")

    def stop(self) -> None:
        with suppress(duckdb.Error):
            self._cursor.execute("CALL quack_stop(?)", [self._uri])
        self._open.close()
