"""Exact running statistics of every feature, and the token table. Sums are float64; shards are added in their order.

The threshold of a feature comes from a histogram with fixed logarithmic bins (eight an octave from 2^-16 to 2^16), so
that it can be merged: the lower edge of the highest bin at and above which 90% of the activation mass lies.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from glossator.types import Floats, Ints

BINS = 256
_PER_OCTAVE = 8
_LOWEST = -16
_MASS = 0.9
_COMPACT = 4_000_000


def bin_of(value: Tensor) -> Tensor:
    """In float64: float32's logarithm puts some values above an edge that they are below, and they would not fire."""
    return ((torch.log2(value.double()) - _LOWEST) * _PER_OCTAVE).floor().clamp(0, BINS - 1).long()


def bin_edges() -> Floats:
    """Lower edges [BINS]."""
    return np.asarray(np.exp2(_LOWEST + np.arange(BINS) / _PER_OCTAVE))


@dataclass
class Statistics:
    """All arrays per feature; `by split` is [features, 3]. `histogram` and `mass` are of the split explain."""

    active_tokens: Tensor  # [F, 3]
    active_windows: Tensor  # [F, 3]
    total: Tensor  # [F] float64
    squares: Tensor  # [F] float64
    maximum: Tensor  # [F]
    least: Tensor  # [F] smallest positive, inf where never active
    histogram: Tensor  # [F, BINS]
    mass: Tensor  # [F, BINS] float64

    @classmethod
    def empty(cls, n: int) -> Statistics:
        whole, real = torch.int64, torch.float64
        return cls(
            torch.zeros(n, 3, dtype=whole), torch.zeros(n, 3, dtype=whole), torch.zeros(n, dtype=real),
            torch.zeros(n, dtype=real), torch.zeros(n), torch.full((n,), float("inf")),
            torch.zeros(n, BINS, dtype=whole), torch.zeros(n, BINS, dtype=real),
        )  # fmt: skip

    def add(self, feature: Tensor, value: Tensor, split: Tensor) -> None:
        """Non-zero activations [n] of tokens."""
        n = len(self.total)
        wide = value.double()
        self.active_tokens += torch.bincount(feature * 3 + split, minlength=3 * n).view(n, 3)
        self.total += torch.bincount(feature, wide, minlength=n)
        self.squares += torch.bincount(feature, wide * wide, minlength=n)
        self.maximum.scatter_reduce_(0, feature, value, "amax")
        self.least.scatter_reduce_(0, feature, value, "amin")
        of = split == 0
        cell = feature[of] * BINS + bin_of(value[of])
        self.histogram.view(-1).index_add_(0, cell, torch.ones_like(cell))
        self.mass.view(-1).index_add_(0, cell, wide[of])

    def add_windows(self, feature: Tensor, split: Tensor) -> None:
        """(window, feature) pairs [n] in which the feature is active."""
        n = len(self.total)
        self.active_windows += torch.bincount(feature * 3 + split, minlength=3 * n).view(n, 3)

    def arrays(self) -> dict[str, Ints]:
        return {f.name: getattr(self, f.name).numpy() for f in fields(self)}

    def merge(self, other: dict[str, Ints]) -> None:
        for name, array in other.items():
            mine, theirs = getattr(self, name), torch.from_numpy(array)
            if name == "maximum":
                torch.maximum(mine, theirs, out=mine)
            elif name == "least":
                torch.minimum(mine, theirs, out=mine)
            else:
                mine += theirs

    def thresholds(self) -> Floats:
        """[F]: the largest bin edge at or above which tokens carry 90% of the mass in explain; the maximum's share elsewhere."""
        mass = self.mass.numpy()
        above = np.cumsum(mass[:, ::-1], 1)[:, ::-1]
        whole = above[:, :1]
        enough = (above >= _MASS * whole) & (whole > 0)
        highest = BINS - 1 - np.argmax(enough[:, ::-1], 1)
        return np.where(enough.any(1), bin_edges()[highest], 0.0)


class TokenTable:
    """How often and how strongly each feature is active on each token: exact, compacted as it grows."""

    def __init__(self, vocabulary: int, compact_at: int = _COMPACT) -> None:
        self._vocabulary, self._compact_at = vocabulary, compact_at
        self._waiting: list[tuple[Ints, Ints, Ints]] = []
        self._size = 0

    def add(self, feature: Tensor, token: Tensor, value: Tensor) -> None:
        key = (feature * self._vocabulary + token).numpy()
        self._waiting.append((key, np.ones(len(key), np.int64), value.double().numpy()))
        self._size += len(key)
        if self._size > self._compact_at:
            self._waiting = [_summed(self._waiting)]
            self._size = len(self._waiting[0][0]) // 2  # a full table is not compacted again at once

    def arrays(self) -> dict[str, Ints]:
        key, active, total = _summed(self._waiting)
        return {
            "feature": key // self._vocabulary,
            "token": key % self._vocabulary,
            "active": active,
            "total": total,
        }

    @staticmethod
    def merged(tables: list[dict[str, Ints]]) -> dict[str, Ints]:
        span = 1 + max((int(t["token"].max(initial=0)) for t in tables), default=0)
        key, active, total = _summed([(t["feature"] * span + t["token"], t["active"], t["total"]) for t in tables])
        return {"feature": key // span, "token": key % span, "active": active, "total": total}


def _summed(parts: list[tuple[Ints, Ints, Ints]]) -> tuple[Ints, Ints, Ints]:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    key = np.concatenate([p[0] for p in parts])
    unique, inverse = np.unique(key, return_inverse=True)
    active = np.bincount(inverse, np.concatenate([p[1] for p in parts]), minlength=len(unique)).astype(np.int64)
    total = np.bincount(inverse, np.concatenate([p[2] for p in parts]), minlength=len(unique))
    return unique, active, total


def entropy(feature: Ints, total: Floats, n_features: int) -> Floats:
    """[F] entropy in bits of the share of activation mass that each token carries."""
    whole = np.bincount(feature, total, minlength=n_features)
    share = total / np.maximum(whole[feature], 1e-300)
    return np.asarray(np.bincount(feature, -share * np.log2(np.maximum(share, 1e-300)), minlength=n_features))
