"""The debate as a graph: seal -> measure -> (speak) -> (amend) -> ... -> test -> close -> write.

    seal      texts are proposed, both sides predict all of them, the store has it; then nothing is hidden any more
    measure   the text that is expected to tell most, and what it tells
    speak     a side says a few words about it, where a model speaks for the sides
    amend     a side that has lost ground says something else, once a debate, where a model speaks for it
    test      both are scored on `test`, which the debate never saw
    close     the sides' last words
    write     the outcome and its turns, in one piece

Nodes are plain functions of a state and can be called alone. Every second text is a window that is stored as firing, whatever
anybody says of it: a hypothesis has to account for what the feature does, and between two that know nothing of it the texts
on which they differ are mostly silent. A text that comes out weak costs an experiment and is no evidence. No checkpointer: the store and the log of replies are the memory, so a killed debate
is held again and finds its predictions, measurements and words there. No word of either side changes a likelihood.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from glossator.agents.debate import sealing, writing
from glossator.agents.debate.amending import amended, may_amend
from glossator.agents.debate.rivals import RuleReader
from glossator.agents.debate.state import Bout, Sealed, State, Turn, clear, measured
from glossator.agents.debate.statements import Said, refuted_sentence, verdict_sentence
from glossator.agents.debate.verdict_on_test import on_test
from glossator.agents.editor.experiments import came_out, measurement_rows, peak
from glossator.scorers import evidence

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

_BLIND = 2  # every second text is a stored window that fires, in the order of the pool


def debate_graph() -> StateGraph[State]:
    """The graph, not yet compiled."""
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    nodes = (seal, measure, speak, amend, test, close, write)
    for node in nodes:
        graph.add_node(node.__name__, node)
    onward: dict[Hashable, str] = {
        "another text": "measure",
        "a side has lost ground": "amend",
        "decided": "test",
        "budget": "test",
    }
    graph.add_edge(START, "seal")
    graph.add_edge("seal", "measure")
    graph.add_conditional_edges("measure", after_measuring, {"worth a word": "speak", **onward})
    graph.add_conditional_edges("speak", whither, onward)
    graph.add_conditional_edges("amend", after_amending, {"another text": "measure", "budget": "test"})
    graph.add_edge("test", "close")
    graph.add_edge("close", "write")
    graph.add_edge("write", END)
    return graph


def steps(budget: int) -> int:
    """How many nodes a debate may visit: LangGraph's recursion limit."""
    return 2 * budget + 2 + 6


def begun(bout: Bout) -> State:
    return State(
        bout=bout, rivals=bout.rivals, turns=(), remarks=0, words=(), amendments=(), tried=(), failures=(),
    )  # fmt: skip


# ---------------------------------------------------------------------- nodes


async def seal(state: State) -> State:
    bout = state["bout"]
    error = await sealing.error_of(bout)
    sealed = await sealing.sealed(bout)
    misread = 0.0 if isinstance(bout.reader, RuleReader) else error
    same = evidence.same_as(sealed.p_a, sealed.p_b, error, misread, (bout.config.budget, bout.config.lead))
    return State(sealed=sealed, error=error, same=same, left=tuple(range(len(sealed.ids))))


async def measure(state: State) -> State:
    """One text: the most telling, or every second time one that is stored as firing."""
    bout, sealed, config = state["bout"], state["sealed"], state["bout"].config
    best, gain, rate = chosen(state)
    at = state["left"][best]
    maxima = await _outcome(bout, sealed, at)
    share, weak = came_out(maxima, bout.record.threshold)
    word = sealed.words[at]
    said = Said(
        sealed.ids[at], float(sealed.p_a[at]), float(sealed.p_b[at]), share > 0.5, share, float(np.median(maxima)),
        carrier=next((n for n, m in enumerate(maxima) if (m >= bout.record.threshold) == (share > 0.5)), 0), weak=weak,
    )  # fmt: skip
    vote = 0.0 if weak else evidence.vote(word, [turn.word for turn in clear(state)], config.same_word)
    turn = Turn(at, word, gain, rate, vote, said, evidence.Standing(np.zeros(5), "", 0.0, 0))
    now = _standing(State(**(state | State(turns=(*state["turns"], turn)))))
    turn = Turn(at, word, gain, rate, vote, said.after(now.leader, now.lead), now)
    left = tuple(i for i in state["left"] if i != at)
    return State(turns=(*state["turns"], turn), left=left)


async def speak(state: State) -> State:
    """Whom the last text contradicts, or bears out, says so."""
    sides = state["bout"].sides
    assert sides is not None  # else no edge leads here
    words, failures = await sides.remark(state)
    return State(
        remarks=state["remarks"] + 1, words=(*state["words"], *words), failures=(*state["failures"], *failures)
    )


async def amend(state: State) -> State:
    """A side that has lost ground may say something else; what it says from then on is sealed before it is measured."""
    return await amended(state)


async def test(state: State) -> State:
    bout = state["bout"]
    verdict, reason = _verdict(state)
    tested = await on_test(bout.record, state["rivals"], bout.reader, verdict, bout.config)
    return State(tested=tested, verdict=verdict, reason=reason)


