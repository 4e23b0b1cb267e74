"""The schema, as numbered steps that are only ever added to. A file that was written by a later Glossator is refused.

No primary keys on result tables: they halve the speed of writing, and row ids come from content.
"""

from __future__ import annotations

from collections.abc import Callable

import duckdb

from glossator.errors import StoreError
from glossator.store import comments
from glossator.store.reckoned import SCORES_NOW, STAGES_NOW
from glossator.types import content_id

M001 = """
CREATE TABLE manifest (key VARCHAR, value VARCHAR);
CREATE TABLE run (run_id VARCHAR, stage VARCHAR, config VARCHAR, config_digest VARCHAR, version VARCHAR, started TIMESTAMP, finished TIMESTAMP);

CREATE TABLE dictionary (dictionary VARCHAR, source VARCHAR, architecture VARCHAR, model VARCHAR, hook VARCHAR, n_features INTEGER,
    d_in INTEGER, l0 DOUBLE, variance_explained DOUBLE, stated VARCHAR, identity VARCHAR);
CREATE TABLE corpus (corpus VARCHAR, sources VARCHAR[], digest VARCHAR, documents INTEGER, tokens BIGINT, windows BIGINT,
    n_explain INTEGER, n_select INTEGER, n_test INTEGER);
CREATE TABLE document (document INTEGER, name VARCHAR, tags VARCHAR[], split VARCHAR, cluster INTEGER, tokens INTEGER);
CREATE TABLE harvest (dictionary VARCHAR, corpus VARCHAR, digest VARCHAR, shards INTEGER, config VARCHAR, seconds DOUBLE,
    tokens_per_second DOUBLE, outlier_tokens BIGINT, active_per_token DOUBLE);
CREATE TABLE token (token_id INTEGER, piece VARCHAR, starts_word BOOLEAN, special BOOLEAN, n_explain BIGINT);
CREATE TABLE token_neighbour (token_id INTEGER, neighbours INTEGER[]);
CREATE TABLE feature (dictionary VARCHAR, feature INTEGER, status VARCHAR, reason VARCHAR, density DOUBLE, active_tokens BIGINT,
    active_windows BIGINT[], mean DOUBLE, max_activation DOUBLE, min_positive DOUBLE, threshold DOUBLE, token_entropy DOUBLE,
    top_tokens VARCHAR[], decoder_norm DOUBLE, neighbours INTEGER[], neighbour_cosines FLOAT[], histogram BIGINT[]);
CREATE TABLE feature_token (dictionary VARCHAR, feature INTEGER, token_id INTEGER, active BIGINT, total DOUBLE);
CREATE TABLE text_window (window_id BIGINT, document INTEGER, split VARCHAR, start INTEGER, ids INTEGER[], text VARCHAR USING COMPRESSION zstd);
CREATE TABLE exemplar (dictionary VARCHAR, feature INTEGER, split VARCHAR, stratum VARCHAR, rank INTEGER, window_id BIGINT,
    max_activation FLOAT, activations FLOAT[]);
CREATE TABLE background (dictionary VARCHAR, window_id BIGINT, split VARCHAR, features INTEGER[], positions UTINYINT[], activations FLOAT[]);

CREATE TABLE explanation (explanation_id VARCHAR, dictionary VARCHAR, feature INTEGER, explainer VARCHAR, model VARCHAR,
    text VARCHAR, program VARCHAR, abstained BOOLEAN, reason VARCHAR, run_id VARCHAR);
CREATE TABLE experiment (experiment_id VARCHAR, dictionary VARCHAR, feature INTEGER, pool VARCHAR, split VARCHAR, kind VARCHAR,
    edit VARCHAR, source_window BIGINT, texts VARCHAR[], run_id VARCHAR);
CREATE TABLE prediction (experiment_id VARCHAR, explanation_id VARCHAR, predictor VARCHAR, p_fires DOUBLE, strengths INTEGER[], sealed_at DOUBLE);
CREATE TABLE measurement (experiment_id VARCHAR, dictionary VARCHAR, feature INTEGER, carrier INTEGER, text VARCHAR USING COMPRESSION zstd,
    tokens VARCHAR[], activations FLOAT[], max_activation DOUBLE, fires BOOLEAN, measured_at DOUBLE);
CREATE TABLE score (explanation_id VARCHAR, dictionary VARCHAR, feature INTEGER, explainer VARCHAR, predictor VARCHAR, model VARCHAR,
    metric VARCHAR, split VARCHAR, value DOUBLE, low DOUBLE, high DOUBLE, n INTEGER, note VARCHAR, run_id VARCHAR);
CREATE TABLE null_score (explanation_id VARCHAR, dictionary VARCHAR, feature INTEGER, metric VARCHAR, comparison VARCHAR, null_mean DOUBLE,
    p_value DOUBLE, q_value DOUBLE, difference DOUBLE, low DOUBLE, high DOUBLE, n INTEGER, run_id VARCHAR);
CREATE TABLE failure (dictionary VARCHAR, feature INTEGER, stage VARCHAR, error VARCHAR, message VARCHAR, trace VARCHAR, run_id VARCHAR);
CREATE TABLE stage (dictionary VARCHAR, feature INTEGER, stage VARCHAR, status VARCHAR, reason VARCHAR, run_id VARCHAR);
CREATE TABLE label (dictionary VARCHAR, feature INTEGER, label VARCHAR, explainer VARCHAR, predictor VARCHAR, model VARCHAR, density DOUBLE,
    max_activation DOUBLE, threshold DOUBLE, simulation DOUBLE, simulation_within DOUBLE, detection DOUBLE, adversarial DOUBLE,
    p_vs_permuted DOUBLE, p_vs_neighbour DOUBLE, lift_over_lexical DOUBLE, trusted BOOLEAN, status VARCHAR, reason VARCHAR, explanation_id VARCHAR);
"""

