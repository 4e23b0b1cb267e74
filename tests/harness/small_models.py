"""Small random models with small tokenizers, saved as folders that transformers loads like any other."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
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


def small_encoder(path: Path, kind: str = "bert") -> Path:
    torch.manual_seed(2)
    tokenizer = word_tokenizer()
    config_of, model_of = {"bert": (BertConfig, BertModel), "mpnet": (MPNetConfig, MPNetModel)}[kind]
    config = config_of(vocab_size=len(tokenizer), max_position_embeddings=66, **SMALL)
    return save(path, model_of(config), tokenizer)
