"""The explainer `refine`: a draft, what contradicts it, and a new sentence that must be better on `select`."""

from __future__ import annotations

import json
import time

import pytest

from glossator.agents.run import Run
from glossator.config import OneshotConfig, RefineConfig
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from glossator.planted import planted_features
from glossator.rows import ExperimentRow, MeasurementRow, PredictionRow
from glossator.types import Request
from tests.agents.explained import ABSTAINS, asked, claim, contents, explain, logged, writer

FEATURES = planted_features()
BEAR = next(i for i, f in enumerate(FEATURES) if f.name == "bear")
TRUE = f"Fires on {FEATURES[BEAR].description}."
BROAD = f"Fires on {FEATURES[BEAR].broader.description}."  # type: ignore[union-attr]
WRONG = f"Fires on {FEATURES[0].description}."
REFUSED = RawReply("I would rather not", "refusal", None, "m")
TWO = RefineConfig(rounds=2)


def says(draft: str, *better: object):  # type: ignore[no-untyped-def]
    """A draft, and then one sentence after the other."""
    left = list(better)
    return lambda request: left.pop(0) if request.purpose == "explain:refine" else draft


def label(run: Run) -> tuple[object, ...]:
    return run.store.sql("SELECT label, explainer, status FROM labels WHERE feature = ?", [BEAR])[0]


def how(run: Run) -> str:
    return str(run.store.sql("SELECT arg_max(reason, rowid) FROM stage WHERE stage = 'explain:refine'")[0][0])


def revisions(requests: list[Request]) -> list[str]:
    return [r.messages[1].text for r in requests if r.purpose == "explain:refine"]


def test_a_draft_that_is_too_broad_is_replaced_by_a_sentence_that_is_better_on_select(run: Run) -> None:
    llm = writer(says(claim(BROAD), claim(TRUE)))
    assert explain(run, llm, TWO, [BEAR], OracleLLM()) == {"labelled": 1}
    assert label(run) == (TRUE, "refine", "labelled")
    (asked_,) = revisions(llm.requests)  # no second round: nothing could be better
    lines = asked_.splitlines()
    assert json.loads(lines[lines.index("draft") + 1]) == BROAD and "missed" not in lines
    false = lines[lines.index("false alarms") + 1 : lines.index("right")]
    assert false and all("polar bear" in line and json.loads(line)["told"] == 95 for line in false)
    assert how(run).endswith("round 1: 1.000 (taken)") and "draft 0." in how(run)
    rows = run.store.sql(
        "SELECT e.text, e.explainer, s.value FROM explanation e JOIN score s USING (explanation_id) WHERE s.metric = 'detection' ORDER BY s.value, 2"
    )
    assert [row[:2] for row in rows] == [(BROAD, "refine:candidate"), (TRUE, "refine"), (TRUE, "refine:candidate")]


@pytest.mark.parametrize(
    "new", [WRONG, BROAD.replace("the word", "The Word")], ids=["worse", "as good, in other words"]
)
def test_what_is_not_better_on_select_does_not_replace_the_draft(run: Run, new: str) -> None:
    explain(run, writer(says(claim(BROAD), claim(new))), RefineConfig(), [BEAR], OracleLLM())
    assert label(run)[:2] == (BROAD, "refine") and "(taken)" not in how(run)
    assert (new,) in run.store.sql("SELECT text FROM explanation WHERE explainer = 'refine:candidate'")


def test_every_round_tries_the_sentence_on_other_windows_of_explain(run: Run) -> None:
    reader = OracleLLM()
    llm = writer(says(claim(BROAD), claim(BROAD), claim(BROAD)))
    explain(run, llm, TWO, [BEAR], reader)
    looked = [set(r.messages[1].text.splitlines()[4:-1]) for r in reader.requests]
    windows = [{json.dumps(json.loads(line)[1:]) for line in lines} for lines in looked]
    assert len(windows) == 3  # select, and one of explain a round
    assert len(windows[1] - windows[2]) >= 6 and not (windows[1] | windows[2]) & windows[0]
    first, second = revisions(llm.requests)
    assert first != second


