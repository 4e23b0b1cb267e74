"""Explaining with a language model: every feature gets a sentence, an abstention, or a failure row.

Features are read and prompts rendered in a thread, a bounded number of features is in hand at once, and every one writes
its own rows when all its replies are there. What ends one feature is a row; what ends the run (no credit, no budget, no
disk) lets the questions in flight finish, leaves the others without a row, and is raised: a run that is started again finds
the replies in the log and goes on.

Where an explainer weighs candidates, those are kept beside what it chose, under the name `EXPLAINER:candidate`, with their
scores on `select`: they are evidence, and never a label.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from glossator.agents.explainers.claims import Candidate, Claim, Explainer, Found, Job, Step, identity_of
from glossator.agents.explainers.draws import Draws
from glossator.agents.explainers.named import explainer
from glossator.agents.pool import in_progress
from glossator.agents.run import Run
from glossator.agents.spent import set_aside, spent
from glossator.config import ExplainerConfig, LLMScoreConfig
from glossator.errors import GlossatorError, ReplyError
from glossator.llm.base import LLM
from glossator.llm.secrets import redact
from glossator.rows import ExplanationRow, FailureRow, Row, ScoreRow, StatusRow, StepRow
from glossator.scorers.bounds import Measured
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureId

_LEFT = "left as it is"  # features whose label stands without this explainer
_Work = tuple[FeatureId, Job | Exception | None]  # None: there is nothing to ask about


def stage_of(name: str) -> str:
    return f"explain:{name}"


class ModelExplainer:
    """`explain(features)` asks; `tally` counts what came of it: labelled, abstained, and failures by kind."""

    def __init__(
        self,
        run: Run,
        llm: LLM,
        config: ExplainerConfig,
        run_id: str,
        tally: Counter[str] | None = None,
        *,
        reader: LLM | None = None,
        retry_failed: bool = False,
    ) -> None:
        """`reader`: who reads candidates, if not the one that writes. `retry_failed`: unusable replies are asked anew, as new draws.

        Raises UsageError where the run file lacks what the explainer shows.
        """
        self.run, self.llm, self.run_id, self.retry_failed = run, llm, run_id, retry_failed
        self.tally = Counter() if tally is None else tally
        self.reader = llm if reader is None else reader
        self.explainer: Explainer = explainer(run, config, llm.name)
        self.name, self.stage = self.explainer.name, stage_of(self.explainer.name)

    async def explain(self, features: Sequence[int], in_hand: int) -> None:
        """At most `in_hand` features at once. Raises ProviderError, Stopped and StoreError when what was in flight has finished."""
        self.history = await asyncio.to_thread(_History, self.run, features, self.explainer)
        await self.run.store.put(*(p for p in self.explainer.prompts if p.prompt_id not in self.history.prompts))
        self.writer = Draws(self.llm, self.history.answered, retry_failed=self.retry_failed)
        other = Draws(self.reader, self.history.answered, retry_failed=self.retry_failed)
        reading = self.explainer.reading or LLMScoreConfig()
        self.predictor = LLMPredictor(other, self.run.lexicon.vocabulary, reading)
        self.drawn = (self.writer.last, other.last)
        async with self.explainer.opened(self.run_id, features):
            await in_progress(
                self._work(features),
                len(features),
                in_hand,
                lambda work: self._one(*work),
                lambda done, total: self.run.progress(self.name, done, total),
            )

    def _work(self, features: Sequence[int]) -> Iterator[_Work]:
        """One for each feature, in their order. What cannot be prepared is that feature's failure."""
        for record in self.run.records(features):
            if not record.active("explain"):
                yield record.feature, None
                continue
            try:
                job: Job | Exception = self.explainer.prepare(record)
            except Exception as error:  # noqa: BLE001  one feature's failure is a row, not the end of the night
                job = error
            yield record.feature, job

    async def _one(self, feature: FeatureId, job: Job | Exception | None) -> None:
        try:
            rows = await self._rows(feature, job)
        except GlossatorError as error:
            if not isinstance(error, ReplyError):
                raise  # no other question will fare better: no row
            rows = self._failed(feature, error)
        except Exception as error:  # noqa: BLE001  one feature's failure is a row
            rows = self._failed(feature, error)
        await self._write(rows)

    async def _rows(self, feature: FeatureId, job: Job | Exception | None) -> list[Row]:
        if isinstance(job, Exception):
            raise job
        if job is None:
            return self._explained(feature, Found(Candidate(Claim(None, "never active in the split explain"))))
        return self._explained(feature, await job(self.writer, self.predictor))

    def _explained(self, feature: FeatureId, found: Found) -> list[Row]:
        """A claim or an abstention, the candidates that were weighed, and what failed on the way. Nothing is written twice."""
        rows: list[Row] = self._steps(feature, found.steps)
        for one in found.candidates:
            rows += self._kept(feature, one, f"{self.name}:candidate", found.exposure)
        for where, error in found.failures:
            rows += self._failure(feature, error, f"{where}: {error}")
        if found.best is None and found.failures:
            return rows + self._failed(feature, found.failures[-1][1], said=True)
        chosen = [] if found.best is None else self._kept(feature, found.best, self.name, found.exposure)
        abstained = found.best is not None and found.best.claim.text is None
        self.tally[_LEFT if found.best is None else "abstained" if abstained else "labelled"] += 1
        reason = found.how or (None if found.best is None else found.best.claim.reason)
        status, last = "abstained" if abstained else "done", self.history.status.get(feature.index)
        if any(isinstance(row, ExplanationRow) for row in chosen) or last != status:
            chosen.append(StatusRow(feature.dictionary, feature.index, self.stage, status, reason, self.run_id))
        once: dict[object, Row] = {}  # two candidates may say the same, asked by different prompts
        for row in [*rows, *chosen]:
            once.setdefault(row.explanation_id if isinstance(row, ExplanationRow) else row, row)
        return list(once.values())

    def _kept(self, feature: FeatureId, one: Candidate, name: str, exposure: str | None) -> list[Row]:
        claim, f = one.claim, feature
        model = self.llm.name if claim.prompt_id else None
        identity = identity_of(f, name, model, claim)
        rows: list[Row] = []
        if identity not in self.history.explained:
            rows.append(
                ExplanationRow(
                    identity, f.dictionary, f.index, name, model, claim.text, None, claim.text is None, claim.reason,
                    self.run_id, claim.scope, claim.prompt_id, exposure,
                )
            )  # fmt: skip
        return rows + [self._score(f, identity, name, metric, found) for metric, found in one.scores.items()]

    def _score(self, f: FeatureId, identity: str, name: str, metric: str, found: Measured) -> ScoreRow:
        e = found.estimate
        value, low, high = (None if math.isnan(x) else float(x) for x in (e.value, e.low, e.high))
        return ScoreRow(
            identity, f.dictionary, f.index, name, self.predictor.predictor, self.reader.name, metric, "select",
            value, low, high, e.n, found.note or None, self.run_id,
        )  # fmt: skip

    def _steps(self, feature: FeatureId, steps: Sequence[Step]) -> list[Row]:
        """None where they are those that are stored; others take the place of those."""
        told = [(n, one.node, one.outcome, one.value, one.detail) for n, one in enumerate(steps, 1)]
        if told == self.history.steps.get(feature.index, []):
            return []
        return [StepRow(feature.dictionary, feature.index, self.name, *one, self.run_id) for one in told]

    def _failed(self, feature: FeatureId, error: Exception, *, said: bool = False) -> list[Row]:
        """said: there is a row of it already."""
        self.tally[type(error).__name__] += 1
        rows = [] if said else self._failure(feature, error, str(error))
        if rows or self.history.status.get(feature.index) != "failed":
            reason = redact(str(error))[:200]
            rows.append(StatusRow(feature.dictionary, feature.index, self.stage, "failed", reason, self.run_id))
        return rows

    def _failure(self, feature: FeatureId, error: Exception, said: str) -> list[Row]:
        """A failure, but for one that was found before: it is the same one, read from the log again."""
        attempt = max(last.get(str(feature), 0) for last in self.drawn)
        kind, message = type(error).__name__, redact(said)[:500]
        if (feature.index, attempt, kind, message) in self.history.failures:
            return []
        trace = redact("".join(traceback.format_exception(error)))[-4000:]
        return [FailureRow(feature.dictionary, feature.index, self.stage, kind, message, trace, self.run_id, attempt)]

    async def _write(self, rows: Sequence[Row]) -> None:
        """What the store has already is not written again; a score that has changed takes the place of the old one."""
        known = self.history.scores
        new = [row for row in rows if not isinstance(row, ScoreRow) or known.get(_place(row)) != _values(row)]
        old = [_place(row) for row in new if isinstance(row, ScoreRow) and _place(row) in known]
        gone = {
            (row.dictionary, row.feature, row.graph)
            for row in new
            if isinstance(row, StepRow) and row.feature in self.history.steps
        }
        if old or gone:
            await asyncio.to_thread(self.run.store.replace_now, lambda connection: _forget(connection, old, gone), new)
        elif new:
            await self.run.store.put(*new)


