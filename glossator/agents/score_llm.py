"""Scores of labels by a language model that reads them: `simulation`, `detection`, `fuzzing`, on `select` and `test`.

Read is any explanation with a text, a rule's sentence too: then it is scored as a label, under a predictor of its own, and
its scores as a rule stay beside. Every feature, scorer and predictor is a stage of its own, `score:detection:llm:NAME`, so
one can be added or gone on with alone. A label that has come since is read by the next run.

What cannot be computed has no value and a note that says why. A question that failed is a failure row and a score without
value and note, which the view `scoreboard` counts. What ends the run is raised when what was in flight has been written.
"""

from __future__ import annotations

import asyncio
import math
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glossator.agents.oneshot import set_aside, spent
from glossator.agents.pool import in_progress
from glossator.agents.read_before import Before, Label, Place, labels_of
from glossator.agents.run import Run
from glossator.config import LLMScoreConfig
from glossator.errors import GlossatorError, ReplyError
from glossator.llm.secrets import redact
from glossator.prompts import detect, fuzz, simulate
from glossator.rows import FailureRow, Row, ScoreRow, StatusRow
from glossator.scorers import detection, fuzzing
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.estimators import pearson
from glossator.scorers.reading import LLMPredictor, few
from glossator.scorers.simulation import Scene, draws_for, literature, scene, sums_of, within
from glossator.types import Estimate, FeatureId, FeatureRecord, Split

SPLITS_READ: tuple[Split, ...] = ("select", "test")
METRICS: dict[str, tuple[str, ...]] = {
    "simulation": ("simulation", "simulation_within", "simulation_literature"),
    "detection": detection.METRICS,
    "fuzzing": fuzzing.METRICS,
}
SCORERS = tuple(METRICS)
_PROMPTS = {"simulation": simulate.prompt, "detection": detect.prompt, "fuzzing": fuzz.prompt}
_Scene = Scene | detection.DetectionScene | fuzzing.FuzzingScene


def stage_of(scorer: str, predictor: str) -> str:
    return f"score:{scorer}:{predictor}"


def left_to_read(
    run: Run, predictor: str, scorers: Sequence[str], features: Sequence[int] | None, *, every: bool = False
) -> dict[str, list[int]]:
    """By scorer: the features asked for; else those that were not dealt with, or have labels that were not read."""
    found = {}
    for scorer in scorers:
        found[scorer] = run.chosen(features, stage_of(scorer, predictor))
        if features is None:
            fresh = labels_of(run, every=every, unread=(predictor, METRICS[scorer]))
            found[scorer] = sorted({*found[scorer], *fresh})
    return {scorer: todo for scorer, todo in found.items() if todo}


@dataclass(frozen=True)
class _Work:
    """One feature and scorer. scenes: windows by split, or why there are none; skipped: why nothing is read at all."""

    feature: FeatureId
    scorer: str
    threshold: float
    labels: Sequence[Label]
    scenes: Mapping[Split, _Scene | str]
    skipped: str | None = None
    broken: Exception | None = None


