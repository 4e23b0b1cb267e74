"""`detection` and `fuzzing` by hand: which windows and marks are drawn, what the values are, and where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from glossator.config import LLMScoreConfig
from glossator.scorers.detection import DetectionScene, detection, detection_scene
from glossator.scorers.fuzzing import FuzzingScene, fuzzing, fuzzing_scene
from glossator.scorers.reading import few
from glossator.types import FeatureRecord, Sample, Vocabulary
from tests.prompts.small import Words, record, sample

CONFIG = LLMScoreConfig(firing=6, silent=6, near=3, fuzzed=8)
FILLER = [f"f{k}" for k in range(8)]


def ground(status: str = "waiting", **changes: Sample) -> tuple[FeatureRecord, Vocabulary]:
    """20 active windows on test: 15 fire (threshold 1), 5 are weak. 30 background windows, 10 of them weak; 5 near misses."""
    words = Words()
    active = [([], [*FILLER, (f"fires{i}", 5.0), ("too", 2.0), ("weak", 0.5)], []) for i in range(15)]
    active += [([], [*FILLER, (f"weak{i}", 0.5)], []) for i in range(5)]
    silent = [([], [*FILLER, (f"b{i}", 0.0 if i < 20 else 0.5)], []) for i in range(30)]
    near = [([], [*FILLER, f"n{i}"], []) for i in range(5)]
    test, pool, misses = sample(words, active), sample(words, silent), sample(words, near)
    stratum = np.asarray(["top"] * 5 + ["sample"] * 15)
    test = replace(test, stratum=stratum, weight=np.where(stratum == "top", 1.0, 4.0))
    pool = replace(pool, windows=replace(pool.windows, window_id=pool.windows.window_id + 1000))
    misses = replace(misses, windows=replace(misses.windows, window_id=misses.windows.window_id + 2000))
    made = record(test, test=test)
    behind = {"test": changes.get("background", pool)}
    found = replace(made, status=status, background=behind, near_misses={"test": changes.get("near", misses)})  # type: ignore[arg-type]
    if "test" in changes:
        found.exemplars["test"] = changes["test"]
    return found, words.vocabulary


def scene_of(made: FeatureRecord) -> DetectionScene:
    found = detection_scene(made, "test", CONFIG)
    assert isinstance(found, DetectionScene)
    return found


# ------------------------------------------------------------------ few


def test_few_windows_stand_for_those_left_out_and_a_third_are_top() -> None:
    made, _ = ground()
    whole = made.exemplars["test"]
    part = few(whole, 9, 0)
    assert (part.stratum == "top").sum() == 3 and len(part.windows) == 9
    for stratum in ("top", "sample"):
        assert part.weight[part.stratum == stratum].sum() == pytest.approx(whole.weight[whole.stratum == stratum].sum())
    assert few(whole, 20, 0) is whole
    assert few(whole, 9, 1).windows.window_id.tolist() != part.windows.window_id.tolist()


def test_few_are_the_same_windows_in_whatever_order_they_come() -> None:
    whole = ground()[0].exemplars["test"]
    turned = few(whole.take(np.random.default_rng(0).permutation(20)), 9, 0)
    assert turned.windows.window_id.tolist() == few(whole, 9, 0).windows.window_id.tolist()


# ------------------------------------------------------------------ detection


def test_weak_windows_are_neither_firing_nor_silent() -> None:
    made, _ = ground()
    found = scene_of(made)
    names = found.windows.window_id
    assert (found.fires.sum(), found.near.sum(), len(names)) == (6, 3, 15)
    assert set(names[found.fires]) <= set(range(15))
    assert set(names[~found.fires & ~found.near]) <= set(range(1000, 1020)) and set(names[found.near]) <= set(
        range(2000, 2005)
    )


def test_auroc_of_firing_against_background_and_near_misses_apart() -> None:
    """By hand: 6 firing at 0.8; background 0.8 twice, else 0.1: 1 - (2 ties / 2) / 6; near misses all above: 0."""
    found = scene_of(ground()[0])
    p = np.full(15, 0.1)
    p[found.fires], p[found.near] = 0.8, 0.9
    p[np.flatnonzero(~found.fires & ~found.near)[:2]] = 0.8
    values = detection(found, p, 200, 0)
    assert values["detection"].estimate.value == pytest.approx(1 - (2 * 0.5) / 6)
    assert values["detection_near"].estimate.value == 0.0
    assert values["detection"].note == "balanced accuracy at 50%: 0.83"
    assert values["detection"].estimate.low < 1 - 1 / 6 <= values["detection"].estimate.high


def test_firing_windows_count_for_what_they_stand_for() -> None:
    """Two top windows (weight 5/2 each) ranked below, four sampled ones (10 windows of weight 4) above: 40 of 45."""
    found = scene_of(ground()[0])
    top = found.fires & (found.windows.window_id < 5)
    assert top.sum() == 2
    p = np.where(found.fires & ~top, 0.9, np.where(top, 0.1, 0.5))
    assert detection(found, p, 200, 0)["detection"].estimate.value == pytest.approx(40 / 45)


def test_a_constant_answer_has_the_chance_level_and_always_none_gains_nothing() -> None:
    found = scene_of(ground()[0])
    for constant in (0.0, 0.5, 1.0):
        values = detection(found, np.full(15, constant), 200, 0)
        assert values["detection"].estimate.value == values["detection_near"].estimate.value == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "dense"}, "dense"),
        ({"test": ground()[0].exemplars["test"].take(np.arange(15, 20))}, "no firing window in the split test"),
        ({"test": ground()[0].exemplars["test"].take(slice(0))}, "no firing window in the split test"),
    ],
)
def test_where_there_is_nothing_to_rank_the_reason_is_told(changes: dict[str, object], said: str) -> None:
    found = detection_scene(ground(**changes)[0], "test", CONFIG)  # type: ignore[arg-type]
    assert isinstance(found, str) and found.startswith(said)


def test_no_silent_window_and_no_near_miss_are_different_reasons() -> None:
    made, _ = ground()
    noisy = made.background["test"].take(np.arange(20, 30))
    none = made.near_misses["test"].take(slice(0))
    assert (
        detection_scene(ground(background=noisy, near=none)[0], "test", CONFIG) == "no silent window in the split test"
    )
    for changes, lacking, note in (
        ({"background": noisy}, "detection", "no silent background window"),
        ({"near": none}, "detection_near", "no near miss is known"),
    ):
        found = scene_of(ground(**changes)[0])
        values = detection(found, found.fires.astype(float), 200, 0)
        assert np.isnan(values[lacking].estimate.value) and values[lacking].note == note
        assert sorted(v.estimate.value for v in values.values() if v.note != note) == [1.0]


# ------------------------------------------------------------------ fuzzing


def fuzzed(made: FeatureRecord, vocabulary: Vocabulary, **more: object) -> FuzzingScene:
    counts = np.asarray(more.get("counts", np.ones(len(vocabulary))))
    found = fuzzing_scene(made, "test", vocabulary, counts, CONFIG)
    assert isinstance(found, FuzzingScene)
    return found


def test_half_the_windows_are_marked_where_they_fire_and_half_where_they_are_off() -> None:
    made, vocabulary = ground()
    found = fuzzed(made, vocabulary)
    assert (len(found.windows), found.right.sum()) == (8, 4)
    assert (found.marked.sum(1) == 2).all()  # as many wrong marks as right ones
    for marked, right in zip(found.marked, found.right, strict=True):
        places = set(np.flatnonzero(marked).tolist())
        assert places == {8, 9} if right else places <= set(range(8))  # the weak token at 10 is neither


def test_wrong_marks_stand_on_tokens_of_like_frequency() -> None:
    made, vocabulary = ground()
    counts = np.asarray([{"f": 1000.0}.get(piece[0], 10.0) for piece in vocabulary.pieces])
    for k in (1, 3, 4, 6):  # as frequent as what fires
        counts[vocabulary.find(f"f{k}") or 0] = 10.0
    counts[[i for i, piece in enumerate(vocabulary.pieces) if piece.startswith("fires")]] = 10.0
    found = fuzzed(made, vocabulary, counts=counts)
    wrong = [tuple(np.flatnonzero(marked).tolist()) for marked in found.marked[~found.right]]
    assert {place for places in wrong for place in places} <= {1, 3, 4, 6} and len(set(wrong)) > 1


def test_special_tokens_and_empty_places_are_never_marked() -> None:
    words = Words()
    made = record(sample(words, [([], ["[CLS]", "off", (f"fires{i}", 5.0)], []) for i in range(6)]))
    made.exemplars["test"] = made.exemplars["explain"]
    found = fuzzed(made, words.vocabulary)
    assert {tuple(np.flatnonzero(m).tolist()) for m in found.marked} == {(1,), (2,)}


def test_windows_that_fire_everywhere_have_no_value_and_the_reason_is_told() -> None:
    words = Words()
    made = record(sample(words, [([], [("all", 5.0), ("fire", 4.0)], []) for _ in range(6)]))
    made.exemplars["test"] = made.exemplars["explain"]
    found = fuzzing_scene(made, "test", words.vocabulary, np.ones(9), CONFIG)
    assert isinstance(found, str) and found.startswith("fewer than two windows")
    assert fuzzing_scene(made, "select", words.vocabulary, np.ones(9), CONFIG) == "never active in the split select"


def test_fuzzing_is_the_auroc_of_right_against_wrong_marks() -> None:
    found = fuzzed(*ground())
    assert fuzzing(found, found.right.astype(float), 200, 0)["fuzzing"].estimate.value == 1.0
    assert fuzzing(found, 1.0 - found.right, 200, 0)["fuzzing"].estimate.value == pytest.approx(0.0)
    assert fuzzing(found, np.full(8, 0.7), 200, 0)["fuzzing"].estimate.value == pytest.approx(0.5)
