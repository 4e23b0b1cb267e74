"""What the tests of graphs share: one feature's way through a graph with doubles for models and subject."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from glossator.agents.debate.rivals import Rival
from glossator.agents.editor.editor import Experimented, Probed
from glossator.agents.explainers.best_of import candidate_questions
from glossator.agents.explainers.claims import Found
from glossator.agents.graphs.cascade import cascade_graph
from glossator.agents.graphs.explainers import prepared
from glossator.agents.graphs.label import label_graph
from glossator.agents.graphs.state import Lexical, State, Task, begin, walk
from glossator.agents.run import Run
from glossator.config import CascadeConfig, LabelConfig, RefineConfig
from glossator.errors import ReplyError
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import planted_features
from glossator.rows import DebateRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord

FEATURES = planted_features()
BEAR = next(i for i, f in enumerate(FEATURES) if f.name == "bear")
TRUE = f"Fires on {FEATURES[BEAR].description}."
BROAD = f"Fires on {FEATURES[BEAR].broader.description}."  # type: ignore[union-attr]
NARROW = f"Fires on {FEATURES[BEAR].narrower.description}."  # type: ignore[union-attr]
WRONG = f"Fires on {FEATURES[0].description}."
WEAK = Lexical("Fires on the token bear.", ("token",), 0.4)
LABEL = LabelConfig(refine=RefineConfig(rounds=2))


@dataclass
class Subject:
    """Stands for editor and debate. `says`: text -> whether it fires; the reader is asked as the editor would."""

    threshold: float
    says: Mapping[str, bool] = field(default_factory=dict)
    verdict: str | None = None
    fails: BaseException | None = None
    wrote: ReplyError | None = None
    probed: list[str] = field(default_factory=list)
    debated: list[tuple[str, str]] = field(default_factory=list)

    async def probe(
        self, record: FeatureRecord, explanation_id: str, text: str, writer: object, reader: LLMPredictor
    ) -> Probed:
        self.probed.append(text)
        if self.fails is not None:
            raise self.fails
        found = []
        for told, fires in self.says.items():
            tokens = tuple(told.split())
            values = (2 * self.threshold * fires, *[0.0] * (len(tokens) - 1))
            found.append(
                Experimented(told, "swap", (told,), fires, False, (tokens,), (values,), {explanation_id: 0.99})
            )
        return Probed(len(found), tuple(found), None, self.wrote)

    async def debate(self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: LLMPredictor) -> DebateRow:
        self.debated.append((rivals[0].text, rivals[1].text))
        if self.fails is not None:
            raise self.fails
        row: dict[str, Any] = dict.fromkeys(DebateRow.__dataclass_fields__, None)
        return DebateRow(**(row | {"verdict": self.verdict, "sentence": f"{self.verdict} it is."}))


def task(run: Run, index: int, config: LabelConfig = LABEL, graph: str = "label") -> partial[Task]:
    (record,) = run.records([index])
    return prepared(graph, run, record, config, "nobody")


def subject(run: Run, **says: Any) -> Subject:
    ((threshold,),) = run.store.sql("SELECT threshold FROM feature WHERE feature = ?", [BEAR])
    return Subject(threshold, **says)


def reading(run: Run, llm: ScriptedLLM) -> LLMPredictor:
    return LLMPredictor(llm, run.lexicon.vocabulary, LABEL.refine.reading)


def start(
    run: Run, writer: ScriptedLLM, reader: ScriptedLLM, tries: Subject | None = None, config: LabelConfig = LABEL
) -> State:
    return begin(task(run, BEAR, config)(writer, reading(run, reader), tries))


def through_label(
    run: Run, writer: ScriptedLLM, reader: ScriptedLLM, tries: Subject | None = None, config: LabelConfig = LABEL
) -> Found:
    return asyncio.run(walk(label_graph(), task(run, BEAR, config)(writer, reading(run, reader), tries)))


def through_cascade(
    run: Run,
    writer: ScriptedLLM,
    reader: ScriptedLLM,
    tries: Subject | None = None,
    config: CascadeConfig = CascadeConfig(),  # noqa: B008  a frozen value
    lexical: Lexical | None = WEAK,
) -> Found:
    (record,) = run.records([BEAR])
    questions = partial(candidate_questions, record, run.lexicon.vocabulary, config.best_of)
    whole = task(run, BEAR, config.label, "cascade")(
        writer, reading(run, reader), tries, config.good, lexical, questions, config
    )
    return asyncio.run(walk(cascade_graph(), whole))


def way(of: Found) -> list[tuple[str, str]]:
    return [(one.node, one.outcome) for one in of.steps]
