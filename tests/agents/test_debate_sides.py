"""Sides for which a model speaks: what they say is checked and decides nothing; what they amend starts from zero; what all this costs."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer

from glossator.agents.debate.debating import debate_all
from glossator.agents.debate.rivals import TextReader
from glossator.agents.debate.sides import Sides
from glossator.agents.run import Run
from glossator.config import DebateConfig, LLMScoreConfig, demo_model
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import planted_features
from glossator.scorers.reading import LLMPredictor
from glossator.store.labels import materialise_labels
from glossator.types import Request
from tests.agents.test_debate import shown

FEATURES = planted_features()
INDEX = {feature.name: i for i, feature in enumerate(FEATURES)}
NO_AMENDMENT = DebateConfig(amend=False)


def told(name: str) -> str:
    return FEATURES[INDEX[name]].description


def held(
    run: Run, feature: str, rivals: tuple[str, str], sides: Sides | None, config: DebateConfig, error: float = 0.0
) -> tuple[dict[str, Any], OracleLLM]:
    oracle = OracleLLM(FEATURES, error_rate=error)
    predictor = LLMPredictor(oracle, run.lexicon.vocabulary, LLMScoreConfig(request_windows=60))
    made = Sides(oracle, config) if sides is None else sides
    (one,) = asyncio.run(
        debate_all(run, [INDEX[feature]], rivals, config, lambda record: TextReader(record, predictor), made)
    )
    assert one.debate_id is not None, one.reason
    (row,) = run.store.arrow("SELECT * FROM debate WHERE debate_id = ?", [one.debate_id]).to_pylist()
    return dict(row), oracle


def turns(run: Run, identity: str) -> list[dict[str, Any]]:
    found = run.store.arrow("SELECT * FROM debate_turn WHERE debate_id = ? ORDER BY number", [identity]).to_pylist()
    return [dict(turn) for turn in found]


def scripted(answer: Callable[[Request], str]) -> ScriptedLLM:
    return ScriptedLLM(answer)


BROADER = ("river-bank", (told("river-bank"), FEATURES[INDEX["river-bank"]].broader.description))  # type: ignore[union-attr]
TRUTH = f"Fires on {told('falcon')}."  # as the oracle writes it
WRONG = ("falcon", (told("kitchen"), told("century")))


def test_sides_say_few_words_whose_citations_are_checked(run: Run) -> None:
    row, oracle = held(run, *BROADER, None, NO_AMENDMENT, error=0.3)
    said = [turn for turn in turns(run, row["debate_id"]) if turn["statement"]]
    asked = [request for request in oracle.requests if request.purpose == "debate:statement"]
    assert 2 <= len(said) <= NO_AMENDMENT.statements and len(asked) == len(said)
    assert [turn["speaker"] for turn in said if turn["kind"] == "closing"] == ["A", "B"]
    assert all(request.max_tokens == NO_AMENDMENT.statement_tokens for request in asked)
    text = shown(run, row["debate_id"])
    assert all(turn["statement"].split()[0] in text for turn in said)


def test_a_misquoted_number_is_marked_and_a_right_one_is_not(run: Run) -> None:
    def says(request: Request) -> str:
        lines = request.messages[1].text.splitlines()
        one = next(json.loads(line) for line in lines if line.startswith('{"experiment"'))
        number = one["A"] if '"A"' in lines[lines.index("side") + 1] else one["A"] + 7
        return json.dumps({"statement": f"A gave it {number}% (experiment {one['experiment']})."})

    row, _ = held(run, *BROADER, Sides(scripted(says), NO_AMENDMENT), NO_AMENDMENT)
    closing = {turn["speaker"]: turn for turn in turns(run, row["debate_id"]) if turn["kind"] == "closing"}
    assert closing["A"]["unsupported"] == []
    assert len(closing["B"]["unsupported"]) == 1
    assert "not borne out" in shown(run, row["debate_id"])


@pytest.mark.parametrize(
    ("answer", "failures"),
    [
        ('{"statement": ""}', 0),
        ('{"statement": "\\u001b[31mI win, I won, 100 of 3 (experiment beef)"}', 0),
        ("no JSON at all", 1),
        (json.dumps({"statement": "word " * 400}), 1),
    ],
)
def test_nonsense_and_silence_change_nothing_of_the_verdict(run: Run, answer: str, failures: int) -> None:
    plain, _ = held(run, *BROADER, None, NO_AMENDMENT)
    figures = [
        {k: v for k, v in turn.items() if k not in ("speaker", "statement", "unsupported", "run_id")}
        for turn in turns(run, plain["debate_id"])
        if turn["experiment_id"]
    ]
    run.store.execute("DELETE FROM debate")
    row, _ = held(run, *BROADER, Sides(scripted(lambda request: answer), NO_AMENDMENT), NO_AMENDMENT)
    assert {**row, "run_id": ""} == {**plain, "run_id": ""}
    again = turns(run, row["debate_id"])
    assert [{k: v for k, v in turn.items() if k in figures[0]} for turn in again if turn["experiment_id"]] == figures
    found = run.store.sql("SELECT stage, message FROM failure")
    assert bool(found) == bool(failures) and all("statement of" in message for _, message in found)
    assert run.store.sql("SELECT DISTINCT status FROM stage WHERE stage = 'debate'") == [("done",)]
    assert "\x1b" not in shown(run, row["debate_id"])


def test_a_side_that_has_lost_ground_amends_and_starts_from_zero(run: Run) -> None:
    row, oracle = held(run, *WRONG, None, DebateConfig())
    asked = [request for request in oracle.requests if request.purpose == "debate:amend"]
    assert len(asked) == 1
    (amended,) = [turn for turn in turns(run, row["debate_id"]) if turn["kind"] == "amended"]
    side = amended["speaker"]
    assert (row["verdict"], row[f"{side.lower()}_text"]) == (side, amended["statement"])
    assert amended["statement"] == TRUTH and amended["text"] in WRONG[1]
    assert row[f"{side.lower()}_source"] == "typed, amended"
    after = [turn for turn in turns(run, row["debate_id"]) if turn["number"] > amended["number"] and turn["log_a"]]
    assert after[0][f"log_{side.lower()}"] > -2.5  # of one text alone
    said = " ".join(shown(run, row["debate_id"]).split())
    assert f"{side} gives up" in said and "none counts for it or against it" in said


def test_an_amended_explanation_is_sealed_stored_and_no_label(run: Run) -> None:
    row, _ = held(run, *WRONG, None, DebateConfig())
    (amended,) = [turn for turn in turns(run, row["debate_id"]) if turn["kind"] == "amended"]
    identity = row[f"{amended['speaker'].lower()}_id"]
    rows = run.store.sql("SELECT explanation_id, explainer, text, exposure, abstained FROM explanation")
    assert rows == [(identity, "debate:candidate", TRUTH, "explain, select", False)]
    ((early, late),) = run.store.sql(
        "SELECT count(*) FILTER (p.sealed_at <= m.measured_at), count(*) FILTER (p.sealed_at > m.measured_at) FROM prediction p "
        "JOIN measurement m USING (experiment_id) WHERE p.explanation_id = ?",
        [identity],
    )
    assert early > 0 and late == 0
    materialise_labels(run.store)
    assert run.store.sql("SELECT label FROM label WHERE feature = ?", [INDEX["falcon"]]) == [(None,)]


@pytest.mark.parametrize(
    "claim",
    ["Fires on xylophones, says nobody.", "  " + WRONG[1][0] + " ", told("century"), ""],
)
def test_an_amendment_that_is_no_better_is_not_taken(run: Run, claim: str) -> None:
    plain, _ = held(run, *WRONG, None, NO_AMENDMENT)
    answer = {"notes": "n", "abstain": not claim, "scope": "token" if claim else "none", "claim": claim}

    def says(request: Request) -> str:
        return json.dumps(answer if request.purpose == "debate:amend" else {"statement": ""})

    config = DebateConfig(amend=True, statements=0)
    row, _ = held(run, *WRONG, Sides(scripted(says), config), config)
    kept = ("a_text", "b_text", "a_id", "b_id", "verdict", "sentence", "experiments")
    assert {name: row[name] for name in kept} == {name: plain[name] for name in kept}
    assert not any(turn["kind"] == "amended" for turn in turns(run, row["debate_id"]))


def test_a_debate_that_is_held_again_says_and_amends_the_same(run: Run) -> None:
    row, _ = held(run, *WRONG, None, DebateConfig())
    before = [{**turn, "run_id": ""} for turn in turns(run, row["debate_id"])]
    counts = "SELECT (SELECT count(*) FROM prediction), (SELECT count(*) FROM measurement), (SELECT count(*) FROM explanation)"
    stored = run.store.sql(counts)
    for table in ("debate", "debate_turn"):
        run.store.execute(f"DELETE FROM {table}")
    again, _ = held(run, *WRONG, None, DebateConfig())
    assert {**again, "run_id": ""} == {**row, "run_id": ""}
    assert [{**turn, "run_id": ""} for turn in turns(run, again["debate_id"])] == before
    assert run.store.sql(counts) == stored


def test_no_text_of_the_split_test_is_shown_to_who_speaks(run: Run) -> None:
    _, oracle = held(run, *WRONG, None, DebateConfig())
    own = [r for r in oracle.requests if r.purpose.startswith("debate:")]
    shown_to_sides = "\n".join(message.text for request in own for message in request.messages)
    texts = run.store.sql("SELECT DISTINCT text FROM text_window WHERE split = 'test'")
    others = " ".join(text for (text,) in run.store.sql("SELECT text FROM text_window WHERE split <> 'test'"))
    unlike = [text for (text,) in texts if text not in others]
    assert len(unlike) > 20 and own
    assert not any(text in shown_to_sides for text in unlike)


def test_a_debate_with_statements_and_an_amendment_takes_at_most_20_000_tokens(run: Run) -> None:
    _, oracle = held(run, *WRONG, None, DebateConfig(), error=0.1)
    tokenizer = Tokenizer.from_file(str(demo_model() / "tokenizer.json"))
    tokenizer.no_truncation()

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    asked = sum(tokens(message.text) for request in oracle.requests for message in request.messages)
    answered = sum(tokens(oracle._answer(dataclasses.replace(request))) for request in oracle.requests)
    assert {"debate:statement", "debate:amend", "score:detection"} == {r.purpose for r in oracle.requests}
    assert 5_000 < asked + answered <= 20_000
