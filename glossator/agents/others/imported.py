"""Labels that other people's tools wrote, as explanations of this run's features, under names of their own.

One label set is one explainer, so that sets can be compared: a file is one set, and a Neuronpedia export has one for each
method and model. All names begin with `imported:`, and all rows say "exposure unknown": nobody knows which text their
explainer saw, and the split `test` may be among it.

What does not fit is refused with its place, since a label that is left out in silence hides that a file is about another
dictionary. Holes are normal and counted: features that the file does not name, rows without a label, and what Delphi
wrote where its explainer failed. In a Neuronpedia export a feature often has several labels of one method and model: the
first counts, the others are counted as repeated.

Reads and decides, and writes nothing; labels are text and are never run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glossator.agents.others.label_files import LabelFile, LabelRow, clean, read_rows, shown
from glossator.errors import UsageError
from glossator.store.store import Store
from glossator.types import Explanation, feature_name

PREFIX, UNKNOWN_EXPOSURE = "imported:", "exposure unknown"
_LONGEST = 2_000  # characters of a label
_FAILED = {"Explanation could not be parsed.", "No explanation found"}  # what Delphi writes in place of a label
_NAMED = 5  # rows that an error names
_Place = tuple[str, str, int]  # explainer, dictionary, feature


@dataclass(frozen=True, slots=True)
class Extent:
    """What has to be known of a dictionary: its number of features (poles counted), whether they are poles, its hook."""

    n_features: int
    signed: bool = False
    hook: str | None = None

    def name(self, index: int) -> str:
        return feature_name(self.signed, self.n_features, index)

    @property
    def said(self) -> str:
        """The features that there are."""
        return f"{self.name(0)} to {self.name(self.n_features - 1)}"


@dataclass(frozen=True, slots=True)
class LabelSet:
    """How much of one dictionary one explainer has labelled."""

    explainer: str
    dictionary: str
    labels: int
    missing: int  # features of the dictionary without a label in this set


@dataclass(frozen=True)
class Imported:
    """What was read. `empty`: rows without a label; `repeated`: further labels of a feature in a Neuronpedia export."""

    path: Path
    form: str
    explanations: tuple[Explanation, ...]
    sets: tuple[LabelSet, ...]
    empty: int
    repeated: int
    taken: tuple[tuple[str, str], ...]  # what the file calls a dictionary, and the one that it was taken for
    scores: tuple[
        tuple[Explanation, str, list[Any]], ...
    ] = ()  # what the file says of a label beside it, with its place

    @property
    def said(self) -> str:
        """The report, a line for each set."""
        n_features = len({(one.dictionary, one.feature) for one in self.explanations})
        lines = [
            f"{clean(str(self.path))}: {len(self.explanations):,} labels of {n_features:,} features read as {self.form}; "
            f"{UNKNOWN_EXPOSURE}: their explainer may have seen the split test"
        ]
        if self.empty:
            lines[0] += f"; {self.empty:,} rows without a label"
        if self.repeated:
            lines[0] += (
                f"; {self.repeated:,} further labels of features that had one of that set, the first of each counts"
            )
        lines += [f"source {source} taken for dictionary {name}" for source, name in self.taken]
        lines += [
            f"{one.dictionary}  {one.explainer}: {one.labels:,} labels; {one.missing:,} of {one.labels + one.missing:,} features have none"
            for one in self.sets
        ]
        return "\n".join(lines)


def extents(store: Store, only: str | None = None) -> dict[str, Extent]:
    """The dictionaries of a run file, or the one that is named, for `read_labels`."""
    rows = store.sql("SELECT dictionary, n_features, signed, hook FROM dictionary ORDER BY dictionary")
    return {name: Extent(int(n), bool(signed), hook) for name, n, signed, hook in rows if only in (None, name)}


def read_labels(path: Path, dictionaries: Mapping[str, Extent], explainer: str | None = None) -> Imported:
    """Read a file or folder of labels for the features of `dictionaries`. `explainer`: their name after `imported:`, else the file's stem.

    Raises UsageError, which names the file, the row and the way out.
    """
    file = read_rows(path)
    base = _base(path, explainer)
    found: dict[_Place, Explanation] = {}
    at: dict[_Place, str] = {}
    counts: Counter[str] = Counter()
    scores: list[tuple[Explanation, str, list[Any]]] = []
    rows, taken = places(file, dictionaries)
    for row, name, index in rows:
        text = _label(file, row)
        if file.form == "Neuronpedia" and not text:
            counts["empty"] += 1
            continue
        place = (_explainer(file, row, base), name, index)
        if place in at:
            if file.form != "Neuronpedia":
                called = dictionaries[name].name(index)
                raise UsageError(
                    f"{file.path}: {at[place]} and {row.where}: both label feature {called} of {name}; keep one"
                )
            counts["repeated"] += 1
            continue
        at[place] = row.where
        if not text:
            counts["empty"] += 1
            continue
        model = clean(row.model) or None if row.model else None
        found[place] = Explanation(name, index, place[0], text, reason=UNKNOWN_EXPOSURE, model=model)
        if row.scores:
            scores.append((found[place], row.where, row.scores))
    if not found:
        raise UsageError(f"{file.path}: none of its {len(file.rows):,} rows holds a label")
    sizes = Counter((who, name) for who, name, _ in found)
    sets = tuple(LabelSet(who, name, n, dictionaries[name].n_features - n) for (who, name), n in sizes.items())
    return Imported(
        path, file.form, tuple(found.values()), sets, counts["empty"], counts["repeated"], taken, tuple(scores)
    )


def places(
    file: LabelFile, dictionaries: Mapping[str, Extent]
) -> tuple[list[tuple[LabelRow, str, int]], tuple[tuple[str, str], ...]]:
    """Each row with the dictionary and the feature that it is about; and which sources were taken for which dictionaries.

    Raises UsageError for a row about another dictionary, or about features that there are not.
    """
    taken = _dictionaries(file, dictionaries)
    indices = [(row, taken[row.source], _index(file, row, dictionaries[taken[row.source]])) for row in file.rows]
    if unknown := [(row, name) for row, name, index in indices if index is None]:
        raise _no_such_features(file, unknown, dictionaries)
    renamed = tuple((clean(source), name) for source, name in taken.items() if source is not None and source != name)
    return [(row, name, index) for row, name, index in indices if index is not None], renamed


# --------------------------------------------------------------------------- whose labels


def _base(path: Path, explainer: str | None) -> str:
    if explainer is not None:
        name = clean(explainer).removeprefix(PREFIX)
        if not name or len(name) > 200:
            raise UsageError(f"the label set's name {shown(explainer)!r}: write one of 1 to 200 characters")
        return PREFIX + name
    whole = path.resolve()
    if whole.is_dir():
        return PREFIX + clean(whole.parent.name if whole.name == "explanations" else whole.name)
    stem = re.sub(r"\.gz$", "", whole.name)
    return PREFIX + (clean(Path(stem).stem) or "labels")


def _explainer(file: LabelFile, row: LabelRow, base: str) -> str:
    """Neuronpedia has several methods, each asked of several models: each pair is a set."""
    if file.form != "Neuronpedia":
        return base
    who = [clean(part)[:100] for part in (row.method or "untyped", row.model or "") if part]
    return f"{base}:{'/'.join(who)}"


# --------------------------------------------------------------------------- about which feature


def _dictionaries(file: LabelFile, known: Mapping[str, Extent]) -> dict[str | None, str]:
    """For each source that the file names, or None where it names none, the dictionary that is meant."""
    first: dict[str | None, LabelRow] = {}
    for row in file.rows:
        first.setdefault(row.source, row)
    return {source: _dictionary(file, row, known, alone=len(first) == 1) for source, row in first.items()}


def _dictionary(file: LabelFile, row: LabelRow, known: Mapping[str, Extent], *, alone: bool) -> str:
    """By name; Delphi's modules also by hook; and a file's only source is a run's only dictionary."""
    names, source = ", ".join(known), row.source
    if source is None:
        if len(known) == 1:
            return next(iter(known))
        raise UsageError(f"{file.path}: {row.where}: names no dictionary, and this run has {names}; add --dictionary")
    if source in known:
        return source
    if not file.own_words:
        raise UsageError(
            f"{file.path}: {row.where}: dictionary {shown(source)}: to be scored are {names}; write one of them, or take out its rows"
        )
    module = file.form == "Delphi" and "." in source
    hooked = [name for name, extent in known.items() if module and f".{extent.hook}".endswith(f".{source}")]
    if len(hooked) == 1:
        return hooked[0]
    if alone and len(known) == 1:
        ((name, extent),) = known.items()
        if not module or extent.hook is None or _numbers(source) == _numbers(extent.hook):
            return name
        raise UsageError(  # the features of another layer often have the same indices, and would be scored as bad labels
            f"{file.path}: {row.where}: source {shown(source)} is of another layer than {name}, which is at {extent.hook}; "
            "name the labels of that hook, or write these as JSONL without a dictionary if they are of it"
        )
    raise UsageError(
        f"{file.path}: {row.where}: source {shown(source)} is not one dictionary's name or hook among {names}; "
        "name one with --dictionary, and put the labels of one source into a folder or file of their own"
    )


