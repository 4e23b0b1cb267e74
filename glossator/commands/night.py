"""Commands of a whole night: init, run, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glossator.commands.common import Model, RunFile, app, err, example, out

NightFile = Annotated[
    Path, typer.Argument(metavar="NIGHT.toml", help="The run file that says what to do; `glossator init` writes one.")
]


@app.command(epilog=example("init --out night.toml --llm openai:gpt-6-luna"))
def init(
    path: Annotated[Path, typer.Option("--out", help="The file to write.")] = Path("night.toml"),
    model: Annotated[
        str, typer.Option(help="A model folder, a hub name, or `demo` for the built-in subject.")
    ] = "demo",
    dictionary: Annotated[list[str] | None, typer.Option(help="As for `harvest`; may be repeated.")] = None,
    hook: Annotated[list[str] | None, typer.Option(help="As for `harvest`.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="As for `harvest`; may be repeated.")] = None,
    explainer: Annotated[
        str | None, typer.Option(help="As for `label`; cascade where --llm is given, else lexical.")
    ] = None,
    llm: Model = None,
) -> None:
    """Write a commented file that says what a night is to do. No file is overwritten."""
    from glossator.night.template import Wanted, write_template

    wanted = Wanted(model, tuple(dictionary or ()), tuple(hook or ()), tuple(corpus or ()), explainer, llm)
    write_template(path, wanted)
    out.print(f"{path}: written; next: glossator run {path} --plan", soft_wrap=True)


@app.command(epilog=example("run night.toml --plan"))
def run(
    path: NightFile,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what it would take, and stop there: nothing is asked or written.")
    ] = False,
) -> None:
    """Harvest, explain, probe, score and report, as the file says. Running it again goes on where it was stopped."""
    from glossator.config import read_night
    from glossator.night.running import run_night
    from glossator.progress import board

    written = read_night(path)
    if plan:
        from glossator.night.plan import forecast
        from glossator.night.plan_shown import table

        out.print(table(forecast(written)))
        return
    with board(err) as show:
        run_night(written, show, lambda line: err.print(line))


@app.command(epilog=example("status run.duckdb"))
def status(path: RunFile) -> None:
    """How far a run is, from another shell: stage, counts, rate, time left, spend, and whether it lives."""
    from glossator.night.status import status_of

    out.print(status_of(path))
