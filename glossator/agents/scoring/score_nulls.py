"""What a label's score by a language model is compared with: other features' labels, the neighbour's, the lexical rule.

All three are on the windows of the split `test` that the label itself was read on, and of a scorer's main metric alone:

- `permuted`: labels of other features of like density, read by the same model in the same form. About 999 pairs are asked
  in all, however many features there are (scorers/comparisons.py says which); p is the share of the pool of the feature's
  stratum that does as well. Where the pool cannot be filled, every feature gets one, for the mean alone, and p is NULL.
- `neighbour`: the label of the nearest decoder direction that has one; a paired difference, p one-sided.
- `lexical`: the lexical rule of the feature, executed; a paired difference with interval, and no question. Where the lexical
  explainer found no rule, what it says is nothing, anywhere. No row where it was never run.

Labels of others may do worse than chance: they speak where the feature is silent. A label that says nothing would beat them,
and must not. So for p a mismatched label counts as chance where it does worse, and against the neighbour's label p is the
larger of two: that of being better than it, and that of being better than chance. Means and differences are as they come.

The pairs follow from the features that have a score, so they are chosen when all those are written. Questions are the same
in every run, so what the log has is never asked again: a run that was stopped is gone on with, and comparisons that were
left out are made up for, by asking for what is missing. Own answers are read from the log, too.

A question about another's label that failed is a failure row of a stage of its own (`score:detection:llm:NAME:nulls`), and
in the pool it counts as a label that did as well. Rows are written, and corrected, when a scorer's questions are all
answered: in one piece.

The labels of one named `explainer` (`imported:...`) are compared with one another, not with those of the run.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from glossator.agents.pool import in_progress
from glossator.agents.run import Run
from glossator.agents.scoring.families import correct
from glossator.agents.scoring.read_before import Before, labels_of
from glossator.agents.scoring.scenes import (
    CHANCE,
    METRICS,
    Answer,
    AnyScene,
    answer,
    difference,
    executed,
    scene_of,
    seed_of,
    value_of,
)
from glossator.agents.scoring.score_llm import raise_what_ends_the_run, stage_of
from glossator.config import LLMScoreConfig
from glossator.prompts.reading import LONGEST
from glossator.rows import NullScoreRow, Row
from glossator.scorers.comparisons import density_strata, few_strata, mismatched, permutation_p, strata_by
from glossator.scorers.reading import LLMPredictor
from glossator.scorers.rule import Rule
from glossator.scorers.scoring import finite
from glossator.types import FeatureId, FeatureRecord, Floats

_LEXICAL = "lexical"  # the explainer whose rules are executed
_Key = tuple[str, str]  # explanation, comparison


@dataclass(frozen=True)
class Plan:
    """Who is compared with whom. others: by feature, those whose labels are tried on it; strata: of these features."""

    others: dict[int, list[int]]
    strata: dict[int, int]
    short: int  # pairs that the smallest pool that cannot be filled has; -1: all can be

    @property
    def pairs(self) -> int:
        return sum(map(len, self.others.values()))


def plan(density: dict[int, float], asked: Sequence[int], known: Iterable[int], config: LLMScoreConfig) -> Plan:
    """density: of all features; asked: those that are compared; known: those that have labels to try on them."""
    mine, others = np.asarray(sorted(asked), np.int64), np.asarray(sorted(known), np.int64)
    if not len(mine):
        return Plan({}, {}, -1)
    like = np.asarray([density[int(f)] for f in mine])
    strata = density_strata(like, few_strata(len(mine), config.min_null))
    theirs = strata_by(np.asarray([density[int(f)] for f in others]), like, strata)
    chosen = mismatched(mine, strata, others, theirs, config.mismatched, config.min_null, config.seed)
    pool: Counter[int] = Counter()
    for stratum, tried in zip(strata.tolist(), chosen, strict=True):
        pool[stratum] += len(tried)
    short = [n for n in pool.values() if n < config.min_null]
    return Plan(
        {f: tried.tolist() for f, tried in zip(mine.tolist(), chosen, strict=True)},
        dict(zip(mine.tolist(), strata.tolist(), strict=True)),
        min(short, default=-1),
    )


@dataclass(frozen=True)
class _Own:
    """A scored explanation of a feature."""

    explanation_id: str
    text: str
    value: float


@dataclass
class _Found:
    """What came of one feature: rows without p against permuted labels, and the scores of those labels."""

    feature: FeatureId
    null: Floats = field(default_factory=lambda: np.empty(0))
    rows: list[NullScoreRow] = field(default_factory=list)
    failed: list[tuple[str, Exception]] = field(default_factory=list)


class Comparer:
    """One scorer by one predictor, on a set of labels: the run's own explanations, or those of one named explainer."""

    def __init__(
        self,
        run: Run,
        predictor: LLMPredictor,
        scorer: str,
        explainer: str | None = None,
        *,
        retry_failed: bool = False,
    ) -> None:
        self.run, self.predictor, self.scorer, self.explainer = run, predictor, scorer, explainer
        self.config, self.retry_failed = predictor.config, retry_failed
        self.metric = METRICS[scorer][0]
        self.who = [run.dictionary, predictor.predictor, self.metric]
        self.stage = stage_of(scorer, f"{predictor.predictor}:nulls", explainer)

    def left(self, features: Sequence[int] | None) -> list[int]:
        """The features asked for that have a score; else those with a score that was not compared yet, or failed and is to be retried."""
        own, done = self._own(), self._compared()
        if features is not None:
            return sorted(own.keys() & set(features))
        failed = self._failed_before() if self.retry_failed else set()
        return sorted(f for f, mine in own.items() if f in failed or any(o.explanation_id not in done for o in mine))

    def foreseen(self, to_read: Sequence[int], features: Sequence[int] | None) -> tuple[Plan, int]:
        """The plan if all of `to_read` gets a score, and how many labels of neighbours are read."""
        texts = self._texts()
        wanted = {*self.left(features), *(f for f in to_read if f in texts)}
        return plan(self._density(), sorted(wanted | self._compared_features()), texts, self.config), len(wanted)

    async def compare(
        self, features: Sequence[int], run_id: str, tally: Counter[tuple[str, str]], in_hand: int
    ) -> None:
        """features: as `left` has them. Raises ProviderError, Stopped, StoreError; then nothing of this scorer is written."""
        if not features:
            return
        self.own, self.texts, self.rules = self._own(), self._texts(), self._rules()
        self.wanted = set(features)
        asked = sorted(self.wanted | (self._compared_features() & self.own.keys()))
        self.plan = plan(self._density(), asked, self.texts, self.config)
        stage = stage_of(self.scorer, self.predictor.predictor, self.explainer)
        of = (self.predictor.predictor, (self.metric,), 0)
        self.read, self.before = Before(self.run, stage, of, asked), Before(self.run, self.stage, of, asked)
        todo = [f for f in asked if f in self.wanted or self.plan.others[f]]
        found: dict[int, _Found] = {}

        async def one(work: tuple[FeatureRecord, AnyScene | str]) -> None:
            found[work[0].feature.index] = await self._one(*work)

        await in_progress(
            self._records(todo), len(todo), in_hand, one,
            lambda done, of: self.run.progress(f"compare {self.scorer}", done, of),
        )  # fmt: skip
        await asyncio.to_thread(self._write, asked, found, run_id)
        for index in sorted(self.wanted):
            kind = type(found[index].failed[0][1]).__name__ if found[index].failed else "compared"
            tally[f"{self.scorer} beside other labels", kind] += 1

    def _records(self, features: Sequence[int]) -> Iterator[tuple[FeatureRecord, AnyScene | str]]:
        for record in self.run.records(features):
            yield record, scene_of(self.run, record, self.scorer, "test", self.config)

    # ------------------------------------------------------------------ one feature

    async def _one(self, record: FeatureRecord, shown: AnyScene | str) -> _Found:
        index, found = record.feature.index, _Found(record.feature)
        if isinstance(shown, str):
            found.failed.append(("windows", ValueError(f"{shown}, where there was a score: harvested anew?")))
            return found
        neighbour = next((f for f in record.neighbours if f in self.texts), None) if index in self.wanted else None
        mine = self.own[index] if index in self.wanted else []
        tries = [self.read.attempt(index, False) + 1] * len(mine)
        texts = [one.text for one in mine] + [self.texts[f] for f in self.plan.others[index]]
        texts += [] if neighbour is None else [self.texts[neighbour]]
        tries += [self.before.attempt(index, self.retry_failed) + 1] * (len(texts) - len(mine))
        about = str(record.feature)
        told = await asyncio.gather(
            *(answer(self.predictor, shown, text, about, n) for text, n in zip(texts, tries, strict=True)),
            return_exceptions=True,
        )
        raise_what_ends_the_run(told)
        others = told[len(mine) : len(mine) + len(self.plan.others[index])]
        found.null = np.asarray([np.inf if isinstance(a, BaseException) else value_of(shown, a) for a in others])
        lost = [a for a in others if isinstance(a, Exception)]
        if lost:
            found.failed.append((f"{len(lost)} of {len(others)} labels of other features", lost[0]))
        for one, a in zip(mine, told, strict=False):
            if isinstance(a, Exception):
                found.failed.append(("own label", a))
            elif not isinstance(a, BaseException):
                self._beside(found, one, a, shown, None if neighbour is None else told[-1])
        return found

    def _beside(self, found: _Found, one: _Own, a: Answer, shown: AnyScene, theirs: Any) -> None:
        """The two comparisons that are paired; a failure among them is that of this comparison."""
        if isinstance(theirs, Exception):
            found.failed.append(("the neighbour's label", theirs))
            found.rows.append(self._row(one, found.feature, "neighbour", None))
        elif theirs is not None:
            found.rows.append(self._row(one, found.feature, "neighbour", (shown, a, theirs)))
        if found.feature.index in self.rules:
            try:
                rule = Rule(json.loads(self.rules[found.feature.index]), self.run.lexicon)
                found.rows.append(self._row(one, found.feature, "lexical", (shown, a, executed(shown, rule))))
            except Exception as error:  # noqa: BLE001  one feature's failure is a row, not the end of the night
                found.failed.append(("the lexical rule", error))

    def _row(
        self, one: _Own, feature: FeatureId, comparison: str, pair: tuple[AnyScene, Answer, Answer] | None
    ) -> NullScoreRow:
        """pair: the windows, what is said of them under the label, and under the other; None where that failed."""
        null = low = high = p = lead = None
        n = 0
        if pair is not None:
            shown, a, b = pair
            draws, seed = self.config.draws, seed_of(self.config, feature.index)
            e, at_most = difference(shown, a, b, draws, seed)
            null, lead, low, high, n = finite(value_of(shown, b)), finite(e.value), finite(e.low), finite(e.high), e.n
            if comparison == "neighbour":
                _, no_more = difference(shown, a, np.zeros_like(b), draws, seed)  # than one who says the same of all
                p = finite(float(np.maximum(at_most, no_more)))
        return NullScoreRow(
            one.explanation_id, feature.dictionary, feature.index, self.metric, comparison, null, p, None, lead, low, high, n, "",
            self.predictor.predictor,
        )  # fmt: skip

    # ------------------------------------------------------------------ rows

    def _permuted(self, asked: Sequence[int], found: dict[int, _Found]) -> list[NullScoreRow]:
        """Of all explanations of the features asked about; the pool is of features, each in it once."""
        places = [(f, one, i == 0) for f in asked for i, one in enumerate(self.own[f])]
        nothing = np.empty(0)
        null = {f: found[f].null if f in found else nothing for f in asked}
        p, mean, size = permutation_p(
            np.asarray([one.value for _, one, _ in places]),
            np.asarray([self.plan.strata[f] for f, _, _ in places]),
            [null[f] if first else nothing for f, _, first in places],
            self.config.min_null,
            CHANCE[self.scorer],
        )
        of = {f: float(m) for (f, _, first), m in zip(places, mean, strict=True) if first}
        return [
            NullScoreRow(
                one.explanation_id, self.run.dictionary, f, self.metric, "permuted", finite(of[f]), finite(float(p[i])), None,
                finite(one.value - of[f]), None, None, int(size[i]), "", self.predictor.predictor,
            )
            for i, (f, one, _) in enumerate(places)
        ]  # fmt: skip

    def _write(self, asked: Sequence[int], found: dict[int, _Found], run_id: str) -> None:
        """What the store has already is not written again; what is compared no longer goes."""
        new = {(r.explanation_id, r.comparison): r for r in self._permuted(asked, found)}
        new |= {(r.explanation_id, r.comparison): r for one in found.values() for r in one.rows}
        known = self._known()
        changed = [key for key, row in new.items() if known.get(key) != _values(row)]
        mine = {one.explanation_id for f in self.wanted for one in self.own[f]}
        gone = [key for key in known if key in changed or (key not in new and key[0] in mine)]
        rows: list[Row] = [_with_run(new[key], run_id) for key in changed]
        for one in found.values():
            if one.failed:
                attempt = self.before.attempt(one.feature.index, self.retry_failed)
                rows += self.before.failure_rows(one.feature, one.failed, attempt, run_id)
            elif one.feature.index in self.wanted or one.feature.index in self.before.status:
                rows += self.before.status_rows(one.feature, "done", None, run_id)

        def forget(connection: Any) -> None:
            connection.execute(
                "DELETE FROM null_score WHERE dictionary = $dictionary AND predictor = $predictor AND metric = $metric "
                "AND (explanation_id, comparison) IN (SELECT unnest($ids::VARCHAR[]), unnest($comparisons::VARCHAR[]))",
                dict(zip(("dictionary", "predictor", "metric"), self.who, strict=True))
                | {"ids": [i for i, _ in gone], "comparisons": [what for _, what in gone]},
            )

        if rows or gone:
            self.run.store.replace_now(forget, rows, lambda connection: correct(connection, *self.who))

    # ------------------------------------------------------------------ what the store has

    def _mine(self) -> tuple[str, list[object]]:
        """Of the explanations e of this set."""
        if self.explainer is not None:
            return "e.explainer = ?", [self.explainer]
        return "NOT starts_with(e.explainer, 'imported:')", []

    def _own(self) -> dict[int, list[_Own]]:
        """Explanations with a score, by feature."""
        where, given = self._mine()
        rows = self.run.store.sql(
            "SELECT DISTINCT s.feature, s.explanation_id, e.text, s.value FROM score s JOIN explanation e USING (explanation_id) "
            "WHERE s.dictionary = ? AND s.predictor = ? AND s.metric = ? AND s.split = 'test' AND s.value IS NOT NULL "
            f"AND e.text IS NOT NULL AND {where} ORDER BY ALL",
            [*self.who, *given],
        )
        found: dict[int, list[_Own]] = {}
        for feature, explanation_id, text, value in rows:
            found.setdefault(feature, []).append(_Own(explanation_id, text, value))
        return found

    def _texts(self) -> dict[int, str]:
        """The label of each feature that has one: it can be tried on others."""
        usable = {
            f
            for (f,) in self.run.store.sql(
                "SELECT feature FROM feature WHERE dictionary = ? AND status NOT IN ('dead', 'rare')",
                [self.run.dictionary],
            )
        }
        found = labels_of(self.run, explainer=self.explainer)
        return {f: one[0].text for f, one in found.items() if f in usable and one[0].text.strip() and len(one[0].text) <= LONGEST}  # fmt: skip

    def _rules(self) -> dict[int, str]:
        """The program of each feature's lexical rule; an empty one where the explainer found none."""
        rows = self.run.store.sql(
            "SELECT feature, arg_min(CASE WHEN abstained OR program IS NULL THEN '{}' ELSE program END, (abstained, explanation_id)) "
            "FROM explanation WHERE dictionary = ? AND explainer = ? GROUP BY feature",
            [self.run.dictionary, _LEXICAL],
        )
        return dict(rows)

    def _density(self) -> dict[int, float]:
        return dict(
            self.run.store.sql("SELECT feature, density FROM feature WHERE dictionary = ?", [self.run.dictionary])
        )

    def _known(self) -> dict[_Key, tuple[Any, ...]]:
        where, given = self._mine()
        rows = self.run.store.sql(
            "SELECT n.explanation_id, comparison, null_mean, p_value, difference, low, high, n FROM null_score n "
            f"JOIN explanation e USING (explanation_id) WHERE n.dictionary = ? AND predictor = ? AND metric = ? AND {where}",
            [*self.who, *given],
        )
        return {(i, comparison): tuple(values) for i, comparison, *values in rows}

    def _compared(self) -> set[str]:
        """Explanations that were."""
        return {i for i, comparison in self._known() if comparison == "permuted"}

    def _compared_features(self) -> set[int]:
        done = self._compared()
        return {f for f, mine in self._own().items() if any(one.explanation_id in done for one in mine)}

    def _failed_before(self) -> set[int]:
        rows = self.run.store.sql(
            "SELECT feature FROM stage WHERE dictionary = ? AND stage = ? GROUP BY feature HAVING arg_max(status, rowid) = 'failed'",
            [self.run.dictionary, self.stage],
        )
        return {feature for (feature,) in rows}


def _values(row: NullScoreRow) -> tuple[Any, ...]:
    return row.null_mean, row.p_value, row.difference, row.low, row.high, row.n


def _with_run(row: NullScoreRow, run_id: str) -> NullScoreRow:
    return replace(row, run_id=run_id)
