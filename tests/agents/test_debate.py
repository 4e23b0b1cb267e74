"""A debate on planted features, offline and with a model that reads the rivals: who wins, what is stored, what is sealed first."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from glossator import pipeline
from glossator.agents.debate.debating import Held, debate, debate_all
from glossator.agents.debate.rivals import TextReader
from glossator.agents.run import Run
from glossator.config import DebateConfig, LexicalConfig, LLMScoreConfig
from glossator.errors import StoreError, UnsealedError, UsageError
from glossator.harness.planted_subject import PlantedSubject
from glossator.llm.oracle import OracleLLM
from glossator.planted import planted_features
from glossator.rows import MeasurementRow
from glossator.scorers.reading import LLMPredictor
from glossator.show_debate import coloured_tokens, transcript

INDEX = {feature.name: i for i, feature in enumerate(planted_features())}
TABLES = ("experiment", "prediction", "measurement", "debate", "debate_turn")
ROWS = "SELECT COLUMNS(c -> c <> 'run_id') FROM {} ORDER BY ALL"


def held(run: Run, feature: str, *hypotheses: str, config: DebateConfig | None = None) -> dict[str, object]:
    """The row of one debate."""
    (one,) = debate(run, [INDEX[feature]], hypotheses, config or DebateConfig())
    assert one.debate_id is not None, one.reason
    (row,) = run.store.arrow("SELECT * FROM debate WHERE debate_id = ?", [one.debate_id]).to_pylist()
    return dict(row)


@pytest.mark.parametrize(
    ("feature", "a", "b", "verdict"),
    [
        ("river-bank", "token:bank", "after:river -> bank", "B"),  # broader
        ("kitchen", "words:butter,oven,flour,kettle", "token:oven", "A"),  # narrower
        ("bear", "token:bear; not after:polar -> bear", "token:bear", "A"),
        ("guitar-or-very", "token:guitar", "after:very", "both"),  # each right in part
        ("falcon", "words:table,cup", "words:table,lamp", "neither"),  # both wrong
        ("century", "class:year", "number:1900-1999", "B"),
        ("-ing", "class:-ing", "token:working", "A"),
    ],
)
def test_the_planted_truth_wins_whoever_states_it(run: Run, feature: str, a: str, b: str, verdict: str) -> None:
    row = held(run, feature, a, b)
    assert row["verdict"] == verdict, row["sentence"]
    assert 6 <= int(str(row["experiments"])) <= 30
    swapped = held(run, feature, b, a)
    assert swapped["verdict"] == {"A": "B", "B": "A"}.get(verdict, verdict)


def test_the_overlap_wins_where_only_it_fires(run: Run) -> None:
    a, b = (
        "words:red,green,blue,yellow,purple,orange,table,cup,lamp",
        "words:red,green,blue,yellow,purple,orange,old,new,heavy",
    )
    assert held(run, "colour", a, b)["verdict"] == "overlap"


def test_rivals_that_say_the_same_leave_nothing_to_decide(run: Run) -> None:
    row = held(run, "falcon", "token:falcon", "words:falcon")
    assert row["verdict"] is None
    assert str(row["reason"]).startswith("the two say the same")


def test_every_prediction_is_stored_before_anything_is_measured(run: Run) -> None:
    row = held(run, "river-bank", "token:bank", "after:river -> bank")
    ((experiments, predictions, late),) = run.store.sql(
        "SELECT count(DISTINCT e.experiment_id), count(*), count(*) FILTER (p.sealed_at > (SELECT min(measured_at) FROM measurement)) "
        "FROM experiment e JOIN prediction p USING (experiment_id)"
    )
    assert (experiments, predictions, late) == (row["proposed"], 2 * int(str(row["proposed"])), 0)
    stray = MeasurementRow("unsealed", run.dictionary, 0, 0, "x", ["x"], [0.0], 0.0, False, 0.0)
    with pytest.raises(UnsealedError):
        run.store.put_now(stray)


def test_no_text_of_the_split_test_is_debated(run: Run) -> None:
    held(run, "river-bank", "token:bank", "after:river -> bank")
    assert {split for (split,) in run.store.sql("SELECT DISTINCT split FROM experiment")} <= {"select", "explain"}
    shared = run.store.sql(
        "SELECT count(*) FROM experiment e JOIN text_window w ON w.window_id = e.source_window WHERE w.split = 'test'"
    )
    assert shared == [(0,)]


def test_a_second_debate_of_the_same_rivals_is_the_first_one(run: Run) -> None:
    held(run, "river-bank", "token:bank", "after:river -> bank")
    before = {table: run.store.sql(ROWS.format(table)) for table in TABLES}
    held(run, "river-bank", "token:bank", "after:river -> bank")
    assert {table: run.store.sql(ROWS.format(table)) for table in TABLES} == before


def test_a_killed_debate_goes_on_and_says_what_it_would_have_said(run: Run, planted_subject: PlantedSubject) -> None:
    row = held(run, "bear", "token:bear; not after:polar -> bear", "token:bear")
    turns = run.store.sql(ROWS.format("debate_turn"))
    measured = run.store.sql("SELECT count(*) FROM measurement")[0][0]
    run.store.execute("DELETE FROM debate")
    run.store.execute("DELETE FROM debate_turn")
    gone = run.store.sql("SELECT experiment_id FROM measurement ORDER BY measured_at DESC LIMIT 1")[0][0]
    run.store.execute("DELETE FROM measurement WHERE experiment_id = ?", [gone])
    kept = run.store.sql("SELECT count(*), max(measured_at) FROM measurement")[0]
    again = held(run, "bear", "token:bear; not after:polar -> bear", "token:bear")
    assert {**again, "run_id": ""} == {**row, "run_id": ""}
    assert run.store.sql(ROWS.format("debate_turn")) == turns
    assert run.store.sql("SELECT count(*) FROM measurement")[0][0] == measured
    assert run.store.sql("SELECT count(*) FROM measurement WHERE measured_at <= ?", [kept[1]])[0][0] == kept[0]
    assert run.store.sql("SELECT experiment_id FROM experiment GROUP BY ALL HAVING count(*) > 1") == []


def test_the_budget_ends_a_debate_undecided(run: Run) -> None:
    row = held(run, "river-bank", "token:bank", "after:river -> bank", config=DebateConfig(budget=2))
    assert (row["verdict"], row["reason"], row["experiments"]) == (None, "undecided", 2)
    assert row["reversal"] is None


def test_both_are_scored_on_test_and_a_reversal_is_told(run: Run) -> None:
    row = held(run, "river-bank", "token:bank", "after:river -> bank")
    assert float(str(row["b_score"])) == pytest.approx(1.0)
    assert float(str(row["difference"])) > 0 and row["reversal"] is False
    run.store.execute("UPDATE debate SET reversal = true")
    assert "REVERSAL" in shown(run, str(row["debate_id"]))


def test_found_rivals_are_the_label_and_the_best_rule_that_says_something_else(run: Run) -> None:
    pipeline.explain(run, LexicalConfig())
    row = held(run, "river-bank")
    assert row["a_source"] == "lexical" and row["verdict"] == "A"
    assert str(row["b_source"]).startswith("lookup")


def test_a_stored_explanation_is_named_by_its_id(run: Run) -> None:
    pipeline.explain(run, LexicalConfig())
    ((identity,),) = run.store.sql("SELECT explanation_id FROM label WHERE feature = ?", [INDEX["river-bank"]])
    row = held(run, "river-bank", identity, "token:bank")
    assert (row["a_id"], row["verdict"]) == (identity, "A")


@pytest.mark.parametrize(
    ("hypotheses", "said"),
    [
        (["token:bank"], "1 given"),
        (["token:bank", "token:river", "token:the"], "3 given"),
        (["token:bank", "token: bank"], "both say the same"),
        (["token:bank", " "], "is empty"),
        (["token:bank", "x" * 3000], "3,000 characters"),
        (["token:bank", "rivers and their banks"], "name one with --llm"),
        (["token:bank", "token:zeppelin"], 'no token "zeppelin"'),
        (["token:bank", "class:nonsense"], "--hypothesis class:nonsense: rule: unknown class"),
        (["token:bank", "topic:>=2"], "names no word"),
        (["token:bank", "words:,"], "names no word"),
        (["token:bank", "token:the\x1b[31m"], r"holds \\x1b, which nobody can see"),
        (["token:bank", "\u202ecause"], r"holds \\u202e"),
    ],
)
def test_hypotheses_that_cannot_debate_are_refused(run: Run, hypotheses: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        debate(run, [INDEX["river-bank"]], hypotheses, DebateConfig())
    assert run.store.sql("SELECT count(*) FROM experiment") == [(0,)]


@pytest.mark.parametrize("status", ["dead", "rare", "dense"])
def test_features_that_cannot_be_debated_get_a_status_and_no_verdict(run: Run, status: str) -> None:
    run.store.execute("UPDATE feature SET status = ?, reason = 'because' WHERE feature = 4", [status])
    assert debate(run, [4], ["token:bank", "token:river"], DebateConfig()) == [Held(4, None, f"{status}: because")]
    assert run.store.sql("SELECT status, reason FROM stage WHERE stage = 'debate'") == [
        ("abstained", f"{status}: because")
    ]
    assert run.store.sql("SELECT count(*) FROM debate") == [(0,)]


def test_a_feature_without_firing_windows_has_no_debate(run: Run) -> None:
    run.store.execute("UPDATE feature SET threshold = 1e9 WHERE feature = 4")
    (one,) = debate(run, [4], ["token:bank", "token:river"], DebateConfig())
    assert one.debate_id is None and "no window" in str(one.reason)


def test_many_features_are_debated_at_once_and_those_without_rivals_are_told(run: Run) -> None:
    pipeline.explain(run, LexicalConfig())
    found = debate(run, list(range(12)), [], DebateConfig())
    assert [one.feature for one in found] == list(range(12))
    told = [one for one in found if one.debate_id is None]
    assert len(told) < 6
    assert all("no other rule" in str(one.reason) for one in told)
    assert run.store.sql("SELECT count(*) FROM debate") == [(12 - len(told),)]


def test_the_view_shows_turns_in_order_with_their_evidence(run: Run) -> None:
    row = held(run, "river-bank", "token:bank", "after:river -> bank")
    turns = run.store.arrow("FROM transcript").to_pylist()
    assert [turn["number"] for turn in turns] == list(range(1, len(turns) + 1))
    texts, last = turns[: int(str(row["experiments"]))], turns[int(str(row["experiments"])) :]
    assert all(turn["max_activation"] is not None and turn["p_neither"] is not None for turn in texts)
    assert [(turn["kind"], turn["speaker"], turn["experiment_id"]) for turn in last] == [
        ("closing", s, None) for s in "AB"
    ]
    assert all(turn["unsupported"] == [] for turn in turns)
    assert turns[0]["verdict"] == "B"


def shown(run: Run, debate_id: str) -> str:
    out = io.StringIO()
    Console(file=out, width=120, markup=False).print(transcript(run, debate_id))
    return out.getvalue()


def test_the_transcript_tells_who_claims_what_and_what_came_of_it(run: Run) -> None:
    row = held(run, "river-bank", "token:bank", "after:river -> bank")
    told = shown(run, str(row["debate_id"]))
    for part in ('"bank" after "river"', "B holds", "‹bank›", "foresaw", "erred", "nats", "verdict: B"):
        assert part in told
    run.store.execute("UPDATE debate SET a_text = '[red]:smile:[/red]'")
    assert "[red]:smile:[/red]" in shown(run, str(row["debate_id"]))
    run.store.execute("UPDATE debate_turn SET statement = 'so', unsupported = ['beef'], speaker = 'A' WHERE number = 1")
    assert "not borne out: beef" in shown(run, str(row["debate_id"]))
    with pytest.raises(StoreError, match="no debate"):
        transcript(run, "nothing")


def test_a_transcript_obeys_no_escape_and_is_short_where_all_foresaw_silence(run: Run) -> None:
    row = held(run, "bear", "token:bear; not after:polar -> bear", "token:bear")
    assert "silent, as both foresaw" not in shown(run, str(row["debate_id"]))
    quiet = "p_a = 0.01, p_b = 0.02, fired = false, fired_share = 0, statement = NULL"
    run.store.execute(f"UPDATE debate_turn SET {quiet} WHERE number = 2")
    assert "silent, as both foresaw" in shown(run, str(row["debate_id"]))
    run.store.execute("UPDATE debate SET a_text = 'x\x1b[31my', sentence = 'z\x07' || sentence")
    run.store.execute("UPDATE debate_turn SET statement = 'w\u202ev', speaker = 'A', unsupported = ['\x1b[2J']")
    run.store.execute("UPDATE measurement SET tokens = list_transform(tokens, t -> t || chr(27))")
    told = shown(run, str(row["debate_id"]))
    assert not {"\x1b", "\x07", "\u202e"} & set(told)
    assert all(part in told for part in ("x\\x1b[31my", "w\\u202ev", "\\x1b[2J", "z\\x07"))


def test_tokens_that_fire_are_marked_without_colour() -> None:
    assert coloured_tokens(["on", "the", "bank", "##s"], [0, 0.5, 7, 0], 2, 7).plain == "on the ‹bank›s"


@pytest.mark.parametrize(("error", "least"), [(0.0, 4), (0.1, 2)])
def test_a_model_that_reads_the_rivals_decides_and_the_broader_one_never_wins(
    run: Run, error: float, least: int
) -> None:
    features = planted_features()
    oracle = OracleLLM(features, error_rate=error, seed=1)
    predictor = LLMPredictor(oracle, run.lexicon.vocabulary, LLMScoreConfig())
    right = 0
    for name in ("river-bank", "kitchen", "falcon", "bear"):
        feature = features[INDEX[name]]
        assert feature.broader is not None
        hypotheses = [feature.description, feature.broader.description]
        (one,) = asyncio.run(
            debate_all(run, [INDEX[name]], hypotheses, DebateConfig(), lambda record: TextReader(record, predictor))
        )
        verdict = run.store.sql("SELECT verdict, predictor FROM debate WHERE debate_id = ?", [one.debate_id])[0]
        assert verdict[0] in ("A", "neither", None) and verdict[1] == "llm:scripted:oracle"
        right += verdict[0] == "A"
    assert right >= least  # who misreads a feature's only word sees it fire for no reason
    texts = [message.text for request in oracle.requests for message in request.messages]
    assert not any(word in text for text in texts for word in ("transplant", "cut_left", "experiment"))
