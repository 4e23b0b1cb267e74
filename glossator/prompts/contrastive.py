"""The prompt of the explainer `contrastive`: that of `oneshot`, and near misses: silent windows that resemble the active ones.

What a label leaves out is seldom seen in windows in which the feature fires; a label one clause too broad fits all of them.
Near misses of the split `explain` show where such a label would be wrong. The form of the answer is that of `oneshot`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from glossator.config import ContrastiveConfig
from glossator.prompts.oneshot import Answer, active, question
from glossator.prompts.texts import prompt_row
from glossator.prompts.windows import resembling, window_lines
from glossator.rows import PromptRow
from glossator.types import FeatureRecord, Request, Vocabulary

TASK, VERSION = "contrastive", 1


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK, VERSION, Answer)


def render(record: FeatureRecord, vocabulary: Vocabulary, config: ContrastiveConfig, sample: int = 0) -> Request:
    """The question about one feature, which must be active in `explain`. Without near misses that heading is left out."""
    shown = active(record, vocabulary, config)
    if "explain" in record.near_misses:
        near = record.near_misses["explain"]
        near = near.take(np.flatnonzero(~(near.activations > 0).any(1)))
        index = resembling(near, record.exemplars["explain"], config.near)
        shown.append(("silent", window_lines(near, index, vocabulary, 1.0, config.margin)))
    return replace(question(prompt(), shown, config, str(record.feature)), sample=sample)
