"""Progress that people like: a bar with rate and time left on a terminal, a quiet line now and then elsewhere.

`bars` is for one step after another. `board` shows a night: all its stages at once, what is spent and what it will come to.
What a board shows is a value, `Standing`, which the night also writes into its log; so `status` draws the same from a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

_QUIET_SECONDS = 15.0
_BOARD_SECONDS = 60.0  # between the quiet lines of a board
_SIGNS = {
    "waiting": ("  ", "dim"),
    "running": ("> ", "bold"),
    "done": ("ok", "green"),
    "stopped": ("--", "yellow"),
    "stands": ("ok", "dim"),
}


@dataclass(frozen=True)
class Stage:
    """One stage as it stands. state: waiting, running, done, stopped, stands. rate: a second, None where it is not known yet."""

    name: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    rate: float | None = None
    left: float | None = None  # seconds
    failed: int = 0
    doing: str = ""  # which step of it


@dataclass(frozen=True)
class Standing:
    """How far a night is. usd None: no price is known of something that was asked. projected: when all is done, if it goes on so."""

    run: str
    stages: tuple[Stage, ...] = ()
    usd: float | None = 0.0
    tokens: int = 0
    projected: float | None = None
    in_flight: int = 0
    most: int = 0
    until: str | None = None

    @property
    def current(self) -> Stage | None:
        return next((one for one in self.stages if one.state == "running"), None)


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


@contextmanager
def board(console: Console, now: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Standing], None]]:
    """A function that shows how a night stands: drawn anew on a terminal, one quiet line a minute elsewhere."""
    if not console.is_terminal:
        yield _quiet(console, now)
        return
    last: list[Standing] = []
    with Live(
        console=console, refresh_per_second=2, get_renderable=lambda: drawn(last[0]) if last else Text("")
    ) as live:

        def show(standing: Standing) -> None:
            last[:] = [standing]

        yield show
        live.refresh()


def _quiet(console: Console, now: Callable[[], float]) -> Callable[[Standing], None]:
    said = now()

    def show(standing: Standing) -> None:
        nonlocal said
        if standing.current is not None and now() - said >= _BOARD_SECONDS:
            said = now()
            console.print(Text(one_line(standing)), soft_wrap=True)

    return show


def drawn(standing: Standing) -> RenderableType:
    """All stages, a line each, and what it costs."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "left", "right", "left", "right", "left", "left"):
        table.add_column(justify=justify, no_wrap=True)
    for one in standing.stages:
        sign, style = _SIGNS.get(one.state, ("  ", ""))
        counts = f"{one.done:,} of {one.total:,}" if one.total else ""
        bar = (
            ProgressBar(total=max(one.total, 1), completed=one.done, width=24)
            if one.state == "running" and one.total
            else Text("")
        )
        rate = _rate(one.rate) if one.state == "running" else ""
        time_of = (
            f"left {clock(one.left)}"
            if one.left is not None and one.state == "running"
            else clock(one.seconds)
            if one.seconds
            else ""
        )
        failed = f"{one.failed:,} failed" if one.failed else ""
        table.add_row(Text(sign, style), Text(one.name, style), counts, bar, rate, time_of, Text(failed, "red"))
        if one.doing and one.state == "running" and one.doing != one.name:
            table.add_row("", Text(f"  {one.doing}", "dim"))
    return Group(table, Text(_costs(standing)))


def one_line(standing: Standing) -> str:
    """The same in one line."""
    one = standing.current
    if one is None:
        return _costs(standing)
    doing = f" ({one.doing})" if one.doing and one.doing != one.name else ""
    counts = f"{one.done:,} of {one.total:,}" if one.total else f"for {clock(one.seconds)} now"
    parts = [f"{one.name}{doing}: {counts}"]
    parts += [_rate(one.rate)] * (one.rate is not None)
    parts += [f"{clock(one.left)} left"] * (one.left is not None)
    parts += [f"{one.failed:,} failed"] * bool(one.failed)
    costs = [_costs(standing)] if standing.tokens or standing.most or standing.until else []
    return ", ".join([*parts, *costs])


def _costs(standing: Standing) -> str:
    if not standing.tokens and not standing.most:
        return f"until {standing.until}" if standing.until else "nothing was asked of a language model"
    usd = "dollars unknown" if standing.usd is None else f"${standing.usd:,.4f} spent"
    parts = [f"{usd} for {standing.tokens:,} tokens"]
    parts += [f"${standing.projected:,.2f} projected"] if standing.projected is not None else []
    parts += [f"{standing.in_flight} of {standing.most} in flight"] * bool(standing.most)
    return ", ".join([*parts, *([f"until {standing.until}"] if standing.until else [])])


def _rate(rate: float | None) -> str:
    """A second, or a minute where that is more readable."""
    if rate is None or rate <= 0:
        return ""
    return f"{rate:,.1f}/s" if rate >= 1 else f"{rate * 60:,.1f}/min"


def clock(seconds: float | None) -> str:
    """12 s, 3:20, 2:03:20."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
