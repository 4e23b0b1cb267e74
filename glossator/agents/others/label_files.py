"""Files of labels that other tools wrote, as rows: JSONL, a JSON list, CSV, Parquet, Neuronpedia's exports, Delphi's folders.

Which of them a file is, its content says: `{`, `[` or a header that names the columns; a folder's file names say it. What
fits none of them is refused, never guessed at. A row is kept as the file has it; what it means for a run is decided in
imported.py. Nothing that a label holds is executed. Half a row is found in JSON, in a quoted field and in gzip; a file
that was cut off exactly between two rows, or in the middle of plain text, cannot be told from a shorter one.

Sources: the explanation rows of Neuronpedia's exports (modelId, layer, index, description, typeName,
explanationModelName); Delphi and its forerunner sae-auto-interp, which write `<module>_latent<k>.txt` or
`<module>_feature<k>.txt`, each a JSON string.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glossator.errors import UsageError

_MOST_BYTES = 1 << 30  # of one file, unpacked
_FEATURE, _TEXT = ("feature", "index"), ("label", "description", "explanation", "text")
_NEURONPEDIA = {"modelid", "index", "description"}
# The names of feature, text, source, model and method in a row.
_COLUMNS: tuple[tuple[str, ...], ...] = (_FEATURE, _TEXT, ("dictionary",), ("model",), ())
_COLUMNS_OF_NEURONPEDIA: tuple[tuple[str, ...], ...] = (
    ("index",), ("description",), ("layer",), ("explanationmodelname",), ("typename",),
)  # fmt: skip
_LATENT = re.compile(r"(?P<module>.+)_(?:latent|feature)(?P<index>[0-9]+)\.txt")
_BATCH = re.compile(r"(batch-[0-9]+)\.jsonl(\.gz)?")
_OPEN_STRING = re.compile(r'"(?:[^"\\]|\\.)*\\?', re.DOTALL)  # a JSON string that never ends
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}
_BIDI = {chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}  # they turn the text around them
_NAMES = "feature (or index) and label (or description, explanation, text)"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One row as it stands in the file. `source`: what the file calls the dictionary; `text` None or "": no label."""

    where: str  # line 17, entry 3, or a file of the folder
    feature: Any
    text: str | None
    source: str | None = None
    model: str | None = None
    method: str | None = None  # Neuronpedia's typeName
    scores: list[Any] | None = None  # what their tool thought of the label, as the file has it


@dataclass(frozen=True)
class LabelFile:
    """`own_words`: sources are names of another tool, not of this run's dictionaries, and features are not poles."""

    path: Path
    form: str
    rows: list[LabelRow]

    @property
    def own_words(self) -> bool:
        return self.form in ("Neuronpedia", "Delphi")


def read_rows(path: Path) -> LabelFile:
    """Raises UsageError, with the line, for what is not there, not whole, or in no form that is known."""
    if path.is_dir():
        return _folder(path)
    records, form = records_of(path)
    return _labelled(path, form, records)


def clean(text: str) -> str:
    """The text without what would spoil a line: controls, lone surrogates and marks that turn text around become spaces."""
    if text.isprintable():
        return text.strip()
    return "".join(" " if c in _BIDI or unicodedata.category(c) in _CONTROLS else c for c in text).strip()


def shown(value: object) -> str:
    """A value from a file, short enough for an error's line."""
    text = clean(value if isinstance(value, str) else repr(value))
    return text if len(text) <= 60 else text[:57] + "..."


def _folder(path: Path) -> LabelFile:
    inner = path / "explanations"
    folder = inner if inner.is_dir() else path
    try:
        files = sorted((f for f in folder.iterdir() if f.is_file()), key=_natural)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from error
    texts = [f for f in files if f.suffix == ".txt"]
    batches = {f: named[1] for f in files if (named := _BATCH.fullmatch(f.name))}
    if texts and batches:
        raise UsageError(
            f"{folder}: holds both {texts[0].name} and {next(iter(batches)).name}; name a folder of one kind"
        )
    if texts:
        return LabelFile(path, "Delphi", _delphi(folder, texts))
    if not batches:
        raise UsageError(
            f"{folder}: holds no labels; name a file, a folder with Neuronpedia's batch-0.jsonl.gz, or one with Delphi's <module>_latent17.txt"
        )
    if twice := [f.name for f, name in batches.items() if list(batches.values()).count(name) > 1]:
        raise UsageError(f"{folder}: {' and '.join(twice[:2])} are one batch twice; remove one of them")
    records: list[tuple[str, dict[str, Any]]] = []
    for file in batches:
        found, form = records_of(file)
        if form != "Neuronpedia":
            raise UsageError(
                f"{file}: holds no explanations of Neuronpedia's export (modelId, layer, index, description)"
            )
        records += [(f"{file.name} {where}", record) for where, record in found]
    return _labelled(path, "Neuronpedia", records)


