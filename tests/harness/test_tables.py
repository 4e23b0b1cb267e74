"""The tables of a harvest: right for several dictionaries in one file, and the same however they are parted."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from glossator.config import HarvestConfig
from glossator.harness import feature_table, tables
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found, Harvest, Work, harvest, token_windows
from glossator.harness.neurons import NeuronDictionary
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.subject import HFSubject
from glossator.harness.tables import _lens, harvest_tables, manifest, texts
from glossator.planted import planted_documents, planted_features
from glossator.store.records import records
from glossator.store.store import Store
from glossator.types import MARGIN, PAD, SPLITS, WINDOW, Document, Vocabulary
from tests.harness.brute import brute_features, brute_harvest, unpacked
from tests.harness.planted_runs import corpus_of, planted_truth
from tests.harness.small_models import small_gpt2

CHECK: Any = types.SimpleNamespace(l0=2.0, variance_explained=None)
SIGNED = 6  # features of the signed dictionary, poles counted


class Poles(PlantedDictionary):
    """Three planted features and their negative poles, which are never active. Directions as wide as tokens embed."""

    signed = True
    hook_out = "planted:reversed"

    def __init__(self) -> None:
        super().__init__(name="poles")
        self.n_features = SIGNED

    def encode(self, activations: Tensor) -> Tensor:
        return torch.cat([activations[:, :3], torch.zeros(len(activations), 3)], 1)

    def directions(self) -> Tensor:
        half = torch.randn(3, 16, generator=torch.Generator().manual_seed(5))
        return torch.cat([half, -half])


class Predicting(PlantedSubject):
    """The planted subject with an output embedding, four rows longer than its vocabulary."""

    causal = True

    def unembedding(self) -> Tensor | None:
        return torch.randn(len(self.vocabulary) + 4, 16, generator=torch.Generator().manual_seed(6))


class Several:
    """Two dictionaries in one pass, and their tables."""

    def __init__(self, corpus: Corpus, config: HarvestConfig, folder: Path) -> None:
        self.subject, self.corpus, self.config = Predicting(), corpus, config
        self.dictionaries = [PlantedDictionary(), Poles()]
        self.harvest: Harvest = harvest(Work(self.subject, self.dictionaries, corpus, config), folder)

    def stream(self) -> Iterator[tuple[str, pa.Table]]:
        sources = ["one", "two"]
        return harvest_tables(
            self.subject, self.dictionaries, self.corpus, sources, self.harvest, [CHECK, CHECK], self.config
        )

    def tables(self) -> dict[str, pa.Table]:
        parts: dict[str, list[pa.Table]] = {}
        for name, table in self.stream():
            parts.setdefault(name, []).append(table)
        return {name: pa.concat_tables(found) for name, found in parts.items()}


@pytest.fixture(scope="module")
def several(planted_corpus: Corpus, planted_config: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> Several:
    config = planted_config.model_copy(update={"token_windows": 60})
    return Several(planted_corpus, config, tmp_path_factory.mktemp("several"))


@pytest.fixture(scope="module")
def found(several: Several) -> dict[str, pa.Table]:
    return several.tables()


def rows(table: pa.Table, dictionary: str) -> list[dict[str, Any]]:
    return [row for row in table.to_pylist() if row["dictionary"] == dictionary]


# ------------------------------------------------------------------ several dictionaries


def test_each_dictionary_has_the_rows_that_it_has_alone(several: Several, found: dict[str, pa.Table]) -> None:
    """All but text windows, which they share, and near misses, of which the same holds."""
    alone = [Several.__new__(Several) for _ in several.dictionaries]
    for number, one in enumerate(alone):
        one.__dict__ |= several.__dict__
        one.dictionaries = [several.dictionaries[number]]
        one.harvest = Harvest(
            (several.harvest.found[number],),
            several.harvest.token_windows,
            several.harvest.shards,
            several.harvest.seconds,
        )
        for name, table in one.tables().items():
            if "dictionary" in table.column_names:
                assert rows(found[name], one.dictionaries[0].name) == table.to_pylist(), name
            elif name != "text_window":
                assert found[name].equals(table), name


def test_every_window_that_a_table_names_is_there_once(found: dict[str, pa.Table]) -> None:
    shown = found["text_window"]["window_id"].to_pylist()
    assert len(shown) == len(set(shown))
    named = {w for name in ("exemplar", "background", "near_miss") for w in found[name]["window_id"].to_pylist()}
    assert named == set(shown)


def test_the_store_reads_each_dictionary_back(several: Several) -> None:
    with Store(":memory:") as store:
        store.put_tables(several.stream())
        assert store.sql("SELECT dictionary, hook, hook_out, signed, n_features FROM dictionary") == [
            ("planted", "planted", None, False, 12),
            ("poles", "planted", "planted:reversed", True, SIGNED),
        ]
        assert store.sql("SELECT count(*) FROM corpus") == [(1,)]
        names = store.sql("SELECT list(name ORDER BY feature) FROM feature GROUP BY dictionary ORDER BY dictionary")
        assert names == [([str(i) for i in range(12)],), (["0+", "1+", "2+", "0-", "1-", "2-"],)]
        planted, poles = (list(records(store, d.name, range(d.n_features))) for d in several.dictionaries)
    for one, two in zip(planted[:3], poles[:3], strict=True):  # the same features
        assert one.active_windows == two.active_windows and one.near_misses.keys() == two.near_misses.keys()
        for split in SPLITS:
            assert np.array_equal(one.near_misses[split].windows.window_id, two.near_misses[split].windows.window_id)
            assert np.array_equal(one.background[split].activations, two.background[split].activations)
            of_top = (one.exemplars[split].stratum == "top"), (two.exemplars[split].stratum == "top")
            assert np.array_equal(
                one.exemplars[split].windows.window_id[of_top[0]], two.exemplars[split].windows.window_id[of_top[1]]
            )
    assert [record.status for record in poles[3:]] == ["dead"] * 3


def test_the_manifest_names_every_dictionary(several: Several) -> None:
    held = manifest(several.subject, several.dictionaries, several.config)["manifest"].to_pylist()
    assert [row["key"] for row in held] == [
        "glossator",
        "python",
        "torch",
        "subject",
        "dictionary",
        "dictionary",
        "HarvestConfig",
    ]
    assert '"poles"' in held[5]["value"]


# ------------------------------------------------------------------ in parts


def test_parts_are_small_and_add_up(
    several: Several, found: dict[str, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_FEATURES", 2)
    monkeypatch.setattr(tables, "_ROWS", 100)
    monkeypatch.setattr(tables, "_WINDOWS", 64)
    monkeypatch.setattr(feature_table, "_PART", 5)
    monkeypatch.setattr(feature_table, "_BUFFER", 24)
    sizes: dict[str, list[int]] = {}
    for name, table in several.stream():
        sizes.setdefault(name, []).append(table.num_rows)
    assert (
        max(sizes["text_window"]) == 64 and max(sizes["feature_token"]) == 100 and sizes["feature"] == [5, 5, 2, 5, 1]
    )
    assert len(sizes["exemplar"]) == 6 + 3
    for name, table in several.tables().items():
        if name != "feature":
            assert table.equals(found[name]), name
    for one, two in zip(several.tables()["feature"].to_pylist(), found["feature"].to_pylist(), strict=True):
        for name, value in one.items():  # products of other shapes may differ in their last bits
            if name in ("neighbour_cosines", "top_logit_values", "bottom_logit_values") and value is not None:
                assert value == pytest.approx(two[name], abs=1e-5)
            elif name != "neighbours":  # the planted directions are orthogonal: all are equally near
                assert value == two[name] or value != value, name


def test_exemplars_are_stored_by_feature_split_stratum_and_rank(several: Several, found: dict[str, pa.Table]) -> None:
    held = rows(found["exemplar"], "planted")
    key = [(row["feature"], SPLITS.index(row["split"]), row["stratum"] == "sample", row["rank"]) for row in held]
    assert key == sorted(key) and len(set(key)) == len(key)
    assert len(held) == sum(
        len(entries["group"]) for entries in (several.harvest.found[0].top, several.harvest.found[0].sample)
    )


def test_quantiles_of_exemplars_follow_their_definition(several: Several, found: dict[str, pa.Table]) -> None:
    of = several.harvest.found[0]
    top, sample = unpacked(of.top, 12), unpacked(of.sample, 12)
    held = {
        (r["feature"], r["split"], r["stratum"], r["rank"]): r["quantile"] for r in rows(found["exemplar"], "planted")
    }
    for feature in range(12):
        for number, split in enumerate(SPLITS):
            active, t = int(of.statistics.active_windows[feature, number]), len(top[feature, number])
            for rank in range(t):
                assert held[feature, split, "top", rank] == pytest.approx(1 - (rank + 0.5) / active, abs=1e-6)
            maxima = [max(acts) for _, acts in sample[feature, number]]
            from_the_bottom = sorted(range(len(maxima)), key=lambda i: maxima[i])
            for r, rank in enumerate(from_the_bottom):
                expected = (r + 0.5) / len(maxima) * (active - t) / active
                assert held[feature, split, "sample", rank] == pytest.approx(expected, abs=1e-6)


def test_tokens_are_counted_in_the_windows_of_the_token_table_alone(
    several: Several, found: dict[str, pa.Table]
) -> None:
    corpus, counts = several.corpus, np.zeros(len(several.subject.vocabulary), int)
    drawn = np.flatnonzero(token_windows(corpus, several.config))
    assert len(drawn) == 60 < (corpus.window_split == 0).sum()
    for window in drawn:
        start = corpus.window_start[window]
        np.add.at(counts, corpus.tokens[start : start + corpus.window_length[window]], 1)
    assert found["token"]["n_explain"].to_pylist() == counts.tolist()
    for row in found["feature_token"].to_pylist():
        assert 0 < row["active"] <= counts[row["token_id"]]


def test_background_rows_are_those_of_brute_force(several: Several, found: dict[str, pa.Table]) -> None:
    corpus, truth = several.corpus, planted_truth(several.subject, several.corpus)
    expected = brute_harvest(corpus, truth, several.config)
    held = {row["window_id"]: row for row in rows(found["background"], "planted")}
    assert len(held) == len(expected.background_windows)
    for window in expected.background_windows:
        row = held[int(corpus.window_id[window])]
        feature, position = np.nonzero(expected.windows[window].T)
        assert row["split"] == SPLITS[corpus.window_split[window]]
        assert (row["features"], row["positions"]) == (feature.tolist(), position.tolist())
        assert row["activations"] == expected.windows[window, position, feature].tolist()


def test_a_causal_subject_s_windows_are_shown_without_what_it_had_not_read(
    several: Several, found: dict[str, pa.Table]
) -> None:
    corpus, index = several.corpus, {w: i for i, w in enumerate(several.corpus.window_id.tolist())}
    for row in found["text_window"].to_pylist():
        window = index[row["window_id"]]
        context, start = corpus.window_context[window], int(corpus.window_start[window])
        first = int(corpus.context_start[context])
        shown = [PAD if at < first else int(corpus.tokens[at]) for at in range(start - MARGIN, start)]
        scored = corpus.tokens[start : start + corpus.window_length[window]].tolist()
        assert row["ids"] == [*shown, *scored, *[PAD] * (WINDOW - len(scored))] and row["start"] == MARGIN
        assert row["split"] == SPLITS[corpus.window_split[window]]
        assert row["document"] == corpus.window_document[window]


def test_the_harvest_row_says_what_the_pass_said(several: Several, found: dict[str, pa.Table]) -> None:
    for dictionary, of in zip(several.dictionaries, several.harvest.found, strict=True):
        (row,) = rows(found["harvest"], dictionary.name)
        active = int((planted_truth(several.subject, several.corpus)[:, : 3 if dictionary.signed else 12] > 0).sum())
        n = len(several.corpus.tokens)  # of which none is special
        assert (row["digest"], row["shards"]) == (of.digest, several.harvest.shards)
        assert row["seconds"] == several.harvest.seconds > 0
        assert row["tokens_per_second"] == pytest.approx(n / several.harvest.seconds)
        assert row["outlier_tokens"] == of.outlier_tokens > 0
        assert row["active_per_token"] == pytest.approx(active / n)


def test_special_tokens_in_the_text_count_for_nothing(tmp_path: Path) -> None:
    odd = [
        Document(f"odd {i}", ("zebra [UNK] the falcon [SEP] " * 8,)) for i in range(20)
    ]  # no zebra in the vocabulary
    subject, corpus, config = PlantedSubject(), corpus_of([*planted_documents(40), *odd]), HarvestConfig(near_misses=0)
    truth, vocabulary = planted_truth(subject, corpus), subject.vocabulary
    counted = int((~vocabulary.special[corpus.tokens]).sum())
    assert counted < 0.9 * len(corpus.tokens)
    work, seen = Work(subject, [PlantedDictionary()], corpus, config), list[tuple[int, int]]()
    whole = harvest(work, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (counted, counted)
    held = dict(harvest_tables(subject, work.dictionaries, corpus, [], whole, [CHECK], config))
    for row, one in zip(held["feature"].to_pylist(), brute_features(corpus, truth, vocabulary, config), strict=True):
        for name in ("density", "mean"):
            assert row[name] == pytest.approx(one[name], rel=1e-12), name
    assert held["harvest"]["active_per_token"].to_pylist() == [pytest.approx((truth > 0).sum() / counted)]


# ------------------------------------------------------------------ the feature table


def test_the_feature_table_says_what_the_statistics_say(several: Several, found: dict[str, pa.Table]) -> None:
    held, statistics = rows(found["feature"], "planted"), several.harvest.found[0].statistics
    truth = planted_truth(several.subject, several.corpus)
    expected = brute_features(several.corpus, truth, several.subject.vocabulary, several.config)
    assert len(held) == len(expected) == 12
    for i, (row, one) in enumerate(zip(held, expected, strict=True)):
        assert (row["feature"], row["name"], row["status"], row["reason"]) == (i, str(i), "waiting", None)
        for name in ("active_tokens", "active_windows", "max_activation", "min_positive", "threshold"):
            assert row[name] == one[name], name
        for name in ("density", "mean", "token_entropy"):
            assert row[name] == pytest.approx(one[name], rel=1e-12), name
        assert row["top_tokens"] == one["top_tokens"] and row["histogram"] == one["histogram"]
        assert row["quantiles"] == statistics.quantiles(feature_table.QUANTILES)[i].tolist()
        assert row["quantiles"] == sorted(row["quantiles"]) and len(row["quantiles"]) == 6
        assert row["quantiles"][-1] <= row["max_activation"]


def test_logits_are_those_of_the_directions_where_the_widths_agree(
    several: Several, found: dict[str, pa.Table]
) -> None:
    vocabulary, unembedding = several.subject.vocabulary, several.subject.unembedding()
    assert unembedding is not None
    logits = (Poles().directions() @ unembedding[: len(vocabulary)].T).numpy()
    for row, values in zip(rows(found["feature"], "poles"), logits, strict=True):
        order = np.argsort(-values)
        assert row["top_logits"] == [vocabulary.name(t) for t in order[:10]]
        assert row["top_logit_values"] == pytest.approx(values[order[:10]], abs=1e-5)
        assert row["bottom_logits"] == [vocabulary.name(t) for t in order[::-1][:10]]
        assert row["bottom_logit_values"] == pytest.approx(values[order[::-1][:10]], abs=1e-5)
    for row in rows(found["feature"], "planted"):  # 12 wide, not 16
        assert (
            row["top_logits"] is row["bottom_logits"] is row["top_logit_values"] is row["bottom_logit_values"] is None
        )


def test_the_nearest_directions_are_those_with_the_largest_cosines(
    several: Several, found: dict[str, pa.Table]
) -> None:
    directions = Poles().directions().double()
    rows_of = torch.nn.functional.normalize(directions, dim=-1)
    cosine = (rows_of @ rows_of.T).fill_diagonal_(-2).numpy()
    for i, row in enumerate(rows(found["feature"], "poles")):
        assert row["neighbours"] == np.argsort(-cosine[i])[:5].tolist()
        assert row["neighbour_cosines"] == pytest.approx(np.sort(cosine[i])[::-1][:5], abs=1e-5)
        assert row["decoder_norm"] == pytest.approx(float(directions[i].norm()), rel=1e-6)


def test_an_encoder_has_no_logits(
    planted_subject: PlantedSubject, planted_corpus: Corpus, planted_found: Found
) -> None:
    config = HarvestConfig(near_misses=0)
    whole = Harvest((planted_found,), token_windows(planted_corpus, config), 1, 1.0)
    stream = harvest_tables(planted_subject, [PlantedDictionary()], planted_corpus, [], whole, [CHECK], config)
    held = dict(stream)
    assert held["feature"]["top_logits"].null_count == len(planted_features())
    assert "near_miss" not in held


# ------------------------------------------------------------------ texts


def test_texts_are_what_the_vocabulary_joins() -> None:
    pieces = ["[PAD]", "a", "b", "ing", "“", "", "ß"]
    vocabulary = Vocabulary.build(pieces, [True, True, True, False, True, True, False], [i == 0 for i in range(7)])
    rng = np.random.default_rng(3)
    ids = rng.integers(PAD, len(pieces), (500, 9)).astype(np.int32)
    ids[:3] = PAD
    assert texts(ids, vocabulary).to_pylist() == [vocabulary.join(row.tolist()) for row in ids]
    assert texts(ids[:0], vocabulary).to_pylist() == []


def test_directions_in_the_heads_space_go_through_the_output_weights(tmp_path: Path) -> None:
    """At `attn.hook_z` the width is often that of the residual stream, and the space is not."""
    subject = HFSubject(small_gpt2(tmp_path / "gpt2"), ["h.1.attn.c_proj:in", "h.1"], context_size=32)
    unembedding = subject.unembedding()
    assert unembedding is not None
    heads = PlantedDictionary(16, name="heads", hook="h.1.attn.c_proj:in")
    weight = subject._model.h[1].attn.c_proj.weight  # a Conv1D: [in, out]
    found = _lens(subject, heads, unembedding)
    assert found is not None and torch.allclose(found, unembedding @ weight.T, atol=1e-6)
    assert _lens(subject, PlantedDictionary(16, name="stream", hook="h.1"), unembedding) is unembedding
    neurons = NeuronDictionary("h.1.attn.c_proj:in", 16, weight)
    assert _lens(subject, neurons, unembedding) is unembedding
    assert _lens(subject, heads, None) is None
