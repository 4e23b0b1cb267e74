"""What a debate hands from node to node: who debates about what, what was sealed, what was measured so far. Values alone.

A side that amends its explanation gets another rival, another column of predictions, and a mark from which text on it counts.
Texts that were measured before keep what was sealed of them then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from glossator.agents.debate.proposals import Proposal
from glossator.agents.debate.rivals import Reads, Rival
from glossator.agents.debate.statements import Said
from glossator.agents.debate.verdict_on_test import OnTest
from glossator.agents.editor.editor import Editor, Known
from glossator.config import DebateConfig
from glossator.rows import DebateRow
from glossator.scorers import evidence
from glossator.store.store import Store
from glossator.types import FeatureRecord, Floats

if TYPE_CHECKING:
    from glossator.agents.debate.sides import Sides

NOTHING = "(nothing)"  # what a text turns on of which both say that it is silent, and that no word stands out of
Speak = Callable[[Said], tuple[str, str] | None]


@dataclass(frozen=True)
class Bout:
    """One debate: what does not change while it is held. sides: who speaks for A and B, where a model does."""

    identity: str
    record: FeatureRecord
    rivals: tuple[Rival, Rival]
    reader: Reads
    known: Known
    store: Store
    editor: Editor
    config: DebateConfig
    run_id: str
    speak: Speak
    sides: Sides | None = None


@dataclass(frozen=True)
class Sealed:
    """Proposals with what both rivals say of them, stored before anything of it is measured. ids, proposals, p_a, p_b [n]."""

    ids: Sequence[str]
    proposals: Sequence[Proposal]
    p_a: Floats
    p_b: Floats

    @property
    def words(self) -> list[str]:
        """What each turns on. Texts on which nobody says a word are of one family: they are all silent for one reason."""
        quiet = (self.p_a < 0.5) & (self.p_b < 0.5)
        return [NOTHING if q and p.own else p.word for p, q in zip(self.proposals, quiet, strict=True)]


@dataclass(frozen=True)
class Turn:
    """One measured text. rate: what `neither` said of it; gain, vote: nats expected of it, and what it counts: 0 if weak."""

    at: int  # which of the proposals
    word: str
    gain: float
    rate: float
    vote: float
    said: Said
    standing: evidence.Standing


@dataclass(frozen=True)
class Word:
    """What somebody said after the n-th text (0-based), or at the end (after None)."""

    after: int | None
    speaker: str
    statement: str


@dataclass(frozen=True)
class Amendment:
    """A side's new explanation, taken after `after` texts."""

    side: str
    after: int
    rival: Rival
    before: Rival
    model: str


@dataclass(frozen=True)
class Failed:
    """A question to a side that came to nothing."""

    what: str
    error: Exception


class State(TypedDict, total=False):
    """The graph's state; nodes return what they change. `same`: hypotheses that are no others on the texts at hand."""

    bout: Bout
    rivals: tuple[Rival, Rival]  # as they stand now
    sealed: Sealed
    error: float
    same: Mapping[str, str]
    left: tuple[int, ...]  # proposals that may still be measured
    turns: tuple[Turn, ...]
    remarks: int  # questions to sides about a measured text, whatever came of them
    words: tuple[Word, ...]
    amendments: tuple[Amendment, ...]
    tried: tuple[str, ...]  # sides that have had their chance to amend
    failures: tuple[Failed, ...]
    verdict: str | None
    reason: str | None
    tested: OnTest
    row: DebateRow


@dataclass(frozen=True)
class Record:
    """The texts of a state as the evidence needs them."""

    seen: evidence.Measured
    since: Mapping[str, int] = field(default_factory=dict)


def clear(state: State) -> list[Turn]:
    """The turns that are evidence: weak ones, active under the threshold, are neither firing nor silence."""
    return [turn for turn in state["turns"] if not turn.said.weak]


def measured(state: State) -> Record:
    turns, proposals = clear(state), state["sealed"].proposals
    seen = evidence.Measured(
        np.asarray([t.said.p_a for t in turns], float), np.asarray([t.said.p_b for t in turns], float),
        [proposals[t.at].edit.kind for t in turns], [t.word for t in turns],
        np.asarray([t.said.fired for t in turns], bool),
    )  # fmt: skip
    since = {one.side: sum(not turn.said.weak for turn in state["turns"][: one.after]) for one in state["amendments"]}
    return Record(seen, since)
