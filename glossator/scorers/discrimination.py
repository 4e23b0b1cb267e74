"""Discrimination: does p(fires) tell the windows in which this feature fires from those in which its neighbours fire and it does not?

- `discrimination`: AUROC of the feature's firing windows against background windows in which at least one of its nearest
  neighbours by decoder direction (`FeatureRecord.neighbours`) fires and the feature itself is off. Where few are drawn, half
  are of the nearest neighbour, as far as it has so many: what a broader label wrongly accepts is there, if anywhere.
- `discrimination_hard`: against those and the near misses, all silent windows that are known to be hard.

Firing windows are weighted to all firing windows of the split; of the others each is as heavy as the other, and they stand
for no known share of the corpus.

Chance level 0.5; a constant answer has it. So has, about, the label of a neighbour: it may fall far below.

**How silence is known.** All features' activations are stored for background windows, and for those alone. Of a
neighbour's exemplars nobody knows what this feature does on them, so they are not used unless they stand in the background
too. A neighbour's weak windows are neither: it has to fire. The price: where features are so sparse that no neighbour fires
in the background with this feature off, `discrimination` has no value, which is said.

Blind spots. It asks about the neighbourhood alone: a label that fires all over the corpus, but not on what the neighbours
share, passes. Decoder directions can be near without a common subject, and then this is `detection` on fewer windows.
It does not ask which token fires, and it ranks, so it does not see whether percentages mean anything. Where the feature
and a neighbour fire together the window is one of the feature's own. Dense features have no value.

Source: DESIGN section 7; the idea that the sibling is the hard case is that of discrimination tests for neuron labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossator.config import LLMScoreConfig
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.rates import Draws, draw, measure
from glossator.scorers.reading import few
from glossator.types import Bools, FeatureRecord, Floats, Ints, Sample, Split, Windows

METRICS = ("discrimination", "discrimination_hard")
_NEAREST = 2  # of rivals
_NEAR = 2  # of the three kinds of windows
_LACKING = "no background window in which a neighbour fires and this feature is off, and no near miss, in the split"


@dataclass(frozen=True)
class DiscriminationScene:
    """The windows of one feature and split, the same for all labels. fires, near [n]; neither: a neighbour fires, it is off."""

    windows: Windows
    fires: Bools
    near: Bools
    weight: Floats


def discrimination_scene(
    record: FeatureRecord, split: Split, rivals: Ints, config: LLMScoreConfig | None = None
) -> DiscriminationScene | str:
    """Or why there is none. rivals [background windows of the split]: 2 where the nearest neighbour fires, 1 where another does, else 0.

    With a `config` few windows are drawn, as for `detection`: at most `firing`, `silent` and `near` of them; all without one.
    """
    if record.status == "dense":
        return "dense: it fires in too many windows to be told from its neighbours"
    if not record.neighbours:
        return "no neighbour is known"
    active, pool = record.exemplars.get(split), record.background[split]
    if active is None or not (fires := active.activations.max(1, initial=0) >= record.threshold).any():
        return f"no firing window in the split {split}"
    firing = active.take(np.flatnonzero(fires))
    silent = np.flatnonzero((rivals > 0) & ~(pool.activations > 0).any(1))
    other = pool.take(silent)
    near = record.near_misses.get(split, other.take(slice(0)))
    near = near.take(~np.isin(near.windows.window_id, other.windows.window_id))
    if not len(other.windows) and not len(near.windows):
        return f"{_LACKING} {split}"
    if config is not None:
        firing = few(firing, config.firing, config.seed)
        other, near = _few_rivals(other, rivals[silent] == _NEAREST, config), few(near, config.near, config.seed)
    parts = (firing, other, near)
    windows = [part.windows for part in parts]
    kind = np.repeat(np.arange(3), [len(w) for w in windows])
    joined = Windows(
        np.concatenate([w.ids for w in windows]), np.concatenate([w.document for w in windows]), windows[0].start,
        np.concatenate([w.window_id for w in windows]),
    )  # fmt: skip
    weight = np.where(kind == 0, np.concatenate([firing.weight, np.ones(len(kind) - len(firing.windows))]), 1.0)
    return DiscriminationScene(joined, kind == 0, kind == _NEAR, weight)


def _few_rivals(other: Sample, nearest: Bools, config: LLMScoreConfig) -> Sample:
    """Half of them, if there are so many, windows in which the nearest neighbour fires."""
    first = few(other.take(np.flatnonzero(nearest)), config.silent // 2, config.seed)
    rest = other.take(~np.isin(other.windows.window_id, first.windows.window_id))
    rest = few(rest, config.silent - len(first.windows), config.seed)
    chosen = np.concatenate([first.windows.window_id, rest.windows.window_id])
    return other.take(np.isin(other.windows.window_id, chosen))


def discrimination(scene: DiscriminationScene, p: Floats, draws: int | Draws, seed: int = 0) -> dict[str, Measured]:
    """p [n]: p(fires) of the windows of the scene. draws: how many, or those that were made once for the whole split."""
    return {
        "discrimination": _against(scene, p, ~scene.near, draws, seed),
        "discrimination_hard": _against(scene, p, np.ones_like(scene.near), draws, seed),
    }


def _against(scene: DiscriminationScene, p: Floats, kept: Bools, draws: int | Draws, seed: int) -> Measured:
    if not (kept & ~scene.fires).any():
        return missing("no background window of the split in which a neighbour fires and this feature is off")
    document = scene.windows.document[kept]
    drawn = draws if isinstance(draws, Draws) else draw(document, draws, seed)
    return measure(np.asarray(p)[kept], scene.fires[kept], scene.weight[kept], document, drawn, ("auroc",))["auroc"]
