"""Commands that say how good labels are, and how good scores are: score, rate, validate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glossator.arguments import (
    check_imported,
    check_repeats,
    embedding_asked,
    parse_features,
    scoring_config,
    validity_asked,
)
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
    err,
    example,
    flags_of,
    in_turn,
    opened,
    out,
)

if TYPE_CHECKING:
    from glossator.agents.run import Run

Scorers = Annotated[
    list[str] | None,
    typer.Option(
        help="With --llm: simulation, detection, fuzzing, discrimination; may be repeated; all of them if not given. Without: embedding."
    ),
]
Every = Annotated[bool, typer.Option("--every", help="Read every explanation that has a text, not the labels alone.")]
Nulls = Annotated[
    bool | None,
    typer.Option(
        "--nulls/--no-nulls",
        help="With --llm: have labels of other features read, too, which p-values need: one question more a feature and scorer, "
        "and about 999 more a scorer (from 2,000 features on: up to one more a feature, 7,992 at most). On if not given.",
    ),
]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=99,
        help="With --llm: draw the main metric on test so often again, with other windows: the noise of a mean.",
    ),
]
Labels = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Score labels that others wrote instead: JSONL, CSV, a Neuronpedia export, a Delphi folder; may be repeated.",
    ),
]
Against = Annotated[
    list[str] | None,
    typer.Option(metavar="EXPLAINER", help="With --labels: compare with this set alone; all scored ones if not given."),
]
EmbedderFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="With --scorer embedding: a sentence-transformers folder; all-MiniLM-L6-v2 of the extra demo if not given.",
    ),
]


@app.command(epilog=example("score run.duckdb --scorer detection --llm openai:gpt-5-mini --budget-usd 5"))
def score(
    path: RunFile,
    features: Features = None,
    dictionary: Which = None,
    scorer: Scorers = None,
    llm: Model = None,
    every: Every = False,
    nulls: Nulls = None,
    repeats: Repeats = None,
    labels: Labels = None,
    against: Against = None,
    embedder: EmbedderFolder = None,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    concurrency: InFlight = None,
    prices: Prices = None,
    effort: Effort = None,
    retry_failed: RetryFailed = False,
) -> None:
    """Score labels on the split `test`, with intervals: rules with baselines and nulls, or, with --llm, as a model reads their text."""
    from glossator import pipeline
    from glossator.agents.others import score_imported
    from glossator.config import EmbeddingConfig, LLMScoreConfig, ScoreConfig

    check_imported(labels or (), against or (), llm, scorer or (), every=every)
    flags = flags_of(budget_usd, budget_tokens, concurrency, prices, effort)
    embeds, rest = embedding_asked(scorer or (), embedder, llm)
    more = {"every": every and not (embeds and not rest), "retry-failed": retry_failed}
    check_repeats(repeats, nulls, llm)
    scorers, asking = scoring_config(rest, llm, flags, others=more)
    read = LLMScoreConfig(nulls=nulls is not False, repeats=repeats or 0)

    def work(run: Run) -> None:
        chosen = parse_features(features, run.poles)
        if labels:
            given = score_imported.read_files(run.store, labels, dictionary, against or ())
            if embeds:
                from glossator.harness.embedder import Embedder

                read_by = Embedder(embedder), EmbeddingConfig()
                out.print(score_imported.by_embedding(run, given, *read_by, chosen), soft_wrap=True)
            if llm is not None:
                told = score_imported.by_llm(run, given, llm, asking, read, scorers, chosen, retry_failed=retry_failed)
                out.print(told, soft_wrap=True)
            return
        if embeds:
            out.print(
                pipeline.score_by_embedding(run, embedder, EmbeddingConfig(), chosen, every=every), soft_wrap=True
            )
            if not rest:
                return
        if llm is None:
            done = f"{run.dictionary}  score: {pipeline.score(run, ScoreConfig(), chosen)} features"
        else:
            asked = (run, llm, asking, read, scorers, chosen)
            done = pipeline.score_by_llm(*asked, every=every, retry_failed=retry_failed)
        out.print(done, soft_wrap=True)

    with each(path, dictionary) as runs:
        in_turn(runs, work)


@app.command(epilog=example("rate run.duckdb --n 20 --rater ada"))
def rate(
    path: RunFile,
    n: Annotated[
        int, typer.Option(help="How many labels are in the sample; what you have rated is not asked again.")
    ] = 20,
    dictionary: Which = None,
    rater: Annotated[str | None, typer.Option(help="Who rates; your login name if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws another sample.")] = 0,
    against: Annotated[
        str | None, typer.Option(metavar="EXPLAINER", help="Two labels at a time: the run's, and this explainer's.")
    ] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Ask nothing; show what the ratings say of labels and scores.")
    ] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No colour, and no clearing of the screen.")] = False,
) -> None:
    """Blind ratings by people, one key each: windows and a label, or two. In the end, how each score agrees with them."""
    from glossator import rating
    from glossator.agents.others.rated import summarise
    from glossator.agents.others.ratings import sitting

    with opened(path, dictionary, quiet=True) as run:
        if not summary:
            asked = sitting(run, rating.rater_name(rater), n, seed, against)
            summary = rating.rate(run, asked, rating.keys_of(sys.stdin), out, plain=plain)
        if summary:
            out.print(rating.outcome(summarise(run), run.dictionary))


@app.command(epilog=example("validate --llm openai:gpt-5-mini --budget-usd 2 --keep validity.duckdb --out validity.md"))
def validate(
    features: Annotated[
        int | None,
        typer.Option(
            help="How many features are planted, a multiple of 20 up to 200; 100, or 20 with --llm, if not given."
        ),
    ] = None,
    llm: Model = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            help="simulation, detection, fuzzing, discrimination, adversarial: those that read; may be repeated; all if not given."
        ),
    ] = None,
    embedder: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A sentence-transformers folder; all-MiniLM-L6-v2 of the extra demo if not given."
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.duckdb",
            help="Keep the planted run and all replies here: run again to go on. With --llm validity.duckdb if not given.",
        ),
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the page to a file too: Markdown, or JSON for .json."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed plants other features.", min=0)] = 0,
    budget_usd: Dollars = None,
    budget_tokens: Tokens = None,
    concurrency: InFlight = None,
    prices: Prices = None,
    effort: Effort = None,
) -> None:
    """Can the scores fail? Which wrong labels of planted features each score tells from the right one, and which it cannot see."""
    from glossator import pipeline, validation
    from glossator.progress import bars

    flags = flags_of(budget_usd, budget_tokens, concurrency, prices, effort)
    asked, asking = validity_asked(features, scorer or (), llm, flags, keep=keep, seed=seed)
    validation.check_out(write)
    with bars(err) as progress:
        done = pipeline.validate(asked, asking, embedder, progress, err.print)
    out.print(validation.page(done))
    if write is not None:
        write.write_text(validation.as_json(done) if write.suffix == ".json" else validation.markdown(done), "utf-8")
