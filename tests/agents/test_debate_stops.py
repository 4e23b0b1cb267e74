"""What stops a debate, or a text of it: cancellation, questions without a usable reply, weak outcomes, a subject short of memory."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glossator.agents.debate import graph
from glossator.agents.debate.debater import debate_id
from glossator.agents.debate.debating import Held, debate, debate_all
from glossator.agents.debate.rivals import Rival, RuleReader, TextReader, find_rivals
from glossator.agents.debate.sides import Sides
from glossator.agents.debate.state import Bout, State
from glossator.agents.debate.statements import Said, closing, remark
from glossator.agents.debate.writing import turn_rows
from glossator.agents.editor.editor import Editor, Known
from glossator.agents.run import Run
from glossator.config import DebateConfig, EditorConfig, LLMScoreConfig
from glossator.errors import BudgetSpent, UnparsableError, UsageError
from glossator.harness.measurer import Measurer
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import ScriptedLLM
from glossator.scorers.reading import LLMPredictor
from glossator.types import Activations, FeatureId, FeatureRecord, Floats, Windows
from tests.agents.test_debate import INDEX, shown
from tests.agents.test_debate_sides import BROADER, FEATURES

RIVALS = ("token:bank", "after:river -> bank")


def asked_until(run: Run, error: BaseException) -> list[Held]:
    """A debate whose reader ends with this error."""

    class Reader(RuleReader):
        async def fires(self, rival: Rival, windows: Windows) -> Floats:
            raise error

    reader: Callable[[FeatureRecord], RuleReader] = lambda record: Reader(record, run.lexicon)  # noqa: E731
    return asyncio.run(debate_all(run, [INDEX["river-bank"]], RIVALS, DebateConfig(), reader))


@pytest.mark.parametrize("error", [asyncio.CancelledError(), BudgetSpent("no more")])
def test_a_stop_ends_the_run_and_is_no_failure_of_the_feature(run: Run, error: BaseException) -> None:
    with pytest.raises(type(error)):
        asked_until(run, error)
    assert run.store.sql("FROM failure") == run.store.sql("FROM stage") == []


def test_a_debate_that_fails_again_in_the_same_way_is_one_failure(run: Run) -> None:
    for _ in range(2):
        (one,) = asked_until(run, UnparsableError("no JSON"))
        assert one.debate_id is None and "UnparsableError" in str(one.reason)
    assert run.store.sql("SELECT stage, error, message FROM failure") == [
        ("debate", "UnparsableError", "debate: no JSON")
    ]
    assert run.store.sql("SELECT status FROM stage WHERE stage = 'debate'") == [("failed",)]
    assert debate(run, [INDEX["river-bank"]], RIVALS, DebateConfig())[0].debate_id is not None
    assert run.store.sql("SELECT arg_max(status, rowid) FROM stage WHERE stage = 'debate'") == [("done",)]


def test_a_feature_that_cannot_be_debated_is_told_so_once(run: Run) -> None:
    run.store.execute("UPDATE feature SET status = 'rare', reason = 'because' WHERE feature = 4")
    for _ in range(2):
        debate(run, [4], RIVALS, DebateConfig())
    assert run.store.sql("SELECT status FROM stage WHERE stage = 'debate'") == [("abstained",)]


def test_a_feature_of_which_no_rule_is_to_be_found_is_told_so(run: Run) -> None:
    (record,) = run.records([INDEX["river-bank"]])
    nothing = np.zeros(0, int)
    bare = replace(record, token_ids=nothing, token_sums=nothing.astype(float), neighbours=())
    with pytest.raises(UsageError, match="has no rule"):
        find_rivals(run, bare, [], by_text=False)


def test_a_model_with_nothing_to_say_is_asked_no_more_often_than_one_that_talks(run: Run) -> None:
    """An empty answer is paid for, too."""
    config = DebateConfig(amend=False, lead=50.0, statements=3)  # one beside the closing words
    silent = ScriptedLLM(lambda request: '{"statement": ""}')
    reader = LLMPredictor(OracleLLM(FEATURES), run.lexicon.vocabulary, LLMScoreConfig(request_windows=60))
    feature, rivals = BROADER
    asyncio.run(
        debate_all(
            run, [INDEX[feature]], rivals, config, lambda record: TextReader(record, reader), Sides(silent, config)
        )
    )
    telling = "SELECT count(*) FROM debate_turn WHERE (p_a >= 0.5) <> (p_b >= 0.5)"
    assert run.store.sql(telling)[0][0] >= 3
    assert len(silent.requests) == config.statements


# ------------------------------------------------------------------ weak


class Faint(Measurer):
    """The subject, two fifths as strong: what fired is active under the threshold."""

    async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]:
        found = await super().measure(pairs)
        return [replace(one, values=tuple(0.4 * value for value in one.values)) for one in found]


def test_a_text_on_which_most_carriers_are_weak_is_no_evidence(run: Run) -> None:
    config = DebateConfig(budget=8)

    async def measured() -> State:
        (record,) = run.records([INDEX["river-bank"]])
        async with Faint(*run.model()) as measurer:
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, measurer, run.store, EditorConfig(), causal=True, run_id="r"
            )
            rivals = find_rivals(run, record, RIVALS, by_text=False)
            reader = RuleReader(record, run.lexicon)
            identity = debate_id(record, rivals, "rule", config)
            bout = Bout(identity, record, rivals, reader, Known(), run.store, editor, config, "r", remark)
            state = graph.begun(bout)
            state |= await graph.seal(state)
            while not graph.spent(state):
                state |= await graph.measure(state)
            for node in (graph.test, graph.close, graph.write):
                state |= await node(state)
            return state

    state = asyncio.run(measured())
    turns = state["turns"]
    weak = [turn for turn in turns if turn.said.weak]
    assert 3 <= len(weak) < len(turns) and not any(turn.said.fired for turn in turns)
    of_view = run.store.sql("SELECT experiment_id FROM outcome WHERE weak")
    assert {identity for (identity,) in of_view} == {turn.said.experiment_id for turn in weak}
    assert turns[-1].standing.counted == len(turns) - len(weak)
    for before, turn in itertools.pairwise(turns):
        same = np.array_equal(before.standing.totals, turn.standing.totals)
        assert same == turn.said.weak and (turn.vote == 0) == turn.said.weak
    rows = {row.experiment_id: row for row in turn_rows(state, state["row"])}
    assert all(rows[turn.said.experiment_id].statement is None for turn in weak)
    assert all((rows[turn.said.experiment_id].fired is None) == turn.said.weak for turn in turns)
    assert "weak, no verdict" in shown(run, state["row"].debate_id)


def test_nobody_is_contradicted_by_a_weak_text() -> None:
    weak = Said("3f2a77b012345678", 0.98, 0.05, False, 0.0, 0.5, weak=True)
    assert remark(weak) is None and remark(replace(weak, weak=False)) is not None
    assert closing("A", []).endswith("I foresaw 0 of 0.")


class Split(Measurer):
    """The first carrier of every experiment is silent, whatever is in it."""

    async def measure(self, pairs: Sequence[tuple[str, FeatureId]]) -> list[Activations]:
        first, *others = await super().measure(pairs)
        return [replace(first, values=tuple(0.0 for _ in first.values)), *others]


def test_who_speaks_is_shown_a_carrier_that_did_what_most_did(run: Run) -> None:
    feature, rivals = BROADER
    config = DebateConfig(amend=False, statements=2)
    llm = ScriptedLLM(lambda request: '{"statement": ""}')

    async def closed() -> State:
        (record,) = run.records([INDEX[feature]])
        async with Split(*run.model()) as measurer:
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, measurer, run.store, EditorConfig(), causal=True, run_id="r"
            )
            reader = TextReader(record, LLMPredictor(OracleLLM(FEATURES), run.lexicon.vocabulary, LLMScoreConfig()))
            pair = find_rivals(run, record, rivals, by_text=True)
            identity = debate_id(record, pair, reader.predictor, config)
            sides = Sides(llm, config)
            bout = Bout(identity, record, pair, reader, Known(), run.store, editor, config, "r", remark, sides)
            state = graph.begun(bout)
            state |= await graph.seal(state)
            while not graph.spent(state):
                state |= await graph.measure(state)
            return state | await graph.close(state | State(turns=tuple(t for t in state["turns"] if t.said.fired)))

    asyncio.run(closed())
    did = {
        (i[:4], text): fires for i, text, fires in run.store.sql("SELECT experiment_id, text, fires FROM measurement")
    }
    lines = [line for line in llm.requests[0].messages[1].text.splitlines() if line.startswith('{"experiment"')]
    told = [json.loads(line) for line in lines]
    assert told and {one["outcome"] for one in told} == {"fired"}
    assert all(did[one["experiment"], one["text"]] for one in told)


# ------------------------------------------------------------------ memory


class Short:
    """A subject that runs out of memory once."""

    def __init__(self, subject: Any) -> None:
        self._subject, self.left = subject, 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    def read(self, batch: Any) -> Any:
        if self.left:
            self.left -= 1
            raise MemoryError("out of memory")
        return self._subject.read(batch)


def test_a_subject_short_of_memory_goes_on_in_smaller_batches_and_says_so(run: Run) -> None:
    subject, dictionary = run.model()
    said: list[str] = []
    short = Run(run.store, model=(Short(subject), dictionary), say=said.append)  # type: ignore[arg-type]
    (one,) = debate(short, [INDEX["river-bank"]], RIVALS, DebateConfig())
    assert one.debate_id is not None
    assert [line for line in said if "ran out of memory" in line]
