"""Dictionaries load as they were saved, or say what is wrong. What each architecture computes: test_kinds.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig
from safetensors.torch import load_file

from glossator.config import data_path
from glossator.errors import DictionaryError
from glossator.harness.dictionary import SaeDictionary, check_width
from glossator.harness.planted_subject import PlantedDictionary


def saved(path: Path, **changes: object) -> Path:
    """A small random SAE, as SAELens saves it; `changes` are made to its cfg.json."""
    torch.manual_seed(0)
    sizes = {"d_in": 6, "d_sae": 10, "device": "cpu", "dtype": "float32"}
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
    assert (demo_dictionary.signed, demo_dictionary.expected_l0, demo_dictionary.hook_out) == (False, 24.0, None)
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
    assert torch.allclose(demo_dictionary.decode(found, acts), decoded, atol=1e-3)
    token, feature, value = demo_dictionary.active(acts)
    assert torch.allclose(found[token, feature], value, rtol=1e-5, atol=1e-5)
    assert len(value) == int((found != 0).sum())


def test_an_ordinary_sae_loads_and_reconstructs_what_sae_lens_does(tmp_path: Path) -> None:
    dictionary = SaeDictionary(str(saved(tmp_path / "mine")))
    assert (dictionary.name, dictionary.n_features, dictionary.d_in) == ("mine", 10, 6)
    reference = StandardSAE.load_from_disk(tmp_path / "mine", device="cpu")
    acts = torch.randn(7, 6)
    assert torch.equal(dictionary.encode(acts), reference.encode(acts))
    assert not dictionary.encode(acts).requires_grad


def test_the_folder_that_one_stands_in_has_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved(tmp_path / "mine"))
    assert SaeDictionary(".").name == "mine"


def test_weights_are_part_of_the_identity(tmp_path: Path) -> None:
    one, two, other = (SaeDictionary(str(saved(tmp_path / name))) for name in "abc")
    assert one.identity()["weights"] == two.identity()["weights"]
    with torch.no_grad():
        other._sae.W_enc[0, 0] += 1e-3
    assert one.identity()["weights"] != other.identity()["weights"]


def test_a_planted_dictionary_is_the_identity_under_any_name() -> None:
    dictionary = PlantedDictionary(3, name="mirror", hook="planted:reversed")
    acts = torch.tensor([[0.0, 2, 0], [1, 0, 3]])
    assert (dictionary.name, dictionary.hook, dictionary.d_in) == ("mirror", "planted:reversed", 3)
    assert torch.equal(dictionary.decode(dictionary.encode(acts), acts), acts)
    assert [column.tolist() for column in dictionary.active(acts)] == [[0, 1, 1], [1, 0, 2], [2, 1, 3]]
    assert dictionary.identity() != PlantedDictionary(3).identity()


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
