"""Every architecture of SAELens gives here what SAELens's own encode and decode give, dense or sparse; so do neurons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sae_lens
import torch
from sae_lens import SAE
from torch import Tensor

from glossator.errors import DictionaryError
from glossator.harness.dictionary import SaeDictionary, nonzero, poles, top_k, unpoles
from glossator.harness.neurons import NeuronDictionary
from glossator.types import feature_name

D_IN, D_SAE, D_OUT, K = 6, 256, 5, 4  # blocks of 32 columns
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("StandardSAE", {}),
    "topk": ("TopKSAE", {"k": K}),
    "topk-rescaled": ("TopKSAE", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "abstopk": ("AbsTopKSAE", {"k": K}),
    "abstopk-rescaled": ("AbsTopKSAE", {"k": K, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("JumpReLUSAE", {}),
    "gated": ("GatedSAE", {}),
    "matching_pursuit": ("MatchingPursuitSAE", {"max_iterations": 5}),
    "transcoder": ("Transcoder", {"d_out": D_OUT}),
    "skip_transcoder": ("SkipTranscoder", {"d_out": D_OUT}),
    "jumprelu_transcoder": ("JumpReLUTranscoder", {"d_out": D_OUT}),
    "jumprelu_skip_transcoder": ("JumpReLUSkipTranscoder", {"d_out": D_OUT}),
}


def made(path: Path, kind: str, **changes: Any) -> Path:
    """A random dictionary of this kind, as SAELens saves it."""
    torch.manual_seed(0)
    name, extra = KINDS[kind]
    metadata = sae_lens.saes.sae.SAEMetadata(**changes.pop("metadata", {}))
    sizes = {"d_in": D_IN, "d_sae": D_SAE, "apply_b_dec_to_input": "transcoder" not in kind}
    cls, config = getattr(sae_lens, name), getattr(sae_lens, f"{name}Config")
    sae = cls(config(**(sizes | extra | {"metadata": metadata} | changes)))
    for parameter in sae.parameters():
        torch.nn.init.normal_(parameter)
    if hasattr(sae, "threshold"):
        sae.threshold.data.abs_()
    sae.save_model(path)
    return path


def dense(dictionary: Any, found: tuple[Tensor, Tensor, Tensor], tokens: int) -> Tensor:
    token, feature, value = found
    assert (token.dtype, feature.dtype, value.dtype) == (torch.int64, torch.int64, torch.float32)
    assert len(set(zip(token.tolist(), feature.tolist(), strict=True))) == len(token)
    out = torch.zeros(tokens, dictionary.n_features)
    out[token, feature] = value
    assert not (value == 0).any()
    return out


# ------------------------------------------------------------------ every architecture


@pytest.mark.parametrize("kind", KINDS)
def test_encode_active_and_decode_are_those_of_sae_lens(tmp_path: Path, kind: str) -> None:
    path = made(tmp_path / "mine", kind)
    dictionary, reference = SaeDictionary(str(path)), SAE.load_from_disk(path)
    acts = torch.randn(33, D_IN)
    expected = reference.encode(acts).detach()
    found = dictionary.encode(acts)
    assert found.shape == (33, dictionary.n_features)
    assert (found >= 0).all()
    assert (found > 0).any()
    assert torch.equal(unpoles(found) if dictionary.signed else found, expected)
    assert torch.equal(dense(dictionary, dictionary.active(acts), 33), found)
    whole = reference(acts).detach()
    dictionary.encode(torch.randn(4, D_IN))  # another chunk between
    assert torch.allclose(dictionary.decode(found, acts), whole, atol=1e-4)
    assert dictionary.directions().shape == (dictionary.n_features, whole.shape[1])
    assert not dictionary.encode(acts).requires_grad
    assert dictionary.identity()["architecture"] == kind.removesuffix("-rescaled")


@pytest.mark.parametrize("kind", KINDS)
def test_a_direction_is_what_one_unit_of_the_feature_adds(tmp_path: Path, kind: str) -> None:
    dictionary = SaeDictionary(str(made(tmp_path / "mine", kind)))
    acts = torch.randn(3, D_IN)
    features = dictionary.encode(acts)
    base = dictionary.decode(torch.zeros_like(features), acts)
    added = features @ dictionary.directions()
    assert torch.allclose(dictionary.decode(features, acts) - base, added, atol=1e-3)


def test_only_abstopk_is_signed_and_its_negative_poles_come_second(tmp_path: Path) -> None:
    dictionary = SaeDictionary(str(made(tmp_path / "mine", "abstopk")))
    assert (dictionary.signed, dictionary.n_features, dictionary.expected_l0) == (True, 2 * D_SAE, K)
    signed = SAE.load_from_disk(tmp_path / "mine").encode(acts := torch.randn(20, D_IN)).detach()
    assert (signed < 0).any()
    assert torch.equal(dictionary.encode(acts)[:, D_SAE:], (-signed).relu())
    assert torch.equal(dictionary.directions()[D_SAE:], -dictionary.directions()[:D_SAE])
    assert not any(SaeDictionary(str(made(tmp_path / k, k))).signed for k in KINDS if "abstopk" not in k)


@pytest.mark.parametrize("name", ["BatchTopK", "MatryoshkaBatchTopK"])
def test_batchtopk_kinds_load_as_the_jumprelu_that_they_are_saved_as(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    config = getattr(sae_lens, f"{name}TrainingSAEConfig")
    extra = {"matryoshka_widths": [64, D_SAE]} if "Matryoshka" in name else {}
    sae = getattr(sae_lens, f"{name}TrainingSAE")(config(d_in=D_IN, d_sae=D_SAE, k=K, **extra))
    sae.topk_threshold.fill_(0.3)
    sae.save_inference_model(tmp_path / "mine")
    dictionary = SaeDictionary(str(tmp_path / "mine"))
    acts = torch.randn(9, D_IN)
    assert dictionary.identity()["architecture"] == "jumprelu"
    assert torch.equal(dictionary.encode(acts), SAE.load_from_disk(tmp_path / "mine").encode(acts).detach())
    assert torch.equal(dense(dictionary, dictionary.active(acts), 9), dictionary.encode(acts))


@pytest.mark.parametrize("how", ["layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("kind", ["standard", "topk", "abstopk", "jumprelu", "gated", "transcoder", "skip_transcoder"])
def test_normalisation_is_undone_with_the_norms_of_what_was_encoded(tmp_path: Path, kind: str, how: str) -> None:
    path = made(tmp_path / "mine", kind, normalize_activations=how)
    dictionary, reference = SaeDictionary(str(path)), SAE.load_from_disk(path)
    one, two = 5 * torch.randn(8, D_IN) + 2, torch.randn(8, D_IN)
    coded = [dictionary.encode(one), dictionary.encode(two)]
    for acts, features in zip((one, two), coded, strict=True):
        assert torch.equal(dense(dictionary, dictionary.active(acts), 8), features)
        assert torch.allclose(dictionary.decode(features, acts), reference(acts).detach(), atol=1e-4)
        assert torch.allclose(dictionary.decode(features, acts), reference(acts).detach(), atol=1e-4)  # and once more


@pytest.mark.parametrize(
    ("how", "way_out"),
    [
        ("expected_average_only_in", "fold_activation_norm_scaling_factor"),
        ("covariance_whitening", "fold_activation_whitening"),
    ],
)
def test_normalisation_that_is_not_folded_in_is_refused(tmp_path: Path, how: str, way_out: str) -> None:
    path = made(tmp_path / "mine", "standard", normalize_activations=how)
    with pytest.raises(DictionaryError, match=rf"normalised by '{how}'.*{way_out}"):
        SaeDictionary(str(path))


def test_a_temporal_sae_is_refused(tmp_path: Path) -> None:
    config = made(tmp_path / "mine", "standard") / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architecture": "temporal"}))
    with pytest.raises(DictionaryError, match="mine: a temporal SAE needs whole sequences"):
        SaeDictionary(str(tmp_path / "mine"))


def test_a_dictionary_of_one_head_and_an_impossible_k_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DictionaryError, match="reads attention head 3 alone"):
        SaeDictionary(str(made(tmp_path / "head", "standard", metadata={"hook_head_index": 3})))
    with pytest.raises(DictionaryError, match=f"k = {D_SAE + 1} of {D_SAE} features"):
        SaeDictionary(str(made(tmp_path / "k", "topk", k=D_SAE + 1)))


def test_hook_z_reads_the_heads_side_by_side(tmp_path: Path) -> None:
    """SAELens takes [tokens, heads, d_head]; a module of the model gives [tokens, heads * d_head]."""
    path = made(tmp_path / "z", "topk", reshape_activations="hook_z", metadata={"hook_name": "blocks.0.attn.hook_z"})
    dictionary, reference = SaeDictionary(str(path)), SAE.load_from_disk(path)
    acts = torch.randn(9, D_IN)
    expected = reference.encode(acts.reshape(9, 2, D_IN // 2)).detach()
    assert torch.equal(dictionary.encode(acts), expected)
    assert torch.equal(dense(dictionary, dictionary.active(acts), 9), expected)
    decoded = reference.decode(expected).detach()
    assert decoded.shape == (9, 2, D_IN // 2)
    assert torch.equal(dictionary.decode(expected, acts), decoded.flatten(1))


# ------------------------------------------------------------------ dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu", "gated", "skip_transcoder"])
def test_half_precision_weights_are_computed_in_float32(tmp_path: Path, kind: str, dtype: str) -> None:
    path = made(tmp_path / "mine", kind, dtype=dtype)
    dictionary, reference = SaeDictionary(str(path)), SAE.load_from_disk(path, dtype="float32")
    acts = torch.randn(9, D_IN)
    assert dictionary.identity()["dtype"] == "float32"
    assert torch.equal(dictionary.encode(acts), reference.encode(acts).detach())
    assert torch.equal(dense(dictionary, dictionary.active(acts), 9), dictionary.encode(acts))


@pytest.mark.parametrize("kind", KINDS)
def test_activations_in_bfloat16_are_cast_first(tmp_path: Path, kind: str) -> None:
    dictionary = SaeDictionary(str(made(tmp_path / "mine", kind)))
    acts = torch.randn(9, D_IN).bfloat16()
    found = dictionary.encode(acts)
    assert found.dtype == torch.float32
    assert torch.equal(found, dictionary.encode(acts.float()))
    assert torch.equal(dense(dictionary, dictionary.active(acts), 9), found)
    assert torch.equal(dictionary.decode(found, acts), dictionary.decode(found, acts.float()))


# ------------------------------------------------------------------ NaN, infinity, nothing


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_is_no_number_comes_out_as_one(tmp_path: Path, kind: str) -> None:
    dictionary = SaeDictionary(str(made(tmp_path / "mine", kind)))
    acts = torch.randn(6, D_IN)
    acts[2, 1] = torch.nan
    token, _, value = dictionary.active(acts)
    assert value[token == 2].isnan().any()
    assert value[token != 2].isfinite().all()
    assert dictionary.encode(acts)[2].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_no_tokens_give_nothing(tmp_path: Path, kind: str) -> None:
    dictionary = SaeDictionary(str(made(tmp_path / "mine", kind)))
    assert [len(column) for column in dictionary.active(torch.zeros(0, D_IN))] == [0, 0, 0]


def test_active_works_in_parts_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts = torch.randn(50, D_IN)
    for kind in ("topk", "jumprelu"):
        dictionary = SaeDictionary(str(made(tmp_path / kind, kind)))
        whole = dense(dictionary, dictionary.active(acts), 50)
        with monkeypatch.context() as patch:
            patch.setattr("glossator.harness.dictionary.MAX_DENSE", 8 * D_SAE)
            parts = dictionary.active(acts)
        assert (parts[0].diff() >= 0).all()
        assert torch.allclose(dense(dictionary, parts, 50), whole, atol=1e-5)


# ------------------------------------------------------------------ the k largest


def by_torch(hidden: Tensor, k: int) -> Tensor:
    value, at = torch.topk(hidden, k, dim=-1)
    return torch.zeros_like(hidden).scatter_(-1, at, value.relu())


def scattered(hidden: Tensor, k: int) -> Tensor:
    row, column, value = top_k(hidden, k)
    out = torch.zeros_like(hidden)
    out[row, column] = value
    assert len(row) == len(set((row * hidden.shape[1] + column).tolist()))
    assert (row.diff() >= 0).all()
    return out


@pytest.mark.parametrize(
    ("width", "k"), [(64, 1), (256, 4), (384, 12), (4096, 32), (4096, 700), (1000, 5), (32768, 64)]
)
def test_the_k_largest_are_those_of_torch(width: int, k: int) -> None:
    torch.manual_seed(width + k)
    for hidden in (torch.randn(300, width), torch.randn(300, width) - 3, torch.randn(300, width).exp()):
        assert torch.equal(scattered(hidden, k), by_torch(hidden, k))


def test_infinities_and_rows_without_anything_positive() -> None:
    hidden = torch.randn(40, 512)
    hidden[0], hidden[1], hidden[2] = -1, 0, -torch.inf
    hidden[3, 7], hidden[4, ::2], hidden[5, 5] = torch.inf, torch.inf, -torch.inf
    found = scattered(hidden, 8)
    plain = [i for i in range(40) if i != 4]  # row 4 has more than 8 infinities: any of them
    assert torch.equal(found[plain], by_torch(hidden, 8)[plain])
    assert (found[:3] == 0).all()
    assert found[4].isinf().sum() == 8


def test_nan_counts_as_the_largest_wherever_it_stands() -> None:
    hidden = torch.randn(40, 512)
    hidden[3, 17] = torch.nan
    hidden[9, ::3] = torch.nan
    hidden[39, 511] = torch.nan
    row, column, value = top_k(hidden, 8)
    assert value[(row == 3) & (column == 17)].isnan().all()
    assert [int(value[row == r].isnan().sum()) for r in (3, 9, 39)] == [1, 8, 1]
    assert (torch.bincount(row, minlength=40) <= 8).all()
    others = [i for i in range(40) if i not in (3, 9, 39)]
    found = torch.zeros_like(hidden)
    found[row, column] = value
    assert torch.equal(found[others], by_torch(hidden, 8)[others])
    assert top_k(torch.full((3, 512), torch.nan), 8)[2].isnan().sum() == 24


def test_of_exact_ties_the_first_ones_are_kept_and_never_more_than_k() -> None:
    hidden = torch.randint(-3, 6, (200, 512)).float()
    found = scattered(hidden, 8)
    expected = by_torch(hidden, 8)
    assert torch.equal(found.sort(1).values, expected.sort(1).values)
    for row in (0, 77, 199):
        kept = found[row].nonzero().flatten()
        least = found[row, kept].min()
        tied = (hidden[row] == least).nonzero().flatten()
        chosen = [i for i in kept.tolist() if found[row, i] == least]
        assert chosen == tied[: len(chosen)].tolist()
    assert torch.equal(scattered(torch.ones(2, 512), 8), (torch.arange(512) < 8).float().expand(2, 512))


def test_what_is_not_zero_is_found_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glossator.harness.dictionary._PART", 64)
    torch.manual_seed(0)
    values = torch.randn(57, 12) * (torch.rand(57, 12) < 0.2)
    values[3, 3], values[4, 4] = torch.nan, -torch.inf
    row, column, value = nonzero(values)
    at = np.flatnonzero(values.numpy() != 0)
    assert torch.equal(row * 12 + column, torch.from_numpy(at))
    assert torch.equal(value.nan_to_num(7), values.flatten()[at].nan_to_num(7))


# ------------------------------------------------------------------ centred inputs


CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}


@pytest.mark.parametrize(
    "hook", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out"]
)
def test_residuals_are_centred_for_a_dictionary_that_was_made_so(tmp_path: Path, hook: str) -> None:
    path = made(tmp_path / "mine", "topk", metadata=CENTRED | {"hook_name": f"blocks.1.{hook}"})
    dictionary, reference = SaeDictionary(str(path)), SAE.load_from_disk(path)
    acts = torch.randn(9, D_IN) + 4
    mean = acts.mean(-1, keepdim=True)
    found = dictionary.encode(acts)
    assert dictionary.identity()["centred"] is True
    assert torch.equal(found, reference.encode(acts - mean).detach())
    assert torch.equal(dense(dictionary, dictionary.active(acts), 9), found)
    assert torch.allclose(dictionary.decode(found, acts), reference(acts - mean).detach() + mean, atol=1e-4)


@pytest.mark.parametrize(
    "metadata",
    [
        CENTRED | {"hook_name": "blocks.1.mlp.hook_post"},
        CENTRED | {"hook_name": "blocks.1.attn.hook_z"},
        {"model_from_pretrained_kwargs": {"center_writing_weights": False}, "hook_name": "blocks.1.hook_resid_pre"},
        {"hook_name": "blocks.1.hook_resid_pre"},
    ],
)
def test_nothing_else_is_centred(tmp_path: Path, metadata: dict[str, Any]) -> None:
    dictionary = SaeDictionary(str(made(tmp_path / "mine", "standard", metadata=metadata)))
    acts = torch.randn(9, D_IN) + 4
    assert dictionary.identity()["centred"] is False
    assert torch.equal(dictionary.encode(acts), SAE.load_from_disk(tmp_path / "mine").encode(acts).detach())


# ------------------------------------------------------------------ hooks and names


def test_hooks_are_what_the_config_says(tmp_path: Path) -> None:
    silent = SaeDictionary(str(made(tmp_path / "a", "standard")))
    assert (silent.hook, silent.hook_out) == ("", None)
    named = SaeDictionary(str(made(tmp_path / "b", "standard", metadata={"hook_name": "blocks.1.hook_resid_pre"})))
    assert (named.hook, named.hook_out) == ("blocks.1.hook_resid_pre", None)
    both = {"hook_name": "blocks.1.hook_resid_pre", "hf_hook_name": "model.layers.0"}
    assert SaeDictionary(str(made(tmp_path / "c", "standard", metadata=both))).hook == "model.layers.0"
    ends = {"hook_name": "blocks.1.hook_mlp_in", "hook_name_out": "blocks.1.hook_mlp_out"}
    transcoder = SaeDictionary(str(made(tmp_path / "d", "transcoder", metadata=ends)))
    assert (transcoder.hook, transcoder.hook_out) == ("blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out")
    assert SaeDictionary(str(made(tmp_path / "e", "transcoder"))).hook_out == ""


def test_names_of_features() -> None:
    assert feature_name(False, 40, 17) == "17"
    assert [feature_name(True, 40, i) for i in (0, 17, 19, 20, 37)] == ["0+", "17+", "19+", "0-", "17-"]


# ------------------------------------------------------------------ neurons


def test_neurons_have_two_poles_and_decode_exactly() -> None:
    dictionary = NeuronDictionary("h.1.mlp", 4)
    acts = torch.tensor([[1.5, -2, 0, 3], [0, 0, 0, 0], [-1, -1, -1, torch.inf]])
    found = dictionary.encode(acts)
    assert (dictionary.name, dictionary.n_features, dictionary.signed) == ("neurons@h.1.mlp", 8, True)
    assert found[0].tolist() == [1.5, 0, 0, 3, 0, 2, 0, 0]
    assert torch.equal(dense(dictionary, dictionary.active(acts), 3), found)
    assert torch.equal(dictionary.decode(found, acts), acts)
    assert torch.equal(dictionary.directions(), torch.cat([torch.eye(4), -torch.eye(4)]))
    half = acts.bfloat16()
    assert torch.equal(dictionary.encode(half), poles(half.float()))  # cast first
    assert torch.equal(dense(dictionary, dictionary.active(half), 3), poles(half.float()))


def test_neurons_of_a_hidden_layer_write_what_they_are_told() -> None:
    rows = torch.randn(4, 3)
    dictionary, plain = NeuronDictionary("h.1.mlp.c_proj:in", 4, rows), NeuronDictionary("h.1.mlp.c_proj:in", 4)
    assert torch.equal(dictionary.directions(), torch.cat([rows, -rows]))
    assert dictionary.identity()["architecture"] == "neurons"
    assert dictionary.identity() != plain.identity()


def test_a_neuron_that_is_no_number_stays_one() -> None:
    dictionary = NeuronDictionary("h.1", 3)
    acts = torch.tensor([[1.0, torch.nan, -1.0]])
    _, feature, value = dictionary.active(acts)
    assert (feature.tolist(), value.isnan().tolist()) == ([0, 1, 5], [False, True, False])
    assert dictionary.encode(acts).isnan().any()
