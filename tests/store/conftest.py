"""The store that tests of reading share; those of writing open their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found
from glossator.harness.planted_subject import PlantedSubject
from glossator.store.store import Store
from tests.store.stored import stored


@pytest.fixture(scope="package")
def store(
    planted_subject: PlantedSubject, planted_corpus: Corpus, planted_found: Found, planted_config: HarvestConfig
) -> Iterator[Store]:
    with Store(":memory:") as opened:
        yield stored(opened, planted_subject, planted_corpus, planted_found, planted_config)
