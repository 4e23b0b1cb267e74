"""q-values of stored comparisons: Benjamini-Hochberg over a family, which is all p-values of one dictionary, predictor, metric and comparison.

A family is declared by what it is, not by what a run happened to score: it is corrected anew, old rows and new ones, when
any of its rows has changed.
"""

from __future__ import annotations

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
            f"SELECT explanation_id, p_value FROM null_score WHERE {which} AND p_value IS NOT NULL ORDER BY ALL", family
        ).fetchall()
        if not found:
            continue
        q = benjamini_hochberg(np.asarray([p for _, p in found]))
        connection.execute(
            f"UPDATE null_score SET q_value = u.q FROM (SELECT unnest($ids::VARCHAR[]) AS id, unnest($q::DOUBLE[]) AS q) u "
            f"WHERE explanation_id = u.id AND {which}",
            family | {"ids": [i for i, _ in found], "q": q.tolist()},
        )
