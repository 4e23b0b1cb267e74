"""What people are asked to rate, and where their answers go. The people sit at a terminal: see glossator/rating.py.

A rater sees windows of the split `test` and a label, or two labels in an order of chance, and nothing that says who wrote
them, what they scored, or which feature it is. The sample is drawn so that labels of every density and of good and bad
scores are in it (a third each, scores ranked among those of their own predictor), by a hash of the seed: every rater gets
the same labels in the same order, and what a rater has rated already is not asked again.

Of the firing windows two are the strongest and the others a uniform draw, because the strongest alone make any label
look right; the silent ones are near misses where there are any, and background.

**What ratings cannot show.** People see the windows and the label together: they judge whether the label is plausible
for a handful of windows, not whether it predicts the feature on others, which is what scores measure. A plausible label
may be far too broad, and only a lucky near miss would show it. Few raters rate few labels; raters differ in how strict
they are; and the style of a sentence may give its writer away, whatever the screen hides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.rows import RatingRow
from glossator.scorers.reading import few
from glossator.types import FeatureRecord, Ints, Sample, content_id

GRADES = ("wrong", "poor", "half", "good", "right")  # 1 to 5
A_BETTER, B_BETTER, ALIKE, NEITHER = "a better", "b better", "both alike", "neither"
SKIPPED = "skipped"
_STRONGEST, _FIRING = 2, 5  # firing windows
_NEAR, _SILENT = 2, 3  # silent ones

_RATABLE = """
f.dictionary = $d AND f.status NOT IN ('dead', 'rare') AND f.feature IN (
    SELECT x.feature FROM exemplar x JOIN feature g USING (dictionary, feature)
    WHERE x.dictionary = $d AND x.split = 'test' AND x.max_activation >= g.threshold::FLOAT)
"""
_SINGLE = f"""
SELECT f.feature, l.explanation_id AS a, l.label AS a_text, NULL AS b, NULL AS b_text, f.density, l.predictor,
       coalesce(l.simulation, l.detection) AS score
FROM feature f JOIN label l USING (dictionary, feature) WHERE {_RATABLE} AND l.status <> 'abstained' AND trim(l.label) <> ''
"""
_PAIRS = f"""
WITH written AS (SELECT * FROM explanation WHERE dictionary = $d AND NOT abstained AND trim(text) <> '' AND NOT ends_with(explainer, ':candidate')
                 QUALIFY row_number() OVER (PARTITION BY explanation_id ORDER BY rowid DESC) = 1),
named AS (SELECT * FROM written WHERE explainer = $against QUALIFY row_number() OVER (PARTITION BY feature ORDER BY explanation_id) = 1),
other AS (SELECT w.*, l.predictor, coalesce(l.simulation, l.detection) AS score
          FROM written w LEFT JOIN label l ON l.dictionary = $d AND l.explanation_id = w.explanation_id WHERE w.explainer <> $against
          QUALIFY row_number() OVER (PARTITION BY w.feature ORDER BY l.explanation_id IS NULL, starts_with(w.explainer, 'imported:'),
                                     w.model IS NULL, w.explanation_id) = 1)
SELECT f.feature, o.explanation_id AS a, o.text AS a_text, n.explanation_id AS b, n.text AS b_text, f.density, o.predictor, o.score
FROM feature f JOIN other o ON o.feature = f.feature JOIN named n ON n.feature = f.feature WHERE {_RATABLE} AND o.text <> n.text
"""
_CELLS = """
SELECT feature, a, a_text, b, b_text, ntile(3) OVER (ORDER BY density, feature) AS by_density,
       if(score IS NULL, 0, ntile(3) OVER (PARTITION BY predictor, score IS NULL ORDER BY score, feature)) AS by_score
