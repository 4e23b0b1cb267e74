"""What one scorer shows a model of one feature, how the model is asked about it, and what an answer is worth.

A scene is drawn once for a feature and split, so all labels of it, and the labels of others that it is compared with, are
read on the same windows. An answer is one array: strengths [n, WINDOW] for `simulation`, a probability for each window else.

Of each scorer the first of its metrics is the main one: comparisons and repeats are of that one alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from glossator.agents.run import Run
from glossator.config import LLMScoreConfig
from glossator.prompts import detect, fuzz, simulate
from glossator.scorers import detection, discrimination, fuzzing
from glossator.scorers.bounds import Measured
from glossator.scorers.estimators import pearson, pearson_of
from glossator.scorers.paired import auroc, paired_auroc, paired_simulation
from glossator.scorers.reading import LLMPredictor, few
from glossator.scorers.rule import Rule
from glossator.scorers.simulation import Scene, draws_for, literature, scene, sums_of, within
from glossator.types import MAX_STRENGTH, Bools, Estimate, FeatureRecord, Floats, Ints, Split

METRICS: dict[str, tuple[str, ...]] = {
    "simulation": ("simulation", "simulation_within", "simulation_literature"),
    "detection": detection.METRICS,
    "fuzzing": fuzzing.METRICS,
    "discrimination": discrimination.METRICS,
}
SCORERS = tuple(METRICS)
CHANCE = {
    scorer: 0.0 if scorer == "simulation" else 0.5 for scorer in SCORERS
}  # of the main metric, for a constant answer
PROMPTS = {
    "simulation": simulate.prompt,
    "detection": detect.prompt,
    "fuzzing": fuzz.prompt,
    "discrimination": detect.prompt,
}
AnyScene = Scene | detection.DetectionScene | fuzzing.FuzzingScene | discrimination.DiscriminationScene
Answer = Ints | Floats


def seed_of(config: LLMScoreConfig, feature: int) -> int:
    """Of a feature's resamples of documents: the same for all that is compared on its windows."""
    return config.seed * 1_000_003 + feature


def scene_of(run: Run, record: FeatureRecord, scorer: str, split: Split, config: LLMScoreConfig) -> AnyScene | str:
    """Or why there is none."""
    if scorer == "detection":
        return detection.detection_scene(record, split, config)
    if scorer == "discrimination":
        return discrimination.discrimination_scene(record, split, run.neighbours_fire(record, split), config)
    if scorer == "fuzzing":
        return fuzzing.fuzzing_scene(record, split, run.lexicon.vocabulary, run.counts, config)
    return simulated_scene(record, split, config)


async def answer(ask: LLMPredictor, shown: AnyScene, text: str, about: str, tries: int) -> Answer:
    """What the model says of the scene's windows when it has read `text`. Raises as `LLMPredictor`."""
    if isinstance(shown, Scene):
        return await ask.strengths(text, shown.windows, about, tries)
    if isinstance(shown, fuzzing.FuzzingScene):
        return await ask.marks_are_right(text, shown.windows, shown.marked, about, tries)
    return await ask.fires(text, shown.windows, about, tries)


def executed(shown: AnyScene, rule: Rule) -> Answer:
    """What a rule says of them: a window is as likely to fire as its strongest token is strong; marks, as the mean of theirs."""
    told = rule.strengths(shown.windows)
    if isinstance(shown, Scene):
        return told
    if isinstance(shown, fuzzing.FuzzingScene):
        return np.asarray((told * shown.marked).sum(1) / np.maximum(shown.marked.sum(1), 1) / MAX_STRENGTH)
    return np.asarray(told.max(1, initial=0) / MAX_STRENGTH)


def measured(shown: AnyScene, told: Answer, threshold: float, draws: int, seed: int) -> dict[str, Measured]:
    """All metrics of an answer, with intervals."""
    if isinstance(shown, detection.DetectionScene):
        return detection.detection(shown, told, draws, seed)
    if isinstance(shown, discrimination.DiscriminationScene):
        return discrimination.discrimination(shown, told, draws, seed)
    if isinstance(shown, fuzzing.FuzzingScene):
        return fuzzing.fuzzing(shown, told, draws, seed)
    return simulated(shown, told, threshold, draws, seed)


def value_of(shown: AnyScene, told: Answer) -> float:
    """The main metric alone; NaN where it cannot be computed."""
    if isinstance(shown, Scene):
        return float(pearson_of(sums_of(shown, told).sum(0)))
    kept, fires, weight, _ = _ranked(shown)
    return auroc(np.asarray(told)[kept], fires, weight)


def difference(shown: AnyScene, a: Answer, b: Answer, draws: int, seed: int) -> tuple[Estimate, float]:
    """The main metric of `a` less that of `b` on the same resamples of documents, and the one-sided p of "a is not better"."""
    if isinstance(shown, Scene):
        return paired_simulation(shown, a, b, draws, seed)
    kept, fires, weight, document = _ranked(shown)
    return paired_auroc(np.asarray(a)[kept], np.asarray(b)[kept], fires, weight, document, draws, seed)


def _ranked(
    shown: detection.DetectionScene | discrimination.DiscriminationScene | fuzzing.FuzzingScene,
) -> tuple[Bools, Bools, Floats, Ints]:
    """Which windows the main metric ranks; of those: which are to be above the others, weights, documents."""
    right = shown.right if isinstance(shown, fuzzing.FuzzingScene) else shown.fires
    kept = np.ones(len(right), bool) if isinstance(shown, fuzzing.FuzzingScene) else ~shown.near
    return kept, right[kept], shown.weight[kept], shown.windows.document[kept]


# --------------------------------------------------------------------------- simulation


def simulated_scene(record: FeatureRecord, split: Split, config: LLMScoreConfig) -> Scene | str:
    """The windows on which labels are simulated, or why there are none: those of a rule, thinned out."""
    if split not in record.exemplars or not len(record.exemplars[split].windows):
        return f"never active in the split {split}"
    whole = scene(record, split)
    behind = few(whole.background, config.background, config.seed)
    return Scene(few(whole.active, config.active, config.seed), behind, behind)


def simulated(shown: Scene, told: Any, threshold: float, draws: int, seed: int) -> dict[str, Measured]:
    """told [n, WINDOW]: strengths on the windows of the scene."""
    times = draws_for(shown, draws, seed)
    found: dict[str, Estimate] = {
        "simulation": pearson(sums_of(shown, told), times, len(shown.windows)),
        "simulation_within": within(shown, told, threshold, draws, seed),
        "simulation_literature": literature(shown, told, draws, seed),
    }
    lacking = {
        "simulation": "the activation does not vary",
        "simulation_within": "no firing window",
        "simulation_literature": "no top window whose activation varies",
    }
    return {m: Measured(e, lacking[m] if np.isnan(e.value) else None) for m, e in found.items()}