# Names of poles, quantiles, the tokens that a direction promotes, near misses. What an older harvest did not measure stays NULL.
M002 = """
ALTER TABLE dictionary ADD COLUMN hook_out VARCHAR;
ALTER TABLE dictionary ADD COLUMN signed BOOLEAN;
UPDATE dictionary SET signed = false;
ALTER TABLE feature ADD COLUMN name VARCHAR;
ALTER TABLE feature ADD COLUMN quantiles DOUBLE[];
ALTER TABLE feature ADD COLUMN top_logits VARCHAR[];
ALTER TABLE feature ADD COLUMN top_logit_values FLOAT[];
ALTER TABLE feature ADD COLUMN bottom_logits VARCHAR[];
ALTER TABLE feature ADD COLUMN bottom_logit_values FLOAT[];
UPDATE feature SET name = feature::VARCHAR;
ALTER TABLE exemplar ADD COLUMN quantile FLOAT;
CREATE TABLE near_miss (dictionary VARCHAR, feature INTEGER, split VARCHAR, kind VARCHAR, rank INTEGER, window_id BIGINT, similarity FLOAT);
"""

# What language models were asked and answered, what it cost, and what a kill may have lost sight of.
M003 = """
ALTER TABLE explanation ADD COLUMN scope VARCHAR;
ALTER TABLE explanation ADD COLUMN prompt_id VARCHAR;
ALTER TABLE failure ADD COLUMN attempt INTEGER;
UPDATE failure SET attempt = 0;
CREATE TABLE prompt (prompt_id VARCHAR, task VARCHAR, version INTEGER, text VARCHAR);
CREATE TABLE llm_call (call_id VARCHAR, session_id VARCHAR, purpose VARCHAR, about VARCHAR, prompt_id VARCHAR, provider VARCHAR, host VARCHAR,
    model VARCHAR, request VARCHAR USING COMPRESSION zstd, reply VARCHAR USING COMPRESSION zstd, replied_by VARCHAR, finish VARCHAR,
    input_tokens BIGINT, output_tokens BIGINT, cache_read_tokens BIGINT, cache_write_tokens BIGINT, usd DOUBLE,
    logprobs VARCHAR USING COMPRESSION zstd, seconds DOUBLE, asked_at DOUBLE, batch_id VARCHAR, error VARCHAR);
CREATE TABLE llm_session (session_id VARCHAR, reserved_usd DOUBLE, reserved_tokens BIGINT, finished BOOLEAN);
CREATE TABLE llm_batch (batch_id VARCHAR, provider VARCHAR, host VARCHAR, model VARCHAR, state VARCHAR, remote_id VARCHAR, requests INTEGER,
    reserved_usd DOUBLE, reserved_tokens BIGINT, changed DOUBLE, note VARCHAR);
CREATE TABLE llm_batch_request (batch_id VARCHAR, call_id VARCHAR, purpose VARCHAR, about VARCHAR, prompt_id VARCHAR,
    request VARCHAR USING COMPRESSION zstd);
"""

