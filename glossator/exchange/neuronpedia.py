"""Rows of Neuronpedia's export files: features, activations and explanations, in batches of gzipped JSON lines.

Every key stands on every row, since readers take the columns from the first. What the format cannot hold, and is not in
these files: splits, thresholds and quantiles, negative poles of signed features, rules (`program`), intervals and nulls of
scores, experiments, debates, labels that others wrote. What a run file does not hold, and is empty in them: `vector`,
`logits_hist_data_*`, `authorId`, and the bins of activations. The files about models, releases and sources are not written.

Format: the exports of neuronpedia.org (`features|activations|explanations/batch-N.jsonl.gz`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glossator.errors import UsageError
from glossator.exchange.json_lines import objects

Number = Annotated[float, Field(strict=True)]  # neither a truth value nor a text that looks like one
Numbers = list[Number] | None
Texts = list[str] | None
Identity = Annotated[str, Field(coerce_numbers_to_str=True)]


class Row(BaseModel):
    """Names are read whatever their case, and written as Neuronpedia does. Fields of other tools are no part of it."""

    model_config = ConfigDict(
        alias_generator=str.lower, populate_by_name=True, extra="ignore", frozen=True, allow_inf_nan=False, strict=False
    )

    modelId: str
    layer: str  # the source, such as 6-res-jb; of a run the dictionary's name
    index: Identity


class Feature(Row):
    maxActApprox: Number | None = None
    frac_nonzero: Number | None = None
    pos_str: Texts = []
    pos_values: Numbers = []
    neg_str: Texts = []
    neg_values: Numbers = []
    freq_hist_data_bar_heights: Numbers = []
    freq_hist_data_bar_values: Numbers = []  # the lower edges of the bars
    logits_hist_data_bar_heights: Numbers = []
    logits_hist_data_bar_values: Numbers = []
    hookName: str | None = None
    vector: Numbers = []


class Activation(Row):
    id: Identity | None = ""
    tokens: list[str]
    values: list[Number]
    maxValue: Number | None = None
    maxValueTokenIndex: Annotated[int, Field(strict=True, ge=0, lt=1 << 31)] | None = None
    minValue: Number | None = None
    binMin: Number | None = None
    binMax: Number | None = None
    binContains: Number | None = None
    dataSource: str | None = None


class ExplanationOf(Row):
    id: Identity | None = ""
    description: str | None = None
    typeName: str | None = None
    explanationModelName: str | None = None
    authorId: str | None = None


def write_batch(folder: Path, number: int, rows: Iterable[Row]) -> int:
    """Write `folder`/batch-N.jsonl.gz; returns the number of rows; no file where there are none. The same rows give the same bytes."""
    each = iter(rows)
    if (first := next(each, None)) is None:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    n = 0
    with gzip.GzipFile(folder / f"batch-{number}.jsonl.gz", "wb", compresslevel=5, mtime=0) as file:
        for n, row in enumerate(chain([first], each), 1):  # noqa: B007
            line = json.dumps(row.model_dump(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            file.write(line.encode("utf-8", "replace") + b"\n")
    return n


def batches_of(path: Path) -> list[Path]:
    """The batches in a folder in their order, or the file itself."""
    if not path.is_dir():
        return [path]
    found = [file for file in path.iterdir() if file.is_file() and file.name.startswith("batch-")]
    return sorted(found, key=lambda file: (len(file.name.split(".")[0]), file.name))


_NAMES_OF = {  # fields by which a kind of row is known; the first that fits counts
    "activations": ({"tokens", "values"},),
    "explanations": ({"modelid", "layer", "index", "description"},),
    "features": ({"frac_nonzero"}, {"maxactapprox"}, {"pos_str"}),
}


def kind_of(path: Path) -> str | None:
    """features, activations or explanations, or None for anything else: by the names in the first row, else the folder's own."""
    first = next((row for file in batches_of(path) if (row := first_row(file))), None)
    if first is None:
        return path.name if path.is_dir() and path.name in _NAMES_OF else None
    names = {name.lower() for name in first}
    return next((kind for kind, some in _NAMES_OF.items() if any(names >= wanted for wanted in some)), None)


def first_row(path: Path) -> dict[str, Any]:
    """The first object of a file of lines; nothing where it has none: who reads all of it will say what is wrong."""
    try:
        return next(objects(path), (0, {}))[1]
    except UsageError:
        return {}


def holds_rows(path: Path) -> bool:
    """Whether a file has any line, good or bad: a batch of features that are never active has no activations."""
    try:
        return next(objects(path), None) is not None
    except UsageError:
        return True


def parsed(kind: type[Row], record: dict[str, Any], where: str) -> Any:
    """A record as a row of that kind. Raises UsageError, with the field, also where tokens and values do not go together."""
    lower = {name.lower(): value for name, value in record.items()}
    if len(lower) < len(record):
        raise UsageError(f"{where}: names that differ in case alone; keep one of them")
    try:
        row = kind.model_validate(lower)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        written = {name.lower(): name for name in record} | {name.lower(): name for name in kind.model_fields}
        at = ".".join(written.get(str(part), str(part)) for part in first["loc"])
        raise UsageError(
            f"{where}: {at}: {first['msg']}; it is read as one of Neuronpedia's {kind.__name__.lower()} rows"
        ) from error
    if isinstance(row, Activation) and len(row.tokens) != len(row.values):
        raise UsageError(f"{where}: {len(row.tokens)} tokens and {len(row.values)} values; each token has one value")
    return row


def read_features(path: Path) -> Iterator[tuple[str, Feature]]:
    """Each row with its place. Raises UsageError with file and row."""
    yield from _read(path, Feature)


def read_activations(path: Path) -> Iterator[tuple[str, Activation]]:
    """Each row with its place. Raises UsageError with file and row."""
    yield from _read(path, Activation)


def _read(path: Path, kind: type[Any]) -> Iterator[tuple[str, Any]]:
    for file in batches_of(path):
        for number, record in objects(file):
            where = f"{file}: line {number}"
            yield where, parsed(kind, record, where)
