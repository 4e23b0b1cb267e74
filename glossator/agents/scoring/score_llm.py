"""Scores of labels by a language model that reads them, on `select` and `test`; what each scorer asks is in scenes.py.

Read is any explanation with a text, a rule's sentence too: then it is scored as a label, under a predictor of its own, and
its scores as a rule stay beside. Every feature, scorer and predictor is a stage of its own, `score:detection:llm:NAME`, so
one can be added or gone on with alone. A label that has come since is read by the next run.

A predictor whose draws are not the first (`LLMPredictor.sample`) repeats the main metric on `test`, with other windows: such
scores go to `repeat_score`, under stages of their own, and never into a label's row.

What cannot be computed has no value and a note that says why. A question that failed is a failure row and a score without
value and note, which the view `scoreboard` counts. What ends the run is raised when what was in flight has been written.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glossator.agents.pool import in_progress
from glossator.agents.run import Run
from glossator.agents.scoring.read_before import Before, Label, Place, labels_of
from glossator.agents.scoring.scenes import METRICS, PROMPTS, AnyScene, answer, measured, scene_of, seed_of
from glossator.agents.spent import set_aside, spent
from glossator.config import LLMScoreConfig
from glossator.errors import GlossatorError, ReplyError
from glossator.rows import RepeatScoreRow, Row, ScoreRow
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureId, FeatureRecord, Split

SPLITS_READ: tuple[Split, ...] = ("select", "test")
Scored = ScoreRow | RepeatScoreRow


def stage_of(scorer: str, predictor: str, explainer: str | None = None, repeat: int = 0) -> str:
    """The labels of one named `explainer` have a stage of their own: their failures are no failures of the run's labels."""
    return (
        f"score:{scorer}:{predictor}" + (f":repeat-{repeat}" if repeat else "") + (f":{explainer}" if explainer else "")
    )


def left_to_read(
    run: Run,
    predictor: str,
    scorers: Sequence[str],
    features: Sequence[int] | None,
    *,
    every: bool = False,
    explainer: str | None = None,
) -> dict[str, list[int]]:
    """By scorer: the features asked for; else those that were not dealt with, or have labels that were not read.

    Of one `explainer`: no others than those that it has labelled.
    """
    found = {}
    mine = None if explainer is None else labels_of(run, explainer=explainer)
    for scorer in scorers:
        found[scorer] = run.chosen(features, stage_of(scorer, predictor, explainer))
        if features is None:
            fresh = labels_of(run, every=every, unread=(predictor, METRICS[scorer]), explainer=explainer)
            found[scorer] = sorted({*found[scorer], *fresh})
        if mine is not None:
            found[scorer] = [feature for feature in found[scorer] if feature in mine]
    return {scorer: todo for scorer, todo in found.items() if todo}


async def put_prompts(run: Run, scorers: Iterable[str]) -> None:
    """What the questions of these scorers have in common, unless the store has it."""
    known = {prompt for (prompt,) in run.store.sql("SELECT prompt_id FROM prompt")}
    wanted = {
        p.prompt_id: p for s in scorers if (p := PROMPTS[s]()).prompt_id not in known
    }  # two scorers may share one
    await run.store.put(*wanted.values())


