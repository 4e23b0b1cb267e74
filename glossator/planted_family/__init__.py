"""Two hundred planted features, their almost true descriptions, and text for them: what scores are put to the test with.

`planted.py` has a dozen features for tests of all kinds; these are as many as rates with intervals need. All of it depends
on (n, seed) alone; nothing is read or written.
"""

from __future__ import annotations

from functools import lru_cache

from glossator.planted import PlantedFeature
from glossator.planted_family.features import BLOCK, KINDS, MOST, Planted, planted
from glossator.planted_family.text import documents as planted_family_documents
from glossator.planted_family.text import filled, sentence
from glossator.planted_family.text import vocabulary as planted_family_vocabulary
from glossator.planted_family.words import FILLERS, SLOTS

__all__ = [
    "BLOCK",
    "FILLERS",
    "KINDS",
    "MOST",
    "SLOTS",
    "Planted",
    "filled",
    "planted",
    "planted_family",
    "planted_family_documents",
    "planted_family_vocabulary",
    "sentence",
]


@lru_cache(maxsize=4)
def planted_family(n: int = MOST, seed: int = 0) -> tuple[PlantedFeature, ...]:
    """The features in the order of their indices: blocks of twenty, two neighbours of each of ten kinds."""
    return tuple(one.feature for one in planted(n, seed))
