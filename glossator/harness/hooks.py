"""Names of hook points, and the one spelling that the subject keeps of each: a module path, `:in` for its input.

A hook is named by a module path of the model (`encoder.layer.4`, `h.6.mlp`), by such a path with `:in` for what goes
into the module instead of what comes out, or by the name that TransformerLens has for it (`blocks.6.hook_resid_pre`),
which most published dictionaries state. A TransformerLens name is mapped only where a module of the model that
AutoModel loads reads or gives exactly that tensor, with the weights as they are in the checkpoint; TransformerLens
can fold norms into the weights, centre them or split heads, and none of that is imitated here. What has no exact
module is refused. Heads lie side by side in attn.hook_z, as SAELens flattens them.

Here too are the weights that lie right after a hook point: a linear map's, and the norm's before the logits. Nothing
here runs the model.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import Linear, Module

from glossator.errors import SubjectError

INPUT = ":in"
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


@dataclass(frozen=True)
class _Family:
    """Where a family of models keeps its blocks, and what follows a block's path for each point of TransformerLens."""

    blocks: str
    points: Mapping[str, str]
    whole: Mapping[str, str] = field(default_factory=dict)  # points outside of the blocks


_ENDS = {"hook_resid_pre": INPUT, "hook_resid_post": ""}

_GPT2 = _Family(
    "h",
    {
        **_ENDS,
        "hook_resid_mid": ".ln_2:in",
        "hook_mlp_in": ".ln_2:in",
        "hook_attn_out": ".attn",
        "hook_mlp_out": ".mlp",
        "attn.hook_z": ".attn.c_proj:in",
        "mlp.hook_pre": ".mlp.c_fc",
        "mlp.hook_post": ".mlp.c_proj:in",
    },
    {"hook_embed": "wte"},
)

_NEOX_PARALLEL = _Family(
    "layers",
    {
        **_ENDS,
        "hook_mlp_in": ".post_attention_layernorm:in",  # the block's input: the MLP does not wait for attention
        "hook_attn_out": ".attention",
        "hook_mlp_out": ".mlp",
        "attn.hook_z": ".attention.dense:in",
        "mlp.hook_pre": ".mlp.dense_h_to_4h",
        "mlp.hook_post": ".mlp.dense_4h_to_h:in",
    },
    {"hook_embed": "embed_in"},
)
_NEOX = _Family(
    _NEOX_PARALLEL.blocks,
    {**_NEOX_PARALLEL.points, "hook_resid_mid": ".post_attention_layernorm:in"},
    _NEOX_PARALLEL.whole,
)

_LLAMA = _Family(
    "layers",
    {
        **_ENDS,
        "hook_resid_mid": ".post_attention_layernorm:in",
        "hook_mlp_in": ".post_attention_layernorm:in",
        "hook_attn_out": ".self_attn",
        "hook_mlp_out": ".mlp",
        "attn.hook_z": ".self_attn.o_proj:in",
        "mlp.hook_pre": ".mlp.gate_proj",
        "mlp.hook_pre_linear": ".mlp.up_proj",
        "mlp.hook_post": ".mlp.down_proj:in",
    },
    {"hook_embed": "embed_tokens"},
)

# Gemma 2 and 3 norm what attention and MLP give before they add it; TransformerLens hooks what is added.
_POST_NORMED = {
    **_LLAMA.points,
    "hook_resid_mid": ".pre_feedforward_layernorm:in",
    "hook_mlp_in": ".pre_feedforward_layernorm:in",
    "hook_attn_out": ".post_attention_layernorm",
    "hook_mlp_out": ".post_feedforward_layernorm",
}
_GEMMA2 = _Family("layers", _POST_NORMED, _LLAMA.whole)
_GEMMA3_WITH_IMAGES = _Family("language_model.layers", _POST_NORMED, {"hook_embed": "language_model.embed_tokens"})

# BERT norms after it adds: its residual stream proper is what goes into a norm, and a block gives the normed one.
_BERT = _Family(
    "encoder.layer",
    {
        "hook_resid_pre": INPUT,
        "hook_resid_mid": ".attention.output.LayerNorm:in",
        "hook_mlp_in": ".attention.output.LayerNorm:in",
        "hook_resid_post": ".output.LayerNorm:in",
        "hook_normalized_resid_post": "",
        "hook_attn_out": ".attention.output.dense",
        "hook_mlp_out": ".output.dense",
        "attn.hook_z": ".attention.output.dense:in",
        "mlp.hook_pre": ".intermediate.dense",
        "mlp.hook_post": ".output.dense:in",
    },
    {"embed.hook_embed": "embeddings.word_embeddings", "hook_full_embed": "embeddings"},
)

_FAMILIES = {
    "bert": _BERT,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3": _GEMMA3_WITH_IMAGES,
    "gemma3_text": _GEMMA2,
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}

_WHY_NOT = {  # by the last part of the name
    "hook_normalized": "it lies inside the norm, before the norm's weight, where no module ends",
    "hook_scale": "a norm's scale is one number a token, not activations",
    "hook_attn_in": "it is the block's input, once for every head",
    "hook_q_input": "it is the block's input, once for every head",
    "hook_k_input": "it is the block's input, once for every head",
    "hook_v_input": "it is the block's input, once for every head",
    "hook_result": "it is what every head writes by itself, which the model never computes",
    "hook_resid_mid": "attention and MLP of this model read the same input, so nothing lies between them",
}
_WAY_OUT = "give a module path with --hook"


