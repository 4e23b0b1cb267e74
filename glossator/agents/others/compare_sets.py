"""Label sets against one another: "B beats A by 0.06 [0.03, 0.09] on 412 features", for the same windows, predictor and metric.

A set is all labels of one explainer; where an explainer of this run has asked several models, each pair is a set. What a
predictor was shown depends on the feature and the seed alone, never on the label, so two sets were read on the same
windows wherever they were scored with the same settings: that is checked for every feature, by the settings that their
scores' runs have stored and by the number of things that each score was taken over. Features that do not pass are left
out and counted. Not seen is a prompt that has changed between two versions of Glossator.

Compared are the features for which both have a value on `test`. Leaving out the others flatters a set whose scores fail on
its worst labels, so where any failed, the difference with failures counted as chance level is given beside. How much of
the dictionary each set labels is said too: the difference is about features that both label, and no others.

Where both were drawn again with other seeds, the standard deviation of the difference over the draws stands beside it.
What is computed is in scorers/label_sets.py. Rows are replaced only where they have changed.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glossator.agents.others.imported import PREFIX
from glossator.agents.run import Run
from glossator.config import CompareConfig, LLMConfig, LLMScoreConfig
from glossator.rows import SetComparisonRow
from glossator.scorers.label_sets import CHANCE, Difference, difference, groups
from glossator.scorers.scoring import finite
from glossator.types import Ints

SPLIT = "test"
_SHOWN = ("active", "background", "firing", "silent", "near", "fuzzed", "margin", "seed")  # they decide what is shown
_HOW = ("temperature", "effort")  # and these how it is read
_DEFAULTS = {
    name: field.default
    for config in (LLMScoreConfig, LLMConfig)
    for name, field in config.model_fields.items()
    if name in (*_SHOWN, *_HOW)
}


@dataclass(frozen=True, slots=True)
class _Score:
    """value None: it failed where `note` is None too, else it cannot be computed. shown: who read it, and the settings."""

    value: float | None
    note: str | None
    n: int
    shown: str
    repeats: Mapping[int, float | None]

    @property
    def failed(self) -> bool:
        return self.value is None and self.note is None


_Scores = Mapping[int, _Score]  # by feature


@dataclass(frozen=True, slots=True)
class Spread:
    """The standard deviation of a mean difference over draws, of n features."""

    sd: float
    draws: int
    n: int


@dataclass(frozen=True)
class Comparison:
    """b against a. failed: features left out because a score failed; elsewhere: because they were read otherwise."""

    row: SetComparisonRow
    found: Difference
    failed: int
    elsewhere: int
    with_failures: Difference | None
    spread: Spread | None
    dependent: bool  # the reader is the subject itself

    @property
    def said(self) -> str:
        """One sentence; the better set stands first."""
        one, row = self.found, self.row
        by = f"({row.metric} by {row.predictor})"
        if not one.n:
            return f"{row.b} and {row.a} share no feature with a value for both {by}{self._left_out()}"
        if math.isnan(one.low):
            said = f"{row.b} and {row.a}: {one.value:+.2f} on {one.n:,} features, too few for an interval {by}"
        elif one.told_apart:
            first, second = (row.b, row.a) if one.value > 0 else (row.a, row.b)
            said = f"{first} beats {second} by {_interval(one, turned=one.value < 0)} on {one.n:,} features {by}"
        else:
            said = f"{row.b} and {row.a} cannot be told apart: {_interval(one)} on {one.n:,} features {by}"
        if self.spread is not None:
            said += f"; standard deviation over {self.spread.draws} draws {self.spread.sd:.3f} (of {self.spread.n:,} features)"
        return said + "; dependent: the encoder is the subject" * self.dependent + self._left_out()

    def _left_out(self) -> str:
        said = ""
        if self.failed:
            said += f"; {self.failed:,} left out because a score failed"
        if self.with_failures is not None:
            chance = f"failures counted as {CHANCE[self.row.metric]:g}"
            said += f", with {chance}: {_interval(self.with_failures)} for {self.row.b} on {self.with_failures.n:,}"
        if self.elsewhere:
            said += f"; {self.elsewhere:,} left out because the two were read on other windows or with other settings"
        return said


def _interval(one: Difference, *, turned: bool = False) -> str:
    shown = (-one.value, -one.high, -one.low) if turned else (one.value, one.low, one.high)
    digits = 3 if any(0 < abs(x) < 0.005 for x in shown) else 2  # else a small difference would be shown as none
    value, low, high = (f"{x + 0.0:.{digits}f}" for x in shown)
    return f"{value} [no interval]" if math.isnan(one.low) else f"{value} [{low}, {high}]"


def compare_sets(
    run: Run, sets: Sequence[str], predictor: str, metrics: Sequence[str], against: Sequence[str], config: CompareConfig
) -> list[str]:
    """Each of `sets` with all others that this predictor has scored, or those `against`; what came of it, in sentences."""
    scores = _scores(run, predictor, metrics)
    group = _groups(run, config)
    pairs = _pairs(sets, [name for name, _ in scores], against)
    said, rows = [], []
    for a, b in pairs:
        said.append(_coverage(run, a, b))
        found = [
            _compare(run, (a, b), (predictor, metric), (scores[a, metric], scores[b, metric]), group, config)
            for metric in metrics
            if (a, metric) in scores and (b, metric) in scores
        ]
        rows += [one.row for one in found]
        said += [f"  {one.said}" for one in found]
    _replace(run, rows, config)
    there = {name for name, _ in scores}
    said += [
        f"{run.dictionary}  {name} has no scores by {predictor}: nothing to compare with; score --every reads the labels of this run"
        for name in against
        if not any(_is(one, name) for one in there)
    ]
    return said


def _pairs(sets: Sequence[str], scored: Sequence[str], against: Sequence[str]) -> list[tuple[str, str]]:
    """(a, b), each pair once: the run's own set first, of two imported ones the first by name."""
    others = [name for name in dict.fromkeys(scored) if not against or any(_is(name, wanted) for wanted in against)]
    found = {_ordered(mine, other) for mine in sets for other in others if mine in scored and mine != other}
    return sorted(found)


