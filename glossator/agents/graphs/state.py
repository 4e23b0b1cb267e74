"""What flows through the graphs `label` and `cascade`: the task of one feature, and what its nodes have found so far.

One state for both graphs, so that nodes are shared. A node is a plain async function of the state that returns what it
changes; it can be called alone. There is no checkpointer: what models said is in the reply log, what was measured in the
store, so a graph that is started again finds its way by itself.

Nothing here knows the split `test`: `without_test` takes it out of a record before any node sees it.
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypedDict, TypeVar, cast

from glossator.agents.debate.rivals import Rival
from glossator.agents.editor.editor import Probed
from glossator.agents.explainers.claims import Candidate, Claim, Found, Step
from glossator.agents.explainers.refine import Ground, Looked
from glossator.agents.walking import walked
from glossator.config import CascadeConfig, LabelConfig
from glossator.errors import ProviderError, Stopped, StoreError, UsageError
from glossator.llm.base import LLM
from glossator.rows import DebateRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord, Request, Split, Vocabulary

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

SEEN: tuple[Split, ...] = ("explain", "select")
_ENDS_THE_RUN = (
    ProviderError,
    Stopped,
    StoreError,
    UsageError,
)  # no other question, or no other feature, will fare better
_SPARE = 16  # nodes beside the rounds: LangGraph refuses to visit more
_T = TypeVar("_T")


class Tries(Protocol):
    """What puts sentences to the test on the subject: bench.py."""

    async def probe(
        self, record: FeatureRecord, explanation_id: str, text: str, writer: LLM, reader: LLMPredictor
    ) -> Probed:
        """Experiments on `select` that try to break the sentence."""
        ...

    async def debate(self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: LLMPredictor) -> DebateRow: ...


@dataclass(frozen=True)
class Lexical:
    """What the lexical explainer said of a feature. kinds: of the items of its rule; value: simulation on `select`."""

    text: str | None
    kinds: tuple[str, ...]
    value: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Task:
    """One feature, and who works on it. good: the value from which a sentence is not refined any more."""

    graph: str
    record: FeatureRecord
    ground: Ground
    vocabulary: Vocabulary
    label: LabelConfig
    writer: LLM
    reader: LLMPredictor
    tries: Tries | None = None
    good: float = 1.0
    lexical: Lexical | None = None
    questions: Callable[[], Sequence[Request]] = tuple  # of best_of, made where they are wanted
    cascade: CascadeConfig | None = None


class State(TypedDict, total=False):
    """new: a sentence that was not read yet. round: how many revisions were asked for. over: why no more are.

    looked: experiments on the sentence whose id is `probed`.
    """

    task: Task
    new: Claim | None
    best: Candidate | None
    round: int
    over: str | None
    looked: tuple[Looked, ...]
    probed: str | None
    exposure: str | None
    stands: str | None  # why the lexical label does
    tried: Annotated[tuple[Candidate, ...], operator.add]
    steps: Annotated[tuple[Step, ...], operator.add]
    failures: Annotated[tuple[tuple[str, Exception], ...], operator.add]


def begin(task: Task) -> State:
    return State(
        task=task, new=None, best=None, round=0, over=None, looked=(), probed=None, exposure=None, stands=None, tried=(), steps=(),
        failures=(),
    )  # fmt: skip


def step(
    node: str, outcome: str, value: float | None = None, detail: str | None = None, **changes: Any
) -> dict[str, Any]:
    """What a node returns: the step that it was, and what it changes."""
    return {"steps": (Step(node, outcome, value, detail),), **changes}


def failed(node: str, where: str, error: Exception, **changes: Any) -> dict[str, Any]:
    return step(node, "failed", None, type(error).__name__, failures=((where, error),), **changes)


async def ended(work: Awaitable[_T]) -> _T | Exception:
    """What it gives, or what went wrong with it, which becomes a failure row. Raises what ends the run."""
    try:
        return await work
    except _ENDS_THE_RUN:
        raise
    except Exception as error:  # noqa: BLE001  one node's failure is a row, and what was found before it stands
        return error


async def walk(graph: CompiledStateGraph[State, None, State, State], task: Task) -> Found:
    """One feature's way through a graph. Raises what ends the run, and CancelledError where a node was cancelled."""
    return found(cast(State, await walked(graph, begin(task), _SPARE + 4 * len(task.ground.rounds))))


def found(state: State) -> Found:
    """What the graph ends with."""
    on, steps, best = state["task"].ground.on, state["steps"], state["best"]
    if state["stands"] is not None:
        return Found(None, state["stands"], steps=steps)
    if best is None:
        return Found(None, "no draft", failures=state["failures"], steps=steps)
    if best.claim.prompt_id is None and best.claim.text is None:
        return Found(best, best.claim.reason, steps=steps)  # nobody was asked
    return Found(best, _how(steps, on.by), state["tried"], state["failures"], state["exposure"], steps)


def _how(steps: Sequence[Step], by: str) -> str:
    """The way in a line, as people read it."""
    routed = "".join(f"{one.outcome}; " for one in steps if one.node == "route")
    told = [
        f"{one.node} {one.outcome}" + ("" if one.value is None else f" {one.value:.3f}")
        for one in steps
        if one.node not in ("route", "freeze")
    ]
    return f"{routed}by {by} on select: {', '.join(told)}"


def without_test(record: FeatureRecord) -> FeatureRecord:
    """The record as it is before the label is frozen."""
    return replace(
        record,
        exemplars={split: record.exemplars[split] for split in SEEN if split in record.exemplars},
        background={split: record.background[split] for split in SEEN if split in record.background},
        near_misses={split: record.near_misses[split] for split in SEEN if split in record.near_misses},
    )
