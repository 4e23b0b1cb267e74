"""Near misses: background windows on which a feature is silent although they resemble what it is active on.

All features' activations are known on background windows, so silence there is a measurement. Each feature gets the best
windows of each split and kind:

- `overlap`: the window holds the tokens that carry the feature. Similarity is the sum over its distinct tokens of the
  token's share of the feature's activation mass (explain, token table), times an idf over the background windows.
- `embedding`: the window means something like the feature's strongest exemplars of explain. Similarity is the cosine
  between the sentence embeddings of the window and of the exemplars' mean.

They are hard by choice and of unknown inclusion probability: they weigh nothing in estimates for the corpus. A feature
that is active in nearly all windows, or carried by tokens that the background lacks, gets fewer or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array, issparse

from glossator.config import HarvestConfig, check_near_by
from glossator.errors import UsageError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found
from glossator.types import PAD, SPLITS, Bools, Floats, Ints, Split

_FEATURES = 256  # whose similarities with the windows of a split are in memory at once
_EXEMPLARS = 4  # of a feature that are embedded
_TEXTS = 8192  # windows that are embedded at once
_NEVER = -2.0  # below every similarity

Embed = Callable[[Ints], Floats]  # window indices [n] -> rows of length 1 [n, d]


class NearMisses:
    """What the dictionaries of one harvest share: the tokens of the background windows, and their embeddings.

    With `embedding` in config.near_by every distinct window is embedded once, here, and of its exemplars each feature
    keeps the mean. Raises UsageError for a kind that there is not.
    """

    def __init__(
        self, corpus: Corpus, found: Sequence[Found], config: HarvestConfig, embed: Embed | None = None
    ) -> None:
        check_near_by(config.near_by)
        self._found, self._size = found, config.near_misses
        self._kinds = config.near_by if config.near_misses else ()
        if "embedding" in self._kinds and embed is None:
            raise UsageError("near_by embedding: no sentence encoder was given")
        self._background = max((one.background_windows for one in found), key=len)  # draws are nested
        split = corpus.window_split[self._background]
        # in order of window ids: of equally similar windows the one with the smaller id comes first
        order = np.lexsort((corpus.window_id[self._background], split))
        self._bounds = np.searchsorted(split[order], np.arange(len(SPLITS) + 1)).tolist()
        self._ordered = self._background[order]
        self._place = np.argsort(order)  # where a background window stands in `_ordered`
        self._tokens = _token_sets(corpus, self._ordered)
        count = np.diff(self._tokens.indptr)
        self._idf: Floats = np.log((len(self._ordered) + 1) / np.maximum(count, 1))
        self._rows: Floats = np.empty((0, 0), np.float32)
        self._means: list[Floats] = []
        if "embedding" in self._kinds and embed is not None:
            self._embed(embed)

    def of(self, number: int) -> Iterator[tuple[str, Split, dict[str, Ints]]]:
        """Kind, split and near misses of a dictionary: feature, rank, window index, similarity, by feature and rank."""
        found = self._found[number]
        feature, place = self._active(found)
        unknown = ~np.isin(self._ordered, found.background_windows)
        for kind in self._kinds:
            left: Any = _shares(found, self._idf) if kind == "overlap" else self._means[number]
            for split, low, high in zip(SPLITS, self._bounds[:-1], self._bounds[1:], strict=True):
                right = self._tokens[:, low:high] if kind == "overlap" else self._rows[low:high].T
                here = (place >= low) & (place < high)
                best = self._best(left, right, (feature[here], place[here] - low), unknown[low:high])
                best["window"] = self._ordered[best["window"] + low]
                yield kind, split, best

    def _active(self, found: Found) -> tuple[Ints, Ints]:
        """The pairs of a feature and the place of a window in which it is not silent, by feature."""
        window, feature = found.background["window"], found.background["feature"]
        new = np.ones(len(window), bool)  # entries are sorted by window, feature and position
        new[1:] = (np.diff(window) != 0) | (np.diff(feature) != 0)
        place = self._place[np.searchsorted(self._background, window[new])]
        order = np.argsort(feature[new], kind="stable")
        return feature[new][order], place[order]

    def _best(self, left: Any, right: Any, active: tuple[Ints, Ints], unknown: Bools) -> dict[str, Ints]:
        """For each row of `left` the columns of `right` with the largest products, but for active (feature, column) pairs."""
        feature, column = active
        parts = []
        for begin in range(0, left.shape[0], _FEATURES):
            product = left[begin : begin + _FEATURES] @ right
            similarity: Floats = product.toarray() if issparse(product) else product
            a, b = np.searchsorted(feature, [begin, begin + _FEATURES])
            similarity[feature[a:b] - begin, column[a:b]] = _NEVER
            similarity[:, unknown] = _NEVER
            row, at, value = _largest(similarity, self._size, 0.0 if issparse(product) else _NEVER)
            first = np.searchsorted(row, row)
            parts.append((row + begin, np.arange(len(row)) - first, at, value))
        names = ("feature", "rank", "window", "similarity")
        return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}

    def _embed(self, embed: Embed) -> None:
        """Rows of the background windows, and each feature's mean over its strongest exemplars, brought to length 1."""
        pairs = [_strongest(found) for found in self._found]
        distinct = np.unique(np.concatenate([self._background, *(window for _, window in pairs)]))
        sums: list[Floats] = []
        for begin in range(0, len(distinct), _TEXTS):
            windows = distinct[begin : begin + _TEXTS]
            rows = embed(windows)
            if not begin:
                self._rows = np.zeros((len(self._background), rows.shape[1]), np.float32)
                sums = [np.zeros((_n_features(found), rows.shape[1]), np.float32) for found in self._found]
            of = np.isin(self._background, windows)
            self._rows[self._place[of]] = rows[np.searchsorted(windows, self._background[of])]
            for total, (feature, window) in zip(sums, pairs, strict=True):
                here = np.isin(window, windows)
                np.add.at(total, feature[here], rows[np.searchsorted(windows, window[here])])
        for total in sums:
            length = np.linalg.norm(total, axis=1, keepdims=True)
            total /= np.where(length > 0, length, np.nan)  # without exemplars: NaN, which is over nothing
        self._means = sums


