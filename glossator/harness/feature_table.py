"""The table `feature`, in parts of a few thousand: what the statistics, the token table and the directions say of each.

For causal subjects it holds the tokens whose logits a feature's direction raises and lowers most. That is the direct
path alone, up to the final norm's scale: what the layers in between make of the direction is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.dictionary import Dictionary
from glossator.harness.harvest import Found, counted_tokens
from glossator.harness.statistics import entropy
from glossator.types import SPLITS, Floats, Ints, Vocabulary, feature_name

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
_PART = 4096  # features a table
_BUFFER = 1 << 24  # elements of a product of directions: 64 MB
_NEIGHBOURS = 5
_TOP_TOKENS = 12
_LOGITS = 10


def feature_tables(
    dictionary: Dictionary,
    found: Found,
    corpus: Corpus,
    vocabulary: Vocabulary,
    unembedding: Tensor | None,
    config: HarvestConfig,
) -> Iterator[pa.Table]:
    """The features in their order. `unembedding` [V, d] counts where the dictionary writes into that width."""
    whole = _columns(dictionary, found, corpus, vocabulary, config)
    directions = dictionary.directions()
    norms = directions.norm(dim=-1)
    fits = unembedding is not None and unembedding.shape[1] == directions.shape[1]
    known = unembedding[: len(vocabulary)] if fits and unembedding is not None else None  # padded heads are longer
    names = pa.array([vocabulary.name(token) for token in range(len(vocabulary))] if fits else [], pa.string())
    histogram = found.statistics.histogram.cpu().numpy()
    for begin in range(0, dictionary.n_features, _PART):
        part = slice(begin, begin + _PART)
        neighbours, cosines = _nearest(directions, norms, part)
        table = whole.slice(begin, _PART)
        more = {
            "decoder_norm": pa.array(norms[part].double().numpy()),
            "neighbours": lists(neighbours),
            "neighbour_cosines": lists(cosines),
            "histogram": lists(histogram[part]),
        } | _logits(directions[part], known, names)
        for name, column in more.items():
            table = table.append_column(name, column)
        yield table


def _columns(
    dictionary: Dictionary, found: Found, corpus: Corpus, vocabulary: Vocabulary, config: HarvestConfig
) -> pa.Table:
    """What is small for all features at once."""
    s, tokens, n = found.statistics, found.tokens, dictionary.n_features
    active, windows = s.active_tokens.cpu().sum(1).numpy(), s.active_windows.cpu().numpy()
    counted = max(int(counted_tokens(corpus, vocabulary).sum()), 1)
    status, reason = statuses(windows, len(corpus.window_start), config)
    maximum, least = s.maximum.cpu().numpy().astype(np.float64), s.least.cpu().numpy().astype(np.float64)
    return pa.table(
        {
            "dictionary": pa.repeat(dictionary.name, n),
            "feature": np.arange(n, dtype=np.int32),
            "name": pa.array([feature_name(dictionary.signed, n, index) for index in range(n)]),
            "status": pa.array(status),
            "reason": pa.array(reason, pa.string()),
            "density": active / counted,
            "active_tokens": active,
            "active_windows": lists(windows),
            "mean": s.sums() / counted,
            "max_activation": maximum,
            "min_positive": np.where(np.isfinite(least), least, 0),
            "threshold": s.thresholds(),
            "quantiles": lists(s.quantiles(QUANTILES)),
            "token_entropy": entropy(tokens["feature"], tokens["total"], n),
            "top_tokens": pa.array(_top_tokens(tokens, n, vocabulary), pa.list_(pa.string())),
        }
    )


def statuses(active_windows: Ints, n_windows: int, config: HarvestConfig) -> tuple[list[str], list[str | None]]:
    """dead, rare, dense or waiting, with the reason. active_windows [F, 3]."""
    status: list[str] = []
    reason: list[str | None] = []
    for row in active_windows.tolist():
        lacking = [f"{a} of {m} in {s}" for a, m, s in zip(row, config.min_active, SPLITS, strict=True) if a < m]
        if not any(row):
            status.append("dead")
            reason.append("never active on this corpus")
        elif lacking:
            status.append("rare")
            reason.append("active windows: " + ", ".join(lacking))
        elif sum(row) > config.dense_share * n_windows:
            status.append("dense")
            reason.append(f"active in {sum(row) / n_windows:.0%} of the windows")
        else:
            status.append("waiting")
            reason.append(None)
    return status, reason


def _nearest(directions: Tensor, norms: Tensor, part: slice) -> tuple[Ints, Floats]:
    """Indices and cosines [features of the part, 5] of the nearest other directions, nearest first."""
    size = min(_NEIGHBOURS, len(directions) - 1)
    scale = norms.clamp(min=1e-12)
    index, value = [], []
    step = max(1, _BUFFER // len(directions))
    for begin in range(part.start, min(part.stop, len(directions)), step):
        end = min(begin + step, part.stop, len(directions))
        cosine = (directions[begin:end] / scale[begin:end, None]) @ directions.T
        cosine /= scale
        cosine[torch.arange(end - begin), torch.arange(begin, end)] = -2.0
        best = torch.topk(cosine, size, dim=1)
        index.append(best.indices.int().numpy())
        value.append(best.values.numpy())
    return np.concatenate(index), np.concatenate(value)


def _logits(directions: Tensor, unembedding: Tensor | None, names: pa.Array) -> dict[str, pa.Array]:
    """Names and values of the logits that each direction raises and lowers most; NULL without an unembedding."""
    n = len(directions)
    if unembedding is None:
        none = {"logits": pa.nulls(n, pa.list_(pa.string())), "logit_values": pa.nulls(n, pa.list_(pa.float32()))}
        return {f"{end}_{name}": column for end in ("top", "bottom") for name, column in none.items()}
    size = min(_LOGITS, len(unembedding))
    found: dict[str, list[tuple[Ints, Floats]]] = {"top": [], "bottom": []}
    for chunk in torch.split(directions, max(1, _BUFFER // len(unembedding))):
        logits = chunk @ unembedding.T
        for end, largest in (("top", True), ("bottom", False)):
            best = torch.topk(logits, size, dim=1, largest=largest)
            found[end].append((best.indices.numpy(), best.values.numpy()))
    columns: dict[str, pa.Array] = {}
    for end, parts in found.items():
        index, value = (np.concatenate(column) for column in zip(*parts, strict=True))
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * size)
        columns[f"{end}_logits"] = pa.ListArray.from_arrays(offsets, names.take(pa.array(index.reshape(-1))))
        columns[f"{end}_logit_values"] = lists(value)
    return columns


def _top_tokens(tokens: dict[str, Ints], n: int, vocabulary: Vocabulary) -> list[list[str]]:
    order = np.lexsort((tokens["token"], -tokens["total"], tokens["feature"]))
    feature, token = tokens["feature"][order], tokens["token"][order]
    first = np.searchsorted(feature, np.arange(n + 1))
    return [[vocabulary.name(int(t)) for t in token[a : min(b, a + _TOP_TOKENS)]] for a, b in pairwise(first.tolist())]


def lists(rows: Any) -> pa.Array:
    """A matrix as a column of lists, without a Python object for each number."""
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(rows).reshape(-1)))
