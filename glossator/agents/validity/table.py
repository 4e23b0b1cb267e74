"""Can the scores fail? Right and wrong labels of planted features, scored as scores are made, on the split `test`.

Each label is scored twice: executed to the letter (`rule`), which shows what the windows of a score can show, and read by a
language model, or by the double `OracleLLM`, which errs at a set rate. A constant answer stands beside: it says the same of
every window and token.

Not tried: `simulation_near`, which has no value for a label without false alarms, such as the right one; precision and F1,
which have only bounds for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from glossator.agents.editor.editor import p_majority
from glossator.agents.pool import in_progress
from glossator.agents.scoring.scenes import METRICS as SCENE_METRICS
from glossator.agents.scoring.scenes import AnyScene, answer, measured, simulated
from glossator.agents.validity.ground import SPLIT, Ground, Tried
from glossator.agents.validity.wrong_labels import Executed, TriedLabel
from glossator.config import EmbeddingConfig
from glossator.errors import ReplyError
from glossator.prompts import detect, fuzz, simulate
from glossator.prompts.reading import Question
from glossator.scorers import embedding
from glossator.scorers.adversarial import Outcome, adversarial
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.discrimination import DiscriminationScene, discrimination_scene
from glossator.scorers.fuzzing import FuzzingScene
from glossator.scorers.rates import against_near, census, draw, rates
from glossator.scorers.reading import LLMPredictor
from glossator.scorers.simulation import Scene, scene
from glossator.types import WINDOW, Floats, Windows

ADVERSARIAL = "adversarial"
METRICS = {**SCENE_METRICS, ADVERSARIAL: (ADVERSARIAL,)}
SCORERS = tuple(METRICS)
_RULE = ("simulation", "simulation_within", "simulation_literature", "detection", "detection_near", "brier_skill",
         *METRICS["discrimination"], ADVERSARIAL)  # fmt: skip
_DRAWS = 2  # values alone are compared here; how sure they are is said over features
_SURE = 0.98  # p(fires) of a label that is executed to the letter
_LETTERS_A_TOKEN = 4

Embeds = Callable[[Sequence[str]], Floats]  # texts -> rows of length 1


@dataclass
class Found:
    """values[metric]: for each feature, in order, what its labels got, by fault. failed: readings without a usable answer."""

    reader: str
    values: dict[str, list[dict[str, float]]]
    failed: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, reader: str, metrics: Sequence[str], n: int) -> Found:
        return cls(reader, {metric: [{} for _ in range(n)] for metric in metrics})

    def put(self, at: int, fault: str, got: Mapping[str, Measured]) -> None:
        for metric, one in got.items():
            self.values[metric][at][fault] = one.estimate.value


# --------------------------------------------------------------------------- to the letter


def executed(ground: Ground) -> Found:
    """What each score makes of labels that are done to the letter: on all windows of the split, as rules are scored."""
    found = Found.of("rule", _RULE, len(ground.tried))
    reader = Executed(ground.run.lexicon.vocabulary, ground.run.behind[SPLIT].windows)
    for at, tried in enumerate(ground.tried):
        for fault, label in [*tried.labels.items(), ("constant", None)]:
            found.put(at, fault, _by_rule(ground, tried, reader, label))
        ground.run.progress("rule", at + 1, len(ground.tried))
    return found


def _by_rule(ground: Ground, tried: Tried, reader: Executed, label: TriedLabel | None) -> dict[str, Measured]:
    """label None: the constant answer."""

    def strengths(windows: Windows) -> Floats:
        return np.full((len(windows), WINDOW), 5.0) if label is None else reader.strengths(label, windows)

    def fires(windows: Windows) -> Floats:
        return np.full(len(windows), 0.5) if label is None else reader.fires(label, windows)

    record = tried.record
    whole = scene(record, SPLIT)
    found = simulated(whole, strengths(whole.windows), record.threshold, _DRAWS, 0)
    active, background = record.exemplars[SPLIT], record.background[SPLIT]
    seen = census(active, background, record.threshold)
    off = np.asarray(~(background.activations > 0).any(1))
    behind = np.full(len(off), 0.5) if label is None else reader.fires_in_background(label)
    drawn = draw(seen.sample.windows.document, _DRAWS, 0)
    over = rates(np.concatenate([fires(active.windows), behind[off]]), seen, drawn, ("auroc", "brier_skill"))
    found |= {"detection": over["auroc"], "brier_skill": over["brier_skill"], "detection_near": missing("no near miss")}
    if (near := record.near_misses.get(SPLIT)) is not None and len(near.windows):
        hard = against_near(active, near, record.threshold)
        drawn = draw(hard.sample.windows.document, _DRAWS, 0)
        found["detection_near"] = rates(fires(hard.sample.windows), hard, drawn, ("auroc",))["auroc"]
    apart = discrimination_scene(record, SPLIT, ground.run.neighbours_fire(record, SPLIT))
    if isinstance(apart, DiscriminationScene):
        found |= measured(apart, fires(apart.windows), record.threshold, _DRAWS, 0)
    return found | {ADVERSARIAL: _adversarial(ground, tried, np.clip(fires(tried.texts), 1 - _SURE, _SURE))}


# --------------------------------------------------------------------------- as a model reads


async def read(ground: Ground, predictor: LLMPredictor, scorers: Sequence[str], in_hand: int) -> Found:
    """What each score makes of labels that a model reads. A reading that failed has no value, and is counted.

    Raises ProviderError and Stopped.
    """
    metrics = [metric for scorer in scorers for metric in METRICS[scorer]]
    found = Found.of(predictor.predictor, metrics, len(ground.tried))

    async def one(at: int) -> None:
        tried = ground.tried[at]
        places = [(fault, label, s) for fault, label in tried.labels.items() for s in scorers if _windows(tried, s)]
        told = await asyncio.gather(
            *(_ask(predictor, tried, scorer, label.text) for _, label, scorer in places), return_exceptions=True
        )
        for (fault, _, scorer), said in zip(places, told, strict=True):
            if isinstance(said, ReplyError):
                found.failed[type(said).__name__] += 1
            elif isinstance(said, BaseException):
                raise said
            else:
                found.put(at, fault, _scored(ground, tried, scorer, said))
        for scorer in scorers:
            if windows := _windows(tried, scorer):
                shape = (len(windows), WINDOW) if scorer == "simulation" else (len(windows),)
                found.put(at, "constant", _scored(ground, tried, scorer, np.full(shape, 0.5)))

    n = len(ground.tried)
    await in_progress(
        iter(range(n)), n, in_hand, one, lambda done, total: ground.run.progress("read labels", done, total)
    )
    return found


def _windows(tried: Tried, scorer: str) -> Windows | None:
    """What a scorer shows; None where there is nothing to show."""
    if scorer == ADVERSARIAL:
        return tried.texts
    shown = tried.scenes[scorer]
    return None if isinstance(shown, str) else shown.windows


def _scene(tried: Tried, scorer: str) -> AnyScene:
    shown = tried.scenes[scorer]
    if isinstance(shown, str):
        raise ValueError(f"{tried.record.feature}, {scorer}: {shown}")
    return shown


async def _ask(predictor: LLMPredictor, tried: Tried, scorer: str, label: str) -> Floats:
    about = str(tried.record.feature)
    if scorer == ADVERSARIAL:
        return await predictor.fires(label, tried.texts, about)
    return await answer(predictor, _scene(tried, scorer), label, about, 1)


def _scored(ground: Ground, tried: Tried, scorer: str, told: Floats) -> dict[str, Measured]:
    if scorer == ADVERSARIAL:
        return {ADVERSARIAL: _adversarial(ground, tried, told)}
    return measured(_scene(tried, scorer), told, tried.record.threshold, _DRAWS, 0)


def _adversarial(ground: Ground, tried: Tried, p: Floats) -> Measured:
    """p [texts of the pool, in order]. An experiment of several texts fires if most of them do."""
    outcomes, begin = [], 0
    for trial in tried.pool:
        end = begin + len(trial.texts)
        told = float(p[begin]) if end - begin == 1 else p_majority(p[begin:end].tolist())
        outcomes.append(Outcome(tried.record.feature.index, trial.kind, told, trial.fires))
        begin = end
    return Measured(adversarial(outcomes, ground.base))


# --------------------------------------------------------------------------- as a sentence encoder sees them


def embedded(ground: Ground, embeds: Embeds) -> Found:
    """What `embedding` makes of labels. An empty label has no value; a constant is equally near to all windows."""
    found = Found.of("embedding", embedding.METRICS, len(ground.tried))
    config, vocabulary = EmbeddingConfig(), ground.run.lexicon.vocabulary
    pool = embedding.pool_of(ground.run.behind[SPLIT].windows, config.background)

    def read(windows: Windows) -> Floats:
        return embeds([vocabulary.join(ids.tolist()) for ids in windows.ids[:, windows.scored]])

    labels = sorted({label.text for tried in ground.tried for label in tried.labels.values() if label.text})
    near = dict(zip(labels, embeds(labels), strict=True))
    behind = read(pool.windows)
    for at, tried in enumerate(ground.tried):
        ground.run.progress("embedding", at + 1, len(ground.tried))
        shown = embedding.embedding_scene(tried.record, SPLIT, pool, config)
        if isinstance(shown, str):
            continue
        extra = read(shown.extra.windows) if len(shown.extra.windows) else behind[:0]
        rows = np.concatenate([behind, extra])[shown.place]
        drawn = draw(shown.document, _DRAWS, 0)
        found.put(at, "constant", embedding.embedding(shown, np.zeros(len(rows)), drawn))
        for fault, label in tried.labels.items():
            if label.text:
                found.put(at, fault, embedding.embedding(shown, rows @ near[label.text], drawn))
    return found


# --------------------------------------------------------------------------- what it costs


@dataclass(frozen=True)
class Size:
    """Questions, and tokens in and out, about."""

    questions: int
    tokens_in: int
    tokens_out: int


def size(ground: Ground, scorers: Sequence[str]) -> Size:
    """Of all that `read` will ask."""
    n = given = said = 0
    for question, each in _questions(ground, scorers):
        n, said = n + 1, said + each * len(question.rows)
        given += sum(len(message.text) for message in question.request.messages) // _LETTERS_A_TOKEN
    return Size(n, given, said)


def _questions(ground: Ground, scorers: Sequence[str]) -> Iterator[tuple[Question, int]]:
    """Each with the tokens that its answer needs for a window."""
    vocabulary, config = ground.run.lexicon.vocabulary, ground.config
    for tried in ground.tried:
        for text in (label.text for label in tried.labels.values()):
            for scorer in scorers:
                if (windows := _windows(tried, scorer)) is None:
                    continue
                shown = None if scorer == ADVERSARIAL else _scene(tried, scorer)
                if isinstance(shown, Scene):
                    task, found = simulate.TASK, simulate.render(text, windows, vocabulary, config)
                elif isinstance(shown, FuzzingScene):
                    task, found = fuzz.TASK, fuzz.render(text, windows, shown.marked, vocabulary, config)
                else:
                    task, found = detect.TASK, detect.render(text, windows, vocabulary, config)
                yield from ((question, task.answer_tokens) for question in found)
