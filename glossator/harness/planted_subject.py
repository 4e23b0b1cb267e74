"""The shipped doubles of the harness: a subject whose activations are the planted features, their dictionary.

Exact and deterministic: small whole numbers that float32 holds, whatever the batch they are computed in, so a
harvest can be compared with a computation by hand, to the bit. Words that the planted vocabulary lacks become
[UNK], which is masked like every special token. Only ids and attention are read, so wrong padding shows.

Of features that say which words trigger them only those are asked that a context holds: two hundred cost little more
than a dozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glossator.errors import SubjectError
from glossator.harness.dictionary import nonzero
from glossator.harness.subject import TokenBatch
from glossator.planted import PlantedFeature, planted_features, planted_tokens, planted_vocabulary
from glossator.types import Vocabulary

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_HOOKS = ("planted", "planted:reversed")
_LEAN, _LEAN_BY_CHANCE = 0.5, 0.3


class PlantedSubject:
    """A `Subject`: coordinate i of a token is the activation of planted feature i there.

    Its hooks are `planted` and `planted:reversed`, which gives the same with the coordinates in reverse order.
    """

    name = "planted"
    causal = False

    def __init__(
        self,
        features: Sequence[PlantedFeature] | None = None,
        *,
        context_size: int = 128,
        hooks: Sequence[str] = ("planted",),
        vocabulary: Sequence[str] | None = None,
    ) -> None:
        """`vocabulary`: the words that it knows; those of `planted_documents` if not given."""
        unknown = [hook for hook in hooks if hook not in _HOOKS]
        if unknown or not hooks:
            raise SubjectError(f"hook {', '.join(unknown) or 'none'}: the planted subject has {' and '.join(_HOOKS)}")
        self.features = planted_features() if features is None else tuple(features)
        self.hooks, self.hook = tuple(hooks), hooks[0]
        self.d_hook = len(self.features)
        self.widths = dict.fromkeys(self.hooks, self.d_hook)
        self.context_size = context_size
        pieces = (*_SPECIAL, *(planted_vocabulary() if vocabulary is None else vocabulary))
        self.vocabulary = Vocabulary.build(
            pieces, [True] * len(pieces), [i < len(_SPECIAL) for i in range(len(pieces))]
        )
        self._ids = {piece: i for i, piece in enumerate(pieces)}
        self.prefix: tuple[int, ...] = (self._ids["[CLS]"],)
        self.suffix: tuple[int, ...] = (self._ids["[SEP]"],)
        self._always = [i for i, feature in enumerate(self.features) if feature.triggers is None]
        self._by_word: dict[str, list[int]] = {}
        for i, feature in enumerate(self.features):
            for word in feature.triggers or ():
                self._by_word.setdefault(word, []).append(i)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the words; a spelled special token keeps its id and is masked later."""
        unknown = self._ids["[UNK]"]
        return [[self._ids.get(token, unknown) for token in planted_tokens(text)] for text in texts]

    def read(self, batch: TokenBatch) -> dict[str, Tensor]:
        """{hook: [rows, width, n_planted]} float32, zero outside of the text between [CLS] and [SEP]."""
        values = self._planted(batch)
        return {hook: values.flip(-1) if hook.endswith(":reversed") else values for hook in self.widths}

    def activations(self, batch: TokenBatch) -> Tensor:
        """[rows, width, n_planted] at the first hook."""
        return self.read(batch)[self.hook]

    def _planted(self, batch: TokenBatch) -> Tensor:
        rows, width = batch.ids.shape
        out = torch.zeros(rows, width, self.d_hook)
        ends = batch.attention.sum(1) - len(self.suffix)
        for row, (ids, end) in enumerate(zip(batch.ids.tolist(), ends.tolist(), strict=True)):
            tokens = [self.vocabulary.pieces[i] for i in ids[len(self.prefix) : max(end, 0)]]
            if tokens and (able := self._able(tokens)):
                columns = [self.features[i].activation(tokens) for i in able]
                out[row, len(self.prefix) : end, able] = torch.tensor(columns, dtype=torch.float32).T
        return out

    def _able(self, tokens: Sequence[str]) -> list[int]:
        """The features that these tokens may move."""
        return sorted({*self._always, *(i for word in set(tokens) for i in self._by_word.get(word, ()))})

    def embeddings(self) -> Tensor:
        """[V, n_planted + V]: words that move the same features lie near each other."""
        alone = torch.zeros(len(self.vocabulary), self.d_hook)
        for row, piece in enumerate(self.vocabulary.pieces):
            for i in self._able([piece]):
                alone[row, i] = self.features[i].activation([piece])[0]
        return torch.cat([alone, torch.eye(len(self.vocabulary))], 1)

    def unembedding(self) -> Tensor | None:
        """None: it predicts no tokens."""
        return None

    def output_weights(self, hook: str) -> Tensor | None:
        """None: it has no weights."""
        return None

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "hook": self.hook,
            "hooks": list(self.hooks),
            "features": [f"{feature.name}: {feature.description}" for feature in self.features],
            "context_size": self.context_size,
        }


class PlantedDictionary:
    """A `Dictionary` that is the identity: its feature i is planted feature i, at any hook of the planted subject.

    Of `features` that have neighbours the directions lean towards them, and a little towards others by chance, as those of
    a trained dictionary do; nothing else is made of the directions than a list of neighbours.
    """

    hook_out: str | None = None
    signed = False
    expected_l0: float | None = None

    def __init__(
        self,
        n_features: int | None = None,
        *,
        name: str = "planted",
        hook: str = "planted",
        features: Sequence[PlantedFeature] = (),
    ) -> None:
        self.n_features = self.d_in = n_features or len(features) or len(planted_features())
        self.name, self.hook = name, hook
        self._place = {feature.name: i for i, feature in enumerate(features)}
        self._near = [(i, f.neighbour) for i, f in enumerate(features) if f.neighbour is not None]

    def encode(self, activations: Tensor) -> Tensor:
        """[tokens, n] -> the same."""
        return activations

    def active(self, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """token, feature and value of what `encode` gives, where it is not zero."""
        return nonzero(self.encode(activations))

    def decode(self, features: Tensor, activations: Tensor) -> Tensor:
        return features

    def directions(self) -> Tensor:
        found = torch.eye(self.n_features)
        if self._near:
            draw = torch.Generator().manual_seed(self.n_features)
            found += _LEAN_BY_CHANCE * torch.randn(found.shape, generator=draw) / self.n_features**0.5
        for i, neighbour in self._near:
            found[i, self._place[neighbour]] += _LEAN
        return found

    def identity(self) -> dict[str, Any]:
        return {
            "dictionary": self.name,
            "source": "planted",
            "architecture": "identity",
            "n_features": self.n_features,
            "d_in": self.d_in,
            "hook": self.hook,
            "stated": {"variance_explained": 1.0},
        }