def _n_features(found: Found) -> int:
    return int(found.statistics.active_windows.shape[0])


def _token_sets(corpus: Corpus, windows: Ints) -> csr_array:
    """[tokens, windows]: 1 where the window's own 32 positions hold the token."""
    shown = corpus.windows(windows, both_sides=False)
    ids = shown.ids[:, shown.scored]
    column, position = np.nonzero(ids != PAD)
    cell = np.unique(ids[column, position].astype(np.int64) * max(len(windows), 1) + column)
    token, column = np.divmod(cell, max(len(windows), 1))
    size = int(corpus.tokens.max(initial=0)) + 1
    return csr_array((np.ones(len(cell)), (token, column)), shape=(size, len(windows)))


def _shares(found: Found, idf: Floats) -> csr_array:
    """[features, tokens]: the share of the feature's activation mass that a token carries, times its idf."""
    feature, token, total = (found.tokens[name] for name in ("feature", "token", "total"))
    n = _n_features(found)
    whole = np.bincount(feature, total, minlength=n)[feature]
    # without mass: too weak for sums to resolve
    share = np.divide(total, whole, out=np.zeros_like(whole), where=whole > 0)
    first = np.searchsorted(feature, np.arange(n + 1))
    return csr_array((share * idf[token], token, first), shape=(n, len(idf)))


def _strongest(found: Found) -> tuple[Ints, Ints]:
    """Features and window indices of the strongest exemplars of explain."""
    group = found.top["group"]
    rank = np.arange(len(group)) - np.searchsorted(group, group)  # groups are sorted, best first
    feature, split = np.divmod(group, len(SPLITS))
    chosen = (split == 0) & (rank < _EXEMPLARS)
    return feature[chosen], found.top["window"][chosen]


def _largest(matrix: Floats, k: int, above: float) -> tuple[Ints, Ints, Floats]:
    """Row, column and value of the k largest entries of each row that are over `above`; of equal ones the first."""
    n = matrix.shape[1]
    if n > k:
        least = np.partition(matrix, n - k, axis=1)[:, n - k]
        wanted = (matrix >= least[:, None]) & (matrix > above)
    else:
        wanted = matrix > above
    row, column = np.nonzero(wanted)
    value = matrix[row, column]
    order = np.lexsort((column, -value, row))
    row, column, value = row[order], column[order], value[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < k
    return row[kept], column[kept], value[kept]
