"""The graph `cascade`, one feature at a time: who is escalated, how far, and what decides between rivals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from glossator.agents.explainers.claims import Claim
from glossator.agents.graphs.cascade import cascade_graph, join, judged
from glossator.agents.graphs.explainers import prepared
from glossator.agents.graphs.state import Lexical, walk
from glossator.agents.run import Run
from glossator.config import BestOfConfig, CascadeConfig
from glossator.errors import ProviderError
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import ScriptedLLM
from glossator.types import Request
from tests.agents.explained import ABSTAINS, asked, claim, writer
from tests.agents.graphing import (
    BEAR,
    BROAD,
    LABEL,
    NARROW,
    TRUE,
    WRONG,
    Subject,
    reading,
    subject,
    through_cascade,
    way,
)

GOOD = Lexical("Fires on the token bear after polar.", ("after",), 0.93)
REFUSED = RawReply("I would rather not", "refusal", None, "m")
EVERY = CascadeConfig(good=1.0, doubt=1.0, margin=1.0, best_of=BestOfConfig(n=2))  # all the way, whatever is found


def says(draft: Any, refined: Any = "", *drawn: Any):  # type: ignore[no-untyped-def]
    """drawn: what `contrastive` says."""
    left = list(drawn)

    def answer(request: Request) -> Any:
        if request.purpose == "explain:contrastive":
            return left.pop(0)
        return refined if request.purpose == "explain:refine" else draft

    return answer


def nodes(of: Any) -> list[str]:
    return [node for node, _ in way(of)]


# ------------------------------------------------------------------ who is escalated


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        (GOOD, "lexical stands"),
        (Lexical("One word.", ("words",), 0.93), "lexical stands"),
        (Lexical("A class.", ("class", "class", "number"), 0.93), "lexical stands"),
        (Lexical("A list.", ("token", "words"), 0.93), "list of tokens"),
        (Lexical("With an after.", ("token", "words", "after"), 0.93), "lexical stands"),
        (Lexical("Weak.", ("after",), 0.89), "weak rule"),
        (Lexical("Unread.", ("after",), None), "weak rule"),
        (Lexical(None, (), None, "no coherent pattern"), "no rule"),
        (None, "no rule"),
    ],
)
def test_the_route_of_a_rule(rule: Lexical | None, outcome: str) -> None:
    assert judged(rule, CascadeConfig())[0] == outcome
    assert judged(rule, CascadeConfig(escalate="all"))[0] == "all are escalated"


def test_nobody_is_asked_about_a_rule_that_stands_and_nothing_is_written_for_it(run: Run) -> None:
    llm = writer(lambda _: claim(WRONG))
    found = through_cascade(run, llm, llm, subject(run), lexical=GOOD)
    assert found.best is None and not found.candidates and not llm.requests
    assert found.how == "lexical stands: simulation 0.93 on select, at least 0.90"
    assert way(found) == [("route", "lexical stands")] and found.steps[0].value == 0.93


def test_where_a_rule_stands_no_window_is_drawn_and_no_question_made(run: Run) -> None:
    run.store.execute(f"DELETE FROM exemplar WHERE feature = {BEAR}")  # so that neither could be
    (record,) = run.records([BEAR])
    llm = writer(lambda _: claim(WRONG))
    with pytest.raises(KeyError):
        prepared("cascade", run, record, LABEL, llm.name)
    task = prepared("cascade", run, record, LABEL, llm.name, asked=False)
    stands = task(llm, reading(run, llm), lexical=GOOD, cascade=CascadeConfig())
    assert way(asyncio.run(walk(cascade_graph(), stands))) == [("route", "lexical stands")]


@pytest.mark.parametrize("status", ["rare", "dense"])
def test_what_no_sentence_can_be_chosen_for_gets_none(run: Run, status: str) -> None:
    run.store.execute(f"UPDATE feature SET status = '{status}', reason = 'as told' WHERE feature = {BEAR}")
    llm = writer(lambda _: claim(WRONG))
    found = through_cascade(run, llm, llm, subject(run), CascadeConfig(escalate="all"))
    assert found.best is not None and found.best.claim == Claim(None, f"no sentence could be chosen: {status}: as told")
    assert not llm.requests and way(found) == [("route", "nothing to choose by"), ("freeze", "abstained")]


def test_a_feature_that_never_fires_in_select_gets_none(run: Run) -> None:
    run.store.execute(f"DELETE FROM exemplar WHERE feature = {BEAR} AND split = 'select'")
    llm = writer(lambda _: claim(WRONG))
    found = through_cascade(run, llm, llm, subject(run))
    assert found.best is not None and found.best.claim.text is None and not llm.requests
    assert "no firing window in the split select" in (found.best.claim.reason or "")


# ------------------------------------------------------------------ how far


def test_a_draft_that_reads_well_is_frozen_at_once(run: Run) -> None:
    llm, tries = writer(says(claim(TRUE))), subject(run)
    found = through_cascade(run, llm, OracleLLM(), tries)
    assert way(found) == [("route", "weak rule"), ("draft", "written"), ("read", "first"), ("freeze", "labelled")]
    assert len(llm.requests) == 1 and not tries.probed and found.best is not None and found.best.claim.text == TRUE


def test_one_that_does_not_is_refined_and_no_more_is_drawn_where_that_helped(run: Run) -> None:
    llm = writer(says(claim(BROAD), claim(TRUE)))
    found = through_cascade(run, llm, OracleLLM(), subject(run), CascadeConfig(doubt=0.95))
    assert nodes(found) == ["route", "draft", "read", "probe", "refine", "read", "freeze"]
    assert found.best is not None and found.best.claim.text == TRUE and "explain:contrastive" not in asked(llm)


def test_where_doubt_remains_further_candidates_are_drawn_and_the_best_is_taken(run: Run) -> None:
    llm = writer(says(claim(WRONG), claim(WRONG), claim(TRUE)))
    found = through_cascade(run, llm, OracleLLM(), subject(run))
    assert ("best_of", "better") in way(found) and found.best is not None and found.best.claim.text == TRUE
    assert {one.claim.text for one in found.candidates} == {WRONG, TRUE} and nodes(found)[-1] == "freeze"


def test_candidates_that_are_no_better_leave_what_was_there(run: Run) -> None:
    llm = writer(says(claim(BROAD), claim(BROAD), claim(WRONG)))
    found = through_cascade(run, llm, OracleLLM(), None, CascadeConfig(doubt=1.0, best_of=BestOfConfig(n=2)))
    assert ("best_of", "no better") in way(found) and found.best is not None and found.best.claim.text == BROAD
    assert "debate" not in nodes(found)


# ------------------------------------------------------------------ debates


def debated(
    run: Run, tries: Subject, *sentences: str, config: CascadeConfig = EVERY, reader: ScriptedLLM | None = None
) -> Any:
    llm = writer(says(claim(sentences[0]), claim(sentences[0]), *map(claim, sentences[1:])))
    return through_cascade(run, llm, reader or OracleLLM(), tries, config)


def test_rivals_that_lie_close_debate_and_who_wins_is_taken(run: Run) -> None:
    tries = subject(run, verdict="B")
    found = debated(run, tries, BROAD, NARROW)
    best, other = sorted((BROAD, NARROW), key=lambda t: -values(found)[t])
    assert tries.debated == [(best, other)] and values(found)[best] > values(found)[other]
    assert found.best is not None and found.best.claim.text == other and found.steps[-2:][0].outcome == "decided"
    assert found.steps[-1].detail == "a debate"


def values(found: Any) -> dict[str, float]:
    return {one.claim.text: one.value for one in found.candidates}


def test_rivals_that_lie_far_apart_do_not_debate(run: Run) -> None:
    tries = subject(run, verdict="B")
    debated(run, tries, BROAD, WRONG, config=EVERY.model_copy(update={"margin": 0.03}))
    assert not tries.debated


@pytest.mark.parametrize("verdict", [None, "neither", "overlap"])
def test_where_nobody_wins_the_one_that_reads_better_is_kept_and_that_is_said(run: Run, verdict: str | None) -> None:
    found = debated(run, subject(run, verdict=verdict), BROAD, NARROW)
    assert found.best is not None and values(found)[found.best.claim.text] == max(values(found).values())
    (step,) = [one for one in found.steps if one.node == "debate"]
    assert step.outcome == (verdict or "undecided") and (step.detail or "").endswith(
        "The one that reads better on select is kept."
    )


def test_where_both_hold_they_are_joined_if_that_reads_better(run: Run) -> None:
    joined = join(Claim(BROAD), Claim(NARROW)).text or ""
    assert joined == f"{BROAD[:-1]}; or: {NARROW[:-1]}."
    for better, outcome in ((True, "both, joined"), (False, "both")):
        reader = OracleLLM()
        truth = reader.meanings[TRUE.removeprefix("Fires on ").rstrip(".").casefold()]
        for a, b in ((BROAD, NARROW), (NARROW, BROAD)):
            text = (join(Claim(a), Claim(b)).text or "").removeprefix("Fires on ").removesuffix(".").casefold()
            reader.meanings[text] = (
                truth if better else reader.meanings[BROAD.removeprefix("Fires on ").rstrip(".").casefold()]
            )
        found = debated(run, subject(run, verdict="both"), BROAD, NARROW, reader=reader)
        (step,) = [one for one in found.steps if one.node == "debate"]
        assert step.outcome == outcome and found.best is not None
        assert ("; or: " in (found.best.claim.text or "")) is better


# ------------------------------------------------------------------ failures


def test_what_fails_on_the_way_is_told_and_the_best_so_far_stands(run: Run) -> None:
    tries = subject(run, fails=RuntimeError("out of memory"))
    llm = writer(says(claim(BROAD), REFUSED, claim(NARROW)))
    found = through_cascade(run, llm, OracleLLM(), tries, EVERY)
    assert [where for where, _ in found.failures] == [
        "probing round 1",
        "round 1",
        "probing round 2",
        "round 2",
        "debate",
    ]
    assert found.best is not None and found.best.claim.text in (BROAD, NARROW)
    assert ("debate", "failed") in way(found) and way(found)[-1] == ("freeze", "labelled")


def test_candidates_of_which_none_can_be_used_are_failures(run: Run) -> None:
    asked_once = {"explain:oneshot": 0}

    def answer(request: Request) -> Any:
        if request.purpose == "explain:oneshot" and not request.sample:
            asked_once["explain:oneshot"] += 1
            return claim(WRONG)
        return claim(WRONG) if request.purpose == "explain:refine" else REFUSED

    found = through_cascade(run, writer(answer), OracleLLM(), subject(run))
    assert [where for where, _ in found.failures] == [f"candidate {k}" for k in (2, 3, 4)]
    assert found.best is not None and found.best.claim.text == WRONG and asked_once == {"explain:oneshot": 1}


def test_an_abstention_is_no_doubt(run: Run) -> None:
    found = through_cascade(run, writer(says(ABSTAINS)), OracleLLM(), subject(run))
    assert (
        nodes(found) == ["route", "draft", "read", "freeze"]
        and found.best is not None
        and found.best.claim.text is None
    )


def test_what_ends_the_run_ends_the_graph(run: Run) -> None:
    with pytest.raises(ProviderError):
        through_cascade(run, writer(lambda _: ProviderError("no credit")), OracleLLM(), subject(run))
