"""The studied model at one or several hook points: tokens in, activations [rows, width, d] of each out.

Any Hugging Face encoder or decoder, from a folder or by name; `hooks` says how a hook point is named. One forward pass
reads all hooks and is cut off right after the last of them, so later layers cost nothing. Shapes are canonical:
floating point is not batch-invariant, so a batch always has the same number of rows for its width, padded on the right
with rows of nothing. It does not train, generate or intervene.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from glossator.errors import SubjectError
from glossator.harness.hooks import INPUT, module_path, split, through_final_norm, weights_after
from glossator.harness.weights import digest_of, fits
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
    hooks: tuple[str, ...]
    hook: str  # the first of them
    widths: dict[str, int]  # dimensions at each hook
    d_hook: int  # at the first
    context_size: int  # tokens a forward pass reads, special tokens included
    causal: bool
    vocabulary: Vocabulary
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]: ...

    def read(self, batch: TokenBatch) -> dict[str, Tensor]: ...

    def activations(self, batch: TokenBatch) -> Tensor: ...

    def embeddings(self) -> Tensor: ...

    def unembedding(self) -> Tensor | None: ...

    def output_weights(self, hook: str) -> Tensor | None: ...

    def identity(self) -> dict[str, Any]: ...


class _CutOff(Exception):
    """Raised inside the forward pass once every hook has what it came for."""


class HFSubject:
    """A transformers model with forward hooks. Raises SubjectError where model or hook do not exist.

    Without hooks it is a model to look at: `watch` must come before anything is read, and until then `hook` is empty,
    `d_hook` 0 and `causal` not known.
    """

    def __init__(
        self,
        model: str | Path,
        hooks: str | Sequence[str],
        *,
        context_size: int = 256,
        device: str = "cpu",
        name: str | None = None,
    ) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        local = Path(model).is_dir()  # a folder needs no hub
        try:
            config = AutoConfig.from_pretrained(str(model), local_files_only=local)
            self._tokenizer = AutoTokenizer.from_pretrained(str(model), local_files_only=local)
            loaded, report = AutoModel.from_pretrained(str(model), local_files_only=local, output_loading_info=True)
            self._model = loaded.eval().requires_grad_(False).to(device)
        except (OSError, ValueError) as error:
            raise SubjectError(
                f"{model}: cannot be loaded; name a model folder, or a hub name while the hub answers ({str(error).splitlines()[0][:160]})"
            ) from error
        self.name, self.path = name or (Path(model).name if local else str(model)), str(model)
        self.device, self._made_up = device, frozenset(report["missing_keys"])  # a pooler, say: random each time
        text = config.get_text_config()  # a model that also sees images keeps the length of its texts one level down
        self.context_size = min(context_size, int(getattr(text, "max_position_embeddings", context_size)))
        self.prefix, self.suffix = self._special_frame()
        self.vocabulary = _vocabulary(self._tokenizer)
        self.hooks: tuple[str, ...] = ()
        self.hook, self.widths, self.d_hook, self.causal = "", dict[str, int](), 0, False
        self._handles: list[RemovableHandle] = []
        self._caught: dict[str, Any] = {}
        self._overwritten: set[str] = set()
        if hooks or isinstance(hooks, str):
            self.watch(hooks)

    def begin_with_bos(self) -> None:
        """Put BOS before every text where the tokenizer puts nothing: many dictionaries were trained so. It is masked as ever."""
        if self.prefix:
            return
        bos = self._tokenizer.bos_token_id
        if bos is None:
            raise SubjectError(f"{self.name}: its tokenizer has no BOS token, with which the dictionary was trained")
        self.prefix = (int(bos),)

    def watch(self, hooks: str | Sequence[str]) -> None:
        """Read these hooks from now on, instead of those before. The same hook may come twice and is caught once."""
        paths = [module_path(h, self._model, self.name) for h in ([hooks] if isinstance(hooks, str) else hooks)]
        if not paths:
            raise SubjectError(f"{self.name}: no hook to watch; give a module path with --hook")
        for handle in self._handles:
            handle.remove()
        self.hooks, self.hook = tuple(paths), paths[0]
        self._handles = [self._register(path) for path in dict.fromkeys(paths)]
        self.widths = self._probe()
        self.d_hook = self.widths[self.hook]
        self.causal = self._is_causal()

    def _register(self, path: str) -> RemovableHandle:
        name, takes_input = split(path)
        module = self._model.get_submodule(name)

        def before(_module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._catch(path, args[0] if args else kwargs.get("hidden_states"))

        def after(_module: torch.nn.Module, _args: object, output: object) -> None:
            self._catch(path, output[0] if isinstance(output, tuple) else output)

        handle: RemovableHandle
        if takes_input:
            handle = module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = module.register_forward_hook(after)
        return handle

    def _catch(self, path: str, value: object) -> None:
        if path in self._caught:  # layers that share one module: the first time counts, as it would with one hook
            return
        self._caught[path] = value.clone() if path in self._overwritten and isinstance(value, Tensor) else value
        if len(self._caught) == len(self._handles):
            raise _CutOff

    def _probe(self) -> dict[str, int]:
        """The width of each hook; and find the hooks whose tensors a later module overwrites in place.

        Only those are copied when they are caught. Measured: two passes, one with copies, tell them apart.
        """
        batch = next(iter(batches([[self.vocabulary_token()]], self, batch_tokens=512)))
        self._overwritten = set()
        plain = self.read(batch)
        if len(plain) > 1:  # one hook alone ends the pass before anything can overwrite it
            self._overwritten = set(plain)
            copied = self.read(batch)
            self._overwritten = {path for path in plain if not torch.equal(plain[path], copied[path])}
        return {path: int(value.shape[-1]) for path, value in plain.items()}

    def _special_frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that the tokenizer puts before and after a text."""
        bare = self._tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self._tokenizer("a")["input_ids"]
        for start in range(len(full) - len(bare) + 1):
            if full[start : start + len(bare)] == bare:
                return tuple(full[:start]), tuple(full[start + len(bare) :])
        return (), ()

    def _is_causal(self) -> bool:
        """Whether a token is the same at every hook whatever comes after it.

        Measured: names of classes and configs do not say. Before the first attention every model looks causal.
        """
        known = self._model.get_input_embeddings().weight.shape[0]  # a tokenizer may have grown past its model
        tokens = np.flatnonzero(~self.vocabulary.special[:known])
        first, *others = tokens[np.linspace(0, len(tokens) - 1, 9).astype(int)].tolist()
        found = []
        for rest in (others[:4], others[4:]):
            batch = next(iter(batches([[first, *rest]], self, batch_tokens=512)))
            found.append([values[0, batch.prefix] for values in self.read(batch).values()])
        return all(map(torch.equal, *found))

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
    def read(self, batch: TokenBatch) -> dict[str, Tensor]:
        """{hook: [rows, width, d]} in the model's own dtype, on its device, from one forward pass."""
        if not self.hooks:
            raise SubjectError(f"{self.name}: no hook is watched; name one with --hook")
        self._caught = {}
        with suppress(_CutOff):
            self._model(input_ids=batch.ids.to(self.device), attention_mask=batch.attention.to(self.device))
        caught, self._caught = self._caught, {}  # the subject keeps no activations between passes
        shape = tuple(batch.ids.shape)
        return {path: _checked(path, caught, shape) for path in dict.fromkeys(self.hooks)}

    def activations(self, batch: TokenBatch) -> Tensor:
        """[rows, width, d_hook] at the first hook."""
        return self.read(batch)[self.hook]

    def embeddings(self) -> Tensor:
        """[V, d] input embeddings, for finding a token's nearest neighbours."""
        weight: Tensor = self._model.get_input_embeddings().weight
        return weight.detach().float().cpu()

    def unembedding(self) -> Tensor | None:
        """[V, d_model] float32: `directions @ unembedding().T` is what a direction of the residual stream does to logits.

        The final norm's weight is folded in, and rows are centred where the norm subtracts the mean, so this is the
        direct effect of adding a direction to the last residual stream, up to the norm's scale. It leaves out that
        scale, every bias, a soft cap or factor on logits, and all that the layers between do with the direction. None
        for encoders, and for models without head or whose final norm is not found. An untied head is loaded from the
        checkpoint with the whole model around it: keep the result.
        """
        if not self.hooks:
            raise SubjectError(f"{self.name}: no hook is watched; name one with --hook")
        head = self._head() if self.causal else None
        return None if head is None else through_final_norm(self._model, head)

    def _head(self) -> Tensor | None:
        """The output embedding, [V, d]. AutoModel leaves it out; tied ones are the input embeddings."""
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        config = self._model.config
        if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            return None
        if config.tie_word_embeddings:
            return self.embeddings()
        whole, loaded = AutoModelForCausalLM.from_pretrained(
            self.path, local_files_only=Path(self.path).is_dir(), output_loading_info=True
        )
        head = whole.get_output_embeddings()
        names = {name for name, parameter in whole.named_parameters() if head is not None and parameter is head.weight}
        if not names or names & set(loaded["missing_keys"]):  # the checkpoint has no head: this one is random
            return None
        weight: Tensor = head.weight
        return weight.detach().float().cpu()

    def output_weights(self, hook: str) -> Tensor | None:
        """[d_in, d_out] float32: the direction that each coordinate going into a linear map writes.

        For a hook `X:in` (or a TransformerLens name of one) where X is a Linear or GPT-2's Conv1D, None otherwise. A
        norm that follows the map, as in Gemma 2, is not in it.
        """
        return weights_after(self._model, module_path(hook, self._model, self.name))

    def identity(self) -> dict[str, Any]:
        """What makes two subjects the same: weights, hooks, dtype, context and what stands around it."""
        return {
            "model": self.name,
            "path": self.path,
            "class": type(self._model).__name__,
            "hook": self.hook,
            "hooks": list(self.hooks),
            "dtype": str(next(self._model.parameters()).dtype).removeprefix("torch."),
            "context_size": self.context_size,
            "prefix": list(self.prefix),
            "suffix": list(self.suffix),
            "weights": self._weights,
        }

    @cached_property
    def _weights(self) -> str:
        return digest_of(self._model, self._made_up)

    def has_weights(self, stored: str) -> bool:
        """Whether `stored` is what an identity, of this version or an older one, says of these weights."""
        return fits(self._model, stored, self._weights)


