"""The parts of a harvest's run file that belong to no feature: vocabulary, tokens, counts, and what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from glossator.config import HarvestConfig
from glossator.errors import FeatureError, StoreError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found, token_windows
from glossator.harness.planted_subject import PlantedSubject
from glossator.store.records import (
    background,
    check_features,
    dictionaries,
    records,
    the_dictionary,
    token_scale,
    vocabulary,
)
from glossator.store.store import Store


def test_the_vocabulary_comes_back(store: Store, planted_subject: PlantedSubject) -> None:
    read, written = vocabulary(store), planted_subject.vocabulary
    assert read.pieces == written.pieces
    assert np.array_equal(read.starts_word, written.starts_word)
    assert np.array_equal(read.special, written.special)
    assert read.index == written.index


def test_tables_say_what_was_harvested(
    store: Store, planted_corpus: Corpus, planted_found: Found, planted_config: HarvestConfig
) -> None:
    assert store.sql("SELECT digest, shards FROM harvest") == [(planted_found.digest, 1)]
    assert store.sql("SELECT documents, tokens, n_explain + n_select + n_test = windows FROM corpus") == [
        (400, len(planted_corpus.tokens), True)
    ]
    assert store.sql("SELECT sum(tokens) FROM document") == [(len(planted_corpus.tokens),)]
    counts = np.zeros(len(vocabulary(store)), int)
    for window in np.flatnonzero(token_windows(planted_corpus, planted_config)):
        start, length = planted_corpus.window_start[window], planted_corpus.window_length[window]
        np.add.at(counts, planted_corpus.tokens[start : start + length], 1)
    assert [n for (n,) in store.sql("SELECT n_explain FROM token ORDER BY token_id")] == counts.tolist()
    assert store.sql("SELECT top_tokens FROM feature WHERE feature = 10") == [(["flood", "rain"],)]


def test_counts_of_tokens_are_scaled_to_the_whole_split(store: Store) -> None:
    assert token_scale(store) == 1.0
    tables = {name: store.arrow(f"FROM {name}") for (name,) in store.sql("SELECT table_name FROM duckdb_tables()")}
    with Store(":memory:") as other:
        other.put_tables({name: table for name, table in tables.items() if name != "schema_version"})
        other.execute(
            "UPDATE token SET n_explain = n_explain / 4 * 2; UPDATE token SET n_explain = 2 * n_explain WHERE special"
        )
        scale = token_scale(other)
        assert 1.9 < scale < 2.3
        (record,), (scaled,) = (records(s, "planted", [10]) for s in (store, other))
        assert scaled.token_counts == pytest.approx(record.token_counts * scale)
        assert scaled.token_sums == pytest.approx(record.token_sums * scale)
        assert scaled.exemplars["test"].weight.tolist() == record.exemplars["test"].weight.tolist()


def test_neighbouring_tokens_are_others_that_the_corpus_holds(store: Store, planted_corpus: Corpus) -> None:
    pieces = vocabulary(store).pieces
    used = set(planted_corpus.tokens.tolist())
    found = dict(store.sql("SELECT token_id, neighbours FROM token_neighbour"))
    assert found.keys() == used
    for token, neighbours in found.items():
        assert token not in neighbours
        assert set(neighbours) <= used
    red = {pieces[t] for t in found[pieces.index("red")][:5]}
    assert red == {"green", "blue", "yellow", "purple", "orange"}


def test_an_empty_run_file_says_what_to_do_first() -> None:
    with Store(":memory:") as empty:
        for call in (vocabulary, the_dictionary):
            with pytest.raises(StoreError, match="holds no harvest yet; run `glossator harvest"):
                call(empty)
        assert dictionaries(empty) == []


def test_a_wrong_dictionary_or_feature_is_named(store: Store) -> None:
    assert the_dictionary(store) == the_dictionary(store, "planted") == "planted"
    with pytest.raises(FeatureError, match="--dictionary other: this run has planted"):
        the_dictionary(store, "other")
    check_features(store, "planted", [0, 11])
    for index in (12, -1):
        with pytest.raises(FeatureError, match=f"feature {index}: planted has features 0 to 11"):
            check_features(store, "planted", [0, index])


def test_the_windows_of_the_background_are_read_once_for_all_features(store: Store) -> None:
    behind = background(store, "planted")
    for record in records(store, "planted", [1, 4], behind):
        assert record.background["test"].windows is behind["test"].windows
