"""Embedding: are the windows in which the feature fires nearer to its label than silent ones, as a sentence encoder sees it?

The prediction is the cosine of the label's embedding with that of the window's own 32 tokens, as text.

- `embedding`: AUROC of firing windows against silent background windows.
- `embedding_near`: against near misses alone, silent windows that resemble the exemplars.

Background windows are embedded once for all features. They are a uniform draw of the corpus, so the firing ones among them
stand for all firing windows as they are; a feature of which fewer than a few fire there has its exemplars instead, weighted
to all firing windows of the split. Near misses are background windows, so they are among the embedded ones or not at all.

Chance level 0.5; a constant has it, and an empty label has no value.

Blind spots. A sentence encoder reads topics: a label about one token, a suffix or a position scores near chance however right
it is, and a label that names the subject of the windows scores high though the token is another. It does not ask which
token fires. Negations ("but not ...") pull the wrong way, since what is named comes nearer. Long labels are cut where the
encoder is at its end. An encoder that is the subject itself knows what its features know: such scores are dependent, and
are marked. Dense features have no value: their windows nearly all fire.

Source: embedding scoring as in Paulo et al., "Automatically interpreting millions of features in large language models"
(2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glossator.config import EmbeddingConfig
from glossator.scorers.bounds import Measured, kish, missing
from glossator.scorers.rates import Draws, auroc_draws, measure
from glossator.scorers.reading import few
from glossator.types import Bools, Estimate, FeatureRecord, Floats, Ints, Sample, Split, Windows

METRICS = ("embedding", "embedding_near")
_MIN_DOCUMENTS = 5
_LEAST_EFFECTIVE = 1.25  # documents: fewer would stretch an interval more than threefold
_LEVEL = 1e-6  # differences below it are rounding


@dataclass(frozen=True)
class Pool:
    """The background windows of one split that are embedded: their rows in it, and themselves."""

    rows: Ints
    windows: Windows


def pool_of(background: Windows, most: int) -> Pool:
    """At most so many, evenly spread, so that no document is left out for standing behind others."""
    n = len(background)
    rows = np.arange(n) if n <= most else np.linspace(0, n, most, endpoint=False).astype(np.int64)
    return Pool(rows, background.take(rows))


@dataclass(frozen=True)
class EmbeddingScene:
    """The windows of one feature and split, the same for all labels. place [n]: of their embeddings, the pool's and then `extra`'s.

    fires [n]; near [n]: silent, and a near miss; weight and document [n].
    """

    place: Ints
    extra: Sample
    fires: Bools
    near: Bools
    weight: Floats
    document: Ints


def embedding_scene(record: FeatureRecord, split: Split, pool: Pool, config: EmbeddingConfig) -> EmbeddingScene | str:
    """Or why there is none."""
    if record.status == "dense":
        return "dense: it fires in too many windows to be detected"
    strongest = record.background[split].activations.max(1, initial=0)[pool.rows]
    silent, firing = np.flatnonzero(strongest <= 0), np.flatnonzero(strongest >= record.threshold)
    if not len(silent):
        return f"no silent window in the split {split}"
    active = record.exemplars.get(split)
    if active is None:
        return f"no firing window in the split {split}"
    extra, weight = active.take(slice(0)), np.ones(len(firing))
    if len(firing) < config.firing:
        extra = active.take(np.flatnonzero(active.activations.max(1, initial=0) >= record.threshold))
        extra = few(extra, config.firing, config.seed)
        firing, weight = len(pool.rows) + np.arange(len(extra.windows)), extra.weight
    if not len(firing):
        return f"no firing window in the split {split}"
    near = record.near_misses.get(split)
    hard = np.isin(pool.windows.window_id[silent], [] if near is None else near.windows.window_id)
    every = np.concatenate([pool.windows.document, extra.windows.document])
    place = np.concatenate([firing, silent])
    return EmbeddingScene(
        place,
        extra,
        np.arange(len(place)) < len(firing),
        np.concatenate([np.zeros(len(firing), bool), hard]),
        np.concatenate([weight, np.ones(len(silent))]),
        every[place],
    )


def embedding(scene: EmbeddingScene, cosine: Floats, draws: Draws) -> dict[str, Measured]:
    """cosine [n]: of the label with the windows of the scene. draws: made once for all documents of the split."""
    found = {"embedding": _against(scene, cosine, np.ones(len(cosine), bool), draws)}
    if not scene.near.any():
        return found | {"embedding_near": missing("no near miss is among the embedded windows")}
    return found | {"embedding_near": _against(scene, cosine, scene.fires | scene.near, draws)}


def _against(scene: EmbeddingScene, cosine: Floats, kept: Bools, draws: Draws) -> Measured:
    of = (cosine[kept], scene.fires[kept], scene.weight[kept], scene.document[kept])
    return measure(*of, draws, ("auroc",))["auroc"]


def values(scene: EmbeddingScene, cosines: Floats) -> Floats:
    """[labels] AUROC of many labels, [labels, n] cosines: values alone, as the pools of mismatched labels need them."""
    silent = np.sort(cosines[:, ~scene.fires], axis=1)
    weight = scene.weight[scene.fires] / scene.weight[scene.fires].sum()
    out = np.empty(len(cosines))
    for i, (mine, theirs) in enumerate(zip(cosines[:, scene.fires], silent, strict=True)):
        below = np.searchsorted(theirs, mine, "left") + np.searchsorted(theirs, mine, "right")
        out[i] = weight @ below / (2 * silent.shape[1])
    return out


def drawn(scene: EmbeddingScene, told: Floats, draws: Draws) -> Floats:
    """[draws] AUROC of any prediction on the scene's windows under each draw, for `difference`."""
    return auroc_draws(told, scene.fires, scene.weight, scene.document, draws)


def difference(scene: EmbeddingScene, a: tuple[float, Floats], b: tuple[float, Floats]) -> tuple[Estimate, float]:
    """AUROC of a less that of b, each as its value and its draws. Second: one-sided p of "a is not better".

    Widened by the effective number of firing documents, as in rates.py; no interval and no p under five of them.
    """
    value, n = a[0] - b[0], len(scene.place)
    firing = np.unique(scene.document[scene.fires], return_inverse=True)[1]
    mass = np.bincount(firing, scene.weight[scene.fires])
    if len(mass) < _MIN_DOCUMENTS:
        return Estimate(value, np.nan, np.nan, n), np.nan
    effective = max(kish(mass), _LEAST_EFFECTIVE)
    found = value + (a[1] - b[1] - value) * np.sqrt((effective + 1) / (effective - 1))
    low, high = np.percentile(found, [2.5, 97.5])
    p = (1 + (found <= _LEVEL).sum()) / (1 + len(found))
    return Estimate(value, float(min(low, value)), float(max(high, value)), n), float(p)
