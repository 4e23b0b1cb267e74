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
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glossator.agents.others.label_files import records_of
from glossator.errors import UsageError


class _Row(BaseModel):
    """Keys are read in lower case, as `records_of` gives them, and written as Neuronpedia does. Keys of other tools are left out."""

    model_config = ConfigDict(
        alias_generator=str.lower, populate_by_name=True, extra="ignore", frozen=True, allow_inf_nan=False, strict=False
    )

    modelId: str
    layer: str  # the source, such as 6-res-jb; of a run the dictionary's name
    index: str = Field(coerce_numbers_to_str=True)


class Feature(_Row):
    maxActApprox: float | None = None
    frac_nonzero: float | None = None
    pos_str: list[str] = []
    pos_values: list[float] = []
    neg_str: list[str] = []
    neg_values: list[float] = []
    freq_hist_data_bar_heights: list[float] = []
    freq_hist_data_bar_values: list[float] = []  # the lower edges of the bars
    logits_hist_data_bar_heights: list[float] = []
    logits_hist_data_bar_values: list[float] = []
    hookName: str | None = None
    vector: list[float] = []


class Activation(_Row):
    id: str = Field(default="", coerce_numbers_to_str=True)
    tokens: list[str]
    values: list[float]
    maxValue: float | None = None
    maxValueTokenIndex: int | None = None
    minValue: float | None = None
    binMin: float | None = None
    binMax: float | None = None
    binContains: float | None = None
    dataSource: str | None = None


class ExplanationOf(_Row):
    id: str = Field(default="", coerce_numbers_to_str=True)
    description: str | None = None
    typeName: str | None = None
    explanationModelName: str | None = None
    authorId: str | None = None


def write_batch(folder: Path, number: int, rows: Iterable[_Row]) -> int:
    """Write `folder`/batch-N.jsonl.gz; returns the number of rows. The same rows give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    n = 0
    with gzip.GzipFile(folder / f"batch-{number}.jsonl.gz", "wb", compresslevel=5, mtime=0) as file:
        for n, row in enumerate(rows, 1):  # noqa: B007
            line = json.dumps(row.model_dump(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            file.write(line.encode("utf-8", "replace") + b"\n")
    return n


def batches_of(path: Path) -> list[Path]:
    """The batches in a folder in their order, or the file itself."""
    if not path.is_dir():
        return [path]
    found = [file for file in path.iterdir() if file.is_file() and file.name.startswith("batch-")]
    return sorted(found, key=lambda file: (len(file.name.split(".")[0]), file.name))


def kind_of(path: Path) -> str | None:
    """features, activations, or None for anything else, by the names in the first row."""
    first = batches_of(path)[:1]
    if not first or not first[0].is_file():
        return None
    names = set(_first_names(first[0]))
    if {"tokens", "values"} <= names:
        return "activations"
    return "features" if names & {"frac_nonzero", "maxactapprox", "pos_str"} and "description" not in names else None


def _first_names(path: Path) -> Iterator[str]:
    """Of the first JSON object of a file of lines; nothing where it has no such line."""
    try:
        with path.open("rb") as packed:
            head = packed.read(2)
        with gzip.open(path, "rb") if head == b"\x1f\x8b" else path.open("rb") as file:
            found: Any = json.loads(file.readline())
    except (OSError, EOFError, ValueError, RecursionError):  # who reads all of it will say what is wrong
        return
    if isinstance(found, dict):
        yield from (str(name).lower() for name in found)


def read_features(path: Path) -> Iterator[tuple[str, Feature]]:
    """Each row with its place. Raises UsageError with file and row."""
    yield from _read(path, Feature)


def read_activations(path: Path) -> Iterator[tuple[str, Activation]]:
    """Each row with its place. Raises UsageError with file and row, also where tokens and values do not go together."""
    for where, row in _read(path, Activation):
        if len(row.tokens) != len(row.values):
            raise UsageError(
                f"{where}: {len(row.tokens)} tokens and {len(row.values)} values; each token has one value"
            )
        yield where, row


def _read(path: Path, kind: type[Any]) -> Iterator[tuple[str, Any]]:
    for file in batches_of(path):
        for where, record in records_of(file)[0]:
            try:
                yield f"{file}: {where}", kind.model_validate(record)
            except ValidationError as error:
                first = error.errors()[0]
                at = ".".join(str(part) for part in first["loc"])
                raise UsageError(
                    f"{file}: {where}: {at}: {first['msg']}; it is read as one of Neuronpedia's {kind.__name__.lower()} rows"
                ) from error
