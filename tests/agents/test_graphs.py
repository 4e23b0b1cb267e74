"""The graph `label`: each node alone, the ways through it, and what it does where something fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from glossator.agents.explainers.claims import Candidate, Claim
from glossator.agents.graphs import label as nodes
from glossator.agents.graphs.state import State, without_test
from glossator.agents.run import Run
from glossator.config import LabelConfig, RefineConfig
from glossator.errors import BudgetSpent, HarvestError, ProviderError, RefusedError, StoreError
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from tests.agents.explained import ABSTAINS, asked, claim, writer
from tests.agents.graphing import BEAR, BROAD, TRUE, WRONG, start, subject, through_label, way

REFUSED = RawReply("I would rather not", "refusal", None, "m")
FALSE = {"that polar bear was heavy": False, "one polar bear was old": False}


def says(draft: Any, *better: Any):  # type: ignore[no-untyped-def]
    left = list(better)
    return lambda request: left.pop(0) if request.purpose == "explain:refine" else draft


def node(name: str, state: State, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = asyncio.run(getattr(nodes, name)({**state, **more}))
    (step,) = found.pop("steps")
    return {"outcome": step.outcome, "value": step.value, **found}


def sentence(text: str | None, value: float | None = 0.5) -> Candidate:
    return Candidate(Claim(text, None, None, "p"), {}, value)


# ------------------------------------------------------------------ nodes alone


def test_a_draft_is_asked_for_and_a_known_one_is_not(run: Run) -> None:
    llm = writer(lambda _: claim(BROAD))
    state = start(run, llm, llm)
    assert node("draft", state)["new"].text == BROAD and asked(llm) == {"explain:oneshot": 1}
    run.store.execute(
        f"INSERT INTO explanation BY NAME SELECT 'planted' AS dictionary, {BEAR} AS feature, 'oneshot' AS explainer, 'nobody' AS model, "
        "'Known.' AS text, 'p' AS prompt_id"
    )
    found = node("draft", start(run, llm, llm))
    assert found["outcome"] == "known" and found["new"].text == "Known." and len(llm.requests) == 1


def test_a_new_sentence_has_to_be_better_on_select(run: Run) -> None:
    state = start(run, OracleLLM(), OracleLLM())
    first = node("read_on_select", state, new=Claim(BROAD, None, None, "p"))
    assert first["outcome"] == "first" and 0.5 < first["value"] < 1 and first["over"] is None
    worse = node("read_on_select", state, best=first["best"], new=Claim(WRONG, None, None, "p"), round=1)
    assert worse["outcome"] == "no better" and "best" not in worse and worse["over"] == "no better"
    better = node("read_on_select", state, best=first["best"], new=Claim(TRUE, None, None, "p"), round=1)
    assert better["outcome"] == "better" and better["best"].claim.text == TRUE and better["over"] == "good"


def test_the_last_round_is_the_last(run: Run) -> None:
    state = start(run, OracleLLM(), OracleLLM())
    found = node("read_on_select", state, best=sentence(WRONG, 0.1), new=Claim(BROAD, None, None, "p"), round=2)
    assert found["outcome"] == "better" and found["over"] == "rounds spent"


def test_experiments_that_a_reader_got_wrong_are_kept_with_what_it_said(run: Run) -> None:
    tries = subject(run, says={**FALSE, "a bear": True})
    found = node("probe", start(run, OracleLLM(), OracleLLM(), tries), best=sentence(BROAD))
    assert found["outcome"] == "contradicted" and tries.probed == [BROAD]
    assert [(bool(one.fires[0]), round(float(one.told[0]), 6), one.exposure) for one in found["looked"]] == [
        (False, 0.99, "explain, select"), (False, 0.99, "explain, select"), (True, 0.99, "explain, select")
    ]  # fmt: skip
    again = node("probe", start(run, OracleLLM(), OracleLLM(), tries), best=sentence(BROAD), probed=found["probed"])
    assert again["outcome"] == "as before" and len(tries.probed) == 1


def test_without_a_subject_there_is_no_experiment(run: Run) -> None:
    assert node("probe", start(run, OracleLLM(), OracleLLM()), best=sentence(BROAD))["outcome"] == "no subject"


def test_what_nothing_contradicts_is_not_rewritten(run: Run) -> None:
    llm = writer(lambda _: claim(WRONG))
    found = node("refine", start(run, llm, OracleLLM()), best=sentence(TRUE))
    assert found["outcome"] == found["over"] == "nothing contradicts it" and not llm.requests


def test_the_writer_is_shown_the_experiments_that_contradict(run: Run) -> None:
    tries, llm = subject(run, says=FALSE), writer(lambda _: claim(TRUE))
    state = start(run, llm, OracleLLM(), tries)
    made = node("probe", state, best=sentence(BROAD))
    node("refine", state, best=sentence(BROAD), looked=made["looked"])
    (request,) = llm.requests
    assert request.purpose == "explain:refine" and "one polar bear was old" in request.messages[1].text


def test_the_record_of_a_graph_holds_nothing_of_test(run: Run) -> None:
    (record,) = run.records([BEAR])
    seen = without_test(record)
    assert "test" in record.exemplars and "test" in record.background and "test" in record.near_misses
    assert all(set(of) == {"explain", "select"} for of in (seen.exemplars, seen.background, seen.near_misses))


# ------------------------------------------------------------------ ways through it


def test_a_broad_draft_is_probed_refined_and_replaced(run: Run) -> None:
    found = through_label(run, writer(says(claim(BROAD), claim(TRUE))), OracleLLM(), subject(run, says=FALSE))
    assert found.best is not None and found.best.claim.text == TRUE and found.exposure == "explain, select"
    assert way(found) == [
        ("draft", "written"), ("read", "first"), ("probe", "contradicted"), ("refine", "rewritten"), ("read", "better"),
        ("freeze", "labelled"),
    ]  # fmt: skip
    assert [one.claim.text for one in found.candidates] == [BROAD, TRUE]
    assert (
        found.steps[-1].value == found.best.value == 1.0 and found.how is not None and "read better 1.000" in found.how
    )


def test_a_round_that_did_not_help_is_the_last(run: Run) -> None:
    llm = writer(says(claim(BROAD), claim(WRONG), claim(TRUE)))
    found = through_label(run, llm, OracleLLM())
    assert found.best is not None and found.best.claim.text == BROAD and asked(llm)["explain:refine"] == 1
    assert way(found)[-2:] == [("read", "no better"), ("freeze", "labelled")]


def test_as_many_rounds_as_help_and_no_more_than_allowed(run: Run) -> None:
    llm = writer(says(claim(WRONG), claim(BROAD), claim(TRUE)))
    found = through_label(run, llm, OracleLLM())
    assert [one for one in way(found) if one[0] == "read"] == [
        ("read", "first"),
        ("read", "better"),
        ("read", "better"),
    ]
    assert found.best is not None and found.best.claim.text == TRUE
    llm = writer(says(claim(WRONG), claim(BROAD), claim(TRUE)))
    found = through_label(run, llm, OracleLLM(), config=LabelConfig(refine=RefineConfig(rounds=1)))
    assert found.best is not None and found.best.claim.text == BROAD
    assert asked(llm) == {"explain:oneshot": 1, "explain:refine": 1} and found.steps[-1].detail == "rounds spent"


def test_an_abstention_is_taken_at_its_word(run: Run) -> None:
    reader = OracleLLM()
    found = through_label(run, writer(says(ABSTAINS)), reader)
    assert found.best is not None and found.best.claim.text is None and not reader.requests
    assert way(found) == [("draft", "abstained"), ("read", "abstained"), ("freeze", "abstained")]


# ------------------------------------------------------------------ failures


def test_without_a_draft_there_is_no_sentence_and_the_failure_is_told(run: Run) -> None:
    found = through_label(run, writer(says(REFUSED)), OracleLLM())
    assert found.best is None and way(found) == [("draft", "failed"), ("freeze", "failed")]
    assert [where for where, _ in found.failures] == ["draft"]


def test_a_failing_round_is_told_and_the_next_one_goes_on_without_probing_again(run: Run) -> None:
    tries = subject(run, says=FALSE)
    found = through_label(run, writer(says(claim(BROAD), REFUSED, claim(TRUE))), OracleLLM(), tries)
    assert found.best is not None and found.best.claim.text == TRUE and tries.probed == [BROAD]
    assert [where for where, _ in found.failures] == ["round 1"]
    assert ("probe", "as before") in way(found)


@pytest.mark.parametrize("error", [HarvestError("not finite"), ValueError("odd"), RuntimeError("out of memory")])
def test_a_probe_that_fails_leaves_the_windows_of_explain_to_refine_by(run: Run, error: Exception) -> None:
    found = through_label(run, writer(says(claim(BROAD), claim(TRUE))), OracleLLM(), subject(run, fails=error))
    assert found.best is not None and found.best.claim.text == TRUE
    assert found.failures == (("probing round 1", error),) and ("probe", "failed") in way(found)


def test_an_editor_that_cannot_write_is_told_and_its_other_experiments_count(run: Run) -> None:
    error = RefusedError("would rather not")
    found = through_label(
        run, writer(says(claim(BROAD), claim(TRUE))), OracleLLM(), subject(run, says=FALSE, wrote=error)
    )
    assert found.failures == (("writing round 1", error),) and ("probe", "contradicted") in way(found)


@pytest.mark.parametrize(
    "error", [BudgetSpent("no more"), ProviderError("nobody"), StoreError("full"), asyncio.CancelledError()]
)
def test_what_ends_the_run_ends_the_graph(run: Run, error: BaseException) -> None:
    with pytest.raises(type(error)):
        through_label(run, writer(says(claim(BROAD))), OracleLLM(), subject(run, fails=error))


def test_a_draft_that_nobody_can_read_stands_unread(run: Run) -> None:
    found = through_label(run, writer(says(claim(BROAD))), writer(lambda _: "no JSON", name="reader"))
    assert found.best is not None and found.best.claim.text == BROAD and found.best.value is None
    assert [where for where, _ in found.failures] == ["reading the draft"] and way(found)[1:] == [
        ("read", "failed"),
        ("freeze", "labelled"),
    ]
