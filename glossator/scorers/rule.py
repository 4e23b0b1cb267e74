"""The predictor `rule`: executes a program and gives every token a strength from 0 to 10.

A program is a list of items, at most a dozen, each with a strength. `words` names the forms of one word, or words
that lie near one word in the subject's own embedding (nine at most): one item, one strength. Of the items that match a token the most specific
speaks: a token after or before others, then a token, then what stands beside a token, then a class or a range of
numbers, then a topic or a position. Between equally specific ones the larger strength speaks.

    {"items": [{"kind": "token", "token": "right", "strength": 3},
               {"kind": "words", "relation": "forms", "tokens": ["cause", "causes", "caused"], "strength": 8},
               {"kind": "after", "previous": ["on", "the"], "token": "right", "strength": 10},
               {"kind": "class", "class": "year", "strength": 4},
               {"kind": "number", "low": 1900, "high": 2015, "strength": 4},
               {"kind": "topic", "words": ["butter", "oven"], "least": 2, "strength": 2},
               {"kind": "position", "place": "first", "strength": 5}]}

A rule costs nothing to run, so it can be scored on everything; its scores are a rule's, not a label's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glossator.errors import UsageError
from glossator.scorers.patterns import CLASSES, SPAN_CLASSES, TOKEN_CLASSES, SpanReader, token_table
from glossator.types import MAX_STRENGTH, PAD, WINDOW, Bools, Ints, Vocabulary, Windows

_FIELDS: dict[str, tuple[str, ...]] = {
    "token": ("token",),
    "words": ("relation", "tokens"),
    "after": ("previous",),
    "before": ("next",),
    "class": ("class",),
    "number": ("low", "high"),
    "topic": ("words", "least"),
    "position": ("place",),
}
_RANK = {
    "topic": 0,
    "position": 0,
    "class": 1,
    "number": 1,
    "beside": 2,
    "token": 3,
    "words": 3,
    "after": 4,
    "before": 4,
}


_RANK_STEP = 16  # above every strength
_NOWHERE = -2  # no id
Match = tuple[Bools, int, int]


class Lexicon:
    """What rules need of a vocabulary: token classes, numbers, spans. One for each subject, shared by all rules."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.table = token_table(vocabulary)  # [classes, V]
        self.number = np.asarray(
            [int(p) if p.isascii() and p.isdigit() and len(p) < 9 else -1 for p in vocabulary.pieces]
        )
        self.spans = SpanReader(vocabulary)


