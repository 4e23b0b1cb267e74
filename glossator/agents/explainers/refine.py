"""The explainer `refine`: a draft, counterexamples to it, a new sentence; which replaces the old one if it is better on `select`.

In each round a reader of the draft predicts other windows of `explain`, firing, silent and near misses, and texts of the
editor's pool if there is one that was made before the label was frozen. Where it is wrong, the writer is shown what was
predicted and what was measured. The new sentence is read on `select`; a tie keeps the old one. Nothing of `test` is shown
to anybody, and of `select` the writer sees at most what the editor made of it, which the explanation then says.

Rounds end when nothing could be better. A round whose questions fail is lost, and written down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glossator.agents.explainers.claims import PERFECT, Candidate, Claim, Found, Material, ask, read, unread
from glossator.agents.run import Run
from glossator.config import LLMScoreConfig, RefineConfig
from glossator.errors import ReplyError
from glossator.llm.base import LLM
from glossator.prompts import refine as prompt
from glossator.prompts.windows import chosen
from glossator.scorers.reading import LLMPredictor, few
from glossator.types import PAD, WINDOW, Bools, FeatureRecord, Floats, Ints, Request, Sample, Vocabulary, Windows


@dataclass(frozen=True)
class Looked:
    """Texts on which a draft is tried in one round, with what was measured. fires [n]; the others are silent throughout."""

    sample: Sample
    fires: Bools
    exposure: str | None = None  # where some are of another split than explain
    told: Floats | None = None  # [n] p(fires) that a reader of the draft said already


@dataclass(frozen=True)
class Ground:
    """All that `refine` needs to know of a feature. draft: the question, or what is known already. scale: shown as 10."""

    draft: Request | Claim
    on: Material
    scale: float
    rounds: tuple[Looked, ...]


async def refine(
    ground: Ground, writer: LLM, reader: LLMPredictor, vocabulary: Vocabulary, config: RefineConfig
) -> Found:
    """Raises ReplyError where there is no draft, and whatever ends the run."""
    on = ground.on
    draft = ground.draft if isinstance(ground.draft, Claim) else await ask(writer, ground.draft)
    failures: list[tuple[str, Exception]] = []
    try:
        best = await read(reader, draft, on)
    except ReplyError as error:
        best = unread(draft, on)
        failures.append(("reading the draft", error))
    if best.value is None or draft.text is None:
        return Found(best, _unrefined(best, on), (best,), tuple(failures))
    text, value = draft.text, best.value
    tried, steps, exposure = [best], [f"draft {value:.3f}"], None
    for number, looked in enumerate(ground.rounds, 1):
        if value >= PERFECT:
            break
        try:
            question = await counterexamples(text, [looked], ground, reader, vocabulary, config)
            if question is None:
                steps.append(f"round {number}: nothing contradicts it")
                continue
            exposure = exposure or looked.exposure
            new = await read(reader, await ask(writer, question), on)
        except ReplyError as error:
            failures.append((f"round {number}", error))
            steps.append(f"round {number} failed")
            continue
        tried.append(new)
        if new.claim.text is None or new.value is None:
            steps.append(f"round {number}: {'abstained' if new.claim.text is None else 'no value'}")
            continue
        steps.append(f"round {number}: {new.value:.3f}{' (taken)' * (new.value > value)}")
        if new.value > value:
            best, text, value = new, new.claim.text, new.value
    return Found(best, f"{on.by} on select: {', '.join(steps)}", tuple(tried), tuple(failures), exposure)


async def counterexamples(
    text: str,
    looked: Sequence[Looked],
    ground: Ground,
    reader: LLMPredictor,
    vocabulary: Vocabulary,
    config: RefineConfig,
) -> Request | None:
    """The question that shows a sentence and where it is wrong; None where nothing contradicts it. Raises as `LLMPredictor`."""
    about = str(ground.on.feature)
    told = [one.told if one.told is not None else await reader.fires(text, one.sample.windows, about) for one in looked]
    sample = looked[0].sample if len(looked) == 1 else _joined([one.sample for one in looked])
    seen = (sample, np.concatenate([one.fires for one in looked]), np.concatenate(told))
    return prompt.render(text, seen, ground.scale, vocabulary, config, about)


def _unrefined(draft: Candidate, on: Material) -> str | None:
    if draft.claim.text is None:
        return "the draft is an abstention"
    return f"the draft, unread: {on.scene}" if isinstance(on.scene, str) else "the draft: it has no value on select"


def ground(
    record: FeatureRecord,
    draft: Request | Claim,
    on: Material,
    config: RefineConfig,
    experiments: Sequence[Looked] = (),
) -> Ground:
    """experiments: of one text each; every round gets others."""
    scale = float(record.exemplars["explain"].activations.max())
    if isinstance(on.scene, str):
        return Ground(draft, on, scale, ())
    rounds = []
    for number in range(config.rounds):
        few_of_them = experiments[number :: config.rounds][: config.experiments]
        parts = [*_windows(record, config, number), *few_of_them]
        exposure = next((part.exposure for part in parts if part.exposure), None)
        fires = np.concatenate([part.fires for part in parts])
        rounds.append(Looked(_joined([part.sample for part in parts]), fires, exposure))
    return Ground(draft, on, scale, tuple(rounds))


def _windows(record: FeatureRecord, config: RefineConfig, number: int) -> list[Looked]:
    """Windows of `explain`: firing ones that the draft's writer was not shown, if there are enough; silent ones; near misses."""
    looking: LLMScoreConfig = config.looking
    active, seed = record.exemplars["explain"], looking.seed + number
    firing = np.flatnonzero(active.activations.max(1, initial=0) >= record.threshold)
    shown = np.concatenate(chosen(active, config.draft.strongest, config.draft.over_range))
    fresh = np.setdiff1d(firing, shown)
    behind = record.background["explain"]
    silent = few(behind.take(np.flatnonzero(~(behind.activations > 0).any(1))), looking.silent, seed)
    found = [few(active.take(fresh if len(fresh) >= looking.firing else firing), looking.firing, seed), silent]
    near = record.near_misses.get("explain")
    if near is not None and looking.near:
        new = ~np.isin(near.windows.window_id, silent.windows.window_id) & ~(near.activations > 0).any(1)
        found.append(few(near.take(new), looking.near, seed))
    return [Looked(part, np.full(len(part.windows), number_ == 0)) for number_, part in enumerate(found)]


