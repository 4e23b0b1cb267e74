"""The prompt of a debate's sides: two explanations and measured texts go in, a few words for one of them come out.

Asked of a text just measured, or at the end of texts on which the sides differed. What is cited and quoted is checked
afterwards (agents/debate/statements.py); nothing that is said changes a verdict, so a bad answer costs a few words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pydantic import BaseModel, ConfigDict, Field, field_validator

from glossator.prompts.texts import prompt_row
from glossator.prompts.windows import escaped, fenced
from glossator.rows import PromptRow
from glossator.types import Message, Request

TASK, VERSION = "statement", 1
PURPOSE = "debate:statement"
_LONGEST = 600  # characters: some 40 words and their citations, twice over


class Answer(BaseModel):
    """A few words, or none."""

    model_config = ConfigDict(extra="ignore")

    statement: str = Field(description="at most 40 words")

    @field_validator("statement")
    @classmethod
    def _few_words(cls, text: str) -> str:
        line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if len(line) > _LONGEST:
            raise ValueError(f"statement has {len(line)} characters; say it in at most 40 words")
        return line


@dataclass(frozen=True)
class Evidence:
    """A measured text as a side is shown it. p_a, p_b from 0 to 1."""

    experiment: str
    text: str
    p_a: float
    p_b: float
    fired: bool


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK, VERSION, Answer)


def render(side: str, explanations: tuple[str, str], texts: Sequence[Evidence], max_tokens: int, about: str) -> Request:
    """A question to the side A or B. Equal evidence gives equal bytes."""
    shown = [
        ("side", [_line(side)]),
        ("explanations", [_line({"A": explanations[0], "B": explanations[1]})]),
        ("texts", [_line(_shown(one)) for one in texts]),
    ]
    return Request(
        purpose=PURPOSE,
        messages=(Message("system", prompt().text), Message("user", fenced(shown))),
        answer=Answer,
        max_tokens=max_tokens,
        about=about,
        prompt_id=prompt().prompt_id,
    )


def _shown(one: Evidence) -> dict[str, object]:
    outcome = "fired" if one.fired else "silent"
    a, b = round(100 * one.p_a), round(100 * one.p_b)
    return {"experiment": one.experiment, "text": one.text, "A": a, "B": b, "outcome": outcome}


def _line(value: object) -> str:
    return escaped(json.dumps(value, ensure_ascii=False))
