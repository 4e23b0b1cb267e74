"""The probe stage, offline: the editor on every feature whose label is a rule, gathered so that the model always runs full batches.

What a language model writes and reads is probe_llm.py's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from glossator.agents.editor.editor import Editor, Known, not_to_be_probed
from glossator.agents.lexical.explain import failure_rows
from glossator.agents.run import Run
from glossator.config import EditorConfig
from glossator.errors import StoreError
from glossator.rows import StatusRow
from glossator.scorers.predictor import RulePredictor, firing_rates
from glossator.scorers.rule import Rule
from glossator.scorers.simulation import scene
from glossator.types import FeatureRecord


async def probe_all(run: Run, features: Sequence[int], config: EditorConfig, run_id: str) -> None:
    programs = labelled_programs(run, features)
    idle = [f for f in features if f not in programs]
    if idle:
        reasons = dict(run.store.sql("SELECT feature, status FROM label WHERE dictionary = ?", [run.dictionary]))
        await run.store.put(
            *(
                StatusRow(run.dictionary, f, "probe", "abstained", f"nothing to probe: {reasons.get(f)}", run_id)
                for f in idle
            )
        )
    if not programs:
        return
    from glossator.harness.measurer import Measurer  # with torch, which only those need who measure

    subject, dictionary = run.model()
    known = known_outcomes(run, list(programs))
    async with Measurer(subject, dictionary, say=run.say) as measurer:
        editor = Editor(
            run.lexicon.vocabulary,
            run.neighbours,
            measurer,
            run.store,
            config,
            causal=subject.causal,
            run_id=run_id,
        )
        run.progress("probe", 0, len(programs))
        working: set[asyncio.Task[None]] = set()
        for started, record in enumerate(run.records([f for f in features if f in programs]), 1):
            working.add(asyncio.create_task(_one(run, editor, record, *programs[record.feature.index], known, run_id)))
            if len(working) >= config.in_flight:
                working = await _some_done(working)
                run.progress("probe", started - len(working), len(programs))
        while working:
            working = await _some_done(working)
            run.progress("probe", len(programs) - len(working), len(programs))


async def _some_done(working: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Wait until at least one task is done; those that are not. Raises what a task raised."""
    ready, rest = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
    for task in ready:
        task.result()
    return rest


async def _one(
    run: Run,
    editor: Editor,
    record: FeatureRecord,
    explanation_id: str,
    program: Any,
    known: Known,
    run_id: str,
) -> None:
    f = record.feature
    try:
        if (reason := not_to_be_probed(record)) is not None:
            await run.store.put(StatusRow(f.dictionary, f.index, "probe", "abstained", reason, run_id))
            return
        predictor = rule_predictor(record, explanation_id, Rule(program, run.lexicon))
        probed = await editor.probe(record, [predictor], known)
    except StoreError:
        raise  # nothing can be kept any more: stop
    except Exception as error:  # noqa: BLE001  one feature's failure is a row
        await run.store.put(*failure_rows(record, "probe", error, run_id))
        return
    await run.store.put(StatusRow(f.dictionary, f.index, "probe", "done", f"{probed.measured} texts", run_id))


def rule_predictor(record: FeatureRecord, explanation_id: str, rule: Rule) -> RulePredictor:
    """A rule, calibrated on the feature's `select` windows."""
    shown = scene(record, "select")
    fires = shown.activations.max(1, initial=0) >= record.threshold
    return RulePredictor(explanation_id, rule, firing_rates(np.asarray(rule.strengths(shown.windows)), fires))


def labelled_programs(run: Run, features: Sequence[int]) -> dict[int, tuple[str, Any]]:
    """feature -> (explanation id, program) of those whose label is a rule that can be scored."""
    rows = run.store.sql(
        "SELECT l.feature, e.explanation_id, e.program FROM label l JOIN explanation e USING (explanation_id) WHERE l.dictionary = ? "
        "AND e.program IS NOT NULL AND l.status <> 'rare' AND l.feature IN (SELECT unnest(?::INTEGER[]))",
        [run.dictionary, list(features)],
    )
    return {feature: (explanation_id, json.loads(program)) for feature, explanation_id, program in rows}


def known_outcomes(run: Run, features: Sequence[int]) -> Known:
    """Experiments of before the last stop: the sealed are not sealed again, the measured not measured again."""
    chosen = [run.dictionary, list(features)]
    where = "dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[]))"
    sealed = run.store.sql(f"SELECT experiment_id FROM experiment WHERE {where}", chosen)
    rows = run.store.sql(
        "SELECT experiment_id, list(max_activation ORDER BY carrier), list(tokens ORDER BY carrier), list(activations ORDER BY carrier) "
        f"FROM measurement WHERE {where} GROUP BY ALL",
        chosen,
    )
    return Known(
        frozenset(i for (i,) in sealed),
        {i: list(maxima) for i, maxima, _, _ in rows},
        {i: [(tuple(t), tuple(v)) for t, v in zip(tokens, values, strict=True)] for i, _, tokens, values in rows},
    )
