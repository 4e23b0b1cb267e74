"""All that `score --llm` asks a model: the labels read, then compared with others, then drawn again. Each part can be gone on with.

First the labels of all scorers are read on `select` and `test`. Then labels are settled anew, since what was read on `select`
may have changed them, and comparisons (score_nulls.py) are made of the labels that stand now. Last come repeats: the same
questions, drawn again with other windows of `test`, which show how far a mean over features moves by what was drawn.

How many questions the comparisons and repeats take is said before the first question is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from glossator.agents.run import Run
from glossator.agents.scoring.read_before import labels_of
from glossator.agents.scoring.scenes import METRICS
from glossator.agents.scoring.score_llm import LabelScorer, left_to_read
from glossator.agents.scoring.score_nulls import Comparer
from glossator.config import LLMConfig
from glossator.scorers.reading import LLMPredictor
from glossator.store.labels import materialise_labels

Tally = Counter[tuple[str, str]]


@dataclass(frozen=True)
class Wanted:
    """Which labels are to be read, by which scorers. features None: all that are left; explainer: of this one alone.

    read False: they were read; comparisons and repeats of what has a score are all that is left.
    """

    scorers: Sequence[str]
    features: Sequence[int] | None = None
    every: bool = False
    retry_failed: bool = False
    explainer: str | None = None
    read: bool = True


async def read_labels(
    run: Run, predictor: LLMPredictor, wanted: Wanted, llm: LLMConfig, in_hand: int, tally: Tally
) -> None:
    """tally counts (scorer or comparison, what came of it). Nothing is asked or written where nothing is left.

    Raises ProviderError, Stopped, StoreError.
    """
    config, who = predictor.config, predictor.predictor
    todo: dict[str, list[int]] = {}
    if wanted.read:
        todo = left_to_read(run, who, wanted.scorers, wanted.features, every=wanted.every, explainer=wanted.explainer)
    retry, scorers = wanted.retry_failed, wanted.scorers if config.nulls else ()
    others = [Comparer(run, predictor, s, wanted.explainer, retry_failed=retry) for s in scorers]
    again = [repeated(predictor, r) for r in range(1, config.repeats + 1)]
    left = any(one.left(wanted.features) for one in others) or any(left_to_repeat(run, one, wanted) for one in again)
    if not todo and not left:
        return
    for one in others:
        if said := foretold(run, one, todo.get(one.scorer, ()), wanted.features):
            run.say(said)
    with run.stage("score:llm", config, llm) as run_id:

        def scorer(reader: LLMPredictor) -> LabelScorer:
            more = {"every": wanted.every, "retry_failed": wanted.retry_failed}
            return LabelScorer(run, reader, run_id, tally, **more, explainer=wanted.explainer)

        if todo:
            await scorer(predictor).score(todo, in_hand)
            if others or again:  # they are of the labels that stand now; else whoever asked for this settles them
                materialise_labels(run.store)
        for one in others:
            await one.compare(one.left(wanted.features), run_id, tally, in_hand)
        for reader in again:
            if rest := left_to_repeat(run, reader, wanted):
                await scorer(reader).score(rest, in_hand)


def foretold(run: Run, comparer: Comparer, to_read: Sequence[int], features: Sequence[int] | None) -> str:
    """What the comparisons of a scorer will ask, in words; empty where that is nothing."""
    plan, near = comparer.foreseen(to_read, features)
    if not near:
        return ""
    least, about = comparer.config.min_null, f"{run.dictionary}  {comparer.scorer}"
    said = (
        f"{about}: comparisons ask up to {plan.pairs + near:,} questions more, {plan.pairs:,} with labels of other features "
        f"and {near:,} with the neighbour's (what the log has is not asked again; --no-nulls leaves them out)"
    )
    if plan.short < 0:
        return said
    return (
        f"{said}\n{about}: p_vs_permuted will be NULL: it takes {least:,} pairs of a feature and another one's label, which "
        f"{len(plan.others):,} features with at most {comparer.config.mismatched} such labels each do not give; score more features"
    )


def repeated(predictor: LLMPredictor, repeat: int) -> LLMPredictor:
    """The same reader, on other windows, in another draw."""
    config = predictor.config.model_copy(update={"seed": predictor.config.seed + repeat})
    return LLMPredictor(predictor.llm, predictor.vocabulary, config, repeat)


def left_to_repeat(run: Run, reader: LLMPredictor, wanted: Wanted) -> dict[str, list[int]]:
    """By scorer: features with a label that has a first score, and this repeat not yet; or a failed one that is to be retried."""
    labels = labels_of(run, wanted.features, every=wanted.every, explainer=wanted.explainer)
    ids = {one.explanation_id for mine in labels.values() for one in mine}
    found = {}
    for scorer in wanted.scorers:
        rows = run.store.sql(
            "SELECT DISTINCT s.feature, s.explanation_id FROM score s LEFT JOIN repeat_score r ON r.explanation_id = s.explanation_id "
            "AND r.predictor = s.predictor AND r.metric = s.metric AND r.repeat = ? "
            "WHERE s.dictionary = ? AND s.predictor = ? AND s.metric = ? AND s.split = 'test' AND s.value IS NOT NULL "
            "AND (r.explanation_id IS NULL OR ? AND r.value IS NULL AND r.note IS NULL)",
            [reader.sample, run.dictionary, reader.predictor, METRICS[scorer][0], wanted.retry_failed],
        )
        if todo := sorted({feature for feature, explanation_id in rows if explanation_id in ids}):
            found[scorer] = todo
    return found
