"""Small random models with small tokenizers, saved as folders that transformers loads like any other."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "it",
    "ran",
    "off",
    "to",
    "see",
    "what",
    "the",
    "dog",
    "did",
    "with",
    "its",
    "new",
    "blue",
    "hat",
]
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 32}


def word_tokenizer(*, frame: tuple[str, ...] = ("[CLS]", "[SEP]")) -> PreTrainedTokenizerFast:
    """One token a word. `frame` stands before and, if it has two, after a text."""
    names = ["[PAD]", "[UNK]", *frame, *dict.fromkeys(WORDS)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if frame:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([frame[0], "$A", *frame[1:]]), special_tokens=[(f, names.index(f)) for f in frame]
        )
    special = dict(zip(("cls_token", "sep_token"), frame, strict=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **special)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2 has it: no frame, a leading space belongs to the token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>")


def save(path: Path, model: object, tokenizer: PreTrainedTokenizerFast) -> Path:
    model.save_pretrained(path)  # type: ignore[attr-defined]
    tokenizer.save_pretrained(path)
    return path


def small_gpt2(path: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_head=2, n_layer=3, n_positions=64)
    return save(path, GPT2LMHeadModel(config), tokenizer)


def small_llama(path: Path) -> Path:
    torch.manual_seed(1)
    tokenizer = word_tokenizer(frame=("[CLS]",))
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=1, max_position_embeddings=64, **SMALL)
    return save(path, LlamaForCausalLM(config), tokenizer)


def small_encoder(path: Path, kind: str = "bert", *, rough: bool = False) -> Path:
    torch.manual_seed(2)
    tokenizer = word_tokenizer()
    config_of, model_of = {"bert": (BertConfig, BertModel), "mpnet": (MPNetConfig, MPNetModel)}[kind]
    config = config_of(vocab_size=len(tokenizer), max_position_embeddings=66, **SMALL)
    model = model_of(config)
    return save(path, roughened(model) if rough else model, tokenizer)


GROUPED = {"num_key_value_heads": 1, "max_position_embeddings": 64}
WIDE = {**GROUPED, "head_dim": 12}  # heads that together are wider than the residual stream
DECODERS = {
    "gpt2": (GPT2Config, {"n_inner": 32, "n_positions": 64}),
    "gpt_neox": (GPTNeoXConfig, {"max_position_embeddings": 64}),
    "gpt_neox_sequential": (GPTNeoXConfig, {"max_position_embeddings": 64, "use_parallel_residual": False}),
    "llama": (LlamaConfig, GROUPED),
    "mistral": (MistralConfig, GROUPED),
    "qwen2": (Qwen2Config, GROUPED),
    "qwen3": (Qwen3Config, WIDE),
    "gemma": (GemmaConfig, WIDE),
    "gemma2": (Gemma2Config, WIDE),
    "gemma3_text": (Gemma3TextConfig, WIDE),
}


def small_decoder(path: Path, kind: str, **options: object) -> Path:
    """A causal model of any family. No norm is left at its first weights, which would hide a forgotten factor."""
    tokenizer = word_tokenizer(frame=("[CLS]",))
    config_of, own = DECODERS[kind]
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    config = config_of(vocab_size=len(tokenizer), **{**SMALL, **own, **ids, **options})
    torch.manual_seed(3)
    return save(path, roughened(AutoModelForCausalLM.from_config(config)), tokenizer)


def roughened(model: torch.nn.Module) -> torch.nn.Module:
    """The model with larger weights, and with biases and norms moved off their first values, so that each part shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
            else:
                parameter *= 5
    return model


def small_gemma3_with_images(path: Path) -> Path:
    """Gemma 3 as the larger ones are: the text model is one part of it."""
    tokenizer = word_tokenizer(frame=("[CLS]",))
    text = {**SMALL, **WIDE, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
    vision = {**SMALL, "image_size": 8, "patch_size": 4}
    config = Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_id=5,
        boi_token_index=6,
        eoi_token_index=7,
    )
    torch.manual_seed(4)
    return save(path, roughened(Gemma3ForConditionalGeneration(config)), tokenizer)
