"""The table `label`: one row for each feature, made anew at the end of each stage from explanations and scores.

The label of a feature is the explanation that is best on `select`. Where two explainers were scored by the same predictor
their `select` scores decide; predictors are never compared with one another, so a label read by a model goes before a rule.
What has no score yet goes behind what has one and before an abstention; of the unscored, what a model wrote goes first.
The scores beside a label are all of the predictor that it was chosen by, and so are its nulls.
"""

from __future__ import annotations

from glossator.store.migrations import VIEWS
from glossator.store.store import Store

_MATERIALISE = """
CREATE OR REPLACE TABLE label AS
WITH chosen AS (
    SELECT e.*, s.value AS fit, coalesce(s.predictor, t.predictor) AS predictor
    FROM explanation e
    LEFT JOIN score s ON s.explanation_id = e.explanation_id AND s.metric = 'simulation' AND s.split = 'select' AND s.value IS NOT NULL
    LEFT JOIN (SELECT explanation_id, coalesce(min(predictor) FILTER (predictor LIKE 'llm:%'), min(predictor)) AS predictor
               FROM score WHERE split = 'test' GROUP BY explanation_id) t ON t.explanation_id = e.explanation_id
    QUALIFY row_number() OVER (PARTITION BY e.dictionary, e.feature
        ORDER BY e.abstained, coalesce(s.predictor LIKE 'llm:%', false) DESC, s.value DESC NULLS LAST,
                 e.model IS NULL, e.explanation_id) = 1
),
scores AS (
    SELECT explanation_id, predictor,
           max(value) FILTER (metric = 'simulation') AS simulation, max(value) FILTER (metric = 'simulation_within') AS simulation_within,
           max(value) FILTER (metric = 'detection') AS detection, max(value) FILTER (metric = 'adversarial') AS adversarial
    FROM score WHERE split = 'test' GROUP BY explanation_id, predictor
),
nulls AS (
    SELECT explanation_id, max(p_value) FILTER (comparison = 'permuted') AS p_vs_permuted, max(q_value) FILTER (comparison = 'permuted') AS q_permuted,
           max(p_value) FILTER (comparison = 'neighbour') AS p_vs_neighbour, max(q_value) FILTER (comparison = 'neighbour') AS q_neighbour,
           max(difference) FILTER (comparison = 'lexical') AS lift, max(low) FILTER (comparison = 'lexical') AS lift_low
    FROM null_score WHERE metric = 'simulation' GROUP BY explanation_id
),
last_word AS (SELECT dictionary, feature, stage, arg_max(status, rowid) AS status FROM stage GROUP BY ALL),
broken AS (SELECT x.dictionary, x.feature, arg_max(x.stage || ': ' || x.error || ': ' || x.message, x.rowid) AS message
           FROM failure x LEFT JOIN last_word w USING (dictionary, feature, stage)
           WHERE x.feature IS NOT NULL AND coalesce(w.status, 'failed') = 'failed' GROUP BY ALL)
SELECT f.dictionary, f.feature, c.text AS label, c.explainer, c.predictor, c.model, f.density,
       f.max_activation, f.threshold, s.simulation, s.simulation_within, s.detection, s.adversarial, n.p_vs_permuted, n.p_vs_neighbour,
       n.lift AS lift_over_lexical,
       n.q_permuted < {q} AND n.q_neighbour < {q} AND n.lift_low > 0 AS trusted,
       CASE WHEN f.status IN ('dead', 'rare', 'dense') THEN f.status WHEN c.abstained THEN 'abstained' WHEN c.text IS NOT NULL THEN 'labelled'
            WHEN b.message IS NOT NULL THEN 'failed' ELSE f.status END AS status,
       coalesce(f.reason, c.reason, CASE WHEN c.text IS NULL OR s.simulation IS NULL THEN b.message END) AS reason, c.explanation_id
FROM feature f
LEFT JOIN chosen c USING (dictionary, feature)
LEFT JOIN scores s ON s.explanation_id = c.explanation_id AND s.predictor = c.predictor
LEFT JOIN nulls n ON n.explanation_id = c.explanation_id AND c.predictor = 'rule'  -- so far rules alone have nulls
LEFT JOIN broken b ON b.dictionary = f.dictionary AND b.feature = f.feature
ORDER BY f.dictionary, f.feature
"""


def materialise_labels(store: Store, q: float = 0.05) -> None:
    """Write the table that the view `labels` shows. `q`: the false discovery rate below which a label is trusted."""
    store.execute(_MATERIALISE.format(q=float(q)))
    store.execute(VIEWS)