def _place(row: ScoreRow) -> tuple[str, str, str]:
    return row.explanation_id, row.metric, row.predictor


def _values(row: ScoreRow) -> tuple[Any, ...]:
    return row.value, row.low, row.high, row.n, row.note


def _forget(connection: Any, old: Sequence[tuple[str, str, str]], gone: Iterable[tuple[str, int, str]]) -> None:
    for way in gone:
        connection.execute("DELETE FROM step WHERE dictionary = ? AND feature = ? AND graph = ?", way)
    for place in old:
        connection.execute(
            "DELETE FROM score WHERE explanation_id = ? AND metric = ? AND predictor = ? AND split = 'select'", place
        )


def account(run: Run, tally: Counter[str], session_id: str, name: str = "oneshot") -> str:
    """What came of it, what it cost now and in all, and where to look."""
    failed = {kind: n for kind, n in sorted(tally.items()) if kind not in ("labelled", "abstained", _LEFT)}
    kinds = f" ({', '.join(f'{n:,} {kind}' for kind, n in failed.items())})" if failed else ""
    counts = f"{tally['labelled']:,} labelled, {tally['abstained']:,} abstained, {sum(failed.values()):,} failed{kinds}"
    if tally[_LEFT]:
        counts = f"{tally[_LEFT]:,} keep their lexical label, {counts}"
    if not tally.total():
        counts = "no feature was left to ask about" if not run.store.pending(stage_of(name), run.dictionary) else counts
    now = spent(run, "WHERE session_id = ?", [session_id])
    ((hidden,),) = run.store.sql(
        "SELECT count(DISTINCT e.feature) FROM explanation e JOIN label l USING (dictionary, feature) "
        "WHERE e.dictionary = ? AND e.explainer = ? AND e.text IS NOT NULL AND l.explainer IS DISTINCT FROM e.explainer",
        [run.dictionary, name],
    )
    where = f"SELECT feature, text FROM explanation WHERE explainer = '{name}'" if hidden else "FROM labels"
    look = ", ".join(f'"{query}"' for query in (where, "FROM spend", *(["FROM failure"] if failed else [])))
    others = f" ({hidden:,} of them are not in labels, which shows what has scores first)" if hidden else ""
    return (
        f"{run.dictionary}  {name}: {counts}; spent now {now}, in all {spent(run, '', [])}{set_aside(run)}{_weighed(run, name)}\n{_went(run, name)}"
        f"to read with glossator sql {run.store.path}: {look}; these labels{others} have no scores on test until somebody reads them (glossator score --llm, or a night's stage read)"
    )


