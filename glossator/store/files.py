"""Run files as files: opening them, what beside them belongs to them, copying them, and what went wrong with them.

A file is always copied by another process. Locks of POSIX belong to a process and a file: closing any handle on the run
file in this process would drop the lock that DuckDB holds on it, and a second writer could come in.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import duckdb

from glossator.errors import GlossatorError, StoreError, UsageError

Config = dict[str, str | bool | int | float | list[str]]

_READERS_GO = 10.0  # seconds that a writer waits for those who only read
_COPY = "import os, shutil, sys; shutil.copyfile(*sys.argv[1:]); file = os.open(sys.argv[2], os.O_RDWR); os.fsync(file)"


def beside(path: str | Path) -> Path:
    """The folder of a run that is being written: who writes it, how to ask, its snapshot. Gone when the writer is."""
    return Path(f"{path}.live")


def missing(path: str | Path) -> StoreError:
    return StoreError(f"{path}: no such run file; make one with `glossator demo` or `glossator harvest`")


def refuse_other_files(path: str) -> None:
    """Before DuckDB looks: for some files of others it would fetch an extension."""
    if path != ":memory:" and _is_database(Path(path)) is False:
        raise StoreError(f"{path}: is not a DuckDB file; name a run file of Glossator")


def refuse_to_overwrite(to: Path | None, flag: str = "--out") -> None:
    """Whatever is written for people must not take the place of a run file. For commands, before they open one (see above)."""
    if to is not None and _is_database(to):
        raise UsageError(
            f"{flag} {to}: is a run file or another DuckDB database, which it would overwrite; name another file"
        )


def _is_database(path: Path) -> bool | None:
    """By its first bytes; None where there is no such file, or it cannot be read: who opens it will say why."""
    if not path.is_file():  # a pipe or a terminal would be waited for
        return None
    try:
        with path.open("rb") as file:
            return file.read(12)[8:] == b"DUCK"
    except OSError:
        return None


def connected(path: str, config: Config, patience: float = _READERS_GO) -> duckdb.DuckDBPyConnection:
    """Open a file for writing. Another writer: StoreError at once. Readers: they are waited for, a query is soon over."""
    until = time.monotonic() + patience
    while True:
        try:
            return duckdb.connect(path, config=config)
        except duckdb.Error as error:
            if not is_locked(error) or not _only_read(path):
                raise StoreError(opening(path, error)) from error
            if time.monotonic() > until:
                raise StoreError(
                    f"{path}: process {holder(error)} reads this file; wait until its query is over"
                ) from error
        time.sleep(0.05)


def _only_read(path: str) -> bool:
    """Whether those who hold the lock have opened the file for reading: then it can be opened so once more."""
    try:
        duckdb.connect(path, read_only=True).close()
    except duckdb.Error:
        return False
    return True


def is_locked(error: duckdb.Error) -> bool:
    """Whether somebody else has the file open; this process itself counts, too."""
    return "Could not set lock" in str(error) or "with a different configuration" in str(error)


def holder(error: duckdb.Error) -> int | None:
    """The process that has the file open."""
    if "with a different configuration" in str(error):
        return os.getpid()
    found = re.search(r"\(PID (\d+)\)", str(error))
    return int(found[1]) if found else None


def opening(path: str, error: duckdb.Error) -> str:
    """What to say where a file could not be opened."""
    message = str(error)
    if is_locked(error):
        return f"{path}: another process is writing this file (PID {holder(error)}); wait for it, or query a copy"
    if any(sign in message for sign in ("Permission denied", "Read-only file system", "Operation not permitted")):
        return (
            f"{path}: may not be written (the file, its folder or its disk is read-only); copy it to where you may write; "
            "sql, search, show, inspect and report read it where it is"
        )
    return f"{path}: cannot be opened ({message.splitlines()[0][:160]})"


def writing(path: str, error: BaseException) -> GlossatorError:
    """What to say where a file could not be written."""
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


def copied(source: str | Path, target: Path) -> None:
    """Copy a file under a temporary name, and rename it. Raises OSError. The source must not be changed meanwhile."""
    unfinished = target.with_name(target.name + ".unfinished")
    command = [sys.executable, "-I", "-S", "-c", _COPY, str(source), str(unfinished)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise OSError(f"{target} could not be written: {said[:200]}")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def backed_up(path: str, schema: int) -> Path:
    """A copy of a run file before its schema changes. The file must be whole: checkpointed, and nobody writing."""
    target = Path(path).with_name(f"{Path(path).stem}.schema-{schema}{Path(path).suffix}")
    try:
        copied(path, target)
    except OSError as error:
        raise StoreError(
            f"{path}: of schema {schema}, and not upgraded, since no copy of it could be kept: {error}"
        ) from error
    return target
