"""The fixed part of a prompt, which ships beside its module as Markdown, and the name of what was asked with it.

A prompt's id is a hash of all that is the same for every feature: task, version, text, and the form of the answer. It
stands on every row that came from the prompt, so answers to different questions are never taken for the same thing.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from pydantic import BaseModel

from glossator.rows import PromptRow
from glossator.types import content_id


@cache
def fixed_text(task: str) -> str:
    """The system message of a task: the same bytes for every feature, so that providers' prompt caches hit."""
    return files("glossator.prompts").joinpath(f"{task}.md").read_text(encoding="utf-8").strip()


@cache
def prompt_row(task: str, version: int, answer: type[BaseModel]) -> PromptRow:
    """What the store keeps of a prompt."""
    text = fixed_text(task)
    return PromptRow(content_id("prompt", task, version, text, answer.model_json_schema()), task, version, text)
