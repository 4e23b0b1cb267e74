"""A run of planted features for each test of the agents: harvested, not yet labelled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glossator.agents.run import Run
from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from tests.agents.planted_run import planted_run


@pytest.fixture
def run(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    made = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    yield made
    made.store.close()
