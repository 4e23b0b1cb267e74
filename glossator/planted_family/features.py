"""Ten kinds of planted features, two neighbours of each kind in a block, and what is said where they fire.

Of two neighbours each is what a label of the other would cover if it were too broad: they share a word, a clause or a
class. That is where real labels go wrong, and it makes false alarms rare: no more frequent than one feature among
hundreds. The second one of `word` is too broad in a way that no other feature knows of; that is rarer still.

Noun phrases hold slots in capitals (words.SLOTS). `fires`: with any of them the feature is active; `misses`: with none of
them, though a label that is almost right says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from glossator.planted import Activation, Nearly, PlantedFeature
from glossator.planted_family import words
from glossator.types import WINDOW

KINDS = ("word", "class", "pattern", "phrase", "topic", "and", "or", "except", "position", "graded")
BLOCK = 2 * len(KINDS)
MOST = BLOCK * words.BLOCKS
EARLY = 12  # tokens at the beginning of a context where the first one of `position` fires
_FIRST = 4
_REACH = 4

_Where = Callable[[Sequence[str], int], bool]


@dataclass(frozen=True)
class Planted:
    """A feature, and the noun phrases that its text is made of. early: they stand at the beginning of a context."""

    feature: PlantedFeature
    fires: tuple[str, ...]
    misses: tuple[str, ...] = ()
    early: bool = False


def planted(n: int, seed: int) -> tuple[Planted, ...]:
    """Blocks of twenty: a pair of each kind, the first of a pair at an even index. Raises ValueError for other numbers."""
    if n % BLOCK or not 0 < n <= MOST:
        raise ValueError(f"{n} planted features: take a multiple of {BLOCK}, at most {MOST}")
    rows = {kind: list(range(words.BLOCKS)) for kind in KINDS}
    for kind, order in rows.items():
        random.Random(f"planted family {seed} {kind}").shuffle(order)
    found: list[Planted] = []
    for block in range(n // BLOCK):
        found += _block({kind: order[block] for kind, order in rows.items()})
    return tuple(found)


def _block(row: Mapping[str, int]) -> list[Planted]:
    pairs = [_PAIRS[kind](row[kind]) for kind in KINDS]
    names = [[one.feature.name for one in pair] for pair in pairs]
    half = len(KINDS) // 2
    found = []
    for number, pair in enumerate(pairs):
        for side, one in enumerate(pair):
            beside = names[number][1 - side]
            companion = names[(number + half) % len(KINDS)][side]
            found.append(replace(one, feature=replace(one.feature, neighbour=beside, correlated=companion)))
    return found


# --------------------------------------------------------------------------- the kinds


def _words(row: int) -> list[Planted]:
    a, b, c = words.WORDS[row]

    def one(word: str, more: tuple[str, str], misses: tuple[str, ...]) -> Planted:
        feature = PlantedFeature(
            f"word:{word}", "word", f'the word "{word}"', _on({word: 4.0}),
            Nearly(f"the words {_listed(more)}", _on(dict.fromkeys(more, 4.0))),
            _after_the(word), triggers=frozenset({word}),
        )  # fmt: skip
        return Planted(feature, _plain(word), misses)

    return [one(a, (a, b), ()), one(b, (b, c), (f"DET {c}",))]


def _classes(row: int) -> list[Planted]:
    name, shown, members, other, other_shown, others = words.CLASSES[row]

    def one(mine: str, beside: str, shown: str, members: list[str], others: list[str]) -> Planted:
        few = members[:3]
        feature = PlantedFeature(
            f"class:{mine}", "class", mine, _on(dict.fromkeys(members, 5.0)),
            Nearly(f"{mine}, and {beside}", _on(dict.fromkeys([*members, *others], 5.0))),
            Nearly(f"the words {_listed(few)}", _on(dict.fromkeys(few, 5.0))), triggers=frozenset(members),
        )  # fmt: skip
        return Planted(feature, tuple(shown.format(word) for word in members))

    both = members.split(), others.split()
    return [one(name, other, shown, *both), one(other, name, other_shown, both[1], both[0])]


def _patterns(row: int) -> list[Planted]:
    return _endings(*words.ENDINGS[row]) if row < len(words.ENDINGS) else _numbers(row - len(words.ENDINGS))


def _endings(a: str, shown_a: str, words_a: str, b: str, shown_b: str, words_b: str) -> list[Planted]:
    def one(ending: str, other: str, shown: str, members: list[str]) -> Planted:
        few = members[:3]
        feature = PlantedFeature(
            f"pattern:-{ending}", "pattern", f'words that end in "-{ending}"', _ends(ending),
            Nearly(f'words that end in "-{ending}" or "-{other}"', _ends(ending, other)),
            Nearly(f"the words {_listed(few)}", _on(dict.fromkeys(few, 2.0))), triggers=frozenset(members),
        )  # fmt: skip
        return Planted(feature, tuple(shown.format(word) for word in members))

    return [one(a, b, shown_a, words_a.split()), one(b, a, shown_b, words_b.split())]


def _numbers(row: int) -> list[Planted]:
    name, low, high, step, other_low, other_high, other_step = words.NUMBERS[row]
    lowest, highest = min(low, other_low), max(high, other_high)

    def one(low: int, high: int, step: int) -> Planted:
        middle = (low + high + 1) // 2
        shown = [str(number) for number in range(low, high + 1, step)]
        feature = PlantedFeature(
            f"pattern:{low}-{high}", "pattern", f"{name} from {low} to {high}", _between(low, high),
            Nearly(f"{name} from {lowest} to {highest}", _between(lowest, highest)),
            Nearly(f"{name} from {middle} to {high}", _between(middle, high)), triggers=frozenset(shown),
        )  # fmt: skip
        return Planted(feature, tuple(f"DET map of {number}" for number in shown))

    return [one(low, high, step), one(other_low, other_high, other_step)]


def _phrases(row: int) -> list[Planted]:
    word, p, q = words.PHRASES[row]

    def one(before: str) -> Planted:
        feature = PlantedFeature(
            f"phrase:{before} {word}", "phrase", f'the word "{word}" just after "{before}"',
            _on({word: 7.0}, _after(before)),
            Nearly(f'the word "{word}"', _on({word: 7.0})),
            Nearly(f'the word "{word}" just after "the {before}"', _on({word: 7.0}, _after("the", before))),
            triggers=frozenset({word}),
        )  # fmt: skip
        return Planted(feature, (f"DET {before} {word}",), _plain(word))

    return [one(p), one(q)]


def _topics(row: int) -> list[Planted]:
    a, b, c, d = words.TOPICS[row]

    def one(mine: tuple[str, str], other: tuple[str, str]) -> Planted:
        def said(about: Sequence[str]) -> Nearly:
            return Nearly(f"every token of a window that mentions {_listed(about, 'or')}", _topic(about))

        right = said(mine)
        feature = PlantedFeature(
            f"topic:{mine[0]}", "topic", right.description, right.activation, said((*mine, *other)), said(mine[:1]),
            triggers=frozenset(mine),
        )  # fmt: skip
        return Planted(feature, (*_plain(mine[0]), *_plain(mine[1])))

    return [one((a, b), (c, d)), one((c, d), (a, b))]


def _ands(row: int) -> list[Planted]:
    word, b, c, d = words.ANDS[row]

    def one(before: str, other: str) -> Planted:
        def after(*wanted: str) -> _Where:
            return lambda t, i: any(one in t[max(0, i - _REACH) : i] for one in wanted)

        def said(activation: Activation, text: str) -> Nearly:
            return Nearly(text.format(f"among the {_REACH} tokens"), activation)

        right = f'the word "{word}" with "{before}" {{0}} before it'
        feature = PlantedFeature(
            f"and:{before} {word}", "and", said(_on({}), right).description, _on({word: 5.0}, after(before)),
            said(_on({word: 5.0}, after(before, other)), f'the word "{word}" with "{before}" or "{other}" {{0}} before it'),
            said(
                _on({word: 5.0}, lambda t, i: after(before)(t, i) and _after("the")(t, i)),
                f'the word "{word}" just after "the", with "{before}" {{0}} before it',
            ),
            missing=Nearly(f'the word "{word}"', _on({word: 5.0})),
            extra=said(
                _on({word: 5.0}, lambda t, i: after(before)(t, i) and d in t[i + 1 : i + 1 + _REACH]),
                f'{right} and "{d}" {{0}} after it',
            ),
            triggers=frozenset({word}),
        )  # fmt: skip
        fires = f"DET {before} by DET {word}", f"DET {before} by DET {word} with the {d}"
        return Planted(feature, fires, (f"DET {word}", f"DET {word} with the {d}"))

    return [one(b, c), one(c, b)]


def _ors(row: int) -> list[Planted]:
    a, b, second, before, d = words.ORS[row]

    def one(word: str) -> Planted:
        def either(first: _Where | None = None, then: _Where | None = None, more: str = "") -> Activation:
            ways = {word: first, second: then, more: None}
            return _on(
                {word: 4.0, second: 4.0} | ({more: 4.0} if more else {}), lambda t, i: not (w := ways[t[i]]) or w(t, i)
            )

        late = _after(before)
        clause = f'the word "{second}" just after "{before}"'
        feature = PlantedFeature(
            f"or:{word}", "or", f'the word "{word}", and {clause}', either(then=late),
            Nearly(f'the words "{word}" and "{second}"', either()),
            Nearly(f'the word "{word}" just after "the", and {clause}', either(_after("the"), late)),
            missing=Nearly(f'the word "{word}"', _on({word: 4.0})),
            extra=Nearly(f'the words "{word}" and "{d}", and {clause}', either(then=late, more=d)),
            triggers=frozenset({word, second}),
        )  # fmt: skip
        return Planted(feature, (*_plain(word), f"DET {before} {second}"), (*_plain(second), f"DET {d}"))

    return [one(a), one(b)]


def _exceptions(row: int) -> list[Planted]:
    a, b, p, q = words.EXCEPTIONS[row]

    def one(word: str, other: str) -> Planted:
        def but(*before: str) -> _Where:
            return lambda t, i: not (i and t[i - 1] in before)

        feature = PlantedFeature(
            f"except:{word}", "except", f'the word "{word}", except just after "{p}"', _on({word: 3.0}, but(p)),
            Nearly(f'the words "{word}" and "{other}", except just after "{p}"', _on({word: 3.0, other: 3.0}, but(p))),
            _after_the(word),
            missing=Nearly(f'the word "{word}"', _on({word: 3.0})),
            extra=Nearly(f'the word "{word}", except just after "{p}" or "{q}"', _on({word: 3.0}, but(p, q))),
            triggers=frozenset({word}),
        )  # fmt: skip
        return Planted(feature, (*_plain(word), f"DET {q} {word}"), (f"DET {p} {word}",))

    return [one(a, b), one(b, a)]


def _positions(row: int) -> list[Planted]:
    word = words.PLACES[row]
    begins = f"among the first {EARLY} tokens of a context"
    very = f'the word "{word}" among the first {_FIRST} tokens of a context'
    later = f"after the first {EARLY} tokens of a context"
    anywhere = Nearly(f'the word "{word}"', _on({word: 8.0}))
    early = PlantedFeature(
        f"position:early {word}", "position", f'the word "{word}" {begins}', _on({word: 8.0}, lambda _, i: i < EARLY),
        anywhere, Nearly(very, _on({word: 8.0}, lambda _, i: i < _FIRST)), triggers=frozenset({word}),
    )  # fmt: skip
    late = PlantedFeature(
        f"position:late {word}", "position", f'the word "{word}" {later}', _on({word: 8.0}, lambda _, i: i >= EARLY),
        anywhere,
        Nearly(f'the word "{word}" just after "the", {later}', _on({word: 8.0}, lambda t, i: i >= EARLY and t[i - 1] == "the")),
        triggers=frozenset({word}),
    )  # fmt: skip
    return [Planted(early, _plain(word), early=True), Planted(late, _plain(word))]


def _grades(row: int) -> list[Planted]:
    a, b, c = words.GRADES[row]

    def one(strong: str, weak: str, also: str) -> Planted:
        third = "at a third of its strength"
        feature = PlantedFeature(
            f"graded:{strong}", "graded", f'the word "{strong}", and the word "{weak}" {third}',
            _on({strong: 9.0, weak: 3.0}),
            Nearly(f'the word "{strong}", and the words "{weak}" and "{also}" {third}', _on({strong: 9.0, weak: 3.0, also: 3.0})),
            Nearly(f'the word "{strong}"', _on({strong: 9.0})), triggers=frozenset({strong, weak}),
        )  # fmt: skip
        return Planted(feature, (*_plain(strong), f"DET {weak}"))

    return [one(a, b, c), one(b, c, a)]


_PAIRS: dict[str, Callable[[int], list[Planted]]] = dict(
    zip(
        KINDS,
        (_words, _classes, _patterns, _phrases, _topics, _ands, _ors, _exceptions, _positions, _grades),
        strict=True,
    )
)


# --------------------------------------------------------------------------- what they are made of


def _on(strengths: Mapping[str, float], where: _Where | None = None) -> Activation:
    """Active on these words, where a condition holds."""
    found = dict(strengths)
    if where is None:
        return lambda tokens: [found.get(token, 0.0) for token in tokens]
    holds = where
    return lambda tokens: [found[t] if t in found and holds(tokens, i) else 0.0 for i, t in enumerate(tokens)]


def _after(*before: str) -> _Where:
    wanted, size = list(before), len(before)
    return lambda t, i: i >= size and list(t[i - size : i]) == wanted


def _ends(*endings: str) -> Activation:
    return lambda tokens: [2.0 if t.endswith(endings) else 0.0 for t in tokens]


def _between(low: int, high: int) -> Activation:
    return lambda tokens: [6.0 if t.isdecimal() and t.isascii() and low <= int(t) <= high else 0.0 for t in tokens]


def _topic(about: Sequence[str]) -> Activation:
    wanted = frozenset(about)

    def activation(tokens: Sequence[str]) -> list[float]:
        windows = [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)]
        return [2.0 * (not wanted.isdisjoint(window)) for window in windows for _ in window]

    return activation


def _after_the(word: str) -> Nearly:
    return Nearly(f'the word "{word}" just after "the"', _on({word: 4.0}, _after("the")))


def _plain(word: str) -> tuple[str, ...]:
    return f"DET {word}", f"DET ADJ {word}"


def _listed(members: Sequence[str], last: str = "and") -> str:
    quoted = [f'"{word}"' for word in members]
    return ", ".join(quoted[:-1]) + f" {last} {quoted[-1]}" if len(quoted) > 2 else f" {last} ".join(quoted)
