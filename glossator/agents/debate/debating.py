"""Debates of one feature or of many: who debates, who has done so before, and the subject that they share.

Offline rivals are programs; with `spec` a language model reads them, speaks for them and may amend them. Many debates run at once, so that the subject gets
full batches. A feature that cannot be debated gets a status with its reason; one that fails, a failure row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from glossator.agents.asking import ask
from glossator.agents.debate.debater import Debater, debate_id, not_to_be_debated
from glossator.agents.debate.rivals import Reads, Rival, RuleReader, TextReader, find_rivals
from glossator.agents.debate.sides import Sides
from glossator.agents.editor.editor import Editor
from glossator.agents.editor.probe import known_outcomes
from glossator.agents.pool import in_progress, wait_for
from glossator.agents.run import Run
from glossator.agents.scoring.read_before import Before
from glossator.agents.spent import set_aside, spent
from glossator.config import DebateConfig, EditorConfig, LLMConfig, LLMScoreConfig
from glossator.errors import GlossatorError, ReplyError, UsageError
from glossator.harness.measurer import Measurer
from glossator.llm.base import LLM
from glossator.prompts import detect, refine, statement
from glossator.rows import PromptRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureId, FeatureRecord

STAGE = "debate"
_READ_AT_ONCE = 60  # windows in one question, which are as short as the measured texts
ReaderOf = Callable[[FeatureRecord], Reads]


@dataclass(frozen=True)
class Held:
    """What became of a feature: its debate, or why there is none."""

    feature: int
    debate_id: str | None
    reason: str | None = None
    failed: bool = False


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

    Of several features with found rivals, those that have none get a status instead. spec: a model that reads the rivals and
    speaks for them.
    """
    run.chosen(features, STAGE)
    if spec is None:
        return wait_for(debate_all(run, features, hypotheses, config, lambda record: RuleReader(record, run.lexicon)))
    held: list[Held] = []
    tally: Counter[str] = Counter()

    async def work(model: LLM, in_hand: int) -> None:
        known = {prompt for (prompt,) in run.store.sql("SELECT prompt_id FROM prompt")}
        await run.store.put(*(p for p in prompts() if p.prompt_id not in known))
        predictor = LLMPredictor(
            model, run.lexicon.vocabulary, LLMScoreConfig(seed=config.seed, request_windows=_READ_AT_ONCE)
        )
        some = config.model_copy(update={"in_flight": min(config.in_flight, in_hand)})
        sides = Sides(model, config)
        held.extend(
            await debate_all(run, features, hypotheses, some, lambda record: TextReader(record, predictor), sides)
        )
        tally["debated"] += len(held)

    def account(session: str) -> str:
        now = spent(run, "WHERE session_id = ?", [session])
        return f"spent now {now}, in all {spent(run, '', [])}{set_aside(run)}"

    run.say(ask(run, spec, llm or LLMConfig(), work, tally, account))
    return held


def prompts() -> tuple[PromptRow, ...]:
    """All that a debate may ask a language model with."""
    return detect.prompt(), statement.prompt(), refine.prompt()


async def debate_all(
    run: Run,
    features: Sequence[int],
    hypotheses: Sequence[str],
    config: DebateConfig,
    reader_of: ReaderOf,
    sides: Sides | None = None,
) -> list[Held]:
    """Every feature that can be debated, many at once. sides: who speaks for A and B, and amends what they say."""
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
        await _hold(run, jobs, held, config, sides)
    return [held[index] for index in sorted(held)]


async def _hold(
    run: Run, jobs: Sequence[_Job], held: dict[int, Held], config: DebateConfig, sides: Sides | None
) -> None:
    with run.stage(STAGE, config) as run_id:
        before = Before(run, STAGE, ("", (), 0), list(held))
        idle = [(FeatureId(run.dictionary, one.feature), one.reason) for one in held.values() if one.debate_id is None]
        told = [row for feature, why in idle for row in before.status_rows(feature, "abstained", why, run_id)]
        if told:
            await run.store.put(*told)
        if not jobs:
            return
        subject, dictionary = run.model()
        known = known_outcomes(run, [job.record.feature.index for job in jobs])
        async with Measurer(subject, dictionary, say=run.say) as measurer:
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, measurer, run.store,
                EditorConfig(carriers=config.carriers, seed=config.seed), causal=subject.causal, run_id=run_id,
            )  # fmt: skip
            debater = Debater(run, editor, config, run_id, sides=sides)

            async def one(job: _Job) -> None:
                index = job.record.feature.index
                try:
                    await debater.debate(job.record, job.rivals, job.reader, known)
                except GlossatorError as error:
                    if not isinstance(error, ReplyError):
                        raise  # no other feature will fare better: stop
                    held[index] = await _failed(run, before, job, error, run_id)
                except Exception as error:  # noqa: BLE001  one feature's failure is a row
                    held[index] = await _failed(run, before, job, error, run_id)

            await in_progress(
                iter(jobs), len(jobs), config.in_flight, one, lambda done, total: run.progress(STAGE, done, total)
            )


async def _failed(run: Run, before: Before, job: _Job, error: Exception, run_id: str) -> Held:
    """A failure that was found before is the same one, read from the log again: no new row."""
    f = job.record.feature
    if rows := before.failure_rows(f, [("debate", error)], 0, run_id):
        await run.store.put(*rows)
    return Held(f.index, None, f"failed: {type(error).__name__}: {error}", failed=True)