def test_the_draft_is_what_oneshot_wrote_with_this_model(run: Run) -> None:
    explain(run, writer(lambda _: claim(WRONG), name="another"), OneshotConfig(), [BEAR])
    explain(run, writer(lambda _: claim(BROAD)), OneshotConfig(), [BEAR])
    llm = writer(says("never asked", claim(TRUE)))
    explain(run, llm, TWO, [BEAR], OracleLLM())
    assert asked(llm) == {"explain:refine": 1} and label(run)[:2] == (TRUE, "refine")
    assert how(run).startswith("detection on select: draft 0.")
    assert run.store.sql("SELECT count(*) FROM explanation WHERE explainer = 'refine:candidate' AND text = ?", [WRONG]) == [(0,)]  # fmt: skip


def test_an_abstention_is_not_refined_and_one_on_the_way_is_not_taken(run: Run) -> None:
    llm, reader = writer(says(ABSTAINS)), OracleLLM()
    assert explain(run, llm, TWO, [BEAR], reader) == {"abstained": 1}
    assert label(run)[0] is None and len(llm.requests) == 1 and not reader.requests
    for table in ("explanation", "stage"):
        run.store.execute(f"DELETE FROM {table}")
    explain(run, writer(says(claim(BROAD), ABSTAINS, claim(TRUE))), TWO, [BEAR], OracleLLM())
    assert label(run)[0] == TRUE and "round 1: abstained, round 2: 1.000 (taken)" in how(run)


def test_a_round_that_fails_is_a_failure_row_and_the_next_one_goes_on(run: Run) -> None:
    explain(run, writer(says(claim(BROAD), REFUSED, claim(TRUE))), TWO, [BEAR], OracleLLM())
    assert label(run)[0] == TRUE and "round 1 failed, round 2: 1.000 (taken)" in how(run)
    ((stage, message),) = run.store.sql("SELECT stage, message FROM failure")
    assert stage == "explain:refine" and message.startswith("round 1: ")


def test_a_draft_that_could_not_be_read_stands_and_the_failure_is_a_row(run: Run) -> None:
    llm = writer(says(claim(BROAD)))
    explain(run, llm, TWO, [BEAR], writer(lambda _: "no JSON", name="reader"))
    assert label(run)[0] == BROAD and len(llm.requests) == 1
    assert run.store.sql("SELECT message[:17], error FROM failure") == [("reading the draft", "UnparsableError")]


def test_without_a_draft_the_feature_has_failed(run: Run) -> None:
    assert explain(run, writer(says(REFUSED)), TWO, [BEAR]) == {"RefusedError": 1}  # type: ignore[arg-type]
    assert label(run)[2] == "failed" and run.store.pending("explain:refine", "planted") == [*range(12)]


@pytest.mark.parametrize("status", ["rare", "dense"])
def test_a_feature_that_cannot_be_read_keeps_its_draft_and_its_status(run: Run, status: str) -> None:
    run.store.execute(f"UPDATE feature SET status = '{status}' WHERE feature = {BEAR}")
    llm, reader = writer(says(claim(BROAD))), OracleLLM()
    explain(run, llm, TWO, [BEAR], reader)
    assert label(run) == (BROAD, "refine", status) and not reader.requests and how(run).startswith("the draft, unread")


