"""`embedding` by hand: which windows are read, what cosines are worth, differences, and where there is no value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from glossator.config import EmbeddingConfig
from glossator.scorers.embedding import (
    EmbeddingScene,
    Pool,
    difference,
    drawn,
    embedding,
    embedding_scene,
    pool_of,
    values,
)
from glossator.scorers.rates import draw
from glossator.types import FeatureRecord, Sample
from tests.prompts.small import Words, record, sample

CONFIG = EmbeddingConfig(firing=3)


def shifted(found: Sample, by: int) -> Sample:
    w = found.windows
    return replace(found, windows=replace(w, window_id=w.window_id + by, document=w.document + by))


def ground(firing_behind: int = 5) -> FeatureRecord:
    """Background of test: 30 windows, the first 20 silent, then 5 weak, then 5 of which some fire (threshold 1). 12 exemplars, 8 fire."""
    words = Words()
    active = sample(words, [([], ["f", (f"a{i}", 5.0 if i < 8 else 0.5)], []) for i in range(12)])
    active = replace(active, weight=np.full(12, 4.0))
    behind = [0.0] * 20 + [0.5] * (10 - firing_behind) + [5.0] * firing_behind
    pool = sample(words, [([], ["f", (f"b{i}", value)], []) for i, value in enumerate(behind)])
    near = pool.take(np.asarray([2, 3, 7]))
    found = record(active, test=active)
    return replace(found, background={"test": shifted(pool, 1000)}, near_misses={"test": shifted(near, 1000)})


def pool(made: FeatureRecord, most: int = 99) -> Pool:
    return pool_of(made.background["test"].windows, most)


def scene_of(made: FeatureRecord) -> EmbeddingScene:
    found = embedding_scene(made, "test", pool(made), CONFIG)
    assert isinstance(found, EmbeddingScene)
    return found


def test_where_enough_of_the_background_fires_nothing_else_is_read() -> None:
    found = scene_of(ground())
    assert not len(found.extra.windows)
    assert found.place[found.fires].tolist() == [25, 26, 27, 28, 29]
    assert found.place[~found.fires].tolist() == list(range(20))  # weak windows are neither
    assert found.place[found.near].tolist() == [2, 3, 7] and not (found.near & found.fires).any()
    assert found.document.tolist() == [1000 + place for place in found.place]


def test_where_too_few_fire_exemplars_take_their_place_weighted_to_all() -> None:
    found = scene_of(ground(firing_behind=2))
    assert len(found.extra.windows) == CONFIG.firing
    assert set(found.extra.windows.window_id.tolist()) <= set(range(8))
    assert found.place[found.fires].tolist() == [30, 31, 32]
    assert found.weight[found.fires].sum() == pytest.approx(8 * 4.0)
    assert found.document[found.fires].tolist() == found.extra.windows.document.tolist()


def test_a_pool_is_spread_over_the_whole_background() -> None:
    part = pool(ground(), 10)
    assert part.rows.tolist() == list(range(0, 30, 3))
    assert part.windows.window_id.tolist() == [1000 + i for i in part.rows]
    assert len(pool(ground(), 30).rows) == 30


def test_auroc_is_that_of_scikit_learn_and_near_misses_stand_apart() -> None:
    found = scene_of(ground())
    cosine = np.random.default_rng(0).normal(size=len(found.place)) + found.fires
    draws = draw(found.document, 200, 0)
    measured = embedding(found, cosine, draws)
    assert measured["embedding"].estimate.value == pytest.approx(roc_auc_score(found.fires, cosine))
    kept = found.fires | found.near
    assert measured["embedding_near"].estimate.value == pytest.approx(roc_auc_score(found.fires[kept], cosine[kept]))
    assert measured["embedding"].estimate.n == 25 and measured["embedding_near"].estimate.n == 8


def test_what_points_the_wrong_way_scores_below_chance() -> None:
    found = scene_of(ground())
    draws = draw(found.document, 200, 0)
    right = np.where(found.fires, 0.7, 0.1)
    for cosine, expected in ((right, 1.0), (-right, 0.0), (np.zeros(25), 0.5)):
        e = embedding(found, cosine, draws)["embedding"].estimate
        assert e.value == pytest.approx(expected) and 0 <= e.low <= e.value <= e.high <= 1


@pytest.mark.parametrize("firing_behind", [5, 2])
def test_values_of_many_labels_are_those_of_one_at_a_time_ties_and_weights_included(firing_behind: int) -> None:
    found = scene_of(ground(firing_behind))
    cosines = np.round(np.random.default_rng(3).normal(size=(9, len(found.place))), 1)
    for cosine, value in zip(cosines, values(found, cosines), strict=True):
        assert value == pytest.approx(roc_auc_score(found.fires, cosine, sample_weight=found.weight))


def test_a_difference_has_the_sign_and_the_interval_of_the_better_one() -> None:
    found = scene_of(ground())
    draws = draw(found.document, 500, 0)
    rng = np.random.default_rng(1)
    good, bad = found.fires + 0.01 * rng.random(25), rng.random(25)

    def of(told: np.ndarray) -> tuple[float, np.ndarray]:
        return float(values(found, told[None])[0]), drawn(found, told, draws)

    e, p = difference(found, of(good), of(bad))
    assert e.value == pytest.approx(1 - roc_auc_score(found.fires, bad)) and e.low > 0 and p < 0.05
    e, p = difference(found, of(bad), of(good))
    assert e.value < 0 and e.high < 0 and p > 0.95
    e, p = difference(found, of(bad), of(bad * 3 + 1))  # ranks alike
    assert (e.value, e.low, e.high, p) == (pytest.approx(0), pytest.approx(0), pytest.approx(0), 1.0)


def test_under_five_firing_documents_there_is_a_value_and_no_interval() -> None:
    found = scene_of(ground(firing_behind=4))
    draws = draw(found.document, 200, 0)
    measured = embedding(found, np.arange(24.0), draws)["embedding"]
    assert np.isfinite(measured.estimate.value) and np.isnan(measured.estimate.low)
    assert measured.note == "under 5 firing documents: no interval"
    e, p = difference(found, (0.7, np.full(200, 0.7)), (0.5, np.full(200, 0.5)))
    assert e.value == pytest.approx(0.2) and np.isnan([e.low, e.high, p]).all()


def test_where_there_is_nothing_to_tell_apart_the_reason_is_given() -> None:
    made = ground()
    silent = replace(made, background={"test": made.background["test"].take(slice(20, 30))})
    for changed, reason in (
        (replace(made, status="dense"), "dense: it fires in too many windows to be detected"),
        (replace(made, threshold=99.0), "no firing window in the split test"),
        (replace(made, exemplars={}), "no firing window in the split test"),
        (silent, "no silent window in the split test"),
    ):
        assert embedding_scene(changed, "test", pool(changed), CONFIG) == reason


def test_without_an_embedded_near_miss_that_metric_has_no_value() -> None:
    made = replace(ground(), near_misses={})
    found = scene_of(made)
    measured = embedding(found, np.arange(25.0), draw(found.document, 100, 0))["embedding_near"]
    assert np.isnan(measured.estimate.value) and measured.note == "no near miss is among the embedded windows"
