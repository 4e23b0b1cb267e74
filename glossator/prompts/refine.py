"""The prompt of the explainer `refine`: a draft and the texts on which it was wrong go in, a better sentence or an abstention comes out.

The texts are windows of `explain`, or experiments; each with what a reader of the draft predicted and what was measured.
Texts on which a draft is right teach little, but a few must be there: who sees only failures writes a label for those.
The form of the answer is that of `oneshot`.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np

from glossator.config import RefineConfig
from glossator.prompts.oneshot import Answer, question
from glossator.prompts.texts import prompt_row
from glossator.prompts.windows import escaped, window_lines
from glossator.rows import PromptRow
from glossator.types import Bools, Floats, Ints, Request, Sample, Vocabulary, content_id

TASK, VERSION = "refine", 1


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK, VERSION, Answer)


def contradicted(fires: Bools, told: Floats) -> Bools:
    """[windows]: whether the prediction was wrong. An undecided one says nothing."""
    return np.asarray(np.where(fires, told < 0.5, told > 0.5))


def render(
    draft: str,
    looked: tuple[Sample, Bools, Floats],
    scale: float,
    vocabulary: Vocabulary,
    config: RefineConfig,
    about: str,
) -> Request | None:
    """looked: windows with what was measured, whether they fire [n], and p(fires) as the draft's reader told it [n].

    None where nothing contradicts the draft. The most wrong come first, of the right ones the surest; ties by their text.
    """
    sample, fires, told = looked
    wrong = contradicted(fires, told)
    if not wrong.any():
        return None
    groups = (
        ("missed", fires & wrong, told, config.missed),
        ("false alarms", ~fires & wrong, -told, config.false_alarms),
        ("right", fires & (told > 0.5), -told, config.right),
    )
    shown = [("draft", [escaped(json.dumps(draft, ensure_ascii=False))])]
    for heading, members, key, n in groups:
        index = _first(sample, np.flatnonzero(members), key, n)
        shown.append((heading, window_lines(sample, index, vocabulary, scale, config.draft.margin, told)))
    return question(prompt(), shown, config.draft, about)


def _first(sample: Sample, members: Ints, key: Floats, n: int) -> Ints:
    order = sorted(members.tolist(), key=lambda i: (float(key[i]), content_id(sample.windows.ids[i].tolist())))
    return np.asarray(order[:n], int)
