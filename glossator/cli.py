"""The command line: thin. Whatever a command does can be done from Python as well (see pipeline.py)."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

import glossator
from glossator.arguments import llm_config, parse_feature, parse_features, parse_shard, scoring_config
from glossator.errors import BatchWaiting, GlossatorError, UsageError

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
_INTERRUPTED, _WIDTH = 130, 150  # what typer makes of Ctrl-C; of tables that go to a file or a pipe
out = Console(highlight=False, emoji=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH)
err = Console(stderr=True, highlight=False, emoji=False, markup=False, soft_wrap=True)

RunFile = Annotated[Path, typer.Argument(metavar="RUN.duckdb", help="The run file.")]
Features = Annotated[
    str | None, typer.Option(help="Features such as 17, 0-999 or 3,5,8-12; all that are pending if not given.")
]
Feature = Annotated[
    str, typer.Option(help="The index of one feature, such as 17, or a pole, such as 17- of a signed one.")
]
Which = Annotated[str | None, typer.Option("--dictionary", help="Which dictionary of the run, if it has several.")]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="openai:NAME, openai:NAME@http://host:8000/v1, anthropic:NAME, local:PATH, files:NAME@DIR; +batch.",
    ),
]
Dollars = Annotated[float | None, typer.Option(help="Dollars this run file may spend, all in all.", min=0)]
Tokens = Annotated[int | None, typer.Option(help="Tokens it may spend, all in all.", min=0)]
InFlight = Annotated[int | None, typer.Option(help="Questions in flight at most; 64 if not given.", min=1)]
Prices = Annotated[str | None, typer.Option(metavar="FILE", help="A TOML file whose prices go before ours.")]
Effort = Annotated[str | None, typer.Option(help="How hard a model that thinks is to think: low, medium, ...")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Ask anew where the last reply was unusable.")]


def _example(line: str) -> str:
    return f"Example: glossator {line}"


def _asking(*given: object) -> dict[str, object]:
    """Flags by their names in LLMConfig."""
    return dict(zip(("budget_usd", "budget_tokens", "concurrency", "prices", "effort"), given, strict=True))


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


def _all(runs: Iterator[Run], work: Callable[[Run], None]) -> None:
    """Each dictionary in turn; also where one waits for a batch."""
    waiting: list[BatchWaiting] = []
    for run in runs:
        try:
            work(run)
        except BatchWaiting as error:
            waiting.append(error)
    if waiting:
        raise waiting[-1]  # which names the batches of those before it too


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

    if shard is not None and (workers > 1 or engine != "process"):
        raise UsageError("--shard: one process runs a share; leave out --workers and --engine, or --shard")
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
    model: Annotated[str | None, typer.Option(help="Where the model lies here, if not where it lay there.")] = None,
    dictionary: Annotated[
        list[str] | None, typer.Option(help="Where the dictionaries lie here: as many, in the same order.")
    ] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="Where the text lies here; may be repeated.")] = None,
) -> None:
    """Make one run file of the shards of a harvest, wherever they were run."""
    from glossator import pipeline

    pipeline.merge(path, shards, err.print, model=model, dictionaries=dictionary or (), corpus=corpus or ())


@app.command(epilog=_example("label run.duckdb --explainer oneshot --llm openai:gpt-5-mini --budget-usd 5"))
def label(
    path: RunFile,
    explainer: Annotated[
        str,
        typer.Option(help="lexical: executable rules, offline. oneshot: one question to a model about each feature."),
    ] = "lexical",
    features: Features = None,
    dictionary: Which = None,
    llm: Model = None,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    concurrency: InFlight = None,
    prices: Prices = None,
    effort: Effort = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Explain, probe and score features; explain only, where a language model writes the labels."""
    from glossator import pipeline
    from glossator.config import EditorConfig, LexicalConfig, OneshotConfig, ScoreConfig

    flags = _asking(budget_usd, budget_tokens, concurrency, prices, effort)
    asking = llm_config(explainer, llm, flags, retry_failed=retry_failed)

    def work(run: Run) -> None:
        chosen = parse_features(features, run.poles)
        if llm is not None:
            done = pipeline.explain_by_llm(run, llm, asking, OneshotConfig(), chosen, retry_failed=retry_failed)
        else:
            counts = pipeline.label(run, LexicalConfig(), EditorConfig(), ScoreConfig(), chosen)
            done = f"{run.dictionary}  " + "  ".join(f"{stage}: {n} features" for stage, n in counts.items())
        out.print(done, soft_wrap=True)  # it may hold lines to be copied

    with _each(path, dictionary) as runs:
        _all(runs, work)


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


