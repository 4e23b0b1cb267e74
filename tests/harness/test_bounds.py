"""What must stay the same or stay small, whatever the corpus and the dictionary: chunks, state, threads, sums, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.standard_sae import StandardSAEConfig
from torch import Tensor

from glossator import pipeline
from glossator.config import CorpusConfig, HarvestConfig, Recipe, SubjectConfig
from glossator.errors import HarvestError
from glossator.harness import accumulate
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found, Work, _outliers, harvest, merge, run_missing
from glossator.harness.parts import parts_in, save
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.workers import set_up
from glossator.planted import PlantedFeature, planted_documents
from tests.harness.brute import drawn
from tests.harness.planted_runs import contents, corpus_of, work_of
from tests.harness.small_models import small_gpt2

# ------------------------------------------------------------------ chunks and threads


class Chunks(PlantedDictionary):
    """Remembers what it was given to encode."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def active(self, activations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append(activations.clone())
        return super().active(activations)


def test_chunks_have_one_shape_and_are_the_same_when_each_shard_is_run_alone(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path
) -> None:
    together, alone = Chunks(), Chunks()
    work = work_of(planted_corpus, planted_config, dictionary=together)
    harvest(work, tmp_path / "together")
    one_by_one = work_of(planted_corpus, planted_config, dictionary=alone)
    for number in range(len(work.ranges)):
        run_missing(one_by_one, tmp_path / "alone", number, number + 1)
    assert len(work.ranges) > 3
    assert {len(chunk) for chunk in together.seen} == {planted_config.encode_tokens}
    assert len(together.seen) == len(alone.seen)
    assert all(torch.equal(one, two) for one, two in zip(together.seen, alone.seen, strict=True))


def test_the_dense_buffer_of_a_chunk_is_bounded(
    planted_corpus: Corpus,
    planted_config: HarvestConfig,
    planted_found: Found,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accumulate, "MAX_DENSE", 12 * 300)
    dictionary = Chunks()
    found = harvest(work_of(planted_corpus, planted_config, dictionary=dictionary), tmp_path).found[0]
    assert {len(chunk) for chunk in dictionary.seen} == {288}  # 300 less what makes no whole window
    assert contents(found) == contents(planted_found)