@dataclass(frozen=True)
class _Work:
    """One feature and scorer. scenes: windows by split, or why there are none; skipped: why nothing is read at all."""

    feature: FeatureId
    scorer: str
    threshold: float
    labels: Sequence[Label]
    scenes: Mapping[Split, AnyScene | str]
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
        explainer: str | None = None,
    ) -> None:
        """`every`: all explanations with a text, not the labels alone; `explainer`: those of this one. `retry_failed`: unusable replies are drawn anew."""
        self.run, self.predictor, self.run_id = run, predictor, run_id
        self.config: LLMScoreConfig = predictor.config
        self.every, self.explainer, self.retry_failed = every, explainer, retry_failed
        self.repeat = predictor.sample
        self.splits: tuple[Split, ...] = ("test",) if self.repeat else SPLITS_READ
        self.tally = Counter() if tally is None else tally

    async def score(self, todo: Mapping[str, Sequence[int]], in_hand: int) -> None:
        """todo: features by scorer. At most `in_hand` of them at once. Raises ProviderError, Stopped, StoreError."""
        chosen = list(
            dict.fromkeys(feature for features in todo.values() for feature in features)
        )  # as they are wanted
        await asyncio.to_thread(self._look_back, chosen, todo)
        await put_prompts(self.run, todo)
        await in_progress(
            self._work(chosen, {scorer: set(features) for scorer, features in todo.items()}),
            sum(map(len, todo.values())),
            in_hand,
            self._one,
            lambda done, total: self.run.progress(self._doing, done, total),
        )

    def _look_back(self, features: Sequence[int], scorers: Iterable[str]) -> None:
        name = self.predictor.predictor
        self.labels = labels_of(self.run, features, every=self.every, explainer=self.explainer)
        stages = {s: stage_of(s, name, self.explainer, self.repeat) for s in scorers}
        of = {s: (name, self._metrics(s), self.repeat) for s in stages}
        self.before = {s: Before(self.run, stage, of[s], features) for s, stage in stages.items()}

    @property
    def _doing(self) -> str:
        return f"repeat {self.repeat}" if self.repeat else f"read {self.explainer or 'labels'}"

    def _metrics(self, scorer: str) -> tuple[str, ...]:
        return METRICS[scorer][:1] if self.repeat else METRICS[scorer]

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
                        one = replace(one, scenes=self._scenes(record, scorer))
                    except Exception as error:  # noqa: BLE001  one feature's failure is a row, not the end of the night
                        one = replace(one, broken=error)
                yield one

    def _scenes(self, record: FeatureRecord, scorer: str) -> dict[Split, AnyScene | str]:
        return {split: scene_of(self.run, record, scorer, split, self.config) for split in self.splits}

    async def _one(self, work: _Work) -> None:
        before = self.before[work.scorer]
        if work.skipped:
            self.tally[work.scorer, "skipped"] += 1
            await self._write(work, [], before.status_rows(work.feature, "abstained", work.skipped, self.run_id))
            return
        tries = before.attempt(work.feature.index, self.retry_failed) + 1
        places = [(label, split) for label in work.labels for split in self.splits]
        found = await asyncio.gather(*(self._read(work, *place, tries) for place in places), return_exceptions=True)
        raise_what_ends_the_run(found)
        scores: list[Scored] = []
        failed: list[tuple[str, Exception]] = []
        for (label, split), result in zip(places, found, strict=True):
            if isinstance(result, Exception):
                failed.append((f"{label.explainer} on {split}", result))
            elif isinstance(result, BaseException):
                raise result
            scores += self._rows(work, label, split, {} if isinstance(result, BaseException) else result)
        self._count(work, scores, failed)
        if failed:
            rows = before.failure_rows(work.feature, failed, tries - 1, self.run_id)
        else:
            rows = before.status_rows(work.feature, "done", None, self.run_id)
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
        told = await answer(self.predictor, shown, label.text, str(work.feature), tries)
        return measured(shown, told, work.threshold, self.config.draws, seed_of(self.config, work.feature.index))

    def _rows(self, work: _Work, label: Label, split: Split, found: Mapping[str, Measured]) -> list[Scored]:
        """Of every metric one; without value and note where the question failed."""
        rows: list[Scored] = []
        for metric in self._metrics(work.scorer):
            one = found.get(metric, missing(""))
            e, f = one.estimate, work.feature
            value, low, high = (None if math.isnan(x) else float(x) for x in (e.value, e.low, e.high))
            note = one.note or (None if value is not None or metric not in found else "cannot be computed")
            who = (label.explanation_id, f.dictionary, f.index, label.explainer, self.predictor.predictor)
            if self.repeat:
                rows.append(RepeatScoreRow(*who, metric, split, self.repeat, value, e.n, note or None, self.run_id))
                continue
            name = self.predictor.llm.name
            rows.append(ScoreRow(*who, name, metric, split, value, low, high, e.n, note or None, self.run_id))
        return rows

    def _count(self, work: _Work, scores: Sequence[Scored], failed: Sequence[tuple[str, Exception]]) -> None:
        main = [row for row in scores if row.metric == METRICS[work.scorer][0] and row.split == "test"]
        valued = any(row.value is not None for row in main)
        kind = type(failed[0][1]).__name__ if failed else "scored" if valued else "without a value"
        self.tally[f"{work.scorer}, {self._doing}" if self.repeat else work.scorer, kind] += 1

    async def _write(self, work: _Work, scores: Sequence[Scored], others: Sequence[Row]) -> None:
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
        table, more = ("repeat_score", f" AND repeat = {self.repeat:d}") if self.repeat else ("score", "")
        for explanation_id, metric, split in old:
            connection.execute(
                f"DELETE FROM {table} WHERE explanation_id = ? AND metric = ? AND split = ? AND predictor = ?{more}",
                [explanation_id, metric, split, self.predictor.predictor],
            )


def raise_what_ends_the_run(found: Sequence[object]) -> None:
    """The first of these results after which no other question will fare better."""
    for one in found:
        if isinstance(one, GlossatorError | asyncio.CancelledError) and not isinstance(one, ReplyError):
            raise one


def place_of(row: Scored) -> Place:
    return row.explanation_id, row.metric, row.split


def values_of(row: Scored) -> tuple[Any, ...]:
    between = () if isinstance(row, RepeatScoreRow) else (row.low, row.high)
    return row.value, *between, row.n, row.note


def account(run: Run, tally: Counter[tuple[str, str]], spec: str, session_id: str) -> str:
    """What came of it, a line for each scorer, and what it cost now and in all."""
    lines = []
    for scorer in dict.fromkeys(scorer for scorer, _ in sorted(tally)):
        of = {kind: n for (one, kind), n in sorted(tally.items()) if one == scorer}
        shown = ("scored", "compared", "without a value", "skipped")
        failed = {kind: n for kind, n in of.items() if kind not in shown}
        parts = [f"{of[kind]:,} {kind}" for kind in shown if kind in of]
        if failed:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in failed.items())
            parts.append(f"{sum(failed.values()):,} failed ({kinds})")
        lines.append(f"{run.dictionary}  {scorer} by {spec}: {', '.join(parts)}")
    now = spent(run, "WHERE session_id = ?", [session_id])
    lines += [] if lines else [f"{run.dictionary}  no label was left for {spec} to read"]
    return "\n".join([*lines, f"spent now {now}, in all {spent(run, '', [])}{set_aside(run)}"])
