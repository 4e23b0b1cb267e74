"""The offline explainer: fits a small executable rule to a feature, or abstains. No language model, `explain` split only.

Greedy least squares on the corpus: at each step the item (a token, a class of tokens, a range of numbers, a span, a token
beside others, topic words, a position) that takes away most of the remaining squared error joins the rule, until an
item explains less than it costs to say. What depends on single tokens uses the exact counts of the whole split; what
depends on the context uses the sampled windows, weighted back to the corpus. Strengths are the items' mean activations.

It is also the token-lookup baseline that explanations are compared with: one token, five tokens, or all of them.
"""

from __future__ import annotations

import numpy as np

from glossator.agents.fit import Fit, Item, Surroundings
from glossator.config import LexicalConfig
from glossator.scorers.rule import Lexicon
from glossator.types import (
    MAX_STRENGTH,
    Explanation,
    FeatureRecord,
    Floats,
    Ints,
    Windows,
)


class LexicalExplainer:
    """`explain(record) -> Explanation`, with a program and no text yet (see wording.py)."""

    name = "lexical"

    def __init__(self, surroundings: Surroundings, config: LexicalConfig) -> None:
        self.surroundings, self.config = surroundings, config

    def explain(self, record: FeatureRecord) -> tuple[Item, float]:
        """A program and the share of the feature's squared activation that it explains on `explain`."""
        fit = Fit(record, self.surroundings)
        items: list[tuple[Item, float]] = []
        total = 0.0
        while len(items) < self.config.items:
            best = fit.best()
            if best is None or best.gain < self.config.min_gain * fit.energy:
                break
            fit.accept(best)
            items.append((best.item, best.mean))
            total += best.gain
        return program(items), total / max(fit.energy, 1e-12)


def program(items: list[tuple[Item, float]]) -> Item:
    """Items with integer strengths, the strongest 10; what rounds to nothing is kept only where it overrules."""
    top = max((mean for _, mean in items), default=1.0)
    return {"items": [item | {"strength": max(0, round(MAX_STRENGTH * mean / top))} for item, mean in items]}


def lookup(record: FeatureRecord, lexicon: Lexicon, counts: Ints, size: int) -> Item:
    """The baseline: the `size` tokens that explain most variance, each with its mean activation."""
    mean = record.token_sums / np.maximum(counts[record.token_ids], 1)
    best = np.argsort(-mean * record.token_sums, kind="stable")[:size]
    items = [
        ({"kind": "token", "token": lexicon.vocabulary.name(int(record.token_ids[i]))}, float(mean[i])) for i in best
    ]
    return program(items)


def abstention(record: FeatureRecord, explainer: str, reason: str) -> Explanation:
    return Explanation(record.feature.dictionary, record.feature.index, explainer, None, abstained=True, reason=reason)


def strengths_of_lookup(record: FeatureRecord, counts: Ints, windows: Windows) -> Floats:
    """[n, WINDOW]: every token's mean activation in `explain`, the full lookup."""
    table = np.zeros(int(counts.shape[0]) + 1)
    table[record.token_ids] = record.token_sums / np.maximum(counts[record.token_ids], 1)
    here = windows.ids[:, windows.scored]
    return np.where(here >= 0, table[here], 0.0)
