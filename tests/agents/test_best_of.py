"""The explainer `best_of`: the candidate that predicts `select` best, the others as evidence, and no question too many."""

from __future__ import annotations

import asyncio
import json

import pytest

from glossator.agents.explainers.explaining import account
from glossator.agents.run import Run
from glossator.agents.scoring.read_before import labels_of
from glossator.agents.scoring.score_llm import LabelScorer
from glossator.config import BestOfConfig, LLMScoreConfig, OneshotConfig
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import Said
from glossator.planted import planted_features
from glossator.scorers.reading import LLMPredictor
from glossator.types import Request
from tests.agents.explained import ABSTAINS, asked, claim, contents, explain, logged, writer

FEATURES = planted_features()
BEAR = next(i for i, f in enumerate(FEATURES) if f.name == "bear")
TRUE = f"Fires on {FEATURES[BEAR].description}."
BROAD = f"Fires on {FEATURES[BEAR].broader.description}."  # type: ignore[union-attr]
WRONG = f"Fires on {FEATURES[0].description}."
REFUSED = RawReply("I would rather not", "refusal", None, "m")


def of_draw(request: Request) -> int:
    """0 to 3: oneshot, contrastive, oneshot again, contrastive again."""
    return 2 * request.sample + (request.purpose == "explain:contrastive")


def says(*said: Said):  # type: ignore[no-untyped-def]
    return lambda request: said[of_draw(request)]


def label(run: Run) -> tuple[object, ...]:
    return run.store.sql("SELECT label, explainer, status FROM labels WHERE feature = ?", [BEAR])[0]


def how(run: Run) -> str:
    return str(run.store.sql("SELECT arg_max(reason, rowid) FROM stage WHERE stage = 'explain:best_of'")[0][0])


def test_the_candidate_that_predicts_select_best_becomes_the_explanation(run: Run) -> None:
    llm, reader = writer(says(claim(WRONG), claim(BROAD), claim(TRUE), claim(WRONG))), OracleLLM()
    assert explain(run, llm, BestOfConfig(), [BEAR], reader) == {"labelled": 1}
    assert label(run) == (TRUE, "best_of", "labelled")
    rows = run.store.sql(
        "SELECT e.text, e.explainer, s.value, s.predictor, s.model, s.split FROM explanation e JOIN score s USING (explanation_id) "
        "WHERE s.metric = 'detection' ORDER BY e.explainer, s.value"
    )
    assert [row[:2] for row in rows] == [
        (TRUE, "best_of"), (WRONG, "best_of:candidate"), (BROAD, "best_of:candidate"), (TRUE, "best_of:candidate")
    ]  # fmt: skip
    assert rows[1][2] < rows[2][2] < rows[3][2] == rows[0][2] == 1
    assert {row[3:] for row in rows} == {("llm:scripted:oracle", "scripted:oracle", "select")}
    assert run.store.sql("SELECT DISTINCT model FROM explanation") == [("scripted:writer",)]


def test_none_is_asked_for_after_one_that_cannot_be_beaten_and_the_choice_is_the_same_as_of_all(run: Run) -> None:
    answers = says(claim(BROAD), claim(TRUE), claim(WRONG), claim(BROAD))
    llm = writer(answers)
    explain(run, llm, BestOfConfig(), [BEAR], OracleLLM())
    assert len(llm.requests) == 2 and label(run)[0] == TRUE and how(run).startswith("2 of 4 candidates, 2 distinct")
    for table in ("explanation", "stage", "score"):
        run.store.execute(f"DELETE FROM {table}")
    llm = writer(answers)
    explain(run, llm, BestOfConfig(together=True), [BEAR], OracleLLM())
    assert len(llm.requests) == 4 and label(run)[0] == TRUE and how(run).startswith("4 of 4 candidates, 3 distinct")


def test_of_two_that_are_equally_good_the_first_is_taken(run: Run) -> None:
    other = BROAD.replace("the word", "The Word")  # the oracle reads it alike
    explain(run, writer(says(claim(other), claim(BROAD))), BestOfConfig(n=2), [BEAR], OracleLLM())
    assert label(run)[0] == other and "(taken), " in how(run)


