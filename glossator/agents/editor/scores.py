"""Scores out of the editor's pools on `test`: sealed predictions with what came of them, as rows of `score`.

Where a feature was probed more than once under an explanation, its last pool counts. Base rates are those of all features
that the same predictor was asked about, each experiment once, so they move as more features are probed: all rows of a
predictor are reckoned anew, and those that changed are replaced.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glossator.agents.run import Run
from glossator.rows import ScoreRow
from glossator.scorers.adversarial import METRICS, Outcome, Step, adversarial_metrics, base_rates

_LAST = (
    "SELECT p.experiment_id, p.explanation_id, p.p_fires, e.feature, e.kind, e.edit, e.pool FROM prediction p JOIN experiment e "
    "USING (experiment_id) WHERE e.dictionary = ? AND e.split = 'test' AND p.predictor = ? "
    "QUALIFY e.pool = arg_max(e.pool, p.sealed_at) OVER (PARTITION BY e.feature, p.explanation_id)"
)
_Place = tuple[str, str]
_Rates = dict[str, tuple[int, int]]  # fired, all, by kind


def outcomes_of(run: Run, predictor: str) -> dict[str, dict[str, Outcome]]:
    """explanation -> experiment -> what was predicted and came out; texts that most carriers are weak on are left out."""
    rows = run.store.sql(
        f"SELECT l.explanation_id, experiment_id, l.feature, l.kind, l.p_fires, o.fires FROM ({_LAST}) l JOIN outcome o "
        "USING (experiment_id) WHERE NOT o.weak ORDER BY ALL",
        [run.dictionary, predictor],
    )
    found: dict[str, dict[str, Outcome]] = {}
    for explanation_id, experiment_id, feature, kind, p, fires in rows:
        found.setdefault(explanation_id, {})[experiment_id] = Outcome(feature, kind, p, fires)
    return found


def steps_of(run: Run, predictor: str) -> dict[str, list[Step]]:
    """explanation -> the bisection of its pool, narrowest first."""
    rows = run.store.sql(
        f"SELECT l.explanation_id, l.edit, o.fires, o.max_activation FROM ({_LAST}) l JOIN outcome o USING (experiment_id) "
        "WHERE l.kind = 'bisect' ORDER BY ALL",
        [run.dictionary, predictor],
    )
    found: dict[str, list[Step]] = {}
    for explanation_id, edit, fires, peak in rows:
        about = json.loads(edit)
        was = about.get("was")
        step = Step(int(about["tokens"]), int(about["radius"]), fires, peak / was if was else None)
        found.setdefault(explanation_id, []).append(step)
    return {i: sorted(steps, key=lambda step: (step.tokens, step.radius)) for i, steps in found.items()}


def score_pools(run: Run, predictor: str, model: str | None, run_id: str) -> int:
    """Write METRICS of every explanation that this predictor was probed with. Returns how many have a row that is new."""
    outcomes, steps = outcomes_of(run, predictor), steps_of(run, predictor)
    each = {i: one for mine in outcomes.values() for i, one in mine.items()}
    rates, of = base_rates(list(each.values())), _by_feature(each.values())
    chosen = sorted({*outcomes, *steps})
    names: dict[str, tuple[int, str]] = {
        i: (feature, explainer)
        for i, feature, explainer in run.store.sql(
            "SELECT explanation_id, feature, explainer FROM explanation WHERE dictionary = ? "
            "AND explanation_id IN (SELECT unnest(?::VARCHAR[]))",
            [run.dictionary, chosen],
        )
    }
    rows = []
    for identity in chosen:
        if identity in names:
            mine, (feature, explainer) = list(outcomes.get(identity, {}).values()), names[identity]
            others = _without(rates, base_rates(of.get(feature, [])), base_rates(mine))
            found = adversarial_metrics(mine, others, steps.get(identity, ()))
            for metric, one in found.items():
                e = one.estimate
                value, low, high = (None if math.isnan(x) else float(x) for x in (e.value, e.low, e.high))
                rows.append(
                    ScoreRow(
                        identity, run.dictionary, feature, explainer, predictor, model, metric, "test", value, low, high, e.n,
                        one.note, run_id,
                    )
                )  # fmt: skip
    return _replace(run, predictor, rows)


def _by_feature(outcomes: Iterable[Outcome]) -> dict[int, list[Outcome]]:
    found: dict[int, list[Outcome]] = {}
    for one in outcomes:
        found.setdefault(one.feature, []).append(one)
    return found


def _without(rates: _Rates, feature: _Rates, mine: _Rates) -> _Rates:
    """The rates of other features, and `mine`: another pool of the same feature, of an older label, is no other feature."""
    return {
        kind: tuple(n - feature.get(kind, (0, 0))[i] + mine.get(kind, (0, 0))[i] for i, n in enumerate(all_of))  # type: ignore[misc]
        for kind, all_of in rates.items()
    }


def _replace(run: Run, predictor: str, rows: Sequence[ScoreRow]) -> int:
    """Rows that the store has already stay as they are."""
    stored: Mapping[_Place, tuple[Any, ...]] = {
        (i, metric): tuple(values)
        for i, metric, *values in run.store.sql(
            "SELECT explanation_id, metric, value, low, high, n, note FROM score WHERE dictionary = ? AND predictor = ? "
            "AND split = 'test' AND metric IN (SELECT unnest(?::VARCHAR[]))",
            [run.dictionary, predictor, list(METRICS)],
        )
    }
    new = [r for r in rows if stored.get((r.explanation_id, r.metric)) != (r.value, r.low, r.high, r.n, r.note)]
    old = [(r.explanation_id, r.metric) for r in new if (r.explanation_id, r.metric) in stored]

    def forget(connection: Any) -> None:
        if old:
            connection.execute(
                "DELETE FROM score WHERE dictionary = ? AND predictor = ? AND split = 'test' AND (explanation_id, metric) IN "
                "(SELECT (unnest(?::VARCHAR[]), unnest(?::VARCHAR[])))",
                [run.dictionary, predictor, [i for i, _ in old], [metric for _, metric in old]],
            )

    if new:
        run.store.replace_now(forget, new)
    return len({row.explanation_id for row in new})
