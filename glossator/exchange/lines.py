"""Labels as JSON lines: one line a feature with its label, scores, nulls and what is known of the feature.

    {"dictionary": "minilm-l4", "feature": 17, "label": "...", "explainer": "lexical", "model": null, "predictor": "rule",
     "status": "labelled", "reason": null, "density": 0.004, "max_activation": 9.6, "threshold": 1.7, "trusted": true,
     "scores": [{"metric": "simulation", "predictor": "rule", "value": 0.96, "low": 0.95, "high": 0.97, "n": 160}],
     "nulls": [{"metric": "simulation", "predictor": "rule", "comparison": "permuted", "null_mean": 0.01, "p_value": 0.001,
                "q_value": 0.001, "difference": 0.95, "low": null, "high": null, "n": 99}]}

A feature without a label has `label` null and says why in `status` and `reason`; a pole is written "17-". Scores are those
of the label on `test`, by every predictor. What the format does not hold: other explanations, rules, windows, experiments,
debates. Read back, labels are a set of others' labels and scores are marked as theirs.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from glossator.agents.run import Run

_LABELS = """
SELECT l.dictionary, l.feature, l.label, l.explainer, l.model, l.predictor, l.status, l.reason, l.density, l.max_activation, l.threshold,
       l.trusted, s.scores, n.nulls
FROM label l
LEFT JOIN (SELECT explanation_id, list({metric: metric, predictor: predictor, value: value, low: low, high: high, n: n, note: note}
                  ORDER BY predictor, metric) AS scores FROM score WHERE dictionary = $1 AND split = 'test' GROUP BY explanation_id) s
    ON s.explanation_id = l.explanation_id
LEFT JOIN (SELECT explanation_id, list({metric: metric, predictor: predictor, comparison: comparison, null_mean: null_mean, p_value: p_value,
                  q_value: q_value, difference: difference, low: low, high: high, n: n} ORDER BY predictor, metric, comparison) AS nulls
           FROM null_score WHERE dictionary = $1 GROUP BY explanation_id) n ON n.explanation_id = l.explanation_id
WHERE l.dictionary = $1 AND ($2::INTEGER[] IS NULL OR list_contains($2::INTEGER[], l.feature)) ORDER BY l.feature
"""


def write(run: Run, to: Path, features: Sequence[int] | None, *, packed: bool) -> str:
    """All labels of the run's dictionary, or those of some features. packed: as gzip."""
    n = labels = 0
    with gzip.GzipFile(to, "wb", mtime=0) if packed else to.open("wb") as file:
        for row in _rows(run, features):
            line = json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            file.write(line.encode("utf-8", "replace") + b"\n")
            n, labels = n + 1, labels + (row["label"] is not None)
    return f"{n:,} features of {run.dictionary}, {labels:,} of them with a label, as JSON lines"


def _rows(run: Run, features: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    table = run.store.arrow(_LABELS, [run.dictionary, None if features is None else sorted(set(features))])
    for batch in table.to_batches(1_000):
        for row in batch.to_pylist():
            if run.poles is not None:
                row["feature"] = run.name(row["feature"])
            yield _finite(row) | {"scores": _finite(row["scores"] or []), "nulls": _finite(row["nulls"] or [])}


def _finite(value: Any) -> Any:
    """NaN and infinities become null: JSON has none."""
    if isinstance(value, dict):
        return {name: _finite(x) for name, x in value.items()}
    if isinstance(value, list):
        return [_finite(x) for x in value]
    return None if isinstance(value, float) and not (abs(value) < float("inf")) else value