def test_a_pass_runs_with_the_threads_of_its_config(planted_config: HarvestConfig, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    config = planted_config.model_copy(update={"threads": before + 1})
    try:
        run_missing(work_of(corpus_of(planted_documents(30)), config), tmp_path, 0, 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_outliers_are_tokens_of_over_eight_times_the_median_norm() -> None:
    rows = torch.ones(20, 4)
    rows[3], rows[5], rows[7] = 7.9, 8.1, -50
    assert _outliers(rows) == 2


# ------------------------------------------------------------------ dense dictionaries


class Dense(PlantedDictionary):
    """Features of which the first `active` are active on every token; says nothing of it, or states `stated`."""

    hook_out = ""

    def __init__(self, active: int, n_features: int = 600, stated: float | None = None, name: str = "dense") -> None:
        super().__init__(name=name)
        self._active, self.n_features, self.expected_l0 = active, n_features, stated

    def encode(self, activations: Tensor) -> Tensor:
        out = torch.zeros(len(activations), self.n_features)
        out[:, : self._active] = 1 + activations[:, :1]
        return out


def sizes(work: Work, number: int = 0) -> list[int]:
    found = work.background(work.dictionaries[number])
    return np.bincount(work.corpus.window_split[found], minlength=3).tolist()


def works(corpus: Corpus, *dictionaries: PlantedDictionary) -> Work:
    config = HarvestConfig(background=(150, 80, 150), token_windows=200)
    return Work(PlantedSubject(), dictionaries, corpus, config)


@pytest.mark.parametrize("stated", [256.0, None])
def test_a_dense_dictionary_keeps_fewer_windows_whole_and_all_count_fewer_tokens(
    planted_corpus: Corpus, stated: float | None
) -> None:
    sparse, dense = PlantedDictionary(), Dense(200, stated=stated)
    work = works(planted_corpus, sparse, dense)
    assert [work.l0(d) for d in (sparse, dense)] == [12, 256]
    assert sizes(work, 0) == [150, 80, 150]
    assert sizes(work, 1) == [75, 64, 75]  # in proportion, but never fewer than 64
    assert work.token_windows.sum() == 100
    assert set(np.flatnonzero(work.token_windows)) == set(drawn(planted_corpus, 0, 100, 78))
    assert works(planted_corpus, sparse).token_windows.sum() == 200
    assert sizes(works(planted_corpus, Dense(100))) == [150, 80, 150]


def test_what_a_part_is_made_of_includes_the_l0_that_was_measured(planted_corpus: Corpus) -> None:
    about = works(planted_corpus, Dense(200)).about
    assert about.made_of == works(planted_corpus, Dense(200)).about.made_of
    assert about.made_of == works(planted_corpus, Dense(250)).about.made_of  # the same power of two
    other = works(planted_corpus, Dense(300)).about
    assert {name for name, value in other.made_of.items() if about.made_of[name] != value} == {"shape or seed"}


# ------------------------------------------------------------------ activations that are too large


def constant(value: float) -> PlantedSubject:
    return PlantedSubject([PlantedFeature("constant", "large", "everything", lambda t: [value] * len(t))])


def test_activations_whose_sums_do_not_fit_name_their_dictionary(tmp_path: Path) -> None:
    corpus = corpus_of(planted_documents(60))
    config = HarvestConfig(batch_tokens=512, encode_tokens=256, shard_tokens=1024)
    with pytest.raises(HarvestError, match=r"document .*, dictionary planted: an activation of 2\.15e\+09 is beyond"):
        harvest(work_of(corpus, config, constant(2.0**31)), tmp_path / "one")
    with pytest.raises(HarvestError, match=r"dictionary planted: activations add up to .* too large for exact sums"):
        harvest(work_of(corpus, config, constant(2.0**29)), tmp_path / "all")
    work = work_of(corpus, config, constant(2.0**38 / (0.75 * len(corpus.tokens))))
    half = len(work.ranges) // 2
    for number, (first, last) in enumerate(((0, half), (half, len(work.ranges)))):
        run_missing(work, tmp_path / str(number), first, last)
    files = [part.path for number in "01" for part in parts_in(tmp_path / number, work.about)]
    with pytest.raises(HarvestError, match=r"dictionary planted: activations add up to .* too large for exact sums"):
        merge(work, files)


# ------------------------------------------------------------------ parts


class Unwritable:
    def __reduce__(self) -> Any:
        raise OSError(28, "No space left on device")


def test_a_part_that_was_written_half_is_not_taken_for_one(
    planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path: Path
) -> None:
    work = work_of(planted_corpus, planted_config)
    run_missing(work, tmp_path, 0, 1)
    (part,) = parts_in(tmp_path, work.about)
    whole = part.path.read_bytes()
    arrays: dict[str, Any] = {"first": np.arange(100_000), "second": np.asarray(Unwritable(), object)}
    with pytest.raises(HarvestError, match=r"could not be written .No space left on device.; free some space"):
        save(part.path, work.about, arrays)
    with pytest.raises(HarvestError, match="could not be written"):
        save(tmp_path / part.path.name.replace("00001", "00002"), work.about, arrays)
    assert [(p.name, p.read_bytes() == whole) for p in tmp_path.iterdir()] == [(part.path.name, True)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A tiny GPT-2 and a dictionary of some 350 active features a token, which its config does not state."""
    folder = tmp_path_factory.mktemp("recipe")
    torch.manual_seed(0)
    small_gpt2(folder / "model")
    config = StandardSAEConfig(d_in=16, d_sae=700, device="cpu")
    SAE.get_sae_class_for_architecture("standard")(config).save_model(folder / "sae")
    with (folder / "text.jsonl").open("w") as file:
        for document in planted_documents(60):
            file.write(json.dumps({"name": document.name, "text": " ".join(document.passages)}) + "\n")
    what = SubjectConfig(
        model=str(folder / "model"),
        dictionaries=(str(folder / "sae"),),
        hooks=("h.1",),
        corpus=(str(folder / "text.jsonl"),),
    )
    small = HarvestConfig(
        top=2,
        sample=2,
        background=(70, 70, 70),
        batch_tokens=2048,
        encode_tokens=2048,
        shard_tokens=8192,
        token_windows=1000,
        threads=1,
    )
    return Recipe(subject=what, corpus=CorpusConfig(context_size=64), harvest=small)


@pytest.fixture(scope="module")
def files(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The parts of two machines."""
    folder = tmp_path_factory.mktemp("shards")
    for number in (1, 2):
        pipeline.harvest_shard(folder / "run.duckdb", recipe, number, 2)
    return sorted((folder / "run.duckdb.harvest").iterdir())


def test_machines_that_know_nothing_of_each_other_measure_the_same_l0(recipe: Recipe, files: list[Path]) -> None:
    work = set_up(recipe)
    (dictionary,) = work.dictionaries
    assert len(files) == 2 and dictionary.expected_l0 is None and work.l0(dictionary) == 512
    merged = merge(work, files)
    assert merged.found[0].background_windows.tolist() == work.background(dictionary).tolist()
    assert merged.token_windows.sum() == 250


def test_parts_of_other_versions_are_merged_with_a_warning(recipe: Recipe, files: list[Path], tmp_path: Path) -> None:
    with np.load(files[1]) as part:
        arrays = {name: part[name] for name in part.files}
    about = json.loads(str(arrays["about"]))
    about["made_by"]["torch"] = "1.0"
    other = tmp_path / files[1].name
    np.savez(other, **arrays | {"about": np.asarray(json.dumps(about))})
    for number, (parts, warnings) in enumerate(((files, 0), ([files[0], other], 1))):
        said: list[str] = []
        pipeline.merge(tmp_path / f"{number}.duckdb", parts, said.append)
        found = [line for line in said if line.startswith("WARNING: the parts were made")]
        assert len(found) == warnings and all("torch" in line and "1.0" in line for line in found)
