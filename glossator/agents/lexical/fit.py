"""One greedy fit of a rule to a feature: the candidates of every kind, and what each would gain in squared error.

What depends on single tokens (a token, forms of a word, words that are near in the embedding, a class, a range of numbers)
uses the exact counts of the whole split; what depends on the context uses the sampled windows, weighted to the corpus.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from glossator.agents.lexical.surroundings import Surroundings
from glossator.scorers.patterns import SPAN_CLASSES, TOKEN_CLASSES
from glossator.scorers.rule import shifted
from glossator.types import PAD, WINDOW, Bools, FeatureRecord, Floats, Ints

Item = dict[str, Any]
_TOPIC_WORDS = 6
_CONTEXT_TOKENS = 24  # tokens whose neighbours are looked at
_PSEUDO = 0.5  # background windows that are added to the silent count of a context, against over-fitting
_BREVITY = {
    "class": 1.05,
    "number": 1.05,
    "words": 0.98,
    "after": 0.97,
    "before": 0.97,
    "beside": 0.85,
}  # of candidates that gain alike, the one that is shorter to say
_NUMBER_CLASSES = ("digits", "year", "two-digit", "three-digit")


def _sort(item: Item) -> str:
    """The kind of an item; `beside` for whatever stands after or before something, of which only the sample knows."""
    return "beside" if item["kind"] in ("after", "before") and "token" not in item else str(item["kind"])


@dataclass
class _Choice:
    gain: float
    item: Item
    mean: float
    hit: Bools  # [n, WINDOW] positions of the exemplars that it matches
    rank: int
    count: float = 0.0  # occurrences in the split, where the item is a token in a context


class Fit:
    """The state of one greedy fit. Everything is on the scale of the whole split: weights undo the sampling."""

    def __init__(self, record: FeatureRecord, s: Surroundings) -> None:
        self.s = s
        sample = record.exemplars["explain"]
        windows = sample.windows
        self.windows = windows
        self.here, self.mask = windows.ids[:, windows.scored], windows.mask
        self.previous, self.next = shifted(windows.ids, windows, -1), shifted(windows.ids, windows, 1)
        self.y = sample.activations.astype(np.float64)
        self.w = np.where(self.mask, sample.weight[:, None], 0.0)
        self.energy = float((self.w * self.y**2).sum())
        behind = record.background["explain"]
        self.silent: Bools = np.asarray(~(behind.activations > 0).any(1))
        active = record.active("explain")
        self.silent_weight = max(record.n_windows[0] - active, 0) / max(int(self.silent.sum()), 1)
        self.prediction = np.zeros_like(self.y)
        self.rank = np.full(self.y.shape, -1, np.int8)
        self.tokens, self.sums = record.token_ids, record.token_sums.astype(np.float64)
        self.counts = np.maximum(s.counts[self.tokens], 1)
        self.place = np.full(len(s.counts) + 1, -1)  # token -> its place in self.tokens; PAD looks up the last one
        self.place[self.tokens] = np.arange(len(self.tokens))
        self.classes = s.lexicon.table[:, self.tokens].astype(np.float64)
        self.class_counts = s.class_counts
        self.spoken = np.zeros(len(self.tokens), bool)  # has a token item
        self.covered = np.zeros(len(self.tokens), bool)  # has a class
        self.level = np.zeros(len(self.tokens))
        self.spans = s.lexicon.spans.bits(windows)[:, windows.scored]
        self.used: set[str] = set()
        self.coloured = False  # whether an item that is no matter of single tokens was accepted
        self.undone = np.zeros(len(self.tokens))

    def best(self) -> _Choice | None:
        """The candidate with the largest gain in squared error, over all kinds, with a bonus for what is short to say."""
        self.undone = self._overridden()
        found = [
            self._token(),
            self._family(),
            self._like(),
            self._token_class(),
            self._span(),
            self._beside(),
            self._in_context(-1),
            self._in_context(1),
        ]
        found += [self._topic(), self._position()]
        kept = [
            c for c in found if c is not None and c.gain > 0 and json.dumps(c.item, sort_keys=True) not in self.used
        ]
        return max(kept, key=lambda c: c.gain * _BREVITY.get(_sort(c.item), 1.0), default=None)

    def accept(self, choice: _Choice) -> None:
        self.used.add(json.dumps(choice.item, sort_keys=True))
        wins = choice.hit & (choice.rank >= self.rank)
        self.prediction[wins], self.rank[wins] = choice.mean, choice.rank
        item, kind = choice.item, choice.item["kind"]
        if kind in ("token", "words"):
            named = [item["token"]] if kind == "token" else item["tokens"]
            at = np.isin(self.tokens, np.asarray([self.s.lexicon.vocabulary.find(name) for name in named]))
            self.spoken |= at
            self.level[at] = choice.mean
        elif kind == "number" or (kind == "class" and item["class"] in TOKEN_CLASSES):
            at = self._members(item) & ~self.spoken
            self.covered |= at
            self.level[at] = choice.mean
        elif choice.rank == 4:  # these occurrences are spoken for: what is left of the token is a different matter
            at = self.tokens == self.s.lexicon.vocabulary.find(item["token"])
            self.sums[at] = np.maximum(self.sums[at] - choice.mean * choice.count, 0.0)
            self.counts[at] = np.maximum(self.counts[at] - choice.count, 1.0)
        else:
            self.coloured = True

    def _overridden(self) -> Floats:
        """[tokens]: what contextual items of lower rank have gained on each token, and an item for the token would undo.

        The share of a token's activation that they speak for comes from the sample, drawn towards the share over all
        tokens where the sample holds few of its occurrences; the token's total is exact.
        """
        n, at = len(self.tokens), self.place[self.here]
        active = (self.y > 0) & (at >= 0)
        if not self.coloured or not active.any():
            return np.zeros(n)
        mass, told = (self.w * self.y)[active], self.prediction[active]
        lower = (self.rank[active] >= 0) & (self.rank[active] < 3) & (told != self.level[at[active]])
        if not lower.any():
            return np.zeros(n)
        spoken, whole = (np.bincount(at[active], x, minlength=n) for x in (mass * lower, mass))
        prior = 2 * float(mass.mean())
        share = (spoken + prior * float(spoken.sum() / whole.sum())) / (whole + prior)
        return np.asarray(self.sums * share * float((mass * told)[lower].sum() / mass[lower].sum()))

    # ------------------------------------------------------------------ single tokens: exact counts

    def _token(self) -> _Choice | None:
        if not len(self.tokens):
            return None
        mean = self.sums / self.counts
        gain = np.where(self.spoken, 0.0, self.counts * (mean - self.level) ** 2 - self.undone)
        gain = np.where((mean < self.level) & ~self.covered, 0.0, gain)
        i = int(np.argmax(gain))
        item = {"kind": "token", "token": self.s.lexicon.vocabulary.name(int(self.tokens[i]))}
        return _Choice(float(gain[i]), item, float(mean[i]), self.here == self.tokens[i], 3)

    def _family(self) -> _Choice | None:
        """The forms of one word (same Snowball stem): those of its forms that together gain most."""
        free = np.flatnonzero(~(self.spoken | self.covered) & (self.s.stem[self.tokens] >= 0))
        if len(free) < 2:
            return None
        stem, mean = self.s.stem[self.tokens[free]], self.sums[free] / self.counts[free]
        order = np.lexsort((-mean, stem))
        free, stem = free[order], stem[order]
        total, count = np.cumsum(self.sums[free]), np.cumsum(self.counts[free])
        first = np.searchsorted(stem, stem)
        total, count = (
            total - total[first] + self.sums[free[first]],
            count - count[first] + self.counts[free[first]],
        )
        gain = np.where(np.arange(len(free)) > first, total**2 / count, 0.0)
        i = int(np.argmax(gain))
        return self._words("forms", self.tokens[free[first[i] : i + 1]], float(total[i]), float(count[i]))

    def _like(self) -> _Choice | None:
        """A word and those of its nearest neighbours in the subject's own embedding that together gain most."""
        head = np.flatnonzero(~(self.spoken | self.covered))[:_CONTEXT_TOKENS]
        if len(head) < 2:
            return None
        sums, counts = np.zeros(len(self.s.counts) + 1), np.full(len(self.s.counts) + 1, 1e12)
        free = ~(self.spoken | self.covered)
        sums[self.tokens[free]], counts[self.tokens[free]] = self.sums[free], self.counts[free]
        near = self.s.neighbours[self.tokens[head]]
        mean = sums[near] / counts[near]
        order = np.argsort(-mean, 1, kind="stable")
        near = np.take_along_axis(near, order, 1)
        total, count = np.cumsum(sums[near], 1), np.cumsum(counts[near], 1)
        gain = total**2 / count
        gain[:, 0] = 0
        row, i = np.unravel_index(int(np.argmax(gain)), gain.shape)
        chosen = near[row, : i + 1]
        anchor = self.tokens[head[row]]
        tokens = np.concatenate([[anchor], chosen[chosen != anchor]])
        return self._words("like", tokens, float(sums[tokens].sum()), float(counts[tokens].sum()))

    def _words(self, relation: str, tokens: Ints, total: float, count: float) -> _Choice | None:
        if len(tokens) < 2:
            return None
        names = [self.s.lexicon.vocabulary.name(int(t)) for t in tokens]
        item = {"kind": "words", "relation": relation, "tokens": names}
        lost = float(self.undone[self.place[tokens]].sum())
        return _Choice(total**2 / count - lost, item, total / count, np.isin(self.here, tokens), 3)

    def _members(self, item: Item) -> Bools:
        if item["kind"] == "number":
            number = self.s.lexicon.number[self.tokens]
            return np.asarray((number >= item["low"]) & (number <= item["high"]))
        return np.asarray(self.classes[TOKEN_CLASSES.index(item["class"])] > 0)

    def _token_class(self) -> _Choice | None:
        free = ~(self.spoken | self.covered)
        total = self.classes[:, free] @ self.sums[free]
        count = np.maximum(self.class_counts - self.classes[:, ~free] @ self.counts[~free], 1)
        support = self.classes[:, free] @ (self.sums[free] > 0.02 * self.sums.max(initial=0))
        gain = np.where(support >= 3, total**2 / count - self.classes[:, free] @ self.undone[free], 0.0)
        i = int(np.argmax(gain))
        name = TOKEN_CLASSES[i]
        item: Item = {"kind": "class", "class": name}
        best = _Choice(float(gain[i]), item, float(total[i] / count[i]), self._class_hit(i), 1)
        if name in _NUMBER_CLASSES:
            best = self._range(best, i, free)
        return best

    def _class_hit(self, index: int) -> Bools:
        return np.where(self.here >= 0, self.s.lexicon.table[index][self.here], False)

    def _range(self, whole: _Choice, index: int, free: Bools) -> _Choice:
        """The same class cut to the numbers that carry all, or 96%, of its activation, where that is better."""
        member = free & (self.classes[index] > 0)
        number = self.s.lexicon.number[self.tokens]
        order = np.argsort(number[member])
        values, sums = number[member][order], self.sums[member][order]
        if len(values) < 3:
            return whole
        share = np.cumsum(sums) / sums.sum()
        last = len(values) - 1
        best = whole
        for tail in (0.0, 0.02):
            low = int(values[np.searchsorted(share, tail)])
            high = int(values[min(int(np.searchsorted(share, 1 - tail)), last)])
            every = (self.s.lexicon.number >= low) & (self.s.lexicon.number <= high)
            within = (number >= low) & (number <= high)
            count = max(float(self.s.counts[every].sum() - self.counts[~free & within].sum()), 1.0)
            total = float(self.sums[free & within].sum())
            if low < high and total**2 / count > 1.02 * best.gain:
                hit = np.where(self.here >= 0, every[self.here], False)
                best = _Choice(total**2 / count, {"kind": "number", "low": low, "high": high}, total / count, hit, 1)
        return best

    # ------------------------------------------------------------------ contexts: sampled windows

    def _grouped(self, hit: Bools, rank: int, silent: float, item: Item) -> _Choice:
        """The gain of giving all free positions of `hit` their mean; `silent`: how many silent tokens match as well."""
        free = hit & self.mask & (self.rank < rank)
        w, y, p = self.w[free], self.y[free], self.prediction[free]
        total, count = float((w * y).sum()), float(w.sum()) + silent
        mean = total / max(count, 1e-9)
        gain = float((w * (p * p - 2 * p * y)).sum()) + 2 * mean * total - mean * mean * count
        return _Choice(gain, item, mean, free, rank)

    def _span(self) -> _Choice | None:
        silent = self.s.span_counts[self.silent].sum(0) * self.silent_weight
        found = []
        for i, name in enumerate(SPAN_CLASSES):
            hit = ((self.spans >> np.uint32(i)) & 1).astype(bool)
            if hit.any():
                found.append(
                    self._grouped(
                        hit,
                        1,
                        float(silent[i]) + _PSEUDO * self.silent_weight,
                        {"kind": "class", "class": name},
                    )
                )
        return max(found, key=lambda c: c.gain, default=None)

    def _beside(self) -> _Choice | None:
        """Whatever stands right after (or before) one token."""
        found = []
        sides = (("after", self.previous, self.s.previous), ("before", self.next, self.s.next))
        for side, others, behind in sides:
            mass = self.w * self.y * (self.rank < 2)
            usable = (others != PAD) & self.mask
            if not usable.any():
                continue
            tokens, inverse = np.unique(others[usable], return_inverse=True)
            sums = np.bincount(inverse, mass[usable])
            for i in np.argsort(-(sums**2) / np.maximum(self.s.counts[tokens], 1))[:2]:
                hit = others == tokens[i]
                if len(np.unique(self.here[hit & (self.y > 0)])) < 3:
                    continue
                near = (float((behind[self.silent] == tokens[i]).sum()) + _PSEUDO) * self.silent_weight
                name = self.s.lexicon.vocabulary.name(int(tokens[i]))
                key = "previous" if side == "after" else "next"
                found.append(self._grouped(hit, 2, near, {"kind": side, key: [name]}))
        return max(found, key=lambda c: c.gain, default=None)

    def _in_context(self, side: int) -> _Choice | None:
        """A token right after (before) another one: for tokens that matter and behave differently there."""
        others, key, kind = (self.previous, "previous", "after") if side < 0 else (self.next, "next", "before")
        behind = self.s.flat_previous if side < 0 else self.s.flat_next
        found: list[_Choice] = []
        for place, token in enumerate(self.tokens[:_CONTEXT_TOKENS]):  # by activation mass
            at = (self.here == token) & self.mask & (self.rank < 4)
            if at.sum() < 3:
                continue
            neighbours, inverse, often = np.unique(others[at], return_inverse=True, return_counts=True)
            residual = np.bincount(inverse, (self.w * (self.y - self.prediction))[at])
            size = np.bincount(inverse, self.w[at])
            i = int(np.argmax(residual**2 / np.maximum(size, 1e-9)))
            if neighbours[i] == PAD or often[i] < 3:
                continue
            where = self.s.occurrences(int(token))
            where = where[self.silent[where // WINDOW]]
            silent = (
                np.asarray([(behind[where] == neighbours[i]).sum() + _PSEUDO, len(where) + _PSEUDO])
                * self.silent_weight
            )
            names = (self.s.lexicon.vocabulary.name(int(t)) for t in (neighbours[i], token))
            item = {"kind": kind, key: [next(names)], "token": next(names)}
            found.append(self._shared(place, at, at & (others == neighbours[i]), silent, item))
        return max(found, key=lambda c: c.gain, default=None)

    def _shared(self, place: int, at: Bools, hit: Bools, silent: Floats, item: Item) -> _Choice:
        """The gain of an item for some occurrences of a token: their share from the sample, the token's totals exact."""
        w, y, p = self.w[hit], self.y[hit], self.prediction[hit]
        share = float((w * y).sum()) / max(float((self.w[at] * self.y[at]).sum()), 1e-12)
        count = self.counts[place] * (float(w.sum()) + silent[0]) / (float(self.w[at].sum()) + silent[1])
        total = self.sums[place] * share
        mean, now = total / max(count, 1e-9), float((w * p).sum()) / max(float(w.sum()), 1e-12)
        gain = (2 * mean * total - mean**2 * count) - (2 * now * total - now**2 * count)
        return _Choice(gain, item, mean, hit, 4, count)

    def _topic(self) -> _Choice | None:
        """Any token of windows that show one of a few words: for features that colour a whole passage."""
        if self.used and any('"topic"' in u for u in self.used):
            return None
        spread = float((self.w * self.y).sum() ** 2 / max(float((self.w * (self.mask)).sum()), 1e-9))
        if spread < 0.1 * self.energy:  # activation sits on few tokens of its windows: no topic
            return None
        v = self.s.lexicon.vocabulary
        shown = self.windows.ids
        row = np.repeat(np.arange(len(shown)), shown.shape[1])
        pairs = np.unique(np.stack([shown.ravel(), row], 1), axis=0)
        mass = (self.w * self.y).sum(1)
        tokens, inverse, often = np.unique(pairs[:, 0], return_inverse=True, return_counts=True)
        sums = np.bincount(inverse, mass[pairs[:, 1]])
        usable = [
            i for i in np.flatnonzero((often >= max(3, 0.05 * len(shown))) & (tokens >= 0))
            if v.starts_word[tokens[i]] and v.pieces[tokens[i]].isalpha() and len(v.pieces[tokens[i]]) > 3
        ]  # fmt: skip
        ranked = sorted(usable, key=lambda i: -(sums[i] ** 2) / (often[i] + self.s.counts[tokens[i]]))[:20]
        words: list[str] = []
        inside, behind = np.zeros(len(shown), bool), np.zeros(len(self.silent), bool)
        best: _Choice | None = None
        for i in ranked:
            trial, silent = inside | (shown == tokens[i]).any(1), behind.copy()
            silent[self.s.holding(int(tokens[i]))] = True
            size = float(self.s.lengths[silent & self.silent].sum()) * self.silent_weight
            item = {"kind": "topic", "words": [*words, v.name(int(tokens[i]))], "least": 1}
            choice = self._grouped(np.broadcast_to(trial[:, None], self.y.shape), 0, size, item)
            if best is None or choice.gain > 1.02 * best.gain:
                best, inside, behind, words = choice, trial, silent, item["words"]  # type: ignore[assignment]
            if len(words) == _TOPIC_WORDS:
                break
        return best

    def _position(self) -> _Choice | None:
        silent = float(self.s.starts[self.silent].sum()) * self.silent_weight
        return self._grouped(self.previous == PAD, 0, silent, {"kind": "position", "place": "first"})
