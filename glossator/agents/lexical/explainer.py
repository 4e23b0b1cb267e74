"""The offline explainer: fits a small executable rule to a feature, or abstains. No language model, `explain` split only.

Greedy least squares on the corpus: at each step the item (a token, a class of tokens, a range of numbers, a span, a token
beside others, topic words, a position) that takes away most of the remaining squared error joins the rule, until an
item explains less than it costs to say. What depends on single tokens uses the exact counts of the whole split; what
depends on the context uses the sampled windows, weighted back to the corpus. Strengths are the items' mean activations.

It is also the token-lookup baseline that explanations are compared with: one token, five tokens, or all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from glossator.agents.lexical.fit import Fit, Item
from glossator.agents.lexical.surroundings import Surroundings
from glossator.config import LexicalConfig
from glossator.scorers.rule import Lexicon, Rule, resolve
from glossator.types import MAX_STRENGTH, WINDOW, Explanation, FeatureRecord, Floats, Ints, Windows

_PRUNED_ON = 256  # silent windows
_CONTEXTS = ("after", "before", "topic", "position")
_WORTH = 0.25  # share of min_gain below which an item that was chosen is dropped again


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
        return program(self._pruned(items, record)), total / max(fit.energy, 1e-12)

    def _pruned(self, items: list[tuple[Item, float]], record: FeatureRecord) -> list[tuple[Item, float]]:
        """Without the contexts that later items made superfluous, the least useful first.

        Only contexts: what an item for tokens is worth is known from the whole split, better than from these windows.
        """
        sample, behind = record.exemplars["explain"], record.background["explain"]
        silent = np.flatnonzero(~(behind.activations > 0).any(1))[:_PRUNED_ON]
        weight = max(record.n_windows[0] - record.active("explain"), 0) / max(len(silent), 1)
        while len(items) > 1:
            fitted = program(items)
            scale = max(mean for _, mean in items) / MAX_STRENGTH
            rule = Rule(fitted, self.surroundings.lexicon)
            found = [(w, rule.matches(w)) for w in (sample.windows, behind.windows.take(silent))]

            def error(without: int | None, found: Any = found, scale: float = scale) -> float:
                told, false = (scale * resolve(m, (len(w), WINDOW), without).astype(np.float64) for w, m in found)
                missed = np.where(sample.windows.mask, (sample.activations - told) ** 2, 0).sum(1)
                return float((sample.weight * missed).sum() + weight * (false**2).sum())

            whole = error(None)
            worth = [error(n) - whole if item["kind"] in _CONTEXTS else np.inf for n, (item, _) in enumerate(items)]
            least = int(np.argmin(worth))
            if worth[least] >= _WORTH * self.config.min_gain * float(
                (sample.weight * (sample.activations**2).sum(1)).sum()
            ):
                break
            items = items[:least] + items[least + 1 :]
        return items


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
