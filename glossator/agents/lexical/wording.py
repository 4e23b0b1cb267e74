"""A rule as a sentence that a person would accept: `the word "cause" and its forms`, `years from 1900 to 2015`.

The sentence names the items in the order of what they explain, strong ones first, then weak ones, then exceptions. It
is written from the rule, so it claims no more than the rule does; with many items it names the first and counts the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glossator.scorers.patterns import CLASSES
from glossator.types import PAD, FeatureRecord, Vocabulary

_STRONG = 4
_NAMED, _NAMED_WEAK, _NAMED_NOT = 4, 2, 2
_WORDS_NAMED = 3
_PART = 0.5  # a piece is shown inside a word if that share of its activation lies in longer words


def sentence(program: Mapping[str, Any], record: FeatureRecord, vocabulary: Vocabulary) -> str:
    """The rule's text. Not empty: a rule has at least one item that fires."""
    speaker = _Speaker(record, vocabulary)
    strongly = {item["token"] for item in program["items"] if item["kind"] == "token" and item["strength"] >= _STRONG}
    grouped = [
        item for item in _grouped(program["items"])
        if not (item["kind"] in ("after", "before") and item["strength"] >= _STRONG and item.get("token") in strongly)
    ]  # a token that is named for itself need not be named again for a context  # fmt: skip
    strong = [speaker.phrase(item) for item in grouped if item["strength"] >= _STRONG]
    weak = [speaker.phrase(item) for item in grouped if 0 < item["strength"] < _STRONG]
    never = [speaker.phrase(item) for item in grouped if item["strength"] == 0]
    if not strong:
        strong, weak = weak, []
    text = _listed(strong, _NAMED)
    if weak:
        text += f"; weakly {_listed(weak, max(1, min(_NAMED_WEAK, _NAMED - len(strong))))}"
    if never:
        text += f"; but not {_listed(never, _NAMED_NOT)}"
    return text


def _listed(phrases: Sequence[str], most: int) -> str:
    named = list(phrases[:most])
    if len(phrases) > most:
        named.append(f"{len(phrases) - most} more")
    if len(named) == 1:
        return named[0]
    return ", ".join(named[:-1]) + " and " + named[-1]


def _grouped(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Items of one token in several contexts become one, in the place of the first."""
    out: list[dict[str, Any]] = []
    at: dict[tuple[Any, ...], dict[str, Any]] = {}
    for item in items:
        kind, beside = item["kind"], "previous" if item["kind"] == "after" else "next"
        band = item["strength"] >= _STRONG, item["strength"] == 0
        if kind in ("after", "before"):
            key = (kind, item.get("token"), band)
            if key in at:
                at[key]["sides"].append(item[beside])
                at[key]["strength"] = max(at[key]["strength"], item["strength"])
                continue
            at[key] = {**item, "sides": [item[beside]]}
            out.append(at[key])
        else:
            out.append(dict(item))
    return out


def _quoted(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


class _Speaker:
    def __init__(self, record: FeatureRecord, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        sample = record.exemplars["explain"]
        self._ids, self._start = sample.windows.ids, sample.windows.start
        self._acts = sample.activations
        self._quoted_pieces: set[str] = set()

    def phrase(self, item: Mapping[str, Any]) -> str:
        match item["kind"]:
            case "token":
                return self._quote(item["token"])
            case "words":
                first, *rest = item["tokens"]
                plain = all(name.isalnum() or name.startswith("##") for name in item["tokens"])
                named = ", ".join(self._bare(w) if plain else _quoted(w) for w in rest[:_WORDS_NAMED]) + (
                    ", ..." if len(rest) > _WORDS_NAMED else ""
                )
                if item["relation"] == "forms":
                    short, *others = sorted(item["tokens"], key=len)
                    return f"the word {_quoted(self._bare(short))} and its forms ({', '.join(self._bare(w) for w in others[:_WORDS_NAMED])})"
                return f"{self._sort(item['tokens'])} like {_quoted(self._bare(first))} ({named})"
            case "after" | "before":
                sides = " or ".join(dict.fromkeys(_quoted(self._bare_words(side)) for side in item["sides"]))
                what = "the token right" if item.get("token") is None else self._quote(item["token"])
                return f"{what} {item['kind']} {sides}"
            case "class":
                return CLASSES[item["class"]]
            case "number":
                years = item["low"] >= 1000 and item["high"] <= 2100
                return f"{'years' if years else 'numbers'} from {item['low']} to {item['high']}"
            case "topic":
                words = [f'"{self._bare(word)}"' for word in item["words"]]
                return f"passages that mention {' or '.join([', '.join(words[:-1]), words[-1]] if len(words) > 1 else words)}"
            case _:
                return "the first token of a context" if item["place"] == "first" else "the last token of a context"

    def _sort(self, names: Sequence[str]) -> str:
        if all(name.startswith("##") for name in names):
            return "word pieces"
        return (
            "words"
            if all(name.isalpha() for name in names)
            else "numbers"
            if all(name.isdigit() for name in names)
            else "tokens"
        )

    def _bare(self, name: str) -> str:
        return f"-{name[2:]}" if name.startswith("##") else name

    def _bare_words(self, names: Sequence[str]) -> str:
        """Tokens in a row, joined as they are written."""
        out = ""
        for name in names:
            out += name[2:] if name.startswith("##") and out else (" " if out else "") + self._bare(name)
        return out

    def _quote(self, name: str) -> str:
        word = self._word_around(name)
        quoted = _quoted(self._bare(name))
        return f"{quoted} (as in {_quoted(word)})" if word else quoted

    def _word_around(self, name: str) -> str | None:
        """The longer word in which a piece fires most, if it fires mostly inside longer words."""
        token = self._vocabulary.find(name)
        here = self._ids[:, self._start : self._start + self._acts.shape[1]]
        strength = np.where(here == token, self._acts, 0)
        if token is None or not strength.any():
            return None
        mass: dict[str, float] = {}
        for row, column in zip(*np.nonzero(strength), strict=True):
            word = self._whole(self._ids[row], self._start + int(column))
            mass[word] = mass.get(word, 0.0) + float(strength[row, column])
        longer = {word: m for word, m in mass.items() if word != self._vocabulary.pieces[token]}
        return max(longer, key=lambda w: longer[w]) if sum(longer.values()) > _PART * sum(mass.values()) else None

    def _whole(self, ids: Sequence[int], at: int) -> str:
        v = self._vocabulary
        first = last = at
        while first > 0 and ids[first - 1] != PAD and not v.starts_word[ids[first]]:
            first -= 1
        while last + 1 < len(ids) and ids[last + 1] != PAD and not v.starts_word[ids[last + 1]]:
            last += 1
        return v.join([int(i) for i in ids[first : last + 1]])
