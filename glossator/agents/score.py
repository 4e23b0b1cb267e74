"""The score stage: every label on `test`, with its baselines and nulls; written in one piece when all is known.

The families of the corrections are the features of this call, one family for each comparison: they are fixed before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glossator.agents.explain import failure_rows
from glossator.agents.lexical import lookup, strengths_of_lookup
from glossator.agents.probe import labelled_programs
from glossator.agents.run import Run
from glossator.config import ScoreConfig
from glossator.scorers.adversarial import Outcome, adversarial, base_rates
from glossator.scorers.comparisons import benjamini_hochberg, density_strata, partners, permutation_p
from glossator.scorers.rule import Rule
from glossator.scorers.scoring import Candidate, FeatureScorer, finite, score_row
from glossator.types import FeatureRecord, Floats, NullScoreRow, Row, ScoreRow, StatusRow


@dataclass
class _Found:
    rows: list[ScoreRow]
    nulls: list[NullScoreRow]
    value: float
    permuted: Floats


def score_all(run: Run, features: Sequence[int], config: ScoreConfig, run_id: str) -> None:
    rules = _rules(run)
    todo = [f for f in features if f in rules]
    idle = [f for f in features if f not in rules]
    reasons = dict(run.store.sql("SELECT feature, status FROM label WHERE dictionary = ?", [run.dictionary]))
    rows: list[Row] = [
        StatusRow(run.dictionary, f, "score", "abstained", f"nothing to score: {reasons.get(f)}", run_id) for f in idle
    ]
    order = sorted(rules)
    density = dict(run.store.sql("SELECT feature, density FROM feature WHERE dictionary = ?", [run.dictionary]))
    strata = density_strata(np.asarray([density[f] for f in order]))
    others = partners(strata, config.permutations, config.min_null, config.seed)
    outcomes = _outcomes(run)
    rates = base_rates([o for mine in outcomes.values() for o in mine])
    found: dict[int, _Found] = {}
    run.progress("score", 0, len(todo))
    position = {f: i for i, f in enumerate(order)}
    for done, record in enumerate(run.records(todo), 1):
        index = record.feature.index
        try:
            tried = [rules[order[j]].rule for j in others[position[index]]]
            neighbour = next((rules[n] for n in record.neighbours if n in rules), None)
            one = _score_one(run, record, rules[index], tried, neighbour, config, run_id)
            who = (rules[index].explanation_id, rules[index].explainer)
            if outcomes.get(who[0]):
                one.rows.append(score_row(record, who, "adversarial", adversarial(outcomes[who[0]], rates), run_id))
            found[index] = one
        except Exception as error:  # noqa: BLE001  one feature's failure is a row
            rows += failure_rows(record, "score", error, run_id)
        if done % 16 == 0 or done == len(todo):
            run.progress("score", done, len(todo))
    rows += _comparisons(run, found, rules, {f: int(strata[position[f]]) for f in found}, config, run_id)
    for index, one in found.items():
        rows += [*one.rows, StatusRow(run.dictionary, index, "score", "done", None, run_id)]
    _replace(run, todo, rows)


def _rules(run: Run) -> dict[int, Candidate]:
    """All labels of the dictionary that are rules: those to be scored, and the stock of nulls."""
    programs = labelled_programs(
        run,
        [f for (f,) in run.store.sql("SELECT feature FROM feature WHERE dictionary = ?", [run.dictionary])],
    )
    names = dict(
        run.store.sql("SELECT explanation_id, explainer FROM explanation WHERE dictionary = ?", [run.dictionary])
    )
    return {f: Candidate(i, names[i], Rule(program, run.lexicon)) for f, (i, program) in programs.items()}


def _outcomes(run: Run) -> dict[str, list[Outcome]]:
    """Sealed predictions with what came of them, by explanation."""
    rows = run.store.sql(
        "SELECT p.explanation_id, e.feature, e.kind, p.p_fires, o.fires FROM prediction p JOIN experiment e USING (experiment_id) "
        "JOIN outcome o USING (experiment_id) WHERE e.dictionary = ? AND e.split = 'test' AND p.predictor = 'rule' ORDER BY ALL",
        [run.dictionary],
    )
    found: dict[str, list[Outcome]] = {}
    for explanation_id, feature, kind, p, fires in rows:
        found.setdefault(explanation_id, []).append(Outcome(feature, kind, p, fires))
    return found


def _score_one(
    run: Run,
    record: FeatureRecord,
    mine: Candidate,
    tried: Sequence[Rule],
    neighbour: Candidate | None,
    config: ScoreConfig,
    run_id: str,
) -> _Found:
    scorer = FeatureScorer(record, config, run_id)
    rows, sums = scorer.rule_rows(mine)
    windows = scorer.windows
    singles: dict[str, Floats] = {
        f"lookup-{k}": Rule(lookup(record, run.lexicon, run.counts, k), run.lexicon).strengths(windows) for k in (1, 5)
    }
    singles["lookup-full"] = strengths_of_lookup(record, run.counts, windows)
    nulls = []
    for name, prediction in singles.items():
        row, other = scorer.lookup_row(name, prediction)
        rows.append(row)
        if name == "lookup-1":
            nulls.append(replace(scorer.compare(mine, "lexical", sums, other), p_value=None))
    if neighbour is not None:
        nulls.append(scorer.compare(mine, "neighbour", sums, scorer.sums(neighbour.rule.strengths(windows))))
    value = rows[0].value
    permuted = np.asarray(scorer.null_values([rule.strengths for rule in tried]))
    return _Found(rows, nulls, float("nan") if value is None else value, permuted)


def _comparisons(
    run: Run,
    found: dict[int, _Found],
    rules: dict[int, Candidate],
    strata: dict[int, int],
    config: ScoreConfig,
    run_id: str,
) -> list[Row]:
    """Null rows with p and q values over all features of this call."""
    order = sorted(found)
    value = np.asarray([found[f].value for f in order])
    p, mean, size = permutation_p(
        value, np.asarray([strata[f] for f in order]), [found[f].permuted for f in order], config.min_null
    )
    q = benjamini_hochberg(p)
    rows: list[Row] = [
        NullScoreRow(
            rules[f].explanation_id, run.dictionary, f, "simulation", "permuted", finite(float(mean[i])), finite(float(p[i])),
            finite(float(q[i])), finite(float(value[i] - mean[i])), None, None, int(size[i]), run_id,
        )
        for i, f in enumerate(order)
    ]  # fmt: skip
    beside = [row for f in order for row in found[f].nulls]
    tested = [row for row in beside if row.comparison == "neighbour"]
    corrected = benjamini_hochberg(np.asarray([np.nan if row.p_value is None else row.p_value for row in tested]))
    rows += [replace(row, q_value=finite(float(x))) for row, x in zip(tested, corrected, strict=True)]
    return rows + [row for row in beside if row.comparison != "neighbour"]


def _replace(run: Run, features: Sequence[int], rows: Sequence[Row]) -> None:
    """New scores take the place of old ones of the same features on `test`."""
    ids = json.dumps(list(features))
    for table, extra in (("score", "AND split = 'test'"), ("null_score", "")):
        run.store.execute(
            f"DELETE FROM {table} WHERE dictionary = ? AND feature IN (SELECT unnest(?::JSON::INTEGER[])) {extra}",
            [run.dictionary, ids],
        )
    run.store.put_now(*rows)
