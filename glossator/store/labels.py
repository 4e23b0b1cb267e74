"""The table `label`: one row for each feature, made anew at the end of each stage from explanations and scores.

The label of a feature is the explanation that is best on `select`, by one predictor and one metric: values of different
predictors are never compared. Which one decides is settled for each feature, in this order:

1. `simulation` by a language model that read the texts; else detection by one; else `simulation` of rules. Of two models
   the one that has read more labels of this dictionary in that way goes first, then the one whose name does. Detection is
   the mean of `detection` and `detection_near`, as explainers weigh their candidates: against windows drawn from the corpus
   alone a label that is too broad looks as good as the right one.
2. What has no score by the predictor that decides goes behind what has one, and before an abstention; of the unscored,
   what a model wrote goes first.

What others wrote (`imported:...`) is scored beside, and never becomes the label: which text its writer saw is not known.
Nor do the candidates that an explainer weighed (`best_of:candidate`): what it took of them is an explanation of its own.

The scores beside a label are all of the predictor that it was chosen by (where nothing decided, of a model that has read
it, else of the rule, else of what else there is), and so are its nulls: those of `simulation` if it has them, else those
of `detection`. `trusted` is about that one metric: better than permuted labels and than the neighbour's after correction,
and a lift over the lexical rule (of a rule: over a single token) whose interval is above 0. NULL where one was not asked.
"""

from __future__ import annotations

from glossator.store.store import Store

_MATERIALISE = """
CREATE OR REPLACE TABLE label AS
WITH own AS (FROM explanation WHERE NOT starts_with(explainer, 'imported:') AND NOT ends_with(explainer, ':candidate')),
judged AS (
    SELECT e.dictionary, e.feature, e.explanation_id, s.predictor, replace(s.metric, '_near', '') AS metric, avg(s.value) AS value
    FROM (SELECT DISTINCT explanation_id, predictor, metric, value FROM score WHERE split = 'select' AND value IS NOT NULL) s
    JOIN (SELECT DISTINCT dictionary, feature, explanation_id FROM own) e ON e.explanation_id = s.explanation_id
    WHERE s.metric = 'simulation' AND (s.predictor = 'rule' OR starts_with(s.predictor, 'llm:'))
          OR s.metric IN ('detection', 'detection_near') AND starts_with(s.predictor, 'llm:')
    GROUP BY ALL
),
readers AS (SELECT dictionary, predictor, metric, count(*) AS n FROM judged GROUP BY ALL),
deciding AS (
    SELECT j.dictionary, j.feature, j.predictor, j.metric FROM judged j JOIN readers r USING (dictionary, predictor, metric)
    QUALIFY row_number() OVER (PARTITION BY j.dictionary, j.feature ORDER BY j.predictor = 'rule', j.metric DESC, r.n DESC, j.predictor) = 1
),
fit AS (SELECT explanation_id, predictor, value FROM judged JOIN deciding USING (dictionary, feature, predictor, metric)),
read_by AS (SELECT explanation_id, arg_min(predictor, (NOT starts_with(predictor, 'llm:'), predictor <> 'rule', predictor)) AS predictor
            FROM score WHERE split = 'test' GROUP BY explanation_id),
chosen AS (
    SELECT e.*, coalesce(s.predictor, t.predictor) AS predictor
    FROM own e LEFT JOIN fit s ON s.explanation_id = e.explanation_id LEFT JOIN read_by t ON t.explanation_id = e.explanation_id
    QUALIFY row_number() OVER (PARTITION BY e.dictionary, e.feature
        ORDER BY e.abstained, s.value DESC NULLS LAST, e.model IS NULL, e.explanation_id) = 1
),
scores AS (
    SELECT explanation_id, predictor,
           max(value) FILTER (metric = 'simulation') AS simulation, max(value) FILTER (metric = 'simulation_within') AS simulation_within,
           max(value) FILTER (metric = 'detection') AS detection, max(value) FILTER (metric = 'adversarial') AS adversarial
    FROM score WHERE split = 'test' GROUP BY explanation_id, predictor
),
nulls AS (
    SELECT explanation_id, predictor, metric,
           max(p_value) FILTER (comparison = 'permuted') AS p_vs_permuted, max(q_value) FILTER (comparison = 'permuted') AS q_permuted,
           max(p_value) FILTER (comparison = 'neighbour') AS p_vs_neighbour, max(q_value) FILTER (comparison = 'neighbour') AS q_neighbour,
           max(difference) FILTER (comparison = 'lexical') AS lift, max(low) FILTER (comparison = 'lexical') AS lift_low
    FROM null_score WHERE metric IN ('simulation', 'detection') GROUP BY explanation_id, predictor, metric
    QUALIFY row_number() OVER (PARTITION BY explanation_id, predictor ORDER BY metric DESC) = 1  -- simulation before detection
),
last_word AS (SELECT dictionary, feature, stage, arg_max(status, rowid) AS status FROM stage GROUP BY ALL),
broken AS (SELECT x.dictionary, x.feature, arg_max(x.stage || ': ' || x.error || ': ' || x.message, x.rowid) AS message
           FROM failure x LEFT JOIN last_word w USING (dictionary, feature, stage)
           WHERE x.feature IS NOT NULL AND coalesce(w.status, 'failed') = 'failed' AND NOT contains(x.stage, ':imported:') GROUP BY ALL)
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
LEFT JOIN nulls n ON n.explanation_id = c.explanation_id AND n.predictor = c.predictor
LEFT JOIN broken b ON b.dictionary = f.dictionary AND b.feature = f.feature
ORDER BY f.dictionary, f.feature
"""


def materialise_labels(store: Store, q: float = 0.05) -> None:
    """Write the table that the view `labels` shows. `q`: the false discovery rate below which a label is trusted."""
    store.execute(_MATERIALISE.format(q=float(q)))
    store.reckon()
