"""A TransformerLens name reads what TransformerLens reads, in every family; what has no exact module is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertForPreTraining, MPNetModel

from glossator.errors import SubjectError
from glossator.harness.hooks import module_path
from glossator.harness.subject import HFSubject, TokenBatch, batches
from tests.harness.small_models import DECODERS, small_decoder, small_encoder, small_gemma3_with_images

TEXTS = ["the cat sat on the mat and then it ran off to see", "a blue hat"]
RESIDUAL = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
INSIDE = ("attn.hook_z", "mlp.hook_pre", "mlp.hook_post")
PARALLEL = ("gpt_neox",)
CONVERTERS = {"gpt_neox": "neox", "gpt_neox_sequential": "neox", "gemma2": "gemma", "gemma3_text": "gemma"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {
        # TransformerLens takes some folders' names for names of models; it knows one spelling of NeoX's activation
        kind: small_decoder(tmp_path_factory.mktemp("d"), kind, **{"hidden_act": "gelu"} if "neox" in kind else {})
        for kind in DECODERS
    }
    made["gemma3"] = small_gemma3_with_images(tmp_path_factory.mktemp("d"))
    made["bert"] = small_encoder(tmp_path_factory.mktemp("d"), rough=True)
    return made


def names(*points: str, block: int = 1) -> list[str]:
    return [f"blocks.{block}.{point}" for point in points]


def one_batch(subject: HFSubject) -> TokenBatch:
    (batch,) = batches(subject.tokenize(TEXTS), subject, batch_tokens=64)
    return batch


def read(path: Path, wanted: list[str]) -> tuple[TokenBatch, dict[str, Tensor]]:
    """The batch, and {name as given: what is read there}."""
    subject = HFSubject(path, wanted, context_size=32)
    batch = one_batch(subject)
    got = subject.read(batch)
    return batch, {name: got[hook] for name, hook in zip(wanted, subject.hooks, strict=True)}


def hidden_states(path: Path, batch: TokenBatch) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        model = AutoModel.from_pretrained(path).eval()
        return model(input_ids=batch.ids, attention_mask=batch.attention, output_hidden_states=True).hidden_states


# ------------------------------------------------------------------ against the hidden states of transformers


@pytest.mark.parametrize("kind", [*DECODERS, "gemma3"])
def test_the_residual_stream_is_the_hidden_states(kind: str, models: dict[str, Path]) -> None:
    wanted = [*names("hook_resid_pre", "hook_resid_post", block=0), *names("hook_resid_pre", "hook_resid_post")]
    batch, got = read(models[kind], wanted)
    states = hidden_states(models[kind], batch)
    for name, layer in zip(wanted, (0, 1, 1, 2), strict=True):
        assert torch.equal(got[name], states[layer]), name


@pytest.mark.parametrize("kind", [*DECODERS, "gemma3"])
def test_attention_and_mlp_add_up_to_the_residual_stream(kind: str, models: dict[str, Path]) -> None:
    parallel = kind in PARALLEL
    _, got = read(models[kind], names(*RESIDUAL, "hook_mlp_in", *([] if parallel else ["hook_resid_mid"])))
    before, attention, mlp, after, mlp_in, *middle = got.values()
    assert attention.abs().mean() > 0.01 and mlp.abs().mean() > 0.01  # or this says nothing
    if parallel:
        assert torch.allclose(before + attention + mlp, after, atol=1e-5)
        assert torch.equal(mlp_in, before)
    else:
        assert torch.allclose(before + attention, middle[0], atol=1e-5)
        assert torch.allclose(middle[0] + mlp, after, atol=1e-5)
        assert torch.equal(mlp_in, middle[0])


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_heads_and_neurons_write_what_attention_and_mlp_give(kind: str, models: dict[str, Path]) -> None:
    subject = HFSubject(models[kind], names("attn.hook_z", "hook_attn_out", "mlp.hook_post", "hook_mlp_out"))
    heads, attention, neurons, mlp = subject.read(one_batch(subject)).values()
    for source, target, name in ((heads, attention, "attn.hook_z"), (neurons, mlp, "mlp.hook_post")):
        weights = subject.output_weights(f"blocks.1.{name}")
        assert weights is not None
        rest = target - source @ weights  # a bias, the same at every token
        assert torch.allclose(rest, rest[:1, :1].expand_as(rest), atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3"])
def test_a_gated_neuron_is_the_activated_gate_times_the_linear_part(kind: str, models: dict[str, Path]) -> None:
    _, got = read(models[kind], names("mlp.hook_pre", "mlp.hook_pre_linear", "mlp.hook_post"))
    gate, linear, neuron = got.values()
    act = torch.nn.functional.silu(gate) if kind == "llama" else torch.nn.functional.gelu(gate, approximate="tanh")
    assert torch.allclose(act * linear, neuron, atol=1e-6)


# ------------------------------------------------------------------ BERT norms after it adds


def test_bert_has_its_residual_stream_before_the_norms(models: dict[str, Path]) -> None:
    wanted = names(*RESIDUAL, "hook_resid_mid", "hook_mlp_in", "hook_normalized_resid_post", "mlp.hook_pre")
    batch, got = read(models["bert"], wanted)
    before, attention, mlp, after, middle, mlp_in, normed, pre = got.values()
    layer = AutoModel.from_pretrained(models["bert"]).eval().encoder.layer[1]
    states = hidden_states(models["bert"], batch)
    with torch.inference_mode():
        normed_middle = layer.attention.output.LayerNorm(middle)
        assert torch.equal(before, states[1])
        assert torch.equal(normed, states[2])
        assert torch.allclose(before + attention, middle, atol=1e-5)
        assert torch.allclose(normed_middle + mlp, after, atol=1e-5)
        assert torch.allclose(layer.output.LayerNorm(after), normed, atol=1e-5)
        assert torch.allclose(layer.intermediate.dense(normed_middle), pre, atol=1e-5)
    assert torch.equal(mlp_in, middle)


def test_the_first_block_of_bert_reads_the_normed_embeddings(models: dict[str, Path]) -> None:
    batch, got = read(models["bert"], ["hook_full_embed", "blocks.0.hook_resid_pre"])
    assert all(torch.equal(value, hidden_states(models["bert"], batch)[0]) for value in got.values())


# ------------------------------------------------------------------ against TransformerLens itself


def lens_config(path: Path, kind: str) -> dict[str, Any]:
    """What TransformerLens makes of the config; for GPT-2 and Gemma, whose sizes it knows by name only, by hand."""
    from transformer_lens.loading_from_pretrained import convert_hf_model_config

    config = AutoModelForCausalLM.from_pretrained(path).config
    if kind != "gpt2" and "gemma" not in kind:
        return convert_hf_model_config(str(path))
    sizes = {"d_model": 16, "n_heads": 2, "d_mlp": 32, "n_layers": 3, "n_ctx": 64, "d_vocab": config.vocab_size}
    if kind == "gpt2":
        return {**sizes, "d_head": 8, "eps": 1e-5, "act_fn": "gelu_new", "normalization_type": "LN"}
    gemma = {
        **sizes, "d_head": 12, "eps": 1e-6, "act_fn": "gelu_pytorch_tanh", "normalization_type": "RMS", "final_rms": True,
        "positional_embedding_type": "rotary", "rotary_dim": 12, "rotary_base": 10000, "n_key_value_heads": 1,
        "gated_mlp": True,
    }  # fmt: skip
    if kind != "gemma":
        gemma |= {"use_normalization_before_and_after": True, "attn_scale": config.query_pre_attn_scalar**0.5}
    if kind == "gemma2":
        gemma |= {"attn_scores_soft_cap": 50.0}
    return gemma | ({"use_qk_norm": True} if kind == "gemma3_text" else {})


@pytest.mark.parametrize("kind", list(DECODERS))
def test_transformer_lens_reads_the_same_in_a_decoder(kind: str, models: dict[str, Path]) -> None:
    lens = pytest.importorskip("transformer_lens")
    from transformer_lens.pretrained import weight_conversions

    path = models[kind]
    config = {**lens_config(path, kind), "device": "cpu", "original_architecture": "none", "tokenizer_name": None}
    config = lens.HookedTransformerConfig.unwrap(config)
    convert = getattr(weight_conversions, f"convert_{CONVERTERS.get(kind, kind)}_weights")
    model = lens.HookedTransformer(config)
    model.load_state_dict(convert(AutoModelForCausalLM.from_pretrained(path), config), strict=False)

    wanted = names(*RESIDUAL, *INSIDE, *([] if kind in PARALLEL else ["hook_resid_mid"]))
    batch, got = read(path, ["hook_embed", *wanted])
    n = int(batch.attention[0].sum())
    _, cache = model.run_with_cache(batch.ids[:1, :n], prepend_bos=False)
    for name, value in got.items():
        assert torch.allclose(cache[name].flatten(2), value[:1, :n], atol=1e-5, rtol=1e-4), name


def test_transformer_lens_reads_the_same_in_bert(models: dict[str, Path]) -> None:
    lens = pytest.importorskip("transformer_lens")
    from transformer_lens.pretrained.weight_conversions import convert_bert_weights

    with_head = BertForPreTraining(BertConfig.from_pretrained(models["bert"]))  # its head matters to nothing here
    with_head.bert.load_state_dict(AutoModel.from_pretrained(models["bert"]).state_dict())
    config = lens.HookedTransformerConfig(
        d_model=16, d_head=8, n_heads=2, d_mlp=32, n_layers=3, n_ctx=66, eps=1e-12, d_vocab=with_head.config.vocab_size,
        act_fn="gelu", attention_dir="bidirectional", device="cpu",
    )  # fmt: skip
    model = lens.HookedEncoder(config)
    model.load_state_dict(convert_bert_weights(with_head, config), strict=False)

    wanted = names(*RESIDUAL, *INSIDE, "hook_resid_mid", "hook_normalized_resid_post")
    batch, got = read(models["bert"], ["embed.hook_embed", "hook_full_embed", *wanted])
    n = int(batch.attention[0].sum())
    _, cache = model.run_with_cache(batch.ids[:1, :n])
    for name, value in got.items():
        assert torch.allclose(cache[name].flatten(2), value[:1, :n], atol=1e-5, rtol=1e-4), name


# ------------------------------------------------------------------ names of modules


@pytest.mark.parametrize(
    ("kind", "given", "path"),
    [
        ("gpt2", "transformer.h.1.mlp", "h.1.mlp"),
        ("gpt2", "h.1.mlp:in", "h.1.mlp:in"),
        ("llama", "model.layers.2:in", "layers.2:in"),
        ("gpt_neox", "gpt_neox.layers.0.mlp", "layers.0.mlp"),
        ("gemma3", "model.language_model.layers.1", "language_model.layers.1"),
        ("bert", "bert.encoder.layer.1", "encoder.layer.1"),
        ("gpt2", "blocks.0.hook_resid_pre", "h.0:in"),
        ("gemma2", "blocks.2.hook_mlp_out", "layers.2.post_feedforward_layernorm"),
    ],
)
def test_a_hook_has_one_spelling(kind: str, given: str, path: str, models: dict[str, Path]) -> None:
    model = AutoModel.from_pretrained(models[kind])
    assert module_path(given, model) == path
    assert module_path(path, model) == path


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("kind", "hook", "message"),
    [
        ("gpt2", "blocks.3.hook_resid_pre", "subject has 3 blocks, 0 to 2; name one of them"),
        ("bert", "blocks.12.hook_resid_post", "subject has 3 blocks, 0 to 2"),
        ("llama", "blocks.1.ln2.hook_normalized", "before the norm's weight.*give a module path with --hook"),
        ("llama", "ln_final.hook_normalized", "before the norm's weight.*--hook"),
        (
            "gpt2",
            "blocks.1.attn.hook_pattern",
            "no module of subject is known to give exactly this.*known: hook_resid_pre",
        ),
        ("gpt2", "blocks.1.hook_q_input", "once for every head; give a module path"),
        ("gpt_neox", "blocks.1.hook_resid_mid", "read the same input, so nothing lies between"),
        ("gpt2", "blocks.1.hook_normalized_resid_post", "known:"),
        ("bert", "blocks.1.ln1.hook_scale", "one number a token"),
        ("gpt2", "blocks.1", "no such module in subject; nearest"),
        ("gpt2", "h.7:in", r"hook 'h\.7:in': no such module.*nearest: .*h\."),
        ("gpt2", "", "no such module"),
        ("gpt2", "model.", "no such module"),
    ],
)
def test_what_has_no_exact_module_is_refused(kind: str, hook: str, message: str, models: dict[str, Path]) -> None:
    with pytest.raises(SubjectError, match=message) as caught:
        module_path(hook, AutoModel.from_pretrained(models[kind]), "subject")
    assert repr(hook) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_family_is_told_which_are_known(tmp_path: Path) -> None:
    model = MPNetModel.from_pretrained(small_encoder(tmp_path, "mpnet"))
    with pytest.raises(
        SubjectError, match=r"known for bert, .*qwen3, and subject is mpnet; give a module path with --hook"
    ):
        module_path("blocks.1.hook_resid_pre", model, "subject")
    assert module_path("encoder.layer.1:in", model) == "encoder.layer.1:in"
