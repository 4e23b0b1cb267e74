"""Text in which every feature of the planted family is active, and in which its near misses stand too, but rarely.

A passage is a row of sentences. Most are about a feature drawn by chance, and half of those are followed by one about the
feature that is correlated with it. Some hold what a label would wrongly accept, some are about nothing.
"""

from __future__ import annotations

import random
import re

from glossator.planted import planted_tokens
from glossator.planted_family import words
from glossator.planted_family.features import Planted, planted
from glossator.types import Document

_ABOUT, _MISSES = 0.72, 0.10  # shares of sentences; the others are about nothing
_FOLLOWED = 0.5
_BEGINS = 0.5  # share of passages that begin with what only counts there
_DOCUMENTS = 14  # a feature
_PASSAGE = (50, 120)  # tokens


def documents(n: int, seed: int, size: int | None = None) -> list[Document]:
    """About the features of `planted(n, seed)`; `size` documents of one or two passages, 14 a feature if not given."""
    made = planted(n, seed)
    draw = random.Random(f"planted family text {n} {seed}")
    by_name = {one.feature.name: one for one in made}
    companion = {name: by_name[str(one.feature.correlated)] for name, one in by_name.items()}
    late = [one for one in made if not one.early]
    early = [one for one in made if one.early]
    missed = [one for one in made if one.misses]

    def about(one: Planted) -> list[str]:
        found = [sentence(draw, draw.choice(one.fires))]
        other = companion[one.feature.name]
        if not other.early and draw.random() < _FOLLOWED:
            found.append(sentence(draw, draw.choice(other.fires)))
        return found

    def passage() -> str:
        wanted, said, length = draw.randint(*_PASSAGE), list[str](), 0
        while length < wanted:
            chance = draw.random()
            if not said and chance < _BEGINS:
                new = about(draw.choice(early))
            elif chance < _ABOUT:
                new = about(draw.choice(late))
            elif chance < _ABOUT + _MISSES:
                new = [sentence(draw, draw.choice(draw.choice(missed).misses))]
            else:
                new = [filled(draw, draw.choice(words.FILLERS)) + " ."]
            said += new
            length += sum(len(one.split()) for one in new)
        return " ".join(said)

    return [
        Document(f"planted:{number:05d}", tuple(passage() for _ in range(draw.randint(1, 2))))
        for number in range(_DOCUMENTS * n if size is None else size)
    ]


def sentence(draw: random.Random, phrase: str) -> str:
    """A noun phrase in some sentence."""
    return filled(draw, draw.choice(words.FRAMES).format(phrase)) + " ."


def filled(draw: random.Random, text: str) -> str:
    """Slots in capitals, each with a word of its own."""
    return " ".join(draw.choice(words.SLOTS[word]) if word in words.SLOTS else word for word in text.split())


def vocabulary(n: int, seed: int) -> tuple[str, ...]:
    """Every word that documents may hold, in alphabetical order."""
    texts = [*words.FRAMES, *words.FILLERS]
    for one in planted(n, seed):
        texts += [*one.fires, *one.misses]
    found = {token for text in texts for token in planted_tokens(re.sub(r"\b[A-Z]+\b|\{\}", " ", text))}
    return tuple(sorted(found.union(*words.SLOTS.values()) | {"."}))
