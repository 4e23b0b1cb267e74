"""Fuzzing: tokens are marked in firing windows, half of them truly those on which the feature fires; can a reader of the label tell?

`fuzzing`: AUROC of the told probability that the marks are right, of windows with right marks against windows with wrong
ones, weighted to all firing windows. Every window is shown once. Wrong marks stand on as many tokens of the same window on
which the feature is off, each drawn by a hash from the three that are nearest in frequency to the token that it replaces:
else marks on function words would give themselves away.

Chance level 0.5; a constant answer has it.

Blind spots. All windows fire, so it asks where and never whether: a label that is far too broad passes as long as it does
not cover the other tokens of the same windows, and one that covers what fires elsewhere too is never caught. A label that
names a token passes even where its context decides. Features that fire on every token of their windows have no value.
Right marks may stand side by side where wrong ones do not; a reader could profit from that without the label. On models
with random weights the score was found to be about as high as on trained ones: it needs its nulls beside it.

Source: Paulo et al., "Automatically interpreting millions of features in large language models" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossator.config import LLMScoreConfig
from glossator.scorers.bounds import Measured
from glossator.scorers.rates import draw, measure
from glossator.scorers.reading import few
from glossator.types import WINDOW, Bools, FeatureRecord, Floats, Ints, Split, Vocabulary, Windows, content_id

METRICS = ("fuzzing",)
_CHOICES = 3  # tokens of about the same frequency among which a hash decides


@dataclass(frozen=True)
class FuzzingScene:
    """Firing windows of one feature and split, marked once for all labels. marked [n, WINDOW], right and weight [n]."""

    windows: Windows
    marked: Bools
    right: Bools
    weight: Floats


def fuzzing_scene(
    record: FeatureRecord, split: Split, vocabulary: Vocabulary, counts: Ints, config: LLMScoreConfig
) -> FuzzingScene | str:
    """Or why there is none. counts [V]: how often each token stands in the corpus."""
    active = record.exemplars.get(split)
    if active is None or not len(active.windows):
        return f"never active in the split {split}"
    ids = active.windows.ids[:, active.windows.scored]
    text = active.windows.mask & ~vocabulary.special[ids]
    fires, off = text & (active.activations >= record.threshold), text & ~(active.activations > 0)
    usable = np.flatnonzero(fires.any(1) & off.any(1))
    if len(usable) < 2:
        return f"fewer than two windows of the split {split} in which some tokens fire and others are off"
    sample = few(active.take(usable), config.fuzzed, config.seed)
    at = {int(w): int(i) for w, i in zip(active.windows.window_id[usable], usable, strict=True)}
    rows = [at[int(w)] for w in sample.windows.window_id]
    keys = [content_id("marks", config.seed, row.tolist()) for row in sample.windows.ids]
    right = np.zeros(len(rows), bool)
    right[sorted(range(len(keys)), key=lambda i: keys[i])[::2]] = True
    marked = np.zeros((len(rows), WINDOW), bool)
    for i, row in enumerate(rows):
        true = np.flatnonzero(fires[row])
        true = true[np.argsort(-active.activations[row][true], kind="stable")][: int(off[row].sum())]
        marked[i, true if right[i] else _others(true, np.flatnonzero(off[row]), ids[row], counts, keys[i])] = True
    return FuzzingScene(sample.windows, marked, right, sample.weight)


def _others(true: Ints, off: Ints, ids: Ints, counts: Ints, key: str) -> list[int]:
    """For each true place another one that is off, of like frequency, none twice. `off` must be at least as many."""
    left = off.tolist()
    found = []
    for place in true.tolist():
        gap = np.abs(np.log1p(counts[ids[left]]) - np.log1p(counts[ids[place]]))
        near = np.argsort(gap, kind="stable")[:_CHOICES]
        found.append(left.pop(int(near[int(content_id(key, place), 16) % len(near)])))
    return found


def fuzzing(scene: FuzzingScene, p: Floats, draws: int, seed: int) -> dict[str, Measured]:
    """p [n]: the probability that the marks of each window are right."""
    document = scene.windows.document
    return {
        "fuzzing": measure(p, scene.right, scene.weight, document, draw(document, draws, seed), ("auroc",))["auroc"]
    }
