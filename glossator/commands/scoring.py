"""Commands that say how good labels are: score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from glossator.arguments import parse_features, scoring_config
from glossator.commands.common import (
    Dollars,
    Effort,
    Features,
    InFlight,
    Model,
    Prices,
    RetryFailed,
    RunFile,
    Tokens,
    Which,
    app,
    each,
    example,
    flags_of,
    in_turn,
    out,
)

if TYPE_CHECKING:
    from glossator.agents.run import Run


@app.command(epilog=example("score run.duckdb --scorer detection --llm openai:gpt-5-mini --budget-usd 5"))
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

    flags = flags_of(budget_usd, budget_tokens, concurrency, prices, effort)
    scorers, asking = scoring_config(scorer or (), llm, flags, others={"every": every, "retry-failed": retry_failed})

    def work(run: Run) -> None:
        chosen = parse_features(features, run.poles)
        if llm is None:
            done = f"{run.dictionary}  score: {pipeline.score(run, ScoreConfig(), chosen)} features"
        else:
            more = {"every": every, "retry_failed": retry_failed}
            done = pipeline.score_by_llm(run, llm, asking, LLMScoreConfig(), scorers, chosen, **more)
        out.print(done, soft_wrap=True)

    with each(path, dictionary) as runs:
        in_turn(runs, work)