def _natural(path: Path) -> list[tuple[int, str]]:
    """batch-2 before batch-10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name)]


# --------------------------------------------------------------------------- Delphi


def _delphi(folder: Path, files: list[Path]) -> list[LabelRow]:
    config = folder.parent / "run_config.json"
    model = _explainer_model(config) if config.is_file() else None
    return [_latent(file, model) for file in files]


def _explainer_model(config: Path) -> str | None:
    found = _json(
        _text(config), lambda said, line: UsageError(f"{config}: line {line}: not JSON ({said}); mend or remove it")
    )
    model = found.get("explainer_model") if isinstance(found, dict) else None
    return model if isinstance(model, str) else None


def latent_of(file: Path) -> tuple[str, str]:
    """Module and feature, by the name of one of Delphi's files. Raises UsageError."""
    named = _LATENT.fullmatch(file.name)
    if named is None:
        raise UsageError(
            f"{file}: not named like <module>_latent17.txt, as the files of a Delphi folder are; move it away"
        )
    return named["module"].lstrip("."), named["index"]


def _latent(file: Path, model: str | None) -> LabelRow:
    """A JSON string, as Delphi writes it, or plain text."""
    module, index = latent_of(file)
    text = _text(file, empty=True).strip()
    if _OPEN_STRING.fullmatch(text):
        raise UsageError(f"{file}: cut off: its string has no end; write it again, or remove it")
    if text.startswith(("{", "[{", '["')):
        raise UsageError(
            f"{file}: holds JSON that is not one string; name the folder of explanations, not that of scores"
        )
    try:
        whole = json.loads(text) if text.startswith('"') or text == "null" else text
    except ValueError:  # plain text that begins with a quoted word
        whole = text
    return LabelRow(file.name, index, whole, module, model)


# --------------------------------------------------------------------------- one file


def _text(path: Path, *, empty: bool = False) -> str:
    """All of it, unpacked if it is packed. Raises UsageError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file; name a file or a folder of labels") from error
    except EOFError as error:
        raise UsageError(f"{path}: cut off in the middle; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path}: a damaged gzip file ({error}); copy or download it again") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise UsageError(f"{path}: over {_MOST_BYTES >> 30} GiB; split it into several files")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: line {line}: not UTF-8; save the file as UTF-8") from error
    if not empty and not text.strip():
        raise UsageError(f"{path}: empty; a file of labels names {_NAMES}")
    return text


def records_of(path: Path) -> tuple[list[tuple[str, dict[str, Any]]], str]:
    """Each row with its place, keys in lower case; and the form that the file has. Raises UsageError."""
    if _is_parquet(path):
        return _parquet(path), "Parquet"
    text = _text(path)
    start = text.lstrip()[0]
    read, form = {"{": (_lines, "JSONL"), "[": (_entries, "JSON")}.get(start, (_table, "CSV"))
    records: list[tuple[str, dict[str, Any]]] = []
    for where, record in read(path, text):
        lower = {str(key).strip().lower(): value for key, value in record.items()}
        if len(lower) < len(record):
            raise UsageError(f"{path}: {where}: names that differ in case alone; keep one of them")
        records.append((where, lower))
    if not records:
        raise UsageError(f"{path}: holds no rows; write one row for each label")
    return records, "Neuronpedia" if records[0][1].keys() >= _NEURONPEDIA else form


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:  # _text says why
        return False


def _parquet(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The columns that a label may need; the others of a table may be of any kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {*_FEATURE, *_TEXT, "dictionary", "model"}
    try:
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name.lower() in wanted]
            rows = file.read(columns=names).to_pylist()
    except (pa.ArrowException, OSError) as error:
        said = str(error).splitlines()[0][:160]
        raise UsageError(f"{path}: not a whole Parquet file ({said}); copy it again") from error
    if not rows:
        raise UsageError(f"{path}: holds no rows; write one row for each label")
    return [(f"row {number}", {name.lower(): x for name, x in row.items()}) for number, row in enumerate(rows, 1)]


def _json(text: str, problem: Callable[[str, int], UsageError]) -> Any:
    """`problem(what, line)` makes the error that is raised."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise problem(error.msg, error.lineno) from error
    except RecursionError as error:
        raise problem("nested too deeply", 1) from error
    except ValueError as error:  # a name twice, or a number of thousands of digits
        raise problem(str(error).split(";")[0], 1) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Without this the last of two equal names would win in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {shown(name)} twice in an object")
    return found


