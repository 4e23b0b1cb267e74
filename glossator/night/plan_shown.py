"""A plan as a table, with what it cannot know below."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glossator.night.plan import Forecast, Plan
from glossator.progress import clock


def table(plan: Plan) -> RenderableType:
    shown = Table(show_edge=False, pad_edge=False)
    shown.add_column("stage")
    for name in ("features", "calls", "tokens in", "tokens out", "dollars", "rounds", "time"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("by")
    for one in plan.stages:
        shown.add_row(*_row(one), Text(one.basis, "dim"))
    if any(one.calls for one in plan.stages):
        shown.add_section()
        shown.add_row(*_row(_total(plan.stages)), "")
    lines = [Text(f"Cannot know: {line}") for line in plan.unknown] + [
        Text(f"Note: {line}", "yellow") for line in plan.notes
    ]
    return Group(shown, *lines)


def _row(one: Forecast) -> list[str]:
    most = "<= " if one.at_most else ""
    usd = "" if not one.calls else "?" if one.usd is None else f"{most}${one.usd:,.2f}"
    counts = [f"{most}{value:,.0f}" if value else "" for value in (one.calls, one.input, one.output)]
    features = (
        "?"
        if one.features is None and one.stage not in ("harvest", "all")
        else f"{one.features:,}"
        if one.features is not None
        else ""
    )
    time = clock(one.seconds) if one.seconds is not None else "?" if one.features != 0 else ""
    return [one.stage, features, *counts, usd, str(one.rounds or ""), time]


def _total(stages: tuple[Forecast, ...]) -> Forecast:
    asks = [one for one in stages if one.calls]
    known = [one.usd for one in asks if one.usd is not None]
    times = [one.seconds for one in stages if one.features != 0]
    return Forecast(
        "all", None, sum(one.calls or 0 for one in asks), sum(one.input or 0 for one in asks), sum(one.output or 0 for one in asks),
        sum(known) if len(known) == len(asks) else None, sum(one.rounds or 0 for one in asks) or None,
        None if None in times else sum(one or 0.0 for one in times), any(one.at_most for one in asks),
    )  # fmt: skip
