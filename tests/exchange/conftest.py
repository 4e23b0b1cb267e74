"""Two run files of one planted dictionary: one that is labelled and scored, one as it was harvested."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.config import EditorConfig, HarvestConfig, LexicalConfig, ScoreConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.rows import ExplanationRow
from tests.agents.planted_run import planted_run

HOSTILE = '</script>]]> "quoted", \\ back, é 漢 😀; =1+1'


@pytest.fixture(scope="module")
def labelled(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    run = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    pipeline.label(run, LexicalConfig(), EditorConfig(), ScoreConfig())
    name = run.dictionary
    run.store.put_now(
        ExplanationRow("o", name, 0, "oneshot", "small model", HOSTILE, None, False, None, "r"),
        ExplanationRow("c", name, 0, "best_of:candidate", "small model", "weighed and not taken", None, False, None, "r"),
        ExplanationRow("i", name, 0, "imported:theirs", None, "of somebody else", None, False, None, "r"),
    )  # fmt: skip
    yield run
    run.store.close()


@pytest.fixture
def other(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    run = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    yield run
    run.store.close()