def _is(name: str, wanted: str) -> bool:
    """An explainer's name stands for all its sets."""
    return name == wanted or name.startswith(f"{wanted} by ")


def _ordered(one: str, other: str) -> tuple[str, str]:
    first, second = sorted((one, other), key=lambda name: (name.startswith(PREFIX), name))
    return first, second


# --------------------------------------------------------------------------- what is stored


def _scores(run: Run, predictor: str, metrics: Sequence[str]) -> dict[tuple[str, str], dict[int, _Score]]:
    """(set, metric) -> scores by feature. Of several labels of one feature in a set: the run's label, else the last one."""
    given = [run.dictionary, predictor, list(metrics), SPLIT]
    where = "dictionary = ? AND predictor = ? AND metric IN (SELECT unnest(?::VARCHAR[])) AND split = ?"
    again: dict[tuple[str, str], dict[int, float | None]] = {}
    for identity, metric, repeat, value in run.store.sql(
        f"SELECT explanation_id, metric, repeat, value FROM repeat_score WHERE {where}", given
    ):
        again.setdefault((identity, metric), {})[repeat] = value
    names = _names(run)
    rows = run.store.sql(
        f"SELECT s.explanation_id, s.feature, s.metric, s.value, s.note, s.n, r.config, s.model FROM score s LEFT JOIN run r USING (run_id) "
        f"WHERE {where} ORDER BY coalesce(s.explanation_id IN (SELECT explanation_id FROM label), false), s.rowid",
        given,
    )
    found: dict[tuple[str, str], dict[int, _Score]] = {}
    for identity, feature, metric, value, note, n, config, model in rows:
        if identity in names:
            one = _Score(value, note, n, _shown(config, model), again.get((identity, metric), {}))
            found.setdefault((names[identity], metric), {})[feature] = one
    return found


def _names(run: Run) -> dict[str, str]:
    """explanation -> the set that it is of."""
    rows = run.store.sql(
        "SELECT explanation_id, explainer, coalesce(model, '') FROM explanation WHERE dictionary = ? AND text IS NOT NULL",
        [run.dictionary],
    )
    models: dict[str, set[str]] = {}
    for _, explainer, model in rows:
        models.setdefault(explainer, set()).add(model)
    several = {who for who, names in models.items() if len(names) > 1 and not who.startswith(PREFIX)}
    return {i: f"{who} by {model or 'no model'}" if who in several else who for i, who, model in rows}


def _shown(config: str | None, reader: str) -> str:
    """Who read, and what decided on which windows and how; what an older version did not write had its default."""
    stored: dict[str, Any] = {name: value for part in json.loads(config or "[]") for name, value in part.items()}
    return json.dumps(
        [reader, {name: stored.get(name, default) for name, default in _DEFAULTS.items()}], sort_keys=True
    )


def _groups(run: Run, config: CompareConfig) -> Ints:
    """[features] which of them are resampled together."""
    rows = run.store.sql(
        "SELECT coalesce(neighbours, []), coalesce(neighbour_cosines, []) FROM feature WHERE dictionary = ? ORDER BY feature",
        [run.dictionary],
    )
    return groups(len(rows), [near for near, _ in rows], [cosines for _, cosines in rows], config.alike)


