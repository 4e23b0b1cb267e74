"""`discrimination` by hand: which windows are drawn, whose silence is known, what the values are, where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glossator.config import LLMScoreConfig
from glossator.scorers.discrimination import DiscriminationScene, discrimination, discrimination_scene
from glossator.scorers.rates import draw
from glossator.types import FeatureRecord, Ints
from tests.prompts.small import Words, record, sample

RIVALS = np.asarray([True] * 12 + [False] * 18)  # a neighbour fires on the first 12 of 30 background windows


def ground(status: str = "waiting") -> FeatureRecord:
    """On test 15 windows fire (threshold 1) and 5 are weak. Of the background 0-19 are silent, 20-24 weak, 25-29 fire."""
    words = Words()
    active = sample(words, [([], ["f", (f"a{i}", 5.0 if i < 15 else 0.5)], []) for i in range(20)])
    behind = [0.0] * 20 + [0.5] * 5 + [5.0] * 5
    pool = sample(words, [([], ["f", (f"b{i}", value)], []) for i, value in enumerate(behind)])
    windows = replace(pool.windows, window_id=pool.windows.window_id + 1000, document=pool.windows.document + 50)
    found = replace(record(active, test=active), status=status, neighbours=(3, 4))
    return replace(found, background={"test": replace(pool, windows=windows)})


def scene_of(made: FeatureRecord, rivals: Ints = RIVALS, config: LLMScoreConfig | None = None) -> DiscriminationScene:
    found = discrimination_scene(made, "test", rivals, config)
    assert isinstance(found, DiscriminationScene)
    return found


def test_firing_windows_stand_against_those_in_which_a_neighbour_fires_and_the_feature_is_off() -> None:
    found = scene_of(ground())
    assert found.windows.window_id[found.fires].tolist() == list(range(15))
    assert found.windows.window_id[~found.fires].tolist() == list(range(1000, 1012))


def test_where_the_feature_is_weak_or_fires_too_a_neighbour_s_window_is_left_out() -> None:
    found = scene_of(ground(), np.asarray([False] * 18 + [True] * 12))
    assert found.windows.window_id[~found.fires].tolist() == [1018, 1019]


def test_a_model_is_shown_few_of_them() -> None:
    found = scene_of(ground(), config=LLMScoreConfig(firing=6, silent=4))
    assert (found.fires.sum(), (~found.fires).sum()) == (6, 4)
    assert found.weight[found.fires].sum() == pytest.approx(15)


def test_half_of_few_windows_are_those_of_the_nearest_neighbour() -> None:
    rivals = np.asarray([2] * 3 + [1] * 9 + [0] * 18)
    for silent, nearest in ((4, 2), (8, 3), (12, 3)):
        found = scene_of(ground(), rivals, LLMScoreConfig(silent=silent))
        shown = found.windows.window_id[~found.fires]
        assert len(set(shown.tolist())) == silent and (shown < 1003).sum() >= nearest


def test_near_misses_are_hard_windows_too_and_no_rivals() -> None:
    made, words = ground(), Words()
    near = sample(words, [([], ["f", (f"n{i}", 0.0)], []) for i in range(6)])
    near = replace(near, windows=replace(near.windows, window_id=np.asarray([2000, 2001, 2002, 2003, 1000, 1001])))
    found = scene_of(replace(made, near_misses={"test": near}))
    assert found.windows.window_id[found.near].tolist() == [2000, 2001, 2002, 2003]  # 1000 and 1001 are rivals' already
    p = np.where(found.near, 0.95, np.where(found.fires, 0.9, 0.1))
    values = {name: of.estimate.value for name, of in discrimination(found, p, 100, 0).items()}
    assert values == {"discrimination": pytest.approx(1.0), "discrimination_hard": pytest.approx(12 / 16)}
    alone = scene_of(replace(made, near_misses={"test": near}), np.zeros(30, int))
    told = discrimination(alone, np.where(alone.fires, 0.9, 0.1), 100, 0)
    assert told["discrimination"].note and np.isnan(told["discrimination"].estimate.value)
    assert told["discrimination_hard"].estimate.value == pytest.approx(1.0)


def test_auroc_by_hand_chance_and_the_sign() -> None:
    found = scene_of(ground())
    p = np.where(found.fires, 0.9, 0.1)
    for told, expected in ((p, 1.0), (1 - p, 0.0), (np.full(27, 0.3), 0.5)):
        value = discrimination(found, told, 100, 0)["discrimination"].estimate
        assert value.value == pytest.approx(expected) and 0 <= value.low <= value.value <= value.high <= 1
    p[0] = 0.05  # one of 15 firing windows below all others
    p[-1] = 0.9  # one of 12 others level with the firing ones
    expected = 1 - 1 / 15 - (14 / 15) * (1 / 12) / 2
    assert discrimination(found, p, 100, 0)["discrimination"].estimate.value == pytest.approx(expected)


def test_draws_made_once_for_a_split_serve_every_feature() -> None:
    found = scene_of(ground())
    p = np.linspace(0, 1, len(found.windows))
    shared = draw(np.arange(100), 200, 0)
    assert discrimination(found, p, shared)["discrimination"].estimate.value == pytest.approx(
        discrimination(found, p, 200, 0)["discrimination"].estimate.value
    )


@pytest.mark.parametrize(
    ("changed", "rivals", "reason"),
    [
        ({"status": "dense"}, RIVALS, "dense: it fires in too many windows"),
        ({"neighbours": ()}, RIVALS, "no neighbour is known"),
        ({"threshold": 99.0}, RIVALS, "no firing window in the split test"),
        ({"exemplars": {}}, RIVALS, "no firing window in the split test"),
        ({}, ~RIVALS & False, "no background window in which a neighbour fires"),
        ({}, np.arange(30) >= 20, "no background window in which a neighbour fires"),
    ],
)
def test_where_there_is_nothing_to_tell_apart_the_reason_is_given(
    changed: dict[str, object], rivals: Ints, reason: str
) -> None:
    found = discrimination_scene(replace(ground(), **changed), "test", rivals)  # type: ignore[arg-type]
    assert isinstance(found, str) and found.startswith(reason)
