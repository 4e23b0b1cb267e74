"""Commands that read a run file: sql, search, show, inspect, report; and embed, which search by meaning needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from glossator.arguments import check_search, parse_feature, similar_feature
from glossator.commands.common import RunFile, Which, app, err, example, looked_at, out, quiet_pipes, written
from glossator.errors import UsageError

Encoder = Annotated[
    Path | None,
    typer.Option(
        "--embedder",
        metavar="FOLDER",
        help="A sentence-transformers folder; all-MiniLM-L6-v2 of the extra demo if not given.",
    ),
]


@app.command(
    epilog=example('sql run.duckdb "FROM labels WHERE trusted ORDER BY adversarial DESC LIMIT 20" --format table')
)
def sql(
    path: RunFile,
    query: Annotated[str | None, typer.Argument(help="A query; - reads it from standard input.")] = None,
    output: Annotated[
        str, typer.Option("--format", help="table, csv, json (an object a line), markdown or parquet.")
    ] = "table",
    to: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write to this file.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Show views and tables, with what their columns mean, instead.")
    ] = False,
) -> None:
    """Query the run file, also while a run writes it. Read-only: nothing can be changed and no other file be read."""
    from glossator.show_schema import schema_shown
    from glossator.store.files import refuse_to_overwrite
    from glossator.store.output import check, render
    from glossator.store.reading import open_for_reading

    if (query is None) != schema:
        raise UsageError("sql: give a query, or --schema, which shows what there is to ask for")
    check(output, to)
    refuse_to_overwrite(to)
    text = sys.stdin.read() if query == "-" else query
    with open_for_reading(path, err.print, live=True, current=False) as reader, quiet_pipes():
        if text is None:
            out.print(schema_shown(reader))
            return
        with reader.stream(text) as batches:
            rows = render(batches, output, out, to)
    if to is not None:
        err.print(f"{to}: {rows} row{'s' * (rows != 1)}")


@app.command(epilog=example('search run.duckdb "golden gate bridge"'))
def search(
    path: RunFile,
    words: Annotated[str | None, typer.Argument(help="Words that a label should hold.")] = None,
    similar: Annotated[
        str | None, typer.Option("--similar", metavar="TEXT", help="Labels that mean something like this, instead.")
    ] = None,
    similar_to: Annotated[
        str | None,
        typer.Option(
            "--similar-to", metavar="FEATURE", help="Labels that mean something like that of this feature, instead."
        ),
    ] = None,
    dictionary: Annotated[
        str | None, typer.Option("--dictionary", help="With --similar-to: whose feature it is, if the run has several.")
    ] = None,
    embedder: Encoder = None,
    limit: Annotated[int, typer.Option(help="How many labels to show.", min=1)] = 20,
) -> None:
    """Labels that hold the words, those first that suit best where the file has a full-text index, then best simulation.

    With --similar or --similar-to: labels by meaning, nearest first, by the cosine of a sentence encoder's vectors, which
    `embed` and `score --scorer embedding` store. All dictionaries of the run file are searched.
    """
    from glossator import pipeline
    from glossator.agents.run import Run
    from glossator.store.extensions import SEARCH
    from glossator.store.output import render
    from glossator.store.reading import open_for_reading
    from glossator.store.search import search as found

    check_search(words, similar, similar_to, {"dictionary": dictionary, "embedder": embedder})
    if words is None:
        with open_for_reading(path, err.print, live=True) as reader:
            if similar is not None:
                near, lacking = pipeline.search_similar(reader, similar, limit, embedder)
            else:
                run = Run(reader, dictionary)
                near, lacking = pipeline.search_similar_to(run, similar_feature(similar_to, run.poles), limit, embedder)
            render(near.to_reader(), "table", out)
        if lacking:
            err.print(lacking)
        return
    with open_for_reading(path, err.print, live=True, current=False, extensions=SEARCH) as reader:
        render(found(reader, words, limit).to_reader(), "table", out)


@app.command(epilog=example("embed run.duckdb"))
def embed(path: RunFile, embedder: Encoder = None) -> None:
    """Store what a sentence encoder makes of each label, for `search --similar`; labels that have a vector are left alone."""
    from glossator import pipeline
    from glossator.progress import bars

    with written(path) as store, bars(err) as progress:
        out.print(pipeline.embed(store, embedder, progress), soft_wrap=True)


@app.command(epilog=example("show run.duckdb 17"))
def show(
    path: RunFile,
    feature: Annotated[str, typer.Argument(help="The index of a feature, or a pole such as 17-.")],
    dictionary: Which = None,
) -> None:
    """One feature: label, scores, coloured exemplars, experiments."""
    from glossator.show import card

    with looked_at(path, dictionary, quiet=True) as run:
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

    with looked_at(path, dictionary, quiet=True) as run:
        out.print(inspection(run, text, limit))


@app.command(epilog=example("report run.duckdb --out report.html"))
def report(
    path: RunFile,
    to: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("report.html"),
    dictionary: Which = None,
) -> None:
    """One self-contained HTML page: scores against nulls, best and worst, counterexamples, debates, cost, failures, a card for each feature."""
    from glossator.report import write_report
    from glossator.store.files import refuse_to_overwrite

    refuse_to_overwrite(to)
    with looked_at(path, dictionary) as run:
        out.print(f"{to}: {write_report(run, to)} features", soft_wrap=True)