class Rule:
    """A program bound to a lexicon. Raises UsageError for a program that this version cannot run."""

    def __init__(self, program: Mapping[str, Any], lexicon: Lexicon) -> None:
        self.items = [_checked(item) for item in program.get("items", ())]
        self._lexicon = lexicon
        self._said = self._by_token()

    def strengths(self, windows: Windows) -> Ints:
        """[n, WINDOW] int8 in 0..10, 0 where there is no token.

        The same as resolving `matches`, several times as fast: what a token says by itself is looked up, and only what
        stands beside it is compared. A rank and a strength make one number, of which the largest speaks.
        """
        ids = windows.ids
        said = self._table()[ids[:, windows.scored]]
        spans = self._lexicon.spans.bits(windows) if any(_needs_spans(i) for i in self.items) else None
        for item in self.items:
            if item["kind"] in ("token", "words", "number") or item.get("class") in TOKEN_CLASSES:
                continue
            loud = _RANK_STEP * _rank(item) + item["strength"]
            if item.get("token") is not None:
                row, column = self._beside_token(ids, windows, item)
                said[row, column] = np.maximum(said[row, column], loud)
            else:
                hit = self._matches(item, ids, windows, spans) & windows.mask
                said[hit] = np.maximum(said[hit], loud)
        return said & (_RANK_STEP - 1)

    def _by_token(self) -> tuple[Ints, Ints]:
        """Token ids that items name, and what each says: rank and strength in one number."""
        said: dict[int, int] = {}
        for item in self.items:
            names = {"token": [item.get("token")], "words": item.get("tokens", [])}.get(item["kind"], [])
            for token in map(self._id, names):
                said[token] = max(said.get(token, 0), _RANK_STEP * _rank(item) + item["strength"])
        said.pop(_NOWHERE, None)
        return np.asarray(list(said), np.int64), np.asarray(list(said.values()), np.int8)

    def _table(self) -> Ints:
        """[V + 1] int8: what each token says by itself; the last one, which PAD finds, nothing. Made anew: kept, it is large."""
        table = np.zeros(len(self._lexicon.vocabulary) + 1, np.int8)
        ids, said = self._said
        table[ids] = said
        for item in self.items:
            loud = _RANK_STEP * _rank(item) + item["strength"]
            if item["kind"] == "number":
                hit = (self._lexicon.number >= item["low"]) & (self._lexicon.number <= item["high"])
            elif item.get("class") in TOKEN_CLASSES:
                hit = self._lexicon.table[TOKEN_CLASSES.index(item["class"])]
            else:
                continue
            np.maximum(table[:-1], loud, out=table[:-1], where=hit)
        return table

    def _beside_token(self, ids: Ints, windows: Windows, item: Mapping[str, Any]) -> tuple[Ints, Ints]:
        """Rows and scored columns of the item's token where the others stand before or after it."""
        row, column = np.nonzero(ids[:, windows.scored] == self._id(item["token"]))
        side, others = (-1, item["previous"][::-1]) if item["kind"] == "after" else (1, item["next"])
        for distance, other in enumerate(others, 1):
            place = windows.start + column + side * distance
            inside = (place >= 0) & (place < ids.shape[1])
            hit = inside & (ids[row, np.where(inside, place, 0)] == self._id(other))
            row, column = row[hit], column[hit]
        return row, column

    def matches(self, windows: Windows) -> list[Match]:
        """Each item's tokens [n, WINDOW], rank and strength."""
        spans = self._lexicon.spans.bits(windows) if any(_needs_spans(i) for i in self.items) else None
        return [
            (self._matches(item, windows.ids, windows, spans) & windows.mask, _rank(item), int(item["strength"]))
            for item in self.items
        ]

    def _matches(self, item: Mapping[str, Any], ids: Ints, windows: Windows, spans: Ints | None) -> Bools:
        here = ids[:, windows.scored]
        match item["kind"]:
            case "token":
                return np.asarray(here == self._id(item["token"]))
            case "words":
                return np.isin(here, [self._id(name) for name in item["tokens"]])
            case "class":
                return self._in_class(item["class"], here, windows, spans)
            case "number":
                number = np.where(here >= 0, self._lexicon.number[here], -1)
                return np.asarray((number >= item["low"]) & (number <= item["high"]))
            case "after":
                return self._beside(ids, windows, item["previous"], item.get("token"), -1)
            case "before":
                return self._beside(ids, windows, item["next"], item.get("token"), 1)
            case "topic":
                present = sum(
                    ((ids == self._id(word)).any(1).astype(np.int64) for word in item["words"]),
                    np.zeros(len(ids), np.int64),
                )
                return np.broadcast_to((present >= item["least"])[:, None], here.shape)
            case _:
                return self._position(item["place"], ids, windows)

    def _id(self, name: str) -> int:
        found = self._lexicon.vocabulary.find(name)
        return _NOWHERE if found is None else found  # a token that this subject does not have matches nothing

    def _in_class(self, name: str, here: Ints, windows: Windows, spans: Ints | None) -> Bools:
        if name in TOKEN_CLASSES:
            return np.where(here >= 0, self._lexicon.table[TOKEN_CLASSES.index(name)][here], False)
        assert spans is not None
        return np.asarray((spans[:, windows.scored] >> np.uint32(SPAN_CLASSES.index(name))) & np.uint32(1), bool)

    def _beside(self, ids: Ints, windows: Windows, others: list[str], token: str | None, side: int) -> Bools:
        here = ids[:, windows.scored]
        hit = np.ones(here.shape, bool) if token is None else np.asarray(here == self._id(token))
        for distance, other in enumerate(reversed(others) if side < 0 else others, 1):
            hit &= shifted(ids, windows, side * distance) == self._id(other)
        return hit

    def _position(self, place: str, ids: Ints, windows: Windows) -> Bools:
        """`first`: the first token of a context."""
        before = shifted(ids, windows, -1)
        return np.asarray(before == PAD) if place == "first" else np.asarray(shifted(ids, windows, 1) == PAD)


def resolve(matches: Sequence[Match], shape: tuple[int, int], without: int | None = None) -> Ints:
    """[n, WINDOW] int8: of the items that match a token the most specific speaks, the stronger of equals; one may be left out."""
    best_rank, out = np.full(shape, -1, np.int8), np.zeros(shape, np.int8)
    for number, (hit, rank, strength) in enumerate(matches):
        if number != without:
            wins = hit & ((rank > best_rank) | ((rank == best_rank) & (strength > out)))
            best_rank[wins], out[wins] = rank, strength
    return out


def shifted(ids: Ints, windows: Windows, by: int) -> Ints:
    """[n, WINDOW]: the token `by` places on from each scored token, PAD outside of what is shown."""
    columns = np.arange(windows.start, windows.start + WINDOW) + by
    inside = (columns >= 0) & (columns < ids.shape[1])
    return np.where(inside[None, :], ids[:, np.clip(columns, 0, ids.shape[1] - 1)], PAD)


def _rank(item: Mapping[str, Any]) -> int:
    if item["kind"] in ("after", "before") and item.get("token") is None:
        return _RANK["beside"]
    return _RANK[item["kind"]]


def _needs_spans(item: Mapping[str, Any]) -> bool:
    return item["kind"] == "class" and item["class"] in SPAN_CLASSES


def _checked(item: Mapping[str, Any]) -> Mapping[str, Any]:
    kind = item.get("kind")
    if kind not in _FIELDS:
        raise UsageError(f"rule: unknown kind of item {kind!r}; known: {', '.join(_FIELDS)}")
    lacking = [name for name in _FIELDS[kind] if name not in item]
    if lacking:
        raise UsageError(f"rule: an item of kind {kind!r} lacks {', '.join(lacking)}")
    if kind == "class" and item["class"] not in CLASSES:
        raise UsageError(f"rule: unknown class {item['class']!r}; known: {', '.join(CLASSES)}")
    if not isinstance(item.get("strength"), int) or not 0 <= item["strength"] <= MAX_STRENGTH:
        raise UsageError(
            f"rule: strength must be a whole number from 0 to {MAX_STRENGTH}, not {item.get('strength')!r}"
        )
    return item
