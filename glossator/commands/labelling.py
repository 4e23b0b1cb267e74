"""Commands that label features and try the labels: label, probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from glossator.arguments import llm_config, parse_feature, parse_features
from glossator.commands.common import (
    Dollars,
    Effort,
    Feature,
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
    opened,
    out,
)

if TYPE_CHECKING:
    from glossator.agents.run import Run


@app.command(epilog=example("label run.duckdb --explainer oneshot --llm openai:gpt-5-mini --budget-usd 5"))
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

    flags = flags_of(budget_usd, budget_tokens, concurrency, prices, effort)
    asking = llm_config(explainer, llm, flags, retry_failed=retry_failed)

    def work(run: Run) -> None:
        chosen = parse_features(features, run.poles)
        if llm is not None:
            done = pipeline.explain_by_llm(run, llm, asking, OneshotConfig(), chosen, retry_failed=retry_failed)
        else:
            counts = pipeline.label(run, LexicalConfig(), EditorConfig(), ScoreConfig(), chosen)
            done = f"{run.dictionary}  " + "  ".join(f"{stage}: {n} features" for stage, n in counts.items())
        out.print(done, soft_wrap=True)  # it may hold lines to be copied

    with each(path, dictionary) as runs:
        in_turn(runs, work)


@app.command(epilog=example("probe run.duckdb --feature 17"))
def probe(path: RunFile, feature: Feature, dictionary: Which = None) -> None:
    """Run the editor on one feature and show every experiment."""
    from glossator import pipeline
    from glossator.config import EditorConfig
    from glossator.show import experiments

    with opened(path, dictionary) as run:
        index = parse_feature(feature, run.poles)
        pipeline.probe(run, EditorConfig(), [index])
        out.print(experiments(run, index))
