"""Labels are found by their words: by parts of words always, by stems where there is an index, and none is lost to a stale one."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

from glossator.errors import UsageError
from glossator.rows import ExplanationRow, ScoreRow
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


BY_THE_MACRO = """
SELECT feature FROM (SELECT l.*, fts_main_label.match_bm25(l.explanation_id, ?, fields := 'label', conjunctive := 1) AS rank, {parts} AS holds FROM label l)
WHERE holds OR rank IS NOT NULL ORDER BY round(rank, 12) DESC NULLS LAST, simulation DESC NULLS LAST, dictionary, feature LIMIT {limit}
"""


@FTS
@pytest.mark.parametrize("limit", [3, 500])
def test_the_order_is_that_of_the_extensions_own_macro(tmp_path: Path, limit: int) -> None:
    """For one word and several, rare and common, twice in a label, stems, parts of words, and words that no label has."""
    r = random.Random(0)
    words = ["golden", "gate", "bridge", "bridges", "a", "gates", "under", "of", "Brücke", "x-ray", "1937"]
    path = tmp_path / "run.duckdb"
    with Store(path) as store:
        store.put_tables({"feature": feature_table(["waiting"] * 300)})
        texts = [" ".join(r.choices(words, weights=range(len(words), 0, -1), k=r.randrange(1, 9))) for _ in range(300)]
        store.put_now(
            *(
                ExplanationRow(f"x{i}", "d", i, "lexical", None, text, None, False, None, "run")
                for i, text in enumerate(texts)
            ),
            *(
                ScoreRow(f"x{i}", "d", i, "lexical", "rule", None, "simulation", "test", r.choice([0.5, 0.7, None]), None, None, 9, None, "r")
                for i in range(300)
            ),
        )  # fmt: skip
        materialise_labels(store)
        index_labels(store)
    asked = ["golden", "gate golden", "bridged", "a of under golden gate", "golden golden", "gol", "gol a", "brucke", "x-ray", "(bridge)", "nowhere", "golden nowhere"]  # fmt: skip
    with open_for_reading(path, extensions=SEARCH) as reader:
        for query in asked:
            parts = " AND ".join(["contains(lower(label), lower(?))"] * len(query.split()))
            wanted = reader.sql(BY_THE_MACRO.format(parts=parts, limit=limit), [query, *query.split()])
            assert search(reader, query, limit)["feature"].to_pylist() == [f for (f,) in wanted], query
            assert wanted or "nowhere" in query or query == "(bridge)"
