"""What a harvest found goes through the tables and comes back the same, with weights that add up to the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glossator.config import HarvestConfig
from glossator.errors import FeatureError, StoreError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest, loading_check
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.tables import harvest_tables
from glossator.planted import PlantedFeature, planted_documents, planted_features
from glossator.store.records import background, check_features, dictionaries, records, the_dictionary, vocabulary
from glossator.store.store import Store
from glossator.types import MARGIN, SPLITS, WINDOW, FeatureId, FeatureRecord
from tests.harness.brute import dense_windows, unpacked
from tests.harness.planted_runs import corpus_of, planted_truth, run


def stored(store: Store, subject: PlantedSubject, corpus: Corpus, found: Harvest, config: HarvestConfig) -> Store:
    dictionary = PlantedDictionary(subject.d_hook)
    check = loading_check(subject, dictionary, corpus, config)
    store.put_tables(harvest_tables(subject, dictionary, corpus, ["planted"], found, check, config))
    return store


@pytest.fixture(scope="module")
def store(
    planted_subject: PlantedSubject, planted_corpus: Corpus, planted_harvest: Harvest, planted_config: HarvestConfig
) -> Iterator[Store]:
    with Store(":memory:") as opened:
        yield stored(opened, planted_subject, planted_corpus, planted_harvest, planted_config)


@pytest.fixture(scope="module")
def found(store: Store) -> list[FeatureRecord]:
    return list(records(store, "planted", range(12)))


# ------------------------------------------------------------------ exactly what was stored


def test_records_come_in_the_order_that_was_asked_for(store: Store) -> None:
    wanted = [7, 2, 11, 0]
    assert [r.feature for r in records(store, "planted", wanted)] == [FeatureId("planted", i) for i in wanted]
    assert list(records(store, "planted", [])) == []


def test_facts_of_a_feature_are_those_of_the_harvest(
    found: list[FeatureRecord], planted_harvest: Harvest, planted_corpus: Corpus
) -> None:
    statistics = planted_harvest.statistics
    sizes = tuple(np.bincount(planted_corpus.window_split, minlength=3).tolist())
    for i, record in enumerate(found):
        assert record.active_windows == tuple(statistics.active_windows[i].tolist())
        assert record.n_windows == sizes
        assert record.threshold == statistics.thresholds()[i]
        assert record.max_activation == float(statistics.maximum[i])
        assert record.density == int(statistics.active_tokens[i].sum()) / len(planted_corpus.tokens)
        assert (record.status, record.reason) == ("waiting", None)
        assert record.active("select") == record.active_windows[1]


def test_exemplars_are_those_of_the_sketches_top_first_and_best_first(
    found: list[FeatureRecord], planted_harvest: Harvest, planted_corpus: Corpus
) -> None:
    top, sample = unpacked(planted_harvest.top, 12), unpacked(planted_harvest.sample, 12)
    for i, record in enumerate(found):
        for number, split in enumerate(SPLITS):
            held = record.exemplars[split]
            expected = top[i, number] + sample[i, number]
            windows = np.asarray([w for w, _ in expected])
            assert held.stratum.tolist() == ["top"] * len(top[i, number]) + ["sample"] * len(sample[i, number])
            assert held.windows.window_id.tolist() == planted_corpus.window_id[windows].tolist()
            assert [tuple(row) for row in held.activations.tolist()] == [acts for _, acts in expected]
            shown = planted_corpus.windows(windows, both_sides=True)
            assert np.array_equal(held.windows.ids, shown.ids)
            assert held.windows.document.tolist() == shown.document.tolist()
            assert held.windows.start == MARGIN
            assert set(planted_corpus.window_split[windows]) == {number}


def test_activations_stand_at_the_tokens_that_were_shown(found: list[FeatureRecord], store: Store) -> None:
    pieces = vocabulary(store).pieces
    for record, feature in zip(found, planted_features(), strict=True):
        if feature.kind not in ("word", "words", "class", "number", "suffix", "graded"):
            continue  # these depend on one token alone
        held = record.exemplars["test"]
        ids = held.windows.ids[:, held.windows.scored]
        for row, acts in zip(ids, held.activations, strict=True):
            words = [pieces[t] if t >= 0 else "" for t in row]
            assert acts.tolist() == feature.activation(words)


def test_background_is_every_background_window_with_every_activation(
    found: list[FeatureRecord], planted_subject: PlantedSubject, planted_corpus: Corpus, planted_harvest: Harvest
) -> None:
    windows = dense_windows(planted_corpus, planted_truth(planted_subject, planted_corpus))
    position = {int(window_id): i for i, window_id in enumerate(planted_corpus.window_id)}
    for i, record in enumerate(found):
        assert list(record.background) == list(SPLITS)
        for number, split in enumerate(SPLITS):
            held = record.background[split]
            index = np.asarray([position[int(w)] for w in held.windows.window_id])
            drawn = planted_harvest.background_windows
            assert sorted(index) == drawn[planted_corpus.window_split[drawn] == number].tolist()
            assert np.array_equal(held.activations, windows[index][:, :, i])
            assert np.array_equal(held.windows.ids, planted_corpus.windows(index, both_sides=True).ids)
            assert set(held.stratum) == {"background"}


def test_tokens_of_a_feature_are_those_of_the_table_heaviest_first(
    found: list[FeatureRecord], planted_harvest: Harvest
) -> None:
    table = planted_harvest.tokens
    for i, record in enumerate(found):
        of = table["feature"] == i
        expected = zip(
            table["token"][of].tolist(), table["active"][of].tolist(), table["total"][of].tolist(), strict=True
        )
        rows = list(
            zip(record.token_ids.tolist(), record.token_counts.tolist(), record.token_sums.tolist(), strict=True)
        )
        assert sorted(rows) == sorted(expected)
        assert [total for _, _, total in rows] == sorted((total for _, _, total in rows), reverse=True)


# ------------------------------------------------------------------ weights


def test_weights_of_exemplars_add_up_to_the_active_windows(found: list[FeatureRecord]) -> None:
    for record in found:
        for split in SPLITS:
            sample = record.exemplars[split]
            assert sample.weight.sum() == pytest.approx(record.active(split))
            assert (sample.weight[sample.stratum == "top"] == 1).all()
            assert (sample.weight >= 1).all()


def test_weights_of_the_background_add_up_to_the_windows_of_the_corpus(found: list[FeatureRecord]) -> None:
    for number, split in enumerate(SPLITS):
        assert found[0].background[split].weight.sum() == pytest.approx(found[0].n_windows[number])


def test_a_weighted_background_estimates_the_active_windows_without_bias(
    found: list[FeatureRecord], planted_config: HarvestConfig
) -> None:
    """Over 12 features and 3 splits the estimates scatter around the exact counts as a draw of that size must."""
    error = []
    for record in found:
        for number, split in enumerate(SPLITS):
            held = record.background[split]
            estimate = float(held.weight @ (held.activations.max(1) > 0))
            n, whole = planted_config.background[number], record.n_windows[number]
            share = record.active(split) / whole
            spread = whole * np.sqrt(share * (1 - share) / n * (1 - n / whole))
            error.append((estimate - record.active(split)) / spread)
    assert np.square(error).mean() == pytest.approx(1, abs=0.8)


# ------------------------------------------------------------------ odd features


def one_place(tokens: object) -> list[float]:
    return [3.0 * (i == 50) for i in range(len(list(tokens)))]  # type: ignore[call-overload]


def test_dead_rare_and_split_bound_features_have_records(tmp_path: Path) -> None:
    dead = PlantedFeature("dead", "dead", "nothing", lambda t: [0.0] * len(t))
    dense = PlantedFeature("dense", "dense", "everything", lambda t: [1.0] * len(t))
    rare = PlantedFeature("rare", "rare", "token 50 of a context", one_place)
    subject = PlantedSubject([dead, dense, rare, *planted_features()[:2]])
    corpus = corpus_of(planted_documents(90), subject)
    config = HarvestConfig(background=(30, 10, 20), batch_tokens=512, encode_tokens=256, min_active=(40, 8, 13))
    with Store(":memory:") as store:
        stored(store, subject, corpus, run(corpus, config, tmp_path, subject=subject), config)
        alone = list(records(store, "planted", [0]))
        several = list(records(store, "planted", [0, 1, 2, 3]))
    assert alone[0].status == "dead" and not any(len(s.windows) for s in alone[0].exemplars.values())
    assert not any(sample.activations.any() for sample in alone[0].background.values())
    assert alone[0].exemplars.keys() == several[0].exemplars.keys()
    assert several[1].status == "dense" and several[1].density == 1.0
    assert several[2].status == "rare"
    assert "in explain" in several[2].reason
    assert several[2].exemplars["explain"].activations.max(1).tolist() == [3.0] * several[2].active("explain")


def test_a_split_without_background_has_an_empty_sample(tmp_path: Path) -> None:
    subject = PlantedSubject()
    corpus = corpus_of(planted_documents(60), subject)
    config = HarvestConfig(background=(30, 0, 20), batch_tokens=512, encode_tokens=256)
    with Store(":memory:") as store:
        stored(store, subject, corpus, run(corpus, config, tmp_path), config)
        (record,) = records(store, "planted", [3])
    assert len(record.background["select"].windows) == 0
    assert record.background["select"].activations.shape == (0, WINDOW)
    assert len(record.background["test"].windows) == 20


def test_many_features_are_read_in_batches_without_loss(tmp_path: Path) -> None:
    words = PlantedSubject().vocabulary.pieces[4:204]  # more features than one batch of reading
    features = [PlantedFeature(w, "word", w, lambda t, w=w: [2.0 * (x == w) for x in t]) for w in words]
    subject = PlantedSubject(features)
    corpus = corpus_of(planted_documents(60), subject)
    config = HarvestConfig(top=2, sample=3, background=(30, 20, 20), batch_tokens=512, encode_tokens=256)
    found = run(corpus, config, tmp_path, subject=subject)
    with Store(":memory:") as store:
        stored(store, subject, corpus, found, config)
        read = list(records(store, "planted", range(200)))
    assert [r.feature.index for r in read] == list(range(200))
    assert [r.active_windows for r in read] == [tuple(row) for row in found.statistics.active_windows.tolist()]
    top = unpacked(found.top, 200)
    for i, record in enumerate(read):
        if record.exemplars:
            held = record.exemplars["test"]
            ids = corpus.window_id[[w for w, _ in top[i, 2]]] if top[i, 2] else np.zeros(0)
            assert held.windows.window_id[held.stratum == "top"].tolist() == ids.tolist()
            assert held.weight.sum() == pytest.approx(record.active("test"))


# ------------------------------------------------------------------ the rest of the run file


def test_the_vocabulary_comes_back(store: Store, planted_subject: PlantedSubject) -> None:
    read, written = vocabulary(store), planted_subject.vocabulary
    assert read.pieces == written.pieces
    assert np.array_equal(read.starts_word, written.starts_word)
    assert np.array_equal(read.special, written.special)
    assert read.index == written.index


def test_tables_say_what_was_harvested(
    store: Store, planted_corpus: Corpus, planted_harvest: Harvest, planted_subject: PlantedSubject
) -> None:
    assert store.sql("SELECT digest, shards FROM harvest") == [(planted_harvest.digest, planted_harvest.shards)]
    assert store.sql("SELECT documents, tokens, n_explain + n_select + n_test = windows FROM corpus") == [
        (400, len(planted_corpus.tokens), True)
    ]
    assert store.sql("SELECT sum(tokens) FROM document") == [(len(planted_corpus.tokens),)]
    in_explain = np.repeat(planted_corpus.split[planted_corpus.context_document], planted_corpus.context_length) == 0
    counts = np.bincount(planted_corpus.tokens[in_explain], minlength=len(planted_subject.vocabulary))
    assert [n for (n,) in store.sql("SELECT n_explain FROM token ORDER BY token_id")] == counts.tolist()
    assert store.sql("SELECT top_tokens FROM feature WHERE feature = 10") == [(["flood", "rain"],)]


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