def _numbers(hook: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"[0-9]+", hook)]


def _index(file: LabelFile, row: LabelRow, extent: Extent) -> int | None:
    """None: no such feature. In other tools' words there are no poles, and 17 is the positive one."""
    value = row.feature
    written = None
    if isinstance(value, str | int) and not isinstance(value, bool):
        written = re.fullmatch(r"0*([0-9]+)([+-]?)", str(value).strip())
    if written is None or (file.own_words and written[2]):
        raise UsageError(
            f"{file.path}: {row.where}: feature {shown(value)} is no index; write a whole number such as 17"
        )
    digits, sign = written[1], written[2]
    if sign and not extent.signed:
        raise UsageError(
            f"{file.path}: {row.where}: feature {shown(value)}: this dictionary's features have no poles; write {shown(digits)}"
        )
    half = extent.n_features // 2
    most = half if extent.signed and (sign or file.own_words) else extent.n_features
    if len(digits) > 9 or int(digits) >= most:
        return None
    return int(digits) + (half if sign == "-" else 0)


def _label(file: LabelFile, row: LabelRow) -> str:
    """The label on one line; "" where nothing can be seen of it, or where their explainer failed."""
    text = clean(row.text or "")
    if len(text) > _LONGEST:
        raise UsageError(
            f"{file.path}: {row.where}: a label of {len(text):,} characters; shorten it to {_LONGEST:,}, or leave the row out"
        )
    return text if text not in _FAILED and any(c.isprintable() and not c.isspace() for c in text) else ""


def _no_such_features(file: LabelFile, unknown: list[tuple[LabelRow, str]], known: Mapping[str, Extent]) -> UsageError:
    """All of them counted, the first few named."""
    some = "; ".join(f"{row.where}: {shown(row.feature)}" for row, _ in unknown[:_NAMED])
    more = "; ..." if len(unknown) > _NAMED else ""
    has = "; ".join(f"{name} has {known[name].said}" for name in dict.fromkeys(name for _, name in unknown))
    return UsageError(
        f"{file.path}: {len(unknown):,} of its {len(file.rows):,} rows are about features that do not exist ({some}{more}); {has}; "
        "name the dictionary that they are about with --dictionary, or take those rows out"
    )
