"""One pass finds what brute force finds, to the bit, whatever it was interrupted by and however it was cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from glossator.config import HarvestConfig
from glossator.errors import HarvestError
from glossator.harness.contexts import Corpus
from glossator.harness.dictionary import SaeDictionary
from glossator.harness.harvest import Found, Work, harvest, merge, run_missing, shard_ranges, token_windows
from glossator.harness.parts import parts_in
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
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
from tests.harness.planted_runs import contents, corpus_of, n_shards, noise, planted_truth, run, work_of

# ------------------------------------------------------------------ against brute force


def test_top_and_sample_windows_are_those_of_brute_force(
    planted_found: Found, planted_subject: PlantedSubject, planted_corpus: Corpus, planted_config: HarvestConfig
) -> None:
    expected = brute_harvest(planted_corpus, planted_truth(planted_subject, planted_corpus), planted_config)
    assert all(expected.top.values()) and all(expected.sample.values())
    assert_sketches_equal(planted_found, expected, planted_subject.d_hook)


def test_background_activations_are_those_of_brute_force(
    planted_found: Found, planted_subject: PlantedSubject, planted_corpus: Corpus, planted_config: HarvestConfig
) -> None:
    expected = brute_harvest(planted_corpus, planted_truth(planted_subject, planted_corpus), planted_config)
    splits = planted_corpus.window_split[expected.background_windows]
    assert tuple(np.bincount(splits)) == planted_config.background
    assert_background_equals(planted_found, expected)


def test_statistics_thresholds_and_token_table_are_those_of_brute_force(
    planted_found: Found, planted_subject: PlantedSubject, planted_corpus: Corpus, planted_config: HarvestConfig
) -> None:
    truth = planted_truth(planted_subject, planted_corpus)
    assert_statistics_equal(planted_found, planted_corpus, truth)
    assert_token_table_equals(planted_found, planted_corpus, truth, planted_config)


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
    assert n_shards(corpus, config) > 5
    expected = brute_harvest(corpus, truth, config)
    assert_sketches_equal(found, expected, 4)
    assert_background_equals(found, expected)
    assert_statistics_equal(found, corpus, truth)
    assert_token_table_equals(found, corpus, truth, config)
    assert 0 < found.statistics.active_windows[2].sum() < 10
    assert found.statistics.thresholds()[3] == 0 and not found.statistics.active_tokens[3].any()


class Recording:
    """A subject and a dictionary that remember what went through them, to be compared by hand."""

    def __init__(self, subject: HFSubject, dictionary: SaeDictionary) -> None:
        self.batches: list[TokenBatch] = []
        self.encoded: list[torch.Tensor] = []
        self.subject = _Remembering(subject, read=self._saw)
        self.dictionary = _Remembering(dictionary, active=self._active)

    def _saw(self, subject: HFSubject, batch: TokenBatch) -> dict[str, torch.Tensor]:
        self.batches.append(batch)
        return subject.read(batch)

    def _active(self, dictionary: SaeDictionary, acts: torch.Tensor) -> tuple[torch.Tensor, ...]:
        at, feature, value = dictionary.active(acts)
        dense = torch.zeros(len(acts), dictionary.n_features)
        dense[at, feature] = value
        self.encoded.append(dense[acts.abs().sum(1) > 0])  # the rest fills up the chunk
        return at, feature, value

    def activations(self, corpus: Corpus, n_features: int) -> Array:
        """[tokens, features] of the corpus, put together from the batches of a harvest of one shard."""
        out = np.zeros((len(corpus.tokens), n_features), np.float32)
        encoded = torch.cat(self.encoded).numpy()
        at = 0
        for batch in self.batches:
            for row, context in enumerate(batch.row_context):
                start = corpus.context_start[context]
                place = torch.nonzero(batch.content[row])[:, 0].numpy() - 1  # after [CLS]
                out[start + place] = encoded[at : at + len(place)]
                at += len(place)
        assert at == len(encoded)
        return out


class _Remembering:
    def __init__(self, inner: object, **calls: Callable[..., Any]) -> None:
        self._inner, self._calls = inner, calls

    def __getattr__(self, name: str) -> object:
        if name in self._calls:
            return partial(self._calls[name], self._inner)
        return getattr(self._inner, name)


@pytest.mark.real
def test_a_harvest_of_minilm_is_that_of_brute_force(
    minilm: HFSubject, minilm_path: Path, demo_dictionary: SaeDictionary, themes_corpus: Corpus, tmp_path: Path
) -> None:
    config = HarvestConfig(top=3, sample=4, background=(20, 10, 15), encode_tokens=512, shard_tokens=10**7)
    recording = Recording(minilm, demo_dictionary)
    work = Work(recording.subject, [recording.dictionary], themes_corpus, config)  # type: ignore[arg-type, list-item]
    found = harvest(work, tmp_path).found[0]
    acts = recording.activations(themes_corpus, 2048)
    assert (acts > 0).sum(1).mean() == pytest.approx(24, abs=0.5)
    expected = brute_harvest(themes_corpus, acts, config)
    assert_sketches_equal(found, expected, 2048)
    assert_background_equals(found, expected)
    assert_statistics_equal(found, themes_corpus, acts)
    assert_token_table_equals(found, themes_corpus, acts, config)
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
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_found.digest
    other = planted_config.model_copy(update={"seed": 4})
    assert run(planted_corpus, other, tmp_path / "other").digest != planted_found.digest


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("shares", [[0.3], [0.5], [0.95], [0.05, 0.2, 0.1, 0.4, 0.6, 0.9]])
def test_an_interrupted_harvest_goes_on_and_ends_with_the_same_bytes(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path, shares: list[float]
) -> None:
    work = work_of(planted_corpus, planted_config)
    for share in shares:

        def stop(done: int, total: int, share: float = share) -> None:
            if done > share * total:
                raise Interrupt

        with pytest.raises(Interrupt):
            run_missing(work, tmp_path, 0, len(work.ranges), stop)
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert not [path for path in kept if ".tmp" in path.name]
    assert kept  # the first shards at least
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_found.digest
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished shards were not run again


def test_parts_in_any_grouping_and_order_merge_to_the_same_bytes(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    work = work_of(planted_corpus, planted_config.model_copy(update={"shard_tokens": 2048}))
    n = len(work.ranges)
    whole = harvest(work, tmp_path / "whole").found[0].digest
    rng = np.random.default_rng(0)
    for number in range(6):
        bounds = [0, *sorted(rng.choice(np.arange(1, n), rng.integers(1, n), replace=False).tolist()), n]
        folder = tmp_path / str(number)
        runs = list(pairwise(bounds))
        for i in rng.permutation(len(runs)):
            run_missing(work, folder, *runs[i])
        files = [part.path for part in parts_in(folder, work.about)]
        assert len(files) == len(runs)
        assert merge(work, [files[i] for i in rng.permutation(len(files))]).found[0].digest == whole


def test_what_is_missing_doubled_or_foreign_is_named(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path
) -> None:
    work = work_of(planted_corpus, planted_config)
    n = len(work.ranges)
    run_missing(work, tmp_path, 0, 2)
    run_missing(work, tmp_path, 3, n)
    files = [part.path for part in parts_in(tmp_path, work.about)]
    with pytest.raises(HarvestError, match=f"lack the shards 3 to 3 of {n}; run them"):
        merge(work, files)
    run_missing(work, tmp_path / "more", 1, 3)
    with pytest.raises(HarvestError, match="holds shards that another part holds too"):
        merge(work, [*files, *(tmp_path / "more").iterdir()])
    there = "planted:reversed"
    others = {
        "subject, dictionary": work_of(planted_corpus, planted_config, PlantedSubject([noise(i) for i in range(12)])),
        "dictionary": work_of(
            planted_corpus, planted_config, PlantedSubject(hooks=(there,)), PlantedDictionary(hook=there)
        ),
        "corpus": work_of(corpus_of(planted_documents(399)), planted_config),
        "shape or seed": work_of(planted_corpus, planted_config.model_copy(update={"seed": 9})),
    }
    for what, other in others.items():
        with pytest.raises(HarvestError, match=f"from another harvest .another {what.split(', ')[0]}"):
            merge(other, files)
    renamed = files[0].rename(tmp_path / "mine.npz")
    with pytest.raises(HarvestError, match=r"mine\.npz: was renamed"):
        merge(work, [renamed])


def test_several_dictionaries_in_one_pass_are_found_as_each_alone(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    subject = PlantedSubject(hooks=("planted", "planted:reversed"))
    dictionaries = [PlantedDictionary(), PlantedDictionary(name="other", hook="planted:reversed")]
    both = harvest(Work(subject, dictionaries, planted_corpus, planted_config), tmp_path).found
    assert both[0].digest == planted_found.digest
    alone = Work(PlantedSubject(hooks=("planted:reversed",)), dictionaries[1:], planted_corpus, planted_config)
    assert both[1].digest == harvest(alone, tmp_path / "alone").found[0].digest
    assert both[1].statistics.active_tokens.flip(0).equal(both[0].statistics.active_tokens)


def test_parts_are_few_however_many_the_shards(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path
) -> None:
    work = work_of(planted_corpus, planted_config)
    harvest(work, tmp_path)
    assert len(work.ranges) > 3
    assert [path.name for path in tmp_path.iterdir()] == [
        f"part-{work.about.identity}-00000-{len(work.ranges):05d}.npz"
    ]


def test_a_shorter_part_that_a_longer_one_covers_is_dropped(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    """As after a kill between writing the longer part and removing the shorter one."""
    work = work_of(planted_corpus, planted_config)
    run_missing(work, tmp_path / "short", 0, 2)
    run_missing(work, tmp_path, 0, 3)
    short = next((tmp_path / "short").iterdir())
    short.rename(tmp_path / short.name)
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_found.digest
    assert not (tmp_path / short.name).exists()


def test_the_token_table_counts_a_uniform_draw_of_windows(
    planted_corpus: Corpus, planted_config: HarvestConfig
) -> None:
    config = planted_config.model_copy(update={"token_windows": 40})
    counts = np.zeros(len(planted_corpus.window_id))
    for seed in range(200):
        chosen = token_windows(planted_corpus, config.model_copy(update={"seed": seed}))
        assert chosen.sum() == 40 and not planted_corpus.window_split[chosen].any()
        counts += chosen
    members = counts[planted_corpus.window_split == 0]
    share = 40 / len(members)
    assert ((members - 200 * share) ** 2 / (200 * share * (1 - share))).mean() == pytest.approx(1, abs=0.2)


def test_a_token_table_of_few_windows_is_that_of_brute_force(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_subject: PlantedSubject, tmp_path: Path
) -> None:
    config = planted_config.model_copy(update={"token_windows": 40})
    found = run(planted_corpus, config, tmp_path)
    assert_token_table_equals(found, planted_corpus, planted_truth(planted_subject, planted_corpus), config)


@pytest.mark.parametrize("shard_tokens", [1024, 10**6])
def test_the_size_of_shards_does_not_change_what_is_found(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path, shard_tokens: int
) -> None:
    found = run(planted_corpus, planted_config.model_copy(update={"shard_tokens": shard_tokens}), tmp_path)
    assert len(shard_ranges(planted_corpus, shard_tokens)) != n_shards(planted_corpus, planted_config)
    assert contents(found) == contents(planted_found)


def test_shapes_do_not_change_what_is_found_where_arithmetic_is_exact(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    other = planted_config.model_copy(update={"batch_tokens": 4096, "encode_tokens": 300})
    assert contents(run(planted_corpus, other, tmp_path)) == contents(planted_found)


def test_shards_are_cut_between_documents_and_cover_every_context_once(planted_corpus: Corpus) -> None:
    ranges = shard_ranges(planted_corpus, 1500)
    assert [c for begin, end in ranges for c in range(begin, end)] == list(range(len(planted_corpus.context_start)))
    owners = [set(planted_corpus.context_document[begin:end].tolist()) for begin, end in ranges]
    assert sum(map(len, owners)) == len(set().union(*owners))


def test_shards_of_other_settings_are_not_taken_for_ones_own(
    planted_corpus: Corpus, planted_config: HarvestConfig, planted_found: Found, tmp_path: Path
) -> None:
    fewer = PlantedSubject([*PlantedSubject().features[:-1], noise(3)])
    run(planted_corpus, planted_config, tmp_path, subject=fewer)
    run(planted_corpus, planted_config.model_copy(update={"top": 2}), tmp_path)
    assert run(planted_corpus, planted_config, tmp_path).digest == planted_found.digest


@pytest.mark.parametrize("left", [0, 1, 100, 0.5, -1])
def test_a_truncated_shard_is_named(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path, left: float
) -> None:
    run(planted_corpus, planted_config, tmp_path)
    shard = sorted(tmp_path.iterdir())[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[: int(left * len(whole)) if isinstance(left, float) else left])
    with pytest.raises(HarvestError, match=rf"{shard.name}: is no complete part; delete it"):
        run(planted_corpus, planted_config, tmp_path)
    shard.unlink()
    run(planted_corpus, planted_config, tmp_path)