def _coverage(run: Run, a: str, b: str) -> str:
    names = _names(run)
    ((scorable,),) = run.store.sql(
        "SELECT count(*) FROM feature WHERE dictionary = ? AND status NOT IN ('dead', 'rare')", [run.dictionary]
    )
    rows = run.store.sql(
        "SELECT e.explanation_id, e.feature FROM explanation e JOIN feature f USING (dictionary, feature) "
        "WHERE e.dictionary = ? AND e.text IS NOT NULL AND f.status NOT IN ('dead', 'rare')",
        [run.dictionary],
    )
    mine: dict[str, set[int]] = {a: set(), b: set()}
    for identity, feature in rows:
        if (name := names[identity]) in mine:
            mine[name].add(feature)
    parts = [f"{name} labels {len(mine[name]):,}" for name in (b, a)]
    return f"{run.dictionary}  of {scorable:,} features that can be scored, {', '.join(parts)}, both {len(mine[a] & mine[b]):,}"


# --------------------------------------------------------------------------- one pair


def _compare(
    run: Run, sets: tuple[str, str], by: tuple[str, str], scores: tuple[_Scores, _Scores], group: Ints, config: CompareConfig
) -> Comparison:  # fmt: skip
    a, b = scores
    shared = sorted(a.keys() & b.keys())
    same = [f for f in shared if _same_windows(a[f], b[f])]
    both = [f for f in same if a[f].value is not None and b[f].value is not None]
    failed = [f for f in same if a[f].failed or b[f].failed]
    found = _difference(a, b, both, group, config, 0.0)
    filled = None
    if failed and by[1] in CHANCE:
        filled = _difference(a, b, [*both, *_countable(a, b, failed)], group, config, CHANCE[by[1]])
    spread = _repeated(a, b, both)
    dependent = any((b[f].note or "").startswith("dependent") for f in both)
    row = SetComparisonRow(
        run.dictionary, *sets, *by, SPLIT, found.n, finite(found.mean_a), finite(found.mean_b), finite(found.value),
        finite(found.low), finite(found.high), finite(found.p), "",
    )  # fmt: skip
    return Comparison(row, found, len(failed), len(shared) - len(same), filled, spread, dependent)


def _same_windows(a: _Score, b: _Score) -> bool:
    if a.failed or b.failed:
        return a.shown == b.shown
    return a.shown == b.shown and (a.n == b.n or a.value is None or b.value is None)


def _countable(a: _Scores, b: _Scores, failed: Sequence[int]) -> list[int]:
    """Failures of features of which the other score is there, or failed too; what nobody can compute is no failure."""
    return [f for f in failed if all(one.failed or one.value is not None for one in (a[f], b[f]))]


def _difference(
    a: _Scores, b: _Scores, features: Sequence[int], group: Ints, config: CompareConfig, instead: float
) -> Difference:
    """`instead`: the value of what failed."""
    features = sorted(features)
    values = [[instead if one[f].value is None else one[f].value for f in features] for one in (a, b)]
    x, y = (np.asarray(each, float) for each in values)
    return difference(x, y, group[features] if features else np.empty(0, int), config.draws, config.seed)


def _repeated(a: _Scores, b: _Scores, features: Sequence[int]) -> Spread | None:
    """Over the draws that both sets have, the first one included, of the features that have them all: on the same windows again."""
    draws = sorted({r for f in features for r in a[f].repeats} & {r for f in features for r in b[f].repeats})
    apart: list[list[float]] = []
    for f in features:
        drawn = [(a[f].repeats.get(r), b[f].repeats.get(r)) for r in draws]
        each = [y - x for x, y in [(a[f].value, b[f].value), *drawn] if x is not None and y is not None]
        if len(each) == len(draws) + 1:
            apart.append(each)
    if not draws or not apart:
        return None
    return Spread(float(np.mean(apart, axis=0).std(ddof=1)), len(draws) + 1, len(apart))


def _replace(run: Run, rows: Sequence[SetComparisonRow], config: CompareConfig) -> None:
    """What is stored already stays as it is."""
    names = [field.name for field in dataclasses.fields(SetComparisonRow)]
    stored = run.store.sql(f"SELECT {', '.join(names[:-1])} FROM set_comparison WHERE dictionary = ?", [run.dictionary])
    known = set(stored)
    new = [row for row in rows if dataclasses.astuple(row)[:-1] not in known]
    if not new:
        return

    def forget(connection: Any) -> None:
        for row in new:
            connection.execute(
                "DELETE FROM set_comparison WHERE dictionary = ? AND a = ? AND b = ? AND predictor = ? AND metric = ? AND split = ?",
                [row.dictionary, row.a, row.b, row.predictor, row.metric, row.split],
            )

    with run.stage("compare", config) as run_id:
        run.store.replace_now(forget, [dataclasses.replace(row, run_id=run_id) for row in new])
