"""A run of planted features, harvested and stored, with its doubles at hand: the agents' ground to be tested on."""

from __future__ import annotations

from glossator.agents.run import Run
from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.loading import loading_check
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.tables import harvest_tables
from glossator.store.labels import materialise_labels
from glossator.store.store import Store


def planted_run(
    subject: PlantedSubject, dictionary: PlantedDictionary, corpus: Corpus, found: Harvest, config: HarvestConfig
) -> Run:
    store = Store(":memory:")
    check = loading_check(subject, dictionary, corpus, config)
    store.put_tables(harvest_tables(subject, [dictionary], corpus, ["planted"], found, [check], config))
    materialise_labels(store)
    return Run(store, model=(subject, dictionary))
