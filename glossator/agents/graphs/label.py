"""The graph `label`: a draft, a probe of it on the subject, a revision by what contradicts it, as long as that helps.

draft -> read -> probe -> refine -> read -> ... -> freeze. The draft is `oneshot`'s (what it wrote of the feature with the
same model, if it did). A sentence is read on `select`; there a new one has to be better to replace the old one. The editor's
experiments are made of windows of `select`, in a pool that is not the reported one, predicted by the reader; refining shows
those that it got wrong, and windows of `explain` that it got wrong, as explainers/refine.py does.

It is over when a revision is no better, nothing contradicts the sentence, it could not be better, or the rounds are spent.
Scoring on `test` is no node: it compares with the labels of other features, and so comes when all are frozen. A question
that fails is a failure row, and what was found before it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from glossator.agents.editor.editor import Experimented
from glossator.agents.explainers.claims import Claim, ask, identity_of, read, unread
from glossator.agents.explainers.refine import Looked, counterexamples, measured_text
from glossator.agents.graphs.state import State, Task, ended, failed, step
from glossator.types import WINDOW

if TYPE_CHECKING:
    from langgraph.graph import StateGraph
    from langgraph.graph.state import CompiledStateGraph


def wire(graph: StateGraph[State], settled: Callable[[State], str], ways: Mapping[Hashable, str]) -> None:
    """Its nodes, and its edges up to where the sentence is settled; then `settled` says which of `ways` it goes."""
    nodes = {"draft": draft, "read": read_on_select, "probe": probe, "refine": refine}
    for name, node in nodes.items():
        graph.add_node(name, node)

    def after_drafting(state: State) -> str:
        return "no draft" if state["over"] else "a sentence"

    def after_reading(state: State) -> str:
        return settled(state) if state["over"] else "could be better"

    def after_refining(state: State) -> str:
        if state["new"] is not None:
            return "rewritten"
        return settled(state) if state["over"] else "failed"

    graph.add_conditional_edges("draft", after_drafting, {"a sentence": "read", "no draft": "freeze"})
    graph.add_conditional_edges("read", after_reading, {"could be better": "probe", **ways})
    graph.add_edge("probe", "refine")
    graph.add_conditional_edges("refine", after_refining, {"rewritten": "read", "failed": "probe", **ways})


@cache
def label_graph() -> CompiledStateGraph[State, None, State, State]:
    """Compiled once: it holds no feature."""
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(State)
    wire(graph, lambda state: "settled", {"settled": "freeze"})
    graph.add_node("freeze", freeze)
    graph.add_edge(START, "draft")
    graph.add_edge("freeze", END)
    return graph.compile(name="label")


# --------------------------------------------------------------------------- nodes


async def draft(state: State) -> dict[str, Any]:
    """The sentence to begin with. Where there is none, all is over, and the feature has failed."""
    task = state["task"]
    if isinstance(task.ground.draft, Claim):
        return step("draft", "known", new=task.ground.draft)
    claim = await ended(ask(task.writer, task.ground.draft))
    if isinstance(claim, Exception):
        return failed("draft", "draft", claim, over="no draft")
    return step("draft", "abstained" if claim.text is None else "written", new=claim)


async def read_on_select(state: State) -> dict[str, Any]:
    """How well a reader of the new sentence predicts `select`, and so whether it takes the place of the old one."""
    task, claim, best = state["task"], state["new"], state["best"]
    assert claim is not None  # no edge leads here without one
    on, where = task.ground.on, "reading the draft" if best is None else f"reading round {state['round']}"
    new = await ended(read(task.reader, claim, on))
    if isinstance(new, Exception):
        first = {"best": unread(claim, on), "over": "unread"} if best is None else _spent(state)
        return failed("read", where, new, new=None, **first, tried=(unread(claim, on),) if best is None else ())
    shown: dict[str, Any] = {"new": None, "tried": (new,)}
    if best is None:
        why = None if new.value is not None else "abstained" if claim.text is None else "unread"
        detail = on.scene if why == "unread" and isinstance(on.scene, str) else None
        over = why or ("good" if new.value is not None and new.value >= task.good else _spent(state)["over"])
        return step("read", why or "first", new.value, detail, best=new, over=over, **shown)
    if new.value is None or best.value is None or new.value <= best.value:
        return step("read", "no better", new.value, over="no better", **shown)
    over = "good" if new.value >= task.good else _spent(state)["over"]
    return step("read", "better", new.value, best=new, over=over, **shown)


async def probe(state: State) -> dict[str, Any]:
    """The editor tries to break the sentence, on the subject. Without a subject there are no experiments."""
    task, best = state["task"], state["best"]
    if task.tries is None or best is None or best.claim.text is None:
        return step("probe", "no subject", looked=())
    f, text = task.record.feature, best.claim.text
    identity = identity_of(f, f"{task.graph}:candidate", task.writer.name, best.claim)
    if identity == state["probed"]:  # a round failed that this was for
        return step("probe", "as before")
    made = await ended(task.tries.probe(task.record, identity, text, task.writer, task.reader))
    if isinstance(made, Exception):
        return failed("probe", f"probing round {state['round'] + 1}", made, looked=(), probed=None)
    clear = [one for one in made.experiments if not one.weak and identity in one.predicted]
    wrong = sum((one.predicted[identity] >= 0.5) != one.fires for one in clear)
    outcome = "contradicted" if wrong else "withstood" if clear else "no experiment"
    looked = [found for one in clear if (found := _looked(task, one, one.predicted[identity])) is not None]
    detail = "; ".join(part for part in (f"{wrong} of {len(clear)} experiments", made.note) if part)
    lost = ((f"writing round {state['round'] + 1}", made.failure),) if made.failure is not None else ()
    return step("probe", outcome, None, detail, looked=tuple(looked), probed=identity, failures=lost)


async def refine(state: State) -> dict[str, Any]:
    """A new sentence by someone who is shown where the old one is wrong."""
    task, best, number = state["task"], state["best"], state["round"]
    assert best is not None and best.claim.text is not None  # no edge leads here without a sentence that was read
    looked = [task.ground.rounds[number], *state["looked"]]
    exposure = state["exposure"] or next((one.exposure for one in state["looked"] if one.exposure), None)
    gone_on: dict[str, Any] = {"round": number + 1}
    over = "rounds spent" if number + 1 >= len(task.ground.rounds) else None
    known = (best.claim.text, looked, task.ground, task.reader, task.vocabulary, task.label.refine)
    question = await ended(counterexamples(*known))
    if isinstance(question, Exception):
        return failed("refine", f"round {number + 1}", question, over=over, **gone_on)
    if question is None:
        return step("refine", "nothing contradicts it", over="nothing contradicts it", **gone_on)
    claim = await ended(ask(task.writer, question))
    if isinstance(claim, Exception):
        return failed("refine", f"round {number + 1}", claim, over=over, **gone_on)
    if claim.text is None:
        return step("refine", "abstained", over="no better", **gone_on)
    return step("refine", "rewritten", new=claim, exposure=exposure, **gone_on)


async def freeze(state: State) -> dict[str, Any]:
    """The label is settled: from here on text of `test` may be read with it."""
    best = state["best"]
    if best is None:
        return step("freeze", "failed")
    return step("freeze", "abstained" if best.claim.text is None else "labelled", best.value, state["over"])


# --------------------------------------------------------------------------- helpers


def _spent(state: State) -> dict[str, Any]:
    return {"over": "rounds spent" if state["round"] >= len(state["task"].ground.rounds) else None}


def _looked(task: Task, one: Experimented, told: float) -> Looked | None:
    """The first carrier that did what most of them did."""
    for tokens, values in zip(one.tokens, one.values, strict=True):
        if (max(values[:WINDOW], default=0.0) >= task.record.threshold) == one.fires:
            seen = measured_text(task.record, tokens, values, "select", task.vocabulary)
            return None if seen is None else Looked(seen.sample, seen.fires, seen.exposure, np.asarray([told]))
    return None
