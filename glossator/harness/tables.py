"""A harvest as Arrow tables, ready for the store. The only place that knows both the arrays and the columns.

Tables come as a stream of parts, so that those of a large dictionary are never in memory together.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import BaseModel
from torch import Tensor

import glossator
from glossator.config import HarvestConfig, check_near_by
from glossator.harness.contexts import Corpus
from glossator.harness.dictionary import Dictionary
from glossator.harness.embedder import Embedder
from glossator.harness.feature_table import feature_tables, lists
from glossator.harness.harvest import Found, Harvest, counted_tokens, dense_rows
from glossator.harness.loading import NEURONS, LoadingCheck
from glossator.harness.near_misses import Embed, NearMisses
from glossator.harness.reinitialised import is_reinitialised, read_by
from glossator.harness.subject import Subject
from glossator.types import SPLITS, Floats, Ints, Vocabulary, Windows

_NEIGHBOURS = 8
_FEATURES = 512  # whose exemplars are one table: about 120,000 rows
_ROWS = 1 << 20  # of the token table
_WINDOWS = 8192

Tables = Iterator[tuple[str, pa.Table]]


def harvest_tables(
    subject: Subject,
    dictionaries: Sequence[Dictionary],
    corpus: Corpus,
    sources: Sequence[str],
    harvest: Harvest,
    checks: Sequence[LoadingCheck],
    config: HarvestConfig,
) -> Tables:
    """All that a harvest writes, by table, in parts. Raises UsageError at once if near misses cannot be mined."""
    check_near_by(config.near_by)
    embed = _embed(subject, corpus) if "embedding" in config.near_by and config.near_misses else None

    def tables() -> Tables:
        yield from _shared(subject, corpus, sources)
        yield "token", _tokens(subject.vocabulary, corpus, harvest)
        unembedding = subject.unembedding() if subject.causal else None
        near = NearMisses(corpus, harvest.found, config, embed)
        n_counted = int(counted_tokens(corpus, subject.vocabulary).sum())
        for number, (dictionary, found) in enumerate(zip(dictionaries, harvest.found, strict=True)):
            yield "dictionary", _dictionary(subject, dictionary, checks[number])
            yield "harvest", _harvest(dictionary, corpus, n_counted, harvest, found, config)
            lens = _lens(subject, dictionary, unembedding)
            for part in feature_tables(dictionary, found, corpus, subject.vocabulary, lens, config):
                yield "feature", part
            yield from _of_dictionary(dictionary, corpus, found)
            for kind, split, best in near.of(number):
                yield "near_miss", _near_misses(dictionary.name, corpus, kind, split, best)
        kept = [found.background_windows for found in harvest.found]
        kept += [entries["window"] for found in harvest.found for entries in (found.top, found.sample)]
        shown = np.unique(np.concatenate(kept))
        for begin in range(0, len(shown), _WINDOWS):
            yield "text_window", _windows(corpus, shown[begin : begin + _WINDOWS], subject)

    return tables()


def manifest(subject: Subject, dictionaries: Sequence[Dictionary], *configs: BaseModel) -> dict[str, pa.Table]:
    """What made this run, by key: versions, identities, configs with shapes and seeds; a row `dictionary` for each."""
    facts = [
        ("glossator", glossator.__version__),
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("subject", json.dumps(subject.identity())),
        *(("dictionary", json.dumps(dictionary.identity())) for dictionary in dictionaries),
        *((type(c).__name__, c.model_dump_json()) for c in configs),
    ]
    return {"manifest": pa.table({"key": [key for key, _ in facts], "value": [value for _, value in facts]})}


def _lens(subject: Subject, dictionary: Dictionary, unembedding: Tensor | None) -> Tensor | None:
    """[V, d]: from the space that a dictionary writes into to logits; through the weights that follow, where it reads their input."""
    if is_reinitialised(dictionary.hook):
        return None  # the logits would be those of an untrained head
    through = subject.output_weights(dictionary.hook_out or dictionary.hook)
    if unembedding is None or through is None or dictionary.identity().get("architecture") == NEURONS:
        return unembedding  # neurons have those weights as their directions already
    return unembedding @ through.T if through.shape[1] == unembedding.shape[1] else None


def _embed(subject: Subject, corpus: Corpus) -> Embed:
    embedder = Embedder(half=False)  # a harvest ends the same on every processor, up to rounding

    def embed(index: Ints) -> Floats:
        shown = corpus.windows(index, both_sides=False)
        return embedder(texts(shown.ids[:, shown.scored], subject.vocabulary).to_pylist())

    return embed


# --------------------------------------------------------------------------- what the dictionaries share


def _shared(subject: Subject, corpus: Corpus, sources: Sequence[str]) -> Tables:
    yield "corpus", _corpus(corpus, sources)
    yield "document", _documents(corpus)
    yield "token_neighbour", token_neighbours(subject, corpus)


def _corpus(corpus: Corpus, sources: Sequence[str]) -> pa.Table:
    n = np.bincount(corpus.window_split, minlength=3)
    row = {
        "corpus": " + ".join(sources), "sources": list(sources), "digest": corpus.digest,
        "documents": len(corpus.names), "tokens": len(corpus.tokens), "windows": len(corpus.window_start),
        "n_explain": int(n[0]), "n_select": int(n[1]), "n_test": int(n[2]),
    }  # fmt: skip
    return pa.Table.from_pylist([row])


def _documents(corpus: Corpus) -> pa.Table:
    tokens = np.bincount(corpus.context_document, corpus.context_length, minlength=len(corpus.names)).astype(np.int64)
    return pa.table(
        {
            "document": np.arange(len(corpus.names), dtype=np.int32),
            "name": pa.array(corpus.names),
            "tags": pa.array([list(t) for t in corpus.tags], pa.list_(pa.string())),
            "split": _split(corpus.split),
            "cluster": corpus.cluster.astype(np.int32),
            "tokens": tokens,
        }
    )


def _tokens(vocabulary: Vocabulary, corpus: Corpus, harvest: Harvest) -> pa.Table:
    """`n_explain` counts in the windows of the token table alone: rates are taken between the two. Special tokens are
    counted like others, though no activation on them is looked at: sums over the text stay sums over the text.
    """
    counted = np.repeat(harvest.token_windows, corpus.window_length)  # windows lie side by side
    return pa.table(
        {
            "token_id": np.arange(len(vocabulary), dtype=np.int32),
            "piece": pa.array(vocabulary.pieces),
            "starts_word": vocabulary.starts_word,
            "special": vocabulary.special,
            "n_explain": np.bincount(corpus.tokens[counted], minlength=len(vocabulary)),
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


def _windows(corpus: Corpus, index: Ints, subject: Subject) -> pa.Table:
    shown: Windows = corpus.windows(index, both_sides=not subject.causal)
    return pa.table(
        {
            "window_id": shown.window_id,
            "document": shown.document,
            "split": _split(corpus.window_split[index]),
            "start": np.full(len(index), shown.start, np.int32),
            "ids": lists(shown.ids.astype(np.int32)),
            "text": texts(shown.ids[:, shown.scored], subject.vocabulary),
        }
    )


def texts(ids: Ints, vocabulary: Vocabulary) -> pa.Array:
    """What `vocabulary.join` makes of each row [n, width], without a Python object for each token."""
    n = len(vocabulary)
    dropped = (ids < 0) | vocabulary.special[ids]
    spaced = vocabulary.starts_word[ids] & (np.cumsum(~dropped, 1) > 1)  # no space before the first
    used, place = np.unique(np.where(dropped, 2 * n, ids + n * spaced), return_inverse=True)
    known = [("" if key == 2 * n else " " * (key >= n) + vocabulary.pieces[key % n]) for key in used.tolist()]
    pieces = pa.array(known, pa.string()).take(pa.array(place.reshape(-1)))
    offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1])
    return pc.binary_join(pa.ListArray.from_arrays(offsets, pieces), "")


# --------------------------------------------------------------------------- of one dictionary


def _dictionary(subject: Subject, dictionary: Dictionary, check: LoadingCheck) -> pa.Table:
    identity, model = dictionary.identity(), read_by(subject, dictionary.hook).identity()
    row = {
        "dictionary": dictionary.name, "source": identity.get("source", ""),
        "architecture": identity.get("architecture", ""), "model": model["model"], "hook": dictionary.hook,
        "n_features": dictionary.n_features, "d_in": dictionary.d_in, "l0": check.l0,
        "variance_explained": check.variance_explained, "stated": json.dumps(identity.get("stated", {})),
        "identity": json.dumps({"subject": model, "dictionary": identity}),
    }  # fmt: skip
    found = pa.Table.from_pylist([row])
    for name in ("control", "control_of"):
        found = found.append_column(name, pa.array([identity.get("stated", {}).get(name)], pa.string()))
    found = found.append_column("hook_out", pa.array([dictionary.hook_out], pa.string()))
    return found.append_column("signed", pa.array([dictionary.signed]))


def _harvest(
    dictionary: Dictionary, corpus: Corpus, n: int, harvest: Harvest, found: Found, config: HarvestConfig
) -> pa.Table:
    """`seconds` are those of the one pass over `n` tokens that count, whatever the number of dictionaries."""
    active = int(found.statistics.active_tokens.sum())
    row = {
        "dictionary": dictionary.name, "corpus": corpus.digest, "digest": found.digest, "shards": harvest.shards,
        "config": config.model_dump_json(), "seconds": harvest.seconds,
        "tokens_per_second": n / max(harvest.seconds, 1e-9),
        "outlier_tokens": found.outlier_tokens, "active_per_token": active / max(n, 1),
    }  # fmt: skip
    return pa.Table.from_pylist([row])


def _of_dictionary(dictionary: Dictionary, corpus: Corpus, found: Found) -> Tables:
    tokens = found.tokens
    for begin in range(0, len(tokens["feature"]), _ROWS):
        part = {name: column[begin : begin + _ROWS] for name, column in tokens.items()}
        columns = {
            "dictionary": pa.repeat(dictionary.name, len(part["feature"])),
            "feature": part["feature"].astype(np.int32),
            "token_id": part["token"].astype(np.int32),
            "active": part["active"],
            "total": part["total"],
        }
        yield "feature_token", pa.table(columns)
    active = found.statistics.active_windows.cpu().numpy().reshape(-1)
    ends = {stratum: np.cumsum(getattr(found, stratum)["active"], dtype=np.int64) for stratum in ("top", "sample")}
    for begin in range(0, dictionary.n_features, _FEATURES):
        groups = (begin * len(SPLITS), (begin + _FEATURES) * len(SPLITS))
        top = _between(found.top, ends["top"], *groups)
        sample = _between(found.sample, ends["sample"], *groups)
        yield "exemplar", _exemplars(dictionary.name, corpus, top, sample, active)
    yield "background", _background(dictionary.name, corpus, found)


def _between(entries: dict[str, Ints], ends: Ints, low: int, high: int) -> dict[str, Ints]:
    """The sketch entries of the groups [low, high). `ends`: where each entry's activations end."""
    a, b = np.searchsorted(entries["group"], [low, high])
    first, last = (int(ends[i - 1]) if i else 0 for i in (a, b))
    slots = {name: entries[name][a:b] for name in ("group", "window", "active")}
    return slots | {name: entries[name][first:last] for name in ("position", "value")}


