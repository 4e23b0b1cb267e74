"""What others published of a dictionary's features, kept as they published it: rows of Neuronpedia's files, in tables of their own.

They stand under the name of their import (`source`) and beside nothing of ours: densities, maxima and windows are of another
corpus. The view `published` shows both; no score, label or status is made of them.

Nothing of a row is lost. Fields that the format knows are columns; a field that no column gives back exactly as it was
written (one of another tool, an index with zeros before it, a whole number beyond 2^53, half a character) is kept as JSON in `rest`; `fields` has
the names of all in their order. So `write` gives every row back field by field; only the spelling of numbers (1 or 1.0) may
differ, and bytes of course.

A file is stored in one transaction, a few hundred rows in memory, and once: it is known by a hash of its content, and
takes the place of an earlier file of that name in the same import.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from glossator.agents.others.imported import Extent, places
from glossator.agents.others.label_files import LabelFile, LabelRow, clean, shown
from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.exchange import neuronpedia
from glossator.exchange.json_lines import objects
from glossator.store.store import Store

_BATCH = 256  # rows
_ABOUT = {"modelId": "subject", "layer": "layer", "index": "feature"}
_INDEX = re.compile(r"0*([0-9]{1,9})")


@dataclass(frozen=True)
class Kind:
    """One of Neuronpedia's three sorts of files: its table, and the column of each field that the format has."""

    name: str
    table: str
    row: type[neuronpedia.Row]
    columns: Mapping[str, str]
    key: str  # the column that no two rows of an import share

    @property
    def by_name(self) -> dict[str, tuple[str, str]]:
        """Field and column, by the field's name in lower case."""
        return {field.lower(): (field, column) for field, column in (_ABOUT | dict(self.columns)).items()}


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "features", "imported_feature", neuronpedia.Feature,
            {
                "maxActApprox": "max_activation", "frac_nonzero": "density", "pos_str": "top_logits", "pos_values": "top_logit_values",
                "neg_str": "bottom_logits", "neg_values": "bottom_logit_values", "freq_hist_data_bar_heights": "bar_heights",
                "freq_hist_data_bar_values": "bar_values", "logits_hist_data_bar_heights": "logit_bar_heights",
                "logits_hist_data_bar_values": "logit_bar_values", "hookName": "hook", "vector": "vector",
            },
            "feature",
        ),
        Kind(
            "activations", "imported_activation", neuronpedia.Activation,
            {
                "id": "their_id", "tokens": "tokens", "values": "activations", "maxValue": "max_activation", "maxValueTokenIndex": "max_token",
                "minValue": "min_activation", "binMin": "bin_min", "binMax": "bin_max", "binContains": "bin_contains", "dataSource": "data_source",
            },
            "their_id",
        ),
        Kind(
            "explanations", "imported_explanation", neuronpedia.ExplanationOf,
            {
                "id": "their_id", "description": "description", "typeName": "method", "explanationModelName": "model", "authorId": "author",
            },
            "their_id",
        ),
    )
}  # fmt: skip


def source_of(path: Path, name: str | None) -> str:
    """The name of an import: the one that is given, else that of the export's folder or of the file. Raises UsageError."""
    if name is None:
        whole = path.resolve()
        while whole.name in KINDS or re.fullmatch(r"batch-[0-9]+\.jsonl(\.gz)?", whole.name):
            whole = whole.parent
        name = whole.name if whole.is_dir() else re.sub(r"\.(jsonl|json)?(\.gz)?$", "", whole.name)
    name = clean(name).removeprefix("imported:")
    if not name or len(name) > 200:
        raise UsageError(f"the import's name {shown(name)!r}: write one of 1 to 200 characters with --name")
    return name


def store_files(run: Run, kind: Kind, path: Path, source: str, known: Mapping[str, Extent], run_id: str) -> str:
    """Store a file, or the batches of a folder, each in a transaction of its own; returns what came of it, in words.

    Raises UsageError with file and line; the files before that one are stored then, and the line says so.
    """
    files = neuronpedia.batches_of(path)
    if not files:
        raise UsageError(f"{path}: holds no batch-0.jsonl.gz, as the folders of Neuronpedia's export do")
    where = _Places(path, known)
    for file in files:
        where.heard(file)
    if not any(neuronpedia.holds_rows(file) for file in files):
        raise UsageError(f"{path}: holds no rows")
    new, gone, there = 0, 0, 0
    for done, file in enumerate(files):
        run.progress(f"import {kind.name}", done, len(files))
        digest = _digest(file, known)
        if _stored(run.store, kind, source, digest):
            there += 1
            continue
        try:
            counts = _store(run.store, kind, file, where, (source, digest, run_id))
        except UsageError as error:
            before = f"; {done} files before it are stored" if done else ""
            raise UsageError(f"{error}{before}") from error
        new, gone = new + counts[0], gone + counts[1]
    run.progress(f"import {kind.name}", len(files), len(files))
    again = f"; {there:,} of {len(files):,} files were here already" if there else ""
    instead = f", in place of {gone:,} of earlier files of those names" if gone else ""
    return f"{path}: {new:,} {kind.name} stored as published by {source!r} (table {kind.table}){instead}{again}"


