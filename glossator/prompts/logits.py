"""The prompt of the explainer `logits`: that of `oneshot`, and the tokens that the feature's direction makes likelier and less likely.

For causal subjects, by the direct path from the decoder direction to the logits (harness/feature_table.py): it says nothing
of what later layers do with the direction, and much of it is noise in early layers. The form of the answer is that of `oneshot`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache

from glossator.config import LogitsConfig
from glossator.prompts.oneshot import Answer, active, question
from glossator.prompts.texts import prompt_row
from glossator.prompts.windows import escaped
from glossator.rows import PromptRow
from glossator.types import FeatureRecord, Request, Vocabulary

TASK, VERSION = "logits", 1


@cache
def prompt() -> PromptRow:
    """What is the same in every question."""
    return prompt_row(TASK, VERSION, Answer)


def render(
    record: FeatureRecord,
    vocabulary: Vocabulary,
    config: LogitsConfig,
    raises: Sequence[str] = (),
    lowers: Sequence[str] = (),
) -> Request:
    """The question about one feature, which must be active in `explain`. raises, lowers: tokens, most first; none: left out."""
    shown = active(record, vocabulary, config)
    for heading, tokens in (("raises", raises), ("lowers", lowers)):
        if tokens:
            shown.append((heading, [escaped(json.dumps(list(tokens[: config.tokens]), ensure_ascii=False))]))
    return question(prompt(), shown, config, str(record.feature))