def _checked(path: str, caught: dict[str, Any], shape: tuple[int, ...]) -> Tensor:
    """What was caught at a hook, if it is one vector for each token of the batch."""
    if path not in caught:
        raise SubjectError(f"hook {path!r}: the forward pass never reached this module; hook a layer")
    value = caught[path]
    if not isinstance(value, Tensor):
        verb = "takes" if path.endswith(INPUT) else "returns"
        raise SubjectError(f"hook {path!r}: the module {verb} {type(value).__name__}, not a tensor; hook a layer")
    if value.ndim != 3 or tuple(value.shape[:2]) != shape:
        raise SubjectError(f"hook {path!r}: gives {tuple(value.shape)}, not [rows, tokens, width]; hook a layer")
    return value


def _vocabulary(tokenizer: Any) -> Vocabulary:
    """Pieces as text: WordPiece marks continuations with ##, byte-level BPE and SentencePiece mark beginnings."""
    size = max(tokenizer.get_vocab().values()) + 1
    raw = tokenizer.convert_ids_to_tokens(list(range(size)))
    raw = ["" if piece is None else str(piece) for piece in raw]
    special = set(tokenizer.all_special_ids)
    count = {mark: sum(p.startswith(mark) for p in raw) for mark in ("##", "Ġ", "▁")}
    common = max(count, key=lambda mark: count[mark])  # one convention's marks may stand alone in another's vocabulary
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
