"""The pool of experiments that all labels of one planted feature are examined with: what the adversarial score is tried on.

Every wrong label is a rival of the right one and proposes texts, of four kinds:

- `positive`: a fresh text on which the rival says that the feature fires;
- `boundary`: a fresh text on which it and the right label say different things;
- `minimal_off`: a firing window of `test` with one token replaced, so that one of the two goes silent and the other does not;
- `minimal_on`: a silent window with a noun phrase put into it, so that one of the two begins to fire and the other does not.

Noun phrases are those of the feature, of its near misses, and of the feature that the rival really describes. The
mechanical edits and random windows of agents/editor/editor.py come to them; they know no label. Outcomes are the planted truth.
A text in which the feature is weak is no experiment: weak is neither silent nor firing.

No language model writes here: what a model would propose may be better, or worse.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glossator.agents.editor.editor import Editor, Known
from glossator.agents.run import Run
from glossator.agents.validity.wrong_labels import TriedLabel
from glossator.config import EditorConfig
from glossator.harness.measurer import Measurer
from glossator.planted import Activation, planted_tokens
from glossator.planted_family import FILLERS, SLOTS, Planted, filled, sentence
from glossator.rows import ExperimentRow, MeasurementRow, Row
from glossator.scorers.validity import RIGHT
from glossator.types import WINDOW, FeatureRecord, Sample, Vocabulary

WANTED = {"positive": 1, "boundary": 3, "minimal_off": 2, "minimal_on": 2}  # of each rival
_TRIES = 60  # texts that are made to find one
_NEAR_PEAK = 5


@dataclass(frozen=True)
class Trial:
    """One experiment: its texts, which fire by majority."""

    kind: str
    texts: tuple[str, ...]
    fires: bool


def rivals_pool(
    made: Sequence[Planted],
    record: FeatureRecord,
    labels: Mapping[str, TriedLabel],
    vocabulary: Vocabulary,
    seed: int,
) -> list[Trial]:
    """The proposals of all labels of one feature, each text once."""
    one = made[record.feature.index]
    truth = one.feature.activation
    draw = random.Random(f"pool {seed} {one.feature.name}")
    firing, silent = _windows(record, vocabulary, draw)
    trials: dict[str, Trial] = {}
    for label in labels.values():
        if label.meaning is None:
            continue
        phrases = _phrases(made, one, label)
        sources = {
            "positive": lambda p=phrases: _fresh(draw, p),
            "boundary": lambda p=phrases: _fresh(draw, p),
            "minimal_off": lambda p=phrases: _replaced(draw, firing, truth, p),
            "minimal_on": lambda p=phrases: _inserted(draw, silent, p),
        }
        for kind, n in WANTED.items():
            if label.fault != RIGHT or kind == "positive":
                found = _found(sources[kind], kind, label.meaning, truth, trials)
                for _, text in zip(range(n), found, strict=False):
                    peak = max(truth(planted_tokens(text)), default=0.0)
                    if not 0 < peak < record.threshold:
                        trials[text] = Trial(kind, (text,), peak >= record.threshold)
    return list(trials.values())


def _found(
    source: Callable[[], tuple[list[str], list[str]] | None],
    kind: str,
    rival: Activation,
    right: Activation,
    known: Mapping[str, Trial],
) -> Iterator[str]:
    """Texts that serve the rival's purpose. A source gives what was there before the edit, and the text."""
    for _ in range(_TRIES):
        pair = source()
        if pair is None:
            return
        before, tokens = pair
        text = " ".join(tokens)
        if text in known:
            continue
        says, truly = any(rival(tokens)), any(right(tokens))
        if kind == "positive":
            useful = says
        elif kind == "boundary":
            useful = says != truly
        else:
            useful = says != truly and (any(rival(before)) != says or any(right(before)) != truly)
        if useful:
            yield text


def _phrases(made: Sequence[Planted], one: Planted, label: TriedLabel) -> list[str]:
    """What a rival has to say: of another feature's label its phrases, of an almost right one those of both neighbours."""
    if label.fault == RIGHT:
        return list(one.fires)
    if label.of is not None:
        other = made[label.of]
        return [*one.fires, *other.fires, *other.misses]
    beside = next(other for other in made if other.feature.name == one.feature.neighbour)
    return [*one.fires, *one.misses, *beside.fires, *beside.misses]