def _exemplars(name: str, corpus: Corpus, top: dict[str, Ints], sample: dict[str, Ints], active: Ints) -> pa.Table:
    """By group, the top windows first. active [groups]: windows in which the feature is active in that split."""
    group = np.concatenate([top["group"], sample["group"]]).astype(np.int64)
    rank = np.concatenate([np.arange(len(e["group"])) - np.searchsorted(e["group"], e["group"]) for e in (top, sample)])
    acts = np.concatenate([dense_rows(top), dense_rows(sample)])
    maximum = acts.max(1, initial=0)
    n_top = len(top["group"])
    quantile = np.concatenate(
        [
            1 - (rank[:n_top] + 0.5) / active[group[:n_top]],
            _sample_quantiles(group[n_top:], maximum[n_top:], group[:n_top], active),
        ]
    )
    order = np.argsort(group, kind="stable")
    group = group[order]
    return pa.table(
        {
            "dictionary": pa.repeat(name, len(group)),
            "feature": (group // len(SPLITS)).astype(np.int32),
            "split": _split(group % len(SPLITS)),
            "stratum": pa.array(["top", "sample"]).take(pa.array((order >= n_top).astype(np.int8))),
            "rank": rank[order].astype(np.int32),
            "window_id": corpus.window_id[np.concatenate([top["window"], sample["window"]])[order]],
            "max_activation": maximum[order],
            "quantile": quantile[order].astype(np.float32),
            "activations": lists(acts[order]),
        }
    )


def _sample_quantiles(group: Ints, maximum: Floats, top: Ints, active: Ints) -> Floats:
    """Where drawn windows stand among all active ones: spread evenly, by their maxima, below the top windows.

    Of equal maxima the one with the better key counts as the weaker; they differ by no more than the estimate errs.
    """
    order = np.lexsort((maximum, group))
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - np.searchsorted(group, group)
    size = np.searchsorted(group, group, "right") - np.searchsorted(group, group)
    below = active[group] - (np.searchsorted(top, group, "right") - np.searchsorted(top, group))
    return np.asarray((rank + 0.5) / size * below / active[group])


def _background(name: str, corpus: Corpus, found: Found) -> pa.Table:
    entries, windows = found.background, found.background_windows
    bounds = np.searchsorted(entries["window"], [*windows.tolist(), np.iinfo(np.int32).max])
    offsets = pa.array(bounds.astype(np.int32))
    column: dict[str, Any] = {
        key: pa.ListArray.from_arrays(offsets, pa.array(entries[key])) for key in ("feature", "position", "value")
    }
    return pa.table(
        {
            "dictionary": pa.repeat(name, len(windows)),
            "window_id": corpus.window_id[windows],
            "split": _split(corpus.window_split[windows]),
            "features": column["feature"],
            "positions": column["position"],
            "activations": column["value"],
        }
    )


def _near_misses(name: str, corpus: Corpus, kind: str, split: str, best: dict[str, Ints]) -> pa.Table:
    n = len(best["feature"])
    return pa.table(
        {
            "dictionary": pa.repeat(name, n),
            "feature": best["feature"].astype(np.int32),
            "split": pa.repeat(split, n),
            "kind": pa.repeat(kind, n),
            "rank": best["rank"].astype(np.int32),
            "window_id": corpus.window_id[best["window"]],
            "similarity": best["similarity"].astype(np.float32),
        }
    )


def _split(index: Ints) -> pa.Array:
    return pa.array(SPLITS).take(pa.array(index))