class LabelScorer:
    """`score(todo, in_hand)` asks; `tally` counts (scorer, what came of it): scored, without a value, skipped, kinds of failures."""

    def __init__(
        self,
        run: Run,
        predictor: LLMPredictor,
        run_id: str,
        tally: Counter[tuple[str, str]] | None = None,
        *,
        every: bool = False,
        retry_failed: bool = False,
    ) -> None:
        """`every`: all explanations with a text, not the labels alone. `retry_failed`: unusable replies are drawn anew."""
        self.run, self.predictor, self.run_id = run, predictor, run_id
        self.config: LLMScoreConfig = predictor.config
        self.every, self.retry_failed = every, retry_failed
        self.tally = Counter() if tally is None else tally

    async def score(self, todo: Mapping[str, Sequence[int]], in_hand: int) -> None:
        """todo: features by scorer. At most `in_hand` of them at once. Raises ProviderError, Stopped, StoreError."""
        chosen = sorted({feature for features in todo.values() for feature in features})
        await asyncio.to_thread(self._look_back, chosen, todo)
        known = {prompt for (prompt,) in self.run.store.sql("SELECT prompt_id FROM prompt")}
        await self.run.store.put(*(p for s in todo if (p := _PROMPTS[s]()).prompt_id not in known))
        await in_progress(
            self._work(chosen, {scorer: set(features) for scorer, features in todo.items()}),
            sum(map(len, todo.values())),
            in_hand,
            self._one,
            lambda done, total: self.run.progress("read labels", done, total),
        )

    def _look_back(self, features: Sequence[int], scorers: Iterable[str]) -> None:
        name = self.predictor.predictor
        self.labels = labels_of(self.run, features, every=self.every)
        self.before = {s: Before(self.run, stage_of(s, name), (name, METRICS[s]), features) for s in scorers}

    def _work(self, features: Sequence[int], todo: Mapping[str, set[int]]) -> Iterator[_Work]:
        """In the order of features. Windows that cannot be drawn are that feature's failure."""
        for record in self.run.records(features):
            labels = self.labels.get(record.feature.index, ())
            for scorer, wanted in todo.items():
                if record.feature.index not in wanted:
                    continue
                one = _Work(record.feature, scorer, record.threshold, labels, {})
                if record.status == "rare":
                    one = replace(one, skipped="rare: too few active windows for a score")
                elif not labels:
                    one = replace(one, skipped="nothing to read: no label")
                else:
                    try:
                        one = replace(one, scenes={split: self._scene(record, scorer, split) for split in SPLITS_READ})
                    except Exception as error:  # noqa: BLE001  one feature's failure is a row, not the end of the night
                        one = replace(one, broken=error)
                yield one

    def _scene(self, record: FeatureRecord, scorer: str, split: Split) -> _Scene | str:
        if scorer == "detection":
            return detection.detection_scene(record, split, self.config)
        if scorer == "fuzzing":
            lexicon = self.run.lexicon
            return fuzzing.fuzzing_scene(record, split, lexicon.vocabulary, self.run.counts, self.config)
        return simulated_scene(record, split, self.config)

    async def _one(self, work: _Work) -> None:
        before = self.before[work.scorer]
        if work.skipped:
            self.tally[work.scorer, "skipped"] += 1
            await self._write(work, [], self._status(work, "abstained", work.skipped))
            return
        tries = before.attempt(work.feature.index, self.retry_failed) + 1
        places = [(label, split) for label in work.labels for split in SPLITS_READ]
        found = await asyncio.gather(*(self._read(work, *place, tries) for place in places), return_exceptions=True)
        over = [
            e for e in found if isinstance(e, GlossatorError | asyncio.CancelledError) and not isinstance(e, ReplyError)
        ]
        if over:
            raise over[0]  # no other question will fare better: no row
        scores: list[ScoreRow] = []
        failed: list[tuple[str, Exception]] = []
        for (label, split), result in zip(places, found, strict=True):
            if isinstance(result, Exception):
                failed.append((f"{label.explainer} on {split}", result))
            elif isinstance(result, BaseException):
                raise result
            scores += self._rows(work, label, split, {} if isinstance(result, BaseException) else result)
        self._count(work, scores, failed)
        rows = self._failed(work, failed, tries - 1) if failed else self._status(work, "done", None)
        await self._write(work, scores, rows)

    async def _read(self, work: _Work, label: Label, split: Split, tries: int) -> dict[str, Measured]:
        """All metrics of one label on one split."""
        if work.broken:
            raise work.broken
        shown = work.scenes[split]
        if isinstance(shown, str):
            return {metric: missing(shown) for metric in METRICS[work.scorer]}
        if not label.text.strip():
            return {metric: missing("the label is empty") for metric in METRICS[work.scorer]}
        ask, about, draws = self.predictor, str(work.feature), self.config.draws
        seed = self.config.seed * 1_000_003 + work.feature.index
        if isinstance(shown, detection.DetectionScene):
            p = await ask.fires(label.text, shown.windows, about, tries)
            return detection.detection(shown, p, draws, seed)
        if isinstance(shown, fuzzing.FuzzingScene):
            p = await ask.marks_are_right(label.text, shown.windows, shown.marked, about, tries)
            return fuzzing.fuzzing(shown, p, draws, seed)
        told = await ask.strengths(label.text, shown.windows, about, tries)
        return simulated(shown, told, work.threshold, draws, seed)

    def _rows(self, work: _Work, label: Label, split: Split, found: Mapping[str, Measured]) -> list[ScoreRow]:
        """Of every metric one; without value and note where the question failed."""
        rows = []
        for metric in METRICS[work.scorer]:
            one = found.get(metric, missing(""))
            e, f = one.estimate, work.feature
            value, low, high = (None if math.isnan(x) else float(x) for x in (e.value, e.low, e.high))
            note = one.note or (None if value is not None or metric not in found else "cannot be computed")
            rows.append(
                ScoreRow(
                    label.explanation_id, f.dictionary, f.index, label.explainer, self.predictor.predictor,
                    self.predictor.llm.name, metric, split, value, low, high, e.n, note or None, self.run_id,
                )
            )  # fmt: skip
        return rows

    def _count(self, work: _Work, scores: Sequence[ScoreRow], failed: Sequence[tuple[str, Exception]]) -> None:
        main = [row for row in scores if row.metric == METRICS[work.scorer][0] and row.split == "test"]
        valued = any(row.value is not None for row in main)
        kind = type(failed[0][1]).__name__ if failed else "scored" if valued else "without a value"
        self.tally[work.scorer, kind] += 1

    def _failed(self, work: _Work, failed: Sequence[tuple[str, Exception]], attempt: int) -> list[Row]:
        """A failure, but for one that was found before: it is the same one, read from the log again."""
        before, f = self.before[work.scorer], work.feature
        error = failed[0][1]
        kind = type(error).__name__
        message = redact("; ".join(f"{where}: {what}" for where, what in failed))[:500]
        if before.last_failure.get(f.index) == (attempt, kind, message):
            return self._status(work, "failed", message[:200])
        trace = redact("".join(traceback.format_exception(error)))[-4000:]
        row = FailureRow(f.dictionary, f.index, before.stage, kind, message, trace, self.run_id, attempt)
        return [row, *self._status(work, "failed", message[:200])]

    def _status(self, work: _Work, status: str, reason: str | None) -> list[Row]:
        before, f = self.before[work.scorer], work.feature
        if before.status.get(f.index) == (status, reason):
            return []
        return [StatusRow(f.dictionary, f.index, before.stage, status, reason, self.run_id)]

    async def _write(self, work: _Work, scores: Sequence[ScoreRow], others: Sequence[Row]) -> None:
        """What the store has already is not written again; a score that has changed takes the place of the old one."""
        known = self.before[work.scorer].scores
        new = [row for row in scores if known.get(place_of(row)) != values_of(row)]
        old = [place_of(row) for row in new if place_of(row) in known]
        rows = [*new, *others]
        if old:
            await asyncio.to_thread(self.run.store.replace_now, lambda connection: self._forget(connection, old), rows)
        elif rows:
            await self.run.store.put(*rows)

    def _forget(self, connection: Any, old: Sequence[Place]) -> None:
        for explanation_id, metric, split in old:
            connection.execute(
                "DELETE FROM score WHERE explanation_id = ? AND metric = ? AND split = ? AND predictor = ?",
                [explanation_id, metric, split, self.predictor.predictor],
            )