def _windows(
    record: FeatureRecord, vocabulary: Vocabulary, draw: random.Random
) -> tuple[list[list[str]], list[list[str]]]:
    """Tokens of firing windows of `test`, and of silent ones."""
    active, pool = record.exemplars["test"], record.background["test"]
    firing = np.flatnonzero(active.activations.max(1, initial=0) >= record.threshold).tolist()
    silent = np.flatnonzero(~(pool.activations > 0).any(1) & pool.windows.mask.all(1)).tolist()
    draw.shuffle(firing)
    return _spelled(active, firing[:20], vocabulary), _spelled(
        pool, draw.sample(silent, min(20, len(silent))), vocabulary
    )


def _spelled(sample: Sample, rows: Sequence[int], vocabulary: Vocabulary) -> list[list[str]]:
    shown = sample.windows.ids[:, sample.windows.scored]
    return [planted_tokens(vocabulary.join(shown[row].tolist())) for row in rows]


def _fresh(draw: random.Random, phrases: Sequence[str]) -> tuple[list[str], list[str]]:
    said = [sentence(draw, draw.choice(phrases)), *(filled(draw, draw.choice(FILLERS)) + " ." for _ in range(2))]
    draw.shuffle(said)
    return [], planted_tokens(" ".join(said))[:WINDOW]


def _replaced(
    draw: random.Random, windows: Sequence[list[str]], truth: Activation, phrases: Sequence[str]
) -> tuple[list[str], list[str]] | None:
    """One token near the peak is replaced by a word of the phrases, or by another word of its slot."""
    if not windows:
        return None
    tokens = list(draw.choice(windows))
    told = truth(tokens)
    peak = max(range(len(tokens)), key=told.__getitem__)
    at = draw.randrange(max(0, peak - _NEAR_PEAK), min(len(tokens), peak + _NEAR_PEAK))
    words = [word for word in filled(draw, draw.choice(phrases)).split() if word != tokens[at]]
    slot = next((list(slot) for slot in SLOTS.values() if tokens[at] in slot), [])
    new = draw.choice([*words, *slot])
    return tokens, [*tokens[:at], new, *tokens[at + 1 :]]


def _inserted(
    draw: random.Random, windows: Sequence[list[str]], phrases: Sequence[str]
) -> tuple[list[str], list[str]] | None:
    """A noun phrase in the place of as many tokens."""
    if not windows:
        return None
    tokens, new = list(draw.choice(windows)), filled(draw, draw.choice(phrases)).split()
    at = draw.randrange(0, max(1, len(tokens) - len(new)))
    return tokens, [*tokens[:at], *new, *tokens[at + len(new) :]]


# --------------------------------------------------------------------------- mechanical


class _Kept:
    """What the editor would write: its experiments and what came of them."""

    def __init__(self) -> None:
        self.experiments: dict[str, ExperimentRow] = {}
        self.peaks: dict[str, list[float]] = {}

    async def put(self, *rows: Row) -> None:
        for row in rows:
            if isinstance(row, ExperimentRow):
                self.experiments[row.experiment_id] = row
            elif isinstance(row, MeasurementRow):
                self.peaks.setdefault(row.experiment_id, []).append(row.max_activation)


async def mechanical_pools(run: Run, records: Sequence[FeatureRecord], config: EditorConfig) -> list[list[Trial]]:
    """The label-blind edits of each feature."""
    subject, dictionary = run.model()
    kept = [_Kept() for _ in records]
    async with Measurer(subject, dictionary) as measurer:
        editors = [
            Editor(
                run.lexicon.vocabulary, run.neighbours, measurer, writes, config, causal=subject.causal, run_id=""
            )
            for writes in kept
        ]  # fmt: skip
        await asyncio.gather(
            *(editor.probe(record, [], Known()) for editor, record in zip(editors, records, strict=True))
        )
    return [_trials(one, record.threshold) for one, record in zip(kept, records, strict=True)]


def _trials(kept: _Kept, threshold: float) -> list[Trial]:
    found = []
    for experiment_id, row in sorted(kept.experiments.items()):
        peaks = np.asarray(kept.peaks[experiment_id])
        if not ((peaks > 0) & (peaks < threshold)).any():
            found.append(Trial(row.kind, tuple(row.texts), float((peaks >= threshold).mean()) > 0.5))
    return found