def _record(path: Path, where: str, found: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(found, dict):
        raise UsageError(f"{path}: {where}: not an object; write one with {_NAMES}")
    return where, found


def _lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():

            def broken(said: str, _: int, number: int = number) -> UsageError:
                return UsageError(
                    f"{path}: line {number}: not a whole JSON object ({said}); write one object a line, or copy the file again if it was cut off"
                )

            yield _record(path, f"line {number}", _json(line, broken))


def _entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    def broken(said: str, line: int) -> UsageError:
        return UsageError(f"{path}: line {line}: not a whole JSON list ({said}); copy the file again if it was cut off")

    for number, found in enumerate(_json(text, broken), 1):
        yield _record(path, f"entry {number}", found)


def _table(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Its header decides what separates the fields: a comma, a semicolon or a tab."""
    first = text.lstrip().split("\n", 1)[0].rstrip("\r")
    fitting = [mark for mark in ",;\t" if _has_names(first.split(mark))]
    if not fitting:
        raise UsageError(f"{path}: line 1: neither JSON nor the header of a table; its columns must be named {_NAMES}")
    lines = io.StringIO(text, newline="\n")  # a lone CR ends no row: the reader refuses it where it is not quoted
    reader = csv.reader(lines, delimiter=fitting[0], strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            said = str(error).split(" - ")[0]
            raise UsageError(
                f"{path}: line {line}: {said}; put a label with line ends or quotes in quotes, and write each quote in it twice"
            ) from error
        if fields is None:
            return
        if not fields:
            continue
        if not header:
            header = fields
            if len({name.strip().lower() for name in header}) < len(header):
                raise UsageError(f"{path}: line {line}: a column's name twice; keep one of them")
        elif len(fields) != len(header):
            raise UsageError(
                f"{path}: line {line}: {len(fields)} fields under {len(header)} columns; quote a label that holds the separator, or copy the file again if it was cut off"
            )
        else:
            yield f"line {line}", dict(zip(header, fields, strict=True))


def _has_names(header: list[str]) -> bool:
    names = {name.strip().strip('"').strip().lower() for name in header}
    return bool(names & set(_FEATURE)) and bool(names & set(_TEXT))


# --------------------------------------------------------------------------- what a row says


def _labelled(path: Path, form: str, records: list[tuple[str, dict[str, Any]]]) -> LabelFile:
    columns = _COLUMNS_OF_NEURONPEDIA if form == "Neuronpedia" else _COLUMNS
    feature, text, source, model, method = columns
    rows = [
        LabelRow(
            where,
            _value(path, where, record, feature),
            _words(path, where, record, text, needed=True),
            _words(path, where, record, source),
            _words(path, where, record, model),
            _words(path, where, record, method),
            record["scores"] if isinstance(record.get("scores"), list) else None,
        )
        for where, record in records
    ]
    return LabelFile(path, form, rows)


def _value(path: Path, where: str, record: dict[str, Any], names: tuple[str, ...]) -> Any:
    """What stands under the one of `names` that the row has."""
    found = [name for name in names if name in record]
    if not found:
        raise UsageError(f"{path}: {where}: has no {' or '.join(names)}, only {shown(', '.join(record) or 'nothing')}")
    if len(found) > 1:
        raise UsageError(f"{path}: {where}: has both {found[0]} and {found[1]}; keep the one that is meant")
    return record[found[0]]


def _words(
    path: Path, where: str, record: dict[str, Any], names: tuple[str, ...], *, needed: bool = False
) -> str | None:
    """A text, or None where there is none."""
    if not needed and not any(name in record for name in names):
        return None
    value = _value(path, where, record, names)
    if value is not None and not isinstance(value, str):
        name = next(name for name in names if name in record)
        raise UsageError(f"{path}: {where}: {name} is {shown(value)}, not text; put it in quotes, or leave the row out")
    return value if value or needed else None
