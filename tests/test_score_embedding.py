"""`glossator score --scorer embedding`: the real command with the real encoder, which is the built-in subject itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.agents.scoring.score_embedding import DEPENDENT
from glossator.arguments import embedding_asked
from glossator.config import EmbeddingConfig
from glossator.errors import UsageError
from glossator.store.store import Store
from tests.mini import glossator


def test_the_scorer_embedding_is_taken_apart_from_those_that_ask_a_model() -> None:
    assert embedding_asked([], None, None) == (False, [])
    assert embedding_asked(["embedding"], "folder", None) == (True, [])
    assert embedding_asked(["detection", "embedding"], None, "openai:m") == (True, ["detection"])


@pytest.mark.parametrize(
    ("scorers", "embedder", "llm", "message"),
    [
        ([], "folder", None, "--embedder folder: only the scorer embedding reads it"),
        (["detection"], "folder", "openai:m", "--embedder folder: only the scorer embedding reads it"),
        (["embedding"], None, "openai:m", "--llm openai:m: the scorer embedding asks no language model"),
    ],
)
def test_flags_that_do_not_go_with_it_are_named(
    scorers: list[str], embedder: str | None, llm: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        embedding_asked(scorers, embedder, llm)


@pytest.mark.real
def test_labels_are_scored_marked_as_dependent_and_left_as_they_are(mini_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    shutil.copy(mini_run, path)
    config, few = EmbeddingConfig(background=64, firing=3, min_null=99, permutations=4), list(range(12))
    headline = "SELECT feature, label, predictor, simulation, trusted FROM labels ORDER BY feature"
    with Store(path) as store:
        before = store.sql(headline)
        labelled = {f for f, text, *_ in before if f in few and text is not None}
        rare = {f for (f,) in store.sql("SELECT feature FROM feature WHERE status IN ('rare', 'dead')")}
        said = pipeline.score_by_embedding(Run(store), None, config, few)
        assert "embedding by all-MiniLM-L6-v2 (dependent: it is the subject)" in said
        assert store.sql(headline) == before
        rows = store.sql("SELECT feature, model, note, value FROM score WHERE predictor = 'embedding'")
        assert {feature for feature, *_ in rows} == labelled - rare and len(rows) == 4 * len(labelled - rare) > 0
        assert all(model == "all-MiniLM-L6-v2" and note.startswith(DEPENDENT) for _, model, note, _ in rows)
        assert any(value is not None for *_, value in rows)
        read = "SELECT DISTINCT label FROM label JOIN label_vector v ON v.text = label WHERE encoder = 'all-MiniLM-L6-v2' AND feature = ANY(?)"
        found = {text for (text,) in store.sql(read, [few])}
        assert found >= {text for f, text, *_ in before if f in labelled - rare}  # for `search --similar`
    done = glossator("score", path, "--scorer", "embedding", "--embedder", tmp_path)
    assert done.returncode == 2 and "cannot be loaded" in done.stderr
