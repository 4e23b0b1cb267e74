"""Running statistics: bins that agree with their edges, thresholds that can be met, tables that forget nothing."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from glossator.config import HarvestConfig
from glossator.harness.feature_table import statuses
from glossator.harness.planted_subject import PlantedSubject
from glossator.harness.statistics import BINS, UNIT, Statistics, TokenTable, bin_edges, bin_of, entropy, fixed
from glossator.harness.tables import token_neighbours
from glossator.types import Document, Vocabulary
from tests.harness.planted_runs import corpus_of


def test_a_value_lies_at_or_above_the_edge_of_its_bin_and_below_the_next() -> None:
    edges = bin_edges().astype(np.float32)
    around = np.concatenate([edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf))])
    drawn = np.exp2(np.random.default_rng(0).uniform(-16, 16, 200_000)).astype(np.float32)
    values = np.concatenate([around, drawn])
    found = bin_of(torch.from_numpy(values)).numpy()
    expected = np.searchsorted(bin_edges(), values.astype(np.float64), side="right") - 1
    assert np.array_equal(found, expected.clip(0, BINS - 1))


def test_values_beyond_the_bins_go_into_the_first_and_the_last() -> None:
    values = torch.tensor([1e-30, 2.0**-17, 2.0**16, 1e30])
    assert bin_of(values).tolist() == [0, 0, BINS - 1, BINS - 1]


def statistics_of(values: list[float], split: int = 0) -> Statistics:
    held = Statistics.empty(2)
    column = torch.tensor(values)
    where = torch.ones(len(values), dtype=torch.int64)
    held.add(where, column, torch.full_like(where, split))
    return held


@pytest.mark.parametrize("value", [1.0, 31.999977, 0.91700399, 76.109253, 3e-4])
def test_a_feature_of_one_value_reaches_its_own_threshold(value: float) -> None:
    threshold = statistics_of([value] * 5).thresholds()[1]
    assert threshold <= np.float32(value) < threshold * 2 ** (1 / 8)


@pytest.mark.parametrize("values", [[1e-8], [1e-30, 2e-30], [5e-6, 6e-6, 9e-6], [1.5e-5, 1.6e-5], [2.0**-16]])
def test_a_feature_whose_activations_the_bins_do_not_tell_apart_fires_wherever_it_is_active(
    values: list[float],
) -> None:
    found = statistics_of(values * 10)
    assert found.thresholds()[1] == min(float(np.float32(values[0])), 2.0**-16)
    assert found.quantiles((0.1, 0.9))[1].max() <= np.float32(values[-1])


def test_the_smallest_activation_that_sums_resolve_is_a_small_part_of_the_smallest_bin() -> None:
    assert fixed(torch.tensor([2.0**-24, 1.01 * 2.0**-25, 0.99 * 2.0**-25, 1e-8])).tolist() == [1, 1, 0, 0]
    assert statistics_of([1e-8] * 9).sums().tolist() == [0, 0]
    assert statistics_of([2.0**-16] * 9).sums()[1] == 9 * 2.0**-16


def test_sums_that_would_not_fit_are_an_error_and_leave_what_was_counted() -> None:
    held = statistics_of([2.0**29] * 300)
    with pytest.raises(OverflowError, match=r"add up to as much as 3.2e\+11, too large for exact sums; rescale"):
        held.add(*(torch.tensor(column) for column in ([1] * 300, [2.0**29] * 300, [1] * 300)))
    assert held.sums().tolist() == [0, 300 * 2.0**29] and held.active_tokens.sum() == 300
    with pytest.raises(OverflowError, match="too large for exact sums"):
        statistics_of([2.0**29] * 2000)  # in one go
    with pytest.raises(OverflowError, match="too large for exact sums"):
        held.merge(statistics_of([2.0**29] * 300, split=2).arrays())
    assert held.sums().tolist() == [0, 300 * 2.0**29] and held.active_tokens.sum() == 300
    held.merge(statistics_of([2.0**29] * 200, split=2).arrays())
    assert held.sums().tolist() == [0, 500 * 2.0**29]


def test_the_threshold_is_the_highest_edge_above_which_lies_nine_tenths_of_the_mass() -> None:
    values = [1.0] * 9 + [8.0] * 10  # 8s carry 0.899 of the mass: the 1s are needed
    assert statistics_of(values).thresholds()[1] == 1.0
    assert statistics_of([*values, 8.0]).thresholds()[1] == 8.0


def test_thresholds_come_from_explain_alone() -> None:
    both = statistics_of([5.0, 7.0], split=1)
    assert both.thresholds().tolist() == [0.0, 5.0]  # nothing in explain: whatever is active fires
    both.merge(statistics_of([2.0]).arrays())
    assert both.thresholds().tolist() == [0.0, 2.0]


def test_statistics_of_parts_merge_into_those_of_the_whole() -> None:
    rng = np.random.default_rng(1)
    feature = torch.from_numpy(rng.integers(0, 6, 900))
    split = torch.from_numpy(rng.integers(0, 3, 900))
    value = torch.from_numpy(np.exp(4 * rng.standard_normal(900)).astype(np.float32))
    active, of = torch.from_numpy(rng.random((90, 6)) < 0.3), torch.from_numpy(rng.integers(0, 3, 90))
    whole, merged = Statistics.empty(6), Statistics.empty(6)
    whole.add(feature, value, split)
    whole.add_windows(active, of)
    for part in (slice(500, 900), slice(0, 1), slice(1, 500)):  # in another order
        piece = Statistics.empty(6)
        piece.add(feature[part], value[part], split[part])
        tenth = slice(part.start // 10, part.stop // 10)
        piece.add_windows(active[tenth], of[tenth])
        merged.merge(piece.arrays())
    assert whole.active_windows.sum() == active.sum()
    for name, array in whole.arrays().items():
        assert np.array_equal(array, merged.arrays()[name]), name


@pytest.mark.parametrize("compact", [16, 64, 1 << 20])
def test_the_token_table_is_exact_however_often_it_is_compacted(compact: int) -> None:
    rng = np.random.default_rng(2)
    table = TokenTable(40, compact)
    expected: dict[tuple[int, int], list[float]] = {}
    for _ in range(60):
        feature, token = rng.integers(0, 5, 17), rng.integers(0, 40, 17)
        value = rng.integers(1, 9, 17).astype(np.float32)
        table.add(torch.from_numpy(feature), torch.from_numpy(token), torch.from_numpy(value))
        for f, t, v in zip(feature.tolist(), token.tolist(), value.tolist(), strict=True):
            cell = expected.setdefault((f, t), [0, 0.0])
            cell[0], cell[1] = cell[0] + 1, cell[1] + v
    found = table.arrays()
    rows = zip(*(found[name].tolist() for name in ("feature", "token", "active", "total")), strict=True)
    assert {(f, t): [a, v * UNIT] for f, t, a, v in rows} == expected


def test_token_tables_of_shards_merge() -> None:
    whole, shards = TokenTable(9), [TokenTable(9) for _ in range(3)]
    rng = np.random.default_rng(3)
    for shard in shards[:2]:  # the third stays empty
        feature, token = (torch.from_numpy(rng.integers(0, 9, 50)) for _ in range(2))
        value = torch.ones(50)
        whole.add(feature, token, value)
        shard.add(feature, token, value)
    merged = TokenTable.merged([shard.arrays() for shard in shards])
    for name, column in whole.arrays().items():
        assert np.array_equal(merged[name], column)


def test_a_token_table_is_no_longer_than_its_pairs_however_much_is_added() -> None:
    rng = np.random.default_rng(0)
    table, longest = TokenTable(8, 64), 0
    for _ in range(200):
        feature, token = (torch.from_numpy(rng.integers(0, 8, 50)) for _ in range(2))
        table.add(feature, token, torch.ones(50))
        longest = max(longest, sum(len(key) for key, _, _ in table._runs))
    assert longest <= 3 * 64  # 64 pairs, and runs of which each is over twice as long as the next
    assert table.arrays()["active"].sum() == 200 * 50


def test_entropy_is_that_of_the_shares_of_mass() -> None:
    feature, total = np.asarray([0, 1, 1, 2, 2, 2, 2]), np.asarray([7.0, 3, 3, 1, 1, 1, 1])
    assert entropy(feature, total, 4) == pytest.approx([0, 1, 2, 0])


def test_statuses_follow_the_counts_of_active_windows() -> None:
    config = HarvestConfig(min_active=(30, 20, 30), dense_share=0.5)
    counts = np.asarray([[0, 0, 0], [30, 20, 30], [30, 19, 30], [300, 200, 1], [300, 200, 30], [0, 1, 0]])
    status, reason = statuses(counts, 1000, config)
    assert status == ["dead", "waiting", "rare", "rare", "dense", "rare"]
    assert reason[2] == "active windows: 19 of 20 in select"
    assert reason[1] is None
    assert "53%" in str(reason[4])


def test_neighbours_of_tokens_are_not_made_up_where_the_corpus_holds_few() -> None:
    subject = PlantedSubject()
    pieces = subject.vocabulary.pieces
    special = subject.vocabulary.special.tolist()
    subject.vocabulary = Vocabulary.build(pieces, [p != "green" for p in pieces], special)
    texts = [" ".join(words) for words in product(("red", "blue", "green"), repeat=3)]
    corpus = corpus_of([Document(t, (t,)) for t in texts], subject)
    table = token_neighbours(subject, corpus).to_pylist()
    found = {pieces[row["token_id"]]: [pieces[i] for i in row["neighbours"]] for row in table}
    assert found == {"red": ["blue"], "blue": ["red"], "green": []}  # a word for a word, a piece for a piece
