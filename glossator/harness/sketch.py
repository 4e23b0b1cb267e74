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
_PIECE = 1 << 16


class Sketch:
    """State: key [groups, k] int64, window [groups, k] int32, activations [groups, k, WINDOW] float32, all allocated at once.

    The first `filled` slots of a group are in use, in no order. `floor` and `worst` are the smallest key of a full group and
    its slot: what a candidate must beat, and what it takes the place of. A group with free slots takes whatever comes.
    """

    def __init__(self, groups: int, k: int, device: str = "cpu") -> None:
        self.k = k
        self.key = torch.full((groups, k), EMPTY, dtype=torch.int64, device=device)
        self.window = torch.full((groups, k), -1, dtype=torch.int32, device=device)
        self.activations = torch.zeros((groups, k, WINDOW), dtype=torch.float32, device=device)
        self.filled = torch.zeros(groups, dtype=torch.int64, device=device)
        self.floor = torch.full((groups,), EMPTY, dtype=torch.int64, device=device)
        self.worst = torch.zeros(groups, dtype=torch.int64, device=device)
        self._queue: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._queued = 0

    def beats(self, group: Tensor, key: Tensor) -> Tensor:
        """[n] bool: which candidates would enter. The one compare that most candidates cost."""
        return key > self.floor.index_select(0, group)

    def queue(self, group: Tensor, key: Tensor, window: Tensor, activations: Tensor) -> None:
        """`offer`, later: many candidates at once cost far less each, and floors that are a little old let few more in."""
        self._queue.append((group, key, window, activations))
        self._queued += len(group)
        if self._queued > _PIECE:
            self.settle()

    def settle(self) -> None:
        """Offer all that waits."""
        waiting, self._queue, self._queued = self._queue, [], 0
        if waiting:
            self.offer(*(torch.cat(column) for column in zip(*waiting, strict=True)))

    def offer(self, group: Tensor, key: Tensor, window: Tensor, activations: Tensor) -> None:
        """Merge candidates [n]; keys within a group must differ."""
        if not len(key):
            return
        order = torch.argsort(key, descending=True, stable=True)
        order = order[torch.argsort(group.index_select(0, order), stable=True)]
        group, key = group.index_select(0, order), key.index_select(0, order)
        touched, first, counts = _runs(group)
        filled = self.filled[touched]
        rank = torch.arange(len(group), device=group.device) - torch.repeat_interleave(first, counts)
        slot = torch.repeat_interleave(filled, counts) + rank
        free = torch.nonzero(slot < self.k)[:, 0]
        self._put(group[free], slot[free], key[free], *rows_at(order[free], window, activations))
        taken = torch.minimum(counts, self.k - filled)
        self.filled[touched] = filled + taken
        grown = touched[(taken > 0) & (filled + taken == self.k)]
        self.floor[grown], self.worst[grown] = self.key.index_select(0, grown).min(1)
        left = counts > taken
        touched, at, end = touched[left], (first + taken)[left], (first + counts)[left]
        while len(at):  # the next best candidate of every group at once; whoever comes after is worse still
            enters = key[at] > self.floor[touched]
            touched, at, end = touched[enters], at[enters], end[enters]
            self._put(touched, self.worst[touched], key[at], *rows_at(order[at], window, activations))
            self.floor[touched], self.worst[touched] = self.key.index_select(0, touched).min(1)
            more = at + 1 < end
            touched, at, end = touched[more], at[more] + 1, end[more]

    def _put(self, group: Tensor, slot: Tensor, key: Tensor, window: Tensor, activations: Tensor) -> None:
        at = group * self.k + slot
        self.key.view(-1).index_copy_(0, at, key)
        self.window.view(-1).index_copy_(0, at, window.int())
        self.activations.view(-1, WINDOW).index_copy_(0, at, activations)

    def entries(self) -> dict[str, Ints]:
        """What is held, as flat arrays in order of (group, key descending); activations sparse, to save disk."""
        self.settle()
        group, slot = torch.nonzero(self.key != EMPTY, as_tuple=True)
        key = self.key[group, slot]
        order = torch.argsort(key, descending=True, stable=True)
        order = order[torch.argsort(group[order], stable=True)]
        group, slot, key = group[order], slot[order], key[order]
        active, position, value = [], [], []
        for piece in torch.split(torch.arange(len(group), device=group.device), _PIECE):
            acts = self.activations[group[piece], slot[piece]]
            row, where = torch.nonzero(acts, as_tuple=True)
            active.append(torch.bincount(row, minlength=len(piece)).to(torch.uint8).cpu())
            position.append(where.to(torch.uint8).cpu())
            value.append(acts[row, where].cpu())
        empty = (torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8), torch.empty(0))
        sparse = [torch.cat([e, *x]).numpy() for e, x in zip(empty, (active, position, value), strict=True)]
        return {
            "group": group.int().cpu().numpy(),
            "key": key.cpu().numpy(),
            "window": self.window[group, slot].cpu().numpy(),
        } | dict(zip(("active", "position", "value"), sparse, strict=True))

    def absorb(self, entries: dict[str, Ints]) -> None:
        """Merge what another sketch's `entries` gave, a piece at a time."""
        begins = np.concatenate([[0], np.cumsum(entries["active"], dtype=np.int64)])
        for a in range(0, len(entries["group"]), _PIECE):
            b = min(a + _PIECE, len(entries["group"]))
            sparse = slice(begins[a], begins[b])
            acts = np.zeros((b - a, WINDOW), np.float32)
            row = np.repeat(np.arange(b - a), entries["active"][a:b])
            acts[row, entries["position"][sparse]] = entries["value"][sparse]
            group, key, window = (torch.from_numpy(entries[n][a:b]) for n in ("group", "key", "window"))
            self.offer(group.long(), key, window, torch.from_numpy(acts))


def rows_at(index: Tensor, *columns: Tensor) -> list[Tensor]:
    """`column[index]` of each: index_select, which is some times faster on a CPU."""
    return [column.index_select(0, index) for column in columns]


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


def feature_salt(seed: int, n_features: int, device: str = "cpu") -> Tensor:
    """[F]: what each feature brings to the draw."""
    return mix(torch.arange(n_features, device=device) + seed * 0x10001)


def sample_key(salt: Tensor, window_id: Tensor, feature: Tensor) -> Tensor:
    """A uniform draw that depends on (seed, window, feature) alone; `salt` [F] from `feature_salt`."""
    return mix(mix(window_id ^ salt.index_select(0, feature)) + feature)
