"""The planted family, harvested as any model is: what puts scores to the test goes the way that labels go."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from glossator.config import CorpusConfig, HarvestConfig
from glossator.harness.contexts import prepare
from glossator.harness.harvest import Work, harvest
from glossator.harness.loading import loading_check
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.tables import harvest_tables
from glossator.planted import PlantedFeature
from glossator.types import Document


def doubles(
    features: tuple[PlantedFeature, ...], vocabulary: tuple[str, ...]
) -> tuple[PlantedSubject, PlantedDictionary]:
    """The subject whose features these are, and their dictionary."""
    return PlantedSubject(features, vocabulary=vocabulary), PlantedDictionary(features=features)


def harvest_planted(
    features: tuple[PlantedFeature, ...],
    vocabulary: tuple[str, ...],
    documents: list[Document],
    config: HarvestConfig | None = None,
) -> tuple[PlantedSubject, PlantedDictionary, Iterator[tuple[str, pa.Table]]]:
    """The doubles, and the tables of a store."""
    config = config or HarvestConfig()
    subject, dictionary = doubles(features, vocabulary)
    size = subject.context_size - len(subject.prefix) - len(subject.suffix)
    corpus = prepare(documents, subject.tokenize, size, CorpusConfig())
    with tempfile.TemporaryDirectory(prefix="glossator-planted-") as folder:
        found = harvest(Work(subject, [dictionary], corpus, config), Path(folder))
    check = loading_check(subject, dictionary, corpus, config)
    return subject, dictionary, harvest_tables(subject, [dictionary], corpus, ["planted"], found, [check], config)
