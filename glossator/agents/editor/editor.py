"""The adversarial editor's mechanical edits: label-blind changes of real windows, predicted first, then measured.

From firing windows of the split `test` (the label is frozen by then), twelve texts a feature:

- `bisect`: keep only the trigger and ever more tokens around it, until it fires: the minimal trigger span.
- `transplant`: put that span into three silent windows of the corpus, at its own place.
- `swap`: in three windows, replace the peak token by one of its nearest neighbours in the subject's embedding.
- `delete`: in three windows, take the peak's word out; or, in turn over the features, change what is around it:
  `cut_left`, `cut_right` (encoders), `case` (where the tokenizer can tell).
- `random`: windows of the corpus as they are, for what is left of the budget.

An edit counts as firing if most of its carriers do. Bisection and random text have one carrier a step: they are a search
and a draw. Edits run on the 32 tokens of a window without its margins: what a feature loses by that is in the outcome.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from glossator.config import EditorConfig
from glossator.rows import ExperimentRow, MeasurementRow, PredictionRow, Row
from glossator.types import (
    MARGIN,
    PAD,
    WINDOW,
    Activations,
    FeatureId,
    FeatureRecord,
    Ints,
    Prediction,
    Split,
    Vocabulary,
    Windows,
    content_id,
)

_RADII = (0, 1, 4)


class Measures(Protocol):
    """What the editor asks of the harness' Measurer."""

    async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]: ...

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]: ...


class Writes(Protocol):
    async def put(self, *rows: Row) -> None: ...


class Predicts(Protocol):
    """One explanation, turned into numbers; sees token ids alone."""

    explanation_id: str
    predictor: str

    def predict(self, windows: Windows) -> list[Prediction]: ...


@dataclass(frozen=True)
class Known:
    """What earlier runs left: experiments that were sealed, and the maxima of those that were measured as well."""

    sealed: frozenset[str] = frozenset()
    outcomes: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    kind: str
    texts: tuple[str, ...]
    what: Mapping[str, Any]
    source_window: int


@dataclass(frozen=True)
class Base:
    """A firing window: its tokens [n], where it peaks, its id."""

    ids: tuple[int, ...]
    peak: int
    window_id: int


