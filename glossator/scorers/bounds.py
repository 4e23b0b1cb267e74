"""What can be said of a false-positive rate when hardly any false positive was seen, and what follows for precision.

A corpus has far more silent windows than firing ones: one false positive among 2,000 background windows may stand for
more windows than the feature has. A weighted precision is then a coin's throw. So under ten false positives only bounds
are given: an upper one on the rate (Clopper and Pearson 1934, one-sided, exact), and from it a lower one on precision.

False positives come in clusters: a label that is too broad fails in the same documents again and again. As in Korn and
Graubard (1998), counts are divided by their design effect, here the mean number of false positives of the document that
a false positive is found in. Without a repetition this is the exact bound.

What it cannot do: a cluster of which nothing was seen is not bounded by anything. For the split's own windows the bound
held in 99% of draws and more (benchmarks/coverage.py); for a corpus of which the split is a small part, and false
positives that come in threes, in 85 to 90% where five to ten were to be expected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

from glossator.types import Estimate, Floats, Ints

FEWEST = 10  # false positives, from which on a rate has an interval and a precision has a value
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Measured:
    """An estimate, and what has to be known about it: why there is no value, or that it is a bound."""

    estimate: Estimate
    note: str | None = None


def missing(reason: str, n: int = 0) -> Measured:
    """No value; never 0."""
    return Measured(Estimate(_NAN, _NAN, _NAN, n), reason)


def kish(mass: Floats) -> float:
    """The effective number of what has these masses: (sum m)^2 / sum m^2; 0 of nothing."""
    total = float((mass * mass).sum())
    return float(mass.sum()) ** 2 / total if total > 0 else 0.0


def upper_rate(count: float, n: float, level: float) -> float:
    """Clopper and Pearson's one-sided upper bound; counts need not be whole."""
    return float(betaincinv(count + 1, n - count, level)) if count < n else 1.0


def false_positive_bound(document: Ints, n: int, level: float = 0.95) -> float:
    """Upper bound on the rate among n silent windows; document: where each false positive was found."""
    count = len(document)
    if not count:
        return upper_rate(0, n, level)
    effective = kish(np.unique(document, return_counts=True)[1].astype(np.float64))
    return upper_rate(effective, n * effective / count, level)


def few_false_positives(document: Ints, n: int) -> Measured:
    """The rate with an upper bound that holds in 95%, for fewer than ten; silent windows of a census weigh the same."""
    rate = Estimate(len(document) / n, 0.0, false_positive_bound(document, n), n)
    return Measured(rate, f"{_seen(len(document), n)}: an upper bound, one-sided")


def at_least(low: float, seen: int, of: int, n: int) -> Measured:
    """A lower bound where too few false positives were seen for a value."""
    return Measured(Estimate(_NAN, low, _NAN, n), f"{_seen(seen, of)}: a lower bound, no value")


def precision_bound(hits: float, rate: float) -> float:
    """hits: predicted firing mass over silent mass, at least; rate: of false positives, at most."""
    return hits / (hits + rate) if hits > 0 else 0.0


def f1_bound(hits: float, recall: float, rate: float) -> float:
    """2 / (1 / recall + 1 / precision) at the worst of all three."""
    return 2 * hits / (hits + hits / recall + rate) if hits > 0 and recall > 0 else 0.0


def _seen(count: int, n: int) -> str:
    return f"{count} false positive{'' if count == 1 else 's'} among {n} silent windows, under {FEWEST}"
