"""The prompt of the adversarial editor: labels and a few real windows go in, texts that put the labels to the test come out.

One question asks for all four kinds, so that what all of them need is paid for once. Small changes of a window are given as
what is taken out and what is put in: that is cheap, cannot grow into another text, and is checked by looking it up.

The windows are those of the split that is probed. That is the split `test` only after the label has been frozen, and what
is shown here never reaches whoever predicts. Texts that are no good are dropped by agents/editor/written.py, one by one;
a reply is refused only where it has not the form.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

import numpy as np
from pydantic import BaseModel, ConfigDict

from glossator.config import WritingConfig
from glossator.prompts.texts import fixed_text, prompt_row
from glossator.prompts.windows import escaped, fenced, window_lines
from glossator.rows import PromptRow
from glossator.types import Message, Request, Sample, Vocabulary

TASK, VERSION, PURPOSE = "edit", 1, "probe:edit"
KINDS = ("positive", "boundary", "minimal_off", "minimal_on")
_LONGEST = 600  # characters of a label that are shown: what is longer is no label, and would be paid for


class Change(BaseModel):
    """`old`, a piece of the window with this id, becomes `new`."""

    model_config = ConfigDict(extra="ignore")

    window: int
    old: str
    new: str


class Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")

    positive: list[str]
    boundary: list[str]
    minimal_off: list[Change]
    minimal_on: list[Change]


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK, VERSION, Answer)


def render(
    claims: Sequence[str],
    tokens: Sequence[str],
    shown: tuple[Sample, Sample],
    scale: float,
    vocabulary: Vocabulary,
    config: WritingConfig,
    about: str,
) -> Request:
    """shown: firing windows, whose ids count from 1, and silent ones, which count on. scale: the activation shown as 10."""
    firing, silent = shown
    groups = [
        ("labels", [_line(text[:_LONGEST]) for text in claims]),
        ("tokens", [_line(list(tokens))] if tokens else []),
        ("firing", _named(firing, 1, scale, vocabulary)),
        ("silent", _named(silent, 1 + len(firing.windows), scale, vocabulary)),
    ]
    wanted = ", ".join(f"{getattr(config, kind)} {kind}" for kind in KINDS)
    return Request(
        purpose=PURPOSE,
        messages=(Message("system", fixed_text(TASK)), Message("user", f"{fenced(groups)}\nWrite: {wanted}.")),
        answer=Answer,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        about=about,
        prompt_id=prompt().prompt_id,
    )


def _named(sample: Sample, first: int, scale: float, vocabulary: Vocabulary) -> list[str]:
    lines = window_lines(sample, np.arange(len(sample.windows)), vocabulary, scale, 0)
    return [f'{{"id": {number}, {line[1:]}' for number, line in enumerate(lines, first)]


def _line(what: str | list[str]) -> str:
    return escaped(json.dumps(what, ensure_ascii=False))
