"""The explainers that ask a language model, by name: what each prepares of a feature, and how it asks.

    oneshot      one question: windows in which the feature is active
    contrastive  the same, and silent windows that resemble them
    logits       the same as oneshot, and the tokens that the feature makes likelier and less likely
    best_of      several candidates; the one that predicts `select` best
    refine       a draft, counterexamples, a new sentence if it predicts `select` better
    label        the same as a graph, with experiments on the subject in each round
    cascade      the lexical rule where it will do; else label, then best_of and a debate where doubt remains

`explainer(run, config, model).prepare(record)` is a job: `await job(writer, reader)` with any models gives what was found.
"""

from __future__ import annotations

from glossator.agents.explainers import best_of, refine
from glossator.agents.explainers.claims import Candidate, Explainer, Found, Job, ask, draft_of, material
from glossator.agents.run import Run
from glossator.agents.scoring.scenes import PROMPTS
from glossator.config import (
    BestOfConfig,
    CascadeConfig,
    ContrastiveConfig,
    ExplainerConfig,
    LabelConfig,
    LogitsConfig,
    OneshotConfig,
    RefineConfig,
)
from glossator.errors import UsageError
from glossator.llm.base import LLM
from glossator.prompts import contrastive, detect, logits, oneshot
from glossator.prompts import refine as refine_prompt
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord, Request


def explainer(run: Run, config: ExplainerConfig, model: str) -> Explainer:
    """model: the writer, as rows name it. Raises UsageError where the run file lacks what the explainer shows."""
    if isinstance(config, LabelConfig | CascadeConfig):
        from glossator.agents.graphs.explainers import cascade_explainer, label_explainer  # LangGraph is heavy

        return (
            label_explainer(run, config, model)
            if isinstance(config, LabelConfig)
            else cascade_explainer(run, config, model)
        )
    if isinstance(config, RefineConfig):
        return _refine(run, config, model)
    if isinstance(config, BestOfConfig):
        return _best_of(run, config)
    if isinstance(config, LogitsConfig):
        return _logits(run, config)
    if isinstance(config, ContrastiveConfig):
        return _contrastive(run, config)
    return _oneshot(run, config)


def name_of(config: ExplainerConfig) -> str:
    """What rows call the explainer."""
    kinds = {
        ContrastiveConfig: "contrastive", LogitsConfig: "logits", BestOfConfig: "best_of", RefineConfig: "refine",
        LabelConfig: "label", CascadeConfig: "cascade",
    }  # fmt: skip
    return next((name for kind, name in kinds.items() if isinstance(config, kind)), "oneshot")


async def explain_feature(found: Explainer, record: FeatureRecord, writer: LLM, reader: LLMPredictor) -> Found:
    """One feature, which must be active in `explain`, and nothing written down. Raises as `LLM.complete` does."""
    return await found.prepare(record)(writer, reader)


def _asks(question: Request) -> Job:
    async def job(writer: LLM, _: LLMPredictor) -> Found:
        return Found(Candidate(await ask(writer, question)))

    return job


def _oneshot(run: Run, config: OneshotConfig) -> Explainer:
    def prepare(record: FeatureRecord) -> Job:
        return _asks(oneshot.render(record, run.lexicon.vocabulary, config))

    return Explainer("oneshot", (oneshot.prompt(),), prepare)


def _contrastive(run: Run, config: ContrastiveConfig) -> Explainer:
    ((n,),) = run.store.sql(
        "SELECT count(*) FROM near_miss WHERE dictionary = ? AND split = 'explain'", [run.dictionary]
    )
    if not n:
        raise UsageError(
            f"--explainer contrastive: {run.store.path} holds no near misses of {run.dictionary}; harvest with them, or use --explainer oneshot"
        )

    def prepare(record: FeatureRecord) -> Job:
        return _asks(contrastive.render(record, run.lexicon.vocabulary, config))

    return Explainer("contrastive", (contrastive.prompt(),), prepare)


def _logits(run: Run, config: LogitsConfig) -> Explainer:
    rows = run.store.sql(
        "SELECT feature, top_logits, bottom_logits FROM feature WHERE dictionary = ? AND len(top_logits) > 0",
        [run.dictionary],
    )
    if not rows:
        raise UsageError(
            f"--explainer logits: {run.dictionary} has no logits, which only dictionaries of causal models have; use --explainer oneshot"
        )
    known = {feature: (top, bottom or []) for feature, top, bottom in rows}

    def prepare(record: FeatureRecord) -> Job:
        raises, lowers = known.get(record.feature.index, ([], []))
        return _asks(logits.render(record, run.lexicon.vocabulary, config, raises, lowers))

    return Explainer("logits", (logits.prompt(),), prepare)


def _best_of(run: Run, config: BestOfConfig) -> Explainer:
    def prepare(record: FeatureRecord) -> Job:
        questions = best_of.candidate_questions(record, run.lexicon.vocabulary, config)
        on = material(run, record, config.by, config.reading)

        async def job(writer: LLM, reader: LLMPredictor) -> Found:
            return await best_of.best_of(questions, on, writer, reader, together=config.together)

        return job

    prompts = (oneshot.prompt(), contrastive.prompt(), PROMPTS[config.by]())
    return Explainer("best_of", prompts, prepare, config.reading, 2 if config.together else 2 * config.n)


def _refine(run: Run, config: RefineConfig, model: str) -> Explainer:
    vocabulary = run.lexicon.vocabulary
    ((pool,),) = run.store.sql(
        "SELECT count(*) FROM experiment WHERE dictionary = ? AND split IN ('explain', 'select')", [run.dictionary]
    )

    def prepare(record: FeatureRecord) -> Job:
        draft = draft_of(run, record, model) or oneshot.render(record, vocabulary, config.draft)
        on = material(run, record, config.by, config.reading)
        texts = refine.experiments_of(run, record) if pool and config.experiments else []
        known = refine.ground(record, draft, on, config, texts)

        async def job(writer: LLM, reader: LLMPredictor) -> Found:
            return await refine.refine(known, writer, reader, vocabulary, config)

        return job

    prompts = (oneshot.prompt(), refine_prompt.prompt(), detect.prompt(), PROMPTS[config.by]())
    return Explainer("refine", tuple(dict.fromkeys(prompts)), prepare, config.reading, 2 + 3 * config.rounds)
