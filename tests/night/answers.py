"""A server's answers to all our prompts, without knowing anything: a function of the question, so that equal questions get equal answers.

As a writer it names the word that is marked most often; as a reader of labels it looks for the label's last word. That makes labels
that differ, scores that vary, and drafts that are refined: the whole way is walked, though nothing is understood.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from typing import Any

from glossator.prompts.texts import fixed_text
from tests.llm.server import texts

_TASKS = ("oneshot", "contrastive", "logits", "refine", "detect", "fuzz", "simulate", "edit", "statement")
_BEGIN = 160  # characters that tell one prompt from the others


def answers(body: dict[str, Any]) -> str:
    """A reply to any of our prompts, as a model would write it."""
    system, user = texts(body)[:2]
    task = next((one for one in _TASKS if system[:_BEGIN] == fixed_text(one)[:_BEGIN]), None)
    if task in ("oneshot", "contrastive", "logits", "refine"):
        return json.dumps(
            {"notes": "seen often", "abstain": False, "scope": "token", "claim": f"the word {_marked(user)}"}
        )
    if task == "edit":
        return json.dumps(
            {
                "positive": [f"They said {_label(user)} again and again."],
                "boundary": ["Nothing like it was said."],
                "minimal_off": [],
                "minimal_on": [],
            }
        )
    if task == "statement":
        return json.dumps({"statement": "The texts speak for it."})
    word = _label(user)
    shown = [json.loads(line) for line in user.splitlines() if re.match(r"\[\d", line)]
    if task == "simulate":
        return _strengths(shown, word)
    return json.dumps({"windows": [[name, _percent(window, word)] for name, _, window, *_ in shown]})


def _marked(user: str) -> str:
    """A word of what is shown: the most frequent of those that are marked, whatever the marks look like."""
    found = Counter(re.findall(r"[A-Za-z]{3,}", " ".join(re.findall(r"\[\"([^\"]+)\"", user)) or user))
    best = max(found.values(), default=0)
    return min((word for word, n in found.items() if n == best), default="nothing")


def _label(user: str) -> str:
    lines = user.splitlines()
    at = next((i for i, line in enumerate(lines) if line in ("label", "labels")), None)
    said = lines[at + 1] if at is not None and at + 1 < len(lines) else ""
    return (re.findall(r"[A-Za-z]+", said) or ["nothing"])[-1]


def _percent(window: Any, word: str) -> int:
    text = window if isinstance(window, str) else json.dumps(window)
    noise = int(hashlib.sha256(f"{word} {text}".encode()).hexdigest()[:2], 16) % 10
    return (85 if word.lower() in text.lower() else 10) + noise


def _strengths(shown: list[Any], word: str) -> str:
    active, silent = [], []
    for name, _, tokens, *_ in shown:
        told = [
            [int(n), text, 8]
            for n, text in (one.split(" ", 1) for one in tokens)
            if text.strip().lower() == word.lower()
        ]
        if told:
            active.append({"id": name, "tokens": told})
        else:
            silent.append(name)
    return json.dumps({"active": active, "silent": silent})
