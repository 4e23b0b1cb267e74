"""Intervals hold what a whole small corpus says; estimators that are broken on purpose do not.

A small version of benchmarks/coverage.py, which defines corpora, truth and the design that is drawn.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from glossator.scorers.bounds import Measured
from glossator.scorers.rates import METRICS, draw, measure
from glossator.types import Bools, Floats, Ints


def _load() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


coverage = _load()
WITHIN = 0.3  # share of a feature's strength that the document decides
Estimator = Callable[[Floats, Bools, Floats, Ints, int], dict[str, Measured]]


def covered(density: float, draws: int, **how: Any) -> tuple[dict[str, float], dict[str, float]]:
    cells = coverage.coverage(density, WITHIN, draws, seed=0, **how)
    return coverage.of_bin(cells), coverage.bounds_of_bin(cells)


@pytest.mark.parametrize("density", [0.006, 0.02, 0.25])
def test_intervals_hold_the_figure_of_the_whole_corpus(density: float) -> None:
    intervals, bounds = covered(density, 40)
    assert min(intervals.values()) >= 0.9, intervals
    assert min(bounds.values()) >= 0.95, bounds


def without_weights(p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int) -> dict[str, Measured]:
    return measure(p, fires, np.ones(len(p)), document, draw(document, 400, seed))


def windows_resampled(p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int) -> dict[str, Measured]:
    each = np.arange(len(p))
    return measure(p, fires, weight, each, draw(each, 400, seed))


def top_windows_as_if_sampled(
    p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int
) -> dict[str, Measured]:
    heavier = np.where(fires, weight[fires].max(), weight)
    return measure(p, fires, heavier, document, draw(document, 400, seed))


def silent_windows_as_if_they_were_all(
    p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int
) -> dict[str, Measured]:
    return measure(p, fires, np.where(fires, weight, 1.0), document, draw(document, 400, seed))


def without_made_up_windows(p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int) -> dict[str, Measured]:
    drawn = draw(document, 400, seed)
    return measure(p, fires, weight, document, replace(drawn, made_up=drawn.made_up * 0))


@pytest.mark.parametrize(
    ("broken", "density", "metric"),
    [
        (without_weights, 0.25, "precision"),
        (windows_resampled, 0.25, "false_positive_rate"),
        (top_windows_as_if_sampled, 0.25, "precision"),
        (silent_windows_as_if_they_were_all, 0.02, "precision"),
        (without_made_up_windows, 0.25, "recall"),
    ],
)
def test_a_broken_estimator_does_not_cover(broken: Estimator, density: float, metric: str) -> None:
    intervals, _ = covered(density, 25, estimator=broken)
    assert intervals[metric] < 0.85, intervals
    assert set(intervals) == set(METRICS)


def test_a_bound_taken_from_the_rate_seen_does_not_hold() -> None:
    def hopeful(p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int) -> dict[str, Measured]:
        found = measure(p, fires, weight, document, draw(document, 400, seed))
        rate = found["false_positive_rate"]
        if rate.note:
            found["false_positive_rate"] = replace(rate, estimate=replace(rate.estimate, high=rate.estimate.value))
        return found

    _, bounds = covered(0.006, 25, estimator=hopeful)
    assert bounds["false_positive_rate"] < 0.85


def test_the_truth_of_the_benchmark_is_that_of_scikit_learn() -> None:
    whole = coverage.corpus(0.08, WITHIN, 3)
    fires = (whole.activation >= whole.threshold)[whole.counted]
    for levels in whole.p.values():
        p = levels[whole.counted]
        found = coverage.truth(p, fires)
        said = p >= 0.5
        base = metrics.brier_score_loss(fires, np.full(len(p), fires.mean()))
        assert found == pytest.approx(
            {
                "auroc": metrics.roc_auc_score(fires, p),
                "auprc": metrics.average_precision_score(fires, p),
                "precision": metrics.precision_score(fires, said),
                "recall": metrics.recall_score(fires, said),
                "f1": metrics.f1_score(fires, said),
                "balanced_accuracy": metrics.balanced_accuracy_score(fires, said),
                "false_positive_rate": 1 - metrics.recall_score(~fires, ~said),
                "brier_skill": 1 - metrics.brier_score_loss(fires, p) / base,
            }
        )