# Controls, labels that others wrote, nulls of every predictor, repeats, ratings by people, comparisons of label sets.
M004 = """
ALTER TABLE dictionary ADD COLUMN control VARCHAR;
ALTER TABLE dictionary ADD COLUMN control_of VARCHAR;
ALTER TABLE explanation ADD COLUMN exposure VARCHAR;
ALTER TABLE null_score ADD COLUMN predictor VARCHAR;
UPDATE null_score SET predictor = 'rule';
CREATE TABLE repeat_score (explanation_id VARCHAR, dictionary VARCHAR, feature INTEGER, explainer VARCHAR, predictor VARCHAR, metric VARCHAR,
    split VARCHAR, repeat INTEGER, value DOUBLE, n INTEGER, note VARCHAR, run_id VARCHAR);
CREATE TABLE rating (rating_id VARCHAR, dictionary VARCHAR, feature INTEGER, explanation_id VARCHAR, rival_id VARCHAR, judgement VARCHAR,
    rater VARCHAR, seconds DOUBLE, rated_at DOUBLE);
CREATE TABLE set_comparison (dictionary VARCHAR, a VARCHAR, b VARCHAR, predictor VARCHAR, metric VARCHAR, split VARCHAR, n INTEGER,
    mean_a DOUBLE, mean_b DOUBLE, difference DOUBLE, low DOUBLE, high DOUBLE, p_value DOUBLE, run_id VARCHAR);
"""

# Debates: two rivals, the texts that were measured, and what was said of them.
M005 = """
CREATE TABLE debate (debate_id VARCHAR, dictionary VARCHAR, feature INTEGER, predictor VARCHAR, a_id VARCHAR, a_source VARCHAR,
    a_text VARCHAR, a_program VARCHAR, b_id VARCHAR, b_source VARCHAR, b_text VARCHAR, b_program VARCHAR, verdict VARCHAR, sentence VARCHAR,
    reason VARCHAR, lead DOUBLE, experiments INTEGER, budget INTEGER, proposed INTEGER, error DOUBLE, same VARCHAR, metric VARCHAR,
    a_score DOUBLE, b_score DOUBLE, winner_score DOUBLE, difference DOUBLE, low DOUBLE, high DOUBLE, reversal BOOLEAN, run_id VARCHAR);
CREATE TABLE debate_turn (debate_id VARCHAR, number INTEGER, experiment_id VARCHAR, proposer VARCHAR, kind VARCHAR, word VARCHAR,
    text VARCHAR USING COMPRESSION zstd, p_a DOUBLE, p_b DOUBLE, p_both DOUBLE, p_overlap DOUBLE, p_neither DOUBLE, fired BOOLEAN,
    fired_share DOUBLE, vote DOUBLE, gain DOUBLE, log_a DOUBLE, log_b DOUBLE, log_both DOUBLE, log_overlap DOUBLE, log_neither DOUBLE,
    leader VARCHAR, lead DOUBLE, speaker VARCHAR, statement VARCHAR, unsupported VARCHAR[], run_id VARCHAR);
"""

# The way that each feature took through the graph of an explainer.
M006 = """
CREATE TABLE step (dictionary VARCHAR, feature INTEGER, graph VARCHAR, number INTEGER, node VARCHAR, outcome VARCHAR, value DOUBLE,
    detail VARCHAR, run_id VARCHAR);
"""

