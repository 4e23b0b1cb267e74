"""Progress that people like: a bar with rate and time left on a terminal, a quiet line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_QUIET_SECONDS = 15.0


@contextmanager
def bars(console: Console, *, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A function (what, done, total) that shows how far each step is."""
    if quiet:
        yield lambda what, done, total: None
    elif console.is_terminal:
        yield from _live(console)
    else:
        yield _lines(console)


def _live(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    columns = (
        TextColumn("{task.description:>8}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total, rate="")
            progress.update(tasks[what], completed=done, total=total)
            speed = progress.tasks[tasks[what]].speed
            progress.update(tasks[what], rate=f"{speed:,.0f}/s" if speed else "")

        yield show


def _lines(console: Console) -> Callable[[str, int, int], None]:
    started: dict[str, float] = {}
    said: dict[str, float] = {}

    def show(what: str, done: int, total: int) -> None:
        now = time.monotonic()
        begun = started.setdefault(what, now)
        if done == 0 or (done < total and now - said.get(what, begun) < _QUIET_SECONDS):
            return
        said[what] = now
        rate = done / max(now - begun, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        console.print(f"{what}: {done:,} of {total:,}, {rate:,.0f}/s, {left:,.0f} s left", markup=False)

    return show
