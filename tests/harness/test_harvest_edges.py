"""Odd input to a harvest: numbers that cannot be used, documents of almost nothing, quiet shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glossator.config import HarvestConfig
from glossator.errors import DictionaryError, HarvestError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found, background_windows, shard_ranges, without_top
from glossator.harness.parts import part_of
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.subject import TokenBatch
from glossator.planted import planted_documents
from glossator.types import Document
from tests.harness.brute import assert_background_equals, assert_sketches_equal, assert_statistics_equal, brute_harvest
from tests.harness.planted_runs import contents, corpus_of, n_shards, planted_truth, run

# ------------------------------------------------------------------ numbers that cannot be used


class _Poisoned(PlantedSubject):
    """Gives `poison` wherever the word "falcon" stands, or on [SEP] alone."""

    def __init__(self, poison: float, where: str = "falcon") -> None:
        super().__init__()
        self._poison, self._where = poison, self._ids[where]

    def read(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        out = super().read(batch)
        for values in out.values():
            values[batch.ids == self._where] = self._poison
        return out


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -1.0])
def test_activations_that_cannot_be_used_name_their_document(tmp_path: Path, poison: float) -> None:
    plain = [d for d in planted_documents(120) if not any("falcon" in passage for passage in d.passages)]
    culprit = Document("the culprit", ("then the falcon flew over the old lamp",))
    corpus = corpus_of([*plain[:30], culprit, *plain[30:]])
    config = HarvestConfig(batch_tokens=512, encode_tokens=256, shard_tokens=1024)
    with pytest.raises(HarvestError, match="document the culprit, dictionary planted: "):
        run(corpus, config, tmp_path, subject=_Poisoned(poison))
    owners = [corpus.context_document[begin:end] for begin, end in shard_ranges(corpus, config.shard_tokens)]
    bad = next(i for i, documents in enumerate(owners) if 30 in documents)
    (kept,) = tmp_path.iterdir()
    part = part_of(kept)
    assert part.first == 0 < part.last <= bad  # shards before it, and nothing half done


def test_what_is_not_content_may_be_anything(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    found = run(planted_corpus, planted_config, tmp_path, subject=_Poisoned(float("nan"), "[SEP]"))
    assert contents(found) == contents(planted_found)


def test_a_dictionary_of_another_width_is_refused_before_the_pass(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path
) -> None:
    with pytest.raises(DictionaryError, match=r"reads 5 dimensions.*gives 12"):
        run(planted_corpus, planted_config, tmp_path / "new", dictionary=PlantedDictionary(5))
    assert not (tmp_path / "new").exists()


# ------------------------------------------------------------------ odd documents


def test_documents_of_one_token_and_of_special_tokens_only_are_harvested(tmp_path: Path) -> None:
    documents = planted_documents(60, seed=1)
    documents += [Document("one", ("falcon",)), Document("masked", ("[SEP] [PAD] zebra [UNK]",))]
    corpus = corpus_of(documents)
    config = HarvestConfig(top=100, sample=100, batch_tokens=512, encode_tokens=256, shard_tokens=1024)
    found = run(corpus, config, tmp_path)
    truth = planted_truth(PlantedSubject(), corpus)
    assert_sketches_equal(found, brute_harvest(corpus, truth, config), 12)
    assert_statistics_equal(found, corpus, truth)
    one, masked = corpus.names.index("one"), corpus.names.index("masked")
    kept = corpus.window_document[found.top["window"]]
    assert one in kept and masked not in kept


def test_a_shard_in_which_nothing_is_active_does_not_change_the_types(tmp_path: Path) -> None:
    words = ["the", "lamp", "stood", "near", "table", "then", "they", "found", "it", "carried", "book", "door"]
    draw = np.random.default_rng(0)
    quiet = [Document(f"quiet {i}", (" ".join(draw.choice(words, 60)),)) for i in range(40)]
    corpus = corpus_of([*quiet, *planted_documents(40)])
    features = PlantedSubject().features[:5]  # none of them knows the quiet words
    config = HarvestConfig(batch_tokens=512, encode_tokens=256, shard_tokens=1024)
    found = run(corpus, config, tmp_path, subject=PlantedSubject(features))
    assert n_shards(corpus, config) > 3
    types = {name: column.dtype for name, column in found.background.items()}
    assert types == {"window": np.int32, "position": np.uint8, "feature": np.int32, "value": np.float32}
    assert_background_equals(found, brute_harvest(corpus, planted_truth(PlantedSubject(features), corpus), config))


def test_the_sample_is_drawn_from_the_windows_that_are_not_top() -> None:
    top = {"group": np.asarray([0, 0, 1]), "window": np.asarray([4, 2, 4])}
    sample = {
        "group": np.asarray([0, 0, 0, 0, 1, 1]),
        "window": np.asarray([2, 7, 4, 9, 2, 4]),
        "key": np.asarray([60, 50, 40, 30, 20, 10]),
        "active": np.asarray([1, 2, 1, 1, 1, 1], np.uint8),
        "position": np.asarray([0, 1, 2, 3, 4, 5, 6], np.uint8),
        "value": np.arange(1, 8, dtype=np.float32),
    }
    kept = without_top(sample, top, 1)
    assert kept["window"].tolist() == [7, 2]
    assert kept["value"].tolist() == [2, 3, 6]
    assert kept["active"].tolist() == [2, 1]


def test_background_windows_are_a_uniform_draw_of_each_split(planted_corpus: Corpus) -> None:
    counts = np.zeros(len(planted_corpus.window_id))
    for seed in range(300):
        chosen = background_windows(planted_corpus, HarvestConfig(background=(100, 50, 100), seed=seed))
        assert np.bincount(planted_corpus.window_split[chosen]).tolist() == [100, 50, 100]
        counts[chosen] += 1
    for split, size in enumerate((100, 50, 100)):
        members = counts[planted_corpus.window_split == split]
        expected = 300 * size / len(members)
        spread = expected * (1 - size / len(members))
        assert ((members - expected) ** 2 / spread).mean() == pytest.approx(1, abs=0.2)