def test_equal_claims_are_read_once_and_kept_once(run: Run) -> None:
    reader = OracleLLM()
    explain(run, writer(says(*[claim(BROAD)] * 4)), BestOfConfig(), [BEAR], reader)
    assert len(reader.requests) == 1 and "4 of 4 candidates, 1 distinct" in how(run)
    assert run.store.sql("SELECT explainer FROM explanation ORDER BY ALL") == [("best_of",), ("best_of:candidate",)]


def test_claims_go_before_abstentions_and_only_abstentions_are_one(run: Run) -> None:
    explain(run, writer(says(ABSTAINS, claim(WRONG))), BestOfConfig(n=2), [BEAR], OracleLLM())
    assert label(run)[0] == WRONG and "abstained, 0." in how(run)
    for table in ("explanation", "stage", "score"):
        run.store.execute(f"DELETE FROM {table}")
    reader = OracleLLM()
    assert explain(run, writer(says(ABSTAINS, ABSTAINS)), BestOfConfig(n=2), [BEAR], reader) == {"abstained": 1}
    assert label(run) == (None, "best_of", "abstained") and not reader.requests
    assert run.store.sql("SELECT DISTINCT reason FROM explanation") == [("nothing shared",)]


def test_a_candidate_without_a_usable_reply_is_a_failure_row_and_the_others_stand(run: Run) -> None:
    explain(run, writer(says(REFUSED, claim(TRUE))), BestOfConfig(n=2), [BEAR], OracleLLM())
    assert label(run)[0] == TRUE
    ((stage, error, message),) = run.store.sql("SELECT stage, error, message FROM failure")
    assert (stage, error) == ("explain:best_of", "RefusedError") and message.startswith("candidate 1: ")


def test_where_no_candidate_has_a_usable_reply_the_feature_has_failed_and_can_be_retried(run: Run) -> None:
    log = logged(run)
    assert explain(run, writer(says(REFUSED, REFUSED), log), BestOfConfig(n=2), [BEAR]) == {"RefusedError": 1}
    assert label(run)[2] == "failed"
    willing = writer(says(claim(TRUE), claim(WRONG)), log)
    assert explain(run, willing, BestOfConfig(n=2), [BEAR]) == {"RefusedError": 1} and not willing.requests
    assert explain(run, willing, BestOfConfig(n=2), [BEAR], OracleLLM(), retry_failed=True) == {"labelled": 1}
    assert label(run)[0] == TRUE and [r.attempt for r in willing.requests] == [1]
    before = contents(run)
    explain(run, willing, BestOfConfig(n=2), [BEAR], OracleLLM())
    assert len(willing.requests) == 1 and contents(run) == before


def test_a_reader_that_fails_leaves_scores_without_value_and_the_first_candidate(run: Run) -> None:
    reader = writer(lambda _: "no JSON", name="reader")
    explain(run, writer(says(claim(BROAD), claim(TRUE))), BestOfConfig(n=2), [BEAR], reader)
    assert label(run)[0] == BROAD and "unread (taken), unread" in how(run)
    assert run.store.sql("SELECT DISTINCT value, note FROM score") == [(None, None)]
    assert [m for (m,) in run.store.sql("SELECT message[:20] FROM failure ORDER BY message")] == ["reading candidate 1:", "reading candidate 2:"]  # fmt: skip


@pytest.mark.parametrize("status", ["rare", "dense"])
def test_a_feature_that_cannot_be_read_gets_one_candidate_and_its_status(run: Run, status: str) -> None:
    run.store.execute(f"UPDATE feature SET status = '{status}', reason = 'as told' WHERE feature = {BEAR}")
    llm, reader = writer(says(claim(BROAD), claim(TRUE))), OracleLLM()
    explain(run, llm, BestOfConfig(), [BEAR], reader)
    assert len(llm.requests) == 1 and not reader.requests
    assert label(run) == (BROAD, "best_of", status) and how(run).startswith(f"the first candidate, unread: {status}")
    assert all(
        value is None and note.startswith(status) for value, note in run.store.sql("SELECT value, note FROM score")
    )


