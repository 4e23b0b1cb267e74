"""The probe stage with a language model: one writes texts that put the labels to the test, one reads the labels and predicts.

The writer sees the texts of a feature's explanations and windows of `test`; the labels are those that stand when the stage
begins, and nothing that is measured here is used to write another. The reader sees one label and the texts of the pool.
Every reader is a stage of its own, `probe:llm:NAME`. A label that has come since gets a pool of its own by the next run.

A writer without a usable reply is a failure row, and the feature is probed by mechanical edits alone; a reader without one
is the feature's failure, before anything has been measured. What ends the run is raised when what was in flight has been
written; a run that is started again finds replies and measurements where they are, and pays for none of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from glossator.agents.editor.editor import Editor, Known, Probed, not_to_be_probed
from glossator.agents.editor.predictors import TextPredictor
from glossator.agents.editor.probe import known_outcomes
from glossator.agents.editor.scores import score_pools
from glossator.agents.explainers.draws import Draws
from glossator.agents.pool import in_progress
from glossator.agents.run import Run
from glossator.agents.scoring.read_before import Before, Label, labels_of
from glossator.agents.spent import set_aside, spent
from glossator.config import EditorConfig
from glossator.errors import GlossatorError, ProviderError, ReplyError, Stopped
from glossator.harness.measurer import Measurer
from glossator.llm.base import LLM
from glossator.prompts import detect, edit
from glossator.rows import Row, StatusRow
from glossator.scorers.adversarial import METRICS
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord

DEPTH = 2  # questions about a feature that wait for one another: what is written is read


def stage_of(reader: str) -> str:
    """reader: as rows name the model."""
    return f"probe:llm:{reader}"


def left_to_probe(run: Run, reader: str, features: Sequence[int] | None) -> list[int]:
    """The features asked for; else those that were not dealt with, and those whose label has no score of this reader's pool.

    Scores come when all features have their pools. A run that was stopped between finds replies and outcomes where they are.
    """
    todo = run.chosen(features, stage_of(reader))
    if features is None:
        rows = run.store.sql(
            "SELECT DISTINCT l.feature FROM label l JOIN feature f ON f.dictionary = l.dictionary AND f.feature = l.feature "
            "WHERE l.dictionary = ? AND l.label IS NOT NULL AND f.status NOT IN ('dead', 'rare', 'dense') AND NOT EXISTS (SELECT 1 "
            "FROM score s WHERE s.explanation_id = l.explanation_id AND s.predictor = ? AND s.metric = ? AND s.split = 'test')",
            [run.dictionary, f"llm:{reader}", METRICS[0]],
        )
        todo = sorted({*todo, *(feature for (feature,) in rows)})
    return todo


class ModelEditor:
    """`probe(features)`; `tally` counts what came of it: probed, skipped, without written texts, and failures by kind; `texts` those measured."""

    def __init__(
        self,
        run: Run,
        writer: LLM,
        reader: LLM,
        config: EditorConfig,
        run_id: str,
        tally: Counter[str] | None = None,
        *,
        retry_failed: bool = False,
    ) -> None:
        self.run, self.config, self.run_id = run, config, run_id
        self.models, self.retry_failed = (writer, reader), retry_failed
        self.tally = Counter() if tally is None else tally
        self.stage, self.texts = stage_of(reader.name), 0

    async def probe(self, features: Sequence[int], in_hand: int) -> None:
        """At most `in_hand` at once, then scores, also of a run that ends early: what was paid for is to be seen.

        Raises ProviderError, Stopped, StoreError when what was in flight has finished.
        """
        await asyncio.to_thread(self._look_back, features)
        await self.run.store.put(*(p for p in (edit.prompt(), detect.prompt()) if p.prompt_id not in self.prompts))
        subject, dictionary = await asyncio.to_thread(self.run.model)
        async with Measurer(subject, dictionary, say=self.run.say) as measurer:
            self.editor = Editor(
                self.run.lexicon.vocabulary, self.run.neighbours, measurer, self.run.store, self.config,
                causal=subject.causal, run_id=self.run_id,
            )  # fmt: skip
            try:
                await in_progress(
                    self._work(features), len(features), min(in_hand, self.config.in_flight), self._one,
                    lambda done, total: self.run.progress("probe", done, total),
                )  # fmt: skip
            except (ProviderError, Stopped):
                await self._score()
                raise
        await self._score()

    async def _score(self) -> None:
        reader = self.models[1].name
        await asyncio.to_thread(score_pools, self.run, self.predictor.predictor, reader, self.run_id)

    def _look_back(self, features: Sequence[int]) -> None:
        """What is known of these features before any of them is asked about."""
        run, reader = self.run, self.models[1].name
        self.before = Before(run, self.stage, (f"llm:{reader}", METRICS, 0), features)
        self.labels = labels_of(run, features, every=self.config.every)
        self.claims: Mapping[int, list[Label]] = labels_of(run, features, every=True)
        self.known: Known = known_outcomes(run, features)
        self.prompts = {prompt for (prompt,) in run.store.sql("SELECT prompt_id FROM prompt")}
        asked = run.store.sql(
            "SELECT call_id FROM llm_call WHERE reply IS NOT NULL AND prompt_id IN (SELECT unnest(?::VARCHAR[]))",
            [[edit.prompt().prompt_id, detect.prompt().prompt_id]],
        )
        answered = frozenset(identity for (identity,) in asked)
        self.writer, other = (Draws(model, answered, retry_failed=self.retry_failed) for model in self.models)
        self.predictor = LLMPredictor(other, run.lexicon.vocabulary, self.config.reading)
        self.drawn = (self.writer.last, other.last)

    def _work(self, features: Sequence[int]) -> Iterator[FeatureRecord]:
        yield from self.run.records(features)

    async def _one(self, record: FeatureRecord) -> None:
        try:
            rows = await self._rows(record)
        except GlossatorError as error:
            if not isinstance(error, ReplyError):
                raise  # no other question will fare better: no row
            rows = self._failed(record, error)
        except Exception as error:  # noqa: BLE001  one feature's failure is a row
            rows = self._failed(record, error)
        if rows:
            await self.run.store.put(*rows)

    async def _rows(self, record: FeatureRecord) -> list[Row]:
        labels = [label for label in self.labels.get(record.feature.index, []) if label.text.strip()]
        reason = not_to_be_probed(record) or (None if labels else "nothing to probe: no label")
        if reason is not None:
            self.tally["skipped"] += 1
            return self.before.status_rows(record.feature, "abstained", reason, self.run_id)
        about = str(record.feature)
        predictors = [TextPredictor(one.explanation_id, one.text, self.predictor, about) for one in labels]
        mine = [one.text for one in labels]
        others = [one.text for one in self.claims.get(record.feature.index, [])]
        probed = await self.editor.probe(
            record, predictors, self.known, writer=self.writer, claims=list(dict.fromkeys([*mine, *others]))
        )
        return self._done(record, probed)

    def _done(self, record: FeatureRecord, probed: Probed) -> list[Row]:
        self.tally["probed"] += 1
        self.texts += probed.measured
        said = f"{probed.measured} texts" + (f"; {probed.note}" if probed.note else "")
        rows: list[Row] = []
        if probed.failure is not None:
            self.tally["without written texts"] += 1
            failed = [("writing experiments", probed.failure)]
            rows = [r for r in self._failure(record, failed) if not isinstance(r, StatusRow)]
        return rows + self.before.status_rows(record.feature, "done", said, self.run_id)

    def _failed(self, record: FeatureRecord, error: Exception) -> list[Row]:
        self.tally[type(error).__name__] += 1
        return self._failure(record, [("reading the label", error)])

    def _failure(self, record: FeatureRecord, failed: Sequence[tuple[str, Exception]]) -> list[Row]:
        attempt = max(last.get(str(record.feature), 0) for last in self.drawn)
        return self.before.failure_rows(record.feature, failed, attempt, self.run_id)


def account(run: Run, tally: Counter[str], session_id: str, reader: str) -> str:
    """What came of it, in words, and what it cost now and in all."""
    shown = ("probed", "without written texts", "skipped")
    failed = {kind: n for kind, n in sorted(tally.items()) if kind not in shown}
    parts = [f"{tally[kind]:,} {kind}" for kind in shown if tally[kind]]
    if failed:
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in failed.items())
        parts.append(f"{sum(failed.values()):,} failed ({kinds})")
    said = ", ".join(parts) or "no feature was left"
    now = spent(run, "WHERE session_id = ?", [session_id])
    return f"{run.dictionary}  probe, read by {reader}: {said}\nspent now {now}, in all {spent(run, '', [])}{set_aside(run)}"
