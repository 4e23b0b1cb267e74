"""Commands that make a run file: demo, harvest, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glossator.arguments import parse_shard
from glossator.commands.common import RunFile, app, err, example, out
from glossator.errors import UsageError

Controls = Annotated[
    list[str] | None,
    typer.Option(
        help="Harvest this control of each dictionary, too: random-dictionary, frozen-decoder, reinitialised-subject; may be repeated."
    ),
]


@app.command(epilog=example("demo --out demo.duckdb"))
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
    epilog=example(
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
    control: Controls = None,
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
        names,
        tokens=tokens,
        context_size=context_size,
        device=device,
        workers=workers,
        near_by=near_by,
        controls=control or (),
    )
    with bars(err) as progress:
        if shard is not None:
            pipeline.harvest_shard(path, recipe, *parse_shard(shard), progress, err.print)
        else:
            pipeline.harvest(path, recipe, workers, engine, progress, err.print)


@app.command(epilog=example("merge run.duckdb run.duckdb.harvest/"))
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
