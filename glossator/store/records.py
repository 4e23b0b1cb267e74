"""Reading features back in bulk: a stream of `FeatureRecord`s, a few hundred at a time, in bounded memory.

Joining and sorting rows that hold lists is what costs time in SQL, so queries only filter: order and the text of
windows are looked up in numpy. All windows are held while that is small, else those of one batch at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from glossator.errors import FeatureError, StoreError
from glossator.store.store import Store
from glossator.types import (
    SPLITS,
    WINDOW,
    Bools,
    FeatureId,
    FeatureRecord,
    Floats,
    Ints,
    Sample,
    Split,
    Vocabulary,
    Windows,
)

_BATCH = 256
_HELD = 1 << 28  # bytes of shown windows that are held for a whole reading
_SHOWS = 100  # windows that a record shows, about: with more of all windows than that a feature, few are met twice
_STRATA = np.asarray(["top", "sample"])
_NEAR = np.asarray(["near_overlap", "near_embedding"])


def vocabulary(store: Store) -> Vocabulary:
    """The subject's tokens, as the harvest stored them: no tokenizer is needed to score a rule."""
    table = store.arrow("SELECT piece, starts_word, special FROM token ORDER BY token_id")
    if not table.num_rows:
        raise StoreError(f"{store.path}: holds no harvest yet; run `glossator harvest {store.path} ...` first")
    return Vocabulary.build(*(table[name].to_pylist() for name in ("piece", "starts_word", "special")))


def dictionaries(store: Store) -> list[str]:
    return [name for (name,) in store.sql("SELECT dictionary FROM dictionary ORDER BY dictionary")]


def the_dictionary(store: Store, wanted: str | None = None) -> str:
    """The dictionary that is meant; the only one beside its controls if none is named."""
    names = dictionaries(store)
    if not names:
        raise StoreError(f"{store.path}: holds no harvest yet; run `glossator harvest {store.path} ...` first")
    if wanted is None and len(real := store.sql("SELECT dictionary FROM dictionary WHERE control IS NULL")) == 1:
        return str(real[0][0])
    if wanted not in names:
        named = "--dictionary" if wanted is None else f"--dictionary {wanted}"
        raise FeatureError(f"{named}: this run has {', '.join(names)}; name one of them")
    return str(wanted)


def check_features(store: Store, dictionary: str, features: Sequence[int]) -> None:
    """Raise FeatureError for an index that the dictionary does not have."""
    n = store.sql("SELECT n_features FROM dictionary WHERE dictionary = ?", [dictionary])[0][0]
    for index in features:
        if not 0 <= index < n:
            raise FeatureError(f"feature {index}: {dictionary} has features 0 to {n - 1}")


def token_scale(store: Store) -> float:
    """How many tokens of explain one token that was counted stands for: 1 where they were counted in all windows.

    `token.n_explain` and the columns of `feature_token`, times this, are estimates for the whole split, like the weights.
    """
    ((counted, whole),) = store.sql(
        "SELECT (SELECT sum(n_explain) FROM token), (SELECT sum(tokens) FROM document WHERE split = 'explain')"
    )
    return float(whole / counted) if counted else 1.0  # no tokens, nothing to scale


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
        # of the column's own type: for another one numpy would convert the whole column
        a, b = np.searchsorted(self.feature, np.asarray([feature, feature + 1], self.feature.dtype))
        acts = np.zeros((len(self.windows), WINDOW), np.float32)
        acts[self.row[a:b], self.position[a:b]] = self.value[a:b]
        return Sample(self.windows, acts, *self._same)

    def fires(self, features: Sequence[int], thresholds: Floats) -> Bools:
        """[windows]: whether one of these features fires there. thresholds [n_features]; a dead feature never fires."""
        found = np.zeros(len(self.windows), bool)
        for feature in features:
            a, b = np.searchsorted(self.feature, np.asarray([feature, feature + 1], self.feature.dtype))
            value = self.value[a:b]
            found[self.row[a:b][(value > 0) & (value >= value.dtype.type(thresholds[feature]))]] = True
        return found

    @cached_property
    def _same(self) -> tuple[Any, Floats, Floats]:
        """Stratum, weight and quantile: the same for every feature."""
        n = len(self.windows)
        return np.full(n, "background"), np.full(n, self.n_corpus / max(n, 1)), np.full(n, np.nan)


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
    held = _held(store, len(features))
    for batch in _batches(features):
        yield from _batch_records(store, dictionary, batch, behind, held)