@app.command(epilog=_example("score run.duckdb --scorer detection --llm openai:gpt-5-mini --budget-usd 5"))
def score(
    path: RunFile,
    features: Features = None,
    dictionary: Which = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(help="With --llm: simulation, detection, fuzzing; may be repeated; all of them if not given."),
    ] = None,
    llm: Model = None,
    every: Annotated[
        bool, typer.Option("--every", help="With --llm: read every explanation that has a text, not the labels alone.")
    ] = False,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    concurrency: InFlight = None,
    prices: Prices = None,
    effort: Effort = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Score labels on the split `test`, with intervals: rules with baselines and nulls, or, with --llm, as a model reads their text."""
    from glossator import pipeline
    from glossator.config import LLMScoreConfig, ScoreConfig

    flags = _asking(budget_usd, budget_tokens, concurrency, prices, effort)
    scorers, asking = scoring_config(scorer or (), llm, flags, others={"every": every, "retry-failed": retry_failed})

    def work(run: Run) -> None:
        chosen = parse_features(features, run.poles)
        if llm is None:
            done = f"{run.dictionary}  score: {pipeline.score(run, ScoreConfig(), chosen)} features"
        else:
            more = {"every": every, "retry_failed": retry_failed}
            done = pipeline.score_by_llm(run, llm, asking, LLMScoreConfig(), scorers, chosen, **more)
        out.print(done, soft_wrap=True)

    with _each(path, dictionary) as runs:
        _all(runs, work)


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
        out.print(f"{to}: {write_report(run, to)} features")


@app.command(epilog=_example("doctor --llm openai:gpt-6-luna"))
def doctor(
    llm: Annotated[
        str,
        typer.Option(metavar="SPEC", help="openai:NAME, openai:NAME@http://host:8000/v1, anthropic:NAME, local:PATH."),
    ],
    prices: Prices = None,
    effort: Effort = None,
) -> None:
    """Ask a language model two small questions: what works, how fast it is, and what a thousand features would cost."""
    from glossator.llm.doctor import Usual, examine
    from glossator.prompts.texts import fixed_text
    from glossator.store.replies import Replies
    from glossator.store.store import Store

    config = llm_config("oneshot", llm, {"prices": prices, "effort": effort}, retry_failed=False)
    usual = Usual(len(fixed_text("oneshot").encode()))
    with Store(":memory:") as store:
        books = Replies(store, time.time())
        asyncio.run(examine(llm, books, config, usual, lambda line: out.print(line, soft_wrap=True)))


@app.command(epilog=_example("version"))
def version() -> None:
    """The version of this Glossator and of its schema."""
    from glossator.store.migrations import MIGRATIONS

    out.print(json.dumps({"glossator": glossator.__version__, "schema": len(MIGRATIONS)}))


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors become one line and an exit code."""
    from glossator.config import quiet_tracing

    quiet_tracing()
    try:
        app(args=arguments, standalone_mode=True)
    except GlossatorError as error:
        err.print(f"glossator: {error}", style="red")
        raise SystemExit(error.exit_code) from None
    except SystemExit as stop:
        if stop.code != _INTERRUPTED:
            raise
        err.print("glossator: stopped; what was written is kept, run the same command again to go on", style="yellow")
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