def _digest(file: Path, known: Mapping[str, Extent]) -> str:
    """Of its content, and of the dictionaries that it may be about."""
    try:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    return hashlib.sha256(json.dumps([content, sorted(known)]).encode()).hexdigest()[:32]


def _stored(store: Store, kind: Kind, source: str, digest: str) -> bool:
    found = store.sql(
        "SELECT 1 FROM imported_file WHERE source = ? AND kind = ? AND digest = ?", [source, kind.name, digest]
    )
    return bool(found)


def _store(store: Store, kind: Kind, file: Path, where: _Places, about: tuple[str, str, str]) -> tuple[int, int]:
    """One file in one transaction; returns its rows, and how many of an earlier file of that name they replaced."""
    source, digest, run_id = about
    n, gone = 0, 0
    schema = store.arrow(f"SELECT * FROM {kind.table} LIMIT 0").schema

    def tables() -> Iterator[tuple[str, pa.Table]]:
        nonlocal n
        rows = _rows(kind, file, where)
        while batch := [row | {"source": source} for row in islice(rows, _BATCH)]:
            n += len(batch)
            yield kind.table, pa.Table.from_pylist(batch, schema=schema)
        one = {"source": source, "kind": kind.name, "file": file.name, "digest": digest, "items": n, "run_id": run_id}
        yield "imported_file", pa.Table.from_pylist([one])

    def forget(connection: Any) -> None:
        nonlocal gone
        of = [source, file.name]
        gone = connection.execute(f"DELETE FROM {kind.table} WHERE source = ? AND file = ?", of).fetchall()[0][0]
        connection.execute("DELETE FROM imported_file WHERE source = ? AND file = ? AND kind = ?", [*of, kind.name])

    def check(connection: Any) -> None:
        """No row of this file twice in the import."""
        which = "dictionary, feature" if kind.key == "feature" else kind.key
        twice = connection.execute(
            f"SELECT n.line, n.{kind.key}, o.file, o.line FROM {kind.table} n JOIN {kind.table} o USING (source, {which}) "
            f"WHERE source = ? AND n.file = ? AND (o.file <> n.file OR o.line < n.line) AND n.{kind.key}::VARCHAR <> '' ORDER BY ALL LIMIT 1",
            [source, file.name],
        ).fetchall()
        for line, key, other, at in twice:
            what = "feature" if kind.key == "feature" else "id"
            raise UsageError(
                f"{file}: line {line}: {what} {shown(key)} is in {other}, line {at}, already; keep one, or import under another --name"
            )

    store.put_tables(tables(), forget, check)
    return n, gone


def _rows(kind: Kind, file: Path, where: _Places) -> Iterator[dict[str, Any]]:
    """Of each row its columns. Raises UsageError."""
    by_name = kind.by_name
    names: dict[tuple[str, ...], str] = {}
    for line, record in objects(file):
        at = f"{file}: line {line}"
        row = neuronpedia.parsed(kind.row, record, at)
        dictionary, feature = where(row, at)
        given = row.model_fields_set
        columns = {column: getattr(row, field) if field in given else None for field, column in kind.columns.items()}
        columns |= {"subject": row.modelId, "layer": row.layer}
        columns = {column: _storable(value) for column, value in columns.items()}
        columns |= {"dictionary": dictionary, "feature": feature}
        rest = {
            name: value
            for name, value in record.items()
            if (known := by_name.get(name.lower())) is None or not _same(_given(columns, known[1]), value)
        }
        fields = names.setdefault(tuple(record), json.dumps(list(record)))
        columns |= {"file": file.name, "line": line, "fields": fields, "rest": _json(rest, at) if rest else None}
        yield columns


def _storable(value: Any) -> Any:
    """Text, or a list of texts, with a mark for halves of characters, which UTF-8 has not; anything else as it is."""
    whole = (
        value
        if isinstance(value, str)
        else "".join(value)
        if value and isinstance(value, list) and isinstance(value[0], str)
        else ""
    )
    try:
        whole.encode()
    except UnicodeEncodeError:
        return (
            [_storable(text) for text in value]
            if isinstance(value, list)
            else re.sub("[\ud800-\udfff]", "\ufffd", whole)
        )
    return value


def _given(columns: Mapping[str, Any], column: str) -> Any:
    """What a column gives back."""
    return str(columns[column]) if column == "feature" else columns[column]


def _same(given: Any, written: Any) -> bool:
    """Whether a column gives a value of a file back: True is no 1, and 2^53 + 1 no float."""
    return isinstance(given, bool) == isinstance(written, bool) and bool(given == written)


