"""A small random model that chats: what it writes means nothing, but it has a template, ends, and counts like any other."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message here') }}{% endif %}"
CONTEXT = 2048


def letters(template: str | None = TEMPLATE, says: str | None = None) -> PreTrainedTokenizerFast:
    """One token a byte, and the marks of the chat format; then the pieces of `says`."""
    marks = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    names = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]  # its own order differs from process to process
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    # in no merge: a prompt that holds such a piece spells it
    names += [in_bytes.pre_tokenize_str(piece)[0][0] for piece in pieces(says or "")]
    tokenizer = Tokenizer(models.BPE({name: place for place, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=marks[0],
        bos_token=marks[1],
        eos_token=marks[2],
        model_max_length=CONTEXT,
    )
    fast.chat_template = template
    return fast


def pieces(says: str) -> list[str]:
    """A text in parts that all differ, so that each says which is the next."""
    found = [says[start : start + 7] for start in range(0, len(says), 7)]
    assert len(set(found)) == len(found) and all(len(piece) > 1 for piece in found), "change the text a little"
    return found


def tiny_chat(
    path: Path, *, kind: str = "llama", template: str | None = TEMPLATE, context: int = CONTEXT, says: str | None = None
) -> Path:
    """The folder of a random model of two layers; its weights are large, so that its choices are plain.

    `says`: a llama that says this and ends, whatever it is asked.
    """
    torch.manual_seed(7)
    tokenizer = letters(template, says)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": len(tokenizer)}
    if kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=2, n_positions=context, **ids))
    else:
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=context, **sizes, **ids))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 8
        if says is not None:
            newline, end, n = tokenizer.convert_tokens_to_ids("\u010a"), tokenizer.eos_token_id, len(pieces(says))
            _fix(model, [newline, *range(len(tokenizer) - n, len(tokenizer)), end])
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _fix(model: LlamaForCausalLM, chain: list[int]) -> None:
    """Layers that add nothing, and a head that reads the last token: each of the chain is followed by the next."""
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    seen = torch.nn.functional.normalize(model.model.embed_tokens.weight, dim=1)
    model.lm_head.weight.zero_()
    for this, following in itertools.pairwise(chain):
        model.lm_head.weight[following] = seen[this]
