"""The graph `cascade`: the lexical rule where it will do, a language model where it will not, and more only where doubt remains.

    route    the lexical rule stands if it predicts `select` well and is more than a mere list of tokens
    draft, read, probe, refine    else a sentence, as in the graph `label`; one that reads well is not refined
    best_of  further candidates, where the sentence still reads badly
    debate   between the two best that say different things, where they read about equally well
    freeze

Every comparison is on `select`. A debate is decided by experiments made of windows of `explain` and `select`: who wins it is
taken; where both hold, the two sentences joined if that reads better; else the one that reads better, and that is said. A
rule that stands is the label already, so nothing is written for it and nobody is asked. A feature that is dead, rare or
dense, or has no window to choose by, gets no sentence: there is no telling whether it would be right.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from glossator.agents.debate.rivals import Rival, plain
from glossator.agents.editor.editor import UNTRIED
from glossator.agents.explainers.best_of import best_of as draw_candidates
from glossator.agents.explainers.claims import Candidate, Claim, identity_of, read
from glossator.agents.graphs.label import freeze, wire
from glossator.agents.graphs.state import Lexical, State, Task, ended, failed, step
from glossator.config import CascadeConfig

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

STANDS = "lexical stands"
_TOKENS = ("token", "words")  # items that are about single tokens, and say nothing that they have in common


@cache
def cascade_graph() -> CompiledStateGraph[State, None, State, State]:
    """Compiled once: it holds no feature."""
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    graph.add_node("route", route)
    wire(graph, settled, {"doubt remains": "best_of", "settled": "freeze"})
    for name, node in {"best_of": best_of, "debate": debate, "freeze": freeze}.items():
        graph.add_node(name, node)
    graph.add_edge(START, "route")
    graph.add_conditional_edges(
        "route", after_route, {"escalated": "draft", "nothing to choose by": "freeze", STANDS: END}
    )
    graph.add_conditional_edges("best_of", after_best_of, {"two lie close": "debate", "settled": "freeze"})
    graph.add_edge("debate", "freeze")
    graph.add_edge("freeze", END)
    return graph.compile(name="cascade")


# --------------------------------------------------------------------------- which way


def after_route(state: State) -> str:
    if state["stands"] is not None:
        return STANDS
    return "nothing to choose by" if state["over"] else "escalated"


def settled(state: State) -> str:
    """Doubt is of what was read: an abstention, or a sentence that nobody could read, is none."""
    config, best = _config(state), state["best"]
    doubted = best is not None and best.value is not None and best.value < config.doubt
    return "doubt remains" if doubted else "settled"


def after_best_of(state: State) -> str:
    """Two that differ and lie close together are told apart by experiments, if there is a subject."""
    two = the_two_best(state)
    close = two is not None and _value(two[0]) - _value(two[1]) <= _config(state).margin
    return "two lie close" if close and state["task"].tries is not None else "settled"


# --------------------------------------------------------------------------- nodes


async def route(state: State) -> dict[str, Any]:
    """By what is known before anybody is asked."""
    task, config = state["task"], _config(state)
    status, scene = task.record.status, task.ground.on.scene
    outcome, detail = judged(task.lexical, config)
    if outcome == STANDS and status not in UNTRIED:
        assert task.lexical is not None  # nothing else stands
        return step("route", outcome, task.lexical.value, detail, stands=f"{STANDS}: {detail}")
    if status in UNTRIED or isinstance(scene, str):
        reason = task.record.reason or "no reason given"
        why = f"{status}: {reason}" if status in UNTRIED else str(scene)
        none = Candidate(Claim(None, f"no sentence could be chosen: {why}"))
        return step("route", "nothing to choose by", None, why, best=none, over=why)
    return step("route", outcome, None if task.lexical is None else task.lexical.value, detail)


def judged(rule: Lexical | None, config: CascadeConfig) -> tuple[str, str]:
    """Whether the lexical rule stands, or why the feature is escalated; and what that was told by."""
    if config.escalate == "all":
        return "all are escalated", "whatever the rule says"
    if rule is None or rule.text is None:
        return "no rule", (rule.reason if rule is not None else None) or "the lexical explainer said nothing"
    if rule.value is None or rule.value < config.stands:
        shown = "unknown" if rule.value is None else f"{rule.value:.2f}"
        return "weak rule", f"simulation {shown} on select, under {config.stands:.2f}"
    if len(rule.kinds) > config.list_items and set(rule.kinds) <= set(_TOKENS):
        return "list of tokens", f"{len(rule.kinds)} items, all for single tokens"
    return STANDS, f"simulation {rule.value:.2f} on select, at least {config.stands:.2f}"


async def best_of(state: State) -> dict[str, Any]:
    """Further candidates; one takes the place of the sentence if it reads better."""
    task, best = state["task"], state["best"]
    together = _config(state).best_of.together
    questions = await asyncio.to_thread(task.questions)
    made = await ended(draw_candidates(questions, task.ground.on, task.writer, task.reader, together=together))
    if isinstance(made, Exception):
        return failed("best_of", "best_of", made)
    new = made.best
    shown = {"tried": made.candidates, "failures": made.failures}
    if new is None or best is None or _value(new) <= _value(best):
        return step("best_of", "no better", None if new is None else new.value, made.how, **shown)
    return step("best_of", "better", new.value, made.how, best=new, over="best of several", **shown)


async def debate(state: State) -> dict[str, Any]:
    """Between the two best that differ: experiments decide, and where they do not, `select`."""
    task, two = state["task"], the_two_best(state)
    if two is None or task.tries is None:
        return step("debate", "no rivals")
    rivals = (_rival(task, two[0]), _rival(task, two[1]))
    held = await ended(task.tries.debate(task.record, rivals, task.reader))
    if isinstance(held, Exception):
        return failed("debate", "debate", held)
    won = {"A": two[0], "B": two[1]}.get(held.verdict or "")
    if won is not None:
        return step("debate", "decided", won.value, held.sentence, best=won, over="a debate")
    if held.verdict != "both":
        told = "undecided" if held.verdict is None else held.verdict
        return step("debate", told, _value(two[0]), f"{held.sentence} The one that reads better on select is kept.")
    joined = join(two[0].claim, two[1].claim)
    new = await ended(read(task.reader, joined, task.ground.on))
    if isinstance(new, Exception):
        return failed("debate", "reading both sentences", new)
    if new.value is None or new.value <= _value(two[0]):
        detail = f"{held.sentence} Joined they read no better on select than the better of them, which is kept."
        return step("debate", "both", new.value, detail, tried=(new,))
    return step("debate", "both, joined", new.value, held.sentence, best=new, over="a debate", tried=(new,))


# --------------------------------------------------------------------------- helpers


def the_two_best(state: State) -> tuple[Candidate, Candidate] | None:
    """Of all that were read, the best and the best that says something else; the chosen one goes first among equals."""
    best = state["best"]
    if best is None or best.claim.text is None or best.value is None:
        return None
    others = [
        one
        for one in state["tried"]
        if one.claim.text is not None and one.value is not None and plain(one.claim.text) != plain(best.claim.text)
    ]
    return (best, max(others, key=_value)) if others else None  # the first of several


def join(a: Claim, b: Claim) -> Claim:
    """Both sentences in one."""
    first, second = ((claim.text or "").strip().rstrip(".") for claim in (a, b))
    return Claim(f"{first}; or: {second}.", None, a.scope if a.scope == b.scope else None, a.prompt_id)


def _rival(task: Task, one: Candidate) -> Rival:
    name = f"{task.graph}:candidate"
    identity = identity_of(task.record.feature, name, task.writer.name, one.claim)
    return Rival(identity, name, one.claim.text or "")


def _value(one: Candidate) -> float:
    return float("-inf") if one.value is None else one.value


def _config(state: State) -> CascadeConfig:
    return state["task"].cascade or CascadeConfig()
