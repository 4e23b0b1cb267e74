"""The command line: thin. Whatever a command does can be done from Python as well (see pipeline.py)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import glossator
from glossator.errors import GlossatorError, UsageError

if TYPE_CHECKING:
    from glossator.agents.run import Run

app = typer.Typer(
    name="glossator",
    help="Writes the glossary of a neural network: a tested label for every feature of a dictionary, in one DuckDB file.\n\n"
    "Exit codes: 0 done, 1 failed, 2 bad usage, 3 stopped (run again to go on).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_MOST_FEATURES = 10_000_000
_INTERRUPTED = 130  # what typer makes of Ctrl-C
_WIDTH = 150  # of tables that go to a file or a pipe
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.duckdb", help="The run file.")]
Features = Annotated[
    str | None,
    typer.Option(help="Features such as 17, 0-999 or 3,5,8-12; all that are pending if not given."),
]
Feature = Annotated[int, typer.Option(help="The index of one feature.")]
Which = Annotated[str | None, typer.Option("--dictionary", help="Which dictionary of the run, if it has several.")]


def _example(line: str) -> str:
    return f"Example: glossator {line}"


def parse_features(text: str | None) -> list[int] | None:
    """`17`, `0-999`, `3,5,8-12` as indices; None for None. Raises UsageError."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.strip().partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            raise UsageError(f"--features {text}: write indices such as 17, 0-999 or 3,5,8-12")
        if int(high or low) > _MOST_FEATURES:
            raise UsageError(f"--features {text}: no dictionary has {high or low} features")
        found += range(int(low), int(high or low) + 1)
    if not found:
        raise UsageError(f"--features {text}: an empty range; write the smaller index first")
    return sorted(set(found))


@contextmanager
def _open(path: Path, dictionary: str | None = None, *, quiet: bool = False) -> Iterator[Run]:
    """An existing run file, with a progress bar while it is open."""
    from glossator.agents.run import Run
    from glossator.progress import bars
    from glossator.store.store import Store

    with Store(path, create=False) as store, bars(err, quiet=quiet) as progress:
        yield Run(store, dictionary, progress, err.print)


@app.command(epilog=_example("demo --out demo.duckdb"))
def demo(
    path: Annotated[Path, typer.Option("--out", help="The run file to write.")] = Path("demo.duckdb"),
) -> None:
    """The whole job, offline, on the built-in subject: harvest, label, probe, score; then what came out."""
    from glossator import pipeline
    from glossator.progress import bars
    from glossator.summary import demo_figures

    with bars(err) as progress:
        pipeline.demo(path, progress, err.print)
    out.print(demo_figures(path))


@app.command(
    epilog=_example(
        "harvest run.duckdb --model gpt2 --hook transformer.h.6 --dictionary RELEASE:SAE_ID --corpus texts/"
    )
)
def harvest(
    path: RunFile,
    model: Annotated[str, typer.Option(help="A model folder, a hub name, or `demo` for the built-in subject.")],
    hook: Annotated[str, typer.Option(help="A module path such as encoder.layer.4 or model.layers.12.")],
    dictionary: Annotated[str, typer.Option(help="A SAELens folder, RELEASE:SAE_ID, or `demo`.")],
    corpus: Annotated[
        list[str],
        typer.Option(help="Text, JSONL, CSV, Parquet, a folder, hf:NAME, python-docs or themes; may be repeated."),
    ],
    tokens: Annotated[int | None, typer.Option(help="Read no more than this many tokens.", min=1)] = None,
    context_size: Annotated[int, typer.Option(help="Tokens in one forward pass.", min=16)] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
) -> None:
    """Read a corpus through a model and a dictionary once, and keep what explaining needs."""
    from glossator import pipeline
    from glossator.config import CorpusConfig, HarvestConfig, subject_config
    from glossator.progress import bars

    what = subject_config(model, hook, dictionary, corpus)
    with bars(err) as progress:
        pipeline.harvest(
            path,
            what,
            CorpusConfig(tokens=tokens, context_size=context_size),
            HarvestConfig(device=device),
            progress,
            err.print,
        )


