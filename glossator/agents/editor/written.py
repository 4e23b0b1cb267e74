"""What a language model writes to put labels to the test: asked once for all kinds, checked text by text, put into carriers.

- `positive`, `boundary`: new texts. Each is put into silent windows of the same split, all at the same place; where a feature
  has none, it stands alone.
- `minimal_off`, `minimal_on`: a few words of one real window replaced. Such an edit has no carrier but its window.

Before anything is predicted or measured, a text is dropped that holds no token, or a special one, that is too long for its
place, that quotes exemplars (half of its 8-grams), that stands in the pool already, or that changes nothing or too much.
What was dropped is counted and said. A reply that cannot be used is no end: the mechanical edits are run without it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from glossator.agents.editor.edits import Base, Edit, Mechanical
from glossator.config import WritingConfig
from glossator.errors import ReplyError
from glossator.llm.base import LLM
from glossator.prompts import edit as prompt
from glossator.scorers.reading import few
from glossator.types import PAD, SPLITS, WINDOW, FeatureRecord, Ints, Sample, Split

_GRAM = 8


@dataclass(frozen=True)
class Written:
    """Edits that may be measured; a note on what was dropped, if anything was; what went wrong with the reply."""

    edits: tuple[Edit, ...] = ()
    note: str | None = None
    failure: ReplyError | None = None


async def write(
    record: FeatureRecord,
    split: Split,
    claims: Sequence[str],
    writer: LLM,
    maker: Mechanical,
    known: Sequence[Edit],
) -> Written:
    """known: edits of the pool so far. Raises what ends the run."""
    config = maker.config.writing
    firing, silent = _windows(record, split, config.windows, maker.config.seed)
    tokens = [maker.vocabulary.pieces[t] for t in record.token_ids[: config.avoided].tolist()]
    scale = max(record.max_activation, 1e-9)
    said = list(dict.fromkeys(text for text in claims if text.strip()))[: config.claims]
    question = prompt.render(said, tokens, (firing, silent), scale, maker.vocabulary, config, str(record.feature))
    try:
        answer: prompt.Answer = (await writer.complete(question)).value
    except ReplyError as error:
        return Written((), f"the editor's model gave nothing usable ({type(error).__name__})", error)
    checks = _Checks(record, maker, config, {maker.vocabulary.join(ids) for ids in _tokens(maker, known)})
    edits = [*_texts(checks, answer, split), *_changes(checks, answer, firing, silent)]
    return Written(tuple(edits), _note(len(edits), checks.dropped))


def _note(kept: int, dropped: Counter[str]) -> str | None:
    lost = f"dropped {', '.join(f'{n} {why}' for why, n in sorted(dropped.items()))}" if dropped else ""
    if not kept:
        return "the editor's model wrote nothing usable" + (f": {lost}" if lost else "")
    return f"{kept} written texts kept, {lost}" if lost else None


def _tokens(maker: Mechanical, known: Sequence[Edit]) -> list[list[int]]:
    return maker.tokenize([text for edit in known for text in edit.texts])


def _windows(record: FeatureRecord, split: Split, n: int, seed: int) -> tuple[Sample, Sample]:
    """Firing and silent windows, by a hash of their text."""
    active, behind = record.exemplars[split], record.background[split]
    firing = active.take(np.flatnonzero(active.activations.max(1, initial=0) >= record.threshold))
    silent = behind.take(np.flatnonzero(~(behind.activations > 0).any(1) & behind.windows.mask.all(1)))
    return few(firing, n, seed), few(silent, n, seed)


def _texts(checks: _Checks, answer: prompt.Answer, split: Split) -> Iterator[Edit]:
    """New texts, in carriers."""
    maker = checks.maker
    carriers = maker.carriers(checks.record, split)
    for kind, texts in (("positive", answer.positive), ("boundary", answer.boundary)):
        wanted = getattr(checks.config, kind)
        if len(texts) > wanted:
            checks.dropped["more than asked for"] += len(texts) - wanted
        for text in texts[:wanted]:
            if (ids := checks.new_text(text)) is not None:
                alone = maker.vocabulary.join(ids)
                placed = maker.put_into(carriers, ids) if carriers else (alone,)
                yield Edit(kind, placed, {"text": alone}, carriers[0].window_id if carriers else -1)


def _changes(checks: _Checks, answer: prompt.Answer, firing: Sample, silent: Sample) -> Iterator[Edit]:
    """Real windows, changed a little."""
    first = 1 + len(firing.windows)
    groups = (("minimal_off", answer.minimal_off, firing, 1), ("minimal_on", answer.minimal_on, silent, first))
    for kind, changes, sample, number in groups:
        wanted = getattr(checks.config, kind)
        if len(changes) > wanted:
            checks.dropped["more than asked for"] += len(changes) - wanted
        for change in changes[:wanted]:
            row = change.window - number
            if not 0 <= row < len(sample.windows):
                checks.dropped["of no such window"] += 1
                continue
            base = _base(sample, row)
            if (text := checks.changed(base, change)) is not None:
                what = {"old": _one_line(change.old), "new": _one_line(change.new)}
                yield Edit(kind, (text,), what, base.window_id)


def _base(sample: Sample, row: int) -> Base:
    ids: Ints = sample.windows.ids[row, sample.windows.scored]
    return Base(tuple(int(t) for t in ids if t != PAD), 0, int(sample.windows.window_id[row]))


@dataclass
class _Checks:
    """What may be measured. known: texts of the pool; dropped: how many were not taken, and why."""

    record: FeatureRecord
    maker: Mechanical
    config: WritingConfig
    known: set[str]
    dropped: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._held: dict[int, set[tuple[int, ...]]] = {}

    def new_text(self, text: str) -> list[int] | None:
        """The tokens of a text that may be put somewhere, or None."""
        ids = self.maker.tokenize([_one_line(text)])[0]
        if (why := self._wrong(ids, self.config.longest) or self._copied(ids)) is not None:
            self.dropped[why] += 1
            return None
        return ids if self._fresh(ids) else None

    def changed(self, base: Base, change: prompt.Change) -> str | None:
        """The window with the change made wherever its old words stand, cut to a window's length, or None."""
        vocabulary = self.maker.vocabulary
        before = vocabulary.join(base.ids)
        old, new = _one_line(change.old), _one_line(change.new)
        pattern = rf"(?<!\w){re.escape(old)}(?!\w)" if old else r"(?!)"
        after, n = re.subn(pattern, lambda _: new, before, flags=re.IGNORECASE)
        sizes = [len(ids) for ids in self.maker.tokenize([old, new])]
        if not n:
            self.dropped["whose old words are not in the window"] += 1
            return None
        if max(sizes) > self.config.change:
            self.dropped["that change too much"] += 1
            return None
        ids = self.maker.tokenize([_one_line(after)])[0]
        if (why := self._wrong(ids, WINDOW + self.config.change * n)) is not None:
            self.dropped[why] += 1
            return None
        ids = ids[:WINDOW]
        if ids == self.maker.tokenize([before])[0][:WINDOW]:
            self.dropped["that change nothing"] += 1
            return None
        return vocabulary.join(ids) if self._fresh(ids) else None

    def _fresh(self, ids: Sequence[int]) -> bool:
        text = self.maker.vocabulary.join(ids)
        if text in self.known:
            self.dropped["there already"] += 1
            return False
        self.known.add(text)
        return True

    def _wrong(self, ids: Sequence[int], longest: int) -> str | None:
        if not ids:
            return "without a token"
        if any(self.maker.vocabulary.special[t] for t in ids):
            return "with special or unknown tokens"
        return "too long" if len(ids) > longest else None

    def _copied(self, ids: Sequence[int]) -> str | None:
        """By its 8-grams; of a shorter text by itself."""
        size = min(_GRAM, len(ids))
        if size not in self._held:
            windows = [self.record.exemplars[split].windows.ids for split in SPLITS if split in self.record.exemplars]
            self._held[size] = {gram for ids in windows for row in ids.tolist() for gram in _grams(row, size)}
        mine = _grams(ids, size)
        copied = sum(gram in self._held[size] for gram in mine) / len(mine)
        return "copied from an exemplar" if copied >= self.config.copied else None


def _grams(ids: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]


def _one_line(text: str) -> str:
    """Printable, on one line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
