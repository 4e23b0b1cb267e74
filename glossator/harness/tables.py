"""A harvest as Arrow tables, ready for the store. The only place that knows both the arrays and the columns."""

from __future__ import annotations

import json
import platform
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pydantic import BaseModel

import glossator
from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.dictionary import Dictionary
from glossator.harness.harvest import Harvest, LoadingCheck, dense_rows
from glossator.harness.statistics import entropy
from glossator.harness.subject import Subject
from glossator.types import SPLITS, Floats, Ints, Vocabulary, Windows

_NEIGHBOURS = 8
_TOP_TOKENS = 12


def harvest_tables(
    subject: Subject,
    dictionary: Dictionary,
    corpus: Corpus,
    sources: list[str],
    harvest: Harvest,
    check: LoadingCheck,
    config: HarvestConfig,
) -> dict[str, pa.Table]:
    """Every table that a harvest writes, by name."""
    kept = np.unique(np.concatenate([harvest.top["window"], harvest.sample["window"], harvest.background_windows]))
    tables = {
        "dictionary": _dictionary(subject, dictionary, check),
        "corpus": _corpus(corpus, sources),
        "document": _documents(corpus),
        "harvest": _harvest(dictionary, corpus, harvest, config),
        "token": _tokens(subject.vocabulary, corpus),
        "token_neighbour": token_neighbours(subject, corpus),
        "feature": _features(dictionary, harvest, corpus, subject.vocabulary, config),
        "feature_token": pa.table(
            {
                "dictionary": pa.array([dictionary.name] * len(harvest.tokens["feature"])),
                "feature": harvest.tokens["feature"].astype(np.int32),
                "token_id": harvest.tokens["token"].astype(np.int32),
                "active": harvest.tokens["active"],
                "total": harvest.tokens["total"],
            }
        ),
        "text_window": _windows(corpus, kept, subject),
        "background": _background(dictionary.name, corpus, harvest),
    }
    exemplars = [
        _exemplars(dictionary.name, corpus, harvest.top, "top"),
        _exemplars(dictionary.name, corpus, harvest.sample, "sample"),
    ]
    return tables | {"exemplar": pa.concat_tables(exemplars)}


def manifest(subject: Subject, dictionary: Dictionary, *configs: BaseModel) -> dict[str, pa.Table]:
    """What made this run, by key: versions, identities, configs with shapes and seeds."""
    facts = {
        "glossator": glossator.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "subject": json.dumps(subject.identity()),
        "dictionary": json.dumps(dictionary.identity()),
    } | {type(c).__name__: c.model_dump_json() for c in configs}
    return {"manifest": pa.table({"key": list(facts), "value": list(facts.values())})}


def _dictionary(subject: Subject, dictionary: Dictionary, check: LoadingCheck) -> pa.Table:
    identity, model = dictionary.identity(), subject.identity()
    row = {
        "dictionary": dictionary.name, "source": identity.get("source", ""), "architecture": identity.get("architecture", ""),
        "model": model["model"], "hook": subject.hook, "n_features": dictionary.n_features, "d_in": dictionary.d_in, "l0": check.l0,
        "variance_explained": check.variance_explained, "stated": json.dumps(identity.get("stated", {})),
        "identity": json.dumps({"subject": model, "dictionary": identity}),
    }  # fmt: skip
    return pa.Table.from_pylist([row])


def _corpus(corpus: Corpus, sources: list[str]) -> pa.Table:
    n = np.bincount(corpus.window_split, minlength=3)
    row = {
        "corpus": " + ".join(sources), "sources": sources, "digest": corpus.digest, "documents": len(corpus.names),
        "tokens": len(corpus.tokens), "windows": len(corpus.window_start), "n_explain": int(n[0]), "n_select": int(n[1]), "n_test": int(n[2]),
    }  # fmt: skip
    return pa.Table.from_pylist([row])


def _documents(corpus: Corpus) -> pa.Table:
    tokens = np.bincount(corpus.context_document, corpus.context_length, minlength=len(corpus.names)).astype(np.int64)
    return pa.table(
        {
            "document": np.arange(len(corpus.names), dtype=np.int32),
            "name": pa.array(corpus.names),
            "tags": pa.array([list(t) for t in corpus.tags], pa.list_(pa.string())),
            "split": pa.array([SPLITS[i] for i in corpus.split]),
            "cluster": corpus.cluster.astype(np.int32),
            "tokens": tokens,
        }
    )


