"""The prompt of the scorer `simulation`: a label and windows go in, the strength of every token that is not 0 comes out.

Every token is shown with its number, and a reply names both, [5, "bank", 8]: a number that does not fit its text is put
right by the text where that stands once in the window, and refused where it does not, so a token that was miscounted or
altered moves none of the others. Only what is not 0 is stated, for most is; a window without any goes into `silent`, so
that one that was forgotten is not taken for a silent one. A span of tokens, [1, 32, 2], keeps topics short.

Not the expected value over log-probabilities: a token that is not stated has no place at which they could be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from pydantic import BaseModel

from glossator.config import LLMScoreConfig
from glossator.prompts.reading import Form, Question, Task, beside, is_text, line, once_each, questions
from glossator.prompts.texts import prompt_row
from glossator.rows import PromptRow
from glossator.types import MAX_STRENGTH, WINDOW, Ints, Vocabulary, Windows

Tokens = Mapping[int, str]  # number -> name, as `Vocabulary.name` writes it
_FORM = 'write each token as [number, "text", strength], such as [5, "bank", 8], or several as [first number, last number, strength]'


class Window(BaseModel):
    id: int
    tokens: list[list[int | str]]


class Answer(Form):
    active: list[Window]
    silent: list[int]

    def check(self, asked: Mapping[int, Tokens]) -> None:
        once_each([*(window.id for window in self.active), *self.silent], asked)
        for window in self.active:
            try:
                strengths(window.tokens, asked[window.id])
            except ValueError as error:
                raise ValueError(f"window {window.id}: {error}") from None


TASK = Task("simulate", 1, "score:simulation", Answer, answer_tokens=64)


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK.name, TASK.version, Answer)


def render(
    label: str, windows: Windows, vocabulary: Vocabulary, config: LLMScoreConfig, about: str | None = None
) -> list[Question]:
    """How strongly does the feature fire on each token? Numbers count the places of the window from 1."""

    def show(name: int, row: int) -> tuple[str, Any]:
        before, after = beside(windows, row, vocabulary, config.margin)
        tokens = {
            place: vocabulary.name(token)
            for place, token in enumerate(windows.ids[row, windows.scored].tolist(), 1)
            if is_text(token, vocabulary)
        }
        return line(name, before, [f"{place} {text}" for place, text in tokens.items()], *after), tokens

    return questions(TASK, label, windows, show, config, about)


def parse(question: Question, answer: Answer) -> Ints:
    """[windows of the question, WINDOW]: strengths from 0 to 10, in the order of its rows."""
    said = {window.id: window.tokens for window in answer.active}
    found = np.zeros((len(question.rows), WINDOW), np.int8)
    for row, name in enumerate(question.rows):
        for number, strength in strengths(said.get(name, ()), question.asked[name]).items():
            found[row, number - 1] = strength
    return found


def strengths(given: Sequence[Sequence[int | str]], tokens: Tokens) -> dict[int, int]:
    """Number -> strength of what was stated about one window; what names a token goes before a span. Raises ValueError."""
    spans: dict[int, int] = {}
    single: dict[int, int] = {}
    for entry in given:
        if len(entry) != 3 or isinstance(entry[0], str) or isinstance(entry[2], str):
            raise ValueError(_FORM)
        first, what, strength = entry[0], entry[1], entry[2]
        if not 0 <= strength <= MAX_STRENGTH:
            raise ValueError(f"a strength is a whole number from 0 to {MAX_STRENGTH}")
        if isinstance(what, int) and (span := _span(first, what, tokens)):
            spans |= dict.fromkeys(span, strength)
            continue
        number = _number(first, str(what), tokens)
        if single.setdefault(number, strength) != strength:
            raise ValueError(f"token {number} has two strengths")
    return spans | single


def _span(first: int, last: int, tokens: Tokens) -> list[int]:
    """The tokens from one number to another; none where these are no such numbers: then it is a text of digits."""
    known = first in tokens and last in tokens
    return [number for number in tokens if known and first <= number <= last]


def _number(number: int, text: str, tokens: Tokens) -> int:
    """Which token is meant: the one of this number, if the text is its own, else the only one of this text."""
    wanted = _bare(text)
    if number in tokens and _bare(tokens[number]) == wanted:
        return number
    same = [other for other, name in tokens.items() if _bare(name) == wanted]
    if len(same) != 1:
        where = "stands there more than once" if same else "does not stand there"
        raise ValueError(f"token {number} has another text than the one given, which {where}")
    return same[0]


def _bare(text: str) -> str:
    """Text without what models leave out or add when they copy it."""
    return (text.strip().removeprefix("##").strip() or text).casefold()
