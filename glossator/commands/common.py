"""What commands share: the application, its two consoles, the flags that several take, and how a run file is opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from glossator.errors import BatchWaiting

if TYPE_CHECKING:
    from glossator.agents.run import Run
    from glossator.store.store import Store

app = typer.Typer(
    name="glossator",
    help="Writes the glossary of a neural network: a tested label for every feature of a dictionary, in one DuckDB file.\n\n"
    "Exit codes: 0 done, 1 failed, 2 bad usage, 3 stopped (run again to go on).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_WIDTH = 150  # of tables that go to a file or a pipe
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


def example(line: str) -> str:
    return f"Example: glossator {line}"


def flags_of(*given: object) -> dict[str, object]:
    """Flags by their names in LLMConfig."""
    return dict(zip(("budget_usd", "budget_tokens", "concurrency", "prices", "effort"), given, strict=True))


@contextmanager
def opened(path: Path, dictionary: str | None = None, *, quiet: bool = False) -> Iterator[Run]:
    """An existing run file, with a progress bar while it is open. Others may query it meanwhile."""
    from glossator.agents.run import Run
    from glossator.progress import bars

    with written(path) as store, bars(err, quiet=quiet) as progress:
        yield Run(store, dictionary, progress, err.print)


@contextmanager
def each(path: Path, dictionary: str | None) -> Iterator[Iterator[Run]]:
    """The named dictionary of an existing run file, or all of them in turn. Others may query it meanwhile."""
    from glossator.agents.run import Run
    from glossator.progress import bars
    from glossator.store.records import dictionaries, the_dictionary

    with written(path) as store, bars(err) as progress:
        first = the_dictionary(store, dictionary) if dictionary or len(dictionaries(store)) < 2 else None
        yield (Run(store, name, progress, err.print) for name in ([first] if first else dictionaries(store)))


@contextmanager
def written(path: Path) -> Iterator[Store]:
    """An existing run file to write into; an index of its labels at the end."""
    from glossator.store.live import serving
    from glossator.store.reading import upgraded
    from glossator.store.search import index_labels
    from glossator.store.store import Store

    with Store(path, create=False) as store:
        if store.backup is not None:
            err.print(upgraded(store))
        with serving(store, err.print):
            yield store
            index_labels(store)


@contextmanager
def looked_at(path: Path, dictionary: str | None = None, *, quiet: bool = False) -> Iterator[Run]:
    """An existing run file to read, also while a run writes it: then its snapshot."""
    from glossator.agents.run import Run
    from glossator.progress import bars
    from glossator.store.reading import open_for_reading

    with open_for_reading(path, err.print) as reader, bars(err, quiet=quiet) as progress:
        yield Run(reader, dictionary, progress, err.print)


@contextmanager
def quiet_pipes() -> Iterator[None]:
    """Who reads our output may stop before its end, as `head` does: that is no failure."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it ends
        raise SystemExit(0) from None


def in_turn(runs: Iterator[Run], work: Callable[[Run], None]) -> None:
    """Each dictionary in turn; also where one waits for a batch."""
    waiting: list[BatchWaiting] = []
    for run in runs:
        try:
            work(run)
        except BatchWaiting as error:
            waiting.append(error)
    if waiting:
        raise waiting[-1]  # which names the batches of those before it too
