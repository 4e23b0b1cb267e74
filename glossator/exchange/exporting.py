"""A run file in the forms of other tools: Neuronpedia's files, JSON lines with scores, and Parquet, one file a view.

Windows go out of the split `explain` alone, so that whoever labels from them can be scored on `test`. An export is whole
or not there: it is written under a temporary name, and a folder that holds anything is not written into.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from glossator.agents.others.imported import PREFIX
from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.exchange import lines, neuronpedia, published
from glossator.store.records import check_features
from glossator.types import PAD, WINDOW, content_id

FORMATS = ("neuronpedia", "jsonl", "parquet")
_BATCH = 256  # features
_WINDOWS = 25  # of each stratum
_PER_OCTAVE, _LOWEST = 8, -16  # the bins of `feature.histogram`, as harness/statistics.py makes them
_DIGITS = 6


def export(
    run: Run,
    form: str,
    out: Path,
    features: Sequence[int] | None = None,
    *,
    whole: bool = True,
    imported: str | None = None,
) -> str:
    """Write the run's dictionary, or some features of it, to `out`; returns what was written, in words.

    whole: with Parquet, views of the whole run file where no features are named, else of this dictionary alone.
    imported: what others published instead, as it was imported under that name; so far in Neuronpedia's files alone.
    Raises UsageError where `out` cannot be written, FeatureError for features that there are not.
    """
    writers: dict[str, Callable[..., str]] = {"neuronpedia": _neuronpedia, "parquet": _parquet}
    if form != "jsonl" and form not in writers:
        raise UsageError(f"--format {form}: known are {', '.join(FORMATS)}")
    if imported is not None:
        if form != "neuronpedia":
            raise UsageError(f"--imported {imported}: is written as it was read; add --format neuronpedia")
        writers[form] = lambda run, out, features, whole: published.write(run, out, imported, features, whole=whole)
    if features is not None:
        check_features(run.store, run.dictionary, features)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.absolute().parent}; make it, or name another place")
    unfinished = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        if form == "jsonl":
            if out.is_dir():
                raise UsageError(f"--out {out}: is a folder; name a file in it, such as {out / 'labels.jsonl'}")
            said = lines.write(run, unfinished, features, packed=out.suffix == ".gz")
        else:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UsageError(f"--out {out}: there is something already; name a new folder")
            unfinished.mkdir()
            said = writers[form](run, unfinished, features, whole)
        unfinished.replace(out)
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written ({error.strerror}); name another place") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True) if unfinished.is_dir() else unfinished.unlink(missing_ok=True)
    return f"{out}: {said}"


# --------------------------------------------------------------------------- Neuronpedia


def _neuronpedia(run: Run, out: Path, features: Sequence[int] | None, whole: bool) -> str:
    chosen, left = _chosen(run, features), ""
    if run.poles is not None:  # Neuronpedia has no poles: 17 is the positive one
        negative = [index for index in chosen if index >= run.poles]
        chosen = [index for index in chosen if index < run.poles]
        left = f"; {len(negative):,} negative poles left out, which the format cannot hold"
    if not chosen:
        raise UsageError("--features: none of them can be written in Neuronpedia's format")
    model = run.store.sql("SELECT model FROM dictionary WHERE dictionary = ?", [run.dictionary])[0][0]
    counts = dict.fromkeys(("features", "activations", "explanations"), 0)
    source = " + ".join(name for (name,) in run.store.sql("SELECT corpus FROM corpus ORDER BY corpus")) or None
    for number, batch in enumerate(_batches(chosen)):
        about: dict[str, Any] = {"modelId": model, "layer": run.dictionary}
        rows: dict[str, Iterator[Any]] = {
            "features": _features(run, batch, about),
            "activations": _activations(run, batch, about, source),
            "explanations": _explanations(run, batch, about),
        }
        for name, each in rows.items():
            counts[name] += neuronpedia.write_batch(out / name, number, each)
        run.progress("export", min((number + 1) * _BATCH, len(chosen)), len(chosen))
    return ", ".join(f"{n:,} {name}" for name, n in counts.items()) + f", for Neuronpedia{left}"


def _chosen(run: Run, features: Sequence[int] | None) -> list[int]:
    if features is not None:
        return sorted(set(features))
    return [
        f
        for (f,) in run.store.sql("SELECT feature FROM feature WHERE dictionary = ? ORDER BY feature", [run.dictionary])
    ]


def _batches(features: Sequence[int]) -> Iterator[list[int]]:
    rest = iter(features)
    while batch := list(islice(rest, _BATCH)):
        yield batch


_IN = "e.dictionary = ? AND e.feature IN (SELECT unnest(?::INTEGER[]))"


def _features(run: Run, batch: list[int], about: dict[str, Any]) -> Iterator[neuronpedia.Feature]:
    hook = run.store.sql("SELECT hook FROM dictionary WHERE dictionary = ?", [run.dictionary])[0][0]
    rows = run.store.arrow(
        "SELECT feature, density, max_activation, top_logits, top_logit_values, bottom_logits, bottom_logit_values, histogram "
        f"FROM feature e WHERE {_IN} ORDER BY e.feature",
        [run.dictionary, batch],
    ).to_pylist()
    for row in rows:
        heights, edges = _histogram(row["histogram"])
        yield neuronpedia.Feature(
            **about,
            index=str(row["feature"]),
            maxActApprox=_short(row["max_activation"]),
            frac_nonzero=_short(row["density"]),
            pos_str=row["top_logits"] or [],
            pos_values=_shorts(row["top_logit_values"]),
            neg_str=row["bottom_logits"] or [],
            neg_values=_shorts(row["bottom_logit_values"]),
            freq_hist_data_bar_heights=heights,
            freq_hist_data_bar_values=edges,
            hookName=hook,
        )


def _histogram(counts: list[int] | None) -> tuple[list[float], list[float]]:
    """Bars from the lowest to the highest bin that is not empty, with their lower edges."""
    used = np.flatnonzero(np.asarray(counts or [0]))
    if counts is None or not len(used):
        return [], []
    bins = range(int(used[0]), int(used[-1]) + 1)
    return [float(counts[k]) for k in bins], [float(f"{2.0 ** (k / _PER_OCTAVE + _LOWEST):.6g}") for k in bins]


def _activations(
    run: Run, batch: list[int], about: dict[str, Any], source: str | None
) -> Iterator[neuronpedia.Activation]:
    """Exemplars of `explain`, the strongest first; tokens with a space before those that begin a word, special ones left out."""
    vocabulary = run.lexicon.vocabulary
    table = run.store.arrow(
        f"SELECT e.feature, e.window_id, e.activations, w.ids[w.start + 1 : w.start + {WINDOW}] AS ids FROM exemplar e "
        f"JOIN text_window w USING (window_id) WHERE {_IN} AND e.split = 'explain' AND e.rank < {_WINDOWS} "
        "ORDER BY e.feature, e.stratum DESC, e.rank",
        [run.dictionary, batch],
    )
    columns = (table[name].to_pylist() for name in ("feature", "window_id", "activations", "ids"))
    for feature, window, values, ids in zip(*columns, strict=True):
        keep = [k for k, token in enumerate(ids) if token != PAD and not vocabulary.special[token]]
        kept = _shorts([values[k] for k in keep])
        yield neuronpedia.Activation(
            **about,
            id=content_id("activation", run.dictionary, feature, window),
            index=str(feature),
            tokens=[(" " if vocabulary.starts_word[ids[k]] else "") + vocabulary.pieces[ids[k]] for k in keep],
            values=kept,
            maxValue=max(kept, default=None),
            maxValueTokenIndex=int(np.argmax(kept)) if kept else None,
            minValue=min(kept, default=None),
            dataSource=source,
        )


def _explanations(run: Run, batch: list[int], about: dict[str, Any]) -> Iterator[neuronpedia.ExplanationOf]:
    """All that this run has written, the label first; what others wrote is theirs to publish."""
    rows = run.store.sql(
        "SELECT e.explanation_id, e.feature, e.text, e.explainer, e.model FROM explanation e LEFT JOIN label l ON "
        "l.dictionary = e.dictionary AND l.feature = e.feature AND l.explanation_id = e.explanation_id "
        f"WHERE {_IN} AND e.text IS NOT NULL AND NOT starts_with(e.explainer, '{PREFIX}') AND NOT ends_with(e.explainer, ':candidate') "
        "ORDER BY e.feature, l.explanation_id IS NULL, e.explainer, e.explanation_id",
        [run.dictionary, batch],
    )
    for identity, feature, text, explainer, model in rows:
        yield neuronpedia.ExplanationOf(
            **about,
            id=identity,
            index=str(feature),
            description=text,
            typeName=explainer,
            explanationModelName=model,
        )


def _short(value: float | None) -> float | None:
    if value == 0.0:  # most activations are
        return 0.0
    return None if value is None or not np.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def _shorts(values: Sequence[float] | None) -> list[float]:
    return [_short(value) or 0.0 for value in values or ()]


# --------------------------------------------------------------------------- Parquet


def _parquet(run: Run, out: Path, features: Sequence[int] | None, whole: bool) -> str:
    """Every view of the run file as NAME.parquet, with all of its columns and types."""
    import pyarrow.parquet as pq

    views = run.store.sql(
        "SELECT table_name, list(column_name) FROM information_schema.columns JOIN information_schema.tables USING (table_name) "
        "WHERE table_type = 'VIEW' AND columns.table_schema = 'main' GROUP BY table_name ORDER BY table_name"
    )
    narrow = features is not None or not whole
    said, rows = [], 0
    for name, columns in views:
        conditions: list[str] = []
        given: list[Any] = []
        if narrow and "dictionary" in columns:
            conditions.append("dictionary = ?")
            given.append(run.dictionary)
        if features is not None and "feature" in columns:
            conditions.append("feature IN (SELECT unnest(?::INTEGER[]))")
            given.append(sorted(set(features)))
        if narrow and not conditions:
            said.append(name)
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        with run.store.cursor() as cursor:
            batches = cursor.execute(f'FROM "{name}"{where}', given).to_arrow_reader(10_000)
            with pq.ParquetWriter(out / f"{name}.parquet", batches.schema, compression="zstd") as file:
                for batch in batches:
                    file.write_batch(batch)
                    rows += batch.num_rows
    beside = f"; {', '.join(said)} are of the whole run file" if said else ""
    return f"{len(views)} views, {rows:,} rows, as Parquet{beside}"
