"""Commands that read a run file: sql, search, show, inspect, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from glossator.arguments import parse_feature
from glossator.commands.common import RunFile, Which, app, example, opened, out


@app.command(
    epilog=example('sql run.duckdb "FROM labels WHERE trusted ORDER BY adversarial DESC LIMIT 20" --format table')
)
def sql(
    path: RunFile,
    query: Annotated[str, typer.Argument(help="A query; - reads it from standard input.")],
    output: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
) -> None:
    """Query the run file. Read-only: nothing can be changed and no other file be read."""
    from glossator.store.query import query as run_query
    from glossator.store.query import render

    table = run_query(path, sys.stdin.read() if query == "-" else query)
    render(table, output, out)


@app.command(epilog=example('search run.duckdb "golden gate bridge"'))
def search(
    path: RunFile,
    words: Annotated[str, typer.Argument(help="Words that a label should hold.")],
    limit: Annotated[int, typer.Option(help="How many labels to show.", min=1)] = 20,
) -> None:
    """Labels that hold the words, best simulation first."""
    from glossator.store.query import render, search_labels

    render(search_labels(path, words, limit), "table", out)


@app.command(epilog=example("show run.duckdb 17"))
def show(
    path: RunFile,
    feature: Annotated[str, typer.Argument(help="The index of a feature, or a pole such as 17-.")],
    dictionary: Which = None,
) -> None:
    """One feature: label, scores, coloured exemplars, experiments."""
    from glossator.show import card

    with opened(path, dictionary, quiet=True) as run:
        out.print(card(run, parse_feature(feature, run.poles)))


@app.command(epilog=example('inspect run.duckdb --text "The chihuahua barked."'))
def inspect(
    path: RunFile,
    text: Annotated[str, typer.Option(help="Any text.")],
    limit: Annotated[int, typer.Option(help="How many features to show.", min=1)] = 15,
    dictionary: Which = None,
) -> None:
    """Which labelled features fire on a text, and on which tokens."""
    from glossator.show import inspection

    with opened(path, dictionary, quiet=True) as run:
        out.print(inspection(run, text, limit))


@app.command(epilog=example("report run.duckdb --out report.html"))
def report(
    path: RunFile,
    to: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """One self-contained HTML page: summary, scores against nulls, feature cards."""
    from glossator.report import write_report

    with opened(path) as run:
        out.print(f"{to}: {write_report(run, to)} features")
