"""Reading features back in bulk: a stream of `FeatureRecord`s, a few hundred at a time, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from glossator.errors import FeatureError, StoreError
from glossator.store.store import Store
from glossator.types import SPLITS, WINDOW, FeatureId, FeatureRecord, Ints, Sample, Split, Vocabulary, Windows

_BATCH = 128


def vocabulary(store: Store) -> Vocabulary:
    """The subject's tokens, as the harvest stored them: no tokenizer is needed to score a rule."""
    table = store.arrow("SELECT piece, starts_word, special FROM token ORDER BY token_id")
    if not table.num_rows:
        raise StoreError(f"{store.path}: holds no harvest yet; run `glossator harvest {store.path} ...` first")
    return Vocabulary.build(*(table[name].to_pylist() for name in ("piece", "starts_word", "special")))


def dictionaries(store: Store) -> list[str]:
    return [name for (name,) in store.sql("SELECT dictionary FROM dictionary ORDER BY dictionary")]


def the_dictionary(store: Store, wanted: str | None = None) -> str:
    """The dictionary that is meant; the only one if none is named."""
    names = dictionaries(store)
    if not names:
        raise StoreError(f"{store.path}: holds no harvest yet; run `glossator harvest {store.path} ...` first")
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise FeatureError(f"--dictionary {wanted}: this run has {', '.join(names)}; name one of them")
    return str(wanted)


def check_features(store: Store, dictionary: str, features: Sequence[int]) -> None:
    """Raise FeatureError for an index that the dictionary does not have."""
    n = store.sql("SELECT n_features FROM dictionary WHERE dictionary = ?", [dictionary])[0][0]
    for index in features:
        if not 0 <= index < n:
            raise FeatureError(f"feature {index}: {dictionary} has features 0 to {n - 1}")


@dataclass(frozen=True)
class Background:
    """The background windows of one split, with all features' activations on them, sorted by feature."""

    windows: Windows
    feature: Ints
    row: Ints
    position: Ints
    value: Ints
    n_corpus: int  # windows of this split in the whole corpus

    def sample(self, feature: int) -> Sample:
        a, b = np.searchsorted(self.feature, [feature, feature + 1])
        acts = np.zeros((len(self.windows), WINDOW), np.float32)
        acts[self.row[a:b], self.position[a:b]] = self.value[a:b]
        n = len(self.windows)
        return Sample(self.windows, acts, np.full(n, "background"), np.full(n, self.n_corpus / max(n, 1)))


def _windows(table: pa.Table) -> Windows:
    ids = _matrix(table["ids"]).astype(np.int32)
    start = int(table["start"][0].as_py()) if table.num_rows else 0
    return Windows(ids, table["document"].to_numpy().astype(np.int32), start, table["window_id"].to_numpy())


def _matrix(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks()
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), -1 if len(array) else WINDOW)


