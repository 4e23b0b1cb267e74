"""Bottom-k sketches: for each group, the k entries with the largest keys, in constant memory.

A key decides alone whether an entry stays, so the result does not depend on the order of offers, and the sketch of two
shards merged is exactly the sketch of both. `top` windows are keyed by their highest activation, `sample` windows by
a hash of (seed, window, feature): both are this one structure. See Cohen and Kaplan, "Summarizing data using bottom-k
sketches" (PODC 2007).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glossator.types import WINDOW, Ints

EMPTY = torch.iinfo(torch.int64).min
_CHUNK_GROUPS = 2048


class Sketch:
    """State: key, window [groups, k] int64 and activations [groups, k, WINDOW] float32, all allocated at once."""

    def __init__(self, groups: int, k: int, device: str = "cpu") -> None:
        self.k = k
        self.key = torch.full((groups, k), EMPTY, dtype=torch.int64, device=device)
        self.window = torch.full((groups, k), -1, dtype=torch.int64, device=device)
        self.activations = torch.zeros((groups, k, WINDOW), dtype=torch.float32, device=device)
        self.floor = torch.full((groups,), EMPTY, dtype=torch.int64, device=device)

    def beats(self, group: Tensor, key: Tensor) -> Tensor:
        """[n] bool: which candidates would enter. The one compare that most candidates cost."""
        return key > self.floor[group]

    def offer(self, group: Tensor, key: Tensor, window: Tensor, activations: Tensor) -> None:
        """Merge candidates [n]; keys within a group must differ."""
        if not len(key):
            return
        order = torch.argsort(key, descending=True, stable=True)
        order = order[torch.argsort(group[order], stable=True)]
        group, key, window, activations = group[order], key[order], window[order], activations[order]
        touched, first, counts = _runs(group)
        rank = torch.arange(len(group), device=group.device) - torch.repeat_interleave(first, counts)
        kept = rank < self.k
        row = torch.repeat_interleave(torch.arange(len(touched), device=group.device), counts)
        for begin in range(0, len(touched), _CHUNK_GROUPS):
            end = min(begin + _CHUNK_GROUPS, len(touched))
            here = kept & (row >= begin) & (row < end)
            self._merge(touched[begin:end], row[here] - begin, rank[here], key[here], window[here], activations[here])

    def _merge(
        self, touched: Tensor, row: Tensor, rank: Tensor, key: Tensor, window: Tensor, activations: Tensor
    ) -> None:
        width = int(rank.max()) + 1
        shape = (len(touched), width)
        new_key = torch.full(shape, EMPTY, dtype=torch.int64, device=key.device)
        new_window = torch.full(shape, -1, dtype=torch.int64, device=key.device)
        new_acts = torch.zeros((*shape, WINDOW), dtype=torch.float32, device=key.device)
        new_key[row, rank], new_window[row, rank], new_acts[row, rank] = key, window, activations
        keys = torch.cat([self.key[touched], new_key], 1)
        best, at = torch.topk(keys, self.k, dim=1)
        self.key[touched] = best
        self.window[touched] = torch.cat([self.window[touched], new_window], 1).gather(1, at)
        both = torch.cat([self.activations[touched], new_acts], 1)
        self.activations[touched] = both.gather(1, at[:, :, None].expand(-1, -1, WINDOW))
        self.floor[touched] = best[:, -1]

    def entries(self) -> dict[str, Ints]:
        """What is held, as flat arrays in order of (group, key descending); activations sparse, to save disk."""
        group, slot = torch.nonzero(self.key != EMPTY, as_tuple=True)
        acts = self.activations[group, slot].cpu().numpy()
        row, position = np.nonzero(acts)
        return {
            "group": group.cpu().numpy(),
            "key": self.key[group, slot].cpu().numpy(),
            "window": self.window[group, slot].cpu().numpy(),
            "active": np.bincount(row, minlength=len(acts)).astype(np.uint8),
            "position": position.astype(np.uint8),
            "value": acts[row, position],
        }

    def absorb(self, entries: dict[str, Ints]) -> None:
        """Merge what another sketch's `entries` gave."""
        acts = np.zeros((len(entries["group"]), WINDOW), np.float32)
        row = np.repeat(np.arange(len(acts)), entries["active"])
        acts[row, entries["position"]] = entries["value"]
        self.offer(
            *(torch.from_numpy(np.asarray(x)) for x in (entries["group"], entries["key"], entries["window"], acts))
        )


def _runs(sorted_group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    touched, counts = torch.unique_consecutive(sorted_group, return_counts=True)
    first = torch.cumsum(counts, 0) - counts
    return touched, first, counts


def _signed64(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def mix(value: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, cut to 62 bits, elementwise."""
    x = value + _signed64(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed64(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed64(0x94D049BB133111EB)
    return (x ^ _shift(x, 31)) & ((1 << 62) - 1)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift: int64's own is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def top_key(maximum: Tensor, window: Tensor) -> Tensor:
    """Order by activation, ties by window index: the bits of a positive float32 order as integers."""
    bits = maximum.float().view(torch.int32).to(torch.int64)
    return (bits << 32) | (0xFFFFFFFF - window)


def sample_key(seed: int, window_id: Tensor, feature: Tensor) -> Tensor:
    """A uniform draw that depends on (seed, window, feature) alone."""
    return mix(mix(window_id ^ mix(feature + seed * 0x10001)) + feature)
