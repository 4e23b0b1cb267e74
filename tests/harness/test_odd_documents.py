"""Documents that nobody would write go through a real tokenizer and a real model, and are counted or skipped, not lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopKSAEConfig

from glossator import pipeline
from glossator.config import CorpusConfig, HarvestConfig, Recipe, SubjectConfig
from glossator.planted import planted_documents
from glossator.store.records import records
from glossator.store.store import Store
from tests.harness.small_models import small_gpt2

ODD = {
    "one token": "a",
    "special tokens": "<|endoftext|>" * 40,
    "emoji": "\U0001f600\U0001f468‍\U0001f469‍\U0001f467\U0001f3f3️‍\U0001f308 " * 30,
    "zero bytes": "the\x00cat\x00\x00sat " * 20,
    "controls": "".join(map(chr, range(32))) * 5,
    "right to left": "‮שלום‬ عليكم " * 20,
    "spaces": " \n\t" * 100,
    "long": "the cat sat on a mat and then it ran off " * 1500,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    small_gpt2(folder / "model")
    config = TopKSAEConfig(d_in=16, d_sae=48, k=4, device="cpu")
    SAE.get_sae_class_for_architecture("topk")(config).save_model(folder / "sae")
    with (folder / "text.jsonl").open("w") as file:
        for document in planted_documents(150):
            file.write(json.dumps({"name": document.name, "text": " ".join(document.passages)}) + "\n")
        for name, text in ODD.items():
            file.write(json.dumps({"name": name, "text": text}) + "\n")
    what = SubjectConfig(
        model=str(folder / "model"),
        dictionaries=(str(folder / "sae"), "neurons"),
        hooks=("h.1", "h.1.mlp.c_proj:in"),
        corpus=(str(folder / "text.jsonl"),),
    )
    harvest = HarvestConfig(background=(90, 50, 90), batch_tokens=2048, encode_tokens=2048, shard_tokens=16384)
    pipeline.harvest(folder / "run.duckdb", Recipe(subject=what, corpus=CorpusConfig(context_size=64), harvest=harvest))
    return folder / "run.duckdb"


def test_every_document_with_a_token_in_it_is_there(run: Path) -> None:
    with Store(run, create=False) as store:
        tokens = dict(store.sql("SELECT split_part(name, ':', 2), tokens FROM document"))
        assert set(ODD) - {"spaces"} <= set(tokens)  # nothing is left of a text of spaces
        assert tokens["one token"] == 1 and tokens["special tokens"] == 40 and tokens["long"] > 15_000
        counted = store.sql("SELECT sum(tokens) FROM document")[0][0]
        assert store.sql("SELECT tokens FROM corpus") == [(counted,)]
        kept = dict(
            store.sql(
                "SELECT split_part(d.name, ':', 2), count(*) FROM text_window w JOIN document d USING (document) GROUP BY ALL"
            )
        )
        assert {"emoji", "zero bytes", "controls", "right to left", "long"} <= set(kept)
        assert store.sql(
            "SELECT count(*) FROM exemplar e JOIN text_window w USING (window_id) JOIN document d USING (document) WHERE d.name = 'text.jsonl:special tokens'"
        ) == [(0,)]  # masked: nothing is active there


def test_windows_keep_their_tokens_whatever_their_text(run: Path) -> None:
    with Store(run, create=False) as store:
        for name in ("zero bytes", "controls", "emoji"):
            rows = store.sql(
                "SELECT w.ids, w.text FROM text_window w JOIN document d USING (document) WHERE d.name = ?",
                [f"text.jsonl:{name}"],
            )
            assert rows and all(len(ids) == len(rows[0][0]) and isinstance(text, str) for ids, text in rows)
        assert [r.feature.index for r in records(store, "sae", range(48))] == list(range(48))


def test_neurons_are_harvested_as_two_poles_of_which_one_is_active_at_most(run: Path) -> None:
    with Store(run, create=False) as store:
        name = "neurons@h.1.mlp.c_proj:in"
        rows = store.sql(
            "SELECT p.feature, p.name, n.name, p.active_tokens, n.active_tokens, p.density + n.density, p.neighbour_cosines[1] "
            "FROM feature p JOIN feature n ON n.dictionary = p.dictionary AND n.feature = p.feature + 64 "
            "WHERE p.dictionary = ? ORDER BY p.feature",
            [name],
        )
        assert len(rows) == 64
        assert [(p, n) for _, p, n, *_ in rows] == [(f"{i}+", f"{i}-") for i in range(64)]
        assert all(plus > 0 and minus > 0 and density <= 1 for _, _, _, plus, minus, density, _ in rows)
        assert {status for (status,) in store.sql("SELECT status FROM feature WHERE dictionary = ?", [name])} <= {
            "dense",
            "waiting",
        }
        (record,) = records(store, name, [70])
        assert record.feature.index == 70 and np.all(record.exemplars["test"].activations >= 0)
