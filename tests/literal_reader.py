"""A language model of very few words, for tests with real text: it takes labels to the letter, and writes such labels.

It answers what explainers, the scorer `detection` and debates ask, through the server of `tests.llm.server`. `oracle.py`
knows the planted features; this one knows nothing but what it is shown.
"""

from __future__ import annotations

import json
import re
from typing import Any

from glossator.prompts.texts import fixed_text
from tests.llm.server import texts


def answer(body: dict[str, Any]) -> str:
    """The reply to one question, as JSON. Raises KeyError for a prompt that it does not know."""
    system, asked, *_ = texts(body)
    tasks = {fixed_text(name): task for name, task in _TASKS.items()}
    return json.dumps(tasks[system](asked))


def _explains(asked: str) -> dict[str, Any]:
    """The strongest marked text, quoted."""
    marked = [
        (max(piece[1:]), piece[0])
        for line in _data(asked)
        if isinstance(line, dict)
        for piece in line["window"]
        if isinstance(piece, list)
    ]
    word = max(marked)[1].strip() if marked else ""
    return {"notes": "as marked", "abstain": not word, "scope": "token", "claim": f'the word "{word}"' if word else ""}


def _detects(asked: str) -> dict[str, Any]:
    """Whether a window holds what the label quotes."""
    label, *windows = _data(asked)
    quoted = [word.strip().lower() for word in re.findall(r'"([^"]+)"', label)]
    hit = [[name, 95 if any(word in window.lower() for word in quoted) else 5] for name, _, window, *_ in windows]
    return {"windows": hit}


def _writes(asked: str) -> dict[str, Any]:
    """Texts with what the labels quote, and without."""
    words = [word for line in _data(asked) if isinstance(line, str) for word in re.findall(r'"([^"]+)"', line)]
    written = [f"on the way home they spoke of {word} once more" for word in words[:3]]
    return {
        "positive": written,
        "boundary": ["on the way home they spoke of nothing"],
        "minimal_off": [],
        "minimal_on": [],
    }


def _is_silent(asked: str) -> dict[str, Any]:
    return {"statement": ""}


def _amends_nothing(asked: str) -> dict[str, Any]:
    return {"notes": "it says what it says", "abstain": True, "scope": "none", "claim": ""}


_TASKS = {
    "oneshot": _explains,
    "contrastive": _explains,
    "edit": _writes,
    "detect": _detects,
    "statement": _is_silent,
    "refine": _amends_nothing,
}


def _data(asked: str) -> list[Any]:
    found = []
    for line in asked.splitlines():
        if line[:1] in '{["':
            found.append(json.loads(line))
    return found
