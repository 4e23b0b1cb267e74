"""The command line: thin. Whatever a command does can be done from Python as well (see pipeline.py)."""

from __future__ import annotations

import json
import re
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
Feature = Annotated[
    str, typer.Option(help="The index of one feature, such as 17, or a pole, such as 17- of a signed one.")
]
Which = Annotated[str | None, typer.Option("--dictionary", help="Which dictionary of the run, if it has several.")]


def _example(line: str) -> str:
    return f"Example: glossator {line}"


def parse_features(text: str | None, poles: int | None = None) -> list[int] | None:
    """`17`, `0-999`, `3,5,8-12`, and `17+` or `17-` where features have `poles`, as indices; None for None. Raises UsageError."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        pole, low, high = _range(text, part.strip(), poles)
        found += range(low + pole, high + pole + 1)
    if not found:
        raise UsageError(f"--features {text}: an empty range; write the smaller index first")
    return sorted(set(found))


def _range(text: str, part: str, poles: int | None) -> tuple[int, int, int]:
    """What to add for the pole, the first index and the last one."""
    written = re.fullmatch(r"(\d+)(?:-(\d+)|([+-]))?", part)
    if written is None:
        raise UsageError(f"--features {text}: write indices such as 17, 0-999 or 3,5,8-12")
    low, high, sign = written[1], written[2] or written[1], written[3]
    if sign and poles is None:
        raise UsageError(f"--features {text}: this dictionary's features have no poles; write {low}")
    if sign and poles is not None and int(low) >= poles:
        raise UsageError(f"--features {text}: this dictionary has the poles 0+ to {poles - 1}-")
    if int(high) > _MOST_FEATURES:
        raise UsageError(f"--features {text}: no dictionary has {high} features")
    return (poles or 0) if sign == "-" else 0, int(low), int(high)


def parse_feature(text: str, poles: int | None = None) -> int:
    """One index, or one pole."""
    found = parse_features(text, poles) or []
    if len(found) != 1:
        raise UsageError(f"--feature {text}: name one feature, such as 17")
    return found[0]


def parse_shard(text: str) -> tuple[int, int]:
    """`2/4`: the second of four. Raises UsageError."""
    written = re.fullmatch(r"(\d+)/(\d+)", text)
    if written is None or not 1 <= int(written[1]) <= int(written[2]):
        raise UsageError(f"--shard {text}: write which of how many, 1/4 to 4/4")
    return int(written[1]), int(written[2])


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


@contextmanager
def _each(path: Path, dictionary: str | None) -> Iterator[Iterator[Run]]:
    """The named dictionary of an existing run file, or all of them in turn."""
    from glossator.agents.run import Run
    from glossator.progress import bars
    from glossator.store.records import dictionaries, the_dictionary
    from glossator.store.store import Store

    with Store(path, create=False) as store, bars(err) as progress:
        first = the_dictionary(store, dictionary) if dictionary or len(dictionaries(store)) < 2 else None
        yield (Run(store, name, progress, err.print) for name in ([first] if first else dictionaries(store)))


@app.command(
    epilog=_example(
        "harvest run.duckdb --model gpt2 --dictionary gpt2-small-res-jb:blocks.6.hook_resid_pre --corpus texts/"
    )
)
def harvest(
    path: RunFile,
    model: Annotated[str, typer.Option(help="A model folder, a hub name, or `demo` for the built-in subject.")],
    dictionary: Annotated[
        list[str],
        typer.Option(
            help="A SAELens folder, RELEASE:SAE_ID, `neurons`, or `demo`; may be repeated: one pass serves all."
        ),
    ],
    corpus: Annotated[
        list[str],
        typer.Option(help="Text, JSONL, CSV, Parquet, a folder, hf:NAME, python-docs or themes; may be repeated."),
    ],
    hook: Annotated[
        list[str] | None,
        typer.Option(
            help="A module path (model.layers.12, with :in for its input) or a TransformerLens name; one for each "
            "dictionary or one for all; if not given, where the dictionary itself says."
        ),
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Read no more than this many tokens.", min=1)] = None,
    context_size: Annotated[
        int | None,
        typer.Option(help="Tokens in one forward pass; if not given, what the dictionaries state, or 256.", min=16),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    shard: Annotated[
        str | None, typer.Option(help="Do only this share, such as 1/4, and leave it for `merge`.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on this machine, or Ray tasks.", min=1)] = 1,
    engine: Annotated[str, typer.Option(help="process or ray (needs glossator[ray] and a shared folder).")] = "process",
    near_misses: Annotated[
        list[str] | None, typer.Option(help="How near misses are found: overlap, embedding; may be repeated.")
    ] = None,
) -> None:
    """Read a corpus through a model and its dictionaries once, and keep what explaining needs."""
    from glossator import pipeline
    from glossator.config import harvest_recipe
    from glossator.progress import bars

    names = (model, tuple(hook or ()), tuple(dictionary), tuple(corpus))
    near_by = tuple(near_misses or ("overlap",))
    recipe = harvest_recipe(
        names, tokens=tokens, context_size=context_size, device=device, workers=workers, near_by=near_by
    )
    with bars(err) as progress:
        if shard is not None:
            pipeline.harvest_shard(path, recipe, *parse_shard(shard), progress, err.print)
        else:
            pipeline.harvest(path, recipe, workers, engine, progress, err.print)


@app.command(epilog=_example("merge run.duckdb run.duckdb.harvest/"))
def merge(
    path: RunFile,
    shards: Annotated[list[Path], typer.Argument(help="The parts that `harvest --shard` wrote, or folders of them.")],
) -> None:
    """Make one run file of the shards of a harvest, wherever they were run."""
    from glossator import pipeline

    pipeline.merge(path, shards, err.print)


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
    with _each(path, dictionary) as runs:
        for run in runs:
            done = pipeline.label(
                run, LexicalConfig(), EditorConfig(), ScoreConfig(), parse_features(features, run.poles)
            )
            out.print(f"{run.dictionary}  " + "  ".join(f"{stage}: {n} features" for stage, n in done.items()))


@app.command(epilog=_example("probe run.duckdb --feature 17"))
def probe(path: RunFile, feature: Feature, dictionary: Which = None) -> None:
    """Run the editor on one feature and show every experiment."""
    from glossator import pipeline
    from glossator.config import EditorConfig
    from glossator.show import experiments

    with _open(path, dictionary) as run:
        index = parse_feature(feature, run.poles)
        pipeline.probe(run, EditorConfig(), [index])
        out.print(experiments(run, index))


@app.command(epilog=_example("score run.duckdb --features 0-99"))
def score(path: RunFile, features: Features = None, dictionary: Which = None) -> None:
    """Score labels on the split `test`, with intervals, baselines and nulls."""
    from glossator import pipeline
    from glossator.config import ScoreConfig

    with _each(path, dictionary) as runs:
        for run in runs:
            n = pipeline.score(run, ScoreConfig(), parse_features(features, run.poles))
            out.print(f"{run.dictionary}  score: {n} features")


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
    feature: Annotated[str, typer.Argument(help="The index of a feature, or a pole such as 17-.")],
    dictionary: Which = None,
) -> None:
    """One feature: label, scores, coloured exemplars, experiments."""
    from glossator.show import card

    with _open(path, dictionary, quiet=True) as run:
        out.print(card(run, parse_feature(feature, run.poles)))


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
