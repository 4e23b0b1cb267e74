"""Adversarial: how much better than the base rate of each kind of edit does an explanation foresee what edits do?

Brier skill over the experiments of one feature, 1 - sum (p - y)^2 / sum b (1 - b); b = (k + 1/2) / (n + 1) is how often edits
of that kind fire on all *other* features, and b (1 - b) the Brier score that this rate is expected to have. 1 is perfect,
0 is what the kind alone lets one expect, below 0 is worse. The predictor never sees the kind. The reference is the expected
score and not the one that came out, because half a dozen outcomes that happen to be what their kinds do every time give
one near zero, and skills of -20; over all features the two references sum to the same. Where the kinds alone tell what
happens (under 0.1 in sum) there is no value.

Beside it, each a metric of its own:

- `adversarial_precision`, `adversarial_recall`: of the experiments that were predicted to fire, the share that did; of
  those that fired, the share that was predicted to. Chance: the base rate; half, for a coin.
- `activation_rate`: the share of texts written to fire that do. `boundary_rate`: the share of near misses that stay
  silent. `activation_boundary`: their harmonic mean, as published agents report it. They judge the writer together with
  the label, and ask no predictor: a writer that sees through a wrong label is not noticed.
- `trigger_span`: tokens of the smallest piece around the peak that still fires, of those that were tried.
  `context_dependence`: the share of the peak's activation in the corpus that its word loses when it is run alone. Both
  are about the feature, from one window: they vary by window.

Texts on which most carriers are weak (active under the threshold) are neither fired nor silent, and are left out.
With the half dozen experiments that a feature has, the interval is wide: read it over features, not one by one.
Blind spot: edits that nobody tried; mechanical edits stay close to real windows, so over-broad labels pass more easily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glossator.scorers.bounds import Measured, missing
from glossator.scorers.estimators import brier_skill, wilson
from glossator.types import Estimate

METRICS = (
    "adversarial", "adversarial_precision", "adversarial_recall", "activation_rate", "boundary_rate", "activation_boundary",
    "trigger_span", "context_dependence",
)  # fmt: skip
WRITTEN = ("activation_rate", "boundary_rate", "activation_boundary")  # of texts that a model wrote
_NAN = float("nan")


@dataclass(frozen=True)
class Outcome:
    """One experiment, predicted and measured."""

    feature: int
    kind: str
    p_fires: float
    fires: bool


@dataclass(frozen=True)
class Step:
    """One step of a bisection: how many tokens around the peak were run alone, and the share of its activation that was left."""

    tokens: int
    radius: int
    fires: bool
    left: float | None = None  # None: what it was in the corpus is not known


def base_rates(outcomes: Sequence[Outcome]) -> dict[str, tuple[int, int]]:
    """(fired, all) by kind over all features."""
    rates: dict[str, tuple[int, int]] = {}
    for one in outcomes:
        fired, n = rates.get(one.kind, (0, 0))
        rates[one.kind] = (fired + one.fires, n + 1)
    return rates


def adversarial(mine: Sequence[Outcome], rates: Mapping[str, tuple[int, int]]) -> Estimate:
    """`mine`: one feature's experiments under one explanation; its own outcomes are taken out of the base rates."""
    own = base_rates(mine)
    base = []
    for one in mine:
        fired, n = rates[one.kind][0] - own[one.kind][0], rates[one.kind][1] - own[one.kind][1]
        base.append((fired + 0.5) / (n + 1))
    return brier_skill(
        np.asarray([o.p_fires for o in mine]), np.asarray([float(o.fires) for o in mine]), np.asarray(base)
    )


def adversarial_metrics(
    mine: Sequence[Outcome], rates: Mapping[str, tuple[int, int]], steps: Sequence[Step] = ()
) -> dict[str, Measured]:
    """METRICS of one explanation; what has no value has a note that says why. steps: the bisection of the same pool."""
    skill = adversarial(mine, rates)
    nothing = "the kinds of its experiments alone tell what happens" if mine else "every experiment left it weak"
    told, fired = [o for o in mine if o.p_fires >= 0.5], [o for o in mine if o.fires]
    positive, boundary = ([o for o in mine if o.kind == kind] for kind in ("positive", "boundary"))
    unwritten = "no text {} was written, or all left it weak"
    return {
        "adversarial": missing(nothing, len(mine)) if np.isnan(skill.value) else Measured(skill),
        "adversarial_precision": _share([o.fires for o in told], "nothing was predicted to fire"),
        "adversarial_recall": _share([o.p_fires >= 0.5 for o in fired], "nothing fired"),
        "activation_rate": _share([o.fires for o in positive], unwritten.format("that should fire")),
        "boundary_rate": _share([not o.fires for o in boundary], unwritten.format("that should nearly fire")),
        "activation_boundary": _harmonic(positive, boundary),
        "trigger_span": _span(steps),
        "context_dependence": _dependence(steps),
    }


def _share(true: Sequence[bool], lacking: str) -> Measured:
    return Measured(wilson(sum(true), len(true))) if true else missing(lacking)


def _harmonic(positive: Sequence[Outcome], boundary: Sequence[Outcome]) -> Measured:
    if not positive or not boundary:
        return missing("needs texts that should fire and texts that should nearly fire")
    a = float(np.mean([o.fires for o in positive]))
    b = float(np.mean([not o.fires for o in boundary]))
    value = 2 * a * b / (a + b) if a + b > 0 else 0.0
    return Measured(Estimate(value, _NAN, _NAN, len(positive) + len(boundary)))


def _span(steps: Sequence[Step]) -> Measured:
    fires = [step.tokens for step in steps if step.fires]
    if not fires:
        return missing("no piece around the peak fires alone" if steps else "nothing was bisected", len(steps))
    return Measured(Estimate(float(min(fires)), _NAN, _NAN, len(steps)))


def _dependence(steps: Sequence[Step]) -> Measured:
    alone = [step for step in steps if step.radius == 0]
    if not alone:
        return missing("the peak's word was not run alone")
    if alone[0].left is None:
        return missing("an earlier version ran the peak's word, and kept no activation to compare with")
    return Measured(Estimate(1 - min(1.0, alone[0].left), _NAN, _NAN, 1))
