"""Can a score fail? How often it ranks the right label of a planted feature above a wrong one, by what is wrong with it.

The figure for a score and a fault is the share of features in which the right label's value is the larger one. Ties count
half and are counted: a score that ties cannot see the fault at all. Chance level 0.5. Beside it stands the AUROC over all
features, right labels against wrong ones under one cut: a score may rank within features and yet mean another thing in each.

A score **does not see** a fault where the lower end of Wilson's interval of that share is under 0.6; if its upper end is over
0.9 all the same, the features were too few to say. Where a score has no value, as without near misses, the feature is left
out, and n says how many are left.

Blind spot: planted features are what somebody thought of. A score that sees all these faults may miss others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu

from glossator.scorers.estimators import wilson
from glossator.types import Estimate

RIGHT = "right"
FAULTS = (
    "narrower", "broader", "neighbour", "correlated", "unrelated", "missing clause", "extra clause", "empty", "constant",
)  # fmt: skip
RIVALS = ("broader", "narrower", "neighbour", "unrelated")  # among which the right label is to rank first
SEES, SURELY = 0.6, 0.9
_SAME = 1e-9

Values = Mapping[str, float]  # of one feature: what its right label and the wrong ones got, by RIGHT and FAULTS


@dataclass(frozen=True)
class Ranked:
    """Right against one fault. share: wins and half of the ties, with Wilson's interval; auroc: over all features."""

    share: Estimate
    ties: int
    auroc: float

    @property
    def seen(self) -> bool:
        """False where nothing could be compared, too."""
        return self.share.n > 0 and self.share.low >= SEES


def known(values: Sequence[Values], faults: Iterable[str]) -> list[Values]:
    """Features in which the right label and all of these faults have a value."""
    wanted = (RIGHT, *faults)
    return [one for one in values if all(math.isfinite(one.get(name, math.nan)) for name in wanted)]


def ranked(values: Sequence[Values], fault: str) -> Ranked:
    seen = known(values, (fault,))
    right, wrong = (np.asarray([one[name] for one in seen]) for name in (RIGHT, fault))
    ties = int((np.abs(right - wrong) <= _SAME).sum())
    wins = int((right > wrong + _SAME).sum())
    return Ranked(wilson(wins + ties / 2, len(seen)), ties, _auroc(right.tolist(), wrong.tolist()))


def first(values: Sequence[Values], rivals: Sequence[str] = RIVALS) -> Estimate:
    """How often the right label ranks first among these; a shared first place counts as its share of it."""
    seen = known(values, rivals)
    total = 0.0
    for one in seen:
        others = [one[name] for name in rivals]
        if one[RIGHT] >= max(others) - _SAME:
            total += 1 / (1 + sum(abs(other - one[RIGHT]) <= _SAME for other in others))
    return wilson(total, len(seen))


def _auroc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """NaN of nothing."""
    return float(mannwhitneyu(right, wrong).statistic / len(right) ** 2) if right else math.nan


def in_words(score: str, table: Mapping[str, Ranked], faults: Iterable[str] = FAULTS) -> str:
    """What a score does not see, from the figures alone. Where the interval reaches far up, features are too few to say."""
    shown = {fault: table[fault] for fault in faults if fault in table}
    unseen = {fault: one for fault, one in shown.items() if one.share.n and not one.seen}
    groups = {
        "does not see": [_said(fault, one) for fault, one in unseen.items() if one.share.high < SURELY],
        "too few features to say whether it sees": [
            _said(fault, one) for fault, one in unseen.items() if one.share.high >= SURELY
        ],
        "without a value": [fault for fault, one in shown.items() if not one.share.n],
    }
    parts = [f"{what}: {', '.join(members)}" for what, members in groups.items() if members]
    return f"{score} " + ("; ".join(parts) if parts else "sees every fault that it was shown")


def _said(fault: str, one: Ranked) -> str:
    tied = f", {one.ties} of {one.share.n} tied" if one.ties else ""
    return f"{fault} ({one.share.value:.2f} [{one.share.low:.2f}, {one.share.high:.2f}]{tied})"
