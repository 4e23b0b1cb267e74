"""What the sides of a debate say where a language model speaks for them: a few words on texts that tell, and a closing word each.

Few, because they cost and decide nothing: two closing words, and for the rest of `statements` the first texts that exactly one
side foresaw. The side that was wrong speaks then; the figures beside it say already who was right. What the model is shown are
the measured texts and both predictions, of `select` and `explain` alone. An empty answer is no statement; one that is of no
use is a failure row, and the debate goes on. Both were paid for, and count among the `statements`.
"""

from __future__ import annotations

from collections.abc import Sequence

from glossator.agents.debate.state import Failed, State, Turn, Word, clear
from glossator.agents.debate.statements import short
from glossator.config import DebateConfig
from glossator.errors import ReplyError
from glossator.llm.base import LLM
from glossator.prompts import statement as prompt
from glossator.prompts.statement import Evidence

_CLOSING = 2  # statements that are kept for the end
_SHOWN = 6  # texts that a closing word is about
_Said = tuple[list[Word], list[Failed]]


class Sides:
    """A model that speaks for A and for B, each time as one of them. It may be the one that reads them."""

    def __init__(self, llm: LLM, config: DebateConfig) -> None:
        self.llm, self.config = llm, config

    def worth_a_word(self, state: State) -> bool:
        """Whether the last text contradicts one side alone, and words are left."""
        left = self.config.statements - _CLOSING - state["remarks"]
        return left > 0 and _wrong(state["turns"][-1]) is not None

    async def remark(self, state: State) -> _Said:
        """What the side says that the last text contradicts."""
        turn = state["turns"][-1]
        side = _wrong(turn)
        assert side is not None
        return await self._ask(state, side, [turn], len(state["turns"]) - 1)

    async def close(self, state: State) -> _Said:
        """A last word of each side about the texts on which they differed, or that both got wrong."""
        telling = [turn for turn in state["turns"] if _wrong(turn)] or clear(state)
        if not telling:
            return [], []
        words: list[Word] = []
        failures: list[Failed] = []
        for side in "AB"[: self.config.statements]:
            said, failed = await self._ask(state, side, telling[-_SHOWN:], None)
            words, failures = words + said, failures + failed
        return words, failures

    async def _ask(self, state: State, side: str, turns: Sequence[Turn], after: int | None) -> _Said:
        a, b = (rival.text for rival in state["rivals"])
        shown = [_evidence(state, turn) for turn in turns]
        about = str(state["bout"].record.feature)
        question = prompt.render(side, (a, b), shown, self.config.statement_tokens, about)
        try:
            said = (await self.llm.complete(question)).value.statement
        except ReplyError as error:
            return [], [Failed(f"statement of {side}", error)]
        return ([Word(after, side, said)] if said else []), []


def _wrong(turn: Turn) -> str | None:
    """The side that alone did not foresee the text."""
    if turn.said.weak:
        return None
    a, b = (p >= 0.5 for p in (turn.said.p_a, turn.said.p_b))
    return None if a == b else "B" if a == turn.said.fired else "A"


def _evidence(state: State, turn: Turn) -> Evidence:
    text = state["sealed"].proposals[turn.at].edit.texts[turn.said.carrier]  # else it would belie the outcome
    return Evidence(short(turn.said.experiment_id), text, turn.said.p_a, turn.said.p_b, turn.said.fired)