def test_a_dense_feature_can_be_chosen_by_simulation(run: Run) -> None:
    run.store.execute(f"UPDATE feature SET status = 'dense' WHERE feature = {BEAR}")
    explain(run, writer(says(claim(WRONG), claim(TRUE))), BestOfConfig(n=2, by="simulation"), [BEAR], OracleLLM())
    assert label(run)[:2] == (TRUE, "best_of") and "simulation on select" in how(run)


def test_a_feature_that_was_never_active_is_not_asked_about(run: Run) -> None:
    run.store.execute(f"UPDATE feature SET active_windows = [0, 0, 0] WHERE feature = {BEAR}")
    llm = writer(says(claim(TRUE)))
    assert explain(run, llm, BestOfConfig(), [BEAR]) == {"abstained": 1} and not llm.requests
    assert run.store.sql("SELECT label, reason FROM labels WHERE feature = ?", [BEAR]) == [(None, "never active in the split explain")]  # fmt: skip


def test_candidates_are_never_labels_and_are_not_read_as_if_they_were(run: Run) -> None:
    explain(run, writer(says(*[claim(t) for t in (WRONG, BROAD, TRUE)])), BestOfConfig(n=3), [BEAR], OracleLLM())
    read = labels_of(run, every=True)[BEAR]
    assert [(one.explainer, one.text) for one in read] == [("best_of", TRUE)]
    run.store.execute("DELETE FROM explanation WHERE explainer = 'best_of'")
    from glossator.store.labels import materialise_labels

    materialise_labels(run.store)
    assert label(run)[0] is None


def test_scoring_finds_the_reading_of_select_in_the_log_and_still_reads_test(run: Run) -> None:
    log = logged(run)
    explain(run, writer(says(claim(TRUE), claim(WRONG)), log), BestOfConfig(n=2), [BEAR], OracleLLM(log=log))
    scores = run.store.sql("FROM score ORDER BY ALL")
    assert labels_of(run, unread=("llm:scripted:oracle", ["detection"])).keys() == {BEAR}
    reader = OracleLLM(log=log)
    with run.stage("score:llm", LLMScoreConfig()) as run_id:
        scorer = LabelScorer(run, LLMPredictor(reader, run.lexicon.vocabulary, LLMScoreConfig()), run_id)
        asyncio.run(scorer.score({"detection": [BEAR]}, 4))
    assert asked(reader) == {"score:detection": 1}
    after = run.store.sql("FROM score ORDER BY ALL")
    assert set(scores) < set(after) and {row[7] for row in set(after) - set(scores)} == {"test"}


def test_without_near_misses_all_draws_are_of_one_question(run: Run) -> None:
    run.store.execute("DELETE FROM near_miss")
    llm = writer(lambda _: claim(WRONG))
    explain(run, llm, BestOfConfig(n=3), [BEAR], OracleLLM())
    assert asked(llm) == {"explain:oneshot": 3} and [r.sample for r in llm.requests] == [0, 1, 2]


def test_oneshots_reply_serves_as_a_candidate(run: Run) -> None:
    log = logged(run)
    explain(run, writer(says(claim(BROAD)), log), OneshotConfig(), [BEAR])
    again = writer(says(claim("asked twice"), claim(TRUE)), log)
    explain(run, again, BestOfConfig(n=2), [BEAR], OracleLLM())
    assert asked(again) == {"explain:contrastive": 1} and label(run)[0] == TRUE


def test_the_account_says_how_many_candidates_differed(run: Run) -> None:
    tally = explain(run, writer(says(*[claim(t) for t in (WRONG, BROAD)])), BestOfConfig(n=2), [BEAR], OracleLLM())
    said = account(run, tally, "scripted", "best_of")
    assert (
        said.startswith("planted  best_of: 1 labelled, 0 abstained, 0 failed;")
        and "2.0 different candidates a feature" in said
    )
    assert json.dumps(WRONG) not in said
