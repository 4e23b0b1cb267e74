"""The debate's graph: its nodes alone, its ways, and that every way that is named leads somewhere."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from glossator.agents.debate import graph
from glossator.agents.debate.debater import debate_id
from glossator.agents.debate.rivals import RuleReader, find_rivals
from glossator.agents.debate.state import Bout, State
from glossator.agents.debate.statements import remark
from glossator.agents.editor.editor import Editor, Known
from glossator.agents.run import Run
from glossator.config import DebateConfig, EditorConfig
from glossator.harness.measurer import Measurer
from tests.agents.test_debate import INDEX


def bout_of(run: Run, measurer: Measurer, config: DebateConfig) -> Bout:
    (record,) = run.records([INDEX["river-bank"]])
    rivals = find_rivals(run, record, ["token:bank", "after:river -> bank"], by_text=False)
    editor = Editor(
        run.lexicon.vocabulary, run.neighbours, measurer, run.store, EditorConfig(), causal=True, run_id="r"
    )
    identity = debate_id(record, rivals, "rule", config)
    reader = RuleReader(record, run.lexicon)
    return Bout(identity, record, rivals, reader, Known(), run.store, editor, config, "r", remark)


def test_a_debate_is_held_node_by_node(run: Run) -> None:
    async def alone() -> State:
        async with Measurer(*run.model()) as measurer:
            state = graph.begun(bout_of(run, measurer, DebateConfig()))
            state |= await graph.seal(state)
            assert run.store.sql("SELECT count(*) FROM measurement") == [(0,)]
            assert run.store.sql("SELECT count(*) FROM prediction")[0][0] == 2 * len(state["left"])
            ways: list[str] = []
            while not ways or ways[-1] == "another text":
                before = len(state["left"])
                state |= await graph.measure(state)
                assert len(state["left"]) == before - 1
                ways.append(graph.whither(state))
            assert ways[-1] == "decided" and len(ways) >= 6
            for node in (graph.test, graph.close, graph.write):
                state |= await node(state)
            return state

    state = asyncio.run(alone())
    assert state["row"].verdict == "B"
    assert run.store.sql("SELECT verdict FROM debate") == [("B",)]


def test_the_budget_ends_it_also_where_nothing_is_left(run: Run) -> None:
    async def alone() -> None:
        async with Measurer(*run.model()) as measurer:
            state = graph.begun(bout_of(run, measurer, DebateConfig(budget=2)))
            state |= await graph.seal(state)
            for way in ("another text", "budget"):
                state |= await graph.measure(state)
                assert graph.whither(state) == way
            bout = replace(state["bout"], config=DebateConfig())
            assert graph.whither(State(**(state | State(bout=bout)))) == "another text"
            assert graph.whither(State(**(state | State(bout=bout, left=())))) == "budget"

    asyncio.run(alone())


def test_every_way_that_a_router_names_is_on_the_map() -> None:
    drawn = graph.debate_graph().compile().get_graph()
    nodes = {"seal", "measure", "speak", "amend", "test", "close", "write"}
    assert nodes <= set(drawn.nodes)
    assert {e.target for e in drawn.edges if e.source == "measure"} == {"speak", "measure", "amend", "test"}
    assert {e.target for e in drawn.edges if e.source == "speak"} == {"measure", "amend", "test"}
    assert {e.target for e in drawn.edges if e.source == "amend"} == {"measure", "test"}
    assert {e.target for e in drawn.edges if e.source in ("test", "close")} == {"close", "write"}


@pytest.mark.parametrize("budget", [1, 7, 100])
def test_the_recursion_limit_holds_the_longest_way(budget: int) -> None:
    longest = 1 + 2 * budget + 2 + 3  # seal; every text with a word; both sides amend; test, close, write
    assert graph.steps(budget) >= longest
