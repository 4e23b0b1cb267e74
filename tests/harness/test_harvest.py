"""One pass finds what brute force finds, to the bit, whatever it was interrupted by and however it was cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from glossator.config import HarvestConfig
from glossator.errors import HarvestError
from glossator.harness.contexts import Corpus
from glossator.harness.dictionary import SaeDictionary
from glossator.harness.harvest import Harvest, harvest, shard_ranges
from glossator.harness.planted_subject import PlantedSubject
from glossator.harness.subject import HFSubject, TokenBatch
from glossator.planted import PlantedFeature, planted_documents
from tests.harness.brute import (
    Array,
    assert_background_equals,
    assert_sketches_equal,
    assert_statistics_equal,
    assert_token_table_equals,
    brute_harvest,
)
from tests.harness.planted_runs import contents, corpus_of, noise, planted_truth, run

# ------------------------------------------------------------------ against brute force


def test_top_and_sample_windows_are_those_of_brute_force(
    planted_harvest: Harvest, planted_subject: PlantedSubject, planted_corpus: Corpus, planted_config: HarvestConfig
) -> None:
    expected = brute_harvest(planted_corpus, planted_truth(planted_subject, planted_corpus), planted_config)
    assert all(expected.top.values()) and all(expected.sample.values())
    assert_sketches_equal(planted_harvest, expected, planted_subject.d_hook)


def test_background_activations_are_those_of_brute_force(
    planted_harvest: Harvest, planted_subject: PlantedSubject, planted_corpus: Corpus, planted_config: HarvestConfig
) -> None:
    expected = brute_harvest(planted_corpus, planted_truth(planted_subject, planted_corpus), planted_config)
    splits = planted_corpus.window_split[expected.background_windows]
    assert tuple(np.bincount(splits)) == planted_config.background
    assert_background_equals(planted_harvest, expected)


def test_statistics_thresholds_and_token_table_are_those_of_brute_force(
    planted_harvest: Harvest, planted_subject: PlantedSubject, planted_corpus: Corpus
) -> None:
    truth = planted_truth(planted_subject, planted_corpus)
    assert_statistics_equal(planted_harvest, planted_corpus, truth)
    assert_token_table_equals(planted_harvest, planted_corpus, truth)


def never(_tokens: Sequence[str]) -> list[float]:
    return [0.0] * len(_tokens)


def test_real_valued_rare_and_dead_features_are_those_of_brute_force(tmp_path: Path) -> None:
    once = PlantedFeature(
        "once", "rare", "one place", lambda t: [2.5 * (len(t) == 51 and i == 40) for i in range(len(t))]
    )
    features = [noise(0), noise(1), once, PlantedFeature("dead", "dead", "nothing", never)]
    subject = PlantedSubject(features, context_size=80)
    corpus = corpus_of(planted_documents(150, seed=4), subject)
    config = HarvestConfig(
        top=5, sample=9, background=(60, 10**6, 1), batch_tokens=512, encode_tokens=256, shard_tokens=1024, seed=12
    )
    found = run(corpus, config, tmp_path, subject=subject)
    truth = planted_truth(subject, corpus)
    assert found.shards > 5
    expected = brute_harvest(corpus, truth, config)
    assert_sketches_equal(found, expected, 4)
    assert_background_equals(found, expected)
    assert_statistics_equal(found, corpus, truth)
    assert_token_table_equals(found, corpus, truth)
    assert 0 < found.statistics.active_windows[2].sum() < 10
    assert found.statistics.thresholds()[3] == 0 and not found.statistics.active_tokens[3].any()


class Recording:
    """A subject and a dictionary that remember what went through them, to be compared by hand."""

    def __init__(self, subject: HFSubject, dictionary: SaeDictionary) -> None:
        self.batches: list[TokenBatch] = []
        self.encoded: list[torch.Tensor] = []
        self.subject = _Remembering(subject, self._saw)
        self.dictionary = _Remembering(dictionary, self._encoded)

    def _saw(self, subject: HFSubject, batch: TokenBatch) -> torch.Tensor:
        self.batches.append(batch)
        return subject.activations(batch)

    def _encoded(self, dictionary: SaeDictionary, activations: torch.Tensor) -> torch.Tensor:
        self.encoded.append(dictionary.encode(activations))
        return self.encoded[-1]

    def activations(self, corpus: Corpus, n_features: int) -> Array:
        """[tokens, features] of the corpus, put together from the batches of a harvest of one shard."""
        out = np.zeros((len(corpus.tokens), n_features), np.float32)
        chunks = iter(self.encoded)
        for batch in self.batches:
            rows, width = batch.ids.shape
            parts, have = [], 0
            while have < rows * width:
                parts.append(next(chunks))
                have += len(parts[-1])
            whole = torch.cat(parts)[: rows * width].reshape(rows, width, -1).numpy()
            for row, context in enumerate(batch.row_context):
                if context >= 0:
                    start, n = corpus.context_start[context], corpus.context_length[context]
                    out[start : start + n] = whole[row, 1 : 1 + n]  # after [CLS]
        out[np.isin(corpus.tokens, [0, 100, 101, 102, 103])] = 0  # [PAD], [UNK], [CLS], [SEP], [MASK] of MiniLM
        return out


class _Remembering:
    def __init__(self, inner: object, call: Callable[..., torch.Tensor]) -> None:
        self._inner, self._call = inner, call

    def activations(self, batch: TokenBatch) -> torch.Tensor:
        return self._call(self._inner, batch)

    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        return self._call(self._inner, activations)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.real
def test_a_harvest_of_minilm_is_that_of_brute_force(
    minilm: HFSubject, minilm_path: Path, demo_dictionary: SaeDictionary, themes_corpus: Corpus, tmp_path: Path
) -> None:
    config = HarvestConfig(top=3, sample=4, background=(20, 10, 15), encode_tokens=512, shard_tokens=10**7)
    recording = Recording(minilm, demo_dictionary)
    found = harvest(recording.subject, recording.dictionary, themes_corpus, config, tmp_path)  # type: ignore[arg-type]
    acts = recording.activations(themes_corpus, 2048)
    assert (acts > 0).sum(1).mean() == pytest.approx(24, abs=0.5)
    expected = brute_harvest(themes_corpus, acts, config)
    assert_sketches_equal(found, expected, 2048)
    assert_background_equals(found, expected)
    assert_statistics_equal(found, themes_corpus, acts)
    assert_token_table_equals(found, themes_corpus, acts)
    model = AutoModel.from_pretrained(minilm_path).eval()
    for context in range(0, len(themes_corpus.context_start), 7):  # and those of contexts that are run one at a time
        start, n = themes_corpus.context_start[context], themes_corpus.context_length[context]
        ids = torch.tensor([[101, *themes_corpus.tokens[start : start + n].tolist(), 102]])
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states[5][0, 1:-1]
        close = np.isclose(demo_dictionary.encode(states).numpy(), acts[start : start + n], atol=1e-3)
        assert close.mean() > 0.9999  # a feature on the edge of the top k may be in or out


# ------------------------------------------------------------------ interruption and cuts


def test_a_harvest_is_a_function_of_its_inputs(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_harvest: Harvest, tmp_path: Path
) -> None:
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_harvest.digest
    other = planted_config.model_copy(update={"seed": 4})
    assert run(planted_corpus, other, tmp_path / "other").digest != planted_harvest.digest


def test_a_harvest_that_lost_a_shard_ends_with_the_same_bytes(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_harvest: Harvest, tmp_path: Path
) -> None:
    run(planted_corpus, planted_config, tmp_path)
    shards = sorted(tmp_path.iterdir())
    assert len(shards) == planted_harvest.shards > 3
    before = shards[2].read_bytes()
    shards[2].unlink()
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_harvest.digest
    assert shards[2].read_bytes() == before


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_an_interrupted_harvest_goes_on_and_ends_with_the_same_bytes(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_harvest: Harvest, tmp_path: Path, share: float
) -> None:
    def stop(done: int, total: int) -> None:
        if done > share * total:
            raise Interrupt

    with pytest.raises(Interrupt):
        run(planted_corpus, planted_config, tmp_path, progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) < planted_harvest.shards
    assert not [path for path in kept if ".tmp" in path.name]
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_harvest.digest
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished shards were not run again


@pytest.mark.parametrize("shard_tokens", [1024, 10**6])
def test_the_size_of_shards_does_not_change_what_is_found(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_harvest: Harvest, tmp_path: Path, shard_tokens: int
) -> None:
    found = run(planted_corpus, planted_config.model_copy(update={"shard_tokens": shard_tokens}), tmp_path)
    assert found.shards != planted_harvest.shards
    assert contents(found) == contents(planted_harvest)


def test_shapes_do_not_change_what_is_found_where_arithmetic_is_exact(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_harvest: Harvest, tmp_path: Path
) -> None:
    other = planted_config.model_copy(update={"batch_tokens": 4096, "encode_tokens": 300})
    assert contents(run(planted_corpus, other, tmp_path)) == contents(planted_harvest)


def test_shards_are_cut_between_documents_and_cover_every_context_once(planted_corpus: Corpus) -> None:
    ranges = shard_ranges(planted_corpus, 1500)
    assert [c for begin, end in ranges for c in range(begin, end)] == list(range(len(planted_corpus.context_start)))
    owners = [set(planted_corpus.context_document[begin:end].tolist()) for begin, end in ranges]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_shards_of_other_settings_are_not_taken_for_ones_own(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_harvest: Harvest, tmp_path: Path
) -> None:
    fewer = PlantedSubject([*PlantedSubject().features[:-1], noise(3)])
    run(planted_corpus, planted_config, tmp_path, subject=fewer)
    run(planted_corpus, planted_config.model_copy(update={"top": 2}), tmp_path)
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_harvest.digest


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, -1])
def test_a_truncated_shard_is_named(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path, left: float
) -> None:
    run(planted_corpus, planted_config, tmp_path)
    shard = sorted(tmp_path.iterdir())[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(HarvestError, match=rf"{shard.name}: is no complete shard; delete it"):
        run(planted_corpus, planted_config, tmp_path)
    shard.unlink()
    run(planted_corpus, planted_config, tmp_path)
