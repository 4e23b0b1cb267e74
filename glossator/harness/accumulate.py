"""What one pass keeps of one dictionary: sketches, statistics, token table and background, in memory that never grows.

Activations of content tokens come in canonical batches and are encoded in chunks of a constant number of tokens, packed
from whole windows: shapes never vary, padding costs nothing, and each (window, feature) pair comes once. After the encoder
only non-zero activations are touched; those that beat no sketch are not even sorted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from glossator.config import HarvestConfig
from glossator.errors import HarvestError
from glossator.harness.dictionary import MAX_DENSE, Dictionary
from glossator.harness.sketch import Sketch, feature_salt, rows_at, sample_key, top_key
from glossator.harness.statistics import LARGEST, Statistics, TokenTable
from glossator.types import SPLITS, WINDOW, Ints


@contextmanager
def exact_sums(dictionary: Dictionary) -> Iterator[None]:
    """Sums that do not fit are an error that names the dictionary."""
    try:
        yield
    except OverflowError as error:
        raise HarvestError(f"dictionary {dictionary.name}: {error}") from error


@dataclass(frozen=True)
class Tokens:
    """Content tokens [n] in order: what they are and where they stand. `counted`: by the token table; all on one device."""

    token: Tensor
    window: Tensor  # index in the corpus
    window_id: Tensor
    position: Tensor  # within the window
    split: Tensor
    counted: Tensor

    def __len__(self) -> int:
        return len(self.token)

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(*(getattr(self, f.name)[part] for f in fields(self)))

    @staticmethod
    def joined(one: Tokens, two: Tokens) -> Tokens:
        return Tokens(*(torch.cat([getattr(one, f.name), getattr(two, f.name)]) for f in fields(one)))


class Accumulator:
    """The state of one dictionary. `name_of(window)` names a window's document, for errors."""

    def __init__(
        self,
        dictionary: Dictionary,
        vocabulary: int,
        config: HarvestConfig,
        name_of: Callable[[int], str],
    ) -> None:
        self.dictionary, self._name_of = dictionary, name_of
        n, device = dictionary.n_features, config.device
        groups = n * len(SPLITS)
        self.top = Sketch(groups, config.top, device)
        self.sample = Sketch(groups, config.top + config.sample, device)  # what falls to `top` is dropped at the end
        self.statistics = Statistics.empty(n, device)
        self.table = TokenTable(vocabulary)
        self._salt = feature_salt(config.seed, n, device)
        types = (torch.int32, torch.uint8, torch.int32, torch.float32)  # window, position, feature, value
        self._background = [tuple(torch.empty(0, dtype=t) for t in types)]  # a quiet shard has columns and types too
        self._kept_whole = torch.zeros(0, dtype=torch.bool, device=device)
        self.chunk = max(WINDOW, min(config.encode_tokens, MAX_DENSE // n) // WINDOW * WINDOW)
        self._waiting: tuple[Tensor, Tokens] | None = None

    def keep_whole(self, windows: Ints, n_windows: int) -> None:
        """The background windows [n], of which every activation is kept."""
        whole = torch.zeros(n_windows, dtype=torch.bool)
        whole[torch.from_numpy(windows)] = True
        self._kept_whole = whole.to(self._salt.device)

    def take(self, activations: Tensor, tokens: Tokens) -> None:
        """Activations [n, d_in] of content tokens: encoded as soon as a chunk is full."""
        if self._waiting is not None:
            activations = torch.cat([self._waiting[0], activations])
            tokens = Tokens.joined(self._waiting[1], tokens)
        begin = 0
        while len(tokens) - begin > self.chunk:
            end = self._cut(tokens.window[begin : begin + self.chunk + 1])
            self._encode(activations[begin : begin + end], tokens[begin : begin + end])
            begin += end
        self._waiting = activations[begin:], tokens[begin:]

    def flush(self) -> None:
        """Encode what waits. Called at the end of a shard: chunks, like batches, never cross shards."""
        if self._waiting is not None and len(self._waiting[1]):
            self._encode(*self._waiting)
        self._waiting = None

    def arrays(self) -> dict[str, Ints]:
        """The whole state, as flat arrays."""
        found = {f"top.{k}": v for k, v in self.top.entries().items()}
        found |= {f"sample.{k}": v for k, v in self.sample.entries().items()}
        found |= {f"statistics.{k}": v for k, v in self.statistics.arrays().items()}
        found |= {f"tokens.{k}": v for k, v in self.table.arrays().items()}
        self._background = [tuple(torch.cat(column) for column in zip(*self._background, strict=True))]
        names = ("window", "position", "feature", "value")
        return found | {f"background.{k}": column.numpy() for k, column in zip(names, self._background[0], strict=True)}

    @staticmethod
    def _cut(window: Tensor) -> int:
        """How many of the first chunk + 1 tokens make whole windows."""
        last = torch.nonzero(window[:-1] != window[1:])
        return int(last[-1]) + 1

    def _encode(self, activations: Tensor, tokens: Tokens) -> None:
        n = len(tokens)
        if n < self.chunk:  # filled up: shapes never vary
            activations = torch.cat([activations, activations.new_zeros(self.chunk - n, activations.shape[1])])
        at, feature, value = self.dictionary.active(activations)
        if n < self.chunk:
            real = at < n
            at, feature, value = at[real], feature[real], value[real]
        if not len(value):
            return
        least, most = torch.aminmax(value)
        if not (least > 0 and most < LARGEST):  # NaN fails every comparison
            raise HarvestError(self._unusable(at, value, tokens))
        self._add(at, feature, value, tokens)

    def _unusable(self, at: Tensor, value: Tensor, tokens: Tokens) -> str:
        first = int(torch.nonzero(~((value > 0) & (value < LARGEST)))[0])
        where = f"document {self._name_of(int(tokens.window[at[first]]))}, dictionary {self.dictionary.name}"
        if not torch.isfinite(value[first]):
            return f"{where}: the activations are not finite (NaN or infinity); try another dtype"
        if value[first] < 0:
            return f"{where}: gives negative activations, though its features are not signed; name another architecture"
        return f"{where}: an activation of {float(value[first]):.3g} is beyond {LARGEST:.3g}; rescale the dictionary"

    def _add(self, at: Tensor, feature: Tensor, value: Tensor, tokens: Tokens) -> None:
        """Positive activations [n] of one chunk, at tokens `at` [n]."""
        n_features = self.dictionary.n_features
        split, window, window_id = rows_at(at, tokens.split, tokens.window, tokens.window_id)
        with exact_sums(self.dictionary):
            self.statistics.add(feature, value, split)
        if tokens.counted.any():
            counted = torch.nonzero(tokens.counted.index_select(0, at))[:, 0]
            self.table.add(*rows_at(counted, feature, tokens.token.index_select(0, at), value))
        whole = self._kept_whole.index_select(0, tokens.window)
        if whole.any():
            kept = torch.nonzero(whole.index_select(0, at))[:, 0]
            columns = rows_at(
                kept, window.int(), tokens.position.index_select(0, at).to(torch.uint8), feature.int(), value
            )
            self._background.append(tuple(column.cpu() for column in columns))
        begins = torch.ones_like(tokens.window, dtype=torch.bool)
        begins[1:] = tokens.window[1:] != tokens.window[:-1]
        local = begins.cumsum(0) - 1  # of each token: its window's number in this chunk
        pair = local.index_select(0, at) * n_features + feature
        active = torch.zeros(int(local[-1]) + 1, n_features, dtype=torch.bool, device=value.device)
        active.view(-1).index_fill_(0, pair, True)
        self.statistics.add_windows(active, tokens.split[begins])
        group = feature * len(SPLITS) + split
        drawn = sample_key(self._salt, window_id, feature)
        enters = self.top.beats(group, top_key(value, window)) | self.sample.beats(group, drawn)
        active.zero_().view(-1).index_fill_(0, pair[enters], True)  # a pair enters with all of its tokens
        chosen = torch.nonzero(active.view(-1).index_select(0, pair))[:, 0]
        if len(chosen):
            pair, value, at = rows_at(chosen, pair, value, at)
            self._offer(pair, value, tokens.position.index_select(0, at), tokens, begins)

    def _offer(self, pair: Tensor, value: Tensor, position: Tensor, tokens: Tokens, begins: Tensor) -> None:
        unique, inverse = torch.unique(pair, return_inverse=True)
        dense = torch.zeros(len(unique), WINDOW, device=value.device)
        dense[inverse, position] = value
        n_features = self.dictionary.n_features
        local, feature = torch.div(unique, n_features, rounding_mode="floor"), unique % n_features
        window, window_id, split = (x[begins][local] for x in (tokens.window, tokens.window_id, tokens.split))
        group = feature * len(SPLITS) + split
        for sketch, key in (
            (self.top, top_key(dense.amax(1), window)),
            (self.sample, sample_key(self._salt, window_id, feature)),
        ):
            enters = torch.nonzero(sketch.beats(group, key))[:, 0]
            sketch.queue(*rows_at(enters, group, key, window, dense))
