"""The graphs `label` and `cascade` as explainers: prepared a feature at a time, run by explaining.py like all others.

Many graphs are in progress at once, as many as features are in hand. What a graph says of its way becomes rows of `step`
when it has ended; one that a budget or a kill abandons leaves no row, and finds its replies in the log when it is started
again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from glossator.agents.explainers import best_of, refine
from glossator.agents.explainers.claims import Claim, Explainer, Found, Job, Material, draft_of, material
from glossator.agents.graphs.bench import Bench
from glossator.agents.graphs.cascade import STANDS, cascade_graph, judged
from glossator.agents.graphs.label import label_graph
from glossator.agents.graphs.state import Lexical, State, Task, Tries, walk, without_test
from glossator.agents.run import Run
from glossator.agents.scoring.scenes import PROMPTS
from glossator.config import CascadeConfig, DebateConfig, LabelConfig, quiet_tracing
from glossator.llm.base import LLM
from glossator.prompts import contrastive, detect, edit, oneshot
from glossator.prompts import refine as refine_prompt
from glossator.rows import PromptRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord

if TYPE_CHECKING:
    from langgraph.graph.state import CompiledStateGraph

_A_ROUND = 5  # questions of a round that wait for one another: texts, what they are told to do, windows, a sentence, reading it


class _Open:
    """What stands open while a stage works."""

    def __init__(self) -> None:
        self.tries: Tries | None = None


def label_explainer(run: Run, config: LabelConfig, model: str) -> Explainer:
    """model: the writer, as rows name it."""
    bench = _Open()

    def prepare(record: FeatureRecord) -> Job:
        return _job(label_graph(), prepared("label", run, record, config, model), bench)

    return Explainer(
        "label", _prompts(config), prepare, config.refine.reading, 2 + _A_ROUND * config.refine.rounds,
        _opening(run, config, DebateConfig(), bench),
    )  # fmt: skip


def cascade_explainer(run: Run, config: CascadeConfig, model: str) -> Explainer:
    bench, rules = _Open(), lexical_rules(run)

    def prepare(record: FeatureRecord) -> Job:
        known = rules.get(record.feature.index)
        asked = judged(known, config)[0] != STANDS  # most features are not asked about, and need no questions
        task = prepared("cascade", run, record, config.label, model, asked=asked)
        drawn = partial(
            best_of.candidate_questions, record, run.lexicon.vocabulary, config.best_of
        )  # of `explain` alone
        whole = partial(task, good=config.good, lexical=known, questions=drawn, cascade=config)
        return _job(cascade_graph(), whole, bench)

    prompts = tuple(dict.fromkeys((*_prompts(config.label), contrastive.prompt())))
    drawing = 2 if config.best_of.together else 2 * config.best_of.n
    depth = (
        2 + _A_ROUND * config.label.refine.rounds + drawing + 5
    )  # a debate: how often each side errs, what each says, both joined
    return Explainer(
        "cascade",
        prompts,
        prepare,
        config.label.refine.reading,
        depth,
        _opening(run, config.label, config.debate, bench),
    )


def lexical_rules(run: Run) -> dict[int, Lexical]:
    """feature -> what the lexical explainer said of it last."""
    rows = run.store.sql(
        "SELECT e.feature, e.text, e.program, e.reason, s.value FROM explanation e LEFT JOIN "
        "(SELECT explanation_id, any_value(value) AS value FROM score WHERE split = 'select' AND predictor = 'rule' "
        "AND metric = 'simulation' GROUP BY explanation_id) s USING (explanation_id) "
        "WHERE e.dictionary = ? AND e.explainer = 'lexical' "
        "QUALIFY row_number() OVER (PARTITION BY e.feature ORDER BY e.rowid DESC) = 1",
        [run.dictionary],
    )
    found: dict[int, Lexical] = {}
    for feature, text, program, reason, value in rows:
        kinds = tuple(item["kind"] for item in json.loads(program)["items"]) if program else ()
        found[feature] = Lexical(text, kinds, value, reason)
    return found


# --------------------------------------------------------------------------- helpers


def _prompts(config: LabelConfig) -> tuple[PromptRow, ...]:
    asked = (oneshot.prompt(), refine_prompt.prompt(), edit.prompt(), detect.prompt(), PROMPTS[config.refine.by]())
    return tuple(dict.fromkeys(asked))


def _opening(
    run: Run, config: LabelConfig, debate: DebateConfig, bench: _Open
) -> Callable[[str, Sequence[int]], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def opened(run_id: str, features: Sequence[int]) -> AsyncIterator[None]:
        quiet_tracing()
        async with Bench(run, config.editor, debate, run_id, features) as made:
            bench.tries = made
            yield

    return opened


def prepared(
    graph: str, run: Run, record: FeatureRecord, config: LabelConfig, model: str, *, asked: bool = True
) -> partial[Task]:
    """A task that lacks the models alone; not asked: and windows and questions."""
    vocabulary, seen = run.lexicon.vocabulary, without_test(record)
    if not asked:
        on = Material(record.feature, record.threshold, config.refine.by, "nobody is asked")
        return partial(Task, graph, seen, refine.Ground(Claim(None), on, 0.0, ()), vocabulary, config)
    on = material(run, seen, config.refine.by, config.refine.reading)
    draft = draft_of(run, seen, model) or oneshot.render(seen, vocabulary, config.refine.draft)
    return partial(Task, graph, seen, refine.ground(seen, draft, on, config.refine), vocabulary, config)


def _job(graph: CompiledStateGraph[State, None, State, State], task: partial[Task], bench: _Open) -> Job:
    async def job(writer: LLM, reader: LLMPredictor) -> Found:
        return await walk(graph, task(writer, reader, bench.tries))

    return job
