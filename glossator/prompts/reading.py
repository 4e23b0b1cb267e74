"""What the prompts share that show a label and windows of text: windows under short ids, packed, and replies held to the ids.

The order of windows and their ids come from hashes of their text, so neither says which windows were active, and equal
windows give equal bytes however they were drawn. Ids are numbers from 101 to 999, out of order: a model that counts by
itself, or takes a percentage for an id, is found out.

Labels may come from anybody's file, so the label stands inside the fence too, as one line of JSON, and is data.

What a reply must hold depends on the question: a request carries the windows that it is about to the validators of the form,
so these speak to the client, which asks once more. A class of its own for each question would cost milliseconds.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from glossator.config import LLMScoreConfig
from glossator.prompts.texts import fixed_text, prompt_row
from glossator.prompts.windows import escaped, fenced
from glossator.types import PAD, Ints, Message, Request, Vocabulary, Windows, content_id

LONGEST = 4_000  # characters of a label
_BYTES_A_TOKEN = 3  # about; of English 4, of other scripts less
_NAMED = 4  # ids that a complaint names


class Form(BaseModel):
    """The form of a reply. What its question was about, by window id, comes as pydantic's context; without it nothing is checked."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="after")
    def _answers_the_question(self, info: ValidationInfo) -> Self:
        if info.context is not None:
            self.check(info.context)
        return self

    def check(self, asked: Mapping[int, Any]) -> None:
        """Raise ValueError where the reply is not about these windows, each once."""
        raise NotImplementedError


@dataclass(frozen=True)
class Question:
    """One request. rows: window id -> which of the windows that were given; asked: what the reply is held to."""

    request: Request
    rows: Mapping[int, int]
    asked: Mapping[int, Any]


@dataclass(frozen=True)
class Task:
    """A prompt: its name (and that of its text), version, purpose, form, and tokens of the answer for each window."""

    name: str
    version: int
    purpose: str
    form: type[Form]
    answer_tokens: int


def questions(
    task: Task,
    label: str,
    windows: Windows,
    show: Callable[[int, int], tuple[str, Any]],
    config: LLMScoreConfig,
    about: str | None,
) -> list[Question]:
    """All windows under one label, in as few requests as the limits allow. show(id, row): its line, and what `asked` holds of it.

    Raises ValueError for a label that is longer than any label is.
    """
    if len(label) > LONGEST:
        raise ValueError(f"the label has {len(label):,} characters; shorten it to {LONGEST:,}")
    head = [escaped(json.dumps(label, ensure_ascii=False))]
    prompt_id = prompt_row(task.name, task.version, task.form).prompt_id
    found = []
    for group in _packed(_named(label, windows), show, config):
        asked = {name: what for name, _, _, what in group}
        text = fenced([("label", head), ("windows", [line for _, _, line, _ in group])])
        request = Request(
            purpose=task.purpose,
            messages=(Message("system", fixed_text(task.name)), Message("user", text)),
            answer=task.form,
            asked=asked,
            max_tokens=config.max_tokens + task.answer_tokens * len(group),
            temperature=config.temperature,
            about=about,
            prompt_id=prompt_id,
        )
        found.append(Question(request, {name: row for name, row, _, _ in group}, asked))
    return found


def _named(label: str, windows: Windows) -> list[tuple[int, int]]:
    """Ids and rows in the order in which they are shown."""
    keys = [content_id("window", ids.tolist()) for ids in windows.ids]
    order = sorted(range(len(keys)), key=lambda row: keys[row])
    numbers = range(101, max(1000, 101 + 2 * len(order)))
    drawn = random.Random(content_id("ids", label, sorted(keys))).sample(numbers, len(order))
    return list(zip(drawn, order, strict=True))


def _packed(
    named: Sequence[tuple[int, int]], show: Callable[[int, int], tuple[str, Any]], config: LLMScoreConfig
) -> list[list[tuple[int, int, str, Any]]]:
    """Windows in as few groups of nearly equal number as fit the limits. A window that alone is over them goes alone."""
    shown = [(name, row, *show(name, row)) for name, row in named]
    size = [tokens_about(line) for _, _, line, _ in shown]
    for groups in range(max(-(-len(shown) // config.request_windows), 1), len(shown) + 1):
        ends = [len(shown) * k // groups for k in range(groups + 1)]
        parts = [slice(a, b) for a, b in pairwise(ends)]
        if groups == len(shown) or all(sum(size[part]) <= config.request_tokens for part in parts):
            return [shown[part] for part in parts]
    return []  # no windows


def tokens_about(text: str) -> int:
    """Tokens of a text, rather too many."""
    return len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN + 1


def line(*parts: Any) -> str:
    """One line of JSON that text cannot get out of."""
    return escaped(json.dumps(parts, ensure_ascii=False, separators=(",", ":")))


def beside(windows: Windows, row: int, vocabulary: Vocabulary, margin: int) -> tuple[str | None, list[str | None]]:
    """The text before a window, and in a list of one that after it, where the subject reads what comes after: else an empty list.

    None where nothing was read there, so that the window begins or ends a context.
    """
    ids, scored = windows.ids[row], windows.scored
    before = spelled(ids[max(0, scored.start - margin) : scored.start], vocabulary)
    after = [spelled(ids[scored.stop : scored.stop + margin], vocabulary) or None] if len(ids) > scored.stop else []
    return before or None, after


def spelled(ids: Ints, vocabulary: Vocabulary) -> str:
    """Text of tokens, with the space before a token that begins a word; special tokens are left out."""
    return "".join(
        (" " if vocabulary.starts_word[t] else "") + vocabulary.pieces[t]
        for t in ids.tolist()
        if is_text(t, vocabulary)
    )


def is_text(token: int, vocabulary: Vocabulary) -> bool:
    return token != PAD and not vocabulary.special[token]


def once_each(found: Sequence[int], asked: Mapping[int, Any]) -> None:
    """Raise ValueError unless these are the ids asked for, each once."""
    times = Counter(found)
    wrong = {
        "missing": [name for name in asked if name not in times],
        "not asked for": [name for name in times if name not in asked],
        "repeated": [name for name, n in times.items() if n > 1],
    }
    if any(wrong.values()):
        said = [
            f"{what}: {', '.join(map(str, sorted(ids)[:_NAMED]))}{', ...' * (len(ids) > _NAMED)}"
            for what, ids in wrong.items()
            if ids
        ]
        raise ValueError(f"each window must be there once, by its id ({'; '.join(said)})")


def percentages(given: Sequence[Sequence[int]], asked: Mapping[int, Any]) -> dict[int, float]:
    """Pairs of id and percent as shares by id. Raises ValueError for what is no such pair, and unless every id is there once."""
    for pair in given:
        if len(pair) != 2 or not 0 <= pair[1] <= 100:
            raise ValueError("write each window as a pair such as [427, 80]: its id, and a whole number from 0 to 100")
    once_each([pair[0] for pair in given], asked)
    return {pair[0]: pair[1] / 100 for pair in given}
