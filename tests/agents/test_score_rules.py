"""Rules scored on all background: which rows there are, that they are those of rates.py, and that scoring again changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glossator import pipeline
from glossator.agents.editor.probe import labelled_programs
from glossator.agents.run import Run
from glossator.agents.scoring.score_rules import split_draws
from glossator.config import LexicalConfig, ScoreConfig
from glossator.rows import NullScoreRow, ScoreRow
from glossator.scorers.discrimination import DiscriminationScene, discrimination, discrimination_scene
from glossator.scorers.predictor import corpus_predictor
from glossator.scorers.rates import against_near, census, rates
from glossator.scorers.rule import Rule
from glossator.scorers.scoring import CORPUS_METRICS, RATE_METRICS, Candidate, FeatureScorer, rate_rows

SCORING = ScoreConfig(draws=200, min_null=99)


@pytest.fixture
def scored(run: Run) -> Run:
    pipeline.explain(run, LexicalConfig())
    pipeline.score(run, SCORING)
    return run


def rules(run: Run) -> dict[int, Candidate]:
    found = labelled_programs(run, list(range(12)))
    return {f: Candidate(i, "lexical", Rule(program, run.lexicon)) for f, (i, program) in found.items()}


def rows(run: Run, table: str, where: str = "true") -> list[tuple[Any, ...]]:
    return run.store.sql(f"SELECT * EXCLUDE (run_id) FROM {table} WHERE {where} ORDER BY ALL")


def test_every_scored_rule_has_every_metric_once_and_a_note_where_it_has_no_value(scored: Run) -> None:
    found = scored.store.sql(
        "SELECT feature, metric, count(*), any_value(value), any_value(note), any_value(low) FROM score "
        "WHERE explainer = 'lexical' AND predictor = 'rule' AND split = 'test' AND metric IN (SELECT unnest(?::VARCHAR[])) GROUP BY ALL",
        [list(RATE_METRICS)],
    )
    assert {(f, m) for f, m, *_ in found} == {(f, m) for f in rules(scored) for m in RATE_METRICS}
    assert all(n == 1 for _, _, n, *_ in found)
    assert all(value is not None or note for _, _, _, value, note, _ in found)
    assert sum(value is not None for *_, value, _, _ in found) > len(found) / 2


def test_the_rows_are_those_of_the_census_of_test_with_probabilities_of_select(scored: Run) -> None:
    draws = split_draws(scored, "test", SCORING.draws, SCORING.seed)
    for record in scored.records(sorted(rules(scored))):
        one = rules(scored)[record.feature.index]
        stored = dict(
            scored.store.sql(
                "SELECT metric, value FROM score WHERE explanation_id = ? AND split = 'test' AND predictor = 'rule'",
                [one.explanation_id],
            )
        )
        told = corpus_predictor(record, one.rule)
        seen = census(record.exemplars["test"], record.background["test"], record.threshold)
        expected = rates(told.fires(one.rule.strengths(seen.sample.windows)), seen, draws)
        for name, of in CORPUS_METRICS.items():
            value = expected[of].estimate.value
            assert stored[name] == (None if np.isnan(value) else pytest.approx(value))
        hard = against_near(record.exemplars["test"], record.near_misses["test"], record.threshold)
        if len(record.near_misses["test"].windows):
            p = told.fires(one.rule.strengths(hard.sample.windows))
            assert stored["detection_near"] == pytest.approx(rates(p, hard, draws, ("auroc",))["auroc"].estimate.value)
        apart = discrimination_scene(record, "test", scored.neighbours_fire(record, "test"))
        if isinstance(apart, DiscriminationScene):
            p = told.fires(one.rule.strengths(apart.windows))
            for name, of in discrimination(apart, p, draws).items():
                assert stored[name] == (None if of.note and of.estimate.n == 0 else pytest.approx(of.estimate.value))


def test_right_rules_rank_what_fires_first_and_another_feature_s_rules_do_not(scored: Run) -> None:
    draws = split_draws(scored, "test", SCORING.draws, SCORING.seed)
    all_ = rules(scored)
    mine, theirs = [], []
    for record in scored.records(sorted(all_)):
        index, rivals = record.feature.index, scored.neighbours_fire(record, "test")
        for other, values in ((index, mine), (sorted(all_)[sorted(all_).index(index) - 1], theirs)):
            found = {r.metric: r.value for r in rate_rows(record, all_[other], draws, rivals, "")}
            values += [found[m] for m in ("detection", "discrimination") if found[m] is not None]
    assert np.mean(mine) > 0.9 and 0.3 < np.mean(theirs) < 0.7


def test_a_dense_feature_has_reasons_and_no_figures(scored: Run) -> None:
    (record,) = scored.records([sorted(rules(scored))[0]])
    draws = split_draws(scored, "test", SCORING.draws, SCORING.seed)
    found = rate_rows(replace(record, status="dense"), rules(scored)[record.feature.index], draws, np.empty(0), "")
    assert {row.metric for row in found} == set(RATE_METRICS)
    assert all(row.value is None and (row.note or "").startswith("dense") for row in found)


def test_neighbours_fire_where_the_stored_activations_reach_their_thresholds(scored: Run) -> None:
    spoken = 0
    for record in scored.records(range(12)):
        found = scored.neighbours_fire(record, "test")
        expected = np.zeros(len(found), int)
        for neighbour in scored.records(record.neighbours):
            if neighbour.status != "dead":
                fires = neighbour.background["test"].activations.max(1) >= neighbour.threshold
                expected = np.maximum(expected, fires * (2 if neighbour.feature.index == record.neighbours[0] else 1))
        assert np.array_equal(found, expected)
        spoken += int(found.sum())
    assert spoken > 0


def test_mismatched_rules_are_worth_what_they_are_one_by_one(scored: Run) -> None:
    all_ = rules(scored)
    (record,) = scored.records([sorted(all_)[0]])
    scorer = FeatureScorer(record, SCORING, "")
    found = scorer.null_values([one.rule.strengths for one in all_.values()])
    expected = [scorer.rule_rows(one)[0][0].value for one in all_.values()]
    assert found == pytest.approx(expected)
    assert scorer.null_values([]) == []


def test_scoring_again_replaces_the_rules_rows_and_nothing_else(scored: Run) -> None:
    store, (feature, one) = scored.store, next(iter(rules(scored).items()))
    who = (one.explanation_id, scored.dictionary, feature)
    store.put_now(
        ScoreRow(*who, "lexical", "llm:m", "m", "detection", "test", 0.7, 0.6, 0.8, 20, None, "before"),
        ScoreRow(*who, "lexical", "embedding", "e", "embedding", "test", 0.6, 0.5, 0.7, 20, None, "before"),
        NullScoreRow(*who, "detection", "neighbour", 0.5, 0.04, 0.04, 0.2, 0.1, 0.3, 20, "before", "llm:m"),
        NullScoreRow(*who, "embedding", "permuted", 0.5, 0.04, 0.04, 0.2, 0.1, 0.3, 20, "before", "embedding"),
    )
    tables = ("explanation", "score", "null_score", "failure")
    before = {table: rows(scored, table) for table in tables}
    ids = {
        run_id
        for (run_id,) in store.sql("SELECT DISTINCT run_id FROM score WHERE predictor = 'rule' AND split = 'test'")
    }
    pipeline.score(scored, SCORING, list(range(12)))
    assert {table: rows(scored, table) for table in tables} == before
    after = {
        run_id
        for (run_id,) in store.sql("SELECT DISTINCT run_id FROM score WHERE predictor = 'rule' AND split = 'test'")
    }
    assert not ids & after  # they are new rows, and say the same
    assert {i for (i,) in store.sql("SELECT run_id FROM score WHERE predictor <> 'rule'")} == {"before"}


def test_a_rule_that_was_scored_before_these_metrics_came_is_scored_by_the_next_run(scored: Run) -> None:
    store = scored.store
    before = rows(scored, "score")
    feature = next(iter(rules(scored)))
    store.execute(
        "DELETE FROM score WHERE feature = ? AND predictor = 'rule' AND split = 'test' AND metric NOT LIKE 'simulation%'",
        [feature],
    )
    assert pipeline.score(scored, SCORING) == 1
    assert rows(scored, "score") == before
    assert pipeline.score(scored, SCORING) == 0
