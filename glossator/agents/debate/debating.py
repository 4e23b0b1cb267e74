"""Debates of one feature or of many: who debates, who has done so before, and the subject that they share.

Offline rivals are programs; with `spec` a language model reads them. Many debates run at once, so that the subject gets
full batches. A feature that cannot be debated gets a status with its reason; one that fails, a failure row.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glossator.agents.asking import ask
from glossator.agents.debate.debater import Debater, debate_id, not_to_be_debated
from glossator.agents.debate.rivals import Reads, Rival, RuleReader, TextReader, find_rivals
from glossator.agents.editor.editor import Editor
from glossator.agents.editor.probe import known_outcomes
from glossator.agents.lexical.explain import failure_rows
from glossator.agents.pool import in_progress
from glossator.agents.run import Run
from glossator.agents.spent import set_aside, spent
from glossator.config import DebateConfig, EditorConfig, LLMConfig, LLMScoreConfig
from glossator.errors import GlossatorError, ReplyError, UsageError
from glossator.harness.measurer import Measurer
from glossator.llm.base import LLM
from glossator.prompts import detect, simulate
from glossator.rows import StatusRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord

STAGE = "debate"
ReaderOf = Callable[[FeatureRecord], Reads]


@dataclass(frozen=True)
class Held:
    """What became of a feature: its debate, or why there is none."""

    feature: int
    debate_id: str | None
    reason: str | None = None


@dataclass(frozen=True)
class _Job:
    record: FeatureRecord
    rivals: tuple[Rival, Rival]
    reader: Reads


def debate(
    run: Run,
    features: Sequence[int],
    hypotheses: Sequence[str],
    config: DebateConfig,
    spec: str | None = None,
    llm: LLMConfig | None = None,
) -> list[Held]:
    """A debate of each feature; stored ones are not held again. Raises UsageError for rivals that cannot debate.

    Of several features with found rivals, those that have none get a status instead. spec: a model that reads the rivals.
    """
    run.chosen(features, STAGE)
    if spec is None:
        return asyncio.run(
            debate_all(run, features, hypotheses, config, lambda record: RuleReader(record, run.lexicon))
        )
    held: list[Held] = []
    tally: Counter[str] = Counter()

    async def work(model: LLM, in_hand: int) -> None:
        known = {prompt for (prompt,) in run.store.sql("SELECT prompt_id FROM prompt")}
        await run.store.put(*(p for p in (detect.prompt(), simulate.prompt()) if p.prompt_id not in known))
        predictor = LLMPredictor(model, run.lexicon.vocabulary, LLMScoreConfig(seed=config.seed))
        some = config.model_copy(update={"in_flight": min(config.in_flight, in_hand)})
        held.extend(await debate_all(run, features, hypotheses, some, lambda record: TextReader(record, predictor)))
        tally["debated"] += len(held)

    def account(session: str) -> str:
        now = spent(run, "WHERE session_id = ?", [session])
        return f"spent now {now}, in all {spent(run, '', [])}{set_aside(run)}"

    run.say(ask(run, spec, llm or LLMConfig(), work, tally, account))
    return held


async def debate_all(
    run: Run, features: Sequence[int], hypotheses: Sequence[str], config: DebateConfig, reader_of: ReaderOf
) -> list[Held]:
    """Every feature that can be debated, many at once."""
    held: dict[int, Held] = {}
    jobs: list[_Job] = []
    stored = {identity for (identity,) in run.store.sql("SELECT debate_id FROM debate")}
    alone = bool(hypotheses) or len(features) == 1
    for record in run.records(sorted(set(features))):
        index = record.feature.index
        reader = reader_of(record)
        if reason := not_to_be_debated(record):
            held[index] = Held(index, None, reason)
            continue
        try:
            rivals = find_rivals(run, record, hypotheses, by_text=not isinstance(reader, RuleReader))
        except UsageError as error:
            if alone:
                raise
            held[index] = Held(index, None, str(error))
            continue
        identity = debate_id(record, rivals, reader.predictor, config)
        held[index] = Held(index, identity)
        if identity not in stored:
            jobs.append(_Job(record, rivals, reader))
    if jobs or any(one.debate_id is None for one in held.values()):
        await _hold(run, jobs, held, config)
    return [held[index] for index in sorted(held)]


async def _hold(run: Run, jobs: Sequence[_Job], held: dict[int, Held], config: DebateConfig) -> None:
    with run.stage(STAGE, config) as run_id:
        await run.store.put(
            *(
                StatusRow(run.dictionary, one.feature, STAGE, "abstained", one.reason, run_id)
                for one in held.values()
                if one.debate_id is None
            )
        )
        if not jobs:
            return
        subject, dictionary = run.model()
        known = known_outcomes(run, [job.record.feature.index for job in jobs])
        async with Measurer(subject, dictionary) as measurer:
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, measurer, run.store,
                EditorConfig(carriers=config.carriers, seed=config.seed), causal=subject.causal, run_id=run_id,
            )  # fmt: skip
            debater = Debater(run, editor, config, run_id)

            async def one(job: _Job) -> None:
                index = job.record.feature.index
                try:
                    await debater.debate(job.record, job.rivals, job.reader, known)
                except GlossatorError as error:
                    if not isinstance(error, ReplyError):
                        raise  # no other feature will fare better: stop
                    held[index] = await _failed(run, job, error, run_id)
                except Exception as error:  # noqa: BLE001  one feature's failure is a row
                    held[index] = await _failed(run, job, error, run_id)

            await in_progress(
                iter(jobs), len(jobs), config.in_flight, one, lambda done, total: run.progress(STAGE, done, total)
            )


async def _failed(run: Run, job: _Job, error: Exception, run_id: str) -> Held:
    await run.store.put(*failure_rows(job.record, STAGE, error, run_id))
    return Held(job.record.feature.index, None, f"failed: {type(error).__name__}: {error}")
