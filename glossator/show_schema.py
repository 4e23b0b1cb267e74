"""What a terminal shows of a run file's schema: every view and table, with what its columns hold."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glossator.store.query import schema
from glossator.store.reading import Reader
from glossator.types import visible


def schema_shown(reader: Reader) -> RenderableType:
    """Views first, one column a line, then tables, whose names say most of it."""
    parts: list[RenderableType] = []
    for name, kind, meaning, columns in schema(reader):
        parts.append(Text.assemble((f"{kind} {name}", "bold"), "  " if meaning else "", (visible(meaning), "dim")))
        table = Table(show_header=False, show_edge=False, pad_edge=False, box=None)
        for column, type_, about in columns:
            table.add_row("  " + column, Text(visible(type_.lower()), style="dim"), Text(visible(about)))
        parts += [table, Text("")]
    return Group(*parts)
