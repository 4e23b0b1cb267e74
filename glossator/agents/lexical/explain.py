"""The explain stage: every pending feature through the lexical explainer; rows in groups, failures as rows."""

from __future__ import annotations

import json
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from glossator.agents.lexical.explainer import LexicalExplainer, abstention
from glossator.agents.lexical.surroundings import Surroundings
from glossator.agents.lexical.wording import sentence
from glossator.agents.run import Run
from glossator.config import LexicalConfig
from glossator.rows import ExplanationRow, FailureRow, Row, StatusRow
from glossator.scorers.estimators import pearson
from glossator.scorers.rule import Rule
from glossator.scorers.scoring import score_row
from glossator.scorers.simulation import draws_for, scene, sums_of
from glossator.types import Estimate, Explanation, FeatureRecord

_GROUP = 64
_NOT_SCORED = ("rare",)


def explain_all(run: Run, features: Sequence[int], config: LexicalConfig, run_id: str) -> None:
    behind = run.behind["explain"]
    explainer = LexicalExplainer(
        Surroundings(run.lexicon, run.counts, run.neighbours, behind.windows, behind.n_corpus), config
    )
    waiting: list[Row] = []
    run.progress("explain", 0, len(features))
    for done, record in enumerate(run.records(features), 1):
        try:
            waiting += _rows(record, explainer, run, config, run_id)
        except Exception as error:  # noqa: BLE001  one feature's failure is a row, not the end of the night
            waiting += failure_rows(record, "explain", error, run_id)
        if done % _GROUP == 0 or done == len(features):
            _write(run, waiting)
            waiting = []
            run.progress("explain", done, len(features))


def _write(run: Run, rows: Sequence[Row]) -> None:
    """An explanation that was found before is not kept twice, nor its score on `select`."""
    ids = [row.explanation_id for row in rows if isinstance(row, ExplanationRow)]

    def forget(connection: Any) -> None:
        for table, which in (("explanation", ""), ("score", "AND split = 'select' AND predictor = 'rule'")):
            connection.execute(
                f"DELETE FROM {table} WHERE explanation_id IN (SELECT unnest(?::VARCHAR[])) {which}", [ids]
            )

    run.store.replace_now(forget, rows)


def failure_rows(record: FeatureRecord, stage: str, error: BaseException, run_id: str) -> list[Row]:
    f = record.feature
    trace = "".join(traceback.format_exception(error))[-4000:]
    return [
        FailureRow(f.dictionary, f.index, stage, type(error).__name__, str(error)[:500], trace, run_id),
        StatusRow(f.dictionary, f.index, stage, "failed", str(error)[:200], run_id),
    ]


def _rows(
    record: FeatureRecord, explainer: LexicalExplainer, run: Run, config: LexicalConfig, run_id: str
) -> list[Row]:
    f = record.feature
    explanation, fit = _explanation(record, explainer, run, config)
    status = "abstained" if explanation.abstained else "done"
    rows: list[Row] = [
        ExplanationRow(
            explanation.explanation_id, f.dictionary, f.index, explanation.explainer, None, explanation.text,
            None if explanation.program is None else json.dumps(explanation.program), explanation.abstained, explanation.reason, run_id,
        ),
        StatusRow(f.dictionary, f.index, "explain", status, explanation.reason, run_id),
    ]  # fmt: skip
    if fit is not None and not explanation.abstained:
        rows.append(
            score_row(
                record,
                (explanation.explanation_id, explanation.explainer),
                "simulation",
                fit,
                run_id,
                "select",
            )
        )
    return rows


def _explanation(
    record: FeatureRecord, explainer: LexicalExplainer, run: Run, config: LexicalConfig
) -> tuple[Explanation, Estimate | None]:
    """A rule that holds on `select` as well, or the reason why there is none. Rare features are not held to `select`."""
    if not record.active("explain"):
        return abstention(record, explainer.name, "never active in the split explain"), None
    program, share = explainer.explain(record)
    if not any(item["strength"] for item in program["items"]) or share < config.min_fit:
        return abstention(
            record,
            explainer.name,
            f"no coherent pattern: the best rule explains {max(share, 0):.0%} of its activation",
        ), None
    fit = None
    if record.status not in _NOT_SCORED:
        shown = scene(record, "select")
        sums = sums_of(shown, Rule(program, run.lexicon).strengths(shown.windows))
        fit = pearson(sums, draws_for(shown, 200, record.feature.index), len(shown.windows))
        if np.isfinite(fit.value) and fit.value < config.min_select:
            return abstention(
                record, explainer.name, f"no rule holds on new text: simulation {fit.value:.2f} on select"
            ), fit
    text = sentence(program, record, run.lexicon.vocabulary)
    return Explanation(record.feature.dictionary, record.feature.index, explainer.name, text, program), fit
