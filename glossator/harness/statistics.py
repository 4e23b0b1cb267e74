"""Exact running statistics of every feature, and the token table, in integers: whatever the order, the same bytes.

Sums are kept in fixed point (units of 2^-24, int64), because adding floating-point numbers in another order gives
another sum, and shards may come in any order and grouping. Sums that come near 2^39 would not fit, and are an error; an
activation below 2^-25 adds nothing. The threshold of a feature comes from a histogram with fixed logarithmic bins (eight
an octave from 2^-16 to 2^16): the lower edge of the highest bin at and above which 90% of the activation mass lies.
What is below 2^-16 is not told apart: a feature with that mass there fires wherever it is active.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from glossator.types import Floats, Ints

BINS = 256
LARGEST = 2.0**30  # an activation beyond it would not fit the fixed point
UNIT = 2.0**-24
_FULL = 2.0**62  # units: no sum gets there, so that adding two never wraps
_PER_OCTAVE = 8
_LOWEST = -16
_MASS = 0.9
_INDEX_BITS = 22


def bin_edges() -> Floats:
    """Lower edges [BINS]; values below the first one count in it."""
    return np.asarray(np.exp2(_LOWEST + np.arange(BINS) / _PER_OCTAVE))


def fixed(value: Tensor) -> Tensor:
    """Activations [n] in units of 2^-24, int64: exact from 1 upwards, within 3e-8 below."""
    return (value.double() / UNIT).round_().long()


def bin_of(value: Tensor) -> Tensor:
    """[n] float32 -> the bin in which each lies; what is beyond the bins counts in the first and the last."""
    near = ((torch.log2(value) - _LOWEST) * _PER_OCTAVE).clamp_(0, BINS - 1).long()  # within one: single precision
    lower, upper = _bounds(value.device)
    near += (value >= upper.index_select(0, near)).long()
    near -= (value < lower.index_select(0, near)).long()
    return near


@lru_cache
def _bounds(device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each bin the least float32 that is at or above its edge, so that comparing is exact, and that of the next bin."""
    edges = bin_edges()
    single = edges.astype(np.float32)
    least = np.where(single < edges, np.nextafter(single, np.float32(np.inf)), single)
    least[0] = 0
    return torch.from_numpy(least).to(device), torch.from_numpy(np.append(least[1:], np.float32(np.inf))).to(device)


@dataclass
class Statistics:
    """All arrays per feature; active tokens and windows are by split. `histogram` and `mass` are of the split explain."""

    active_tokens: Tensor  # [F, 3] int64
    active_windows: Tensor  # [F, 3] int64
    total: Tensor  # [F] fixed point
    maximum: Tensor  # [F] float32
    least: Tensor  # [F] smallest positive, inf where never active
    histogram: Tensor  # [F, BINS] int64
    mass: Tensor  # [F, BINS] fixed point

    @classmethod
    def empty(cls, n: int, device: str = "cpu") -> Statistics:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.int64, device=device)

        return cls(
            zeros(n, 3), zeros(n, 3), zeros(n), torch.zeros(n, device=device),
            torch.full((n,), float("inf"), device=device), zeros(n, BINS), zeros(n, BINS),
        )  # fmt: skip

    def add(self, feature: Tensor, value: Tensor, split: Tensor) -> None:
        """Non-zero activations [n] of tokens, float32. Raises OverflowError before a sum could wrap: no cell exceeds `total`."""
        if not len(value):
            return
        n = len(self.total)
        counts = torch.bincount(feature * 3 + split, minlength=3 * n).view(n, 3)
        _check_sums(self.total.max().double() + counts.sum(1).max() * (value.max().double() / UNIT))
        whole = fixed(value)
        self.active_tokens += counts
        self.total.index_add_(0, feature, whole)
        self.maximum.scatter_reduce_(0, feature, value, "amax")
        self.least.scatter_reduce_(0, feature, value, "amin")
        of = torch.nonzero(split == 0)[:, 0]
        cell = feature.index_select(0, of) * BINS + bin_of(value.index_select(0, of))
        self.histogram.view(-1).index_add_(0, cell, torch.ones_like(cell))
        self.mass.view(-1).index_add_(0, cell, whole.index_select(0, of))

    def add_windows(self, active: Tensor, split: Tensor) -> None:
        """Which features [windows, F] are active in each window, bool, and the splits of these windows."""
        for number in range(3):
            self.active_windows[:, number] += active[split == number].sum(0)

    def arrays(self) -> dict[str, Ints]:
        return {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}

    def merge(self, other: dict[str, Ints]) -> None:
        """Raises OverflowError where the sums together would be too large."""
        _check_sums((self.total.double() + torch.from_numpy(other["total"]).to(self.total.device)).max())
        for name, array in other.items():
            mine = getattr(self, name)
            theirs = torch.from_numpy(array).to(mine.device)
            if name == "maximum":
                torch.maximum(mine, theirs, out=mine)
            elif name == "least":
                torch.minimum(mine, theirs, out=mine)
            else:
                mine += theirs

    def sums(self) -> Floats:
        """[F] summed activation over all splits."""
        return np.asarray(self.total.cpu().numpy() * UNIT)

    def thresholds(self) -> Floats:
        """[F]: the largest bin edge at or above which tokens carry 90% of the mass in explain.

        A feature whose edge is the lowest, below which bins tell nothing apart, or that is active in other splits alone
        has its smallest activation; one that is never active 0.
        """
        mass = self.mass.cpu().numpy().astype(np.float64)
        above = np.cumsum(mass[:, ::-1], 1)[:, ::-1]
        whole = above[:, :1]
        enough = (above >= _MASS * whole) & (whole > 0)
        highest = BINS - 1 - np.argmax(enough[:, ::-1], 1)
        least = self.least.cpu().numpy().astype(np.float64)
        edge = np.where(highest > 0, bin_edges()[highest], np.minimum(bin_edges()[0], least))
        return np.where(enough.any(1), edge, np.where(np.isfinite(least), least, 0.0))

    def quantiles(self, shares: Sequence[float]) -> Floats:
        """[F, len(shares)] of the positive activations in explain: middles of bins, so within 4.5%; 0 where there are none."""
        counts = np.cumsum(self.histogram.cpu().numpy(), 1)
        whole = counts[:, -1]
        middle = bin_edges() * 2 ** (0.5 / _PER_OCTAVE)
        least, most = self.least.cpu().numpy().astype(np.float64), self.maximum.cpu().numpy().astype(np.float64)
        columns = [np.argmax(counts >= np.ceil(share * whole)[:, None], 1) for share in shares]
        found = np.clip(middle[np.stack(columns, 1)], np.minimum(least, most)[:, None], most[:, None])
        return np.where(whole[:, None] > 0, found, 0.0)