_SHOWN = "SELECT window_id, document, start, ids FROM text_window"
_IN = "dictionary = $d AND feature BETWEEN $low AND $high AND feature IN (SELECT unnest($batch::INTEGER[]))"
_SPLIT = "CASE split WHEN 'explain' THEN 0 WHEN 'select' THEN 1 ELSE 2 END::TINYINT AS split"


def _held(store: Store, wanted: int) -> Windows | None:
    """All windows in order of their ids, where they fit and the features to be read will meet most of them anyway."""
    n, width = store.sql("SELECT count(*), max(len(ids)) FROM text_window")[0]
    if not n or n * width * 4 > _HELD or n > wanted * _SHOWS:
        return None
    return _by_id(store.arrow(_SHOWN))


def _by_id(table: pa.Table) -> Windows:
    windows = _windows(table)
    return windows.take(np.argsort(windows.window_id))


@dataclass(frozen=True)
class _Batch:
    """What the store holds of a few features. Exemplars and near misses stand in the order in which samples show them.

    `exemplar` and `near` hold the columns of their tables as arrays, with `group` = feature * 3 + split and `at`, the
    row of `shown` that is their window. `activations` alone stay as they were read: `order` says where each row went.
    """

    about: dict[int, dict[str, Any]]
    tokens: dict[str, Ints]
    exemplar: dict[str, Ints]
    near: dict[str, Ints]
    shown: Windows

    @classmethod
    def read(cls, store: Store, dictionary: str, batch: list[int], held: Windows | None) -> _Batch:
        within = {"d": dictionary, "low": min(batch), "high": max(batch), "batch": batch}
        about = store.arrow(
            "SELECT feature, status, reason, density, threshold, max_activation, active_windows, neighbours FROM feature "
            f"WHERE {_IN}",
            within,
        ).to_pylist()
        exemplar = _columns(
            store.arrow(
                f"SELECT feature, {_SPLIT}, (stratum <> 'top')::UTINYINT AS stratum, rank, window_id, quantile, activations "
                f"FROM exemplar WHERE {_IN}",
                within,
            )
        )
        near = _columns(
            store.arrow(
                f"SELECT feature, {_SPLIT}, (kind <> 'overlap')::UTINYINT AS stratum, rank, window_id FROM near_miss WHERE {_IN}",
                within,
            )
        )
        tokens = _columns(
            store.arrow(f"SELECT feature, token_id, active, total FROM feature_token WHERE {_IN}", within)
        )
        if (scale := token_scale(store)) != 1:
            tokens |= {name: tokens[name] * scale for name in ("active", "total")}
        order = np.lexsort((tokens["token_id"], -tokens["total"], tokens["feature"]))
        if held is None:
            wanted = " UNION ALL ".join(f"SELECT window_id FROM {t} WHERE {_IN}" for t in ("exemplar", "near_miss"))
            held = _by_id(store.arrow(f"{_SHOWN} WHERE window_id IN ({wanted})", within))
        return cls(
            {row["feature"]: row for row in about},
            {name: column[order] for name, column in tokens.items()},
            _in_order(store, exemplar, held),
            _each_once(_in_order(store, near, held)),
            held,
        )


def _columns(table: pa.Table) -> dict[str, Ints]:
    """Arrays by name; lists of one length become the rows of a matrix, NULL becomes NaN."""
    lists = {f.name for f in table.schema if pa.types.is_list(f.type)}
    return {name: _matrix(table[name]) if name in lists else table[name].to_numpy() for name in table.column_names}