# What is reckoned at the end of a stage so that it is quick to ask, vectors of labels, and what others measured.
M007 = """
CREATE TABLE label_vector (text VARCHAR, encoder VARCHAR, encoder_digest VARCHAR, vector FLOAT[]);
CREATE TABLE imported_file (source VARCHAR, kind VARCHAR, file VARCHAR, digest VARCHAR, items BIGINT, run_id VARCHAR);
CREATE TABLE imported_feature (source VARCHAR, dictionary VARCHAR, feature INTEGER, density DOUBLE, max_activation DOUBLE, top_logits VARCHAR[],
    top_logit_values DOUBLE[], bottom_logits VARCHAR[], bottom_logit_values DOUBLE[], bar_heights DOUBLE[], bar_values DOUBLE[],
    logit_bar_heights DOUBLE[], logit_bar_values DOUBLE[], hook VARCHAR, vector DOUBLE[], subject VARCHAR, layer VARCHAR, file VARCHAR,
    line BIGINT, fields VARCHAR, rest VARCHAR USING COMPRESSION zstd);
CREATE TABLE imported_activation (source VARCHAR, dictionary VARCHAR, feature INTEGER, their_id VARCHAR, tokens VARCHAR[], activations DOUBLE[],
    max_activation DOUBLE, max_token INTEGER, min_activation DOUBLE, bin_min DOUBLE, bin_max DOUBLE, bin_contains DOUBLE,
    data_source VARCHAR, subject VARCHAR, layer VARCHAR, file VARCHAR, line BIGINT, fields VARCHAR, rest VARCHAR USING COMPRESSION zstd);
CREATE TABLE imported_explanation (source VARCHAR, dictionary VARCHAR, feature INTEGER, their_id VARCHAR, description VARCHAR, method VARCHAR,
    model VARCHAR, author VARCHAR, subject VARCHAR, layer VARCHAR, file VARCHAR, line BIGINT, fields VARCHAR,
    rest VARCHAR USING COMPRESSION zstd);
CREATE TABLE reckoned (what VARCHAR, counts UBIGINT[], mark BIGINT);
CREATE TABLE stage_count (stage VARCHAR, status VARCHAR, features BIGINT);
CREATE TABLE scoreboard_row (explainer VARCHAR, predictor VARCHAR, metric VARCHAR, n BIGINT, mean DOUBLE, mean_with_failures DOUBLE,
    median DOUBLE, low DOUBLE, high DOUBLE, null_mean DOUBLE, coverage DOUBLE, control VARCHAR, p_permuted_share DOUBLE,
    p_neighbour_share DOUBLE, lift_share DOUBLE, repeat_sd DOUBLE);
"""

MIGRATIONS: tuple[str, ...] = (M001, M002, M003, M004, M005, M006, M007)

