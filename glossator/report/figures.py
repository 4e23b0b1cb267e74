"""Score distributions against their nulls and controls, and scores against density: plots of each metric and predictor.

Scores of different predictors share no plot. What an outline is of stands in its key, with the number of features in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from glossator.report.plots import Dot, histogram, scatter
from glossator.types import Floats

if TYPE_CHECKING:
    from glossator.agents.run import Run

PLOTTED = (
    "simulation",
    "detection",
    "embedding",
    "adversarial",
)  # the first one that a predictor has is drawn against density
_SAID = {
    "labels": "the labels",
    "lookup": "lookup-1, the single token that explains most",
    "null": "mismatched labels: for each feature the mean over labels of other features of like density",
    "near": "mismatched labels: that of the nearest decoder direction",
}
_KINDS = (("open", None), ("doubted", False), ("trusted", True))
_MOST_CONTROLS = 3
_CHANCE = {"detection": 0.5, "embedding": 0.5}  # what a constant prediction has

# Of labels and of the labels of this dictionary's controls; `trusted` is about the label's own predictor alone.
_OF_LABELS = """
SELECT s.predictor || if(s.note LIKE 'dependent%', ' (dependent)', '') AS predictor, s.metric, d.control, s.value, l.density,
       CASE WHEN l.predictor = s.predictor THEN l.trusted END AS trusted
FROM score s JOIN label l ON l.dictionary = s.dictionary AND l.feature = s.feature AND l.explanation_id = s.explanation_id
JOIN dictionary d ON d.dictionary = l.dictionary
WHERE (d.dictionary = $1 OR d.control_of = $1) AND s.split = 'test' AND s.value IS NOT NULL AND list_contains($2, s.metric)
ORDER BY s.dictionary, s.feature
"""
_LOOKUPS = """
SELECT predictor, value FROM score WHERE dictionary = $1 AND split = 'test' AND metric = 'simulation' AND explainer = 'lookup-1'
AND value IS NOT NULL
"""
_NULLS = """
SELECT n.predictor, n.metric, n.comparison, n.null_mean FROM null_score n JOIN label l USING (explanation_id)
WHERE l.dictionary = $1 AND n.comparison IN ('permuted', 'neighbour') AND n.null_mean IS NOT NULL
"""


def score_figures(run: Run) -> list[dict[str, Any]]:
    """One group a predictor that has read labels of this dictionary: {predictor, figures: [{metric, picture, key}], scatter}."""
    rows = run.store.arrow(_OF_LABELS, [run.dictionary, list(PLOTTED)]).to_pylist()
    lookups, nulls = run.store.sql(_LOOKUPS, [run.dictionary]), run.store.sql(_NULLS, [run.dictionary])
    groups = []
    for predictor in sorted({row["predictor"] for row in rows if row["control"] is None}):
        mine = [row for row in rows if row["predictor"] == predictor]
        figures = []
        metrics = [m for m in PLOTTED if any(row["metric"] == m and row["control"] is None for row in mine)]
        for metric in metrics:
            values = [row for row in mine if row["metric"] == metric]
            series: dict[str, Floats] = {"labels": _values(row["value"] for row in values if row["control"] is None)}
            if metric == "simulation":
                series["lookup"] = _values(value for who, value in lookups if who == predictor)
            for name, comparison in (("null", "permuted"), ("near", "neighbour")):
                series[name] = _values(x for who, m, c, x in nulls if (who, m, c) == (predictor, metric, comparison))
            said = dict(_SAID)
            for k, control in enumerate(sorted({row["control"] for row in values} - {None})[:_MOST_CONTROLS], 1):
                series[f"control{k}"] = _values(row["value"] for row in values if row["control"] == control)
                said[f"control{k}"] = f"labels of the control {control}"
            key = [(name, said[name], len(x)) for name, x in series.items() if len(x)]
            chance = _CHANCE.get(metric)
            figures.append(
                {"metric": metric, "picture": histogram(series, metric, chance), "key": key, "chance": chance}
            )
        groups.append({"predictor": predictor, "figures": figures, "scatter": _against_density(mine, metrics[0])})
    return groups


def _values(values: Any) -> Floats:
    return np.asarray(list(values), float)


def _against_density(rows: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    own = [row for row in rows if row["metric"] == metric and row["control"] is None and row["density"]]
    dots = [Dot(r["density"], r["value"], kind) for kind, verdict in _KINDS for r in own if r["trusted"] is verdict]
    return {"metric": metric, "n": len(dots), "picture": scatter(dots, metric)}