def _weighed(run: Run, name: str) -> str:
    """How many candidates a feature had that differ, where there are any."""
    rows: Mapping[str, float] = dict(
        run.store.sql(
            "SELECT 'n', avg(n) FROM (SELECT count(DISTINCT coalesce(text, '')) AS n FROM explanation "
            "WHERE dictionary = ? AND explainer = ? GROUP BY feature) HAVING count(*) > 0",
            [run.dictionary, f"{name}:candidate"],
        )
    )
    return f"; {rows['n']:.1f} different candidates a feature" if rows else ""


def _went(run: Run, name: str) -> str:
    """How many features came to which part of a graph, and what those that somebody was asked about took, if it is one."""
    ((n, stood, refined, drawn, debated),) = run.store.sql(
        "SELECT count(DISTINCT feature), count(DISTINCT feature) FILTER (outcome = 'lexical stands'), "
        "count(DISTINCT feature) FILTER (node = 'refine' AND outcome = 'rewritten'), "
        "count(DISTINCT feature) FILTER (node = 'best_of'), count(DISTINCT feature) FILTER (node = 'debate') "
        "FROM step WHERE dictionary = ? AND graph = ?",
        [run.dictionary, name],
    )
    if not n:
        return ""
    ((asked,),) = run.store.sql(
        "SELECT count(DISTINCT feature) FROM step WHERE dictionary = ? AND graph = ? AND node = 'draft'",
        [run.dictionary, name],
    )
    ((tokens,),) = run.store.sql(
        "SELECT coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0)::BIGINT FROM llm_call WHERE about IN "
        "(SELECT dictionary || '/' || feature FROM step WHERE dictionary = ? AND graph = ? AND node = 'draft')",
        [run.dictionary, name],
    )
    ways = (
        [f"{stood:,} stood by their lexical rule, {asked:,} escalated"] if name == "cascade" else [f"{asked:,} drafted"]
    )
    ways += [f"{refined:,} refined", *([f"{drawn:,} best_of", f"{debated:,} debated"] if name == "cascade" else [])]
    each = f"; {tokens // asked:,} tokens about each of those asked about, in all" if asked else ""
    return f"the way of {n:,} features (FROM flow): {', '.join(ways)}{each}\n"


