"""What the ratings of a run say: means, agreement between raters, and how each score ranks what people ranked.

A label's rating is the mean over its raters, 1 (wrong) to 5 (right); a feature's preference, what most of its raters
preferred. So intervals are over labels or features, never over judgements: two people who rate one label are no two
labels. Skipped labels are counted and have no rating. The sample is spread evenly over densities and scores, so a mean is
one of the sample and not of all labels, and a correlation is higher than it would be in a sample of like labels. Scores are those of the split `test`, each predictor by itself;
of a label that has no value of a score nothing is made up: n says how many have.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from glossator.agents.others.ratings import A_BETTER, ALIKE, B_BETTER, GRADES, NEITHER, SKIPPED
from glossator.agents.run import Run
from glossator.scorers.agreement import kappa, mean, same_side, spearman
from glossator.scorers.bounds import Measured
from glossator.scorers.estimators import wilson
from glossator.types import Estimate

_GONE = "(no longer in the run)"  # the explainer of an explanation that was replaced since
_LOWER_IS_BETTER = frozenset({"false_positive_rate"})
_Scores = dict[tuple[str, str], dict[str, float]]  # (metric, predictor) -> label -> value


@dataclass(frozen=True)
class _Judged:
    """One judgement. Of a pair, `a` was shown first."""

    feature: int
    a: str
    b: str | None
    judgement: str
    rater: str

    @property
    def prefers(self) -> str:
        """The label that is preferred, or the judgement itself where none is."""
        sides = {A_BETTER: self.a, B_BETTER: str(self.b)}
        return sides.get(self.judgement, self.judgement)


@dataclass(frozen=True)
class Between:
    """Two raters on what both rated: how often they said the same, and their kappa."""

    raters: tuple[str, str]
    pairs: bool
    same: Estimate
    kappa: Measured


@dataclass(frozen=True)
class Duel:
    """Two explainers over the features for which people compared their labels; `share` of the first among those decided."""

    explainers: tuple[str, str]
    wins: tuple[int, int]
    alike: int
    neither: int
    split: int  # raters disagree, none ahead
    share: Estimate
    scores: dict[tuple[str, str], Measured]  # how often a score prefers the same side


@dataclass(frozen=True)
class Summary:
    """`shown_first`: how often the label that was shown first was preferred, of all judgements that prefer one."""

    raters: dict[str, int]
    skipped: int
    labels: int
    means: dict[str, Measured]
    between: tuple[Between, ...]
    scores: dict[tuple[str, str], Measured]
    duels: tuple[Duel, ...]
    shown_first: Estimate

    @property
    def ratings(self) -> int:
        return sum(self.raters.values())


def summarise(run: Run) -> Summary:
    rows = run.store.sql(
        "SELECT feature, explanation_id, rival_id, judgement, rater FROM rating WHERE dictionary = ? ORDER BY rated_at, rating_id",
        [run.dictionary],
    )
    every = [_Judged(*row) for row in rows]
    told = [one for one in every if one.judgement != SKIPPED]
    single, pairs = [one for one in told if one.b is None], [one for one in told if one.b is not None]
    wrote = _explainers(run)
    scores = _scores(run, {one.a for one in told} | {one.b for one in pairs if one.b is not None})
    rated: dict[str, list[int]] = defaultdict(list)
    for one in single:
        rated[one.a].append(1 + GRADES.index(one.judgement))
    rating = {label: float(np.mean(grades)) for label, grades in rated.items()}
    by: dict[str, list[float]] = defaultdict(list)
    for label, value in rating.items():
        by[wrote.get(label, _GONE)].append(value)
    return Summary(
        dict(Counter(one.rater for one in told)),
        len(every) - len(told),
        len(rating),
        {name: mean(np.asarray(values)) for name, values in sorted(by.items())},
        (*_between(single, pairs=False), *_between(pairs, pairs=True)),
        {which: _correlated(rating, values) for which, values in scores.items() if values.keys() & rating.keys()},
        _duels(pairs, wrote, scores),
        wilson(sum(p.judgement == A_BETTER for p in pairs), sum(p.judgement in (A_BETTER, B_BETTER) for p in pairs)),
    )


def _explainers(run: Run) -> dict[str, str]:
    rows = run.store.sql("SELECT explanation_id, explainer FROM explanation WHERE dictionary = ?", [run.dictionary])
    return dict(rows)


def _scores(run: Run, labels: set[str]) -> _Scores:
    found: _Scores = defaultdict(dict)
    for metric, predictor, label, value in run.store.sql(
        "SELECT metric, predictor, explanation_id, value FROM score WHERE dictionary = ? AND split = 'test' AND value IS NOT NULL "
        "AND explanation_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY metric, predictor, explanation_id",
        [run.dictionary, sorted(labels)],
    ):
        found[metric, predictor][label] = value
    return found


def _correlated(rating: dict[str, float], values: dict[str, float]) -> Measured:
    both = [label for label in rating if label in values]
    return spearman(np.asarray([rating[x] for x in both]), np.asarray([values[x] for x in both]))


def _between(judged: Sequence[_Judged], *, pairs: bool) -> list[Between]:
    """Every two raters who rated something in common."""
    said: dict[str, dict[frozenset[str | None], str]] = defaultdict(dict)
    for one in judged:
        said[one.rater][frozenset({one.a, one.b})] = one.prefers
    found = []
    for a, b in combinations(sorted(said), 2):
        both = [what for what in said[a] if what in said[b]]
        if not both:
            continue
        ours, theirs = ([_number(said[who][what], what, pairs=pairs) for what in both] for who in (a, b))
        same = wilson(sum(x == y for x, y in zip(ours, theirs, strict=True)), len(both))
        beyond = kappa(np.asarray(ours), np.asarray(theirs), 4 if pairs else len(GRADES), graded=not pairs)
        found.append(Between((a, b), pairs, same, beyond))
    return found


def _number(said: str, what: frozenset[str | None], *, pairs: bool) -> int:
    """A category: the grade, or which of the two labels, in an order that does not depend on how they were shown."""
    if not pairs:
        return GRADES.index(said)
    return (*sorted(map(str, what)), ALIKE, NEITHER).index(said)


def _duels(pairs: Sequence[_Judged], wrote: dict[str, str], scores: _Scores) -> tuple[Duel, ...]:
    about: dict[frozenset[str], list[_Judged]] = defaultdict(list)
    for one in pairs:
        about[frozenset({one.a, str(one.b)})].append(one)
    between: dict[tuple[str, str], list[tuple[str, str, list[_Judged]]]] = defaultdict(list)
    for labels, judged in about.items():
        x, y = sorted(labels, key=lambda label: (wrote.get(label, _GONE), label))
        names = (wrote.get(x, _GONE), wrote.get(y, _GONE))
        between[names].append((x, y, judged))
    return tuple(_duel(names, members, scores) for names, members in sorted(between.items()))


def _duel(names: tuple[str, str], members: list[tuple[str, str, list[_Judged]]], scores: _Scores) -> Duel:
    sides, outcomes = [], Counter[str]()
    for x, y, judged in members:
        votes = Counter(one.prefers for one in judged)
        side = int(np.sign(votes[x] - votes[y]))
        sides.append(side)
        undecided = "split" if votes[x] else ALIKE if votes[ALIKE] >= votes[NEITHER] else NEITHER
        outcomes["x" if side > 0 else "y" if side < 0 else undecided] += 1
    compared = {}
    for (metric, predictor), values in scores.items():
        sign = -1 if metric in _LOWER_IS_BETTER else 1
        difference = [sign * (values.get(x, np.nan) - values.get(y, np.nan)) for x, y, _ in members]
        if np.isfinite(difference).any():
            compared[metric, predictor] = same_side(np.asarray(sides), np.asarray(difference))
    share = wilson(outcomes["x"], outcomes["x"] + outcomes["y"])
    return Duel(
        names, (outcomes["x"], outcomes["y"]), outcomes[ALIKE], outcomes[NEITHER], outcomes["split"], share, compared
    )
