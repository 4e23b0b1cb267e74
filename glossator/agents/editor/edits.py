"""Label-blind edits of real windows, and the places where written texts are put. Nothing here is predicted or measured.

- `bisect`: keep only the trigger and ever more tokens around it: the minimal trigger span.
- `transplant`: that span in silent windows of the corpus, at its own place.
- `swap`: the peak token replaced by one of its nearest neighbours in the subject's embedding.
- `delete`: the peak's word left out. `cut_left`, `cut_right` (encoders): nothing before it, nothing after it.
  `case`: upper and lower case exchanged, where the tokenizer can tell.
- `random`: windows of the corpus as they are.

Edits run on the 32 tokens of a window without its margins: what a feature loses by that is in the outcome. Pools of
different splits are drawn with different seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glossator.config import EditorConfig
from glossator.types import PAD, WINDOW, FeatureRecord, Ints, Split, Vocabulary

Span = tuple[int, int]
Tokenize = Callable[[Sequence[str]], list[list[int]]]
_RADII = (0, 1, 4)
_OTHER_SEEDS: dict[Split, int] = {"test": 0, "select": 1_000_003, "explain": 2_000_003}


@dataclass(frozen=True)
class Edit:
    """kind, and one text for each carrier. what: more about it, for people; source_window: whose text it is mostly."""

    kind: str
    texts: tuple[str, ...]
    what: Mapping[str, Any] = field(hash=False)
    source_window: int


@dataclass(frozen=True)
class Base:
    """A firing window: its tokens [n], where it peaks, its id, and how high the peak was in the corpus (None: not known)."""

    ids: tuple[int, ...]
    peak: int
    window_id: int
    was: float | None = None


@dataclass(frozen=True)
class Plan:
    """The mechanical edits of a feature. steps: the bisection, narrowest first; transplants: of each span that it may end with.

    others: in the order in which texts are spent on them.
    """

    steps: tuple[tuple[Span, Edit], ...]
    transplants: Mapping[Span, Edit]
    others: tuple[Edit, ...]


class Mechanical:
    """Makes edits of one subject's windows. Everything is a function of the record, the config and the subject."""

    def __init__(
        self, vocabulary: Vocabulary, neighbours: Ints, tokenize: Tokenize, config: EditorConfig, *, causal: bool
    ) -> None:
        self.vocabulary, self.neighbours, self.tokenize = vocabulary, neighbours, tokenize
        self.config, self.causal = config, causal

    def plan(self, record: FeatureRecord, bases: Sequence[Base], split: Split) -> Plan:
        """All kinds, some of which the budget may not reach: what comes first among them goes by the feature's number."""
        steps = []
        for radius in _RADII:
            begin, end = span = self.span(bases[0], radius)
            what: dict[str, Any] = {"radius": radius, "tokens": end - begin}
            if bases[0].was is not None:
                what["was"] = round(bases[0].was, 4)
            text = self.vocabulary.join(bases[0].ids[begin:end])
            steps.append((span, Edit("bisect", (text,), what, bases[0].window_id)))
        spans = {span: self.transplant(record, bases[0], span, split) for span, _ in steps}
        around, turn = self.around(bases), record.feature.index // 2
        around = around[turn % len(around) :] + around[: turn % len(around)] if around else []
        delete = self.delete(bases)
        first, rest = ([delete], around) if record.feature.index % 2 == 0 else (around[:1], [delete, *around[1:]])
        others = [self.swap(record, bases), *first, *self.random(record, split), *rest]
        return Plan(
            tuple(steps),
            {span: edit for span, edit in spans.items() if edit is not None},
            tuple(edit for edit in others if edit is not None),
        )

    def edits(self, record: FeatureRecord, bases: Sequence[Base], split: Split) -> list[Edit]:
        """Every label-blind edit of some windows, each in as many carriers; nothing is measured."""
        near, wide = self.span(bases[0], 0), self.span(bases[0], 1)
        found = [self.transplant(record, bases[0], span, split) for span in dict.fromkeys((near, wide))]
        found += [self.swap(record, bases), self.delete(bases), *self.around(bases)]
        return [edit for edit in found if edit is not None]

    # ------------------------------------------------------------------ the kinds

    def span(self, base: Base, radius: int) -> Span:
        """Whole words only: a continuation without its beginning would be another token."""
        begin = max(0, base.peak - radius)
        end = min(len(base.ids), base.peak + 1 + (0 if self.causal else radius))
        while begin > 0 and not self.vocabulary.starts_word[base.ids[begin]]:
            begin -= 1
        while end < len(base.ids) and not self.vocabulary.starts_word[base.ids[end]]:
            end += 1
        return begin, end

    def transplant(self, record: FeatureRecord, base: Base, span: Span, split: Split) -> Edit | None:
        carriers = self.carriers(record, split)
        if len(carriers) < self.config.carriers or span[1] - span[0] >= WINDOW // 2:
            return None
        piece = base.ids[span[0] : span[1]]
        texts = tuple(self._into(carrier, span, piece) for carrier in carriers)
        return Edit("transplant", texts, {"span": self.vocabulary.join(piece)}, base.window_id)

    def swap(self, record: FeatureRecord, bases: Sequence[Base]) -> Edit | None:
        peak = bases[0].ids[bases[0].peak]
        near = self.neighbours[peak]
        near = near[near >= 0]
        if not len(near):
            return None
        other = int(near[(record.feature.index + self.config.seed) % min(4, len(near))])
        texts = []
        for base in bases:
            new = other if base.ids[base.peak] == peak else self._nearest(base.ids[base.peak])
            texts.append(self.vocabulary.join([*base.ids[: base.peak], new, *base.ids[base.peak + 1 :]]))
        names = {"from": self.vocabulary.name(peak), "to": self.vocabulary.name(other)}
        return Edit("swap", tuple(texts), names, bases[0].window_id)

    def delete(self, bases: Sequence[Base]) -> Edit | None:
        """The peak's word left out; in as many windows as have something else."""
        texts = []
        for base in bases:
            begin, end = self.span(base, 0)
            texts.append(self.vocabulary.join([*base.ids[:begin], *base.ids[end:]]))
        return Edit("delete", tuple(texts), {}, bases[0].window_id) if all(texts) else None

    def around(self, bases: Sequence[Base]) -> list[Edit]:
        """What can be changed around the peaks: cut_left, cut_right, case. Those that change nothing do not apply."""
        choices: dict[str, list[str]] = {"cut_left": [], "cut_right": [], "case": []}
        for base in bases:
            begin, end = self.span(base, 0)
            choices["cut_left"].append(self.vocabulary.join(base.ids[begin:]))
            choices["cut_right"].append(self.vocabulary.join(base.ids[:end]))
            choices["case"].append(self.vocabulary.join(base.ids).swapcase())
        if self.causal:
            del choices["cut_right"]  # what comes later cannot matter
        plain = self.tokenize([self.vocabulary.join(b.ids) for b in bases])
        usable = [kind for kind, texts in choices.items() if self.tokenize(texts) != plain]
        return [Edit(kind, tuple(choices[kind]), {}, bases[0].window_id) for kind in usable]

    def random(self, record: FeatureRecord, split: Split) -> list[Edit]:
        pool = record.background[split].windows
        start = record.feature.index * 104_729 + self._seed(split)
        found = []
        for k in range(min(self.config.random, len(pool))):
            row = (start + k * 31) % len(pool)
            text = self.vocabulary.join(pool.ids[row, pool.scored].tolist())
            found.append(Edit("random", (text,), {}, int(pool.window_id[row])))
        return found

    # ------------------------------------------------------------------ where texts are put

    def carriers(self, record: FeatureRecord, split: Split) -> list[Base]:
        """Silent windows of the corpus without a gap, the same for all that is put into windows about this feature."""
        pool, n = record.background[split], self.config.carriers
        silent = np.flatnonzero(~(pool.activations > 0).any(1) & pool.windows.mask.all(1))
        if len(silent) < n:
            return []
        start = (record.feature.index * 7919 + self._seed(split)) % len(silent)
        chosen = [int(silent[(start + k * (len(silent) // n)) % len(silent)]) for k in range(n)]
        ids = pool.windows.ids[:, pool.windows.scored]
        return [Base(tuple(ids[row].tolist()), 0, int(pool.windows.window_id[row])) for row in chosen]

    def put_into(self, carriers: Sequence[Base], piece: Sequence[int]) -> tuple[str, ...]:
        """A written text in the middle of each window, in the place of as many tokens."""
        begin = (WINDOW - len(piece)) // 2
        return tuple(self._into(carrier, (begin, begin + len(piece)), piece) for carrier in carriers)

    def _into(self, carrier: Base, place: Span, piece: Sequence[int]) -> str:
        """A word of the carrier that would be cut is left out: its rest would join the piece, and make another word of it."""
        left, right = place
        starts = self.vocabulary.starts_word
        while left > 0 and not starts[carrier.ids[left]]:
            left -= 1
        while right < len(carrier.ids) and not starts[carrier.ids[right]]:
            right += 1
        return self.vocabulary.join([*carrier.ids[:left], *piece, *carrier.ids[right:]])

    def _nearest(self, token: int) -> int:
        near = int(self.neighbours[token][0])
        return near if near >= 0 else token

    def _seed(self, split: Split) -> int:
        return self.config.seed + _OTHER_SEEDS[split]


def firing_windows(record: FeatureRecord, split: Split, size: int) -> list[Base]:
    """Up to `size` firing windows of the uniform sample (else of the top), most frequent peak token first, by document."""
    sample = record.exemplars[split]
    maximum = sample.activations.max(1, initial=0)
    firing = np.flatnonzero(maximum >= record.threshold)
    order = sorted(firing.tolist(), key=lambda i: (sample.stratum[i] == "top", int(sample.windows.window_id[i])))
    peaks = sample.activations.argmax(1)
    tokens = {i: int(sample.windows.ids[i, sample.windows.start + peaks[i]]) for i in order}
    often: dict[int, int] = {}
    for token in tokens.values():
        often[token] = often.get(token, 0) + 1
    order.sort(key=lambda i: -often[tokens[i]])  # stable
    chosen: list[int] = []
    for i in [*_first_of_each(order, sample.windows.document), *order]:
        if i not in chosen and len(chosen) < size:
            chosen.append(i)
    out = []
    for i in chosen:
        ids = sample.windows.ids[i, sample.windows.scored]
        kept = ids[ids != PAD]
        window_id = int(sample.windows.window_id[i])
        out.append(Base(tuple(int(t) for t in kept), int(peaks[i]), window_id, float(maximum[i])))
    return out


def _first_of_each(order: Sequence[int], document: Ints) -> list[int]:
    seen: set[int] = set()
    return [i for i in order if not (int(document[i]) in seen or seen.add(int(document[i])))]  # type: ignore[func-returns-value]