FROM ({frame}) ORDER BY feature
"""


@dataclass(frozen=True)
class Shown:
    """One feature as raters see it: labels (id, text) in the order in which they are shown; firing windows, strongest
    first; the token ids [WINDOW] of silent ones."""

    dictionary: str
    feature: int
    labels: tuple[tuple[str, str], ...]
    firing: Sample
    silent: tuple[Ints, ...]
    threshold: float
    maximum: float


@dataclass(frozen=True)
class Sitting:
    """What is left for a rater of a sample of `size`, of `ratable` that could be asked about."""

    rater: str
    left: tuple[Shown, ...]
    size: int
    ratable: int


def sitting(run: Run, rater: str, n: int, seed: int, against: str | None = None) -> Sitting:
    """Draw the sample. Raises UsageError where there is nothing to rate, or nobody to set against."""
    if n < 1:
        raise UsageError(f"--n {n}: write how many labels to rate, 1 or more")
    ordered = sorted(_frame(run, against), key=lambda row: content_id("rate", seed, run.dictionary, row["feature"]))
    chosen = _spread(ordered, seed)[:n]
    rated = {
        frozenset({a, b} - {None})
        for a, b in run.store.sql(
            "SELECT explanation_id, rival_id FROM rating WHERE dictionary = ? AND rater = ?", [run.dictionary, rater]
        )
    }
    left = [row for row in chosen if frozenset({row["a"], row["b"]} - {None}) not in rated]
    records = run.records([row["feature"] for row in left])
    shown = tuple(_shown(record, row, rater, seed) for record, row in zip(records, left, strict=True))
    return Sitting(rater, shown, len(chosen), len(ordered))


def _frame(run: Run, against: str | None) -> list[dict[str, Any]]:
    """All that could be rated, with their strata."""
    query = _CELLS.format(frame=_SINGLE if against is None else _PAIRS)
    given = {"d": run.dictionary} | ({} if against is None else {"against": against})
    rows: list[dict[str, Any]] = run.store.arrow(query, given).to_pylist()
    if rows:
        return rows
    path = run.store.path
    if against is None:
        raise UsageError(
            f"{path}: no feature of {run.dictionary} has a label and firing windows in the split test; run `glossator label {path}` first"
        )
    names = [
        name
        for (name,) in run.store.sql(
            "SELECT DISTINCT explainer FROM explanation WHERE dictionary = ? AND NOT abstained ORDER BY ALL",
            [run.dictionary],
        )
    ]
    if against not in names:
        has = f"has labels of {', '.join(names)}" if names else "has no labels"
        raise UsageError(f"--against {against}: {run.dictionary} {has}; name one of its explainers")
    raise UsageError(f"--against {against}: no feature that can be rated has another label beside the one of {against}")


def _spread(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """In an order of which every beginning covers the strata evenly: the first of each, the second of each, and so on."""
    count: dict[tuple[int, int], int] = {}
    keyed = []
    for row in rows:
        cell = (row["by_density"], row["by_score"])
        count[cell] = count.get(cell, 0) + 1
        keyed.append((count[cell], content_id("cell", seed, cell), row))
    return [row for *_, row in sorted(keyed, key=lambda key: key[:2])]


def _shown(record: FeatureRecord, row: dict[str, Any], rater: str, seed: int) -> Shown:
    labels = [(row["a"], row["a_text"])] + ([] if row["b"] is None else [(row["b"], row["b_text"])])
    if int(content_id("side", seed, rater, row["feature"]), 16) % 2:
        labels.reverse()
    f = record.feature
    return Shown(
        f.dictionary, f.index, tuple(labels), _firing(record, seed), _silent(record, seed), record.threshold, record.max_activation
    )  # fmt: skip


def _firing(record: FeatureRecord, seed: int) -> Sample:
    """The strongest windows, and others drawn uniformly from those that fire; each text once, strongest first."""
    sample = record.exemplars["test"]
    peak = sample.activations.max(1, initial=0)
    fires = np.flatnonzero(peak >= np.float32(record.threshold))
    once: dict[bytes, int] = {}
    for i in fires[np.lexsort((sample.windows.window_id[fires], -peak[fires]))].tolist():
        once.setdefault(sample.windows.ids[i, sample.windows.scored].tobytes(), i)
    strongest, others = list(once.values())[:_STRONGEST], list(once.values())[_STRONGEST:]
    drawn = sorted(
        (i for i in others if sample.stratum[i] == "sample"),
        key=lambda i: content_id(seed, sample.windows.ids[i].tolist()),
    )
    beside = [i for i in others if sample.stratum[i] != "sample"]  # for features of which hardly any was drawn
    kept = np.asarray([*strongest, *[*drawn, *beside][: _FIRING - len(strongest)]], int)
    return sample.take(kept[np.argsort(-peak[kept], kind="stable")])


def _silent(record: FeatureRecord, seed: int) -> tuple[Ints, ...]:
    """Near misses first, then background; a dense feature may have neither."""
    pool, near = record.background["test"], record.near_misses.get("test")
    seed = seed * 1_000_003 + record.feature.index  # else all features would show the same background
    found: dict[int, Ints] = {}
    quiet = pool.take(np.flatnonzero(~(pool.activations > 0).any(1)))
    for sample in ([] if near is None else [few(near, _NEAR, seed)]) + [few(quiet, _SILENT, seed)]:
        for window, ids in zip(sample.windows.window_id.tolist(), sample.windows.ids, strict=True):
            found.setdefault(window, ids[sample.windows.scored])
    return tuple(found.values())[:_SILENT]


def keep(run: Run, shown: Shown, judgement: str, rater: str, seconds: float, when: float) -> RatingRow:
    """Store one judgement; returns when it is on disk. `explanation_id` is the label that was shown first."""
    a, b = [*(identity for identity, _ in shown.labels), None][:2]
    row = RatingRow(
        content_id("rating", shown.dictionary, a, b, rater), shown.dictionary, shown.feature, str(a), b, judgement, rater, seconds, when
    )  # fmt: skip
    run.store.put_now(row)
    return row


def forget(run: Run, row: RatingRow) -> None:
    """Take one judgement back."""
    run.store.replace_now(lambda c: c.execute("DELETE FROM rating WHERE rating_id = ?", [row.rating_id]), [])