def _in_order(store: Store, rows: dict[str, Ints], shown: Windows) -> dict[str, Ints]:
    """Rows by feature, split, stratum and rank, with `group` and `at`."""
    order = np.lexsort((rows["rank"], rows["stratum"], rows["split"], rows["feature"]))
    ordered = {name: column[order] for name, column in rows.items() if name != "activations"}
    at = np.searchsorted(shown.window_id, ordered["window_id"])
    if not np.array_equal(np.append(shown.window_id, -1)[at], ordered["window_id"]):
        raise StoreError(f"{store.path}: windows that exemplars name are missing in text_window; harvest again")
    group = ordered["feature"].astype(np.int64) * len(SPLITS) + ordered["split"]
    more = {"activations": rows["activations"], "order": order} if "activations" in rows else {}
    return ordered | more | {"group": group, "at": at}


def _each_once(near: dict[str, Ints]) -> dict[str, Ints]:
    """A window that is a near miss by both kinds keeps its first place."""
    key = np.stack([near["group"], near["at"]], 1)
    first = np.sort(np.unique(key, axis=0, return_index=True)[1]) if len(key) else np.empty(0, np.int64)
    return {name: column[first] for name, column in near.items()}


def _batch_records(
    store: Store, dictionary: str, batch: list[int], behind: dict[Split, Background], held: Windows | None
) -> Iterator[FeatureRecord]:
    found = _Batch.read(store, dictionary, batch, held)
    exemplars, near = _bounds(found.exemplar, batch), _bounds(found.near, batch)
    tokens = np.searchsorted(found.tokens["feature"], [batch, [i + 1 for i in batch]]).T.tolist()
    n_windows = (behind["explain"].n_corpus, behind["select"].n_corpus, behind["test"].n_corpus)
    for place, index in enumerate(batch):
        row, (a, b) = found.about[index], tokens[place]
        explain, select, test = row["active_windows"]
        yield FeatureRecord(
            feature=FeatureId(dictionary, index),
            status=row["status"],
            reason=row["reason"],
            density=row["density"],
            threshold=row["threshold"],
            max_activation=row["max_activation"],
            active_windows=(explain, select, test),
            n_windows=n_windows,
            token_ids=found.tokens["token_id"][a:b],
            token_counts=found.tokens["active"][a:b],
            token_sums=found.tokens["total"][a:b],
            neighbours=tuple(row["neighbours"]),
            exemplars=_exemplars(found, exemplars[place], row["active_windows"]),
            background=_Lazy(behind, index),
            near_misses={name: _near(found, slice(*at)) for name, at in zip(SPLITS, near[place], strict=True)},
        )


def _bounds(rows: dict[str, Ints], batch: list[int]) -> list[list[list[int]]]:
    """[batch][split] -> first row and the one after the last."""
    group = np.asarray(batch)[:, None] * len(SPLITS) + np.arange(len(SPLITS))
    found: list[list[list[int]]] = np.searchsorted(rows["group"], np.stack([group, group + 1], -1)).tolist()
    return found


def _exemplars(found: _Batch, bounds: list[list[int]], active: Sequence[int]) -> dict[Split, Sample]:
    """The exemplars of one feature by split; a feature that was never active has none."""
    if bounds[0][0] == bounds[-1][1]:
        return {}
    rows = found.exemplar
    out: dict[Split, Sample] = {}
    for name, (a, b), n in zip(SPLITS, bounds, active, strict=True):
        sampled = rows["stratum"][a:b]
        top = b - a - int(sampled.sum())
        # top windows stand for themselves, sampled ones for the other active windows
        weight = np.where(sampled, (n - top) / max(b - a - top, 1), 1.0)
        acts = rows["activations"][rows["order"][a:b]].astype(np.float32, copy=False)
        out[name] = Sample(found.shown.take(rows["at"][a:b]), acts, _STRATA[sampled], weight, rows["quantile"][a:b])
    return out


def _near(found: _Batch, part: slice) -> Sample:
    rows = found.near
    windows = found.shown.take(rows["at"][part])
    n = len(windows)
    return Sample(windows, np.zeros((n, WINDOW), np.float32), _NEAR[rows["stratum"][part]], np.zeros(n))


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


def _batches(features: Sequence[int]) -> Iterator[list[int]]:
    """itertools.batched, which Python 3.11 lacks."""
    rest = iter(features)
    while batch := list(islice(rest, _BATCH)):
        yield batch
