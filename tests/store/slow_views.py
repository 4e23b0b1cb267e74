"""`scoreboard` and `coverage` reckoned from all rows each time: what the views must show, however they come by it."""

from __future__ import annotations

SCOREBOARD = """
WITH kind AS (SELECT dictionary, coalesce(control, '') AS control FROM dictionary UNION SELECT DISTINCT dictionary, '' FROM score ANTI JOIN dictionary USING (dictionary)),
     tested AS (SELECT * REPLACE (predictor || if(note LIKE 'dependent%', ' (dependent)', '') AS predictor) FROM score JOIN kind USING (dictionary) WHERE split = 'test'),
     judged AS (SELECT DISTINCT explainer, control, dictionary FROM tested),
     scorable AS (SELECT explainer, control, count(*) FILTER (status NOT IN ('dead', 'rare')) AS n FROM judged JOIN feature USING (dictionary) GROUP BY ALL),
     last_word AS (SELECT dictionary, arg_max(status, rowid) AS status FROM stage WHERE stage = 'score' GROUP BY dictionary, feature),
     broken AS (SELECT explainer, control, count(*) FILTER (status = 'failed') AS n FROM judged LEFT JOIN last_word USING (dictionary) GROUP BY ALL),
     scored AS (SELECT explainer, predictor, metric, control, count(value) AS n, count(*) FILTER (value IS NULL AND note IS NULL) AS failed, avg(value) AS mean,
                       median(value) AS median, stddev_samp(value) AS sd, sum(value) AS total FROM tested GROUP BY ALL),
     nulls AS (SELECT s.explainer, s.predictor, s.metric, s.control, avg(n.null_mean) FILTER (comparison = 'permuted') AS null_mean,
                      count(*) FILTER (comparison = 'permuted' AND q_value < 0.05) AS permuted, count(q_value) FILTER (comparison = 'permuted') AS n_permuted,
                      count(*) FILTER (comparison = 'neighbour' AND q_value < 0.05) AS neighbour, count(q_value) FILTER (comparison = 'neighbour') AS n_neighbour,
                      count(*) FILTER (comparison = 'lexical' AND n.low > 0) AS lift, count(n.low) FILTER (comparison = 'lexical') AS n_lift
               FROM null_score n JOIN tested s ON s.explanation_id = n.explanation_id AND s.metric = n.metric AND replace(s.predictor, ' (dependent)', '') = n.predictor GROUP BY ALL),
     draws AS (SELECT explanation_id, explainer, predictor, metric, control, 0 AS repeat, value FROM tested WHERE value IS NOT NULL
               UNION ALL SELECT explanation_id, explainer, predictor, metric, control, repeat, value FROM repeat_score JOIN kind USING (dictionary)
               WHERE split = 'test' AND value IS NOT NULL),
     complete AS (SELECT * FROM draws WHERE metric IN (SELECT metric FROM repeat_score)
                  QUALIFY count(*) OVER (PARTITION BY explanation_id, predictor, metric) = max(repeat) OVER (PARTITION BY explainer, predictor, metric, control) + 1),
     repeats AS (SELECT explainer, predictor, metric, control, stddev_samp(mean) AS repeat_sd FROM
                 (SELECT explainer, predictor, metric, control, repeat, avg(value) AS mean FROM complete GROUP BY ALL) GROUP BY ALL)
SELECT explainer, predictor, metric, scored.n, mean, total / nullif(scored.n + failed + if(predictor = 'rule', broken.n, 0), 0) AS mean_with_failures, median,
       mean - 1.96 * sd / sqrt(scored.n) AS low, mean + 1.96 * sd / sqrt(scored.n) AS high, null_mean, scored.n / nullif(scorable.n, 0) AS coverage,
       nullif(control, '') AS control, if(n_permuted > 0, permuted / scored.n, NULL) AS p_permuted_share,
       if(n_neighbour > 0, neighbour / scored.n, NULL) AS p_neighbour_share, if(n_lift > 0, lift / scored.n, NULL) AS lift_share, repeat_sd
FROM scored JOIN broken USING (explainer, control) LEFT JOIN scorable USING (explainer, control)
     LEFT JOIN nulls USING (explainer, predictor, metric, control) LEFT JOIN repeats USING (explainer, predictor, metric, control)
ORDER BY metric, explainer, predictor, control NULLS FIRST
"""

COVERAGE = """
WITH todo AS (SELECT count(*) AS n FROM feature WHERE status <> 'dead'),
     theirs AS (SELECT explainer, count(*) FILTER (status <> 'dead') AS n FROM explanation JOIN feature USING (dictionary, feature)
                WHERE starts_with(explainer, 'imported:') GROUP BY explainer),
     stages AS (SELECT unnest(['explain', 'probe', 'score']) AS stage UNION SELECT stage FROM stage WHERE stage LIKE 'explain:%' OR stage LIKE 'probe:%' OR stage LIKE 'score:%'),
     latest AS (SELECT s.dictionary, s.feature, s.stage, arg_max(s.status, s.rowid) AS status FROM stage s
                JOIN feature f ON f.dictionary = s.dictionary AND f.feature = s.feature AND f.status <> 'dead' GROUP BY ALL)
SELECT stages.stage, count(*) FILTER (latest.status = 'done') AS done, count(*) FILTER (latest.status = 'failed') AS failed,
       count(*) FILTER (latest.status = 'abstained') AS abstained, coalesce(any_value(theirs.n), any_value(todo.n)) - count(latest.status) AS waiting
FROM stages CROSS JOIN todo LEFT JOIN latest USING (stage) LEFT JOIN theirs ON ends_with(stages.stage, ':' || theirs.explainer)
GROUP BY stages.stage ORDER BY list_position(['explain', 'probe', 'score'], split_part(stages.stage, ':', 1)), stages.stage
"""
