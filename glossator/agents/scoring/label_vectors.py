"""Vectors of a run's labels by a sentence encoder, for search by meaning: what has none is embedded and stored, a part at a time.

A run that was stopped goes on where it was: each part is stored in one transaction. Labels of all dictionaries, since
their features are looked for together; labels of others and candidates have no vectors. `Remembering` keeps what the scorer
`embedding` has embedded anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from glossator.agents.run import Progress, silent
from glossator.store.similar import held, keep, lacking
from glossator.store.store import Store
from glossator.types import Floats

_PART = 1024  # texts


class LabelEncoder(Protocol):
    """harness/embedder.py, or a double. identity: a hash of all that shapes its vectors."""

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> str: ...
    def has_weights(self, stored: str) -> bool: ...
    def __call__(self, texts: Sequence[str]) -> Floats: ...


class Remembering:
    """An encoder that remembers the vectors of labels that have none in the store; `keep` puts there what it was asked for."""

    def __init__(self, store: Store, encoder: LabelEncoder) -> None:
        self._store, self._encoder, self.name = store, encoder, encoder.name
        self._wanted = set(lacking(store, encoder.identity))
        self._known: dict[str, Floats] = {}

    def has_weights(self, stored: str) -> bool:
        return self._encoder.has_weights(stored)

    def __call__(self, texts: Sequence[str]) -> Floats:
        found = self._encoder(texts)
        self._known |= {text: row for text, row in zip(texts, found, strict=True) if text in self._wanted}
        return found

    def keep(self) -> None:
        if self._known:
            keep(self._store, self.name, self._encoder.identity, list(self._known), np.stack([*self._known.values()]))


def embed_labels(store: Store, encoder: LabelEncoder, progress: Progress = silent) -> str:
    """Embed the labels that this encoder has not seen. Returns what came of it, in words."""
    todo = lacking(store, encoder.identity)
    for begin in range(0, len(todo), _PART):
        progress("embed labels", begin, len(todo))
        texts = todo[begin : begin + _PART]
        keep(store, encoder.name, encoder.identity, texts, encoder(texts))
    progress("embed labels", len(todo), len(todo))
    n = next((one.n for one in held(store) if one.digest == encoder.identity), 0)
    return f"{n:,} different labels have a vector by {encoder.name}, {len(todo):,} of them new"
