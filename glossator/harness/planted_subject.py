"""The shipped doubles of the harness: a subject whose activations are the planted features, their dictionary.

Exact and deterministic: small whole numbers that float32 holds, whatever the batch they are computed in, so a
harvest can be compared with a computation by hand, to the bit. Words that the planted vocabulary lacks become
[UNK], which is masked like every special token. Only ids and attention are read, so wrong padding shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glossator.harness.subject import TokenBatch
from glossator.planted import PlantedFeature, planted_features, planted_tokens, planted_vocabulary
from glossator.types import Vocabulary

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class PlantedSubject:
    """A `Subject`: coordinate i of a token is the activation of planted feature i there."""

    name = "planted"
    hook = "planted"
    causal = False

    def __init__(self, features: Sequence[PlantedFeature] | None = None, *, context_size: int = 128) -> None:
        self.features = planted_features() if features is None else tuple(features)
        self.d_hook = len(self.features)
        self.context_size = context_size
        pieces = (*_SPECIAL, *planted_vocabulary())
        self.vocabulary = Vocabulary.build(
            pieces, [True] * len(pieces), [i < len(_SPECIAL) for i in range(len(pieces))]
        )
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self.prefix = (self._ids["[CLS]"],)
        self.suffix = (self._ids["[SEP]"],)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the words; a spelled special token keeps its id and is masked later."""
        unknown = self._ids["[UNK]"]
        return [[self._ids.get(token, unknown) for token in planted_tokens(text)] for text in texts]

    def activations(self, batch: TokenBatch) -> Tensor:
        """[rows, width, n_planted] float32, zero outside of the text between [CLS] and [SEP]."""
        rows, width = batch.ids.shape
        out = torch.zeros(rows, width, self.d_hook)
        ends = batch.attention.sum(1) - len(self.suffix)
        for row, (ids, end) in enumerate(zip(batch.ids.tolist(), ends.tolist(), strict=True)):
            tokens = [self.vocabulary.pieces[i] for i in ids[len(self.prefix) : max(end, 0)]]
            if tokens:
                columns = [feature.activation(tokens) for feature in self.features]
                out[row, len(self.prefix) : end] = torch.tensor(columns, dtype=torch.float32).T
        return out

    def embeddings(self) -> Tensor:
        """[V, n_planted + V]: words that move the same features lie near each other."""
        alone = torch.tensor(
            [[feature.activation([piece])[0] for feature in self.features] for piece in self.vocabulary.pieces]
        )
        return torch.cat([alone.reshape(len(self.vocabulary), -1), torch.eye(len(self.vocabulary))], 1)

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "hook": self.hook,
            "features": [f"{feature.name}: {feature.description}" for feature in self.features],
            "context_size": self.context_size,
        }


class PlantedDictionary:
    """A `Dictionary` that is the identity: its feature i is planted feature i."""

    name = "planted"

    def __init__(self, n_features: int | None = None) -> None:
        self.n_features = self.d_in = len(planted_features()) if n_features is None else n_features

    def encode(self, activations: Tensor) -> Tensor:
        """[tokens, n] -> the same."""
        return activations

    def decode(self, features: Tensor) -> Tensor:
        return features

    def directions(self) -> Tensor:
        return torch.eye(self.n_features)

    def identity(self) -> dict[str, Any]:
        return {
            "dictionary": self.name,
            "source": "planted",
            "architecture": "identity",
            "n_features": self.n_features,
            "d_in": self.d_in,
            "stated": {"variance_explained": 1.0},
        }