def background(store: Store, dictionary: str) -> dict[Split, Background]:
    sizes = store.sql("SELECT n_explain, n_select, n_test FROM corpus")[0]
    found: dict[Split, Background] = {}
    for split, n_corpus in zip(SPLITS, sizes, strict=True):
        table = store.arrow(
            "SELECT b.window_id, w.document, w.start, w.ids, b.features, b.positions, b.activations FROM background b "
            "JOIN text_window w USING (window_id) WHERE b.dictionary = ? AND b.split = ? ORDER BY b.window_id",
            [dictionary, split],
        )
        lists = table["features"].combine_chunks()
        row = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy(zero_copy_only=False))
        feature = lists.flatten().to_numpy(zero_copy_only=False)
        order = np.argsort(feature, kind="stable")
        position = table["positions"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        value = table["activations"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        found[split] = Background(
            _windows(table), feature[order], row[order], position[order], value[order], int(n_corpus)
        )
    return found


def records(
    store: Store, dictionary: str, features: Sequence[int], behind: dict[Split, Background] | None = None
) -> Iterator[FeatureRecord]:
    """The records of `features`, in their order."""
    behind = behind or background(store, dictionary)
    for batch in _batches(features):
        yield from _batch_records(store, dictionary, batch, behind)


_IN = "dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[]))"


@dataclass(frozen=True)
class _Batch:
    """What the store holds of a few features: their rows, exemplars in order of feature, tokens in order of feature."""

    about: dict[int, dict[str, Any]]
    exemplars: pa.Table
    tokens: pa.Table

    @classmethod
    def read(cls, store: Store, dictionary: str, batch: list[int]) -> _Batch:
        about = store.arrow(
            "SELECT feature, status, reason, density, threshold, max_activation, active_windows, neighbours FROM feature "
            f"WHERE {_IN}",
            [dictionary, batch],
        ).to_pylist()
        exemplars = store.arrow(
            "SELECT e.feature, e.split, e.stratum, e.activations, w.window_id, w.document, w.start, w.ids FROM exemplar e "
            f"JOIN text_window w USING (window_id) WHERE e.{_IN.replace('feature IN', 'e.feature IN')} "
            "ORDER BY e.feature, e.split, e.stratum DESC, e.rank",
            [dictionary, batch],
        )
        tokens = store.arrow(
            f"SELECT feature, token_id, active, total FROM feature_token WHERE {_IN} ORDER BY feature, total DESC, token_id",
            [dictionary, batch],
        )
        return cls({row["feature"]: row for row in about}, exemplars, tokens)


def _batch_records(
    store: Store, dictionary: str, batch: list[int], behind: dict[Split, Background]
) -> Iterator[FeatureRecord]:
    found = _Batch.read(store, dictionary, batch)
    samples = _samples(found)
    token_feature = found.tokens["feature"].to_numpy()
    token_ids, counts, sums = (found.tokens[name].to_numpy() for name in ("token_id", "active", "total"))
    for index in batch:
        row = found.about[index]
        a, b = np.searchsorted(token_feature, [index, index + 1])
        explain, select, test = row["active_windows"]
        yield FeatureRecord(
            feature=FeatureId(dictionary, index),
            status=row["status"],
            reason=row["reason"],
            density=row["density"],
            threshold=row["threshold"],
            max_activation=row["max_activation"],
            active_windows=(explain, select, test),
            n_windows=(behind["explain"].n_corpus, behind["select"].n_corpus, behind["test"].n_corpus),
            token_ids=token_ids[a:b],
            token_counts=counts[a:b],
            token_sums=sums[a:b],
            neighbours=tuple(row["neighbours"]),
            exemplars=samples.get(index, {}),
            background=_Lazy(behind, index),
        )


def _samples(found: _Batch) -> dict[int, dict[Split, Sample]]:
    """The exemplars of each feature by split; a feature that was never active has none."""
    table = found.exemplars
    if not table.num_rows:
        return {}
    windows, acts = _windows(table), _matrix(table["activations"]).astype(np.float32)
    feature, split, stratum = (table[name].to_numpy() for name in ("feature", "split", "stratum"))
    out: dict[int, dict[Split, Sample]] = {}
    for index in np.unique(feature).tolist():
        a, b = np.searchsorted(feature, [index, index + 1])
        out[index] = {}
        for number, name in enumerate(SPLITS):
            members = a + np.flatnonzero(split[a:b] == name)
            strata = stratum[members].astype(str)
            weight = _weights(strata, int(found.about[index]["active_windows"][number]))
            out[index][name] = Sample(windows.take(members), acts[members], strata, weight)
    return out


class _Lazy(Mapping[Split, Sample]):
    """A feature's background, unpacked when it is asked for: 256 features in hand would be a gigabyte of zeros."""

    def __init__(self, behind: dict[Split, Background], feature: int) -> None:
        self._behind, self._feature = behind, feature

    def __getitem__(self, split: Split) -> Sample:
        return self._behind[split].sample(self._feature)

    def __iter__(self) -> Iterator[Split]:
        return iter(self._behind)

    def __len__(self) -> int:
        return len(self._behind)


def _weights(stratum: Any, active: int) -> Any:
    """Top windows stand for themselves, sampled ones for the other active windows."""
    top = int((stratum == "top").sum())
    sampled = len(stratum) - top
    return np.where(stratum == "top", 1.0, (active - top) / max(sampled, 1))


def _batches(features: Sequence[int]) -> Iterator[list[int]]:
    """itertools.batched, which Python 3.11 lacks."""
    rest = iter(features)
    while batch := list(islice(rest, _BATCH)):
        yield batch