class Editor:
    """Probes one feature. Everything it does is a function of the record, the config and the subject."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        neighbours: Ints,
        measurer: Measures,
        store: Writes,
        config: EditorConfig,
        *,
        causal: bool,
        run_id: str,
    ) -> None:
        self.vocabulary, self.neighbours, self.config = vocabulary, neighbours, config
        self.measurer, self.store, self.causal, self.run_id = measurer, store, causal, run_id

    async def probe(
        self,
        record: FeatureRecord,
        predictors: Sequence[Predicts],
        known: Known,
        split: Split = "test",
    ) -> int:
        """Run the pool of one feature; returns how many texts were measured. `known`: what earlier runs stored."""
        bases = firing_windows(record, split, self.config.carriers)
        if not bases:
            return 0
        run = _Run(self, record, predictors, known, split)
        left = self.config.texts
        span, used = await self._bisect(run, bases[0], min(3, left))
        left -= used
        turn = self._delete if record.feature.index % 2 == 0 else self._context
        edits = [
            self._transplant(record, bases[0], span, split),
            self._swap(record, bases),
            turn(record, bases),
        ]
        edits += self._random(record, split, left)
        affordable = []
        for edit in edits:
            if edit is not None and len(edit.texts) <= left:
                left -= len(edit.texts)
                affordable.append(run.experiment(edit))
        await asyncio.gather(*affordable)
        return self.config.texts - left

    # ------------------------------------------------------------------ edits

    async def _bisect(self, run: _Run, base: Base, budget: int) -> tuple[tuple[int, int], int]:
        """The smallest radius around the peak that fires; the whole window if none of those tried does."""
        for used, radius in enumerate(_RADII[:budget], 1):
            begin, end = self.span(base, radius)
            text = self.vocabulary.join(base.ids[begin:end])
            if await run.experiment(Edit("bisect", (text,), {"radius": radius, "tokens": end - begin}, base.window_id)):
                return (begin, end), used
        return (0, len(base.ids)), min(budget, len(_RADII))

    def span(self, base: Base, radius: int) -> tuple[int, int]:
        """Whole words only: a continuation without its beginning would be another token."""
        begin = max(0, base.peak - radius)
        end = min(len(base.ids), base.peak + 1 + (0 if self.causal else radius))
        while begin > 0 and not self.vocabulary.starts_word[base.ids[begin]]:
            begin -= 1
        while end < len(base.ids) and not self.vocabulary.starts_word[base.ids[end]]:
            end += 1
        return begin, end

    def _transplant(self, record: FeatureRecord, base: Base, span: tuple[int, int], split: Split) -> Edit | None:
        pool = record.background[split]
        silent = np.flatnonzero(~(pool.activations > 0).any(1) & pool.windows.mask.all(1))
        if len(silent) < self.config.carriers or span[1] - span[0] >= WINDOW // 2:
            return None
        start = (record.feature.index * 7919 + self.config.seed) % len(silent)
        chosen = [
            int(silent[(start + k * (len(silent) // self.config.carriers)) % len(silent)])
            for k in range(self.config.carriers)
        ]
        piece = list(base.ids[span[0] : span[1]])
        texts = []
        for row in chosen:
            ids = pool.windows.ids[row, pool.windows.scored].tolist()
            texts.append(self.vocabulary.join([*ids[: span[0]], *piece, *ids[span[1] :]]))
        return Edit("transplant", tuple(texts), {"span": self.vocabulary.join(piece)}, base.window_id)

    def _swap(self, record: FeatureRecord, bases: Sequence[Base]) -> Edit | None:
        peak = bases[0].ids[bases[0].peak]
        near = self.neighbours[peak]
        near = near[near >= 0]
        if not len(near):
            return None
        other = int(near[(record.feature.index + self.config.seed) % min(4, len(near))])
        texts = [
            self.vocabulary.join(
                [
                    *b.ids[: b.peak],
                    other if b.ids[b.peak] == peak else self._nearest(b.ids[b.peak]),
                    *b.ids[b.peak + 1 :],
                ]
            )
            for b in bases
        ]
        return Edit(
            "swap",
            tuple(texts),
            {"from": self.vocabulary.name(peak), "to": self.vocabulary.name(other)},
            bases[0].window_id,
        )

    def _delete(self, record: FeatureRecord, bases: Sequence[Base]) -> Edit | None:
        """The peak's word left out; in as many windows as have something else."""
        texts = []
        for base in bases:
            begin, end = self.span(base, 0)
            texts.append(self.vocabulary.join([*base.ids[:begin], *base.ids[end:]]))
        return Edit("delete", tuple(texts), {}, bases[0].window_id) if all(texts) else None

    def _random(self, record: FeatureRecord, split: Split, most: int) -> list[Edit]:
        pool = record.background[split].windows
        start = record.feature.index * 104_729 + self.config.seed
        found = []
        for k in range(min(2, most, len(pool))):
            row = (start + k * 31) % len(pool)
            text = self.vocabulary.join(pool.ids[row, pool.scored].tolist())
            found.append(Edit("random", (text,), {}, int(pool.window_id[row])))
        return found

    def _nearest(self, token: int) -> int:
        near = int(self.neighbours[token][0])
        return near if near >= 0 else token

    def _context(self, record: FeatureRecord, bases: Sequence[Base]) -> Edit | None:
        """One of cut_left, cut_right and case, in turn over the features; those that change nothing do not apply."""
        usable = self._around(bases)
        return usable[record.feature.index // 2 % len(usable)] if usable else None

    def _around(self, bases: Sequence[Base]) -> list[Edit]:
        """What can be changed around the peaks: cut_left, cut_right, case."""
        choices: dict[str, list[str]] = {"cut_left": [], "cut_right": [], "case": []}
        for base in bases:
            begin, end = self.span(base, 0)
            choices["cut_left"].append(self.vocabulary.join(base.ids[begin:]))
            choices["cut_right"].append(self.vocabulary.join(base.ids[:end]))
            choices["case"].append(self.vocabulary.join(base.ids).swapcase())
        if self.causal:
            del choices["cut_right"]  # what comes later cannot matter
        plain = self.measurer.tokenize([self.vocabulary.join(b.ids) for b in bases])
        usable = [kind for kind, texts in choices.items() if self.measurer.tokenize(texts) != plain]
        return [Edit(kind, tuple(choices[kind]), {}, bases[0].window_id) for kind in usable]

    def edits(self, record: FeatureRecord, bases: Sequence[Base], split: Split) -> list[Edit]:
        """Every label-blind edit of some windows, each in as many carriers; nothing is measured."""
        near, wide = self.span(bases[0], 0), self.span(bases[0], 1)
        found = [self._transplant(record, bases[0], span, split) for span in dict.fromkeys((near, wide))]
        found += [self._swap(record, bases), self._delete(record, bases), *self._around(bases)]
        return [edit for edit in found if edit is not None]


class _Run:
    """One feature's experiments: seal, measure, store; or take from the store what was measured before."""

    def __init__(
        self,
        editor: Editor,
        record: FeatureRecord,
        predictors: Sequence[Predicts],
        known: Known,
        split: Split,
    ) -> None:
        self.editor, self.record, self.predictors = editor, record, predictors
        self.known, self.split = known, split
        self.done: dict[str, bool] = {}

    async def experiment(self, edit: Edit) -> bool:
        """Whether most carriers fired. The store has the predictions before the subject reads a word."""
        feature, editor = self.record.feature, self.editor
        frozen = content_id(sorted(p.explanation_id for p in self.predictors))  # another label gets a pool of its own
        pool = f"{self.split}:{editor.config.seed}:{frozen}"
        experiment_id = content_id("experiment", str(feature), pool, edit.kind, edit.texts)
        if experiment_id in self.done:  # two random windows may hold the same words
            return self.done[experiment_id]
        self.done[experiment_id] = False
        if experiment_id in self.known.outcomes:
            self.done[experiment_id] = self._majority(self.known.outcomes[experiment_id])
            return self.done[experiment_id]
        windows = as_windows(editor.measurer.tokenize(edit.texts))
        rows: list[Row] = [
            ExperimentRow(
                experiment_id, feature.dictionary, feature.index, pool, self.split, edit.kind, json.dumps(dict(edit.what)),
                edit.source_window, list(edit.texts), editor.run_id,
            )
        ]  # fmt: skip
        for predictor in self.predictors:
            told = predictor.predict(windows)
            p = p_majority([one.p_fires for one in told])
            rows.append(
                PredictionRow(
                    experiment_id,
                    predictor.explanation_id,
                    predictor.predictor,
                    p,
                    list(told[0].strengths),
                    time.time(),
                )
            )
        if experiment_id not in self.known.sealed:  # else a stop came between the prediction and the measurement
            await editor.store.put(*rows)
        measured = await editor.measurer.measure([(text, feature) for text in edit.texts])
        now, threshold = time.time(), self.record.threshold
        await editor.store.put(
            *(
                MeasurementRow(
                    experiment_id, feature.dictionary, feature.index, number, text, list(m.tokens), list(m.values), _peak(m),
                    _peak(m) >= threshold, now,
                )
                for number, (text, m) in enumerate(zip(edit.texts, measured, strict=True))
            )
        )  # fmt: skip
        self.done[experiment_id] = self._majority([_peak(m) for m in measured])
        return self.done[experiment_id]

    def _majority(self, maxima: Sequence[float]) -> bool:
        return float(np.mean([m >= self.record.threshold for m in maxima])) > 0.5


def _peak(measured: Activations) -> float:
    """The highest activation among the tokens that predictions are about."""
    return max(measured.values[:WINDOW], default=0.0)


def p_majority(each: Sequence[float]) -> float:
    """The probability that more than half of the carriers fire, if they fire independently with these probabilities."""
    fired = np.ones(1)
    for p in each:
        fired = np.convolve(fired, [1 - p, p])
    return float(fired[len(each) // 2 + 1 :].sum())


def firing_windows(record: FeatureRecord, split: Split, size: int) -> list[Base]:
    """Up to `size` firing windows of the uniform sample (else of the top), most frequent peak token first, by document."""
    sample = record.exemplars[split]
    maximum = sample.activations.max(1, initial=0)
    firing = np.flatnonzero(maximum >= record.threshold)
    order = sorted(firing.tolist(), key=lambda i: (sample.stratum[i] == "top", int(sample.windows.window_id[i])))
    peaks = sample.activations.argmax(1)
    tokens = {i: int(sample.windows.ids[i, sample.windows.start + peaks[i]]) for i in order}
    often: dict[int, int] = {}
    for token in tokens.values():
        often[token] = often.get(token, 0) + 1
    order.sort(key=lambda i: -often[tokens[i]])  # stable
    chosen: list[int] = []
    for i in [*_first_of_each(order, sample.windows.document), *order]:
        if i not in chosen and len(chosen) < size:
            chosen.append(i)
    out = []
    for i in chosen:
        ids = sample.windows.ids[i, sample.windows.scored]
        kept = ids[ids != PAD]
        out.append(Base(tuple(int(t) for t in kept), int(peaks[i]), int(sample.windows.window_id[i])))
    return out


def _first_of_each(order: Sequence[int], document: Ints) -> list[int]:
    seen: set[int] = set()
    return [i for i in order if not (int(document[i]) in seen or seen.add(int(document[i])))]  # type: ignore[func-returns-value]


def as_windows(texts: Sequence[Sequence[int]]) -> Windows:
    """Measured texts as windows without margins, cut to the scored width; longer ones keep their first tokens."""
    ids = np.full((len(texts), 2 * MARGIN + WINDOW), PAD, np.int32)
    for row, tokens in enumerate(texts):
        kept = tokens[:WINDOW]
        ids[row, MARGIN : MARGIN + len(kept)] = kept
    return Windows(ids, np.arange(len(texts), dtype=np.int32), MARGIN, np.full(len(texts), -1, np.int64))
