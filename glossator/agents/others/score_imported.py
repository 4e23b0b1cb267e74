"""Labels that others wrote, taken into a run file, and read by a model as the run's own labels are.

A set is stored in one transaction, and takes the place of an earlier set of its name: what the file no longer holds goes,
with its scores. Ids of explanations come from content, so a label that is still there keeps what was paid for it, and a
file that has not changed changes nothing. What a model has answered stays in the log whatever goes: a set that comes back
is scored for nothing.

Every set is a stage of its own for each scorer and predictor (`score:detection:llm:NAME:imported:theirs`), so that its
failures are not taken for those of the run's labels. It never becomes the run's label, and it is never run as a rule.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from glossator.agents.asking import ask
from glossator.agents.others.compare_sets import compare_sets
from glossator.agents.others.imported import Imported, extents
from glossator.agents.others.imported import read_labels as read_file
from glossator.agents.others.label_files import clean
from glossator.agents.run import Run
from glossator.agents.scoring.read_labels import Tally, Wanted, read_labels
from glossator.agents.scoring.scenes import METRICS
from glossator.agents.scoring.score_embedding import PREDICTOR, STAGE, check_encoder, left_to_embed, score_embedding
from glossator.agents.scoring.score_llm import account, left_to_read, put_prompts
from glossator.agents.scoring.vectors import Encoder
from glossator.config import CompareConfig, EmbeddingConfig, ImportConfig, LLMConfig, LLMScoreConfig
from glossator.errors import UsageError
from glossator.llm.base import LLM
from glossator.rows import ExplanationRow
from glossator.scorers.embedding import METRICS as EMBEDDED
from glossator.scorers.reading import LLMPredictor
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import Explanation, Floats

EXPOSURE = "unknown"
_OF_LABELS = ("score", "null_score", "repeat_score")  # tables whose rows go with an explanation
_IN = "IN (SELECT unnest(?::VARCHAR[]))"
_NONE = "{}  these files label none of its features"


@dataclass(frozen=True)
class LabelFiles:
    """Files of labels, all of them read before anything is stored. against: other sets that alone they are compared with."""

    files: tuple[Imported, ...]
    dictionaries: tuple[str, ...]
    against: tuple[str, ...] = ()

    @property
    def explanations(self) -> list[Explanation]:
        return [one for file in self.files for one in file.explanations]

    @property
    def explainers(self) -> list[str]:
        return sorted({one.explainer for file in self.files for one in file.sets})

    def sets(self, dictionary: str) -> list[str]:
        """The explainers that have labelled features of it."""
        found = {one.explainer for file in self.files for one in file.sets if one.dictionary == dictionary}
        return sorted(found)


def read_files(store: Store, paths: Sequence[Path], only: str | None = None, against: Sequence[str] = ()) -> LabelFiles:
    """only: the one dictionary that they may be about. Raises UsageError, and has stored nothing then."""
    known = extents(store, only)
    files: list[Imported] = []
    of: dict[str, Path] = {}
    for path in paths:
        files.append(read_file(path, known))
        for name in {one.explainer for one in files[-1].sets}:
            if name in of:
                way_out = "name it once" if of[name].resolve() == path.resolve() else "rename one of the two"
                raise UsageError(f"--labels {path}: its labels are called {name}, as those of {of[name]}; {way_out}")
            of[name] = path
    stored = store.sql("SELECT DISTINCT explainer FROM explanation WHERE text IS NOT NULL ORDER BY explainer")
    others = sorted({*of, *(name for (name,) in stored)})
    if unknown := [name for name in against if name.split(" by ")[0] not in others]:
        raise UsageError(f"--against {unknown[0]}: there is no such label set; there are {', '.join(others)}")
    return LabelFiles(tuple(files), tuple(known), tuple(against))


def store_labels(run: Run, given: LabelFiles) -> str:
    """All of the files, in one transaction. Returns what came in, in words; nothing is written where nothing is new."""
    chosen = [given.explainers, list(given.dictionaries)]
    rows = run.store.sql(
        f"SELECT explanation_id, model, explainer FROM explanation WHERE explainer {_IN} AND dictionary {_IN}", chosen
    )
    known = {identity: model for identity, model, _ in rows}
    wanted = {one.explanation_id: one for one in given.explanations}
    gone = sorted(known.keys() - wanted.keys())
    amended = [i for i, one in wanted.items() if i in known and known[i] != one.model]
    fresh = [i for i in wanted if i not in known]
    touched = sorted({wanted[i].explainer for i in fresh} | {who for i, _, who in rows if i not in wanted})
    said = [file.said for file in given.files]
    if gone:
        said.append(
            f"{len(gone):,} labels of an earlier import are in these files no longer: removed, with their scores"
        )
    if kept := len(wanted) - len(fresh):
        said.append(f"{kept:,} labels were here already, and keep their scores")

    def forget(connection: Any) -> None:
        for table in ("stage", "failure"):  # what came of reading labels that are gone
            connection.execute(
                f"DELETE FROM {table} t WHERE EXISTS (SELECT 1 FROM explanation e WHERE e.explanation_id {_IN} "
                "AND e.dictionary = t.dictionary AND e.feature = t.feature AND ends_with(t.stage, ':' || e.explainer))",
                [gone],
            )
        connection.execute(f"DELETE FROM explanation WHERE explanation_id {_IN}", [gone + amended])
        for table in _OF_LABELS:
            connection.execute(f"DELETE FROM {table} WHERE explanation_id {_IN}", [gone])
        connection.execute(
            f"DELETE FROM set_comparison WHERE (a {_IN} OR b {_IN}) AND dictionary {_IN}", [touched, touched, chosen[1]]
        )

    if gone or amended or fresh:
        with run.stage("import", ImportConfig(files=tuple(clean(file.path.name) for file in given.files))) as run_id:
            new = [_row(wanted[i], run_id) for i in (*fresh, *amended)]
            run.store.replace_now(forget, new)
    return "\n".join(said)


def _row(one: Explanation, run_id: str) -> ExplanationRow:
    """Without a program: what came from a file is text."""
    return ExplanationRow(
        one.explanation_id, one.dictionary, one.feature, one.explainer, one.model, one.text, None, False, one.reason, run_id,
        exposure=EXPOSURE,
    )  # fmt: skip


def by_llm(
    run: Run,
    given: LabelFiles,
    spec: str,
    llm: LLMConfig,
    config: LLMScoreConfig,
    scorers: Sequence[str],
    features: Sequence[int] | None = None,
    *,
    retry_failed: bool = False,
) -> str:
    """Store the labels, have a model read them, compare the sets with all that it has read before. Returns what came of it, in words.

    Raises as `agents/asking.py`; what is compared then is what the next run finds.
    """
    run.chosen(features, "score")  # no such feature: said before anything is stored
    if not given.sets(run.dictionary):
        return _NONE.format(run.dictionary)
    tally: Tally = Counter()
    readers: list[str] = []

    async def work(model: LLM, in_hand: int) -> None:
        run.say(store_labels(run, given))
        predictor = LLMPredictor(model, run.lexicon.vocabulary, config)
        readers.append(predictor.predictor)
        await read_sets(
            run, predictor, given, Wanted(scorers, features, retry_failed=retry_failed), llm, in_hand, tally
        )

    said = ask(run, spec, llm, work, tally, lambda session: account(run, tally, spec, session))
    metrics = [metric for scorer in scorers for metric in METRICS[scorer]]
    return "\n".join([said, *_compared(run, given, readers[0], metrics)])


async def read_sets(
    run: Run, predictor: LLMPredictor, given: LabelFiles, wanted: Wanted, llm: LLMConfig, in_hand: int, tally: Tally
) -> None:
    """All sets at once, so that a batch holds the questions of all. tally: (scorer and set, what came of it).

    A set's null comparisons are with labels of other features out of the same set. Raises as `read_labels`.
    """
    names = given.sets(run.dictionary)
    tallies: dict[str, Tally] = {name: Counter() for name in names}
    if any(left_to_read(run, predictor.predictor, wanted.scorers, wanted.features, explainer=name) for name in names):
        await put_prompts(run, wanted.scorers)  # else each set would
    share = max(1, in_hand // max(len(names), 1))
    work = (read_labels(run, predictor, replace(wanted, explainer=name), llm, share, tallies[name]) for name in names)
    try:
        found = await asyncio.gather(*work, return_exceptions=True)
    finally:
        for name, mine in tallies.items():
            tally.update({(f"{scorer} of {name}", kind): n for (scorer, kind), n in mine.items()})
    if over := [error for error in found if isinstance(error, BaseException)]:
        raise over[0]


def by_embedding(
    run: Run, given: LabelFiles, encoder: Encoder, config: EmbeddingConfig, features: Sequence[int] | None = None
) -> str:
    """The same with a sentence encoder. Raises UsageError where the run's labels have scores by another one."""
    run.chosen(features, "score")
    if not (names := given.sets(run.dictionary)):
        return _NONE.format(run.dictionary)
    check_encoder(run, encoder.name)
    run.say(store_labels(run, given))
    said, encoder = [], _Remembering(encoder, config.cached)
    for name in names:
        if not (todo := left_to_embed(run, encoder.name, features, explainer=name)):
            said.append(f"{run.dictionary}  no label of {name} was left for {encoder.name} to read")
            continue
        with run.stage(STAGE, config) as run_id:
            said.append(score_embedding(run, encoder, todo, config, run_id, explainer=name))
    materialise_labels(run.store)
    return "\n".join([*said, *_compared(run, given, PREDICTOR, EMBEDDED)])


class _Remembering:
    """An encoder that is asked once for what several sets are read on. room: how many texts it remembers, the first ones."""

    def __init__(self, encoder: Encoder, room: int) -> None:
        self._encoder, self._room = encoder, room
        self._known: dict[str, Floats] = {}

    @property
    def name(self) -> str:
        return self._encoder.name

    def has_weights(self, stored: str) -> bool:
        return self._encoder.has_weights(stored)

    def __call__(self, texts: Sequence[str]) -> Floats:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = dict(zip(new, self._encoder(new), strict=True)) if new else {}
        for text in new[: max(0, self._room - len(self._known))]:
            self._known[text] = found[text]
        vectors = [found[text] if text in found else self._known[text] for text in texts]
        return np.stack(vectors) if vectors else self._encoder([])


def _compared(run: Run, given: LabelFiles, predictor: str, metrics: Sequence[str]) -> list[str]:
    return compare_sets(run, given.sets(run.dictionary), predictor, metrics, given.against, CompareConfig())
