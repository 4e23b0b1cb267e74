"""One feature's pool of experiments: predict, seal, measure, store; or take from the store what was measured before.

Whoever predicts is asked about all texts of the pool at once, before the first of them is measured, and hears neither kinds
nor outcomes. What he said of an experiment is stored before the subject reads a word of it: the store refuses an outcome
without. Nothing that was measured changes a prediction, so bisection, which measures one step after the other, predicts
every step that it may come to.

A pool is named by its split, seed, the frozen explanations, and who predicts and writes, if anybody does: another label gets
a pool of its own.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from glossator.agents.editor.edits import Edit
from glossator.config import EditorConfig
from glossator.rows import ExperimentRow, MeasurementRow, PredictionRow, Row
from glossator.types import (
    MARGIN,
    PAD,
    WINDOW,
    Activations,
    FeatureId,
    FeatureRecord,
    Prediction,
    Split,
    Windows,
    content_id,
)

_VERSION = 2  # of the mechanical edits: a change that makes other texts of the same windows raises it
Carrier = tuple[tuple[str, ...], tuple[float, ...]]  # tokens, and their activations


class Measures(Protocol):
    """What the editor asks of the harness' Measurer."""

    async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]: ...

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]: ...


class Writes(Protocol):
    async def put(self, *rows: Row) -> None: ...


class Predicts(Protocol):
    """One explanation, turned into numbers; sees token ids alone."""

    @property
    def explanation_id(self) -> str: ...

    @property
    def predictor(self) -> str: ...

    async def predict(self, windows: Windows) -> list[Prediction]: ...


@dataclass(frozen=True)
class Known:
    """What earlier runs left: experiments that were sealed; of those that were measured as well, the maxima and the texts."""

    sealed: frozenset[str] = frozenset()
    outcomes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    carriers: Mapping[str, Sequence[Carrier]] = field(default_factory=dict)


@dataclass(frozen=True)
class Experimented:
    """One experiment and what came of it. weak: most carriers are active, and most do not fire; no verdict.

    tokens, values: of each carrier, what the subject read and how active the feature was on it; empty where an earlier run
    measured it and `Known` holds the maxima alone. predicted: p(fires) by explanation id, sealed before.
    """

    experiment_id: str
    kind: str
    texts: tuple[str, ...]
    fires: bool
    weak: bool
    tokens: tuple[tuple[str, ...], ...]
    values: tuple[tuple[float, ...], ...]
    predicted: Mapping[str, float]