async def close(state: State) -> State:
    """The last word of each side: templates over the evidence, or what a model says that was shown it."""
    sides = state["bout"].sides
    if not state["turns"]:
        return State()
    if sides is None:
        return State(words=(*state["words"], *writing.closings(state)))
    words, failures = await sides.close(state)
    return State(words=(*state["words"], *words), failures=(*state["failures"], *failures))


async def write(state: State) -> State:
    row = writing.debate_row(state, _sentence(state))
    await asyncio.to_thread(writing.write, state, row)
    return State(row=row)


# ---------------------------------------------------------------------- ways


def after_measuring(state: State) -> str:
    sides = state["bout"].sides
    return "worth a word" if sides is not None and sides.worth_a_word(state) else whither(state)


def whither(state: State) -> str:
    """Decided, the budget is spent, a side has lost ground, or another text."""
    if decided(state):
        return "decided"
    if spent(state):
        return "budget"
    return "a side has lost ground" if may_amend(state) else "another text"


def after_amending(state: State) -> str:
    return "budget" if spent(state) else "another text"


def spent(state: State) -> bool:
    return not state["left"] or len(state["turns"]) >= state["bout"].config.budget


def decided(state: State) -> bool:
    """Whether somebody leads all others that are not refuted, with enough texts behind it, and accounts for what fires."""
    config = state["bout"].config
    if not state["turns"]:
        return False
    now, past = state["turns"][-1].standing, measured(state)
    enough = now.counted >= config.least and now.lead >= config.lead
    return enough and evidence.accounts_for(past.seen, now.leader, past.since)


# ---------------------------------------------------------------------- what is asked of the evidence


def _standing(state: State) -> evidence.Standing:
    past, config = measured(state), state["bout"].config
    per_text = evidence.log_likelihoods(past.seen, state["error"], config.same_word)
    same = {**evidence.refuted(past.seen, past.since), **state["same"]}
    return evidence.standing(per_text, same, past.since)


def chosen(state: State) -> tuple[int, float, float]:
    """Which of the texts that are left comes next, how much it is expected to tell, and the rate of its kind."""
    sealed, left, config = state["sealed"], list(state["left"]), state["bout"].config
    past = measured(state)
    p = evidence.softened(evidence.claims(sealed.p_a[left], sealed.p_b[left]), state["error"])
    kinds, words = [sealed.proposals[i].edit.kind for i in left], sealed.words
    used, fired = past.seen.kinds, past.seen.fired
    rates = np.asarray([evidence.running_rate(kind, used, fired) for kind in kinds])
    votes = np.asarray([evidence.vote(words[i], past.seen.words, config.same_word) for i in left])
    totals = state["turns"][-1].standing.totals if state["turns"] else np.zeros(len(evidence.HYPOTHESES))
    weights = evidence.posterior(totals, {**evidence.refuted(past.seen, past.since), **state["same"]})
    gain = votes * evidence.information_gain(np.column_stack([p, rates]), weights)
    best = evidence.choose(gain, kinds, used)
    if len(state["turns"]) % _BLIND == _BLIND - 1:  # what it fires on, whatever anybody says of it
        best = next((n for n, i in enumerate(left) if sealed.proposals[i].fires), best)
    return best, float(gain[best]), float(rates[best])


async def _outcome(bout: Bout, sealed: Sealed, at: int) -> Sequence[float]:
    """The highest activation in each carrier; what is stored is not measured again."""
    experiment_id, texts = sealed.ids[at], sealed.proposals[at].edit.texts
    if experiment_id in bout.known.outcomes:
        return bout.known.outcomes[experiment_id]
    found = await bout.editor.measurer.measure([(text, bout.record.feature) for text in texts])
    await bout.editor.store.put(*measurement_rows(experiment_id, bout.record, texts, found))
    return [peak(m.values) for m in found]


def _nothing_between(state: State) -> bool:
    return state["same"].get("B") == "A"


def _verdict(state: State) -> tuple[str | None, str | None]:
    """Who won, or why nobody did."""
    leader = state["turns"][-1].standing.leader if decided(state) else None
    if _nothing_between(state) and leader != "neither":
        return None, f"the two say the same on the {len(state['sealed'].ids)} texts that were proposed"
    return leader, None if leader else "undecided"


def _sentence(state: State) -> str:
    """The verdict for people."""
    verdict, last, config = state["verdict"], state["turns"][-1].standing, state["bout"].config
    if verdict is None and _nothing_between(state):
        beat = "they" if decided(state) else "it is open whether they"
        return f"Nothing to decide: {state['reason']}; {beat} predict it better than base rates."
    if verdict == "neither" and math.isinf(last.lead):
        return refuted_sentence([turn.said for turn in state["turns"]])
    said = verdict_sentence(verdict, last.leader, last.lead, len(state["turns"]), config.lead)
    if verdict in ("A", "B") and state["same"].get("overlap") == verdict:
        said += f" {'B' if verdict == 'A' else 'A'} fires wherever it says so, and elsewhere."
    return said


def compiled() -> Any:
    """The graph, ready to run; once a run is enough."""
    return debate_graph().compile(name="debate")
