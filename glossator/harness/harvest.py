"""The one pass over the corpus: sketches, exact statistics and background, shard by shard, in constant memory.

A shard is a run of documents. What it found is a file, written under a temporary name and renamed, so a killed harvest
goes on after the last finished shard and ends with the same bytes. Shapes are canonical and shards never share a batch.
Only non-zero activations are touched after the encoder: a (window, feature) pair that beats no sketch costs one compare.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glossator.config import HarvestConfig
from glossator.errors import HarvestError
from glossator.harness.contexts import Corpus, mix63
from glossator.harness.dictionary import Dictionary, check_width
from glossator.harness.sketch import Sketch, sample_key, top_key
from glossator.harness.statistics import Statistics, TokenTable
from glossator.harness.subject import Subject, TokenBatch, batches
from glossator.types import SPLITS, WINDOW, Floats, Ints, content_id

Progress = Callable[[int, int], None]  # tokens done, tokens in all
_OUTLIER = 8.0  # times the median norm
_MAX_DENSE = 1 << 26  # elements of the encoder's dense buffer: 256 MB of float32


@dataclass(frozen=True)
class Harvest:
    """What one pass found. Sketch entries and background are flat arrays; statistics are per feature."""

    top: dict[str, Ints]
    sample: dict[str, Ints]
    background: dict[str, Ints]  # window, position, feature, value
    background_windows: Ints  # sorted window indices
    statistics: Statistics
    tokens: dict[str, Ints]  # feature, token, active, total, of the split `explain`
    outlier_tokens: int
    shards: int
    seconds: float
    digest: str


@dataclass(frozen=True)
class LoadingCheck:
    """What the dictionary does on a sample of the corpus, beside what its own config says."""

    l0: float
    variance_explained: float
    stated_l0: float | None
    stated_variance_explained: float | None

    @property
    def summary(self) -> str:
        stated = [f"{x:.2f}" if x is not None else "?" for x in (self.stated_variance_explained, self.stated_l0)]
        return f"variance explained {self.variance_explained:.2f} (its card: {stated[0]}), L0 {self.l0:.1f} (its card: {stated[1]})"

    @property
    def warnings(self) -> list[str]:
        found = []
        if self.variance_explained < 0.3:
            found.append(f"it explains {self.variance_explained:.2f} of the variance: is this the right hook?")
        if (
            self.stated_variance_explained is not None
            and self.variance_explained < self.stated_variance_explained - 0.2
        ):
            found.append(
                f"its card says variance explained {self.stated_variance_explained:.2f}, here it is {self.variance_explained:.2f}"
            )
        if self.stated_l0 and not 0.5 < self.l0 / self.stated_l0 < 2:
            found.append(f"its card says L0 {self.stated_l0:.1f}, here it is {self.l0:.1f}")
        return found


def loading_check(subject: Subject, dictionary: Dictionary, corpus: Corpus, config: HarvestConfig) -> LoadingCheck:
    """Variance explained and L0 on about 8,000 tokens spread over the corpus."""
    check_width(dictionary, subject.d_hook, subject.hook)
    step = max(1, int(corpus.context_length.sum() // 8000))
    picked = [
        corpus.tokens[s : s + n]
        for s, n in zip(corpus.context_start[::step], corpus.context_length[::step], strict=True)
    ]
    acts = torch.cat(
        [subject.activations(b)[b.content].float() for b in batches(picked, subject, batch_tokens=config.batch_tokens)]
    )
    features = torch.cat([dictionary.encode(chunk) for chunk in torch.split(acts, config.encode_tokens)])
    residual = sum(
        float((x - dictionary.decode(f)).square().sum())
        for x, f in zip(
            torch.split(acts, config.encode_tokens), torch.split(features, config.encode_tokens), strict=True
        )
    )
    stated = dictionary.identity().get("stated", {})
    return LoadingCheck(
        float((features > 0).sum(1).float().mean()),
        1 - residual / max(float((acts - acts.mean(0)).square().sum()), 1e-12),
        stated.get("l0"),
        stated.get("variance_explained"),
    )


def harvest(
    subject: Subject,
    dictionary: Dictionary,
    corpus: Corpus,
    config: HarvestConfig,
    folder: Path,
    progress: Progress = lambda done, total: None,
) -> Harvest:
    """Run what is missing, merge all shards. Shard files stay in `folder`; the caller removes them once stored."""
    check_width(dictionary, subject.d_hook, subject.hook)
    if config.threads:
        torch.set_num_threads(config.threads)
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    identity = content_id(subject.identity(), dictionary.identity(), corpus.digest, config.digest())
    background = background_windows(corpus, config)
    ranges = shard_ranges(corpus, config.shard_tokens)
    files = []
    done, total = 0, int(corpus.context_length.sum())
    progress(0, total)
    for number, (begin, end) in enumerate(ranges):
        path = folder / f"shard-{identity}-{number:05d}.npz"
        size = int(corpus.context_length[begin:end].sum())
        if not path.exists():
            pass_ = _Pass(subject, dictionary, corpus, config, background)
            found = pass_.run(begin, end, lambda n, base=done: progress(base + n, total))  # type: ignore[misc]
            _save(path, found)
        done += size
        progress(done, total)
        files.append(path)
    return _merge(files, dictionary.n_features, config, background, time.monotonic() - started)


def shard_ranges(corpus: Corpus, shard_tokens: int) -> list[tuple[int, int]]:
    """Runs of contexts, cut between documents, of about `shard_tokens` tokens."""
    per_document = np.bincount(corpus.context_document, weights=corpus.context_length, minlength=len(corpus.names))
    shard_of = (np.cumsum(per_document) - per_document) // shard_tokens
    bounds = np.flatnonzero(np.diff(shard_of[corpus.context_document])) + 1
    return list(zip([0, *bounds.tolist()], [*bounds.tolist(), len(corpus.context_document)], strict=True))


def background_windows(corpus: Corpus, config: HarvestConfig) -> Ints:
    """A uniform draw of windows from each split, by hash; indices in ascending order."""
    key = mix63(corpus.window_id ^ mix63(np.asarray([config.seed + 77], np.int64)))
    chosen = []
    for number, size in enumerate(config.background):
        members = np.flatnonzero(corpus.window_split == number)
        chosen.append(members[np.argsort(key[members], kind="stable")[:size]])
    return np.sort(np.concatenate(chosen))


class _Pass:
    """The state of one shard."""

    def __init__(
        self,
        subject: Subject,
        dictionary: Dictionary,
        corpus: Corpus,
        config: HarvestConfig,
        background: Ints,
    ) -> None:
        self.subject, self.dictionary, self.corpus, self.config = subject, dictionary, corpus, config
        groups = dictionary.n_features * len(SPLITS)
        self.top = Sketch(groups, config.top)
        self.sample = Sketch(groups, config.top + config.sample)  # what falls to `top` is dropped at the end
        self.statistics = Statistics.empty(dictionary.n_features)
        self.table = TokenTable(len(subject.vocabulary))
        self.is_background = torch.zeros(len(corpus.window_start), dtype=torch.bool)
        self.is_background[torch.from_numpy(background)] = True
        types = (torch.int32, torch.uint8, torch.int32, torch.float32)  # window, position, feature, value
        self.background = [tuple(torch.empty(0, dtype=t) for t in types)]  # a quiet shard has columns and types too
        self.outliers = 0
        self.window_id = torch.from_numpy(corpus.window_id)
        self.window_split = torch.from_numpy(corpus.window_split)
        first = np.searchsorted(corpus.window_context, np.arange(len(corpus.context_start)))
        self.first_window = torch.from_numpy(first)

    def run(self, begin: int, end: int, progress: Callable[[int], None]) -> dict[str, Ints]:
        corpus = self.corpus
        sequences = [
            corpus.tokens[s : s + n]
            for s, n in zip(corpus.context_start[begin:end], corpus.context_length[begin:end], strict=True)
        ]
        done = 0
        for batch in batches(sequences, self.subject, batch_tokens=self.config.batch_tokens):
            self._batch(batch, begin)
            done += int(batch.content.sum())
            progress(done)
        found = {f"top.{k}": v for k, v in self.top.entries().items()}
        found |= {f"sample.{k}": v for k, v in self.sample.entries().items()}
        found |= {f"statistics.{k}": v for k, v in self.statistics.arrays().items()}
        found |= {f"tokens.{k}": v for k, v in self.table.arrays().items()}
        for name, parts in zip(
            ("window", "position", "feature", "value"), zip(*self.background, strict=True), strict=True
        ):
            found[f"background.{name}"] = torch.cat(parts).numpy()
        found["outliers"] = np.asarray([self.outliers])
        return found

    def _batch(self, batch: TokenBatch, begin: int) -> None:
        acts = self.subject.activations(batch)
        rows, width = batch.ids.shape
        context = torch.from_numpy(batch.row_context) + begin
        offset = torch.arange(width) - batch.prefix
        window = (
            self.first_window[context.clamp(min=0)][:, None] + torch.div(offset, WINDOW, rounding_mode="floor")[None, :]
        )
        position = (offset % WINDOW).expand(rows, width)
        content = batch.content.flatten()
        flat = acts.reshape(rows * width, -1)
        norm = flat.float().norm(dim=-1)
        self.outliers += int((norm[content] > _OUTLIER * norm[content].median()).sum())
        per_chunk = max(1, min(self.config.encode_tokens, _MAX_DENSE // self.dictionary.n_features) // width)
        ids, window, position = batch.ids.flatten(), window.flatten(), position.flatten()
        for first in range(0, rows, per_chunk):  # whole rows: no window is torn
            part = slice(first * width, (first + per_chunk) * width)
            piece = flat[part]
            size = len(piece)
            if first + per_chunk > rows:  # the last chunk is filled up: shapes never vary
                piece = torch.cat([piece, piece.new_zeros(per_chunk * width - size, piece.shape[1])])
            encoded = self.dictionary.encode(piece)[:size].masked_fill(~content[part, None], 0)
            least, most = torch.aminmax(encoded)
            if not (least >= 0 and torch.isfinite(most)):  # one pass over the buffer; NaN fails every comparison
                raise HarvestError(self._unusable(encoded, context[first:], width))
            token, feature = torch.nonzero(encoded, as_tuple=True)
            self._chunk(
                encoded[token, feature].float(),
                feature,
                ids[part][token],
                window[part][token],
                position[part][token],
            )

    def _unusable(self, encoded: Tensor, context: Tensor, width: int) -> str:
        usable = torch.isfinite(encoded) & (encoded >= 0)
        row = int(torch.nonzero(~usable)[0, 0]) // width
        name = self.corpus.names[self.corpus.context_document[int(context[row])]]
        if torch.isfinite(encoded).all():
            return f"document {name}: the dictionary gives negative activations; signed features are not supported yet"
        return f"document {name}: the activations are not finite (NaN or infinity); try another dtype"

    def _chunk(self, value: Tensor, feature: Tensor, token: Tensor, window: Tensor, position: Tensor) -> None:
        """Non-zero activations [n] of one chunk. A chunk holds whole rows, so each (window, feature) pair comes once."""
        split = self.window_split[window]
        self.statistics.add(feature, value, split)
        self.table.add(feature[split == 0], token[split == 0], value[split == 0])
        wanted = self.is_background[window]
        if wanted.any():
            self.background.append(
                (window[wanted].int(), position[wanted].to(torch.uint8), feature[wanted].int(), value[wanted])
            )
        pair = window * self.dictionary.n_features + feature
        pair, order = torch.sort(pair, stable=True)
        unique, inverse = torch.unique_consecutive(pair, return_inverse=True)
        value, position = value[order], position[order]
        maximum = torch.zeros(len(unique)).scatter_reduce_(0, inverse, value, "amax")
        feature = unique % self.dictionary.n_features
        window = torch.div(unique, self.dictionary.n_features, rounding_mode="floor")
        split = self.window_split[window]
        self.statistics.add_windows(feature, split)
        group = feature * len(SPLITS) + split
        top = top_key(maximum, window)
        drawn = sample_key(self.config.seed, self.window_id[window], feature)
        into_top, into_sample = self.top.beats(group, top), self.sample.beats(group, drawn)
        either = into_top | into_sample
        slot = torch.full((len(unique),), -1, dtype=torch.int64)
        slot[either] = torch.arange(int(either.sum()))
        dense = torch.zeros(int(either.sum()), WINDOW)
        inside = either[inverse]
        dense[slot[inverse[inside]], position[inside]] = value[inside]
        for sketch, key, enters in ((self.top, top, into_top), (self.sample, drawn, into_sample)):
            sketch.offer(group[enters], key[enters], window[enters], dense[slot[enters]])


def _save(path: Path, arrays: dict[str, Ints]) -> None:
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HarvestError(f"{path}: could not be written ({error.strerror}); free some space and run again") from error


def _load(path: Path) -> dict[str, Ints]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise HarvestError(f"{path}: is no complete shard; delete it and run again") from error


def _merge(files: list[Path], n_features: int, config: HarvestConfig, background: Ints, seconds: float) -> Harvest:
    groups = n_features * len(SPLITS)
    top, sample = Sketch(groups, config.top), Sketch(groups, config.top + config.sample)
    statistics = Statistics.empty(n_features)
    tokens: list[dict[str, Ints]] = []
    parts: list[dict[str, Ints]] = []
    outliers = 0
    for path in files:
        found = _load(path)
        top.absorb(_under(found, "top"))
        sample.absorb(_under(found, "sample"))
        statistics.merge(_under(found, "statistics"))
        tokens.append(_under(found, "tokens"))
        parts.append(_under(found, "background"))
        outliers += int(found["outliers"][0])
    whole = {
        name: np.concatenate([part[name] for part in parts]) for name in ("window", "position", "feature", "value")
    }
    order = np.lexsort((whole["position"], whole["feature"], whole["window"]))
    whole = {name: column[order] for name, column in whole.items()}
    kept_top, kept_sample = top.entries(), without_top(sample.entries(), top.entries(), config.sample)
    table = TokenTable.merged(tokens)
    arrays = [
        *kept_top.values(),
        *kept_sample.values(),
        *whole.values(),
        *statistics.arrays().values(),
        *table.values(),
    ]
    return Harvest(
        kept_top,
        kept_sample,
        whole,
        background,
        statistics,
        table,
        outliers,
        len(files),
        seconds,
        _digest(arrays),
    )


def without_top(sample: dict[str, Ints], top: dict[str, Ints], size: int) -> dict[str, Ints]:
    """The `size` best-keyed entries of each group that are not among its top windows: a uniform draw of the others."""
    span = int(max(sample["window"].max(initial=0), top["window"].max(initial=0))) + 1
    other = ~np.isin(sample["group"] * span + sample["window"], top["group"] * span + top["window"])
    group = sample["group"][other]
    rank = np.arange(len(group)) - np.searchsorted(group, group)  # groups are sorted, best key first
    keep = np.flatnonzero(other)[rank < size]
    entry = np.repeat(np.arange(len(sample["group"])), sample["active"])
    wanted = np.isin(entry, keep)
    slots = {name: sample[name][keep] for name in ("group", "key", "window", "active")}
    return slots | {name: sample[name][wanted] for name in ("position", "value")}


def _under(arrays: dict[str, Ints], prefix: str) -> dict[str, Ints]:
    return {name.removeprefix(f"{prefix}."): array for name, array in arrays.items() if name.startswith(f"{prefix}.")}


def _digest(arrays: list[Any]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def dense_rows(entries: dict[str, Ints]) -> Floats:
    """The activations of sketch entries, [n, WINDOW] float32."""
    acts = np.zeros((len(entries["group"]), WINDOW), np.float32)
    acts[np.repeat(np.arange(len(acts)), entries["active"]), entries["position"]] = entries["value"]
    return acts
