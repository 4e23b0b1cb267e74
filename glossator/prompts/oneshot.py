"""The prompt of the explainer `oneshot`: windows in which a feature is active go in, one sentence or an abstention comes out.

Reads the split `explain` alone, the scale of the strengths included. Asks for notes before the verdict, because a model
that has written down what it saw claims less of what it did not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from glossator.config import OneshotConfig
from glossator.prompts.texts import prompt_row
from glossator.prompts.windows import chosen, fenced, window_lines
from glossator.rows import PromptRow
from glossator.types import FeatureRecord, Message, Request, Vocabulary

TASK, VERSION = "oneshot", 1
PURPOSE = f"explain:{TASK}"
_LONGEST = 500  # characters of a claim: a sentence, not an essay


class Answer(BaseModel):
    """A claim with its scope; or an abstention, whose reason are the notes."""

    model_config = ConfigDict(extra="ignore")

    notes: str
    abstain: bool
    scope: Literal["token", "phrase", "topic", "position", "none"]
    claim: str = Field(description="one sentence")

    @field_validator("notes", "claim")
    @classmethod
    def _one_line(cls, text: str) -> str:
        return " ".join("".join(c if c.isprintable() else " " for c in text).split())

    @model_validator(mode="after")
    def _says_one_thing(self) -> Answer:
        if self.abstain:
            if not self.notes:
                raise ValueError("abstaining needs its reason in notes")
            return self
        if not self.claim:
            raise ValueError("claim is empty; write one sentence, or abstain")
        if len(self.claim) > _LONGEST:
            raise ValueError(f"claim has {len(self.claim)} characters; write one sentence of at most {_LONGEST}")
        if self.scope == "none":
            raise ValueError("a claim needs the scope token, phrase, topic or position")
        return self


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK, VERSION, Answer)


def render(
    record: FeatureRecord, vocabulary: Vocabulary, config: OneshotConfig, attempt: int = 0, sample: int = 0
) -> Request:
    """The question about one feature, which must be active in `explain`. Equal records give equal bytes."""
    asked = question(prompt(), active(record, vocabulary, config), config, str(record.feature))
    return replace(asked, attempt=attempt, sample=sample)


def active(record: FeatureRecord, vocabulary: Vocabulary, config: OneshotConfig) -> list[tuple[str, list[str]]]:
    """The windows in which the feature is active, under their headings."""
    sample = record.exemplars["explain"]
    scale = float(sample.activations.max())
    parts = zip(("strongest", "range"), chosen(sample, config.strongest, config.over_range), strict=True)
    return [(name, window_lines(sample, index, vocabulary, scale, config.margin)) for name, index in parts]


def question(
    fixed: PromptRow, shown: Sequence[tuple[str, Sequence[str]]], config: OneshotConfig, about: str
) -> Request:
    """What the explainers' prompts share: their fixed text, what is shown inside the fence, the form of the answer."""
    return Request(
        purpose=f"explain:{fixed.task}",
        messages=(Message("system", fixed.text), Message("user", fenced(shown))),
        answer=Answer,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        about=about,
        prompt_id=fixed.prompt_id,
    )
