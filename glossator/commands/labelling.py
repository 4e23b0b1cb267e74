"""Commands that label features and try the labels: label, probe, debate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from glossator.arguments import (
    debate_config,
    explainer_config,
    llm_config,
    parse_feature,
    parse_features,
    parse_one_or_several,
    probe_config,
)
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
from glossator.errors import GlossatorError

if TYPE_CHECKING:
    from glossator.agents.run import Run


@app.command(epilog=example("label run.duckdb --explainer oneshot --llm openai:gpt-5-mini --budget-usd 5"))
def label(
    path: RunFile,
    explainer: Annotated[
        str,
        typer.Option(
            help="lexical: executable rules, offline. By a model: oneshot, one question about each feature; contrastive, "
            "with silent windows that resemble; logits, with the tokens that it makes likelier; best_of:N, the candidate "
            "that predicts new text best; refine:K, rounds of counterexamples; label:K, the same with experiments on the subject; "
            "cascade, the lexical rule where it will do, and by a model only the others, each as far as doubt remains."
        ),
    ] = "lexical",
    features: Features = None,
    dictionary: Which = None,
    llm: Model = None,
    reader: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Who reads the candidates of best_of, refine, label and cascade; --llm if not given."
        ),
    ] = None,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    concurrency: InFlight = None,
    prices: Prices = None,
    effort: Effort = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Explain, probe and score features; explain only, where a language model writes the labels."""
    from glossator import pipeline
    from glossator.config import EditorConfig, LexicalConfig, ScoreConfig

    flags = flags_of(budget_usd, budget_tokens, concurrency, prices, effort)
    asking = llm_config(explainer, llm, flags, retry_failed=retry_failed, reader=reader)
    by_model = explainer_config(explainer)

    def work(run: Run) -> None:
        chosen = parse_features(features, run.poles)
        if llm is not None and by_model is not None:
            done = pipeline.explain_by_llm(run, llm, asking, by_model, chosen, reader=reader, retry_failed=retry_failed)
        else:
            counts = pipeline.label(run, LexicalConfig(), EditorConfig(), ScoreConfig(), chosen)
            done = f"{run.dictionary}  " + "  ".join(f"{stage}: {n} features" for stage, n in counts.items())
        out.print(done, soft_wrap=True)  # it may hold lines to be copied

    with each(path, dictionary) as runs:
        in_turn(runs, work)


@app.command(epilog=example("probe run.duckdb --feature 17 --llm openai:gpt-5-mini"))
def probe(
    path: RunFile,
    feature: Annotated[
        str | None, typer.Option(help="The index of one feature, such as 17, or a pole, such as 17- of a signed one.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="Several features, such as 0-999 or 3,5,8-12.")] = None,
    dictionary: Which = None,
    llm: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="A language model that writes texts to put the labels to the test; the forms are those of label --llm.",
        ),
    ] = None,
    reader: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Who reads the labels and predicts; --llm if not given.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--every", help="Read every explanation that has a text, not the label alone.")
    ] = False,
    wide: Annotated[
        bool,
        typer.Option("--wide", help="More texts, all carriers read: some three times the tokens, for near rivals."),
    ] = False,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    concurrency: InFlight = None,
    prices: Prices = None,
    effort: Effort = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Run the editor on features and show every experiment: rules by mechanical edits, with a model also by texts that it writes."""
    from glossator import pipeline
    from glossator.config import EditorConfig, wide_editor
    from glossator.show import experiments, probed

    flags = flags_of(budget_usd, budget_tokens, concurrency, prices, effort)
    asking = probe_config(llm, flags, reader=reader, retry_failed=retry_failed, every=every, wide=wide)
    with opened(path, dictionary) as run:
        chosen = parse_one_or_several(feature, features, run.poles)
        if llm is None:
            pipeline.probe(run, EditorConfig(), chosen)
        else:
            config = wide_editor(every=every) if wide else EditorConfig(every=every)
            done = pipeline.probe_by_llm(run, llm, asking, config, chosen, reader=reader, retry_failed=retry_failed)
            out.print(done, soft_wrap=True)
        if len(chosen) == 1:
            out.print(experiments(run, chosen[0]))
        else:
            out.print(probed(run, chosen))


@app.command(
    epilog=example('debate run.duckdb --feature 17 --hypothesis "token:bank" --hypothesis "after:river -> bank"')
)
def debate(
    path: RunFile,
    feature: Feature,
    hypothesis: Annotated[
        list[str] | None,
        typer.Option(
            help="Two rivals: rules such as token:right, words:cause,causes, after:on the -> right, class:year, number:1900-1999, "
            "topic:butter,oven>=2, with ` or ` between several; ids of stored explanations; with --llm any sentence. "
            "None: the label against its best rival."
        ),
    ] = None,
    budget_experiments: Annotated[int, typer.Option(help="Experiments at most.", min=1)] = 30,
    dictionary: Which = None,
    llm: Model = None,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    prices: Prices = None,
    effort: Effort = None,
) -> None:
    """Let two explanations of a feature predict texts, measure those texts, and see which one holds."""
    from glossator.agents.debate.debating import debate as hold
    from glossator.config import DebateConfig
    from glossator.show_debate import transcript

    asking = debate_config(llm, flags_of(budget_usd, budget_tokens, None, prices, effort))
    with opened(path, dictionary) as run:
        index = parse_feature(feature, run.poles)
        config = DebateConfig(budget=budget_experiments)
        (held,) = hold(run, [index], hypothesis or [], config, llm, asking)
        if held.failed:
            raise GlossatorError(f"feature {run.name(index)}: the debate {held.reason}; more in FROM failure")
        shown = f"feature {run.name(index)}: no debate: {held.reason}"
        out.print(
            shown if held.debate_id is None else transcript(run, held.debate_id), soft_wrap=held.debate_id is None
        )
