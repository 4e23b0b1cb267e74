"""Embeddings of labels and windows, each made once for a whole run of the scorer `embedding`, in bounded memory.

Background windows are embedded at the start, for all features; exemplars and labels when a batch of features needs
them. Labels are kept: any of them may be tried on any feature of its density stratum. Of exemplars so many are kept as
the config says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from glossator.agents.run import Run
from glossator.config import EmbeddingConfig
from glossator.scorers.embedding import EmbeddingScene, Pool, pool_of
from glossator.types import Floats, Ints, Split

SPLITS_READ: tuple[Split, ...] = ("select", "test")
_TEXTS = 4096  # that the encoder is given at once: fewer would leave more rows of its batches empty


class Encoder(Protocol):
    """harness/embedder.py, or a double."""

    @property
    def name(self) -> str: ...
    def has_weights(self, stored: str) -> bool: ...
    def __call__(self, texts: Sequence[str]) -> Floats: ...


class Vectors:
    """`know` labels and `read` the windows of scenes, then `cosines` of both."""

    def __init__(self, run: Run, encoder: Encoder, config: EmbeddingConfig) -> None:
        self.run, self.encoder, self.config = run, encoder, config
        self.pools: dict[Split, Pool] = {}
        self._behind: dict[Split, Floats] = {}
        for split in SPLITS_READ:
            self.pools[split] = pool_of(run.behind[split].windows, config.background)
            self._behind[split] = self._windows(self.pools[split].windows.ids, f"embed {split} windows")
        self._exemplars: dict[int, Floats] = {}
        self._labels: dict[str, Floats] = {}

    def know(self, labels: Iterable[str]) -> None:
        """Embed the labels that are not known yet."""
        if new := sorted(set(labels) - self._labels.keys()):
            self._labels |= dict(zip(new, self._embed(new, "embed labels"), strict=True))

    def read(self, scenes: Sequence[EmbeddingScene]) -> None:
        """Embed the exemplars of these scenes that are not known yet; forget the others where they are too many."""
        ids: dict[int, Ints] = {}
        for windows in (scene.extra.windows for scene in scenes):
            ids |= dict(zip(windows.window_id.tolist(), windows.ids, strict=True))
        if len(ids.keys() | self._exemplars.keys()) > self.config.cached:
            self._exemplars = {window: row for window, row in self._exemplars.items() if window in ids}
        if new := sorted(ids.keys() - self._exemplars.keys()):
            found = self._windows(np.stack([ids[window] for window in new]), "embed exemplars")
            self._exemplars |= dict(zip(new, found, strict=True))

    def cosines(self, scene: EmbeddingScene, split: Split, labels: Sequence[str]) -> Floats:
        """[labels, n] of labels that are known with the windows of a scene that was read."""
        if not labels:
            return np.empty((0, len(scene.place)), np.float32)
        mine = np.stack([self._labels[text] for text in labels])
        parts = [mine @ self._behind[split].T]
        if len(scene.extra.windows):
            parts.append(mine @ np.stack([self._exemplars[w] for w in scene.extra.windows.window_id.tolist()]).T)
        return np.asarray(np.concatenate(parts, axis=1)[:, scene.place])

    def _windows(self, ids: Ints, what: str) -> Floats:
        """Of the text of their own 32 tokens."""
        scored, vocabulary = self.run.behind["test"].windows.scored, self.run.lexicon.vocabulary
        return self._embed([vocabulary.join(row.tolist()) for row in ids[:, scored]], what)

    def _embed(self, texts: Sequence[str], what: str) -> Floats:
        parts = []
        for begin in range(0, len(texts), _TEXTS):
            self.run.progress(what, begin, len(texts))
            parts.append(self.encoder(texts[begin : begin + _TEXTS]))
        self.run.progress(what, len(texts), len(texts))
        return np.concatenate(parts) if parts else self.encoder([])
