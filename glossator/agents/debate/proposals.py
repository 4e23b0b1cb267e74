"""What a debate may measure: texts that are proposed before anybody knows what they do.

- `window`: three stored windows of `select` and `explain` that turn on one word, as they are. Each side proposes those on which
  it fires and the other does not (of a sentence: those that hold a word that it alone names); the editor those of every
  other sort, firing and silent ones, also where nobody says a word. Of sentences, those that hold a word that both name are a
  sort of their own: where one rival is broader than the other, only silent windows with their common words tell.
- the editor's mechanical edits of the same windows: transplant, swap, delete, cuts, case.
- `insert`: a word of a sentence in the place of a token of three silent windows, late in them or early. Where one rival is a little
  broader than the other, the corpus may hold no window that tells them apart.
- `random`: three windows of the corpus.

Every proposal has as many carriers as there are windows, mostly three: a misread word in one of them is outvoted. Windows
are grouped by what is stored of them and, for rules, by what the rules say; never by what a language model says of them,
or its errors would be gathered into proposals of their own. No window of `test` is touched.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import TypeVar

import numpy as np

from glossator.agents.editor.editor import Base, Edit, Editor
from glossator.types import PAD, Bools, FeatureRecord, Floats, Ints, Split, Vocabulary, Windows

SPLITS_USED: tuple[Split, ...] = ("select", "explain")
_A_WORD = 3  # proposals of one sort about one word, at most
_A_WORD_ACTIVE = 9  # of windows that are active, which often all turn on one word
_EDITED = 0.4  # share of edits in the pool
_RANDOM = 0.1
_INSERTED = 0.15  # of the edits' share, where sentences debate
_PLACES = (24, 3)  # of a window's tokens
_NAMED = 12  # words of a sentence that are looked for, rarest first
_T = TypeVar("_T")
_ACTIVE = "active"
_Group = tuple[str, list[int], str | None]  # who proposes, up to three windows, the word that they turn on
_OFTEN = 0.25  # share of windows of the corpus that hold a word, above which it names nothing


@dataclass(frozen=True)
class Proposal:
    """One text to be measured, in its carriers. word: what it turns on, or something of its own."""

    proposer: str  # A, B, editor, random
    split: Split
    edit: Edit
    word: str
    own: bool = False  # whether no word stands out, and `word` is the text's own
    fires: bool = False  # whether the windows that it was made of do, as they are stored


@dataclass(frozen=True)
class _Sort:
    """alike: what carriers have in common beside the word."""

    sort: str
    proposer: str
    word: str | None
    alike: object


@dataclass(frozen=True)
class Stored:
    """Windows at hand, firing and silent ones; weak ones are left out. said [2, n, WINDOW]: what rules say, if rules debate.

    drawn [n]: background, drawn blindly from the corpus; active [n]: exemplars, some of which the draw has met, too.
    """

    windows: Windows
    activations: Floats
    fires: Bools
    split: Sequence[Split]
    drawn: Bools
    active: Bools
    said: Ints | None = field(default=None)


def stored_windows(record: FeatureRecord) -> Stored:
    """Exemplars, near misses and background of `select` and `explain`, every window once."""
    parts = [
        (sample, split)
        for split in SPLITS_USED
        for sample in (record.background[split], record.near_misses.get(split), record.exemplars.get(split))
        if sample is not None and len(sample.windows)
    ]
    ids = np.concatenate([s.windows.ids for s, _ in parts])
    acts = np.concatenate([s.activations for s, _ in parts])
    document = np.concatenate([s.windows.document for s, _ in parts])
    window_id = np.concatenate([s.windows.window_id for s, _ in parts])
    split = [split for s, split in parts for _ in range(len(s.windows))]
    stratum = np.concatenate([s.stratum for s, _ in parts])
    whole = Windows(ids, document, parts[0][0].windows.start, window_id)
    top = acts.max(1, initial=0)
    once = np.zeros(len(ids), bool)
    once[np.unique(window_id, return_index=True)[1]] = True
    kept = np.flatnonzero(once & ((top == 0) | (top >= record.threshold)) & whole.mask.any(1))
    drawn = stratum[kept] == "background"
    active = np.isin(window_id[kept], window_id[np.isin(stratum, ("top", "sample"))])
    fires = top[kept] >= record.threshold
    return Stored(whole.take(kept), acts[kept], fires, [split[i] for i in kept], drawn, active)


class Proposals:
    """`pool(n)` of one feature; the same for the same record, rivals and seed."""

    def __init__(
        self,
        record: FeatureRecord,
        stored: Stored,
        editor: Editor,
        names: tuple[Sequence[str], Sequence[str]],
        seed: int,
    ) -> None:
        """names: words that each rival puts forward, `-ing` for all that end so; not asked for where rules debate."""
        self.record, self.stored, self.editor = record, stored, editor
        self.vocabulary: Vocabulary = editor.vocabulary
        self.carriers = editor.config.carriers
        self.order = np.random.default_rng([seed, record.feature.index]).permutation(len(stored.windows))
        self.names, self.shared = self._named(names) if stored.said is None else (({}, {}), {})
        typical = np.zeros(len(self.vocabulary) + 1)
        typical[record.token_ids] = record.token_sums
        self.places = _places(stored, typical)
        self.speaks: Bools | None = None if stored.said is None else np.asarray(np.any(stored.said, axis=2))

    def pool(self, size: int) -> list[Proposal]:
        """At most `size`, no two of the same texts."""
        sorts = self._groups()
        others = list(_in_turn([groups for sort, groups in sorted(sorts.items()) if sort != _ACTIVE]))
        groups = list(_in_turn([sorts.get(_ACTIVE, []), others]))
        edits = _in_turn([self._edits(proposer, rows, word) for proposer, rows, word in groups])
        windows = (self._window(*group) for group in groups)
        inserted = list(islice(self._inserted(), int(_INSERTED * size)))
        n_random, n_edits = int(_RANDOM * size), int(_EDITED * size) - len(inserted)
        parts = ((n_random, self._random()), (size, iter(inserted)), (n_edits, edits), (size, windows), (size, edits))
        found: dict[tuple[str, ...], Proposal] = {}
        for wanted, source in parts:
            most = min(size, len(found) + wanted)
            while len(found) < most and (proposal := next(source, None)) is not None:
                if all(proposal.edit.texts):
                    found.setdefault(proposal.edit.texts, proposal)
        return list(found.values())

    # ------------------------------------------------------------------ windows by what they turn on

    def _groups(self) -> dict[str, list[_Group]]:
        """By sort: windows that are at hand because they are active, which make up half of the pool, and others in turn. Groups come as the draw has them, no word more than a few times.

        A side's own windows are drawn without a look at what they do. Were as many firing as silent ones taken, a side that
        is wrong would be right half of the time where it says `fires`.
        """
        sorts: dict[str, list[_Group]] = {}
        waiting: dict[_Sort, list[int]] = {}
        often: Counter[tuple[str, str | None]] = Counter()
        for row in self.order.tolist():
            for what in self._sorts(row):
                begun = waiting.setdefault(what, [])
                begun.append(row)
                if len(begun) < self.carriers:
                    continue
                del waiting[what]
                most = _A_WORD if what.sort != _ACTIVE else _A_WORD_ACTIVE
                if what.word is None or often[what.sort, what.word] < most:
                    often[what.sort, what.word] += 1
                    sorts.setdefault(what.sort, []).append((what.proposer, begun, what.word))
        for what, rows in waiting.items():  # where there are too few of a kind, those that there are
            if not often[what.sort, what.word]:
                sorts.setdefault(what.sort, []).append((what.proposer, rows, what.word))
        return sorts

    def _sorts(self, row: int) -> Iterator[_Sort]:
        """What a window is among those that are active, and among those that were not taken for that."""
        fires = bool(self.stored.fires[row])
        word = self._name(row, self._place(row))
        said = None if self.speaks is None else tuple(self.speaks[:, row].tolist())
        if self.stored.active[row]:
            yield _Sort(_ACTIVE, "editor", word, said)
            if not self.stored.drawn[row]:
                return
        if said is not None:
            proposer = "A" if said == (True, False) else "B" if said == (False, True) else "editor"
            yield _Sort(f"rules {said}", proposer, word, fires)
            return
        shown = set(self.stored.windows.ids[row, self.stored.windows.scored].tolist())
        for proposer, mine in zip("AB", self.names, strict=True):
            if held := sorted(shown & mine.keys()):
                yield _Sort(proposer, proposer, mine[held[0]], fires)
                return
        if held := sorted(shown & self.shared.keys()):
            yield _Sort("shared", "editor", self.shared[held[0]], fires)
            return
        yield _Sort("others", "editor", word, fires)

    def _place(self, row: int) -> int | None:
        place = int(self.places[row])
        return place if place >= 0 else None

    def _name(self, row: int, place: int | None) -> str | None:
        if place is None:
            return None
        windows = self.stored.windows
        token = int(windows.ids[row, windows.start + place])
        return self.vocabulary.name(token).casefold() if token != PAD else None

    def _named(
        self, names: tuple[Sequence[str], Sequence[str]]
    ) -> tuple[tuple[Mapping[int, str], Mapping[int, str]], Mapping[int, str]]:
        """Tokens that the one side names and the other does not, and those that both name, with how they are written.

        Of those that stand in a window at hand, the rarest in the corpus, which only the draw speaks for: windows are also
        kept because the feature is active, and in those its own words are frequent.
        """
        shown, drawn = self.stored.windows.ids[:, self.stored.windows.scored], self.stored.drawn
        a, b = ({t: word for name in mine for t, word in self._tokens(name)} for mine in names)

        def rare(named: Mapping[int, str]) -> dict[int, str]:
            held = {t: found for t in named if (found := (shown == t).any(1)).any()}
            often = {
                t: (float(found[drawn].mean()) if drawn.any() else 0.0, int(found.sum())) for t, found in held.items()
            }
            kept = sorted((t for t in often if often[t][0] <= _OFTEN), key=lambda t: (often[t], t))[:_NAMED]
            return {t: named[t] for t in kept}

        alone = [{t: word for t, word in mine.items() if t not in other} for mine, other in ((a, b), (b, a))]
        return (rare(alone[0]), rare(alone[1])), rare({t: word for t, word in a.items() if t in b})

    def _tokens(self, name: str) -> list[tuple[int, str]]:
        v = self.vocabulary
        if name.startswith("-"):
            end = name[1:].casefold()
            ends = (
                t for t, piece in enumerate(v.pieces) if piece.casefold().endswith(end) and len(piece) > len(end) + 2
            )
            return [(t, v.name(t).casefold()) for t in ends]
        found = {t for spelled in (name, name.casefold()) if (t := v.find(spelled)) is not None}
        return [(t, v.name(t).casefold()) for t in sorted(found)]

    # ------------------------------------------------------------------ proposals

    def _window(self, proposer: str, rows: Sequence[int], word: str | None) -> Proposal:
        bases = self._bases(rows)
        edit = Edit("window", tuple(self.vocabulary.join(b.ids) for b in bases), {}, bases[0].window_id)
        own, fires = word or f"window {bases[0].window_id}", bool(self.stored.fires[rows[0]])
        return Proposal(proposer, self.stored.split[rows[0]], edit, own, word is None, fires)

    def _edits(self, proposer: str, rows: Sequence[int], word: str | None) -> Iterator[Proposal]:
        """The edits of three windows, made when they are asked for; of a side's windows the side proposes them."""
        bases, split = self._bases(rows), self.stored.split[rows[0]]
        found = self.editor.edits(self.record, bases, split)
        turn = self.order[rows[0] % len(self.order)] % max(len(found), 1)  # not the same kind first for all of them
        for edit in found[turn:] + found[:turn]:
            own = f"{edit.kind} {edit.source_window}"
            swapped = str(edit.what.get("to", own)).casefold()
            turns_on = {"swap": swapped, "delete": own}.get(edit.kind, word or own)
            yield Proposal("editor", split, edit, turns_on, turns_on == own)

    def _random(self) -> Iterator[Proposal]:
        rows = [r for r in self.order[::-1].tolist() if self.stored.drawn[r] and self.stored.split[r] == SPLITS_USED[0]]
        for i in range(0, len(rows) - self.carriers + 1, self.carriers):
            bases = self._bases(rows[i : i + self.carriers])
            edit = Edit("random", tuple(self.vocabulary.join(b.ids) for b in bases), {}, bases[0].window_id)
            yield Proposal("random", SPLITS_USED[0], edit, f"window {bases[0].window_id}", True)

    def _inserted(self) -> Iterator[Proposal]:
        """Words that one side names, and those that both do, in turn; each late in windows and, after all the others, early."""
        named = [*zip("AB", self.names, strict=True), ("editor", self.shared)]
        words = list(_in_turn([[(who, token, word) for token, word in mine.items()] for who, mine in named]))
        silent = (self.stored.drawn & ~self.stored.fires & self.stored.windows.mask.all(1)).tolist()
        rows = cycle([r for r in self.order.tolist() if silent[r] and self.stored.split[r] == SPLITS_USED[0]])
        for turn in range(len(_PLACES)):
            for n, (who, token, word) in enumerate(words):
                place, bases = _PLACES[(n + turn) % len(_PLACES)], self._bases(list(islice(rows, self.carriers)))
                if not bases:
                    return
                texts = tuple(self.vocabulary.join([*b.ids[:place], token, *b.ids[place + 1 :]]) for b in bases)
                yield Proposal(who, SPLITS_USED[0], Edit("insert", texts, {"place": place}, bases[0].window_id), word)

    def _bases(self, rows: Sequence[int]) -> list[Base]:
        windows, out = self.stored.windows, []
        for row in rows:
            ids = windows.ids[row, windows.scored]
            kept = ids[ids != PAD]
            place = self._place(row)
            peak = len(kept) // 2 if place is None else min(place, len(kept) - 1)
            out.append(Base(tuple(int(t) for t in kept), peak, int(windows.window_id[row])))
        return out


def _places(stored: Stored, typical: Floats) -> Ints:
    """[n] Where a window is active, or where a rule speaks up, or its token that is most often active elsewhere; -1: nowhere."""
    mass = typical[stored.windows.ids[:, stored.windows.scored]]
    found = np.where(mass.any(1), mass.argmax(1), -1)
    for told in () if stored.said is None else stored.said[::-1]:
        found = np.where(told.any(1), told.argmax(1), found)
    return np.asarray(np.where(stored.fires, stored.activations.argmax(1), found))


def _in_turn(sources: Sequence[Iterable[_T]]) -> Iterator[_T]:
    """One of each, then the next of each; nothing is made before it is asked for."""
    waiting = deque(iter(source) for source in sources)
    while waiting:
        source = waiting.popleft()
        for item in source:
            yield item
            waiting.append(source)
            break


def named_words(text: str) -> list[str]:
    """The words of a sentence; `-ing` keeps its dash."""
    return list(dict.fromkeys(re.findall(r"(?<!\w)-?\w+", text)))