def test_a_model_that_corrects_itself_unless_it_errs_there_too_does_so(run: Run) -> None:
    """The oracle's broad mistakes are found out by false alarms; right labels stay."""
    llm = OracleLLM(error_rate=0.5, bias="broad", seed=2)
    explain(run, llm, OneshotConfig(), reader=OracleLLM())
    before = dict(run.store.sql("SELECT feature, text FROM explanation"))
    explain(run, llm, TWO, reader=OracleLLM())
    after = dict(run.store.sql("SELECT feature, text FROM explanation WHERE explainer = 'refine'"))
    truths = {i: f"Fires on {f.description}." for i, f in enumerate(FEATURES)}
    right = {i for i in truths if before[i] == truths[i]}
    assert 3 <= len(right) <= 9
    assert all(after[i] == truths[i] for i in right) and sum(after[i] == truths[i] for i in truths) > len(right)


# ------------------------------------------------------------------ experiments


def experiment(run: Run, name: str, split: str, text: str, values: list[float], kind: str = "bisect") -> None:
    """One that was sealed and measured in three carriers, the last of which did something else."""
    threshold = run.store.sql("SELECT threshold FROM feature WHERE feature = ?", [BEAR])[0][0]
    tokens = text.split()
    fires = max(values) * threshold >= threshold
    rows = [
        MeasurementRow(
            name, "planted", BEAR, k, text if k < 2 else "other text", tokens if k < 2 else ["other", "text"],
            [v * threshold for v in values] if k < 2 else [0.0, 0.0], max(values) * threshold if k < 2 else 0.0,
            fires if k < 2 else not fires, time.time(),
        )
        for k in range(3)
    ]  # fmt: skip
    run.store.put_now(
        ExperimentRow(name, "planted", BEAR, f"{split}:0", split, kind, "{}", None, [text] * 3, "r"),
        PredictionRow(name, "somebody", "rule", 0.5, [], time.time()),
    )
    run.store.put_now(*rows)


def test_experiments_of_explain_and_select_are_counterexamples_and_those_of_test_are_not(run: Run) -> None:
    experiment(run, "a", "explain", "one polar bear was old", [0, 0, 0, 0, 0])
    experiment(run, "b", "select", "every polar bear was new", [0, 0, 0, 0, 0])
    experiment(run, "c", "test", "that polar bear was heavy", [0, 0, 0, 0, 0])
    experiment(run, "d", "explain", "this falcon was quiet", [0, 1.5, 0, 0])
    experiment(run, "e", "explain", "our polar bear was broken", [0, 0, 0.5, 0, 0])  # neither fires nor is silent
    reader, llm = OracleLLM(), writer(says(claim(BROAD), claim(BROAD)))
    explain(run, llm, RefineConfig(false_alarms=50), [BEAR], reader)
    (text,) = revisions(llm.requests)
    read = reader.requests[1].messages[1].text
    for here in ("one polar bear was old", "every polar bear was new"):
        assert here in read and here in text[text.index("false alarms") :]
    assert (
        '"window": ["this", [" falcon", 10], " was quiet"]' in text[text.index("missed") : text.index("false alarms")]
    )
    for nowhere in ("bear was heavy", "bear was broken", "bisect", "other text"):
        assert nowhere not in read + text
    assert set(run.store.sql("SELECT explainer, exposure FROM explanation")) == {
        ("refine", "explain, select"), ("refine:candidate", "explain, select")
    }  # fmt: skip


def test_what_was_written_without_experiments_of_select_says_so(run: Run) -> None:
    experiment(run, "a", "explain", "one polar bear was old", [0, 0, 0, 0, 0])
    explain(run, writer(says(claim(BROAD), claim(TRUE))), RefineConfig(), [BEAR], OracleLLM())
    assert run.store.sql("SELECT DISTINCT exposure FROM explanation") == [(None,)]


def test_a_second_run_asks_nothing_and_changes_nothing(run: Run) -> None:
    log = logged(run)
    llm = OracleLLM(error_rate=0.4, bias="broad", seed=2, log=log)
    explain(run, llm, TWO)
    before, n = contents(run), len(llm.requests)
    explain(run, llm, TWO, list(range(12)), in_hand=1)
    assert len(llm.requests) == n and contents(run) == before