def _json(value: Any, where: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise UsageError(
            f"{where}: {shown(', '.join(value))}: a number that is too large to be kept; write it as text"
        ) from error


class _Places:
    """Which feature of which dictionary a row is about, by the rules that hold for labels of others."""

    def __init__(self, path: Path, known: Mapping[str, Extent]) -> None:
        self._path, self._known = path, known
        self._first: dict[str, LabelRow] = {}  # a row of each source
        self._taken: dict[str, str] = {}

    def heard(self, file: Path) -> None:
        """Look at a file's first row, so that files of several dictionaries are told apart before any is stored."""
        layer = {name.lower(): value for name, value in neuronpedia.first_row(file).items()}.get("layer")
        if isinstance(layer, str):
            self._dictionary(layer, f"{file}: line 1")

    def __call__(self, row: neuronpedia.Row, where: str) -> tuple[str, int]:
        """Raises UsageError for another dictionary, and for a feature that there is not."""
        name = self._dictionary(row.layer, where)
        extent = self._known[name]
        written = _INDEX.fullmatch(row.index.strip())
        if written is None and not re.fullmatch("[0-9]+", row.index.strip()):
            raise UsageError(f"{where}: feature {shown(row.index)} is no index; write a whole number such as 17")
        most = extent.n_features // 2 if extent.signed else extent.n_features  # Neuronpedia's 17 is the positive pole
        if written is None or int(written[1]) >= most:
            raise UsageError(
                f"{where}: feature {shown(row.index)} does not exist: {name} has 0 to {most - 1}; "
                "name the dictionary that it is about with --dictionary, or take the row out"
            )
        return name, int(written[1])

    def _dictionary(self, layer: str, where: str) -> str:
        if layer not in self._taken:
            self._first[layer] = LabelRow(where, "0", None, layer)
            try:
                found, _ = places(LabelFile(self._path, "Neuronpedia", list(self._first.values())), self._known)
            except UsageError as error:
                if len(self._first) == 1:
                    raise
                others = ", ".join(shown(name) for name in self._first if name != layer)
                raise UsageError(
                    f"{where}: source {shown(layer)} beside {others}, and which dictionaries these are is not known; name one with "
                    "--dictionary, and put the rows of one source into a folder or file of their own"
                ) from error
            self._taken = {str(row.source): name for row, name, _ in found}
        return self._taken[layer]


# --------------------------------------------------------------------------- out again


def sources(store: Store) -> list[str]:
    """The names of what was imported."""
    return [name for (name,) in store.sql("SELECT DISTINCT source FROM imported_file ORDER BY source")]


def write(run: Run, out: Path, source: str, features: Sequence[int] | None, *, whole: bool) -> str:
    """Write an import as it was read, field by field, under the names of its files; returns what was written, in words.

    whole: of all dictionaries, else of the run's alone. Raises UsageError where there is no such import.
    """
    if source not in (there := sources(run.store)):
        raise UsageError(
            f"--imported {shown(source)}: this run has {', '.join(map(shown, there)) or 'imported no such files'}"
        )
    counts = []
    for kind in KINDS.values():
        files = [
            file
            for (file,) in run.store.sql(
                "SELECT file FROM imported_file WHERE source = ? AND kind = ? ORDER BY rowid", [source, kind.name]
            )
        ]
        named = all(re.fullmatch(r"batch-[0-9]+\.jsonl(\.gz)?", file) for file in files)
        n = 0
        for number, file in enumerate(files):
            run.progress("export", number, len(files))
            to = file.removesuffix(".gz") + ".gz" if named else f"batch-{number}.jsonl.gz"
            n += _write_file(run, kind, (source, file), out / kind.name / to, features, whole)
        counts += [f"{n:,} {kind.name}"] if files else []
    if not any(out.iterdir()):
        raise UsageError(f"--imported {shown(source)}: holds nothing of those features")
    return f"{', '.join(counts)}, as {source!r} published them"


def _write_file(
    run: Run, kind: Kind, which: tuple[str, str], to: Path, features: Sequence[int] | None, whole: bool
) -> int:
    """The rows of one file that are asked for; no file where there are none."""
    wanted, given = "source = ? AND file = ?", [*which]
    if not whole or features is not None:
        wanted, given = f"{wanted} AND dictionary = ?", [*given, run.dictionary]
    if features is not None:
        wanted, given = f"{wanted} AND feature IN (SELECT unnest(?::INTEGER[]))", [*given, sorted(set(features))]  # type: ignore[list-item]
    n, by_name = 0, kind.by_name
    with run.store.cursor() as cursor:
        batches = cursor.execute(f"SELECT * FROM {kind.table} WHERE {wanted} ORDER BY line", given).to_arrow_reader(
            _BATCH
        )
        first = next(batches, None)
        if first is None or not first.num_rows:
            return 0
        to.parent.mkdir(parents=True, exist_ok=True)
        with gzip.GzipFile(to, "wb", compresslevel=5, mtime=0) as file:
            for batch in _chained(first, batches):
                for columns in batch.to_pylist():
                    rest = json.loads(columns["rest"]) if columns["rest"] else {}
                    row = {
                        name: rest[name] if name in rest else _given(columns, by_name[name.lower()][1])
                        for name in json.loads(columns["fields"])
                    }
                    file.write(_line(row))
                    n += 1
    return n


def _line(row: Mapping[str, Any]) -> bytes:
    """As UTF-8; with escapes where it holds halves of characters, which UTF-8 has not."""
    try:
        return json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(row, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _chained(first: pa.RecordBatch, others: Any) -> Iterator[pa.RecordBatch]:
    yield first
    yield from others
