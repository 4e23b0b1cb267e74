"""How the oracle answers the editor's question: texts that put labels to the test.

It writes as a model does that has understood the labels: it knows what each of them would make a feature do, and what the
feature really does, and looks for texts by putting pieces of firing windows, and words that labels name, into pieces of
silent ones. A positive text fires by one of the labels; a near miss is one on which a label and the truth differ, or two
labels do, where it finds one; small changes flip the truth, or the label.

Where it errs, which hangs on the word that a text turns on, as everywhere, the text is not what it should be: one that is
silent instead of one that fires, and the other way round. Labels that it knows nothing of say nothing; then the truth is all
it goes by. Prompts are read as text, as a model reads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from glossator.llm.oracle_explains import Knows, Window, plain, read_groups
from glossator.planted import Activation, PlantedFeature
from glossator.types import Request, content_id

_Answer = dict[str, Any]
_Wish = Callable[[Sequence[str]], bool]
_CONTEXT = 9  # tokens of a silent window around what is put into it
_TRIES = 160  # texts that are looked at for one that serves
_WANTED = re.compile(r"(\d+) (\w+)")


@dataclass(frozen=True)
class _Seen:
    """What a prompt shows. pieces: what may make a feature fire, the shortest last; contexts: silent text."""

    firing: list[Window]
    silent: list[Window]
    pieces: list[list[str]]
    contexts: list[list[str]]


def editing(oracle: Knows) -> dict[str, Callable[[Request], _Answer]]:
    """Its answer by the purpose of the question."""
    return {"probe:edit": lambda request: _edits(oracle, request)}


def _edits(oracle: Knows, request: Request) -> _Answer:
    text = request.messages[1].text
    lines = text.splitlines()
    end = next((i for i in range(2, len(lines)) if not lines[i].startswith('"')), len(lines))
    labels: list[str] = [json.loads(line) for line in lines[2:end]]
    wanted = {kind: int(n) for n, kind in _WANTED.findall(lines[-1])}
    groups = read_groups(text)
    feature = _about(oracle, request, labels)
    claims = [oracle.meanings[plain(label)] for label in labels if plain(label) in oracle.meanings]
    truth = feature.activation
    known = {word for other in oracle.features for word in other.triggers or ()}
    named = [word for word in sorted(known) if any(any(meaning([word])) for meaning in (truth, *claims))]
    seen = _seen(feature, labels, named, (groups.get("firing", []), groups.get("silent", [])))

    def says(tokens: Sequence[str]) -> list[bool]:
        return [any(claim(tokens)) for claim in claims or [truth]]

    def fires_by_a_label(tokens: Sequence[str]) -> bool:
        return any(says(tokens))

    def divides(number: int) -> _Wish:
        """Labels in turn: on which texts this one and the truth differ."""
        return lambda tokens: says(tokens)[number % len(claims or [truth])] != any(truth(tokens))

    def divided(tokens: Sequence[str]) -> bool:
        return any(said != any(truth(tokens)) for said in says(tokens))

    def nearly(tokens: Sequence[str]) -> bool:
        return not any(says(tokens))

    return {
        "positive": _texts(oracle, seen, wanted.get("positive", 0), lambda _: [fires_by_a_label], "positive"),
        "boundary": _texts(
            oracle, seen, wanted.get("boundary", 0), lambda n: [divides(n), divided, nearly], "boundary"
        ),
        "minimal_off": _changes(oracle, seen, seen.firing, wanted.get("minimal_off", 0), truth, 1),
        "minimal_on": _changes(oracle, seen, seen.silent, wanted.get("minimal_on", 0), truth, 1 + len(seen.firing)),
    }


def _about(oracle: Knows, request: Request, labels: Sequence[str]) -> PlantedFeature:
    """The feature that the question is about; if it does not say so, the one that a label is nearest to."""
    index = (request.about or "").rpartition("/")[2]
    if index.isdecimal() and int(index) < len(oracle.features):
        return oracle.features[int(index)]
    said = {plain(label) for label in labels}
    named = [
        f for f in oracle.features if said & {plain(f.description), *(plain(n.description) for n in f.almost.values())}
    ]
    return (named or list(oracle.features))[0]


def _seen(
    feature: PlantedFeature, labels: Sequence[str], words: Sequence[str], shown: tuple[list[Window], list[Window]]
) -> _Seen:
    """words: those that alone make the feature fire, or would by a label."""
    firing, silent = shown
    pieces: list[list[str]] = []
    for _, tokens, strengths in firing:
        if any(strengths):
            peak = strengths.index(max(strengths))
            pieces += [tokens[max(0, peak - reach) : peak + 1 + reach] for reach in (3, 1, 0)]
    described = [*labels, feature.description, *(nearly.description for nearly in feature.almost.values())]
    quoted = list(dict.fromkeys(word for text in described for word in re.findall(r'"(\w+)"', text)))
    for phrase in [piece for piece in pieces if len(piece) > 1]:  # what one label has in the place of another's word
        pieces += [[b if t == a else t for t in phrase] for a in quoted if a in phrase for b in quoted if b != a]
    pieces += [[word] for word in quoted]
    pieces += [[word] for word in words]
    contexts = [tokens[i : i + _CONTEXT] for _, tokens, _ in silent for i in range(0, len(tokens) - _CONTEXT, 4)]
    return _Seen(firing, silent, pieces or [["the"]], contexts or [["it", "is", "there"]])


def _texts(oracle: Knows, seen: _Seen, n: int, wishes_of: Callable[[int], Sequence[_Wish]], kind: str) -> list[str]:
    """`n` texts that serve the first wish of each, else the next; where it errs, one that does not."""
    found: list[str] = []
    used: set[str] = set()
    for number in range(n):
        wishes = wishes_of(number)
        made = [one for one in _made(seen, f"{kind} {number}") if one[1] not in used] or list(_made(seen, kind))
        serving = next((good for wish in wishes if (good := [t for t in made if wish(t[0])])), made)
        tokens, word = serving[0]
        if oracle.errs_on(f"{kind} {word}"):
            tokens, word = next((t for t in made if not wishes[0](t[0])), (tokens, word))
        used.add(word)
        found.append(" ".join(tokens))
    return found


def _made(seen: _Seen, what: str) -> Iterator[tuple[list[str], str]]:
    """Texts with the word that they turn on, in an order of their own: a piece in the middle of a context."""
    pairs = [(p, c) for p in range(len(seen.pieces)) for c in range(len(seen.contexts))]
    for p, c in sorted(pairs, key=lambda pair: content_id(what, *pair))[:_TRIES]:
        piece, context = seen.pieces[p], seen.contexts[c]
        middle = len(context) // 2
        yield [*context[:middle], *piece, *context[middle:]], piece[-1]


def _changes(
    oracle: Knows, seen: _Seen, windows: Sequence[Window], n: int, truth: Activation, first: int
) -> list[_Answer]:
    """One word of a window replaced so that the truth flips; where it errs, so that it does not."""
    found: list[_Answer] = []
    plain_words = sorted({word for context in seen.contexts for word in context if word.isalpha()})
    for number in range(n if windows else 0):
        at = number % len(windows)
        _, tokens, strengths = windows[at]
        fired = any(strengths)
        news = [[word] for word in plain_words] if fired else [piece for piece in seen.pieces if len(piece) < 4]
        peak = strengths.index(max(strengths)) if fired else None
        places = [i for i in range(len(tokens)) if tokens[i].isalpha()]
        order = sorted(places, key=lambda i: (abs(i - peak) if peak is not None else 0, content_id(number, i)))
        tried = [(i, new) for i in order[:6] for new in sorted(news, key=lambda new: content_id(number, i, *new))[:25]]
        wrong = oracle.errs_on(f"change {' '.join(tokens[:3])} {number}")
        for i, new in tried:
            after = [part for t in tokens for part in (new if t == tokens[i] else [t])]
            if (any(truth(after)) != fired) != wrong:
                found.append({"window": first + at, "old": tokens[i], "new": " ".join(new)})
                break
    return found