class Pool:
    """`predict` once, then `run` some of what was predicted, then more of it."""

    def __init__(
        self,
        record: FeatureRecord,
        predictors: Sequence[Predicts],
        known: Known,
        split: Split,
        measurer: Measures,
        store: Writes,
        config: EditorConfig,
        by: tuple[str, str | None],
    ) -> None:
        """by: the run, and the model that wrote texts of the pool, if one did."""
        self.record, self.predictors, self.known, self.split = record, predictors, known, split
        self.measurer, self.store, self.config = measurer, store, config
        self.run_id, writer = by
        self.name = _pool_name(split, config.seed, predictors, writer)
        self.done: dict[str, Experimented] = {}
        self._told: list[dict[str, Prediction]] = []

    async def predict(self, edits: Sequence[Edit]) -> None:
        """What every predictor says of the texts of all these edits."""
        self._told = list(await asyncio.gather(*(self._ask(predictor, edits) for predictor in self.predictors)))

    async def run(self, edits: Sequence[Edit]) -> list[Experimented]:
        """Seal these, then measure them; equal ones once, known ones not at all."""
        ids = [self._id(edit) for edit in edits]  # two random windows may hold the same words
        fresh = {i: e for i, e in zip(ids, edits, strict=True) if i not in self.done}
        sealing = [row for i, e in fresh.items() if i not in self.known.sealed for row in self._sealing(i, e)]
        if sealing:  # what is sealed and not measured: a stop came between
            await self.store.put(*sealing)
        wanted = {i: e for i, e in fresh.items() if i not in self.known.outcomes}
        pairs = [(text, self.record.feature) for e in wanted.values() for text in e.texts]
        left = iter(await self.measurer.measure(pairs) if pairs else [])
        rows = list[Row]()
        for i, e in fresh.items():
            if i in wanted:
                measured = [next(left) for _ in e.texts]
                rows += measurement_rows(i, self.record, e.texts, measured)
                maxima = [peak(one.values) for one in measured]
                self.done[i] = self._experimented(i, e, maxima, [(one.tokens, one.values) for one in measured])
            else:
                self.done[i] = self._experimented(i, e, self.known.outcomes[i], self.known.carriers.get(i, ()))
        if rows:
            await self.store.put(*rows)
        return [self.done[i] for i in ids]

    def measured(self, edits: Sequence[Edit]) -> tuple[Experimented, ...]:
        """Of these edits those that were run, each once."""
        ids = dict.fromkeys(self._id(edit) for edit in edits)
        return tuple(self.done[i] for i in ids if i in self.done)

    async def _ask(self, predictor: Predicts, edits: Sequence[Edit]) -> dict[str, Prediction]:
        texts = list(dict.fromkeys(text for edit in edits for text in self._read(predictor, edit)))
        windows = as_windows(self.measurer.tokenize(texts))
        return dict(zip(texts, await predictor.predict(windows) if texts else [], strict=True))

    def _read(self, predictor: Predicts, edit: Edit) -> tuple[str, ...]:
        """The carriers that are predicted: all by a rule; as many as the config says by a model, which is paid for each."""
        return edit.texts if predictor.predictor == "rule" else edit.texts[: self.config.carriers_read]

    def _p(self, at: int, edit: Edit) -> float:
        predictor, told = self.predictors[at], self._told[at]
        return p_majority([told[text].p_fires for text in self._read(predictor, edit)])

    def _id(self, edit: Edit) -> str:
        return content_id("experiment", str(self.record.feature), self.name, edit.kind, edit.texts)

    def _sealing(self, identity: str, edit: Edit) -> list[Row]:
        feature, now = self.record.feature, time.time()
        rows: list[Row] = [
            ExperimentRow(
                identity, feature.dictionary, feature.index, self.name, self.split, edit.kind, json.dumps(dict(edit.what)),
                edit.source_window, list(edit.texts), self.run_id,
            )
        ]  # fmt: skip
        for at, predictor in enumerate(self.predictors):
            strengths = list(self._told[at][edit.texts[0]].strengths)
            rows.append(
                PredictionRow(
                    identity, predictor.explanation_id, predictor.predictor, self._p(at, edit), strengths, now
                )
            )
        return rows

    def _experimented(
        self, identity: str, edit: Edit, maxima: Sequence[float], carriers: Sequence[Carrier]
    ) -> Experimented:
        share, weak = came_out(maxima, self.record.threshold)
        return Experimented(
            identity, edit.kind, edit.texts, share > 0.5, weak,
            tuple(tuple(tokens) for tokens, _ in carriers), tuple(tuple(values) for _, values in carriers),
            {one.explanation_id: self._p(at, edit) for at, one in enumerate(self.predictors)},
        )  # fmt: skip


def _pool_name(split: Split, seed: int, predictors: Sequence[Predicts], writer: str | None) -> str:
    """Another version of the edits makes another pool: nothing is added to one that an earlier version began."""
    name = f"{split}:{seed}:{content_id(_VERSION, sorted(p.explanation_id for p in predictors))}"
    readers = sorted({p.predictor for p in predictors} - {"rule"})
    return name + "".join(f":{reader}" for reader in readers) + (f":written by {writer}" if writer else "")


def measurement_rows(
    identity: str, record: FeatureRecord, texts: Sequence[str], measured: Sequence[Activations]
) -> list[Row]:
    """The carriers of one experiment, as they came out now."""
    feature, now = record.feature, time.time()
    return [
        MeasurementRow(
            identity, feature.dictionary, feature.index, number, text, list(m.tokens), list(m.values), peak(m.values),
            peak(m.values) >= record.threshold, now,
        )
        for number, (text, m) in enumerate(zip(texts, measured, strict=True))
    ]  # fmt: skip


def came_out(maxima: Sequence[float], threshold: float) -> tuple[float, bool]:
    """The share of carriers that fire, and whether the text is weak, as the view `outcome` has it."""
    share = float(np.mean([m >= threshold for m in maxima]))
    return share, share <= 0.5 and float(np.mean([m > 0 for m in maxima])) > 0.5


def peak(values: Sequence[float]) -> float:
    """The highest activation among the tokens that predictions are about."""
    return max(values[:WINDOW], default=0.0)


def p_majority(each: Sequence[float]) -> float:
    """The probability that more than half of the carriers fire, if they fire independently with these probabilities."""
    fired = np.ones(1)
    for p in each:
        fired = np.convolve(fired, [1 - p, p])
    return float(fired[len(each) // 2 + 1 :].sum())


def as_windows(texts: Sequence[Sequence[int]]) -> Windows:
    """Measured texts as windows without margins, cut to the scored width; longer ones keep their first tokens."""
    ids = np.full((len(texts), 2 * MARGIN + WINDOW), PAD, np.int32)
    for row, tokens in enumerate(texts):
        kept = tokens[:WINDOW]
        ids[row, MARGIN : MARGIN + len(kept)] = kept
    return Windows(ids, np.arange(len(texts), dtype=np.int32), MARGIN, np.full(len(texts), -1, np.int64))
