"""A sentence-transformers folder is read as it says it is made, or refused: poolings, prompts, case, length, whose weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glossator.errors import UsageError
from glossator.harness.embedder import Embedder, read_recipe
from glossator.harness.subject import HFSubject

TEXTS = ["a dog barks", "", "The Dog barked at the man.", "stocks fell sharply on Monday " * 3, "word " * 400]
LISTED = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def folder(tmp_path: Path, **files: Any) -> Path:
    """A folder that says what it is made of; `pooling` goes into 1_Pooling."""
    (tmp_path / "1_Pooling").mkdir()
    for name, value in ({"modules": LISTED} | files).items():
        place = "1_Pooling/config.json" if name == "pooling" else f"{name}.json"
        (tmp_path / place).write_text(value if isinstance(value, str) else json.dumps(value))
    return tmp_path


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": "mean", "embedding_dimension": 384}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
def test_the_pooling_is_what_the_folder_says(tmp_path: Path, pooling: Any, expected: str) -> None:
    assert read_recipe(folder(tmp_path, pooling=pooling)).pooling == expected


def test_a_folder_without_a_list_of_modules_is_pooled_by_the_mean(tmp_path: Path) -> None:
    found = read_recipe(tmp_path)
    assert (found.pooling, found.longest, found.lower, found.prompt) == ("mean", 256, False, "")


def test_length_case_and_prompt_are_read(tmp_path: Path) -> None:
    found = read_recipe(
        folder(
            tmp_path,
            pooling={"pooling_mode": "mean"},
            sentence_bert_config={"max_seq_length": 128, "do_lower_case": True},
            config_sentence_transformers={"prompts": {"query": "query: "}, "default_prompt_name": "query"},
        )
    )
    assert (found.longest, found.lower, found.prompt) == (128, True, "query: ")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"pooling": {"pooling_mode_max_tokens": True}},
            "pools by max_tokens; this version can pool by one of mean, cls",
        ),
        ({"pooling": {"pooling_mode": ["mean", "max"]}}, "pools by mean and max"),
        ({"pooling": {}}, "pools by nothing"),
        ({"pooling": "{half"}, "config.json: cannot be read as JSON"),
        ({"modules": {"0": "x"}}, "modules.json: not what sentence-transformers writes there"),
        (
            {"modules": [*LISTED, {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]},
            "has a module Dense",
        ),
        (
            {
                "pooling": {"pooling_mode": "mean", "include_prompt": False},
                "config_sentence_transformers": {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
            },
            "leaves its prompt out of the pooling",
        ),
    ],
)
def test_what_this_version_cannot_do_is_refused_and_named(tmp_path: Path, files: Any, message: str) -> None:
    with pytest.raises(UsageError, match="--embedder ") as refused:
        read_recipe(folder(tmp_path, **files))
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_that_is_none_or_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        Embedder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"cannot be loaded .* name a sentence-transformers folder"):
        Embedder(tmp_path)


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_embeddings_are_those_of_sentence_transformers(tmp_path: Path, minilm_path: Path, mode: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    copy = tmp_path / "encoder"
    shutil.copytree(minilm_path, copy)
    (copy / "1_Pooling/config.json").write_text(json.dumps({"embedding_dimension": 384, "pooling_mode": mode}))
    (copy / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, "do_lower_case": False}))
    expected = library.SentenceTransformer(str(copy), device="cpu").encode(TEXTS, normalize_embeddings=True)
    found = Embedder(copy, half=False)(TEXTS)
    assert found == pytest.approx(np.asarray(expected), abs=1e-5)


def test_the_last_token_and_the_prompt_are_those_of_the_model(tmp_path: Path, minilm_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    copy = tmp_path / "encoder"
    shutil.copytree(minilm_path, copy)
    (copy / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}))
    about = {"prompts": {"q": "question: "}, "default_prompt_name": "q"}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(about))
    found = Embedder(copy, half=False)(TEXTS[:3])
    tokenizer, model = AutoTokenizer.from_pretrained(copy), AutoModel.from_pretrained(copy).eval()
    for text, row in zip(TEXTS[:3], found, strict=True):
        with torch.inference_mode():
            last = model(**tokenizer("question: " + text, return_tensors="pt")).last_hidden_state[0, -1]
        assert row == pytest.approx((last / last.norm()).numpy(), abs=1e-5)


def test_an_encoder_knows_whether_the_subject_is_itself(tmp_path: Path, minilm: HFSubject, minilm_path: Path) -> None:
    encoder = Embedder()
    assert encoder.name == "all-MiniLM-L6-v2"
    assert encoder.has_weights(minilm.identity()["weights"])
    assert not encoder.has_weights("all:0123456789abcdef")


def test_half_precision_hardly_moves_an_embedding() -> None:
    exact, half = Embedder(half=False)(TEXTS), Embedder(half=True)(TEXTS)
    assert (exact * half).sum(1).min() > 0.9995
