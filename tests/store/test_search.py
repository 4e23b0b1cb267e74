"""Labels are found by their words: by parts of words always, by stems where there is an index, and none is lost to a stale one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from glossator.errors import UsageError
from glossator.rows import ExplanationRow
from glossator.store.extensions import SEARCH
from glossator.store.labels import materialise_labels
from glossator.store.reading import open_for_reading
from glossator.store.search import index_labels, search
from glossator.store.store import Store
from tests.store.rows import feature_table

FTS = pytest.mark.skipif(importlib.util.find_spec("duckdb_extension_fts") is None, reason="needs the extra `live`")
LABELS = ["the golden gate bridge", "bridges over rivers", "GOLDEN retrievers", "years such as 1937"]


def labelled(path: Path, labels: list[str]) -> None:
    with Store(path) as store:
        if not store.sql("FROM feature"):
            store.put_tables({"feature": feature_table(["waiting"] * 8)})
        for i, text in enumerate(labels):
            store.put_now(ExplanationRow(f"x{text}", "d", i, "lexical", None, text, None, False, None, "run"))
        materialise_labels(store)


def found(path: Path, words: str, extensions: tuple[str, ...] = SEARCH) -> list[str]:
    with open_for_reading(path, extensions=extensions) as reader:
        return [str(text) for text in search(reader, words, 10)["label"].to_pylist()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    labelled(tmp_path / "run.duckdb", LABELS)
    return tmp_path / "run.duckdb"


def test_without_an_index_every_word_must_be_a_part(path: Path) -> None:
    assert found(path, "golden") == ["the golden gate bridge", "GOLDEN retrievers"]
    assert found(path, "Gate gol") == ["the golden gate bridge"]
    assert found(path, "%") == [] and found(path, "'; DROP TABLE label; --") == []
    with pytest.raises(UsageError, match="at least one word"):
        found(path, " ")


@FTS
def test_the_index_finds_stems_and_the_best_first(path: Path) -> None:
    with Store(path) as store:
        assert index_labels(store) is None
    assert set(found(path, "bridged")) == {"the golden gate bridge", "bridges over rivers"}
    assert found(path, "bridged", ()) == []  # this reader does without
    assert found(path, "the bridge")[0] == "the golden gate bridge"
    assert found(path, "1937") == ["years such as 1937"]
    assert found(path, "old") == ["the golden gate bridge", "GOLDEN retrievers"]  # parts are still found


@FTS
def test_labels_that_came_after_the_index_are_found_and_the_next_index_has_them(path: Path) -> None:
    with Store(path) as store:
        index_labels(store)
    labelled(path, ["", "", "", "", "a bridge of sighs"])
    assert "a bridge of sighs" in found(path, "bridge")
    assert "a bridge of sighs" not in found(path, "bridged")
    with Store(path) as store:
        index_labels(store)
    assert "a bridge of sighs" in found(path, "bridged")


@FTS
def test_an_index_that_has_everything_is_left_alone(path: Path) -> None:
    with Store(path) as store:
        index_labels(store)
        before = store.changes
        index_labels(store)
        assert store.changes == before