def place_of(row: ScoreRow) -> Place:
    return row.explanation_id, row.metric, row.split


def values_of(row: ScoreRow) -> tuple[Any, ...]:
    return row.value, row.low, row.high, row.n, row.note


def simulated_scene(record: FeatureRecord, split: Split, config: LLMScoreConfig) -> Scene | str:
    """The windows on which labels are simulated, or why there are none: those of a rule, thinned out."""
    if split not in record.exemplars or not len(record.exemplars[split].windows):
        return f"never active in the split {split}"
    whole = scene(record, split)
    behind = few(whole.background, config.background, config.seed)
    return Scene(few(whole.active, config.active, config.seed), behind, behind)


def simulated(shown: Scene, told: Any, threshold: float, draws: int, seed: int) -> dict[str, Measured]:
    """told [n, WINDOW]: strengths on the windows of the scene."""
    times = draws_for(shown, draws, seed)
    found: dict[str, Estimate] = {
        "simulation": pearson(sums_of(shown, told), times, len(shown.windows)),
        "simulation_within": within(shown, told, threshold, draws, seed),
        "simulation_literature": literature(shown, told, draws, seed),
    }
    lacking = {
        "simulation": "the activation does not vary",
        "simulation_within": "no firing window",
        "simulation_literature": "no top window whose activation varies",
    }
    return {m: Measured(e, lacking[m] if np.isnan(e.value) else None) for m, e in found.items()}


def account(run: Run, tally: Counter[tuple[str, str]], spec: str, session_id: str) -> str:
    """What came of it, a line for each scorer, and what it cost now and in all."""
    lines = []
    for scorer in dict.fromkeys(scorer for scorer, _ in sorted(tally)):
        of = {kind: n for (one, kind), n in sorted(tally.items()) if one == scorer}
        shown = ("scored", "without a value", "skipped")
        failed = {kind: n for kind, n in of.items() if kind not in shown}
        parts = [f"{of[kind]:,} {kind}" for kind in shown if kind in of]
        if failed:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in failed.items())
            parts.append(f"{sum(failed.values()):,} failed ({kinds})")
        lines.append(f"{run.dictionary}  {scorer} by {spec}: {', '.join(parts)}")
    now = spent(run, "WHERE session_id = ?", [session_id])
    lines += [] if lines else [f"{run.dictionary}  no label was left for {spec} to read"]
    return "\n".join([*lines, f"spent now {now}, in all {spent(run, '', [])}{set_aside(run)}"])
