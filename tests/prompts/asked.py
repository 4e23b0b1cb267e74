"""What the tests of the prompts that show a label share: a few windows, a small config, hostile labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from glossator.config import LLMScoreConfig
from glossator.prompts.reading import Question
from glossator.types import Vocabulary, Windows
from tests.prompts.small import Words, sample

CONFIG = LLMScoreConfig(margin=2)
LABEL = 'the word "bank" just after "river"'
Render = Callable[[str, Windows, Vocabulary, LLMScoreConfig], list[Question]]


def made(*, both_sides: bool = True) -> tuple[Windows, Vocabulary]:
    words = Words()
    was, then = (["was"], ["then"]) if both_sides else ([], [])
    parts = [
        (["[CLS]"], ["the", ("bank", 5.0)], was),
        (["they", "sat", "on"], ["the", "river", ("bank", 9.0), "."], then),
        ([], ["a", ("har", 1.0), "##bour"], []),
    ]
    return sample(words, parts, both_sides=both_sides).windows, words.vocabulary  # type: ignore[arg-type]


def hostile(texts: tuple[str, ...]) -> tuple[Windows, Vocabulary]:
    words = Words()
    return sample(words, [([t], ["so", t, t], [t]) for t in texts]).windows, words.vocabulary


def check_one_question(render: Render, windows: Windows, vocabulary: Vocabulary, label: str) -> list[Any]:
    """Its lines, parsed; label and windows are whole, in their lines, between the only marks of the fence."""
    (question,) = render(label, windows, vocabulary, CONFIG)
    text = question.request.messages[1].text
    lines = text.splitlines()
    assert lines[0] == "<data>" and lines[1] == "label" and lines[3] == "windows" and lines[-1] == "</data>"
    assert text.count("<data>") == text.count("</data>") == 1
    assert json.loads(lines[2]) == label
    assert all(c.isprintable() for line in lines for c in line)
    for role in ("<|", "<s>", "<system", "<start_of", "<｜", "[INST]", "[/INST]"):
        assert role not in text
    parsed = [json.loads(line) for line in lines[4:-1]]
    assert sorted(p[0] for p in parsed) == sorted(question.rows) and len(parsed) == len(windows)
    return parsed
