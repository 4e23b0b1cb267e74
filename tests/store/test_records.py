"""What a harvest found goes through the tables and comes back the same, with weights that add up to the corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from glossator.config import HarvestConfig
from glossator.errors import StoreError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found
from glossator.harness.near_misses import NearMisses
from glossator.harness.planted_subject import PlantedSubject
from glossator.planted import PlantedFeature, planted_documents, planted_features
from glossator.store import records as reading
from glossator.store.records import records, vocabulary
from glossator.store.store import Store
from glossator.types import MARGIN, SPLITS, WINDOW, FeatureId, FeatureRecord, Split
from tests.harness.brute import dense_windows, unpacked
from tests.harness.planted_runs import corpus_of, planted_truth, run
from tests.store.stored import stored


@pytest.fixture(scope="module")
def found(store: Store) -> list[FeatureRecord]:
    return list(records(store, "planted", range(12)))


# ------------------------------------------------------------------ exactly what was stored


def test_records_come_in_the_order_that_was_asked_for(store: Store) -> None:
    wanted = [7, 2, 11, 0]
    assert [r.feature for r in records(store, "planted", wanted)] == [FeatureId("planted", i) for i in wanted]
    assert list(records(store, "planted", [])) == []


def test_facts_of_a_feature_are_those_of_the_harvest(
    found: list[FeatureRecord], planted_found: Found, planted_corpus: Corpus
) -> None:
    statistics = planted_found.statistics
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
    found: list[FeatureRecord], planted_found: Found, planted_corpus: Corpus
) -> None:
    top, sample = unpacked(planted_found.top, 12), unpacked(planted_found.sample, 12)
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
    found: list[FeatureRecord], planted_subject: PlantedSubject, planted_corpus: Corpus, planted_found: Found
) -> None:
    windows = dense_windows(planted_corpus, planted_truth(planted_subject, planted_corpus))
    position = {int(window_id): i for i, window_id in enumerate(planted_corpus.window_id)}
    for i, record in enumerate(found):
        assert list(record.background) == list(SPLITS)
        for number, split in enumerate(SPLITS):
            held = record.background[split]
            index = np.asarray([position[int(w)] for w in held.windows.window_id])
            drawn = planted_found.background_windows
            assert sorted(index) == drawn[planted_corpus.window_split[drawn] == number].tolist()
            assert np.array_equal(held.activations, windows[index][:, :, i])
            assert np.array_equal(held.windows.ids, planted_corpus.windows(index, both_sides=True).ids)
            assert set(held.stratum) == {"background"}


def test_tokens_of_a_feature_are_those_of_the_table_heaviest_first(
    found: list[FeatureRecord], planted_found: Found
) -> None:
    table = planted_found.tokens
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


def test_quantiles_say_where_a_window_stands_among_the_active_ones(
    found: list[FeatureRecord], planted_corpus: Corpus, planted_subject: PlantedSubject
) -> None:
    """Exactly for top windows; for drawn ones about, in the order of their maxima and below every top window."""
    windows = dense_windows(planted_corpus, planted_truth(planted_subject, planted_corpus)).max(1)
    error = []
    for i, record in enumerate(found):
        for number, split in enumerate(SPLITS):
            held, active = record.exemplars[split], record.active(split)
            top, drawn = held.stratum == "top", held.stratum == "sample"
            expected = 1 - (np.arange(top.sum()) + 0.5) / active
            assert held.quantile[top] == pytest.approx(expected, abs=1e-6)
            maxima = held.activations[drawn].max(1)
            assert (np.diff(held.quantile[drawn][np.lexsort((held.quantile[drawn], maxima))]) > 0).all()
            assert (held.quantile[drawn] < expected.min(initial=1)).all() and (held.quantile > 0).all()
            every = np.sort(windows[planted_corpus.window_split == number, i])
            every = every[every > 0]
            low, high = np.searchsorted(every, maxima), np.searchsorted(every, maxima, "right")
            true = np.clip(
                held.quantile[drawn], low / active, high / active
            )  # ties may stand anywhere among their like
            error += (held.quantile[drawn] - true).tolist()
    assert abs(np.mean(error)) < 0.02 and np.max(np.abs(error)) < 0.35


def test_near_misses_are_those_that_were_mined_with_no_weight_and_no_activation(
    found: list[FeatureRecord], planted_corpus: Corpus, planted_found: Found, planted_config: HarvestConfig
) -> None:
    near: dict[tuple[Split, int], list[int]] = {(split, i): [] for split in SPLITS for i in range(12)}
    for _, split, best in NearMisses(planted_corpus, [planted_found], planted_config).of(0):
        for feature, window in zip(best["feature"].tolist(), best["window"].tolist(), strict=True):
            near[split, feature].append(window)
    assert sum(map(len, near.values())) > 100
    for i, record in enumerate(found):
        assert list(record.near_misses) == list(SPLITS)
        for split, held in record.near_misses.items():
            wanted = np.asarray(near[split, i], int)
            assert held.windows.window_id.tolist() == planted_corpus.window_id[wanted].tolist()
            assert np.array_equal(held.windows.ids, planted_corpus.windows(wanted, both_sides=True).ids)
            assert held.activations.shape == (len(wanted), WINDOW) and not held.activations.any()
            assert held.weight.tolist() == [0.0] * len(wanted) and np.isnan(held.quantile).all()
            assert held.stratum.tolist() == ["near_overlap"] * len(wanted)
            assert np.isnan(record.background[split].quantile).all()


def near_miss(kind: str, rank: int, window_id: int) -> dict[str, object]:
    return {"dictionary": "planted", "feature": 4, "split": "test", "kind": kind, "rank": rank, "window_id": window_id}


def test_a_near_miss_of_both_kinds_comes_once_as_the_first(
    planted_subject: PlantedSubject, planted_corpus: Corpus, planted_found: Found, planted_config: HarvestConfig
) -> None:
    a, b, c = planted_corpus.window_id[planted_found.background_windows[:3]].tolist()
    rows = [
        near_miss("embedding", 1, b),
        near_miss("overlap", 0, a),
        near_miss("embedding", 0, c),
        near_miss("embedding", 2, a),
    ]
    with Store(":memory:") as store:
        config = planted_config.model_copy(update={"near_misses": 0})
        stored(store, planted_subject, planted_corpus, planted_found, config)
        store.put_tables({"near_miss": pa.Table.from_pylist(rows)})
        one, two = records(store, "planted", [4, 5])
    assert one.near_misses["test"].windows.window_id.tolist() == [a, c, b]
    assert one.near_misses["test"].stratum.tolist() == ["near_overlap", "near_embedding", "near_embedding"]
    assert [len(record.near_misses[s].windows) for record in (one, two) for s in SPLITS] == [0, 0, 3, 0, 0, 0]


@pytest.mark.parametrize("held", [0, 1 << 28])
@pytest.mark.parametrize("batch", [1, 5, 256])
def test_records_are_the_same_however_they_are_read(
    store: Store, found: list[FeatureRecord], held: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_HELD", held)
    monkeypatch.setattr(reading, "_SHOWS", 10**6)
    monkeypatch.setattr(reading, "_BATCH", batch)
    for again in records(store, "planted", [3, 11, 3, 0]):
        record = found[again.feature.index]
        assert (again.active_windows, again.threshold) == (record.active_windows, record.threshold)
        assert same(again, record)


def test_records_do_not_depend_on_the_order_of_rows(store: Store, found: list[FeatureRecord]) -> None:
    """Older files hold all top windows before all drawn ones."""
    with Store(":memory:") as shuffled:
        for name in (
            "corpus",
            "feature",
            "token",
            "document",
            "feature_token",
            "text_window",
            "exemplar",
            "near_miss",
            "background",
        ):
            table = store.arrow(f"FROM {name}")
            order = np.random.default_rng(5).permutation(table.num_rows)
            shuffled.put_tables({name: table.take(pa.array(order))})
        for one, two in zip(records(shuffled, "planted", range(12)), found, strict=True):
            assert same(one, two)


def same(one: FeatureRecord, two: FeatureRecord) -> bool:
    """All arrays of two records."""
    equal = [np.array_equal(getattr(one, name), getattr(two, name)) for name in ("token_ids", "token_sums")]
    for kind in ("exemplars", "near_misses"):
        for split in SPLITS:
            a, b = getattr(one, kind)[split], getattr(two, kind)[split]
            equal += [
                np.array_equal(getattr(a, name), getattr(b, name)) for name in ("activations", "weight", "stratum")
            ]
            equal += [np.array_equal(getattr(a.windows, n), getattr(b.windows, n)) for n in ("ids", "document")]
            equal.append(np.array_equal(a.quantile, b.quantile, equal_nan=True))
    return all(equal)


def test_part_of_a_sample_keeps_what_is_known_of_each_window(found: list[FeatureRecord]) -> None:
    whole = found[2].exemplars["explain"]
    part = whole.take(np.asarray([4, 0]))
    for name in ("activations", "stratum", "weight", "quantile"):
        assert np.array_equal(getattr(part, name), getattr(whole, name)[[4, 0]])
    assert part.windows.window_id.tolist() == whole.windows.window_id[[4, 0]].tolist()


def test_a_window_that_is_missing_is_named(
    planted_subject: PlantedSubject, planted_corpus: Corpus, planted_found: Found, planted_config: HarvestConfig
) -> None:
    with Store(":memory:") as store:
        stored(store, planted_subject, planted_corpus, planted_found, planted_config)
        store.execute("DELETE FROM text_window WHERE window_id = (SELECT max(window_id) FROM exemplar)")
        with pytest.raises(StoreError, match="missing in text_window; harvest again"):
            list(records(store, "planted", range(12)))


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
