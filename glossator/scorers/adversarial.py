"""Adversarial: how much better than the base rate of each kind of edit does an explanation foresee what edits do?

Brier skill, 1 - sum (p - y)^2 / sum (b - y)^2, over the experiments of one feature; b is how often edits of that kind fire
on all *other* features. 1 is perfect, 0 knows no more than the kind, below 0 is worse. The predictor never sees the kind.
Texts on which most carriers are weak (active under the threshold) are neither fired nor silent, and are left out.
With the half dozen experiments that a feature has, the interval is wide: read it over features, not one by one.
Blind spot: edits that nobody tried; mechanical edits stay close to real windows, so over-broad labels pass more easily.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glossator.scorers.estimators import brier_skill
from glossator.types import Estimate


@dataclass(frozen=True)
class Outcome:
    """One experiment, predicted and measured."""

    feature: int
    kind: str
    p_fires: float
    fires: bool


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
