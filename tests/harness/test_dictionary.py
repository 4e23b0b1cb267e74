"""Dictionaries load as they were saved, or say what is wrong; what SAELens would get silently wrong is refused."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from sae_lens import AbsTopKSAE, AbsTopKSAEConfig, StandardSAE, StandardSAEConfig
from safetensors.torch import load_file

from glossator.config import data_path
from glossator.errors import DictionaryError
from glossator.harness.dictionary import SaeDictionary, check_width
from glossator.harness.harvest import loading_check
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.types import Document
from tests.conftest import PLANTED_CONFIG
from tests.harness.planted_runs import corpus_of


def saved(path: Path, *, architecture: str = "standard", **changes: object) -> Path:
    """A small random SAE, as SAELens saves it; `changes` are made to its cfg.json."""
    torch.manual_seed(0)
    sizes = {"d_in": 6, "d_sae": 10, "device": "cpu", "dtype": "float32"}
    if architecture == "abstopk":
        sae = AbsTopKSAE(AbsTopKSAEConfig(k=3, **sizes))
    else:
        sae = StandardSAE(StandardSAEConfig(**sizes))
    for parameter in sae.parameters():
        torch.nn.init.normal_(parameter)
    sae.save_model(path)
    config = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(config | changes))
    return path


def test_the_demo_dictionary_loads_with_the_size_and_the_facts_of_its_card(
    demo_dictionary: SaeDictionary,
) -> None:
    assert (demo_dictionary.name, demo_dictionary.n_features, demo_dictionary.d_in) == (
        "minilm-l4",
        2048,
        384,
    )
    identity = demo_dictionary.identity()
    assert identity["architecture"] == "topk"
    assert identity["stated"]["l0"] == 24.0
    assert identity["stated"]["variance_explained"] == pytest.approx(0.8942)
    assert demo_dictionary.directions().shape == (2048, 384)
    assert not demo_dictionary.directions().requires_grad


def test_the_demo_dictionary_encodes_as_a_topk_sae_written_by_hand(demo_dictionary: SaeDictionary) -> None:
    weights = {
        name: tensor.float()
        for name, tensor in load_file(data_path("dictionaries", "minilm-l4") / "sae_weights.safetensors").items()
    }
    torch.manual_seed(0)
    acts = torch.randn(50, 384)
    hidden = (acts - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    hidden = hidden * weights["W_dec"].norm(dim=-1)
    values, at = torch.topk(hidden, 24, dim=-1)
    expected = torch.zeros(50, 2048).scatter_(1, at, values.relu())
    found = demo_dictionary.encode(acts)
    assert (found >= 0).all()
    assert torch.allclose(found, expected, atol=1e-3)
    decoded = expected / weights["W_dec"].norm(dim=-1) @ weights["W_dec"] + weights["b_dec"]
    assert torch.allclose(demo_dictionary.decode(found), decoded, atol=1e-3)


def test_an_ordinary_sae_loads_and_reconstructs_what_sae_lens_does(tmp_path: Path) -> None:
    dictionary = SaeDictionary(str(saved(tmp_path / "mine")))
    assert (dictionary.name, dictionary.n_features, dictionary.d_in) == ("mine", 10, 6)
    reference = StandardSAE.load_from_disk(tmp_path / "mine", device="cpu")
    acts = torch.randn(7, 6)
    assert torch.equal(dictionary.encode(acts), reference.encode(acts))
    assert not dictionary.encode(acts).requires_grad


def test_weights_are_part_of_the_identity(tmp_path: Path) -> None:
    one, two = SaeDictionary(str(saved(tmp_path / "a"))), SaeDictionary(str(saved(tmp_path / "b")))
    assert one.identity()["weights"] == two.identity()["weights"]
    with torch.no_grad():
        two._sae.W_enc[0, 0] += 1e-3
    assert one.identity()["weights"] != two.identity()["weights"]


# ------------------------------------------------------------------ errors


def test_a_width_that_does_not_fit_says_both_numbers(demo_dictionary: SaeDictionary) -> None:
    with pytest.raises(DictionaryError, match=r"minilm-l4.*384.*'layers\.3' gives 768"):
        check_width(demo_dictionary, 768, "layers.3")
    check_width(demo_dictionary, 384, "encoder.layer.4")


def test_something_that_is_no_folder_and_no_registry_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"gone: no such folder.*RELEASE:SAE_ID"):
        SaeDictionary(str(tmp_path / "gone"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DictionaryError, match="file: no such folder"):
        SaeDictionary(str(tmp_path / "file"))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match=r"no cfg\.json"):
        SaeDictionary(str(tmp_path))


@pytest.mark.parametrize(
    ("broken", "content"),
    [
        ("cfg.json", "{not json"),
        ("cfg.json", '{"architecture": "no such thing"}'),
        ("sae_weights.safetensors", "short"),
    ],
)
def test_a_folder_that_sae_lens_cannot_load_names_itself_and_the_cause(
    tmp_path: Path, broken: str, content: str
) -> None:
    path = saved(tmp_path / "mine")
    (path / broken).write_text(content)
    with pytest.raises(DictionaryError, match=r"mine: SAELens cannot load this folder \(\w+"):
        SaeDictionary(str(path))


def test_an_unknown_registry_name_is_refused() -> None:
    with pytest.raises(DictionaryError, match="no-such-release:layer_0: SAELens cannot load it"):
        SaeDictionary("no-such-release:layer_0")


def test_signed_activations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="abstopk gives signed activations"):
        SaeDictionary(str(saved(tmp_path / "signed", architecture="abstopk")))


@pytest.mark.parametrize("how", ["expected_average_only_in", "constant_norm_rescale", "layer_norm"])
def test_normalised_inputs_are_refused(tmp_path: Path, how: str) -> None:
    with pytest.raises(DictionaryError, match=rf"normalised by '{how}'"):
        SaeDictionary(str(saved(tmp_path / "scaled", normalize_activations=how)))


# ------------------------------------------------------------------ the loading check


class _Scaled(PlantedDictionary):
    """Encodes too much and decodes nothing: what a wrong hook looks like."""

    def encode(self, activations: torch.Tensor) -> torch.Tensor:
        return activations + 1

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(features)

    def identity(self) -> dict[str, object]:
        return super().identity() | {"stated": {"l0": 2.0, "variance_explained": 0.9}}


def test_the_loading_check_of_a_perfect_dictionary_finds_all_variance(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus
) -> None:
    check = loading_check(planted_subject, planted_dictionary, planted_corpus, PLANTED_CONFIG)
    assert check.variance_explained == 1.0
    assert check.warnings == []


def test_the_loading_check_warns_of_a_dictionary_that_is_not_what_its_card_says(
    planted_subject: PlantedSubject, planted_corpus
) -> None:
    check = loading_check(planted_subject, _Scaled(), planted_corpus, PLANTED_CONFIG)
    assert check.variance_explained <= 0
    assert check.l0 == planted_subject.d_hook
    assert len(check.warnings) == 3
    assert "right hook" in check.warnings[0]


def test_the_loading_check_survives_activations_that_do_not_vary() -> None:
    subject = PlantedSubject(PlantedSubject().features[:5])  # none of them knows these words
    texts = [" ".join(words) for words in product(("the", "that", "this", "lamp"), repeat=3)]
    corpus = corpus_of([Document(text, (text,)) for text in texts], subject)
    assert loading_check(subject, PlantedDictionary(5), corpus, PLANTED_CONFIG).variance_explained == 1.0


@pytest.mark.real
def test_the_demo_dictionary_does_on_our_passages_what_its_card_says(minilm, demo_dictionary, themes_corpus) -> None:
    check = loading_check(minilm, demo_dictionary, themes_corpus, PLANTED_CONFIG)
    assert check.warnings == []
    assert check.variance_explained > 0.7
    assert check.stated_variance_explained == pytest.approx(0.8942)
    assert check.l0 == pytest.approx(24, abs=0.5)