def split(hook: str) -> tuple[str, bool]:
    """The path of the module, and whether its input is meant."""
    return hook.removesuffix(INPUT), hook.endswith(INPUT)


def module_path(hook: str, model: Module, name: str = "the model") -> str:
    """The hook as a path of `model`, with `:in` where the input is meant. Raises SubjectError where there is none.

    `name` is what errors call the model. It does not say whether the module gives anything that can be read.
    """
    modules = dict(model.named_modules())
    path, takes_input = split(hook)
    mark = INPUT if takes_input else ""
    if path and path in modules:
        return path + mark
    # AutoModel drops the head and with it the first step of the path
    for prefix in dict.fromkeys(("model.", "transformer.", f"{getattr(model, 'base_model_prefix', 'model')}.")):
        if path.startswith(prefix) and path.removeprefix(prefix) in modules.keys() - {""}:
            return path.removeprefix(prefix) + mark
    if hook.rpartition(".")[2].startswith("hook_"):
        return _from_transformer_lens(hook, model, modules, name)
    near = difflib.get_close_matches(path, list(modules), n=4, cutoff=0.3)
    raise SubjectError(f"hook {hook!r}: no such module in {name}; nearest: {', '.join(near) or 'none'}")


def _from_transformer_lens(hook: str, model: Module, modules: Mapping[str, Module], name: str) -> str:
    family = _family(hook, model, name)
    match = _BLOCK.fullmatch(hook)
    if match is None:
        if hook in family.whole:
            return family.whole[hook]
        raise _refusal(hook, family, name)
    block, point = int(match[1]), match[2]
    n_blocks = sum(1 for _ in modules[family.blocks].children())
    if block >= n_blocks:
        raise SubjectError(f"hook {hook!r}: {name} has {n_blocks} blocks, 0 to {n_blocks - 1}; name one of them")
    if point not in family.points:
        raise _refusal(hook, family, name)
    return f"{family.blocks}.{block}{family.points[point]}"


def _family(hook: str, model: Module, name: str) -> _Family:
    config = getattr(model, "config", None)
    kind = str(getattr(config, "model_type", "none"))
    if kind not in _FAMILIES:
        raise SubjectError(
            f"hook {hook!r}: names of TransformerLens are known for {', '.join(_FAMILIES)}, and {name} is {kind}; {_WAY_OUT}"
        )
    if kind == "gpt_neox" and getattr(config, "use_parallel_residual", True):
        return _NEOX_PARALLEL
    return _FAMILIES[kind]


def _refusal(hook: str, family: _Family, name: str) -> SubjectError:
    reason = _WHY_NOT.get(hook.rpartition(".")[2])
    if reason is None:
        known = ", ".join((*family.points, *family.whole))
        reason = f"no module of {name} is known to give exactly this (known: {known})"
    return SubjectError(f"hook {hook!r}: {reason}; {_WAY_OUT}")


def weights_after(model: Module, hook: str) -> Tensor | None:
    """[d_in, d_out] float32 of the linear map whose input this hook (a module path) is; None for any other hook."""
    from transformers.pytorch_utils import Conv1D

    path, takes_input = split(hook)
    module = model.get_submodule(path)
    if not takes_input or not isinstance(module, (Linear, Conv1D)):
        return None
    weight: Tensor = module.weight.detach().float().cpu()
    return weight.T if isinstance(module, Linear) else weight  # Conv1D keeps it the other way round


# What decoders call the norm before the head, the likeliest first.
_FINAL_NORMS = (
    "norm",
    "ln_f",
    "final_layer_norm",
    "final_layernorm",
    "language_model.norm",
    "decoder.final_layer_norm",
)


@torch.inference_mode()
def through_final_norm(model: Module, head: Tensor) -> Tensor | None:
    """An output embedding [V, d] with the weight of the model's final norm folded in; None where no norm is found.

    Measured on the norm: its weight may be w or 1 + w, and its class does not say whether it subtracts the mean. Where
    it does, rows are centred. The norm's scale and bias are left out.
    """
    modules, width = dict(model.named_modules()), head.shape[1]
    found = next((modules[name] for name in _FINAL_NORMS if name in modules), None)
    if found is None or any(weight.shape[-1] != width for weight in found.parameters()):
        return None
    norm = copy.deepcopy(found).float().cpu()
    x = torch.ones(width)
    x[1::2] = -1
    if width % 2:
        x[-3:] = torch.tensor([1.0, -2.0, 1.0])  # the mean stays zero, so that centring changes nothing
    x *= 1000  # so large that the norm's epsilon is nothing
    gain = (norm(x) - norm(-x)) / (2 * x / x.square().mean().sqrt())
    folded: Tensor = head * gain
    centres = torch.allclose(norm(x + 500), norm(x), rtol=1e-3)
    return folded - folded.mean(1, keepdim=True) if centres else folded
