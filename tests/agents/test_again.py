"""Doing a stage again, or only for some features, or after a kill at the worst moment, changes no answer and doubles no row."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glossator import pipeline
from glossator.agents.editor.editor import p_majority
from glossator.agents.run import Run
from glossator.config import EditorConfig, HarvestConfig, LexicalConfig, ScoreConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.store.labels import materialise_labels
from tests.agents.planted_run import planted_run

SCORING = ScoreConfig(min_null=99)
ANSWERS = "SELECT feature, label, simulation, adversarial, p_vs_neighbour, lift_over_lexical, trusted FROM label ORDER BY feature"


@pytest.fixture
def run(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    made = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    pipeline.label(made, LexicalConfig(), EditorConfig(), SCORING)
    yield made
    made.store.close()


def test_scoring_a_few_features_leaves_p_values_and_trust_as_they_were(run: Run) -> None:
    before = run.store.sql("SELECT feature, p_vs_permuted IS NULL, trusted FROM label ORDER BY feature")
    assert any(trusted for _, _, trusted in before)
    pipeline.score(run, SCORING, [2, 3])
    assert run.store.sql("SELECT feature, p_vs_permuted IS NULL, trusted FROM label ORDER BY feature") == before


def test_q_values_are_over_all_features_whoever_was_scored_last(run: Run) -> None:
    query = "SELECT feature, comparison, round(q_value, 9) FROM null_score WHERE comparison = 'neighbour' ORDER BY ALL"
    before = run.store.sql(query)
    pipeline.score(run, SCORING, [0])
    assert run.store.sql(query) == before


def test_doing_everything_again_doubles_no_row(run: Run) -> None:
    tables = ("explanation", "experiment", "prediction", "measurement", "score", "null_score")
    before = {t: run.store.sql(f"SELECT count(*) FROM {t}") for t in tables}
    answers = run.store.sql(ANSWERS)
    pipeline.label(run, LexicalConfig(), EditorConfig(), SCORING, list(range(12)))
    assert {t: run.store.sql(f"SELECT count(*) FROM {t}") for t in tables} == before
    assert run.store.sql(ANSWERS) == answers


def test_a_kill_between_prediction_and_measurement_leaves_one_row_an_experiment(run: Run) -> None:
    measured = run.store.sql(
        "SELECT experiment_id, carrier, max_activation FROM measurement WHERE feature = 0 ORDER BY ALL"
    )
    run.store.execute("DELETE FROM measurement WHERE feature = 0")
    pipeline.probe(run, EditorConfig(), [0])
    assert (
        run.store.sql("SELECT experiment_id, carrier, max_activation FROM measurement WHERE feature = 0 ORDER BY ALL")
        == measured
    )
    for table in ("experiment", "prediction"):
        assert run.store.sql(f"SELECT experiment_id FROM {table} GROUP BY experiment_id HAVING count(*) > 1") == []


def test_a_new_explanation_of_a_probed_feature_gets_predictions_of_its_own(run: Run) -> None:
    run.store.execute("UPDATE explanation SET explanation_id = 'another' WHERE feature = 0")
    run.store.execute("UPDATE score SET explanation_id = 'another' WHERE feature = 0")
    materialise_labels(run.store)
    pipeline.probe(run, EditorConfig(), [0])
    assert run.store.sql("SELECT count(*) > 0 FROM prediction WHERE explanation_id = 'another'") == [(True,)]


def test_coverage_adds_up_even_when_dead_features_are_asked_for(run: Run) -> None:
    pipeline.score(run, SCORING, [0])
    for _, done, failed, abstained, waiting in run.store.sql("FROM coverage"):
        assert min(done, failed, abstained, waiting) >= 0
        assert (
            done + failed + abstained + waiting
            == run.store.sql("SELECT count(*) FROM feature WHERE status <> 'dead'")[0][0]
        )


@pytest.mark.parametrize(
    ("each", "all_"), [([0.3], 0.3), ([0.5] * 3, 0.5), ([0.9] * 3, 0.972), ([1, 1, 0], 1.0), ([0, 0, 1], 0.0)]
)
def test_the_probability_of_a_majority(each: list[float], all_: float) -> None:
    assert p_majority(each) == pytest.approx(all_)


@pytest.mark.parametrize("in_flight", [1, 3, 11, 12, 100])
def test_every_feature_is_probed_however_many_are_in_flight(run: Run, in_flight: int) -> None:
    run.store.execute("DELETE FROM stage WHERE stage = 'probe'")
    pipeline.probe(run, EditorConfig(in_flight=in_flight))
    assert run.store.pending("probe", "planted") == []
