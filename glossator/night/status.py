"""How far a run is, from another shell: what its log said last, how long ago, and whether the process that said it lives.

The log is read, not the run file, so it works whoever holds that. A file that was never run by `glossator run` has no log, and
its rows are counted instead.
"""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from glossator.errors import StoreError
from glossator.night.log import events, log_path
from glossator.progress import Stage, Standing, clock, drawn
from glossator.store.query import query
from glossator.types import visible

_SAID = 4  # of the last lines


def status_of(path: Path) -> RenderableType:
    """Raises StoreError where there is neither a run file nor a log."""
    told = list(events(path))
    if not told:
        if not path.exists():
            raise StoreError(
                f"{path}: no such run file, and no log {log_path(path).name} beside it; start one with glossator run"
            )
        return _counted(path)
    begun = max((n for n, one in enumerate(told) if one["event"] == "run begun"), default=0)
    told = told[begun:]
    last = told[-1]
    lines = [Text(_life(told, last))]
    standing = standing_in(told)
    said = [line for one in told if one["event"] == "said" for line in str(one.get("text", "")).splitlines()][-_SAID:]
    return Group(
        *lines, *([drawn(standing)] if standing else []), *(Text(f"  {visible(line)}", "dim") for line in said)
    )


def standing_in(told: Sequence[Mapping[str, Any]]) -> Standing | None:
    """The last standing in these events, with the stages that began or ended after it. What is of another version is left out."""
    found: Standing | None = None
    for one in told:
        with suppress(TypeError, ValueError, AttributeError):
            if one["event"] == "standing":
                given = dict(one["standing"])
                stages = tuple(Stage(**stage) for stage in given.get("stages", []))
                new = Standing(**given | {"stages": stages})
                drawn(new)  # numbers that are none
                found = new
            elif one["event"] in ("stage begun", "stage ended") and found is not None:
                found = _amended(found, one)
    return found


def _amended(standing: Standing, event: Mapping[str, Any]) -> Standing:
    state = "running" if event["event"] == "stage begun" else str(event.get("state", "done"))
    new = Stage(
        str(event.get("stage")),
        state,
        int(event.get("done", 0)),
        int(event.get("total", 0)),
        float(event.get("seconds", 0.0)),
    )
    if event.get("wave"):  # counted over all waves, and so told by the next standing
        new = next((replace(one, state=state) for one in standing.stages if one.name == new.name), new)
    stages = tuple(new if one.name == new.name else one for one in standing.stages)
    return Standing(**{**vars(standing), "stages": stages})


def _life(told: Sequence[Mapping[str, Any]], last: Mapping[str, Any]) -> str:
    """Whether it goes on, and when it was last heard of."""
    ago = f"last heard of {clock(max(0.0, time.time() - float(last['at'])))} ago"
    begun = float(last.get("begun", told[0]["at"]))
    started = f"begun {datetime.datetime.fromtimestamp(begun):%Y-%m-%d %H:%M}"
    if last["event"] == "run ended":
        return f"not running: {visible(str(last.get('why', 'done')))} ({started}, {ago})"
    lives = _alive(int(last.get("pid", 0)), begun)
    if lives is None:
        return f"process {last.get('pid')} cannot be looked at from here ({started}, {ago})"
    if lives:
        return f"running as process {last.get('pid')} ({started}, {ago})"
    return f"not running: process {last.get('pid')} is gone without a word, so it was killed; run it again to go on ({started}, {ago})"


def _alive(pid: int, since: float) -> bool | None:
    """Whether this process is there, and is not another one of the same number; None where that cannot be told."""
    if sys.platform == "win32" or pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return None
    try:
        return Path(f"/proc/{pid}").stat().st_ctime <= since + 60
    except OSError:
        return True  # no /proc here


def _counted(path: Path) -> RenderableType:
    rows = query(path, "SELECT stage, done, failed, abstained, waiting FROM coverage").to_pylist()
    shown = [
        f"  {row['stage']}: {row['done']:,} done, {row['abstained']:,} abstained, {row['failed']:,} failed, {row['waiting']:,} waiting"
        for row in rows
    ]
    return Group(Text("not running, and never run by glossator run"), *(Text(visible(line)) for line in shown))
