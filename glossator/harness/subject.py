"""The studied model at one hook point: tokens in, activations [rows, width, d] out.

Any Hugging Face encoder or decoder, from a folder or by name, hooked at a module path. The forward pass is cut off
right after the hook, so later layers cost nothing. Shapes are canonical: floating point is not batch-invariant, so a
batch always has the same number of rows for its width, padded on the right with rows of nothing.
It does not train, generate or intervene.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from glossator.errors import SubjectError
from glossator.types import Ints, Vocabulary


@dataclass(frozen=True)
class TokenBatch:
    """ids, attention [rows, width] int64; content [rows, width] bool is False on special tokens and padding.

    row_context [rows]: the index of each row's sequence, -1 for a row that only fills the shape.
    """

    ids: Tensor
    attention: Tensor
    content: Tensor
    row_context: Ints
    prefix: int


class Subject(Protocol):
    """What the harvest and the measurer need of a model."""

    name: str
    hook: str
    d_hook: int
    context_size: int  # tokens a forward pass reads, special tokens included
    causal: bool
    vocabulary: Vocabulary
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]: ...

    def activations(self, batch: TokenBatch) -> Tensor: ...

    def embeddings(self) -> Tensor: ...

    def identity(self) -> dict[str, Any]: ...


class _CutOff(Exception):
    """Raised inside the forward pass once the hook has what it came for."""


class HFSubject:
    """A transformers model with a forward hook. Raises SubjectError where model or hook do not exist."""

    def __init__(
        self, model: str | Path, hook: str, *, context_size: int = 256, device: str = "cpu", name: str | None = None
    ) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        local = Path(model).is_dir()  # a folder needs no hub
        try:
            config = AutoConfig.from_pretrained(str(model), local_files_only=local)
            self._tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=local)
            self._model = (
                AutoModel.from_pretrained(str(model), local_files_only=local).eval().requires_grad_(False).to(device)
            )
        except (OSError, ValueError) as error:
            raise SubjectError(
                f"{model}: no such model folder or hub name ({str(error).splitlines()[0][:160]})"
            ) from error
        self.name, self.hook, self.device = name or (Path(model).name if local else str(model)), hook, device
        self.path = str(model)
        self._module = self._find(hook)
        self.context_size = min(context_size, int(getattr(config, "max_position_embeddings", context_size)))
        self.prefix, self.suffix = self._special_frame()
        self.vocabulary = _vocabulary(self._tokenizer)
        self._caught: list[Tensor] = []
        self._module.register_forward_hook(self._catch)
        self.d_hook = self._width()
        self.causal = self._is_causal()

    def _find(self, hook: str) -> torch.nn.Module:
        modules: dict[str, torch.nn.Module] = dict(self._model.named_modules())
        if hook and hook in modules:
            return modules[hook]
        stripped = {
            f"{prefix}{name}": module for name, module in modules.items() for prefix in ("model.", "transformer.")
        }
        if hook in stripped:  # AutoModel drops the head and with it the first step of the path
            return stripped[hook]
        near = difflib.get_close_matches(hook, list(modules), n=4, cutoff=0.3)
        raise SubjectError(f"hook {hook!r}: no such module in {self.name}; nearest: {', '.join(near) or 'none'}")

    def _catch(self, _module: torch.nn.Module, _inputs: object, output: object) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if not isinstance(value, Tensor):
            raise SubjectError(
                f"hook {self.hook!r}: the module returns {type(value).__name__}, not a tensor; hook a layer"
            )
        self._caught.append(value)
        raise _CutOff

    def _special_frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that the tokenizer puts before and after a text."""
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self._tokenizer("a")["input_ids"]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start]), tuple(full[start + len(bare) :])
        return (), ()

    def _width(self) -> int:
        batch = next(iter(batches([[self.vocabulary_token()]], self, batch_tokens=512)))
        out = self.activations(batch)
        if out.ndim != 3:
            raise SubjectError(f"hook {self.hook!r}: gives {tuple(out.shape)}, not [rows, tokens, width]; hook a layer")
        return int(out.shape[-1])

    def _is_causal(self) -> bool:
        """Whether a token is the same whatever comes after it. Measured: names of classes and configs do not say."""
        known = self._model.get_input_embeddings().weight.shape[0]  # a tokenizer may have grown past its model
        tokens = np.flatnonzero(~self.vocabulary.special[:known])
        first, *others = tokens[np.linspace(0, len(tokens) - 1, 9).astype(int)].tolist()
        found = []
        for rest in (others[:4], others[4:]):
            batch = next(iter(batches([[first, *rest]], self, batch_tokens=512)))
            found.append(self.activations(batch)[0, batch.prefix])
        return torch.equal(*found)

    def vocabulary_token(self) -> int:
        return int(np.flatnonzero(~self.vocabulary.special)[0])

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids without special tokens. Text that spells a special token is read as text that is masked later."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    @torch.inference_mode()
    def activations(self, batch: TokenBatch) -> Tensor:
        """[rows, width, d_hook] in the model's own dtype."""
        self._caught.clear()
        try:
            self._model(input_ids=batch.ids.to(self.device), attention_mask=batch.attention.to(self.device))
        except _CutOff:
            return self._caught.pop()
        raise SubjectError(f"hook {self.hook!r}: the forward pass never reached this module")

    def embeddings(self) -> Tensor:
        """[V, d] input embeddings, for finding a token's nearest neighbours."""
        weight: Tensor = self._model.get_input_embeddings().weight
        return weight.detach().float().cpu()

    def identity(self) -> dict[str, Any]:
        """What makes two subjects the same: weights (hashed in part), hook, dtype, context."""
        digest = hashlib.blake2b(digest_size=8)
        for name, parameter in self._model.named_parameters():
            digest.update(name.encode() + parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
        dtype = str(next(self._model.parameters()).dtype).removeprefix("torch.")
        return {
            "model": self.name,
            "path": self.path,
            "class": type(self._model).__name__,
            "hook": self.hook,
            "dtype": dtype,
            "context_size": self.context_size,
            "weights": digest.hexdigest(),
        }


def _vocabulary(tokenizer: Any) -> Vocabulary:
    """Pieces as text: WordPiece marks continuations with ##, byte-level BPE and SentencePiece mark beginnings."""
    size = max(tokenizer.get_vocab().values()) + 1
    raw = tokenizer.convert_ids_to_tokens(list(range(size)))
    raw = ["" if piece is None else str(piece) for piece in raw]
    special = set(tokenizer.all_special_ids)
    count = {mark: sum(p.startswith(mark) for p in raw) for mark in ("##", "Ġ", "▁")}
    common = max(
        count, key=lambda mark: count[mark]
    )  # every convention's marks may stand alone in another's vocabulary
    marks = common if common != "##" and count[common] else None
    pieces, starts = [], []
    for token, piece in enumerate(raw):
        if token in special:
            pieces.append(piece)
            starts.append(True)
        elif marks is None:
            continues = piece.startswith("##") and len(piece) > 2
            pieces.append(piece[2:] if continues else piece)
            starts.append(not continues)
        else:
            text = tokenizer.decode([token])
            pieces.append(text.strip() or text.replace("\n", "\\n") or piece)
            starts.append(piece.startswith(marks) or text[:1].isspace())
    return Vocabulary.build(pieces, starts, [t in special for t in range(size)])


def check_device(device: str) -> None:
    """Raise SubjectError for a device that this machine or this build of torch lacks."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise SubjectError(f"--device {device}: not to be had here ({str(error).splitlines()[0][:120]})") from error


def bucket_widths(context_size: int) -> tuple[int, ...]:
    """The widths that a forward pass may have, up to the context: finer where most windows and edits lie."""
    widths = [w for w in (16, 24, 32, 40, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096) if w < context_size]
    return (*widths, context_size)


def batches(sequences: Sequence[Sequence[int] | Ints], subject: Subject, *, batch_tokens: int) -> Iterator[TokenBatch]:
    """Canonical batches of content sequences: by width, `batch_tokens // width` rows each, the last one filled up.

    Each sequence must fit the context with its special tokens. The order within a width is kept.
    """
    frame = len(subject.prefix) + len(subject.suffix)
    widths = bucket_widths(subject.context_size)
    lengths = np.asarray([len(s) + frame for s in sequences])
    if len(lengths) and lengths.max() > subject.context_size:
        raise SubjectError(
            f"a text of {lengths.max()} tokens does not fit the context of {subject.context_size}; shorten it"
        )
    chosen = np.searchsorted(widths, lengths)
    for number, width in enumerate(widths):
        members = np.flatnonzero(chosen == number)
        rows = max(1, batch_tokens // width)
        for begin in range(0, len(members), rows):
            yield _batch(sequences, members[begin : begin + rows], rows, width, subject)


def _batch(
    sequences: Sequence[Sequence[int] | Ints], members: Ints, rows: int, width: int, subject: Subject
) -> TokenBatch:
    prefix, suffix = list(subject.prefix), list(subject.suffix)
    ids = np.zeros((rows, width), np.int64)
    attention = np.zeros((rows, width), np.int64)
    content = np.zeros((rows, width), bool)
    attention[:, 0] = 1  # a row of nothing still needs one token to attend to
    for row, member in enumerate(members):
        sequence = sequences[member]
        n = len(sequence)
        full = len(prefix) + n + len(suffix)
        ids[row, :full] = [*prefix, *sequence, *suffix]
        attention[row, :full] = 1
        content[row, len(prefix) : len(prefix) + n] = True
    content &= ~subject.vocabulary.special[ids]
    row_context = np.full(rows, -1, np.int64)
    row_context[: len(members)] = members
    return TokenBatch(
        torch.from_numpy(ids),
        torch.from_numpy(attention),
        torch.from_numpy(content),
        row_context,
        len(prefix),
    )
