"""Scores that other tools gave to labels, as rows of their own: split `theirs`, predictor `theirs:TOOL:...`.

They come from other windows, other models and other definitions, so no view of ours takes them in: they never enter
`labels` or `scoreboard`, choose a label, or stand beside a null. They are there to be looked at (`glossator show`, SQL).

- Lines with `scores`: metric, predictor, value, and where given low, high, n (what `glossator export --format jsonl` writes).
- Neuronpedia: `scores` of an explanation, with explanationScoreTypeName, explanationScoreModelName and value.
- Delphi: `scores/SCORER/<module>_latent17.txt`, a list of predictions about windows. What is kept of it is what Delphi itself
  reports, balanced accuracy and F1 over the predictions that could be read; the others are counted in the note. Folders of
  scorers that hold no such predictions (embedding, simulation, surprisal) are left out, and named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glossator.agents.others.imported import Extent, Imported, places
from glossator.agents.others.label_files import LabelFile, LabelRow, clean, latent_of, shown
from glossator.errors import UsageError
from glossator.rows import ScoreRow
from glossator.types import Explanation

SPLIT, PREFIX = "theirs", "theirs:"
_LONGEST = 200  # characters of a metric or predictor
_PREDICTIONS = ("fuzz", "fuzzing", "detection", "recall")  # folders whose files must be lists of predictions


@dataclass(frozen=True)
class Theirs:
    rows: tuple[ScoreRow, ...]
    left_out: tuple[str, ...] = ()  # folders that hold no predictions
    unlabelled: int = 0  # score files of features that have no label in the set


def _row(one: Explanation, predictor: str, metric: str, value: float | None, note: str, **more: Any) -> ScoreRow:
    low, high, n = more.get("low"), more.get("high"), more.get("n") or 0
    return ScoreRow(
        one.explanation_id, one.dictionary, one.feature, one.explainer, PREFIX + predictor, one.model, metric, SPLIT, value,
        low, high, n, note, "",
    )  # fmt: skip


# --------------------------------------------------------------------------- beside labels in a file


def of_labels(file: Imported) -> Theirs:
    """Scores that stand beside labels in their own file. Raises UsageError with file and row."""
    rows: dict[tuple[str, str, str], ScoreRow] = {}
    for one, where, scores in file.scores:
        for number, given in enumerate(scores, 1):
            row = _beside(one, given, f"{file.path}: {where}: score {number}")
            key = (row.explanation_id, row.predictor, row.metric)
            if key in rows:
                raise UsageError(
                    f"{file.path}: {where}: score {number}: {shown(row.metric)} by the same predictor twice; keep one"
                )
            rows[key] = row
    return Theirs(tuple(rows.values()))


def _beside(one: Explanation, given: Any, where: str) -> ScoreRow:
    if not isinstance(given, dict):
        raise UsageError(f"{where}: is {shown(given)}, not an object with metric, predictor and value")
    metric = _word(given, ("metric", "explanationScoreTypeName"), where)
    predictor = _word(given, ("predictor", "explanationScoreModelName"), where, needed=False) or "unknown"
    tool = "neuronpedia:" if "explanationScoreTypeName" in given else ""
    numbers = {name: _number(given.get(name), name, where) for name in ("value", "low", "high", "n")}
    n = numbers.pop("n")
    if n is not None and (n < 0 or n != int(n)):
        raise UsageError(f"{where}: n is {shown(n)}; write a whole number")
    value = numbers.pop("value")
    note = given.get("note")
    said = "as their file has it" + (f": {clean(note)[:_LONGEST]}" if isinstance(note, str) else "")
    return _row(one, (tool + predictor)[:_LONGEST], metric, value, said, n=None if n is None else int(n), **numbers)


def _word(given: dict[str, Any], names: tuple[str, ...], where: str, *, needed: bool = True) -> str:
    found = next((given[name] for name in names if given.get(name) is not None), None)
    if found is None and not needed:
        return ""
    if not isinstance(found, str) or not (text := clean(found)) or len(text) > _LONGEST:
        raise UsageError(f"{where}: {' or '.join(names)} is {shown(found)}; write a name of 1 to {_LONGEST} characters")
    return text


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: {name} is {shown(value)}; write a number, or null where there is none")
    return float(value)


# --------------------------------------------------------------------------- Delphi


def of_delphi(folder: Path, file: Imported, dictionaries: Mapping[str, Extent]) -> Theirs:
    """Scores of the labels of `file` from Delphi's folder `scores`. Raises UsageError with the file."""
    labels = {(one.dictionary, one.feature): one for one in file.explanations}
    rows: list[ScoreRow] = []
    left_out: list[str] = []
    unlabelled = 0
    for scorer in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(path for path in scorer.iterdir() if path.suffix == ".txt")
        if not files:
            continue
        if scorer.name not in _PREDICTIONS and not _holds_predictions(files[0]):
            left_out.append(scorer.name)
            continue
        named = [LabelRow(f"{scorer.name}/{path.name}", *_name(path)) for path in files]
        about, _ = places(LabelFile(folder, "Delphi", named), dictionaries)
        for path, (_, dictionary, index) in zip(files, about, strict=True):
            found = _metrics(_predictions(path))
            if (one := labels.get((dictionary, index))) is None:
                unlabelled += 1
                continue
            rows += [
                _row(one, f"delphi:{scorer.name}", f"{scorer.name}_{metric}", value, note, n=n)
                for metric, value, n, note in found
            ]
    return Theirs(tuple(rows), tuple(left_out), unlabelled)


def _name(path: Path) -> tuple[str, None, str]:
    """Feature, no text, module: as LabelRow has them."""
    module, index = latent_of(path)
    return index, None, module


def _loaded(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not whole JSON ({str(error).splitlines()[0][:120]}); copy it again") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _holds_predictions(path: Path) -> bool:
    found = _loaded(path)
    return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and "prediction" in found[0]


def _predictions(path: Path) -> list[tuple[bool, bool | None]]:
    """[(active, predicted)]; predicted None: the reply could not be read."""
    found = _loaded(path)
    if not isinstance(found, list):
        raise UsageError(f"{path}: holds no list of predictions, as Delphi's scores are; move it away")
    pairs = []
    for number, one in enumerate(found, 1):
        truth = (one.get("activating", one.get("ground_truth")) if isinstance(one, dict) else None)  # fmt: skip
        said = one.get("prediction", "") if isinstance(one, dict) else ""
        if not isinstance(truth, bool) or said not in (True, False, None):
            raise UsageError(f"{path}: entry {number}: has no `activating` and `prediction` that are true or false")
        pairs.append((truth, None if said is None else bool(said)))
    return pairs


def _metrics(pairs: Iterable[tuple[bool, bool | None]]) -> Iterator[tuple[str, float | None, int, str]]:
    """(metric, value, n, note): as Delphi defines them; None where a class is missing, which Delphi counts as 0."""
    every = list(pairs)
    read = [(truth, said) for truth, said in every if said is not None]
    hits = {truth: sum(t is truth and s is truth for t, s in read) for truth in (True, False)}
    n = {truth: sum(t is truth for t, _ in read) for truth in (True, False)}
    failed = len(every) - len(read)
    note = f"as Delphi gave it, on its windows: {n[True]} active, {n[False]} silent; {failed} predictions could not be read"
    both = n[True] and n[False]
    yield "balanced_accuracy", (hits[True] / n[True] + hits[False] / n[False]) / 2 if both else None, len(read), note
    errors = len(read) - hits[True] - hits[False]
    yield "f1", 2 * hits[True] / (2 * hits[True] + errors) if n[True] else None, len(read), note
