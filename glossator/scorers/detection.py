"""Detection: does p(fires), told for whole windows, rank those in which the feature fires above those in which it is silent?

- `detection`: AUROC of firing windows against silent background windows, weighted to all firing windows of the split.
- `detection_near`: against near misses, silent windows that resemble the exemplars. Hard, and of no known share of the
  corpus, so it stands apart.

Chance level 0.5; a constant answer has it. Balanced accuracy at 50% is noted for comparison with others, no more.

Blind spots. It does not ask which token fires: a label that names the window's subject, or a companion of the right
token, passes. Background is drawn at random, so what a broad label wrongly accepts is rarely in it if that is rare: only
near misses show it, and only those that resemble. It ranks, so it does not see whether the percentages mean anything.
Dense features have no value here: their windows nearly all fire.

Source: Paulo et al., "Automatically interpreting millions of features in large language models" (2024), with AUROC in
the place of accuracy, which an answer of "none" can raise to the share of silent windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from glossator.config import LLMScoreConfig
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.rates import draw, measure
from glossator.scorers.reading import few
from glossator.types import Bools, FeatureRecord, Floats, Sample, Split, Windows

METRICS = ("detection", "detection_near")


@dataclass(frozen=True)
class DetectionScene:
    """The windows of one feature and split, drawn once for all labels. fires, near [n]; neither: a silent background window."""

    windows: Windows
    fires: Bools
    near: Bools
    weight: Floats


def detection_scene(record: FeatureRecord, split: Split, config: LLMScoreConfig) -> DetectionScene | str:
    """Or why there is none."""
    if record.status == "dense":
        return "dense: it fires in too many windows to be detected"
    active, pool, near = record.exemplars.get(split), record.background[split], record.near_misses.get(split)
    firing = (
        None
        if active is None
        else active.take(np.flatnonzero(active.activations.max(1, initial=0) >= record.threshold))
    )
    if firing is None or not len(firing.windows):
        return f"no firing window in the split {split}"
    silent = few(pool.take(np.flatnonzero(~(pool.activations > 0).any(1))), config.silent, config.seed)
    hard = _unseen(near, silent, config) if near is not None else silent.take(slice(0))
    if not len(silent.windows) and not len(hard.windows):
        return f"no silent window in the split {split}"
    parts = (few(firing, config.firing, config.seed), silent, hard)
    windows = [part.windows for part in parts]
    kind = np.repeat(np.arange(3), [len(w) for w in windows])
    return DetectionScene(
        Windows(
            np.concatenate([w.ids for w in windows]), np.concatenate([w.document for w in windows]), windows[0].start,
            np.concatenate([w.window_id for w in windows]),
        ),
        kind == 0,
        kind == 2,
        np.concatenate([parts[0].weight, parts[1].weight, np.ones(len(windows[2]))]),
    )  # fmt: skip


def _unseen(near: Sample, silent: Sample, config: LLMScoreConfig) -> Sample:
    """Near misses that are not among the silent windows already."""
    fresh = near.take(~np.isin(near.windows.window_id, silent.windows.window_id))
    return few(fresh, config.near, config.seed) if config.near else fresh.take(slice(0))


def detection(scene: DetectionScene, p: Floats, draws: int, seed: int) -> dict[str, Measured]:
    """p [n]: p(fires) of the windows of the scene."""
    return {
        "detection": _against(scene, p, ~scene.near, draws, seed, "no silent background window"),
        "detection_near": _against(scene, p, scene.fires | scene.near, draws, seed, "no near miss is known"),
    }


def _against(scene: DetectionScene, p: Floats, kept: Bools, draws: int, seed: int, lacking: str) -> Measured:
    if not (kept & ~scene.fires).any():
        return missing(lacking)
    document = scene.windows.document[kept]
    found = measure(
        p[kept],
        scene.fires[kept],
        scene.weight[kept],
        document,
        draw(document, draws, seed),
        ("auroc", "balanced_accuracy"),
    )
    said = f"balanced accuracy at 50%: {found['balanced_accuracy'].estimate.value:.2f}"
    note = found["auroc"].note
    return replace(found["auroc"], note=said if note is None else f"{note}; {said}")
