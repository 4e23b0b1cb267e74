"""Features that are known functions of text, with their true descriptions: the shared truth of the doubles.

A planted feature maps the tokens of one context to the activation of each. Whoever reads a description can
say where the feature fires, so an explainer, an editor or a score can be checked against the truth and not
against a habit. Clauses that plant a feature have near misses: texts that a description one word too broad
would accept; each feature has a broader and a narrower description besides, which are almost true. The words
are few. No torch, no files; documents depend on (n, seed) alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from glossator.types import WINDOW, Document

Activation = Callable[[Sequence[str]], list[float]]

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
KITCHEN = ("butter", "oven", "flour", "kettle")
SEA = ("ocean", "tide")
YEARS = tuple(str(year) for year in range(1900, 2000))
OTHER_YEARS = tuple(str(year) for year in (*range(1710, 1900, 10), *range(2000, 2050, 5)))
_SLOTS: dict[str, tuple[str, ...]] = {
    "COLOUR": COLOURS,
    "KITCHEN": KITCHEN,
    "SEA": SEA,
    "YEAR": YEARS,
    "OTHER": OTHER_YEARS,
    "THING": (
        "table",
        "cup",
        "lamp",
        "book",
        "door",
        "garden",
        "letter",
        "basket",
        "window",
        "ladder",
        "clock",
        "coat",
    ),
    "PERSON": ("teacher", "farmer", "doctor", "child", "singer", "judge", "baker", "pilot"),
    "VERB": ("carried", "painted", "found", "sold", "moved", "kept", "watched", "mended", "counted", "hid"),
    "ADJ": ("old", "new", "heavy", "quiet", "dusty", "broken", "small"),
    "ING": ("working", "walking", "waiting", "reading", "singing"),
    "OPENER": ("the", "one", "every", "this", "that", "our"),
}
_CLAUSES = (  # equally likely; each plants one feature, is the near miss of one, or only fills
    "a falcon flew over the THING",
    "the KITCHEN stood near the THING",
    "the PERSON bought a COLOUR THING",
    "in YEAR the PERSON VERB it",
    "in OTHER the PERSON VERB it",
    "they sat on the river bank",
    "the PERSON went to the bank",
    "the river passed the THING",
    "the SEA was near",
    "at night the harbour was empty",
    "at noon the harbour was empty",
    "the night was long",
    "a guitar and a THING",
    "the THING was very ADJ",
    "the THING was ADJ",
    "the PERSON saw a bear",
    "the PERSON saw a polar bear",
    "the rain came over the THING",
    "a flood took the THING",
    "the PERSON is ING",
    "the PERSON is ING near the THING",
    "the PERSON VERB the THING",
)
_AND_REACH = 4
_EARLY = 24  # tokens of a context to which a description is narrowed that has no clause to add


@dataclass(frozen=True)
class Nearly:
    """A description that is almost true, and where a feature would be active if it were."""

    description: str
    activation: Activation


@dataclass(frozen=True)
class PlantedFeature:
    """One known feature. `activation` maps the tokens [n] of a context to activations [n] >= 0.

    `broader` is active wherever it is and elsewhere too, `narrower` on a part of that. `missing` and `extra` are its
    description with a clause left out and with one added, where it has clauses. `neighbour` names a feature that shares
    words or a clause with it, `correlated` one that fires on other tokens of the same windows. `triggers`: words without
    one of which it is silent; None: not known.
    """

    name: str
    kind: str
    description: str
    activation: Activation
    broader: Nearly | None = None
    narrower: Nearly | None = None
    missing: Nearly | None = None
    extra: Nearly | None = None
    neighbour: str | None = None
    correlated: str | None = None
    triggers: frozenset[str] | None = None

    @property
    def almost(self) -> dict[str, Nearly]:
        """The descriptions of it that are almost true, by what is wrong with them."""
        found = {name: getattr(self, name) for name in ("broader", "narrower", "missing", "extra")}
        return {name: one for name, one in found.items() if one is not None}


def planted_features() -> tuple[PlantedFeature, ...]:
    """The planted features, in the order of their indices."""
    broader, narrower = _broader(), _narrower()
    return tuple(
        replace(f, broader=broader[f.name], narrower=narrower.get(f.name) or _early(f)) for f in _true_features()
    )


def _true_features() -> tuple[PlantedFeature, ...]:
    return (
        PlantedFeature("falcon", "word", 'the word "falcon"', _word({"falcon": 4.0})),
        PlantedFeature(
            "kitchen", "words", f"the words {_listed(KITCHEN)}", _word(dict.fromkeys(KITCHEN, 3.0))
        ),
        PlantedFeature("colour", "class", "names of colours", _word(dict.fromkeys(COLOURS, 5.0))),
        PlantedFeature("century", "number", "years from 1900 to 1999", _word(dict.fromkeys(YEARS, 6.0))),
        PlantedFeature(
            "river-bank",
            "phrase",
            'the word "bank" just after "river"',
            _where(lambda t, i: 7.0 * (t[i] == "bank" and _before(t, i) == "river")),
        ),
        PlantedFeature(
            "sea", "topic", f"every token of a window that mentions {_listed(SEA, 'or')}", _topic(SEA, 2.0)
        ),
        PlantedFeature(
            "night-harbour",
            "and",
            f'the word "harbour" with "night" among the {_AND_REACH} tokens before it',
            _where(lambda t, i: 5.0 * (t[i] == "harbour" and "night" in t[max(0, i - _AND_REACH) : i])),
        ),
        PlantedFeature(
            "guitar-or-very",
            "or",
            'the word "guitar", and any token just after "very"',
            _where(lambda t, i: 4.0 * (t[i] == "guitar" or _before(t, i) == "very")),
        ),
        PlantedFeature(
            "bear",
            "except",
            'the word "bear", except just after "polar"',
            _where(lambda t, i: 3.0 * (t[i] == "bear" and _before(t, i) != "polar")),
        ),
        PlantedFeature(
            "first", "position", "the first token of a context", _where(lambda _, i: 8.0 * (i == 0))
        ),
        PlantedFeature(
            "wet", "graded", 'the word "flood", and the word "rain" at a third of its strength',
            _word({"flood": 9.0, "rain": 3.0}),
        ),
        PlantedFeature(
            "-ing", "suffix", 'words that end in "-ing"', _where(lambda t, i: 2.0 * t[i].endswith("ing"))
        ),
    )  # fmt: skip


def _broader() -> dict[str, Nearly]:
    adjectives = (*_SLOTS["ADJ"], *COLOURS)
    many = (*SEA, "rain")
    room = (*KITCHEN, "cup", "lamp")
    return {
        "falcon": Nearly('the words "falcon" and "bear"', _word({"falcon": 4.0, "bear": 4.0})),
        "kitchen": Nearly(f"the words {_listed(room)}", _word(dict.fromkeys(room, 3.0))),
        "colour": Nearly("names of colours, and other adjectives", _word(dict.fromkeys(adjectives, 5.0))),
        "century": Nearly("years", _word(dict.fromkeys((*YEARS, *OTHER_YEARS), 6.0))),
        "river-bank": Nearly('the word "bank"', _word({"bank": 7.0})),
        "sea": Nearly(f"every token of a window that mentions {_listed(many, 'or')}", _topic(many, 2.0)),
        "night-harbour": Nearly('the word "harbour"', _word({"harbour": 5.0})),
        "guitar-or-very": Nearly(
            'the word "guitar", and adjectives', _word(dict.fromkeys(("guitar", *_SLOTS["ADJ"]), 4.0))
        ),
        "bear": Nearly('the word "bear"', _word({"bear": 3.0})),
        "first": Nearly("the first four tokens of a context", _where(lambda _, i: 8.0 * (i < 4))),
        "wet": Nearly(
            'the word "flood", and the words "rain", "ocean" and "tide" at a third of its strength',
            _word({"flood": 9.0, "rain": 3.0, "ocean": 3.0, "tide": 3.0}),
        ),
        "-ing": Nearly('words that hold "in"', _where(lambda t, i: 2.0 * ("in" in t[i]))),
    }


def _narrower() -> dict[str, Nearly]:
    """Of the features that have a part to keep; the others are narrowed to the beginning of a context."""
    return {
        "kitchen": Nearly('the word "oven"', _word({"oven": 3.0})),
        "colour": Nearly('the word "red"', _word({"red": 5.0})),
        "century": Nearly("years from 1950 to 1999", _word(dict.fromkeys(YEARS[50:], 6.0))),
        "sea": Nearly(f"the words {_listed(SEA)}", _word(dict.fromkeys(SEA, 2.0))),
        "guitar-or-very": Nearly('the word "guitar"', _word({"guitar": 4.0})),
        "first": Nearly(
            'the word "the" as the first token of a context', _where(lambda t, i: 8.0 * (i == 0 and t[i] == "the"))
        ),
        "wet": Nearly('the word "flood"', _word({"flood": 9.0})),
        "-ing": Nearly('the word "working"', _word({"working": 2.0})),
    }


def _early(feature: PlantedFeature) -> Nearly:
    return Nearly(
        f"{feature.description}, among the first {_EARLY} tokens of a context",
        lambda tokens: [value * (i < _EARLY) for i, value in enumerate(feature.activation(tokens))],
    )


def planted_vocabulary() -> tuple[str, ...]:
    """Every word that planted documents may hold, in alphabetical order."""
    words = {word for clause in _CLAUSES for word in clause.split() if word not in _SLOTS}
    return tuple(sorted(words.union(*_SLOTS.values()) | {"."}))


def planted_tokens(text: str) -> list[str]:
    """Lower-case words, marks one by one, and whatever is written like [THIS] as one token, unchanged."""
    return [t if t[0] == "[" else t.lower() for t in re.findall(r"\[[A-Z]+\]|\w+|[^\w\s]", text)]


def planted_documents(n: int, seed: int = 0) -> list[Document]:
    """`n` documents of one to two passages of 30 to 80 tokens, in which every planted feature is active.

    About 400 documents give each feature more than 30, 20 and 30 active windows in the three splits.
    """
    draw = random.Random(f"planted {seed}")
    return [
        Document(f"planted:{number:05d}", tuple(_passage(draw) for _ in range(draw.randint(1, 2))))
        for number in range(n)
    ]


def _passage(draw: random.Random) -> str:
    wanted = draw.randint(30, 80)
    tokens: list[str] = []
    while len(tokens) < wanted:
        clause = draw.choice(_CLAUSES).split()
        words = [draw.choice(_SLOTS[w]) if w in _SLOTS else w for w in clause]
        tokens += [draw.choice(_SLOTS["OPENER"]), *words[1:], "."] if words[0] == "the" else [*words, "."]
    return " ".join(tokens)


def _where(activation: Callable[[Sequence[str], int], float]) -> Activation:
    return lambda tokens: [float(activation(tokens, i)) for i in range(len(tokens))]


def _word(strength: dict[str, float]) -> Activation:
    return lambda tokens: [strength.get(token, 0.0) for token in tokens]


def _topic(words: Sequence[str], strength: float) -> Activation:
    def activation(tokens: Sequence[str]) -> list[float]:
        windows = [tokens[i : i + WINDOW] for i in range(0, len(tokens), WINDOW)]
        return [strength * any(word in window for word in words) for window in windows for _ in window]

    return activation


def _before(tokens: Sequence[str], i: int) -> str | None:
    return tokens[i - 1] if i else None


def _listed(words: Sequence[str], last: str = "and") -> str:
    quoted = [f'"{word}"' for word in words]
    return ", ".join(quoted[:-1]) + f" {last} {quoted[-1]}" if len(quoted) > 2 else f" {last} ".join(quoted)
