"""Harvests of planted features, and what they must find."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopKSAEConfig

from glossator.config import CorpusConfig, HarvestConfig, Recipe, SubjectConfig
from glossator.harness.contexts import Corpus, prepare
from glossator.harness.harvest import Found, Work, harvest, shard_ranges
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.planted import PlantedFeature, planted_documents
from glossator.types import Document
from tests.harness.brute import Array, unpacked
from tests.harness.small_models import small_gpt2


def planted_truth(subject: PlantedSubject, corpus: Corpus) -> Array:
    """[tokens, features]: the planted functions applied to each context; special tokens count for nothing."""
    out = np.zeros((len(corpus.tokens), subject.d_hook), np.float32)
    for start, length in zip(corpus.context_start, corpus.context_length, strict=True):
        part = slice(start, start + length)
        words = [subject.vocabulary.pieces[t] for t in corpus.tokens[part]]
        out[part] = np.asarray([f.activation(words) for f in subject.features], np.float32).T
    out[subject.vocabulary.special[corpus.tokens]] = 0
    return out


def run(corpus: Corpus, config: HarvestConfig, folder: Path, **more: Any) -> Found:
    """A harvest of planted features."""
    return harvest(
        work_of(corpus, config, more.pop("subject", None), more.pop("dictionary", None)), folder, **more
    ).found[0]


def work_of(
    corpus: Corpus,
    config: HarvestConfig,
    subject: PlantedSubject | None = None,
    dictionary: PlantedDictionary | None = None,
) -> Work:
    subject = subject or PlantedSubject()
    return Work(subject, [dictionary or PlantedDictionary(subject.d_hook)], corpus, config)


def small_recipe(folder: Path, documents: int) -> Recipe:
    """What a process of its own can load: a tiny GPT-2, two random dictionaries at two layers, planted documents."""
    small_gpt2(folder / "model")
    for name, size in (("one", 48), ("two", 64)):
        config = TopKSAEConfig(d_in=16, d_sae=size, k=4, device="cpu")
        SAE.get_sae_class_for_architecture("topk")(config).save_model(folder / name)
    with (folder / "text.jsonl").open("w") as file:
        for document in planted_documents(documents):
            file.write(json.dumps({"name": document.name, "text": " ".join(document.passages)}) + "\n")
    what = SubjectConfig(
        model=str(folder / "model"),
        dictionaries=(str(folder / "one"), str(folder / "two")),
        hooks=("blocks.0.hook_resid_post", "h.1"),
        corpus=(str(folder / "text.jsonl"),),
    )
    config = HarvestConfig(
        top=5, sample=10, background=(60, 30, 60), batch_tokens=512, encode_tokens=512, shard_tokens=2048, threads=1
    )
    return Recipe(subject=what, corpus=CorpusConfig(context_size=64), harvest=config)


def n_shards(corpus: Corpus, config: HarvestConfig) -> int:
    return len(shard_ranges(corpus, config.shard_tokens))


def corpus_of(documents: Sequence[Document], subject: PlantedSubject | None = None) -> Corpus:
    subject = subject or PlantedSubject()
    return prepare(documents, subject.tokenize, subject.context_size - 2, CorpusConfig())


def contents(found: Found) -> list[object]:
    n = len(found.statistics.total)
    background = [found.background[k].tolist() for k in ("window", "position", "feature", "value")]
    return [unpacked(found.top, n), unpacked(found.sample, n), background, found.background_windows.tolist()]


def noise(feature: int) -> PlantedFeature:
    """Real numbers over many octaves that depend on the word and its place: no ties, no round sums."""

    def activation(tokens: Sequence[str]) -> list[float]:
        out = []
        for i, token in enumerate(tokens):
            rng = np.random.default_rng([feature, i, sum(map(ord, token)), len(tokens)])
            out.append(float(np.float32(np.exp(2 * rng.standard_normal())) if rng.random() < 0.03 else 0.0))
        return out

    return PlantedFeature(f"noise {feature}", "noise", "no pattern", activation)
