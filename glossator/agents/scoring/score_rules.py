"""The score stage: every label on `test`, with its baselines and nulls; written in one piece when all is known.

The families of the corrections are all scored features of the dictionary, one family for each comparison.
Where few features are scored, other features of their density strata lend mismatched pairs, so that a p-value means the
same whether one feature is scored or all are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from glossator.agents.editor.probe import labelled_programs
from glossator.agents.editor.scores import outcomes_of, steps_of
from glossator.agents.lexical.explain import failure_rows
from glossator.agents.lexical.explainer import lookup, strengths_of_lookup
from glossator.agents.run import Run
from glossator.agents.scoring.families import correct
from glossator.config import ScoreConfig
from glossator.rows import NullScoreRow, Row, ScoreRow, StatusRow
from glossator.scorers.adversarial import WRITTEN, adversarial_metrics, base_rates
from glossator.scorers.comparisons import density_strata, partners, permutation_p
from glossator.scorers.rates import Draws, draw
from glossator.scorers.rule import Rule
from glossator.scorers.scoring import RATE_METRICS, Candidate, FeatureScorer, finite, rate_rows, score_row
from glossator.types import FeatureRecord, Floats, Split, content_id


@dataclass
class _Found:
    rows: list[ScoreRow]
    nulls: list[NullScoreRow]
    value: float
    permuted: Floats


def left_to_score(run: Run, features: Sequence[int] | None) -> list[int]:
    """The features asked for; else those that wait, and those whose label is a rule that lacks scores of this version."""
    todo = run.chosen(features, "score")
    if features is None:
        rows = run.store.sql(
            "SELECT DISTINCT l.feature FROM label l JOIN explanation e USING (explanation_id) WHERE l.dictionary = ? "
            "AND e.program IS NOT NULL AND l.status <> 'rare' AND NOT EXISTS (SELECT 1 FROM score s "
            "WHERE s.explanation_id = e.explanation_id AND s.predictor = 'rule' AND s.metric = ? AND s.split = 'test')",
            [run.dictionary, RATE_METRICS[0]],
        )
        todo = sorted({*todo, *(feature for (feature,) in rows)})
    return todo


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
    tried = partners(strata, config.permutations, config.min_null, config.seed)
    nulls = {f: [rules[order[j]].rule for j in others] for f, others in zip(order, tried, strict=True)}
    stratum = dict(zip(order, strata.tolist(), strict=True))
    found = _score(run, todo, rules, nulls, config, run_id, rows)
    lent = {}
    for record in run.records(lenders(list(found), stratum, nulls, config.min_null)):
        scorer = FeatureScorer(record, config, run_id)
        lent[record.feature.index] = np.asarray(scorer.null_values([r.strengths for r in nulls[record.feature.index]]))
    rows += _comparisons(run, found, lent, rules, stratum, config, run_id)
    for index, one in found.items():
        rows += [*one.rows, StatusRow(run.dictionary, index, "score", "done", None, run_id)]
    _replace(run, todo, rows)


def _score(
    run: Run,
    todo: Sequence[int],
    rules: dict[int, Candidate],
    nulls: dict[int, list[Rule]],
    config: ScoreConfig,
    run_id: str,
    rows: list[Row],
) -> dict[int, _Found]:
    """Scores of the features of this call; failures go to `rows`."""
    labels = {c.explanation_id for c in rules.values()}  # of these alone, so that a feature is not its own rival
    outcomes = {i: list(mine.values()) for i, mine in outcomes_of(run, "rule").items() if i in labels}
    rates, steps = base_rates([o for mine in outcomes.values() for o in mine]), steps_of(run, "rule")
    found: dict[int, _Found] = {}
    draws = split_draws(run, "test", config.draws, config.seed)
    run.progress("score", 0, len(todo))
    for done, record in enumerate(run.records(todo), 1):
        index = record.feature.index
        try:
            neighbour = next((rules[n] for n in record.neighbours if n in rules), None)
            one = _score_one(run, record, rules[index], nulls[index], neighbour, config, run_id)
            rivals = run.neighbours_fire(record, "test")
            one.rows += rate_rows(record, rules[index], draws, rivals, run_id)
            who = (rules[index].explanation_id, rules[index].explainer)
            if who[0] in outcomes:
                tried = adversarial_metrics(outcomes[who[0]], rates, steps.get(who[0], ()))
                found_of = {m: x for m, x in tried.items() if m not in WRITTEN or x.note is None}
                one.rows += [score_row(record, who, m, x.estimate, run_id, note=x.note) for m, x in found_of.items()]
            found[index] = one
        except Exception as error:  # noqa: BLE001  one feature's failure is a row
            rows += failure_rows(record, "score", error, run_id)
        if done % 16 == 0 or done == len(todo):
            run.progress("score", done, len(todo))
    return found


def split_draws(run: Run, split: Split, draws: int, seed: int) -> Draws:
    """Weights of the documents of a split of which anything is kept, for all features alike."""
    found = run.store.sql("SELECT DISTINCT document FROM text_window WHERE split = ? ORDER BY document", [split])
    return draw(np.asarray([document for (document,) in found], np.int32), draws, seed)


def lenders(
    scored: Sequence[int], stratum: Mapping[int, int], nulls: Mapping[int, Sequence[object]], min_null: int
) -> list[int]:
    """Other features of the same strata whose mismatched pairs fill the pools to `min_null`."""
    lenders: list[int] = []
    for group in sorted({stratum[f] for f in scored}):
        lacking = min_null - sum(len(nulls[f]) for f in scored if stratum[f] == group)
        for other in sorted(
            (f for f in stratum if stratum[f] == group and f not in set(scored)), key=lambda f: content_id(f)
        ):
            if lacking <= 0:
                break
            lenders.append(other)
            lacking -= len(nulls[other])
    return lenders


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
    lent: dict[int, Floats],
    rules: dict[int, Candidate],
    stratum: dict[int, int],
    config: ScoreConfig,
    run_id: str,
) -> list[Row]:
    """Null rows with their p-values; q-values come when all are stored."""
    order = sorted(found)
    pooled = order + sorted(lent)
    value = np.asarray([found[f].value if f in found else np.nan for f in pooled])
    drawn = [found[f].permuted if f in found else lent[f] for f in pooled]
    p, mean, size = permutation_p(value, np.asarray([stratum[f] for f in pooled]), drawn, config.min_null)
    rows: list[Row] = [
        NullScoreRow(
            rules[f].explanation_id, run.dictionary, f, "simulation", "permuted", finite(float(mean[i])), finite(float(p[i])),
            None, finite(float(value[i] - mean[i])), None, None, int(size[i]), run_id,
        )
        for i, f in enumerate(order)
    ]  # fmt: skip
    beside = [row for f in order for row in found[f].nulls]
    return rows + beside


def _replace(run: Run, features: Sequence[int], rows: Sequence[Row]) -> None:
    """New scores take the place of old ones of the same features on `test`; q-values are over all features, old and new."""
    chosen = [run.dictionary, list(features)]

    def forget(connection: Any) -> None:
        for table, which in (("score", "AND split = 'test'"), ("null_score", "")):
            connection.execute(
                f"DELETE FROM {table} WHERE dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[])) AND predictor = 'rule' {which}",
                chosen,
            )

    run.store.replace_now(forget, rows, lambda connection: correct(connection, run.dictionary, "rule", "simulation"))
