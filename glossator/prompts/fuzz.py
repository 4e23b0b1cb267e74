"""The prompt of the scorer `fuzzing`: a label and windows with marked tokens go in, for each how likely the marks are right.

Marked text stands in a list of its own inside the window: [" the", [" river"], " bank"]. Neighbours that are both marked
share a list. How many tokens are marked says nothing: right and wrong marks are equally many (see scorers/fuzzing.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from glossator.config import LLMScoreConfig
from glossator.prompts.reading import Form, Question, Task, beside, is_text, line, percentages, questions, spelled
from glossator.prompts.texts import prompt_row
from glossator.rows import PromptRow
from glossator.types import Bools, Floats, Ints, Vocabulary, Windows


class Answer(Form):
    windows: list[list[int]]

    def check(self, asked: Mapping[int, Any]) -> None:
        percentages(self.windows, asked)


TASK = Task("fuzz", 1, "score:fuzzing", Answer, answer_tokens=12)


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK.name, TASK.version, Answer)


def render(
    label: str,
    windows: Windows,
    marked: Bools,
    vocabulary: Vocabulary,
    config: LLMScoreConfig,
    about: str | None = None,
) -> list[Question]:
    """marked [n, WINDOW]. Are these the tokens on which the feature fires?"""

    def show(name: int, row: int) -> tuple[str, Any]:
        before, after = beside(windows, row, vocabulary, config.margin)
        return line(name, before, _pieces(windows.ids[row, windows.scored], marked[row], vocabulary), *after), None

    return questions(TASK, label, windows, show, config, about)


def parse(question: Question, answer: Answer) -> Floats:
    """[windows of the question]: the probability that the marks are right, in the order of its rows."""
    told = percentages(answer.windows, question.rows)
    return np.asarray([told[name] for name in question.rows])


def _pieces(ids: Ints, marked: Bools, vocabulary: Vocabulary) -> list[Any]:
    found: list[tuple[str, bool]] = []
    for place, token in enumerate(ids.tolist()):
        if not is_text(token, vocabulary):
            continue
        text = spelled(ids[place : place + 1], vocabulary)
        if found and found[-1][1] == bool(marked[place]):
            text = found.pop()[0] + text
        found.append((text, bool(marked[place])))
    return [[text] if mark else text for text, mark in found]
