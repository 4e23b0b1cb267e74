"""A subject with the weights that it had before any training, read beside the trained one in the same pass.

The control that asks how much of a score comes from the text and the architecture alone (Heap et al. 2025, arXiv
2501.17727). Every parameter is drawn anew by the model's own initialisation (transformers' `_init_weights`), from a fixed
seed: the embeddings too, and norms start at one, biases at zero. The tokenizer and the shape stay. Nothing is rescaled to
the sizes of the trained weights or activations: dictionaries of it are made for its own.

A hook of it is written as the trained model's with `reinitialised:` before it, wherever a hook is written; one corpus, one
tokenizer and one pass serve both. What does not belong to one hook (embeddings, whether it is causal) is the trained model's.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from glossator.harness.subject import HFSubject, Subject, TokenBatch

PREFIX = "reinitialised:"
SEED = 5021  # one that no model was begun with: those are 0, 1, 42, 1234


class ReinitialisedSubject(HFSubject):
    """A subject like `trained`, watched at no hook yet, with weights that no text has touched."""

    def __init__(self, trained: HFSubject, seed: int = SEED) -> None:
        from transformers import AutoModel

        self.__dict__ |= {name: value for name, value in vars(trained).items() if name != "_weights"}  # a cached hash
        self.seed = seed
        first = next(trained._model.parameters())
        with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU: the same wherever it runs then
            torch.manual_seed(seed)
            made = AutoModel.from_config(copy.deepcopy(trained._model.config), dtype=first.dtype)
        self._model = made.eval().requires_grad_(False).to(first.device)
        self._made_up = frozenset()
        self.hooks, self.hook, self.widths, self.d_hook, self.causal = (), "", {}, 0, False
        self._handles, self._caught, self._overwritten = [], {}, set()

    def unembedding(self) -> Tensor | None:
        """None: an untied head is not part of what was initialised."""
        return None

    def identity(self) -> dict[str, Any]:
        """The trained model's, but for the weights, and `reinitialised` holds the seed."""
        return super().identity() | {"reinitialised": self.seed}


class Twins:
    """A subject and its re-initialised twin as one `Subject`: `read` gives the hooks of both, each from its own pass.

    A twin without hooks is not run.
    """

    def __init__(self, trained: HFSubject) -> None:
        self.trained, self.twin = trained, ReinitialisedSubject(trained)
        self.name, self.vocabulary, self.context_size = trained.name, trained.vocabulary, trained.context_size
        self.prefix, self.suffix = trained.prefix, trained.suffix
        self.hooks: tuple[str, ...] = ()
        self.hook, self.widths, self.d_hook, self.causal = "", dict[str, int](), 0, False

    def watch(self, hooks: str | Sequence[str]) -> None:
        """Read these hooks from now on, in this order; those that begin with `reinitialised:` in the twin."""
        asked = [hooks] if isinstance(hooks, str) else list(hooks)
        here = [hook for hook in asked if not is_reinitialised(hook)]
        there = [hook.removeprefix(PREFIX) for hook in asked if is_reinitialised(hook)]
        if here:
            self.trained.watch(here)
        if there:
            self.twin.watch(there)
        paths = iter(self.trained.hooks if here else ()), iter(self.twin.hooks if there else ())
        self.hooks = tuple(PREFIX + next(paths[1]) if is_reinitialised(hook) else next(paths[0]) for hook in asked)
        self.hook = self.hooks[0]
        self.widths = dict(self.trained.widths) | {PREFIX + path: n for path, n in self.twin.widths.items()}
        self.d_hook = self.widths[self.hook]
        self.causal = self.trained.causal if here else self.twin.causal

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        return self.trained.tokenize(texts)

    def read(self, batch: TokenBatch) -> dict[str, Tensor]:
        """{hook: [rows, width, d]}, in two forward passes where both are watched."""
        found = self.trained.read(batch) if self.trained.hooks else {}
        if self.twin.hooks:
            found |= {PREFIX + path: values for path, values in self.twin.read(batch).items()}
        return found

    def activations(self, batch: TokenBatch) -> Tensor:
        return self.read(batch)[self.hook]

    def embeddings(self) -> Tensor:
        return self.trained.embeddings()

    def unembedding(self) -> Tensor | None:
        return self.trained.unembedding()

    def output_weights(self, hook: str) -> Tensor | None:
        return (self.twin if is_reinitialised(hook) else self.trained).output_weights(hook.removeprefix(PREFIX))

    def identity(self) -> dict[str, Any]:
        """The trained model's, and the twin's seed and weights."""
        twin = {name: self.twin.identity()[name] for name in ("reinitialised", "weights")}
        return self.trained.identity() | {"hooks": list(self.hooks), "reinitialised": twin}


def is_reinitialised(hook: str) -> bool:
    return hook.startswith(PREFIX)


@overload
def read_by(subject: HFSubject | Twins, hook: str) -> HFSubject: ...


@overload
def read_by(subject: Subject, hook: str) -> Subject: ...


def read_by(subject: Subject, hook: str) -> Subject:
    """The one model that gives a hook, where `subject` may stand for two."""
    if not isinstance(subject, Twins):
        return subject
    return subject.twin if is_reinitialised(hook) else subject.trained