def experiments_of(run: Run, record: FeatureRecord) -> list[Looked]:
    """What the editor measured on texts from `explain` and `select`: of each experiment one carrier that did what most did.

    Weak activations are neither firing nor silence, and are left out, like texts whose tokens are not known.
    """
    rows = run.store.sql(
        "WITH each AS (SELECT *, avg(fires::INT) OVER (PARTITION BY experiment_id) > 0.5 AS most FROM measurement "
        "WHERE dictionary = ? AND feature = ?) "
        "SELECT arg_min(m.tokens, m.carrier), arg_min(m.activations, m.carrier), any_value(e.split) FROM each m "
        "JOIN experiment e USING (experiment_id) WHERE m.fires = m.most AND e.split IN ('explain', 'select') "
        "GROUP BY experiment_id ORDER BY experiment_id",
        [record.feature.dictionary, record.feature.index],
    )
    found = [measured_text(record, tokens, values, split, run.lexicon.vocabulary) for tokens, values, split in rows]
    return [one for one in found if one is not None]


def measured_text(
    record: FeatureRecord, tokens: Sequence[str], activations: Sequence[float], split: str, vocabulary: Vocabulary
) -> Looked | None:
    """One text that was measured, made of text of `split`; None where it is weak, or its tokens are not known."""
    ids = [vocabulary.find(token) for token in tokens[:WINDOW]]
    values = np.asarray(activations[:WINDOW], np.float32)
    fires = bool(values.max(initial=0) >= record.threshold)
    if None in ids or not ids or not (fires or not (values > 0).any()):
        return None
    sample = _as_sample(np.asarray(ids), values, record.exemplars["explain"].windows)
    return Looked(sample, np.asarray([fires]), None if split == "explain" else f"explain, {split}")


def _as_sample(tokens: Ints, values: Ints, like: Windows) -> Sample:
    """One text as a window with nothing beside it, as wide as others."""
    ids = np.full((1, like.ids.shape[1]), PAD, like.ids.dtype)
    ids[0, like.start : like.start + len(tokens)] = tokens
    activations = np.zeros((1, WINDOW), np.float32)
    activations[0, : len(values)] = values
    windows = Windows(ids, np.full(1, -1, np.int32), like.start, np.full(1, -1, np.int64))
    return Sample(windows, activations, np.full(1, "experiment"), np.zeros(1))


def _joined(parts: Sequence[Sample]) -> Sample:
    windows = [part.windows for part in parts]
    return Sample(
        Windows(
            np.concatenate([w.ids for w in windows]), np.concatenate([w.document for w in windows]), windows[0].start,
            np.concatenate([w.window_id for w in windows]),
        ),
        np.concatenate([part.activations for part in parts]),
        np.concatenate([part.stratum for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )  # fmt: skip