def _harvest(dictionary: Dictionary, corpus: Corpus, harvest: Harvest, config: HarvestConfig) -> pa.Table:
    n = len(corpus.tokens)
    active = int(harvest.statistics.active_tokens.sum())
    row = {
        "dictionary": dictionary.name, "corpus": corpus.digest, "digest": harvest.digest, "shards": harvest.shards,
        "config": config.model_dump_json(), "seconds": harvest.seconds, "tokens_per_second": n / max(harvest.seconds, 1e-9),
        "outlier_tokens": harvest.outlier_tokens, "active_per_token": active / n,
    }  # fmt: skip
    return pa.Table.from_pylist([row])


def _token_counts(vocabulary: Vocabulary, corpus: Corpus) -> Ints:
    """[V] how often each token stands in the split explain."""
    of_context = np.repeat(corpus.split[corpus.context_document], corpus.context_length)
    return np.bincount(corpus.tokens[of_context == 0], minlength=len(vocabulary))


def _tokens(vocabulary: Vocabulary, corpus: Corpus) -> pa.Table:
    return pa.table(
        {
            "token_id": np.arange(len(vocabulary), dtype=np.int32),
            "piece": pa.array(vocabulary.pieces),
            "starts_word": vocabulary.starts_word,
            "special": vocabulary.special,
            "n_explain": _token_counts(vocabulary, corpus),
        }
    )


def token_neighbours(subject: Subject, corpus: Corpus) -> pa.Table:
    """The nearest tokens by cosine in the subject's own input embedding, among tokens that the corpus holds."""
    used = np.unique(corpus.tokens)
    used = used[~subject.vocabulary.special[used]]
    rows = torch.nn.functional.normalize(subject.embeddings()[torch.from_numpy(used).long()], dim=-1)
    starts = torch.from_numpy(subject.vocabulary.starts_word[used])
    size = min(_NEIGHBOURS, len(used) - 1)
    neighbours: list[list[int]] = []
    for begin in range(0, len(used), 1024):
        cosine = rows[begin : begin + 1024] @ rows.T
        cosine[starts[begin : begin + 1024, None] != starts[None, :]] = -2.0  # a word for a word, a piece for a piece
        cosine[torch.arange(len(cosine)), torch.arange(begin, begin + len(cosine))] = -2.0
        best = torch.topk(cosine, size, dim=1)
        near = zip(best.indices.numpy(), (best.values > -1.5).numpy(), strict=True)
        neighbours += [used[index[allowed]].tolist() for index, allowed in near]  # fewer where the corpus holds few
    return pa.table(
        {
            "token_id": used.astype(np.int32),
            "neighbours": pa.array(neighbours, pa.list_(pa.int32())),
        }
    )


def _features(
    dictionary: Dictionary, harvest: Harvest, corpus: Corpus, vocabulary: Vocabulary, config: HarvestConfig
) -> pa.Table:
    s, n = harvest.statistics, dictionary.n_features
    active = s.active_tokens.sum(1).numpy()
    status, reason = statuses(s.active_windows.numpy(), len(corpus.window_start), config)
    directions = dictionary.directions()
    neighbours, cosines = _nearest(directions)
    tokens = harvest.tokens
    maximum, least = s.maximum.numpy(), s.least.numpy()
    return pa.table(
        {
            "dictionary": pa.array([dictionary.name] * n),
            "feature": np.arange(n, dtype=np.int32),
            "status": pa.array(status),
            "reason": pa.array(reason, pa.string()),
            "density": active / len(corpus.tokens),
            "active_tokens": active,
            "active_windows": pa.array(s.active_windows.numpy().tolist(), pa.list_(pa.int64())),
            "mean": s.total.numpy() / len(corpus.tokens),
            "max_activation": maximum.astype(np.float64),
            "min_positive": np.where(np.isfinite(least), least, 0).astype(np.float64),
            "threshold": s.thresholds(),
            "token_entropy": entropy(tokens["feature"], tokens["total"], n),
            "top_tokens": pa.array(_top_tokens(tokens, n, vocabulary), pa.list_(pa.string())),
            "decoder_norm": directions.norm(dim=-1).double().numpy(),
            "neighbours": pa.array(neighbours.tolist(), pa.list_(pa.int32())),
            "neighbour_cosines": pa.array(cosines.tolist(), pa.list_(pa.float32())),
            "histogram": pa.array(s.histogram.numpy().tolist(), pa.list_(pa.int64())),
        }
    )


