"""Bottom-k sketches: what brute force keeps, in any order and grouping, and a uniform sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from glossator.harness.sketch import Sketch, feature_salt, mix, sample_key, top_key
from glossator.types import WINDOW

GROUPS, K = 6, 4
Offer = tuple[int, int, int]  # group, key, window


def activations(window: int) -> np.ndarray:
    row = np.zeros(WINDOW, np.float32)
    row[window % WINDOW] = window + 1.0
    row[(window * 7 + 3) % WINDOW] = 0.5
    return row


def offered(sketch: Sketch, offers: list[Offer]) -> Sketch:
    if offers:
        group, key, window = (torch.tensor(column) for column in zip(*offers, strict=True))
        acts = torch.from_numpy(np.stack([activations(w) for _, _, w in offers]))
        sketch.offer(group, key, window, acts)
    return sketch


def held(sketch: Sketch) -> list[tuple[int, int, int, tuple[float, ...]]]:
    entries = sketch.entries()
    rows = np.zeros((len(entries["group"]), WINDOW), np.float32)
    rows[np.repeat(np.arange(len(rows)), entries["active"]), entries["position"]] = entries["value"]
    return [
        (int(g), int(k), int(w), tuple(row.tolist()))
        for g, k, w, row in zip(entries["group"], entries["key"], entries["window"], rows, strict=True)
    ]


def brute_force(offers: list[Offer], k: int = K) -> list[tuple[int, int, int, tuple[float, ...]]]:
    best = []
    for group in range(GROUPS):
        mine = sorted((o for o in offers if o[0] == group), key=lambda o: -o[1])
        best += [(g, key, w, tuple(activations(w).tolist())) for g, key, w in mine[:k]]
    return best


offer_lists = st.lists(st.tuples(st.integers(0, GROUPS - 1), st.integers(0, 2**62)), max_size=60, unique=True).map(
    lambda pairs: [(group, key, window) for window, (group, key) in enumerate(pairs)]
)


@settings(max_examples=80, deadline=None)
@given(offers=offer_lists, data=st.data())
def test_any_order_and_any_grouping_of_offers_keeps_what_brute_force_keeps(
    offers: list[Offer], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(offers))
    cut = sorted(data.draw(st.lists(st.integers(0, len(offers)), max_size=4)))
    sketch = Sketch(GROUPS, K)
    for begin, end in zip([0, *cut], [*cut, len(offers)], strict=True):
        offered(sketch, shuffled[begin:end])
    assert held(sketch) == brute_force(offers)


@settings(max_examples=40, deadline=None)
@given(offers=offer_lists, data=st.data())
def test_any_grouping_of_merges_is_the_sketch_of_all(offers: list[Offer], data: st.DataObject) -> None:
    shard_of = data.draw(st.lists(st.integers(0, 3), min_size=len(offers), max_size=len(offers)))
    shards = [
        offered(Sketch(GROUPS, K), [o for o, s in zip(offers, shard_of, strict=True) if s == number])
        for number in range(4)
    ]
    left, right = Sketch(GROUPS, K), Sketch(GROUPS, K)
    for shard in shards:  # ((a + b) + c) + d
        left.absorb(shard.entries())
    pair, other = Sketch(GROUPS, K), Sketch(GROUPS, K)  # (d + c) + (b + a)
    for sketch, members in ((pair, shards[3:1:-1]), (other, shards[1::-1])):
        for shard in members:
            sketch.absorb(shard.entries())
    for sketch in (pair, other):
        right.absorb(sketch.entries())
    assert held(left) == held(right) == brute_force(offers)


def test_only_candidates_that_beat_the_floor_would_enter() -> None:
    sketch = offered(Sketch(GROUPS, 2), [(0, 10, 0), (0, 20, 1), (0, 30, 2), (1, 5, 3)])
    group, key = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([19, 20, 21, 1, 0])
    assert sketch.beats(group, key).tolist() == [False, False, True, True, True]


def test_what_waits_in_a_queue_is_bounded_and_ends_where_an_offer_does() -> None:
    rng = np.random.default_rng(5)
    queued, offered_at_once = Sketch(50, 3), Sketch(50, 3)
    columns: list[list[torch.Tensor]] = []
    for number in range(30):
        n = 7000
        window = torch.arange(number * n, (number + 1) * n)
        column = [torch.from_numpy(rng.integers(0, 50, n)), mix(window), window, torch.ones(n, WINDOW)]
        columns.append(column)
        queued.queue(*column)
        assert sum(len(group) for group, *_ in queued._queue) <= 1 << 16
    offered_at_once.offer(*(torch.cat(column) for column in zip(*columns, strict=True)))
    assert held(queued) == held(offered_at_once)


def test_more_groups_than_one_chunk_are_merged_alike() -> None:
    groups = 5000
    sketch = Sketch(groups, 2)
    rng = np.random.default_rng(0)
    group = torch.from_numpy(np.repeat(np.arange(groups), 3))
    key = torch.from_numpy(rng.permutation(len(group)))
    sketch.offer(group, key, torch.arange(len(group)), torch.ones(len(group), WINDOW))
    best = np.sort(key.numpy().reshape(groups, 3), 1)[:, :0:-1]
    assert np.array_equal(sketch.key.numpy(), best)


def test_a_silent_row_and_an_empty_sketch_survive_their_entries() -> None:
    sketch = Sketch(2, 2)
    sketch.offer(torch.tensor([1]), torch.tensor([3]), torch.tensor([9]), torch.zeros(1, WINDOW))
    other = Sketch(2, 2)
    other.absorb(Sketch(2, 2).entries())
    other.absorb(sketch.entries())
    assert held(other) == [(1, 3, 9, (0.0,) * WINDOW)]


# ------------------------------------------------------------------ keys


def test_top_keys_order_by_activation_and_then_by_window() -> None:
    value = torch.tensor([1e-30, 0.5, 0.5, 0.50000006, 3e38])
    window = torch.tensor([0, 8, 7, 2**32 - 1, 5])
    assert torch.argsort(top_key(value, window)).tolist() == [0, 1, 2, 3, 4]


def test_sample_keys_depend_on_seed_window_and_feature() -> None:
    window, feature = torch.arange(50).repeat(40), torch.arange(40).repeat_interleave(50)
    keys = [sample_key(feature_salt(seed, 40), window, feature) for seed in range(5)]
    assert len(torch.unique(torch.cat(keys))) == 5 * 2000
    assert torch.equal(sample_key(feature_salt(3, 40), window, feature), keys[3])
    assert all((k >= 0).all() for k in keys)


def splitmix(value: int) -> int:
    """The published finaliser (Steele, Lea and Flood 2014), in integers that cannot overflow."""
    whole = (1 << 64) - 1
    x = (value + 0x9E3779B97F4A7C15) & whole
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
    return (x ^ (x >> 31)) & ((1 << 62) - 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_mix_is_the_published_finaliser(value: int) -> None:
    assert int(mix(torch.tensor([value]))[0]) == splitmix(value)


@pytest.mark.parametrize("drawn", ["window", "feature"])
def test_samples_are_uniform_over_windows(drawn: str) -> None:
    """Chi-square over 4,000 draws of 5 of 40 windows, by other seeds and by other features."""
    n, k, draws = 40, 5, 4000
    window_id = mix(torch.arange(n))
    counts = np.zeros(n)
    for number in range(draws):
        seed, feature = (number, 17) if drawn == "window" else (17, number)
        keys = sample_key(feature_salt(seed, feature + 1), window_id, torch.full((n,), feature))
        counts[torch.topk(keys, k).indices.numpy()] += 1
    expected = draws * k / n
    # a draw without replacement varies less than a multinomial, by the factor (n - k) / (n - 1)
    statistic = ((counts - expected) ** 2).sum() / expected / ((n - k) / (n - 1))
    assert chi2.ppf(1e-4, n - 1) < statistic < chi2.ppf(1 - 1e-4, n - 1)


def test_pairs_of_windows_are_drawn_together_as_often_as_chance_has_it() -> None:
    n, k, draws = 12, 3, 6000
    window_id = mix(torch.arange(n) + 1000)
    together = np.zeros((n, n))
    for seed in range(draws):
        chosen = torch.topk(sample_key(feature_salt(seed, 4), window_id, torch.full((n,), 3)), k).indices.numpy()
        together[np.ix_(chosen, chosen)] += 1
    pairs = together[np.triu_indices(n, 1)]
    expected = draws * k * (k - 1) / (n * (n - 1))
    statistic = ((pairs - expected) ** 2).sum() / expected
    assert statistic < chi2.ppf(1 - 1e-4, len(pairs) - 1)
