"""Simulation: does the predicted strength of every token follow the feature's activation? Signed Pearson.

Three variants, over all tokens of the windows laid end to end (never a mean of r per sequence, but for `within`):

- `simulation`: the active windows of the split (top and sample, weighted to stand for all active windows) and as many
  background windows. Chance 0. It passes labels that name half of what a feature does, if that half is most of the mass.
- `simulation_within`: the mean of r inside each firing window: does it point at the right token? A window where the
  prediction is flat counts 0. Blind to false alarms on silent windows.
- `simulation_literature`: the top windows and as many background windows, unweighted, for comparison with published
  figures only. It saturates, and passes over-broad labels.
- `simulation_near`: active windows, and silent windows on which the explanation predicts something: only false alarms
  as the other half. Stricter; its value depends on the predictions, so it compares no two explanations.

Source of the token-level correlation: Bills et al., "Language models can explain neurons in language models" (2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glossator.scorers.estimators import document_sums, pearson, pearson_of, resamples
from glossator.types import Estimate, FeatureRecord, Floats, Ints, Sample, Split, Windows

Predict = Callable[[Windows], Ints | Floats]  # windows [n] -> strengths [n, WINDOW]


@dataclass(frozen=True)
class Scene:
    """The windows that one feature is simulated on, drawn once for all explanations of it."""

    active: Sample
    background: Sample
    pool: Sample  # every background window of the split

    @property
    def windows(self) -> Windows:
        a, b = self.active.windows, self.background.windows
        return Windows(
            np.concatenate([a.ids, b.ids]), np.concatenate([a.document, b.document]), a.start,
            np.concatenate([a.window_id, b.window_id]),
        )  # fmt: skip

    @property
    def activations(self) -> Floats:
        return np.concatenate([self.active.activations, self.background.activations])

    @property
    def weight(self) -> Floats:
        """Active windows by what they stand for; background as heavy in sum as the active ones."""
        mine = self.active.weight
        n = len(self.background.windows)
        return np.concatenate([mine, np.full(n, mine.sum() / max(n, 1))])


def scene(record: FeatureRecord, split: Split) -> Scene:
    """Active windows, and as many background windows starting at a place that depends on the feature."""
    active, pool = record.exemplars[split], record.background[split]
    other = np.flatnonzero(~np.isin(pool.windows.window_id, active.windows.window_id))  # no window counts twice
    n = len(other)
    index = other[(np.arange(min(len(active.windows), n)) + record.feature.index * 131) % max(n, 1)]
    return Scene(active, pool.take(index), pool)


def sums_of(scene: Scene, prediction: Ints | Floats) -> Floats:
    """[documents, 6] of a prediction on `scene.windows`, for `pearson` and paired differences."""
    w = scene.windows
    return document_sums(np.asarray(prediction), scene.activations, scene.weight, w.mask, w.document)


def simulation(scene: Scene, prediction: Ints | Floats, times: Floats) -> Estimate:
    """times [draws, documents] from `draws_for`."""
    return pearson(sums_of(scene, prediction), times, len(scene.windows))


def draws_for(scene: Scene, draws: int, seed: int) -> Floats:
    return resamples(len(np.unique(scene.windows.document)), draws, np.random.default_rng(seed))


def within(scene: Scene, prediction: Ints | Floats, threshold: float, draws: int, seed: int) -> Estimate:
    """Mean r inside firing windows, weighted to all firing windows; bootstrap over windows' documents."""
    sample = scene.active
    firing = sample.activations.max(1, initial=0) >= threshold
    windows = sample.windows.take(firing)
    if not len(windows):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    x = np.asarray(prediction)[: len(sample.windows)][firing]
    each = np.arange(len(windows))
    r = pearson_of(document_sums(x, sample.activations[firing], np.ones(len(windows)), windows.mask, each))
    weight = np.where(np.isnan(r), 0.0, sample.weight[firing])
    r = np.nan_to_num(r)
    _, number = np.unique(windows.document, return_inverse=True)
    total, mass = np.bincount(number, weight * r), np.bincount(number, weight)
    value = float(total.sum() / max(mass.sum(), 1e-12))
    if len(total) < 5:
        return Estimate(value, float("nan"), float("nan"), len(windows))
    times = resamples(len(total), draws, np.random.default_rng(seed))
    drawn = (times @ total) / np.maximum(times @ mass, 1e-12)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, float(low), float(high), len(windows))


def literature(scene: Scene, prediction: Ints | Floats, draws: int, seed: int) -> Estimate:
    top = np.flatnonzero(scene.active.stratum == "top")
    n = len(scene.active.windows)
    chosen = np.concatenate([top, np.arange(n, min(n + len(top), len(scene.windows)))])
    w = scene.windows.take(chosen)
    sums = document_sums(
        np.asarray(prediction)[chosen], scene.activations[chosen], np.ones(len(chosen)), w.mask, w.document
    )
    return pearson(sums, resamples(len(sums), draws, np.random.default_rng(seed)), len(chosen))


def near(scene: Scene, predict: Predict, prediction: Ints | Floats, draws: int, seed: int) -> Estimate:
    """Silent windows come from the whole background of the split, as many as there are active ones if there are."""
    silent = np.flatnonzero(~(scene.pool.activations > 0).any(1))
    told = np.asarray(predict(scene.pool.windows.take(silent)))
    false = np.flatnonzero((told > 0).any(1))[: len(scene.active.windows)]
    if not len(false):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mixed = Scene(scene.active, scene.pool.take(silent[false]), scene.pool)
    both = np.concatenate([np.asarray(prediction)[: len(scene.active.windows)], told[false]])
    return simulation(mixed, both, draws_for(mixed, draws, seed))