VIEWS = """
-- In the order in which `label` is written, which is what DuckDB keeps: to sort it anew costs more than counting it does.
CREATE OR REPLACE VIEW labels AS
SELECT dictionary, feature, label, explainer, predictor, model, density, max_activation, threshold, simulation, simulation_within,
       detection, adversarial, p_vs_permuted, p_vs_neighbour, lift_over_lexical, trusted, status, reason
FROM label;

CREATE OR REPLACE VIEW outcome AS
SELECT experiment_id, dictionary, feature, count(*) AS carriers, avg(fires::INT) AS fired_share,
       avg(fires::INT) > 0.5 AS fires, median(max_activation) AS max_activation,
       avg(fires::INT) <= 0.5 AND avg((max_activation > 0)::INT) > 0.5 AS weak  -- active under the threshold: no verdict
FROM measurement GROUP BY ALL;

CREATE OR REPLACE VIEW counterexamples AS
SELECT e.dictionary, e.feature, l.label, e.kind, p.p_fires, o.fires, o.fired_share, o.max_activation, f.threshold, e.texts[1] AS text,
       e.edit, e.split, p.predictor, e.experiment_id, p.explanation_id
FROM prediction p JOIN experiment e ON e.experiment_id = p.experiment_id
JOIN outcome o ON o.experiment_id = e.experiment_id AND o.dictionary = e.dictionary AND o.feature = e.feature  -- so that one feature is soon found
JOIN feature f ON f.dictionary = e.dictionary AND f.feature = e.feature
LEFT JOIN label l ON l.dictionary = e.dictionary AND l.feature = e.feature AND l.explanation_id = p.explanation_id
WHERE (p.p_fires >= 0.5) <> o.fires AND NOT o.weak
ORDER BY abs(p.p_fires - o.fires::INT) DESC, e.dictionary, e.feature;

-- One row for each explainer, predictor and metric, of real dictionaries (control NULL) and of each kind of control apart; `test` alone.
-- mean: over features with a value; mean_with_failures: features whose scorer failed count 0. low, high: 1.96 standard errors of the mean
-- over features. null_mean: of labels of other features. coverage: share of the scorable features that have a value.
-- p_permuted_share, p_neighbour_share: share of n with q < 0.05 against labels of other features, against that of the nearest feature;
-- lift_share: share of n whose lift over the lexical rule (of a rule: over one token) has an interval above 0. NULL: not asked for.
-- predictor: `embedding (dependent)` where the encoder is the subject: no headline.
-- repeat_sd: standard deviation of the mean over repeated draws, the first one included, of the labels that all draws have a value of.
-- While `reckoned` is fresh, `stale` is empty: no scan that is crossed with it reads a row, and the kept rows are shown.
CREATE OR REPLACE VIEW scoreboard AS
WITH fresh AS MATERIALIZED (SELECT 1 AS one FROM reckoned WHERE what = 'scoreboard' AND counts = {SCORES_NOW}),
     stale AS MATERIALIZED (SELECT 1 AS one WHERE NOT EXISTS (FROM fresh)),
     kind AS (SELECT DISTINCT dictionary, control FROM dictionary),
     tested AS (SELECT score.* REPLACE (predictor || if(note LIKE 'dependent%', ' (dependent)', '') AS predictor), coalesce(control, '') AS control
                FROM score CROSS JOIN stale LEFT JOIN kind USING (dictionary) WHERE split = 'test'),
     judged AS (SELECT DISTINCT explainer, control, dictionary FROM tested),
     scorable AS (SELECT explainer, control, count(*) FILTER (status NOT IN ('dead', 'rare')) AS n FROM judged JOIN (FROM feature CROSS JOIN stale) USING (dictionary) GROUP BY ALL),
     last_word AS (SELECT dictionary, arg_max(status, rowid) AS status FROM stage CROSS JOIN stale WHERE stage = 'score' GROUP BY dictionary, feature),
     broken AS (SELECT explainer, control, count(*) FILTER (status = 'failed') AS n FROM judged LEFT JOIN last_word USING (dictionary) GROUP BY ALL),
     scored AS (SELECT explainer, predictor, metric, control, count(value) AS n, count(*) FILTER (value IS NULL AND note IS NULL) AS failed, avg(value) AS mean,
                       median(value) AS median, stddev_samp(value) AS sd, sum(value) AS total FROM tested GROUP BY ALL),
     nulls AS (SELECT s.explainer, s.predictor, s.metric, s.control, avg(n.null_mean) FILTER (comparison = 'permuted') AS null_mean,
                      count(*) FILTER (comparison = 'permuted' AND q_value < 0.05) AS permuted, count(q_value) FILTER (comparison = 'permuted') AS n_permuted,
                      count(*) FILTER (comparison = 'neighbour' AND q_value < 0.05) AS neighbour, count(q_value) FILTER (comparison = 'neighbour') AS n_neighbour,
                      count(*) FILTER (comparison = 'lexical' AND n.low > 0) AS lift, count(n.low) FILTER (comparison = 'lexical') AS n_lift
               FROM (FROM null_score CROSS JOIN stale) n JOIN tested s ON s.explanation_id = n.explanation_id AND s.metric = n.metric AND replace(s.predictor, ' (dependent)', '') = n.predictor GROUP BY ALL),
     draws AS (SELECT explanation_id, explainer, predictor, metric, control, 0 AS repeat, value FROM tested WHERE value IS NOT NULL
               UNION ALL SELECT explanation_id, explainer, predictor, metric, coalesce(control, ''), repeat, value
               FROM repeat_score CROSS JOIN stale LEFT JOIN kind USING (dictionary) WHERE split = 'test' AND value IS NOT NULL),
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
UNION ALL FROM scoreboard_row SEMI JOIN fresh ON true
ORDER BY metric, explainer, predictor, control NULLS FIRST;

CREATE OR REPLACE VIEW ratings AS
WITH written AS (SELECT explanation_id, arg_max(text, rowid) AS text, arg_max(explainer, rowid) AS explainer FROM explanation GROUP BY ALL)
SELECT r.dictionary, r.feature, a.text AS label, a.explainer, r.judgement,
       CASE r.judgement WHEN 'wrong' THEN 1 WHEN 'poor' THEN 2 WHEN 'half' THEN 3 WHEN 'good' THEN 4 WHEN 'right' THEN 5 END AS rating,
       b.text AS rival, b.explainer AS rival_explainer,
       CASE r.judgement WHEN 'a better' THEN a.explainer WHEN 'b better' THEN b.explainer END AS preferred,
       r.rater, r.seconds, make_timestamp((r.rated_at * 1000000)::BIGINT) AS rated_at, r.explanation_id, r.rival_id
FROM rating r LEFT JOIN written a USING (explanation_id) LEFT JOIN written b ON b.explanation_id = r.rival_id
ORDER BY r.dictionary, r.rated_at;

CREATE OR REPLACE VIEW spend AS
SELECT purpose, provider || ':' || model AS model, count(reply) AS calls, sum(input_tokens)::BIGINT AS input_tokens,
       sum(output_tokens)::BIGINT AS output_tokens, (coalesce(sum(input_tokens), 0) + coalesce(sum(output_tokens), 0))::BIGINT AS tokens,
       sum(usd) AS dollars, count(*) FILTER (cache_read_tokens > 0) AS cache_hits, sum(usd) / nullif(count(DISTINCT about), 0) AS dollars_a_feature,
       count(*) - count(reply) AS unanswered
FROM llm_call GROUP BY ALL
UNION ALL
SELECT 'in flight when stopped', NULL, 0, NULL, NULL, sum(tokens)::BIGINT, nullif(sum(usd), 0), 0, NULL, 0 FROM (
    SELECT arg_max(reserved_usd, rowid) AS usd, arg_max(reserved_tokens, rowid) AS tokens, arg_max(finished, rowid) AS finished
    FROM llm_session GROUP BY session_id) WHERE NOT finished HAVING sum(tokens) > 0
UNION ALL
SELECT 'out in batches', model, 0, NULL, NULL, sum(tokens)::BIGINT, nullif(sum(usd), 0), 0, NULL, 0 FROM (
    SELECT any_value(provider || ':' || model) AS model, arg_max(state, rowid) AS state, arg_max(reserved_usd, rowid) AS usd,
           arg_max(reserved_tokens, rowid) AS tokens FROM llm_batch GROUP BY batch_id) WHERE state IN ('intent', 'sent') GROUP BY model
ORDER BY dollars DESC NULLS LAST, purpose, model;

-- How many features, but dead ones, stand where in each stage: the last word on each. A NULL: there is such a stage.
CREATE OR REPLACE VIEW standing AS
WITH counted AS MATERIALIZED (SELECT coalesce(max(mark), -1) AS mark FROM reckoned WHERE what = 'coverage' AND counts = {STAGES_NOW}),
     said AS MATERIALIZED (SELECT s.dictionary, s.feature, s.stage, arg_max(s.status, s.rowid) AS status FROM stage s CROSS JOIN counted
                           WHERE s.rowid > counted.mark GROUP BY ALL),
     living AS (SELECT dictionary, feature FROM feature WHERE status <> 'dead' AND feature IN (SELECT feature FROM said)),
     latest AS MATERIALIZED (SELECT * FROM said SEMI JOIN living USING (dictionary, feature)),
     earlier AS (SELECT s.dictionary, s.feature, s.stage, arg_max(s.status, s.rowid) AS status FROM stage s CROSS JOIN counted
                 SEMI JOIN (SELECT latest.* FROM latest CROSS JOIN counted WHERE mark >= 0) l
                 ON l.dictionary = s.dictionary AND l.feature = s.feature AND l.stage = s.stage WHERE s.rowid <= counted.mark GROUP BY ALL)
SELECT stage, status, sum(features)::BIGINT AS features
FROM (SELECT stage, status, features FROM stage_count CROSS JOIN counted WHERE mark >= 0
      UNION ALL SELECT stage, status, 1 FROM latest UNION ALL SELECT stage, status, -1 FROM earlier
      UNION ALL SELECT DISTINCT stage, NULL, 0 FROM said)
GROUP BY ALL;

CREATE OR REPLACE VIEW coverage AS
WITH todo AS (SELECT count(*) AS n FROM feature WHERE status <> 'dead'),
     theirs AS (SELECT explainer, count(*) FILTER (status <> 'dead') AS n FROM explanation JOIN feature USING (dictionary, feature)
                WHERE starts_with(explainer, 'imported:') GROUP BY explainer),
     stood AS MATERIALIZED (FROM standing),
     stages AS (SELECT unnest(['explain', 'probe', 'score']) AS stage UNION SELECT stage FROM stood WHERE stage LIKE 'explain:%' OR stage LIKE 'probe:%' OR stage LIKE 'score:%'),
     sums AS (SELECT stage, coalesce(sum(features) FILTER (status = 'done'), 0)::BIGINT AS done, coalesce(sum(features) FILTER (status = 'failed'), 0)::BIGINT AS failed,
                     coalesce(sum(features) FILTER (status = 'abstained'), 0)::BIGINT AS abstained, coalesce(sum(features), 0)::BIGINT AS dealt_with
              FROM stages LEFT JOIN stood USING (stage) GROUP BY stage)
SELECT s.stage, s.done, s.failed, s.abstained, coalesce(own.n, todo.n) - s.dealt_with AS waiting
FROM sums s CROSS JOIN todo LEFT JOIN (SELECT stage, any_value(n) AS n FROM stages JOIN theirs ON ends_with(stage, ':' || explainer) GROUP BY stage) own USING (stage)
ORDER BY list_position(['explain', 'probe', 'score'], split_part(s.stage, ':', 1)), s.stage;

-- How features went through the graphs `label` and `cascade`: one row for each graph, node and outcome.
-- features: that had this outcome there; visits: how often, since a node of a loop is visited more than once. share: of all features
-- that went through the graph. value: mean over visits of what the node looked at, on `select`, NULL where it looked at nothing.
CREATE OR REPLACE VIEW flow AS
WITH went AS (SELECT dictionary, graph, count(DISTINCT feature) AS n FROM step GROUP BY ALL)
SELECT s.dictionary, s.graph, s.node, s.outcome, count(DISTINCT s.feature) AS features, count(*) AS visits,
       count(DISTINCT s.feature) / any_value(w.n) AS share, avg(s.value) AS value
FROM step s JOIN went w USING (dictionary, graph)
GROUP BY s.dictionary, s.graph, s.node, s.outcome
ORDER BY s.dictionary, s.graph,
         list_position(['route', 'draft', 'read', 'probe', 'refine', 'best_of', 'debate', 'freeze'], s.node), features DESC, s.outcome;

-- One row for each turn of each debate, in order; closing words come last and have no experiment.
CREATE OR REPLACE VIEW transcript AS
SELECT d.dictionary, d.feature, d.debate_id, t.number, t.kind, t.proposer, t.text, d.a_text AS a, d.b_text AS b, t.p_a, t.p_b, t.p_both,
       t.p_overlap, t.p_neither, t.fired, t.fired_share, o.max_activation, t.leader, t.lead, t.speaker, t.statement, t.unsupported,
       d.verdict, d.sentence, d.predictor, t.experiment_id
FROM debate_turn t JOIN debate d USING (debate_id)
LEFT JOIN (SELECT experiment_id, median(max_activation) AS max_activation FROM measurement
           SEMI JOIN (SELECT dictionary, feature, experiment_id FROM debate_turn JOIN debate USING (debate_id)) USING (dictionary, feature, experiment_id)
           GROUP BY experiment_id) o ON o.experiment_id = t.experiment_id
ORDER BY d.dictionary, d.feature, d.debate_id, t.number;

-- What others published of a feature beside what was measured here: one row for each feature and import (`source`) that says anything
-- of it. Their numbers are of another corpus. their_token: on which their strongest activation is.
CREATE OR REPLACE VIEW published AS
WITH named AS (SELECT source, dictionary, feature FROM imported_feature UNION SELECT source, dictionary, feature FROM imported_activation
               UNION SELECT source, dictionary, feature FROM imported_explanation),
     windows AS (SELECT source, dictionary, feature, count(*) AS n, max(list_max(activations)) AS most,
                        arg_max(tokens[list_position(activations, list_max(activations))], list_max(activations)) AS token
                 FROM imported_activation GROUP BY ALL),
     said AS (SELECT source, dictionary, feature, count(*) AS n FROM imported_explanation WHERE description <> '' GROUP BY ALL)
SELECT k.dictionary, k.feature, k.source, l.label, f.density, i.density AS their_density, f.max_activation,
       coalesce(i.max_activation, w.most) AS their_max_activation, f.top_tokens, w.token AS their_token, i.top_logits AS their_top_logits,
       i.bottom_logits AS their_bottom_logits, coalesce(w.n, 0) AS their_windows, coalesce(s.n, 0) AS their_explanations
FROM named k
LEFT JOIN imported_feature i ON i.source = k.source AND i.dictionary = k.dictionary AND i.feature = k.feature
LEFT JOIN windows w ON w.source = k.source AND w.dictionary = k.dictionary AND w.feature = k.feature
LEFT JOIN said s ON s.source = k.source AND s.dictionary = k.dictionary AND s.feature = k.feature
LEFT JOIN feature f ON f.dictionary = k.dictionary AND f.feature = k.feature
LEFT JOIN label l ON l.dictionary = k.dictionary AND l.feature = k.feature
ORDER BY k.dictionary, k.feature, k.source;
""".replace("{SCORES_NOW}", SCORES_NOW).replace("{STAGES_NOW}", STAGES_NOW)