@app.command(epilog=_example("label run.duckdb --features 0-999"))
def label(
    path: RunFile,
    explainer: Annotated[str, typer.Option(help="lexical: executable rules, offline.")] = "lexical",
    features: Features = None,
    dictionary: Which = None,
) -> None:
    """Explain, probe and score features."""
    from glossator import pipeline
    from glossator.config import EditorConfig, LexicalConfig, ScoreConfig

    if explainer != "lexical":
        raise UsageError(f"--explainer {explainer}: this version has the explainer lexical")
    with _open(path, dictionary) as run:
        done = pipeline.label(run, LexicalConfig(), EditorConfig(), ScoreConfig(), parse_features(features))
    out.print("  ".join(f"{stage}: {n} features" for stage, n in done.items()))


@app.command(epilog=_example("probe run.duckdb --feature 17"))
def probe(path: RunFile, feature: Feature, dictionary: Which = None) -> None:
    """Run the editor on one feature and show every experiment."""
    from glossator import pipeline
    from glossator.config import EditorConfig
    from glossator.show import experiments

    with _open(path, dictionary) as run:
        pipeline.probe(run, EditorConfig(), [feature])
        out.print(experiments(run, feature))


@app.command(epilog=_example("score run.duckdb --features 0-99"))
def score(path: RunFile, features: Features = None, dictionary: Which = None) -> None:
    """Score labels on the split `test`, with intervals, baselines and nulls."""
    from glossator import pipeline
    from glossator.config import ScoreConfig

    with _open(path, dictionary) as run:
        n = pipeline.score(run, ScoreConfig(), parse_features(features))
    out.print(f"score: {n} features")


@app.command(
    epilog=_example('sql run.duckdb "FROM labels WHERE trusted ORDER BY adversarial DESC LIMIT 20" --format table')
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


@app.command(epilog=_example('search run.duckdb "golden gate bridge"'))
def search(
    path: RunFile,
    words: Annotated[str, typer.Argument(help="Words that a label should hold.")],
    limit: Annotated[int, typer.Option(help="How many labels to show.", min=1)] = 20,
) -> None:
    """Labels that hold the words, best simulation first."""
    from glossator.store.query import render, search_labels

    render(search_labels(path, words, limit), "table", out)


@app.command(epilog=_example("show run.duckdb 17"))
def show(
    path: RunFile,
    feature: Annotated[int, typer.Argument(help="The index of a feature.")],
    dictionary: Which = None,
) -> None:
    """One feature: label, scores, coloured exemplars, experiments."""
    from glossator.show import card

    with _open(path, dictionary, quiet=True) as run:
        out.print(card(run, feature))


@app.command(epilog=_example('inspect run.duckdb --text "The chihuahua barked."'))
def inspect(
    path: RunFile,
    text: Annotated[str, typer.Option(help="Any text.")],
    limit: Annotated[int, typer.Option(help="How many features to show.", min=1)] = 15,
    dictionary: Which = None,
) -> None:
    """Which labelled features fire on a text, and on which tokens."""
    from glossator.show import inspection

    with _open(path, dictionary, quiet=True) as run:
        out.print(inspection(run, text, limit))


@app.command(epilog=_example("report run.duckdb --out report.html"))
def report(
    path: RunFile,
    to: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path("report.html"),
) -> None:
    """One self-contained HTML page: summary, scores against nulls, feature cards."""
    from glossator.report import write_report

    with _open(path) as run:
        n = write_report(run, to)
    out.print(f"{to}: {n} features")


@app.command(epilog=_example("version"))
def version() -> None:
    """The version of this Glossator and of its schema."""
    from glossator.store.migrations import MIGRATIONS

    out.print(json.dumps({"glossator": glossator.__version__, "schema": len(MIGRATIONS)}))


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line and an exit code."""
    try:
        app(args=arguments, standalone_mode=True)
    except GlossatorError as error:
        err.print(f"glossator: {error}", style="red", markup=False)
        raise SystemExit(error.exit_code) from None
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        err.print("glossator: stopped; what was written is kept, run the same command again to go on", style="yellow")
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