def _check_sums(largest: Tensor) -> None:
    if largest >= _FULL:
        raise OverflowError(
            f"activations add up to as much as {float(largest) * UNIT:.2g}, too large for exact sums; rescale the dictionary"
        )


class TokenTable:
    """How often and how strongly each feature is active on each token: sorted runs that are merged as they grow."""

    def __init__(self, vocabulary: int, compact_at: int = 1 << _INDEX_BITS) -> None:
        self._vocabulary, self._compact_at = vocabulary, compact_at
        self._key = np.empty(compact_at, np.int64)
        self._value = np.empty(compact_at, np.float32)
        self._size = 0
        self._runs: list[tuple[Ints, Ints, Ints]] = []

    def add(self, feature: Tensor, token: Tensor, value: Tensor) -> None:
        key, strength = (feature * self._vocabulary + token).cpu().numpy(), value.cpu().numpy()
        at = 0
        while at < len(key):
            n = min(len(key) - at, self._compact_at - self._size)
            here = slice(self._size, self._size + n)
            self._key[here], self._value[here] = key[at : at + n], strength[at : at + n]
            self._size, at = self._size + n, at + n
            if self._size == self._compact_at:
                self._compact()

    def _compact(self) -> None:
        n = self._size
        packed = np.sort((self._key[:n] << _INDEX_BITS) | np.arange(n))  # numpy sorts integers far faster than indices
        value = fixed(torch.from_numpy(self._value[packed & ((1 << _INDEX_BITS) - 1)])).numpy()
        key = packed >> _INDEX_BITS
        first = _firsts(key)
        self._runs.append((key[first], np.diff(first, append=n), np.add.reduceat(value, first)))
        self._size = 0
        while len(self._runs) > 1 and len(self._runs[-2][0]) <= 2 * len(self._runs[-1][0]):
            self._runs[-2:] = [_joined(self._runs[-2:])]

    def arrays(self) -> dict[str, Ints]:
        """feature and token, sorted; active; total in fixed point."""
        if self._size:
            self._compact()
        self._runs = [_joined(self._runs)]
        return _columns(*self._runs[0], self._vocabulary)

    @staticmethod
    def merged(tables: Sequence[dict[str, Ints]]) -> dict[str, Ints]:
        span = 1 + max((int(t["token"].max(initial=0)) for t in tables), default=0)
        return _columns(
            *_joined([(t["feature"].astype(np.int64) * span + t["token"], t["active"], t["total"]) for t in tables]),
            span,
        )


def _columns(key: Ints, active: Ints, total: Ints, span: int) -> dict[str, Ints]:
    feature, token = np.divmod(key, span)
    return {"feature": feature.astype(np.int32), "token": token.astype(np.int32), "active": active, "total": total}


def _joined(runs: Sequence[tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints, Ints]:
    if not runs:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int64)
    key, active, total = (np.concatenate(columns) for columns in zip(*runs, strict=True))
    order = np.argsort(key, kind="stable")  # runs are sorted: this merges them
    key = key[order]
    if not len(key):
        return key, active, total
    first = _firsts(key)
    return key[first], np.add.reduceat(active[order], first), np.add.reduceat(total[order], first)


def _firsts(key: Ints) -> Ints:
    """Where each new key begins in a sorted array that is not empty."""
    return np.concatenate([[0], np.flatnonzero(key[1:] != key[:-1]) + 1])


def entropy(feature: Ints, total: Floats, n_features: int) -> Floats:
    """[F] entropy in bits of the share of activation mass that each token carries."""
    whole = np.bincount(feature, total, minlength=n_features)
    share = total / np.maximum(whole[feature], 1e-300)
    return np.asarray(np.bincount(feature, -share * np.log2(np.maximum(share, 1e-300)), minlength=n_features))
