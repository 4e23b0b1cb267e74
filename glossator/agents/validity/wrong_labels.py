"""The labels that scores are tried on: of each planted feature the right one, and wrong ones by what is wrong with them.

The right one names the feature's truth in words. Of the wrong ones some are almost right (narrower, broader, a clause
missing or added), some are the right label of another feature (a neighbour that shares words with it; one that fires in
the same windows, on other tokens; one that has nothing to do with it), and one is empty.

`Executed` is the reader that errs in nothing: it does what a label says, to the letter. So it shows what a score can see
when no reader stands between. Its scores are a rule's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glossator.planted import Activation, PlantedFeature
from glossator.scorers.validity import RIGHT
from glossator.types import MAX_STRENGTH, PAD, WINDOW, Floats, Vocabulary, Windows

_CLAUSES = {"missing": "missing clause", "extra": "extra clause"}


@dataclass(frozen=True)
class TriedLabel:
    """meaning: what the text would make a feature do; None of an empty label. of: whose right label it is, of others."""

    fault: str
    description: str
    meaning: Activation | None
    of: int | None = None

    @property
    def text(self) -> str:
        return f"Fires on {self.description}." if self.description else ""


def labels_tried(features: Sequence[PlantedFeature], index: int) -> dict[str, TriedLabel]:
    """By fault, the right one first."""
    feature = features[index]
    place = {one.name: i for i, one in enumerate(features)}
    found = [TriedLabel(RIGHT, feature.description, feature.activation, index)]
    for name, nearly in feature.almost.items():
        found.append(TriedLabel(_CLAUSES.get(name, name), nearly.description, nearly.activation))
    for fault, other in (
        ("neighbour", place[str(feature.neighbour)]),
        ("correlated", place[str(feature.correlated)]),
        ("unrelated", unrelated(features, index)),
    ):
        found.append(TriedLabel(fault, features[other].description, features[other].activation, other))
    found.append(TriedLabel("empty", "", None))
    return {one.fault: one for one in found}


def unrelated(features: Sequence[PlantedFeature], index: int) -> int:
    """Another feature, of another kind, that shares nothing with this one by design."""
    mine = features[index]
    n = len(features)
    for step in range(n // 2 + 7, n // 2 + 7 + n):
        other = features[(index + step) % n]
        if other.kind != mine.kind and other.name not in (mine.name, mine.neighbour, mine.correlated):
            return (index + step) % n
    raise ValueError(f"{mine.name}: all {n} features are related to it")


class Executed:
    """Labels done to the letter. `background`: windows that many features are scored on, read once for each label."""

    def __init__(self, vocabulary: Vocabulary, background: Windows) -> None:
        self.vocabulary = vocabulary
        self._background = [self._tokens(ids, background.start) for ids in background.ids.tolist()]
        self._kept: dict[str, Floats] = {}

    def strengths(self, label: TriedLabel, windows: Windows) -> Floats:
        """[n, WINDOW], the largest one 10."""
        found = self._read(label, [self._tokens(ids, windows.start) for ids in windows.ids.tolist()])
        return np.asarray(found * MAX_STRENGTH / max(found.max(initial=0.0), 1e-9))

    def fires(self, label: TriedLabel, windows: Windows) -> Floats:
        """[n] 1 or 0."""
        return np.asarray(self.strengths(label, windows).any(1), float)

    def fires_in_background(self, label: TriedLabel) -> Floats:
        """[n] of all windows of the background."""
        if label.description not in self._kept:
            self._kept[label.description] = self._read(label, self._background).any(1).astype(float)
        return self._kept[label.description]

    def _tokens(self, ids: Sequence[int], start: int) -> tuple[list[str], list[str]]:
        """What stands before a window, and what stands in it and after it."""
        pieces = self.vocabulary.pieces
        return [pieces[t] for t in ids[:start] if t != PAD], [pieces[t] for t in ids[start:] if t != PAD]

    def _read(self, label: TriedLabel, shown: Sequence[tuple[list[str], list[str]]]) -> Floats:
        out = np.zeros((len(shown), WINDOW))
        if label.meaning is not None:
            for row, (before, rest) in enumerate(shown):
                told = label.meaning([*before, *rest])[len(before) :][:WINDOW]
                out[row, : len(told)] = told
        return out