class _History:
    """What this explainer did before with these features: last status, failures, explanations, scores, and which questions have replies."""

    def __init__(self, run: Run, features: Sequence[int], what: Explainer) -> None:
        chosen = "dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[]))"
        given: list[Any] = [run.dictionary, list(features)]
        stage, names = stage_of(what.name), [what.name, f"{what.name}:candidate"]
        self.status = dict(
            run.store.sql(
                f"SELECT feature, arg_max(status, rowid) FROM stage WHERE {chosen} AND stage = ? GROUP BY feature",
                [*given, stage],
            )
        )
        self.failures = set(
            run.store.sql(
                f"SELECT feature, attempt, error, message FROM failure WHERE {chosen} AND stage = ?", [*given, stage]
            )
        )
        tasks = [row.prompt_id for row in what.prompts]
        asked = run.store.sql(
            "SELECT call_id FROM llm_call WHERE reply IS NOT NULL AND prompt_id IN (SELECT unnest(?::VARCHAR[]))",
            [tasks],
        )
        self.answered = frozenset(identity for (identity,) in asked)
        mine = f"{chosen} AND explainer IN (SELECT unnest(?::VARCHAR[]))"
        told = run.store.sql(f"SELECT explanation_id FROM explanation WHERE {mine}", [*given, names])
        self.explained = {identity for (identity,) in told}
        rows = run.store.sql(
            f"SELECT explanation_id, metric, predictor, value, low, high, n, note FROM score WHERE {mine} AND split = 'select'",
            [*given, names],
        )
        self.scores: dict[tuple[str, str, str], tuple[Any, ...]] = {
            (i, metric, who): tuple(values) for i, metric, who, *values in rows
        }
        went = run.store.sql(
            f"SELECT feature, number, node, outcome, value, detail FROM step WHERE {chosen} AND graph = ? ORDER BY feature, number",
            [*given, what.name],
        )
        self.steps: dict[int, list[tuple[Any, ...]]] = {}
        for feature, *step in went:
            self.steps.setdefault(feature, []).append(tuple(step))
        self.prompts = {identity for (identity,) in run.store.sql("SELECT prompt_id FROM prompt")}
