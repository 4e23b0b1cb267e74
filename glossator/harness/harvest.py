"""The one pass over the corpus: forward pass, all dictionaries at their hooks, and what is kept of them, shard by shard.

A shard is a run of documents, and the smallest piece of work: batches and chunks never cross shards, so the same shards give
the same bytes whatever process ran them. What a process found lies in parts (see parts.py); merging them is exact.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glossator.config import HarvestConfig
from glossator.errors import HarvestError
from glossator.harness.accumulate import Accumulator, Tokens, exact_sums
from glossator.harness.contexts import Corpus, mix63
from glossator.harness.dictionary import Dictionary, check_width
from glossator.harness.loading import LoadingCheck, loading_check
from glossator.harness.parts import FORMAT, About, load, missing, part_path, parts_in, save, sweep
from glossator.harness.sketch import Sketch
from glossator.harness.statistics import UNIT, Statistics, TokenTable
from glossator.harness.subject import Subject, TokenBatch, batches
from glossator.types import SPLITS, WINDOW, Bools, Floats, Ints, Vocabulary, content_id

Progress = Callable[[int, int], None]  # tokens done, tokens in all
_OUTLIER = 8.0  # times the median norm
_DENSE = 128  # active features of a token beyond which fewer windows are kept whole
_LEAST_DRAWN = 64
_PATIENCE = 50  # a part is written when the work since the last one took this many times as long as writing it
_SHAPES = ("top", "sample", "background", "token_windows", "batch_tokens", "encode_tokens", "shard_tokens", "seed")


@dataclass(frozen=True)
class Found:
    """What one pass found of one dictionary. Sketch entries and background are flat arrays; statistics are per feature."""

    top: dict[str, Ints]
    sample: dict[str, Ints]
    background: dict[str, Ints]  # window, position, feature, value
    background_windows: Ints  # sorted window indices
    statistics: Statistics
    tokens: dict[str, Ints]  # feature, token, active, total, in the windows that `token_windows` draws
    outlier_tokens: int
    digest: str


@dataclass(frozen=True)
class Harvest:
    """What one pass found: of each dictionary, in their order."""

    found: tuple[Found, ...]
    token_windows: Bools  # [n_windows] whose tokens are counted by feature
    shards: int
    seconds: float  # of work, added up over processes


@dataclass(frozen=True)
class Work:
    """What a pass needs. Equal `about.made_of` give equal results, to the bit where `about.made_by` is equal too."""

    subject: Subject
    dictionaries: Sequence[Dictionary]
    corpus: Corpus
    config: HarvestConfig
    recipe: str | None = None

    def __post_init__(self) -> None:
        for dictionary in self.dictionaries:
            check_width(dictionary, self.subject.widths[dictionary.hook], dictionary.hook)

    @cached_property
    def ranges(self) -> list[tuple[int, int]]:
        return shard_ranges(self.corpus, self.config.shard_tokens)

    @cached_property
    def about(self) -> About:
        shapes = {name: value for name, value in self.config.model_dump(mode="json").items() if name in _SHAPES}
        subject = {k: v for k, v in self.subject.identity().items() if k not in ("model", "path", "hook", "hooks")}
        dictionaries = [
            {k: v for k, v in d.identity().items() if k not in ("dictionary", "source")} | {"reads": d.hook}
            for d in self.dictionaries
        ]
        shapes["l0"] = [self.l0(d) for d in self.dictionaries]
        made_of = {
            "subject": content_id(subject),
            "dictionary": content_id(dictionaries),
            "corpus": self.corpus.digest,
            "shape or seed": content_id(shapes),
            "format of parts": str(FORMAT),
        }
        threads = self.config.threads or torch.get_num_threads()
        device = self.config.device.split(":")[0]
        made_by = {"torch": torch.__version__, "device": device, "threads": str(threads)}
        return About(made_of, made_by, len(self.ranges), self.recipe)

    @cached_property
    def token_windows(self) -> Bools:
        """What all dictionaries' token tables count: fewer windows where one of them is dense."""
        size = min(_sized(self.config.token_windows, self.l0(dictionary)) for dictionary in self.dictionaries)
        return token_windows(self.corpus, self.config.model_copy(update={"token_windows": size}))

    def background(self, dictionary: Dictionary) -> Ints:
        """The background windows of one dictionary: the first of the draw where it is dense."""
        sizes = tuple(_sized(size, self.l0(dictionary)) for size in self.config.background)
        return background_windows(self.corpus, self.config.model_copy(update={"background": sizes}))

    def check(self, dictionary: Dictionary) -> LoadingCheck:
        """What one of the dictionaries does on a sample of the corpus, the same in every process; measured once."""
        if dictionary.name not in self._checks:
            self._checks[dictionary.name] = loading_check(self.subject, dictionary, self.corpus, self.config)
        return self._checks[dictionary.name]

    @cached_property
    def _checks(self) -> dict[str, LoadingCheck]:
        return {}

    def l0(self, dictionary: Dictionary) -> float:
        """Active features a token: as the dictionary states it, or as measured, up to a power of two so that rounding moves nothing."""
        if dictionary.expected_l0 is not None:
            return dictionary.expected_l0
        if dictionary.n_features <= _DENSE:  # whatever it is, nothing depends on it
            return float(dictionary.n_features)
        return 2.0 ** math.ceil(math.log2(max(self.check(dictionary).l0, 1.0)))

    @cached_property
    def _counted(self) -> Ints:
        """[n_contexts + 1] tokens before each context that are not special: the others are masked."""
        return np.concatenate([[0], np.cumsum(counted_tokens(self.corpus, self.subject.vocabulary))])

    @property
    def n_tokens(self) -> int:
        return int(self._counted[-1])

    def tokens_in(self, first: int, last: int) -> int:
        """Tokens in the shards [first, last)."""
        if first == last:
            return 0
        return int(self._counted[self.ranges[last - 1][1]] - self._counted[self.ranges[first][0]])


