"""A harvest written a second time, in plain numpy and Python integers over all windows at once. Slow and obvious.

It shares nothing with the harvest but the corpus arrays, the draw of keys is written again from its description.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Found
from glossator.types import WINDOW, Vocabulary

_WHOLE = (1 << 64) - 1
EDGES = 2.0 ** (np.arange(256) / 8 - 16)
Array = np.ndarray[Any, Any]
Group = tuple[int, int]  # feature, split


def splitmix(value: int, bits: int) -> int:
    x = (value + 0x9E3779B97F4A7C15) & _WHOLE
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _WHOLE
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _WHOLE
    return (x ^ (x >> 31)) & ((1 << bits) - 1)


def draw_key(seed: int, window_id: int, feature: int) -> int:
    return splitmix(splitmix(window_id ^ splitmix(feature + seed * 0x10001, 62), 62) + feature, 62)


def dense_windows(corpus: Corpus, acts: Array) -> Array:
    """[windows, WINDOW, features] from activations of corpus tokens [n_tokens, features]."""
    out = np.zeros((len(corpus.window_start), WINDOW, acts.shape[1]), np.float32)
    for window, (start, length) in enumerate(zip(corpus.window_start, corpus.window_length, strict=True)):
        out[window, :length] = acts[start : start + length]
    return out


@dataclass
class Brute:
    """Sketches as {(feature, split): [(window, activations), ...]}, best key first."""

    top: dict[Group, list[tuple[int, tuple[float, ...]]]]
    sample: dict[Group, list[tuple[int, tuple[float, ...]]]]
    background_windows: list[int]
    windows: Array


def brute_harvest(corpus: Corpus, acts: Array, config: HarvestConfig) -> Brute:
    windows = dense_windows(corpus, acts)
    maxima = windows.max(1)
    top: dict[Group, list[tuple[int, tuple[float, ...]]]] = {}
    sample: dict[Group, list[tuple[int, tuple[float, ...]]]] = {}
    for feature in range(acts.shape[1]):
        for split in range(3):
            active = [int(w) for w in np.flatnonzero((maxima[:, feature] > 0) & (corpus.window_split == split))]
            by_maximum = sorted(active, key=lambda w: (-maxima[w, feature], w))
            rest = by_maximum[config.top :]
            keys = {w: draw_key(config.seed, int(corpus.window_id[w]), feature) for w in rest}
            rest.sort(key=lambda w: -keys[w])
            for found, members in ((top, by_maximum[: config.top]), (sample, rest[: config.sample])):
                found[feature, split] = [(w, tuple(windows[w, :, feature].tolist())) for w in members]
    background = [
        w for split, size in enumerate(config.background) for w in drawn(corpus, split, size, config.seed + 77)
    ]
    return Brute(top, sample, sorted(background), windows)


def drawn(corpus: Corpus, split: int, size: int, salt: int) -> list[int]:
    """The windows of a split with the smallest hashes."""
    members = np.flatnonzero(corpus.window_split == split).tolist()
    key = {w: splitmix(int(corpus.window_id[w]) ^ splitmix(salt, 63), 63) for w in members}
    return sorted(members, key=lambda w: key[w])[:size]


def unpacked(entries: dict[str, Array], n_features: int) -> dict[Group, list[tuple[int, tuple[float, ...]]]]:
    """Sketch entries in the form of `Brute`."""
    found: dict[Group, list[tuple[int, tuple[float, ...]]]] = {
        (feature, split): [] for feature in range(n_features) for split in range(3)
    }
    at = 0
    for group, window, active in zip(entries["group"], entries["window"], entries["active"], strict=True):
        row = np.zeros(WINDOW, np.float32)
        part = slice(at, at + int(active))
        row[entries["position"][part]] = entries["value"][part]
        found[divmod(int(group), 3)].append((int(window), tuple(row.tolist())))
        at += int(active)
    assert at == len(entries["value"])
    return found


def assert_sketches_equal(found: Found, expected: Brute, n_features: int) -> None:
    assert unpacked(found.top, n_features) == expected.top
    assert unpacked(found.sample, n_features) == expected.sample


def assert_background_equals(found: Found, expected: Brute) -> None:
    assert found.background_windows.tolist() == expected.background_windows
    columns = (found.background[name].tolist() for name in ("window", "position", "feature", "value"))
    cells = {(w, p, f): v for w, p, f, v in zip(*columns, strict=True)}
    assert len(cells) == len(found.background["value"])
    window, position, feature = np.nonzero(expected.windows[expected.background_windows])
    original = np.asarray(expected.background_windows)[window]
    values = expected.windows[original, position, feature]
    wanted = zip(original.tolist(), position.tolist(), feature.tolist(), values.tolist(), strict=True)
    assert cells == {(w, p, f): v for w, p, f, v in wanted}


def assert_statistics_equal(found: Found, corpus: Corpus, acts: Array) -> None:
    """Counts, extremes and histograms to the bit; sums to the order of addition."""
    statistics = found.statistics.arrays()
    split = np.repeat(corpus.split[corpus.context_document], corpus.context_length)
    wide = acts.astype(np.float64)
    maxima = dense_windows(corpus, acts).max(1)
    per_split = [(acts[split == s] > 0).sum(0) for s in range(3)]
    assert np.array_equal(statistics["active_tokens"], np.stack(per_split, 1))
    per_split = [(maxima[corpus.window_split == s] > 0).sum(0) for s in range(3)]
    assert np.array_equal(statistics["active_windows"], np.stack(per_split, 1))
    assert np.array_equal(statistics["maximum"], acts.max(0))
    assert np.array_equal(statistics["least"], np.where(acts > 0, acts, np.inf).min(0))
    assert np.array_equal(statistics["total"], units(wide).sum(0))
    thresholds = found.statistics.thresholds()
    for feature in range(acts.shape[1]):
        values = wide[(split == 0) & (acts[:, feature] > 0), feature]
        assert np.array_equal(statistics["histogram"][feature], np.histogram(values, [*EDGES, np.inf])[0])
        assert thresholds[feature] == threshold(values, wide[:, feature])
        for share, quantile in zip(
            (0.1, 0.5, 0.99), found.statistics.quantiles((0.1, 0.5, 0.99))[feature], strict=True
        ):
            exact = np.quantile(values, share, method="inverted_cdf") if len(values) else 0.0
            assert quantile == pytest.approx(exact, rel=0.046)


def threshold(explain: Array, everywhere: Array) -> float:
    """From the positive activations in explain, and all activations: the last edge at or above which nine tenths lie."""
    least = float(everywhere[everywhere > 0].min(initial=np.inf))
    if not len(explain):
        return least if np.isfinite(least) else 0.0
    carried = [edge for edge in EDGES if explain[explain >= edge].sum() >= 0.9 * explain.sum() * (1 - 1e-12)]
    return float(carried[-1]) if carried[1:] else min(float(EDGES[0]), least)


def units(wide: Array) -> Array:
    """Whole numbers of 2^-24."""
    return np.rint(wide * 2.0**24).astype(np.int64)


def brute_tokens(corpus: Corpus, acts: Array, config: HarvestConfig) -> dict[tuple[int, int], tuple[int, float]]:
    """{(feature, token): (how often active, summed activation)} over the windows of explain whose tokens are counted."""
    held: dict[tuple[int, int], tuple[int, float]] = {}
    for window in drawn(corpus, 0, config.token_windows, config.seed + 78):
        start = int(corpus.window_start[window])
        for at in range(start, start + int(corpus.window_length[window])):
            for feature in np.flatnonzero(acts[at]).tolist():
                cell = feature, int(corpus.tokens[at])
                active, total = held.get(cell, (0, 0.0))
                held[cell] = active + 1, total + float(units(np.float64(acts[at, feature])) * 2.0**-24)
    return held


def assert_token_table_equals(found: Found, corpus: Corpus, acts: Array, config: HarvestConfig) -> None:
    expected = brute_tokens(corpus, acts, config)
    table = found.tokens
    assert list(zip(table["feature"].tolist(), table["token"].tolist(), strict=True)) == sorted(expected)
    assert table["active"].tolist() == [expected[key][0] for key in sorted(expected)]
    assert table["total"].tolist() == [expected[key][1] for key in sorted(expected)]


def brute_features(corpus: Corpus, acts: Array, vocabulary: Vocabulary, config: HarvestConfig) -> list[dict[str, Any]]:
    """What the table `feature` must say of each, from the activations alone; special tokens count for nothing."""
    explain = np.repeat(corpus.split[corpus.context_document], corpus.context_length) == 0
    counted = int((~vocabulary.special[corpus.tokens]).sum())
    maxima = dense_windows(corpus, acts).max(1)
    tokens = brute_tokens(corpus, acts, config)
    out = []
    for feature in range(acts.shape[1]):
        values = acts[:, feature].astype(np.float64)
        positive = values[values > 0]
        mass = {token: total for (f, token), (_, total) in tokens.items() if f == feature}
        shares = [total / sum(mass.values()) for total in mass.values()]
        heaviest = sorted(mass, key=lambda token: (-mass[token], token))[:12]
        windows = [int(((maxima[:, feature] > 0) & (corpus.window_split == split)).sum()) for split in range(3)]
        out.append(
            {
                "feature": feature,
                "density": len(positive) / counted,
                "active_tokens": len(positive),
                "active_windows": windows,
                "mean": positive.sum() / counted,
                "max_activation": positive.max(initial=0),
                "min_positive": positive.min() if len(positive) else 0.0,
                "threshold": threshold(values[explain & (values > 0)], values),
                "token_entropy": -sum(share * math.log2(share) for share in shares),
                "top_tokens": [vocabulary.name(token) for token in heaviest],
                "histogram": np.histogram(values[explain & (values > 0)], [*EDGES, np.inf])[0].tolist(),
            }
        )
    return out
