"""From documents to what the subject reads: near-duplicates, splits, token cache, contexts and windows.

A prepared corpus is a few flat arrays. Splits belong to documents, and near-duplicate documents (half of their
13-grams shared, by MinHash with locality-sensitive hashing) go to one split, so that no text is met twice.
Ids of windows are hashes of document and position: they do not depend on the order of reading.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from glossator.config import CorpusConfig
from glossator.errors import CorpusError
from glossator.types import MARGIN, PAD, SPLITS, WINDOW, Document, Ints, Windows

_GRAM = 13
_TEXTS = ("names", "tags", "digest")
_MASK63 = np.uint64((1 << 63) - 1)


def hash63(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") >> 1


def mix63(values: Ints) -> Ints:
    """splitmix64's finaliser, elementwise, cut to 63 bits: a bijection but for the top bit."""
    x = values.astype(np.uint64)
    with np.errstate(over="ignore"):
        x = (x + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((x ^ (x >> np.uint64(31))) & _MASK63).astype(np.int64)


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus. All offsets count content tokens; special tokens are added when a batch is made.

    tokens [n_tokens] int32; contexts and windows are runs of them.
    """

    names: tuple[str, ...]  # [n_documents]
    tags: tuple[tuple[str, ...], ...]
    split: Ints  # [n_documents] index into SPLITS
    cluster: Ints  # [n_documents] near-duplicates share a number
    tokens: Ints
    context_document: Ints  # [n_contexts]
    context_start: Ints
    context_length: Ints
    window_context: Ints  # [n_windows]
    window_start: Ints  # within the corpus
    window_length: Ints
    window_id: Ints  # int64, 63 bits
    digest: str

    @property
    def window_document(self) -> Ints:
        return np.asarray(self.context_document[self.window_context])

    @property
    def window_split(self) -> Ints:
        return np.asarray(self.split[self.window_document])

    def windows(self, index: Ints, *, both_sides: bool) -> Windows:
        """The shown text of windows [n]: MARGIN tokens on the left, and on the right for encoders, never past the context."""
        right = MARGIN if both_sides else 0
        offset = np.arange(-MARGIN, WINDOW + right)
        start = self.window_start[index]
        context = self.window_context[index]
        low = self.context_start[context]
        high = low + self.context_length[context]
        at = start[:, None] + offset[None, :]
        inside = (at >= low[:, None]) & (at < high[:, None])
        ids = np.where(inside, self.tokens[np.clip(at, 0, len(self.tokens) - 1)], PAD).astype(np.int32)
        return Windows(ids, self.window_document[index].astype(np.int32), MARGIN, self.window_id[index])

    def save(self, path: Path) -> None:
        """As one file, for workers that need not read the corpus again."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _TEXTS}
        texts = {name: np.asarray(json.dumps(getattr(self, name))) for name in _TEXTS}
        temporary = path.with_suffix(f".tmp{os.getpid()}")
        with temporary.open("wb") as file:
            np.savez(file, **arrays, **texts)  # type: ignore[arg-type]
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Corpus:
        with np.load(path, allow_pickle=False) as file:
            found: dict[str, Any] = {name: file[name] for name in file.files}
        names, tags, digest = (json.loads(str(found[name])) for name in _TEXTS)
        return cls(**found | {"names": tuple(names), "tags": tuple(tuple(t) for t in tags), "digest": digest})


def prepare(
    documents: Iterable[Document],
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    content_size: int,
    config: CorpusConfig,
) -> Corpus:
    """Tokenize, find near-duplicates, split, cut. `content_size` is the context less its special tokens."""
    names, tags, tokens, lengths = _tokenized(documents, tokenize, content_size, config.tokens)
    document_end = np.cumsum([sum(x) for x in lengths])
    cluster = _near_duplicates(np.split(tokens, document_end[:-1]), config.near_duplicate)
    split = _splits(names, cluster, config)
    contexts: list[tuple[int, int, int]] = []  # document, start, length
    at = 0
    for number, document in enumerate(lengths):
        for length in document:
            contexts.append((number, at, length))
            at += length
    table = np.asarray(contexts, np.int64).reshape(-1, 3)
    per_context = -(-table[:, 2] // WINDOW)
    window_context = np.repeat(np.arange(len(table)), per_context)
    ordinal = np.arange(len(window_context)) - np.repeat(np.cumsum(per_context) - per_context, per_context)
    window_start = table[window_context, 1] + ordinal * WINDOW
    window_length = np.minimum(WINDOW, table[window_context, 1] + table[window_context, 2] - window_start)
    document_start = np.concatenate([[0], document_end[:-1]])
    document = table[window_context, 0]
    hashes = np.asarray([hash63(name) for name in names], np.int64)
    window_id = mix63(hashes[document] ^ mix63(window_start - document_start[document]))
    held = tokens.tobytes() + table.tobytes() + split.tobytes() + "\n".join(names).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(held, digest_size=8).hexdigest()
    corpus = Corpus(
        tuple(names), tuple(tags), split, cluster, tokens, table[:, 0], table[:, 1], table[:, 2],
        window_context, window_start, window_length, window_id, digest,
    )  # fmt: skip
    counts = np.bincount(corpus.window_split, minlength=3)
    if (counts == 0).any():
        lacking = ", ".join(SPLITS[i] for i in np.flatnonzero(counts == 0))
        raise CorpusError(
            f"the corpus has {_count(len(names), 'document')} in {_count(len(set(cluster.tolist())), 'group')}: too few to fill the split {lacking}; add documents"
        )
    return corpus


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _tokenized(
    documents: Iterable[Document],
    tokenize: Callable[[Sequence[str]], list[list[int]]],
    size: int,
    limit: int | None,
) -> tuple[list[str], list[tuple[str, ...]], Ints, list[list[int]]]:
    """Names, tags, all tokens, lengths of each document's contexts. One growing buffer: many small arrays would leave holes in the heap."""
    names: list[str] = []
    tags: list[tuple[str, ...]] = []
    tokens = array("i")
    lengths: list[list[int]] = []
    seen: dict[str, int] = {}
    for document in documents:
        if limit is not None and len(tokens) >= limit:
            break
        pieces: list[int] = []
        for ids in tokenize(document.passages):
            if limit is not None:
                ids = ids[: max(0, limit - len(tokens))]
            pieces += [min(size, len(ids) - i) for i in range(0, len(ids), size)]
            tokens.extend(ids)
        if not pieces:
            continue
        name = document.name
        while name in seen:  # equal names would give equal window ids
            seen[document.name] += 1
            name = f"{document.name}#{seen[document.name]}"
        seen[name] = 1
        names.append(name)
        tags.append(document.tags)
        lengths.append(pieces)
    if not names:
        raise CorpusError("the corpus holds no tokens: every document is empty; name a corpus with text in it")
    return names, tags, np.frombuffer(tokens, np.int32), lengths


def _grams(document: Ints) -> list[int]:
    """32-bit hashes of a document's 13-grams of tokens (or of the whole, if it is shorter)."""
    tokens = document.astype(np.uint64)
    size = min(_GRAM, len(tokens))
    view = np.lib.stride_tricks.sliding_window_view(tokens, size)
    value = np.zeros(len(view), np.uint64)
    with np.errstate(over="ignore"):
        for column in range(size):
            value = value * np.uint64(0x100000001B3) + view[:, column] + np.uint64(1)
    return [int(v) for v in np.unique(mix63(value.view(np.int64)) & 0xFFFFFFFF)]


def _near_duplicates(documents: Sequence[Ints], threshold: float) -> Ints:
    """A cluster number for each document: documents whose sets of 13-grams have a Jaccard similarity over the threshold."""
    from datasketch import MinHash, MinHashLSH

    lsh = MinHashLSH(threshold=min(threshold, 0.9), num_perm=128)  # candidates; it has no parameters for 1
    sketches: list[MinHash] = []
    pairs: list[tuple[int, int]] = []
    for number, tokens in enumerate(documents):
        sketch = MinHash(num_perm=128, seed=1, hashfunc=int)
        sketch.update_batch(_grams(tokens))
        for other in lsh.query(sketch):
            if sketch.jaccard(sketches[other]) >= threshold:
                pairs.append((other, number))
        lsh.insert(number, sketch)
        sketches.append(sketch)
    edges = np.asarray(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(len(documents), len(documents)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _splits(names: Sequence[str], cluster: Ints, config: CorpusConfig) -> Ints:
    """Each cluster's split, from a hash of its first name in the alphabet: independent of the order of reading."""
    first: dict[int, str] = {}
    for name, number in zip(names, cluster.tolist(), strict=True):
        first[number] = min(first.get(number, name), name)
    bounds = (config.explain_share, config.explain_share + config.select_share)
    if bounds[1] >= 1:
        raise CorpusError("explain_share + select_share leaves nothing for the split test; keep their sum below 1")
    draw = {number: hash63(f"{config.seed}|{name}") / 2**63 for number, name in first.items()}
    return np.asarray(
        [int(np.searchsorted(bounds, draw[number], side="right")) for number in cluster.tolist()], np.int64
    )