_MADE = "SELECT comment FROM duckdb_columns() WHERE table_name = 'schema_version' AND schema_name = 'main'"


def migrate(connection: duckdb.DuckDBPyConnection, path: str, back_up: Callable[[int], None] | None = None) -> None:
    """Bring the file to this schema, after `back_up` of an older one.

    Raises StoreError where it was written by a newer one, or by something else.
    """
    tables = {name for (name,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    if tables and "schema_version" not in tables:
        raise StoreError(
            f"{path}: a DuckDB file, but not a run of Glossator (it has the tables {', '.join(sorted(tables)[:4])})"
        )
    if not tables:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
    found = connection.execute("SELECT coalesce(max(version), 0) FROM schema_version").fetchall()[0][0]
    if found > len(MIGRATIONS):
        raise StoreError(
            f"{path}: written with schema {found}, this Glossator knows {len(MIGRATIONS)}; upgrade: pip install -U glossator"
        )
    if 0 < found < len(MIGRATIONS) and back_up is not None:
        back_up(found)
    for number, step in enumerate(MIGRATIONS[found:], found + 1):
        connection.execute("BEGIN")
        connection.execute(step)
        connection.execute("INSERT INTO schema_version VALUES (?)", [number])
        connection.execute("COMMIT")
    make_views(connection)


def make_views(connection: duckdb.DuckDBPyConnection) -> None:
    """The views, and comments on everything, unless the file has them as they are here: that takes a while."""
    digest = content_id(VIEWS, comments.RELATIONS, comments.HERE, comments.COLUMNS)
    said = f"{comments.column('schema_version', 'version')}; views {digest}"
    if connection.execute(_MADE).fetchall() == [(said,)]:
        return
    connection.execute("BEGIN")
    connection.execute(VIEWS)
    connection.execute("DELETE FROM reckoned")  # by views that may have reckoned otherwise
    comments.comment(connection)
    connection.execute(f"COMMENT ON COLUMN schema_version.version IS '{said}'")
    connection.execute("COMMIT")
