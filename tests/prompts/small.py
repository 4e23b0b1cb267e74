"""Small records made by hand: a few windows of words, each a token of its own, with their activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from glossator.types import MARGIN, PAD, WINDOW, FeatureId, FeatureRecord, Sample, Vocabulary, Windows

Part = Sequence[str | tuple[str, float]]


class Words:
    """A vocabulary that learns every piece it is given. A piece that begins with ## continues a word."""

    def __init__(self) -> None:
        self.names = ["[CLS]"]

    def id(self, name: str) -> int:
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    @property
    def vocabulary(self) -> Vocabulary:
        starts = [not name.startswith("##") for name in self.names]
        return Vocabulary.build([name.removeprefix("##") for name in self.names], starts, [n == "[CLS]" for n in self.names])  # fmt: skip


def sample(words: Words, parts: Sequence[tuple[Part, Part, Part]], *, both_sides: bool = True, **more: Any) -> Sample:
    """Windows as (before, window, after); a pair in a window is a token and its activation."""
    ids = np.full((len(parts), MARGIN + WINDOW + MARGIN * both_sides), PAD, np.int32)
    acts = np.zeros((len(parts), WINDOW), np.float32)
    for row, (before, window, after) in enumerate(parts):
        for first, part in ((MARGIN - len(before), before), (MARGIN, window), (MARGIN + WINDOW, after)):
            for place, token in enumerate(part):
                name, value = (token, 0.0) if isinstance(token, str) else token
                ids[row, first + place] = words.id(name)
                if first == MARGIN:
                    acts[row, place] = value
    n = len(parts)
    windows = Windows(ids, np.arange(n, dtype=np.int32), MARGIN, np.arange(n, dtype=np.int64))
    quantile = np.asarray(more.get("quantile", np.full(n, np.nan)), float)
    return Sample(windows, acts, np.full(n, "sample"), np.ones(n), quantile)


def record(explain: Sample, index: int = 17, **others: Sample) -> FeatureRecord:
    none = np.empty(0, int)
    return FeatureRecord(
        feature=FeatureId("small", index), status="waiting", reason=None, density=0.1, threshold=1.0, max_activation=999.0,
        active_windows=(len(explain.windows), 9, 9), n_windows=(50, 50, 50), token_ids=none, token_counts=none, token_sums=none,
        neighbours=(), exemplars={"explain": explain, **others}, background={},  # type: ignore[arg-type]
    )  # fmt: skip
