"""The prompt of the scorer `detection`: a label and windows of text go in, for each window how likely the feature fires in it.

The model sees the label and the text alone: no exemplar, no activation, no threshold, no word on where a window came from.
One line for each window, and two numbers for each in the reply, because this score is bought for every feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from glossator.config import LLMScoreConfig
from glossator.prompts.reading import Form, Question, Task, beside, line, percentages, questions, spelled
from glossator.prompts.texts import prompt_row
from glossator.rows import PromptRow
from glossator.types import Floats, Vocabulary, Windows


class Answer(Form):
    windows: list[list[int]]

    def check(self, asked: Mapping[int, Any]) -> None:
        percentages(self.windows, asked)


TASK = Task("detect", 1, "score:detection", Answer, answer_tokens=12)


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK.name, TASK.version, Answer)


def render(
    label: str, windows: Windows, vocabulary: Vocabulary, config: LLMScoreConfig, about: str | None = None
) -> list[Question]:
    """Does the feature fire in these windows? Equal windows give equal bytes, in whatever order they come."""

    def show(name: int, row: int) -> tuple[str, Any]:
        before, after = beside(windows, row, vocabulary, config.margin)
        return line(name, before, spelled(windows.ids[row, windows.scored], vocabulary), *after), None

    return questions(TASK, label, windows, show, config, about)


def parse(question: Question, answer: Answer) -> Floats:
    """[windows of the question]: p(fires) from 0 to 1, in the order of its rows."""
    told = percentages(answer.windows, question.rows)
    return np.asarray([told[name] for name in question.rows])
