"""A planted harvest in a store."""

from __future__ import annotations

from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found, Harvest, token_windows
from glossator.harness.loading import loading_check
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.tables import harvest_tables
from glossator.store.store import Store


def stored(store: Store, subject: PlantedSubject, corpus: Corpus, found: Found, config: HarvestConfig) -> Store:
    dictionary = PlantedDictionary(subject.d_hook)
    check = loading_check(subject, dictionary, corpus, config)
    whole = Harvest((found,), token_windows(corpus, config), 1, 1.0)
    store.put_tables(harvest_tables(subject, [dictionary], corpus, ["planted"], whole, [check], config))
    return store