def harvest(work: Work, folder: Path, progress: Progress = lambda done, total: None) -> Harvest:
    """Run what is missing, merge all parts. Parts stay in `folder`; the caller removes them once their content is stored."""
    run_missing(work, folder, 0, len(work.ranges), progress)
    return merge(work, [part.path for part in parts_in(folder, work.about)])


def run_missing(work: Work, folder: Path, first: int, last: int, progress: Progress = lambda done, total: None) -> None:
    """Run those of the shards [first, last) that no part in `folder` holds yet."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, work.about)
    gaps = missing(parts_in(folder, work.about), first, last)
    total = work.tokens_in(first, last)
    done = total - sum(work.tokens_in(*gap) for gap in gaps)
    progress(done, total)
    for a, b in gaps:
        _Pass(work, folder, a).run(b, lambda n, before=done: progress(before + n, total))  # type: ignore[misc]
        done += work.tokens_in(a, b)


def shard_ranges(corpus: Corpus, shard_tokens: int) -> list[tuple[int, int]]:
    """Runs of contexts, cut between documents, of about `shard_tokens` tokens."""
    per_document = np.bincount(corpus.context_document, weights=corpus.context_length, minlength=len(corpus.names))
    shard_of = (np.cumsum(per_document) - per_document) // shard_tokens
    bounds = np.flatnonzero(np.diff(shard_of[corpus.context_document])) + 1
    return list(zip([0, *bounds.tolist()], [*bounds.tolist(), len(corpus.context_document)], strict=True))


def counted_tokens(corpus: Corpus, vocabulary: Vocabulary) -> Ints:
    """[n_contexts] tokens whose activations count: all but special ones that stand in the text."""
    return np.add.reduceat(~vocabulary.special[corpus.tokens], corpus.context_start, dtype=np.int64)


def background_windows(corpus: Corpus, config: HarvestConfig) -> Ints:
    """A uniform draw of windows from each split, by hash; indices in ascending order."""
    drawn = [_drawn(corpus, split, size, config.seed + 77) for split, size in enumerate(config.background)]
    return np.sort(np.concatenate(drawn))


def token_windows(corpus: Corpus, config: HarvestConfig) -> Bools:
    """[n_windows]: those of the split explain, drawn uniformly by hash, in which tokens are counted by feature.

    All of them in a small corpus. In a large one a count of every (feature, token) pair would grow with the text.
    """
    chosen = np.zeros(len(corpus.window_start), bool)
    chosen[_drawn(corpus, 0, config.token_windows, config.seed + 78)] = True
    return chosen


def _sized(size: int, l0: float) -> int:
    """Less of what every active token costs, where many are: neurons are active on all tokens, in one pole or the other."""
    dense = l0 / _DENSE
    return size if dense <= 1 else min(size, max(_LEAST_DRAWN, int(size / dense)))


def _drawn(corpus: Corpus, split: int, size: int, salt: int) -> Ints:
    members = np.flatnonzero(corpus.window_split == split)
    key = mix63(corpus.window_id[members] ^ mix63(np.asarray([salt], np.int64)))
    return members[np.argsort(key, kind="stable")[:size]]


class _Pass:
    """A run of shards from `first` on, in one process, with one state."""

    def __init__(self, work: Work, folder: Path, first: int) -> None:
        self.work, self.folder, self.first = work, folder, first
        corpus, config = work.corpus, work.config
        if config.threads:
            torch.set_num_threads(config.threads)
        self.states = [Accumulator(d, len(work.subject.vocabulary), config, self._name_of) for d in work.dictionaries]
        self.outliers = [0] * len(self.states)
        for state in self.states:
            state.keep_whole(work.background(state.dictionary), len(corpus.window_start))
        columns = (corpus.window_id, corpus.window_split, work.token_windows)
        self.columns = [torch.from_numpy(np.ascontiguousarray(column)) for column in columns]
        first_window = np.searchsorted(corpus.window_context, np.arange(len(corpus.context_start)))
        self.first_window = torch.from_numpy(first_window)
        self.done, self.started = 0, time.monotonic()

    def run(self, last: int, progress: Callable[[int], None]) -> None:
        """Up to shard `last`; a part is written now and then between shards, and at the end."""
        written, cost, path = time.monotonic(), 0.0, None
        for number in range(self.first, last):
            self._shard(*self.work.ranges[number], progress)
            started = time.monotonic()
            if number + 1 == last or started - written > _PATIENCE * cost:
                following = part_path(self.folder, self.work.about, self.first, number + 1)
                save(following, self.work.about, self._arrays())
                if path is not None:
                    path.unlink(missing_ok=True)
                written, path = time.monotonic(), following
                cost = written - started

    def _shard(self, begin: int, end: int, progress: Callable[[int], None]) -> None:
        corpus = self.work.corpus
        sequences = [
            corpus.tokens[s : s + n]
            for s, n in zip(corpus.context_start[begin:end], corpus.context_length[begin:end], strict=True)
        ]
        for batch in batches(sequences, self.work.subject, batch_tokens=self.work.config.batch_tokens):
            self._batch(batch, begin)
            self.done += int(batch.content.sum())
            progress(self.done)
        for state in self.states:
            state.flush()

    def _batch(self, batch: TokenBatch, begin: int) -> None:
        if not batch.content.any():
            return
        read = self.work.subject.read(batch)
        tokens = self._tokens(batch, begin)
        content = {hook: acts[batch.content.to(acts.device)] for hook, acts in read.items()}
        outliers = {hook: _outliers(acts) for hook, acts in content.items()}
        for number, state in enumerate(self.states):
            hook = state.dictionary.hook
            self.outliers[number] += outliers[hook]
            state.take(content[hook], tokens)

    def _tokens(self, batch: TokenBatch, begin: int) -> Tokens:
        row, column = torch.nonzero(batch.content, as_tuple=True)
        offset = column - batch.prefix
        context = torch.from_numpy(batch.row_context)[row] + begin
        window = self.first_window[context] + torch.div(offset, WINDOW, rounding_mode="floor")
        window_id, split, counted = (values[window] for values in self.columns)
        found = (batch.ids[row, column], window, window_id, offset % WINDOW, split, counted)
        return Tokens(*(values.to(self.work.config.device) for values in found))

    def _arrays(self) -> dict[str, Ints]:
        seconds = time.monotonic() - self.started
        found: dict[str, Ints] = {"outliers": np.asarray(self.outliers), "seconds": np.asarray(seconds)}
        for number, state in enumerate(self.states):
            found |= {f"{number}.{name}": array for name, array in state.arrays().items()}
        return found

    def _name_of(self, window: int) -> str:
        corpus = self.work.corpus
        return corpus.names[int(corpus.context_document[corpus.window_context[window]])]


def _outliers(activations: torch.Tensor) -> int:
    norm = activations.float().norm(dim=-1)
    return int((norm > _OUTLIER * norm.median()).sum())


# --------------------------------------------------------------------------- merging


def merge(work: Work, files: Sequence[Path]) -> Harvest:
    """The harvest of all parts together. Raises HarvestError for a part of another harvest, and where shards are missing."""
    merging = [_Merging(d, work.config) for d in work.dictionaries]
    parts, seconds = [], 0.0
    for path in files:
        part, arrays = load(path, work.about)
        parts.append(part)
        seconds += float(arrays["seconds"])
        for number, one in enumerate(merging):
            one.absorb(_under(arrays, str(number)), int(arrays["outliers"][number]))
    if lacking := missing(parts, 0, len(work.ranges)):
        which = ", ".join(f"{a + 1} to {b}" for a, b in lacking)
        raise HarvestError(f"the parts lack the shards {which} of {len(work.ranges)}; run them and merge again")
    found = [one.finish(work.background(d)) for one, d in zip(merging, work.dictionaries, strict=True)]
    return Harvest(tuple(found), work.token_windows, len(work.ranges), seconds)


class _Merging:
    """The parts of one dictionary, added up."""

    def __init__(self, dictionary: Dictionary, config: HarvestConfig) -> None:
        groups = dictionary.n_features * len(SPLITS)
        self.dictionary, self.size = dictionary, config.sample
        self.top, self.sample = Sketch(groups, config.top), Sketch(groups, config.top + config.sample)
        self.statistics = Statistics.empty(dictionary.n_features)
        self.tokens: list[dict[str, Ints]] = []
        self.background: list[dict[str, Ints]] = []
        self.outliers = 0

    def absorb(self, arrays: dict[str, Ints], outliers: int) -> None:
        self.top.absorb(_under(arrays, "top"))
        self.sample.absorb(_under(arrays, "sample"))
        with exact_sums(self.dictionary):
            self.statistics.merge(_under(arrays, "statistics"))
        self.tokens.append(_under(arrays, "tokens"))
        self.background.append(_under(arrays, "background"))
        self.outliers += outliers

    def finish(self, windows: Ints) -> Found:
        whole = {
            name: np.concatenate([part[name] for part in self.background])
            for name in ("window", "position", "feature", "value")
        }
        order = np.lexsort((whole["position"], whole["feature"], whole["window"]))
        whole = {name: column[order] for name, column in whole.items()}
        top = self.top.entries()
        sample = without_top(self.sample.entries(), top, self.size)
        table = TokenTable.merged(self.tokens)
        arrays = [
            *top.values(), *sample.values(), *whole.values(), *self.statistics.arrays().values(), *table.values()
        ]  # fmt: skip
        counted = table | {"total": table["total"] * UNIT}
        return Found(top, sample, whole, windows, self.statistics, counted, self.outliers, _digest(arrays))


def without_top(sample: dict[str, Ints], top: dict[str, Ints], size: int) -> dict[str, Ints]:
    """The `size` best-keyed entries of each group that are not among its top windows: a uniform draw of the others."""
    span = int(max(sample["window"].max(initial=0), top["window"].max(initial=0))) + 1
    wide = np.int64
    other = ~np.isin(
        sample["group"].astype(wide) * span + sample["window"], top["group"].astype(wide) * span + top["window"]
    )
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
