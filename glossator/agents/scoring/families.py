"""q-values of stored comparisons: Benjamini-Hochberg over a family, which is all p-values of one dictionary, predictor, metric and comparison.

Label sets of others are families of their own, one each: taking one in changes nothing of what was said of the run's labels.

A family is declared by what it is, not by what a run happened to score: it is corrected anew, old rows and new ones, when
any of its rows has changed.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from glossator.scorers.comparisons import benjamini_hochberg

COMPARISONS = ("permuted", "neighbour")  # `lexical` has an interval and no p


def correct(connection: Any, dictionary: str, predictor: str, metric: str) -> None:
    """Write the q-values of the families of this predictor and metric; on the connection, within its transaction."""
    which = "dictionary = $dictionary AND predictor = $predictor AND metric = $metric AND comparison = $comparison"
    for comparison in COMPARISONS:
        family = {"dictionary": dictionary, "predictor": predictor, "metric": metric, "comparison": comparison}
        found = connection.execute(
            "SELECT CASE WHEN starts_with(e.explainer, 'imported:') THEN e.explainer END AS set, explanation_id, p_value FROM null_score "
            f"LEFT JOIN (SELECT DISTINCT explanation_id, explainer FROM explanation) e USING (explanation_id) WHERE {which} "
            "AND p_value IS NOT NULL ORDER BY ALL",
            family,
        ).fetchall()
        for _, rows in itertools.groupby(found, key=lambda row: row[0]):
            mine = list(rows)
            q = benjamini_hochberg(np.asarray([p for _, _, p in mine]))
            connection.execute(
                f"UPDATE null_score SET q_value = u.q FROM (SELECT unnest($ids::VARCHAR[]) AS id, unnest($q::DOUBLE[]) AS q) u "
                f"WHERE explanation_id = u.id AND {which}",
                family | {"ids": [i for _, i, _ in mine], "q": q.tolist()},
            )