def statuses(active_windows: Ints, n_windows: int, config: HarvestConfig) -> tuple[list[str], list[str | None]]:
    """dead, rare, dense or waiting, with the reason. active_windows [F, 3]."""
    status: list[str] = []
    reason: list[str | None] = []
    for row in active_windows:
        lacking = [
            f"{a} of {m} in {s}" for a, m, s in zip(row.tolist(), config.min_active, SPLITS, strict=True) if a < m
        ]
        if not row.any():
            status.append("dead")
            reason.append("never active on this corpus")
        elif lacking:
            status.append("rare")
            reason.append("active windows: " + ", ".join(lacking))
        elif row.sum() > config.dense_share * n_windows:
            status.append("dense")
            reason.append(f"active in {row.sum() / n_windows:.0%} of the windows")
        else:
            status.append("waiting")
            reason.append(None)
    return status, reason


def _nearest(directions: torch.Tensor) -> tuple[Ints, Floats]:
    rows = torch.nn.functional.normalize(directions, dim=-1)
    size = min(5, len(rows) - 1)
    index, value = [], []
    for begin in range(0, len(rows), 2048):
        cosine = rows[begin : begin + 2048] @ rows.T
        cosine[torch.arange(len(cosine)), torch.arange(begin, begin + len(cosine))] = -2.0
        best = torch.topk(cosine, size, dim=1)
        index.append(best.indices.int().numpy())
        value.append(best.values.numpy())
    return np.concatenate(index), np.concatenate(value)


def _top_tokens(tokens: dict[str, Ints], n: int, vocabulary: Vocabulary) -> list[list[str]]:
    order = np.lexsort((tokens["token"], -tokens["total"], tokens["feature"]))
    feature, token = tokens["feature"][order], tokens["token"][order]
    first = np.searchsorted(feature, np.arange(n + 1))
    return [[vocabulary.name(int(t)) for t in token[a : min(b, a + _TOP_TOKENS)]] for a, b in pairwise(first.tolist())]


def _windows(corpus: Corpus, index: Ints, subject: Subject) -> pa.Table:
    shown: Windows = corpus.windows(index, both_sides=not subject.causal)
    texts = [subject.vocabulary.join([int(t) for t in row]) for row in shown.ids[:, shown.scored]]
    return pa.table(
        {
            "window_id": shown.window_id,
            "document": shown.document,
            "split": pa.array([SPLITS[i] for i in corpus.window_split[index]]),
            "start": np.full(len(index), shown.start, np.int32),
            "ids": _lists(shown.ids.astype(np.int32)),
            "text": pa.array(texts),
        }
    )


def _exemplars(name: str, corpus: Corpus, entries: dict[str, Ints], stratum: str) -> pa.Table:
    group, window = entries["group"], entries["window"]
    acts = dense_rows(entries)
    return pa.table(
        {
            "dictionary": pa.array([name] * len(group)),
            "feature": (group // len(SPLITS)).astype(np.int32),
            "split": pa.array(np.asarray(SPLITS)[group % len(SPLITS)].tolist(), pa.string()),
            "stratum": pa.array([stratum] * len(group)),
            "rank": (np.arange(len(group)) - np.searchsorted(group, group)).astype(np.int32),
            "window_id": corpus.window_id[window],
            "max_activation": acts.max(1, initial=0),
            "activations": _lists(acts),
        }
    )


def _background(name: str, corpus: Corpus, harvest: Harvest) -> pa.Table:
    found, windows = harvest.background, harvest.background_windows
    bounds = np.searchsorted(found["window"], [*windows.tolist(), np.iinfo(np.int32).max])
    offsets = pa.array(bounds.astype(np.int32))
    column: dict[str, Any] = {
        key: pa.ListArray.from_arrays(offsets, pa.array(found[key])) for key in ("feature", "position", "value")
    }
    return pa.table(
        {
            "dictionary": pa.array([name] * len(windows)),
            "window_id": corpus.window_id[windows],
            "split": pa.array([SPLITS[i] for i in corpus.window_split[windows]]),
            "features": column["feature"],
            "positions": column["position"],
            "activations": column["value"],
        }
    )


def _lists(rows: Any) -> pa.Array:
    offsets = pa.array(np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)))
