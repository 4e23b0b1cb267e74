"""The explainer `oneshot` on features whose truth is known, with doubles for the model: rows, replays, failures, stops."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence

import pytest

from glossator import pipeline
from glossator.agents.explainers.explaining import ModelExplainer, account, stage_of
from glossator.agents.run import Run
from glossator.config import LexicalConfig, OneshotConfig
from glossator.errors import BudgetSpent, ProviderError, StoreError, UnavailableError
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import Memory, ScriptedLLM
from glossator.planted import planted_features
from glossator.rows import CallRow
from glossator.store.labels import materialise_labels
from glossator.store.replies import Replies
from glossator.types import Reply, Request

FEATURES = planted_features()
STAGE = stage_of("oneshot")
GOOD = json.dumps({"notes": "seen", "abstain": False, "scope": "token", "claim": "Fires on words."})
ABSTAINS = json.dumps({"notes": "nothing shared", "abstain": True, "scope": "none", "claim": ""})
REFUSED = RawReply("I would rather not", "refusal", None, "m")
EVERYTHING = {
    "explanation": "SELECT * EXCLUDE (run_id) FROM explanation ORDER BY ALL",
    "stage": "SELECT * EXCLUDE (run_id) FROM stage ORDER BY ALL",
    "failure": "SELECT * EXCLUDE (run_id) FROM failure ORDER BY ALL",
    "prompt": "FROM prompt",
}


def explain(
    run: Run, llm: ScriptedLLM, features: Sequence[int] | None = None, in_hand: int = 8, **more: bool
) -> Counter[str]:
    """The stage as the pipeline runs it, with a double for the model."""
    tally: Counter[str] = Counter()
    try:
        with run.stage(STAGE, OneshotConfig()) as run_id:
            explainer = ModelExplainer(run, llm, OneshotConfig(), run_id, tally, **more)
            asyncio.run(explainer.explain(run.chosen(features, STAGE), in_hand))
    finally:
        materialise_labels(run.store)
    return tally


def contents(run: Run) -> dict[str, list[tuple[object, ...]]]:
    return {table: run.store.sql(query) for table, query in EVERYTHING.items()}


def logged(run: Run) -> Replies:
    return Replies(run.store, 0.0)


# ------------------------------------------------------------------ labels


def test_an_oracle_without_errors_labels_every_feature_with_its_truth(run: Run) -> None:
    llm = OracleLLM(log=logged(run))
    assert explain(run, llm) == {"labelled": len(FEATURES)}
    rows = run.store.sql("SELECT label, explainer, model, predictor, status, reason FROM labels ORDER BY feature")
    assert rows == [
        (f"Fires on {f.description}.", "oneshot", "scripted:oracle", None, "labelled", None) for f in FEATURES
    ]
    kept = run.store.sql("SELECT DISTINCT explainer, abstained, program FROM explanation")
    assert kept == [("oneshot", False, None)]
    ids = run.store.sql(
        "SELECT DISTINCT e.prompt_id = p.prompt_id, c.prompt_id = p.prompt_id, p.task FROM explanation e, llm_call c, prompt p"
    )
    assert ids == [(True, True, "oneshot")]
    assert run.store.sql("SELECT calls, dollars FROM spend WHERE purpose = 'explain:oneshot'") == [(len(FEATURES), 0.0)]


def test_the_prompts_alone_say_which_feature_is_meant(run: Run) -> None:
    """Read by somebody who knows all truths but not whose windows these are."""
    blind = OracleLLM()
    right = 0
    for record in run.records(range(len(FEATURES))):
        request = render(run, record)
        reply = asyncio.run(blind.complete(Request("explain:oneshot", request.messages, request.answer, 99)))
        right += reply.value.claim == f"Fires on {FEATURES[record.feature.index].description}."
    assert right == len(FEATURES)


def render(run: Run, record) -> Request:  # type: ignore[no-untyped-def]
    from glossator.prompts import oneshot

    return oneshot.render(record, run.lexicon.vocabulary, OneshotConfig())


def test_no_text_of_select_or_test_reaches_a_prompt(run: Run) -> None:
    """Every window that is shown, with the text beside it, stands in a window of `explain`, and none stands elsewhere alone."""
    explain(run, OracleLLM(log=logged(run)))
    requests = run.store.sql("SELECT request FROM llm_call")
    assert len(requests) == len(FEATURES)
    shown = set()
    for (request,) in requests:
        for line in json.loads(request)["messages"][1]["content"].splitlines():
            if line.startswith("{"):
                part = json.loads(line)
                window = "".join(piece if isinstance(piece, str) else piece[0] for piece in part["window"])
                shown.add(f"{part['before'] or ''}{window}{part['after'] or ''}".strip())
    text: dict[str, list[str]] = {"explain": [], "select": [], "test": []}
    for split, ids in run.store.sql("SELECT split, ids FROM text_window"):
        text[split].append(run.lexicon.vocabulary.join(ids))
    assert len(shown) > 100 and len(text["test"]) > 100
    for one in shown:
        assert any(one in window for window in text["explain"]), one


def test_abstentions_and_features_without_windows_are_rows_with_a_reason(run: Run) -> None:
    run.store.execute("UPDATE feature SET active_windows = [0, 0, 0] WHERE feature = 3")
    run.store.execute("UPDATE feature SET status = 'dead', active_windows = [0, 0, 0] WHERE feature = 4")
    llm = ScriptedLLM({f"planted/{i}": ABSTAINS if i == 5 else GOOD for i in range(12)})
    assert explain(run, llm) == {"labelled": 9, "abstained": 2}
    assert {request.about for request in llm.requests} == {f"planted/{i}" for i in range(12) if i not in (3, 4)}
    rows = run.store.sql(
        "SELECT feature, status, reason, label FROM labels WHERE feature IN (3, 4, 5) ORDER BY feature"
    )
    assert rows == [
        (3, "abstained", "never active in the split explain", None),
        (4, "dead", None, None),
        (5, "abstained", "nothing shared", None),
    ]
    assert run.store.sql("SELECT model, prompt_id IS NULL FROM explanation WHERE feature = 3") == [(None, True)]
    assert run.store.sql("SELECT stage, done, failed, abstained, waiting FROM coverage") == [
        ("explain", 0, 0, 0, 11),
        ("explain:oneshot", 9, 0, 2, 0),
        ("probe", 0, 0, 0, 11),
        ("score", 0, 0, 0, 11),
    ]


def test_what_has_no_score_yields_to_what_has_one_and_beats_an_abstention(run: Run) -> None:
    pipeline.explain(run, LexicalConfig(), [0])
    pipeline.explain(run, LexicalConfig(min_select=1.1, min_fit=0.99), [6])  # held to the impossible: abstains
    assert run.store.sql("SELECT label IS NULL FROM label WHERE feature IN (0, 6) ORDER BY feature") == [
        (False,),
        (True,),
    ]
    explain(run, ScriptedLLM(lambda _: GOOD))
    rows = run.store.sql("SELECT explainer, predictor FROM label WHERE feature IN (0, 1, 6) ORDER BY feature")
    assert rows == [("lexical", "rule"), ("oneshot", None), ("oneshot", None)]
    run.store.execute("UPDATE score SET value = NULL WHERE feature = 0")
    materialise_labels(run.store)
    assert run.store.sql("SELECT explainer FROM label WHERE feature = 0") == [("oneshot",)]


# ------------------------------------------------------------------ again


def test_a_second_run_asks_nothing_and_changes_nothing(run: Run) -> None:
    assert explain(run, OracleLLM(log=logged(run))) == {"labelled": 12}
    before = contents(run)
    again = OracleLLM(log=logged(run))
    assert explain(run, again) == {}  # nothing was left
    assert explain(run, again, list(range(12))) == {"labelled": 12}  # asked for by name: replayed
    assert again.requests == [] and contents(run) == before


def test_rows_do_not_depend_on_how_many_are_in_hand_nor_on_who_answers_first(run: Run) -> None:
    class Slow(OracleLLM):
        async def complete(self, request: Request) -> Reply:
            await asyncio.sleep((int(str(request.about).split("/")[1]) * 7 % 5) / 200)
            return await super().complete(request)

    found = []
    for llm, in_hand in ((OracleLLM(), 1), (OracleLLM(), 5), (Slow(), 100)):
        for table in EVERYTHING:
            run.store.execute(f"DELETE FROM {table}")
        assert explain(run, llm, in_hand=in_hand) == {"labelled": 12}
        found.append((contents(run), sorted(str(request.messages) for request in llm.requests)))
    assert found[0] == found[1] == found[2]


def test_no_more_features_are_in_hand_than_was_said(run: Run) -> None:
    flying = most = 0

    class Counting(ScriptedLLM):
        async def complete(self, request: Request) -> Reply:
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await asyncio.sleep(0.005)
            flying -= 1
            return await super().complete(request)

    explain(run, Counting(lambda _: GOOD), in_hand=3)
    assert most == 3


def test_two_models_that_say_the_same_are_two_explanations(run: Run) -> None:
    for name in ("one", "two", "two"):
        explain(run, ScriptedLLM(lambda _: GOOD, name=name), [0])
    assert run.store.sql("SELECT model FROM explanation ORDER BY model") == [("scripted:one",), ("scripted:two",)]


# ------------------------------------------------------------------ failures of one question


def test_a_question_without_a_usable_reply_is_a_failure_row_of_its_kind(run: Run) -> None:
    bad = {"planted/1": "no JSON", "planted/2": REFUSED, "planted/3": RawReply('{"n', "length", None, "m")}
    llm = ScriptedLLM(lambda r: bad.get(str(r.about), GOOD))
    assert explain(run, llm) == {"labelled": 9, "UnparsableError": 1, "RefusedError": 1, "CutOffError": 1}
    rows = run.store.sql("SELECT feature, stage, error, attempt FROM failure ORDER BY feature")
    assert rows == [(1, STAGE, "UnparsableError", 0), (2, STAGE, "RefusedError", 0), (3, STAGE, "CutOffError", 0)]
    assert run.store.sql(
        "SELECT status, label, starts_with(reason, 'explain:oneshot: RefusedError: ') FROM labels WHERE feature = 2"
    ) == [("failed", None, True)]
    assert run.store.pending(STAGE, "planted") == [1, 2, 3]


def test_failures_are_replayed_for_nothing_until_they_are_to_be_retried(run: Run) -> None:
    log = logged(run)
    explain(run, ScriptedLLM(lambda r: REFUSED if r.about == "planted/2" else GOOD, log))
    before = contents(run)
    willing = ScriptedLLM(lambda _: GOOD, log)
    assert explain(run, willing) == {"RefusedError": 1}
    assert willing.requests == [] and contents(run) == before
    assert explain(run, willing, retry_failed=True) == {"labelled": 1}
    assert [(r.about, r.attempt) for r in willing.requests] == [("planted/2", 1)]
    assert run.store.sql("SELECT status, label, reason FROM labels WHERE feature = 2") == [
        ("labelled", "Fires on words.", None)
    ]
    before = contents(run)
    assert explain(run, willing, [2], retry_failed=True) == explain(run, willing, [2]) == {"labelled": 1}
    assert len(willing.requests) == 1 and contents(run) == before  # the draw that succeeded is the one that is replayed


def test_each_retry_is_a_new_draw_and_a_row(run: Run) -> None:
    log = logged(run)
    llm = ScriptedLLM(lambda _: REFUSED, log)
    for _ in range(3):
        explain(run, llm, [2], retry_failed=True)
    assert [r.attempt for r in llm.requests] == [0, 1, 2]
    assert run.store.sql("SELECT attempt, error FROM failure ORDER BY attempt") == [
        (i, "RefusedError") for i in range(3)
    ]


def test_a_question_that_got_no_reply_is_not_a_draw_and_its_reply_is_not_bought_twice(run: Run) -> None:
    log = logged(run)
    down = ScriptedLLM(lambda _: UnavailableError("nobody there"), log)
    assert explain(run, down, [5]) == {"UnavailableError": 1}
    up = ScriptedLLM(lambda _: GOOD, log)
    assert explain(run, up, [5], retry_failed=True) == {"labelled": 1}
    before = contents(run)
    assert explain(run, up, [5]) == explain(run, up, [5], retry_failed=True) == {"labelled": 1}
    assert [r.attempt for r in up.requests] == [0] and contents(run) == before


def test_no_reply_to_a_later_draw_leaves_that_draw_to_be_asked(run: Run) -> None:
    log = logged(run)
    explain(run, ScriptedLLM(lambda _: REFUSED, log), [5])
    explain(run, ScriptedLLM(lambda _: UnavailableError("nobody there"), log), [5], retry_failed=True)
    up = ScriptedLLM(lambda _: GOOD, log)
    assert explain(run, up, [5]) == {"RefusedError": 1} and not up.requests
    assert explain(run, up, [5], retry_failed=True) == explain(run, up, [5]) == {"labelled": 1}
    assert [r.attempt for r in up.requests] == [1]


def test_what_another_model_said_makes_no_draw_of_this_one(run: Run) -> None:
    log = logged(run)
    bad, good = ScriptedLLM(lambda _: "no JSON", log, "bad"), ScriptedLLM(lambda _: GOOD, log, "good")
    assert explain(run, bad, [5]) == {"UnparsableError": 1}
    for more in (False, False, True):
        assert explain(run, good, [5], retry_failed=more) == {"labelled": 1}
    assert [r.attempt for r in good.requests] == [0]
    asked, before = len(bad.requests), contents(run)["failure"]
    assert explain(run, bad, [5]) == {"UnparsableError": 1}
    assert len(bad.requests) == asked and contents(run)["failure"] == before
    assert explain(run, bad, [5], retry_failed=True) == {"UnparsableError": 1}
    assert [r.attempt for r in bad.requests[asked:]] == [1, 1]  # the draw, and once more with what was wrong
    assert explain(run, good, [5], retry_failed=True) == {"labelled": 1} and len(good.requests) == 1


def test_a_mistake_of_our_own_is_one_features_failure_with_a_trace(run: Run) -> None:
    def breaks(request: Request) -> str:
        if request.about == "planted/7":
            raise ZeroDivisionError("on purpose")
        return GOOD

    assert explain(run, ScriptedLLM(breaks)) == {"labelled": 11, "ZeroDivisionError": 1}
    ((error, trace),) = run.store.sql("SELECT error, trace FROM failure")
    assert error == "ZeroDivisionError" and "on purpose" in trace


def test_no_key_reaches_a_failure_row(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "a-very-secret-value")

    def leaks(_: Request) -> str:
        raise ValueError("header a-very-secret-value was refused")

    explain(run, ScriptedLLM(leaks), [1])
    assert "a-very-secret-value" not in str(run.store.sql("FROM failure")) + str(run.store.sql("FROM stage"))
    assert "OPENAI_API_KEY" in str(run.store.sql("SELECT message FROM failure"))


# ------------------------------------------------------------------ the end of the run


@pytest.mark.parametrize("error", [ProviderError("bad key"), BudgetSpent("all gone")])
def test_what_ends_the_run_keeps_what_is_in_flight_and_leaves_no_row_for_the_rest(run: Run, error: Exception) -> None:
    class Ends(ScriptedLLM):
        async def complete(self, request: Request) -> Reply:
            number = int(str(request.about).split("/")[1])
            if number == 4:
                raise error
            if number < 4:
                await asyncio.sleep(0.1)  # in flight when it ends
            return await super().complete(request)

    log = logged(run)
    llm = Ends(lambda _: GOOD, log)
    with pytest.raises(type(error)):
        explain(run, llm, in_hand=6)
    done = run.store.sql("SELECT feature FROM explanation ORDER BY feature")
    assert {0, 1, 2, 3} <= {feature for (feature,) in done} and (4,) not in done
    assert run.store.sql("SELECT count(*) FROM failure") == [(0,)]
    asked = {str(request.about) for request in llm.requests}
    rest = ScriptedLLM(lambda _: GOOD, log)
    explain(run, rest)
    assert {str(request.about) for request in rest.requests} == {f"planted/{i}" for i in range(12)} - asked
    assert run.store.sql("SELECT count(*), count(DISTINCT feature) FROM explanation") == [(12, 12)]


def test_a_full_disk_ends_the_run_and_nothing_more_is_asked(run: Run) -> None:
    class Full(Memory):
        async def put(self, *rows: CallRow) -> None:
            raise StoreError("run.duckdb: the disk is full")

    llm = ScriptedLLM(lambda _: GOOD, Full())
    with pytest.raises(StoreError, match="disk is full"):
        explain(run, llm, in_hand=2)
    assert len(llm.requests) <= 3 and run.store.sql("SELECT count(*) FROM explanation") == [(0,)]


def test_the_account_names_every_kind_and_both_sums(run: Run) -> None:
    log = logged(run)
    llm = ScriptedLLM(lambda r: {"planted/2": REFUSED, "planted/5": ABSTAINS}.get(str(r.about), GOOD), log)
    tally = explain(run, llm)
    said = account(run, tally, "scripted")
    assert "10 labelled, 1 abstained, 1 failed (1 RefusedError)" in said
    assert re.search(r"spent now \$0\.0000 for [\d,]{5,} tokens, in all \$0\.0000 for [\d,]{5,} tokens", said)
    for view in ("FROM labels", "FROM spend", "FROM failure", "no scores"):
        assert view in said
