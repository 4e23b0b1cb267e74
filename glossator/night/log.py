"""The log beside a run file: one JSON object a line, so that another shell, or another day, sees what happened and when.

Lines are appended and flushed one by one; a kill may tear the last one, which readers skip. No reply and no key is in it: what is
said passes `redact`. It may be deleted at any time; nothing reads it but `status`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glossator.llm.secrets import redact

_TAIL = 1 << 18  # bytes of the end that `status` reads


def log_path(run: str | Path) -> Path:
    return Path(f"{run}.log.jsonl")


class Log:
    """`write(event, ...)`. Raises nothing for a disk that is full: the run file itself will say so."""

    def __init__(self, run: str | Path) -> None:
        self.path, self._begun = log_path(run), time.time()

    def write(self, event: str, **fields: Any) -> None:
        """Every line says when its run began: that line may be far above the end, which is all that is read."""
        own = {"at": time.time(), "event": event, "pid": os.getpid(), "begun": self._begun}
        line = json.dumps(own | _clean(fields), ensure_ascii=False)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value.encode("utf-8", "replace").decode())
    if isinstance(value, dict):
        return {str(key): _clean(one) for key, one in value.items()}
    return [_clean(one) for one in value] if isinstance(value, list | tuple) else value


def events(run: str | Path) -> Iterator[dict[str, Any]]:
    """What the end of the log holds, oldest first. Lines that are torn are left out; none where there is no log."""
    try:
        with log_path(run).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            lines = file.read().split(b"\n")
    except OSError:
        return
    for line in lines if size <= _TAIL else lines[1:]:
        try:
            one = json.loads(line)
        except ValueError:
            continue
        numbers = {"pid": 0, "begun": 0.0} | one if isinstance(one, dict) else {}
        if all(isinstance(numbers.get(key), int | float) for key in ("at", "pid", "begun")) and isinstance(
            one.get("event"), str
        ):
            yield one
