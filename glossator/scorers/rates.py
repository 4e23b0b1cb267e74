"""How well does p(fires) tell firing windows from silent ones, over the whole corpus? Weighted rates with intervals.

`census` joins one feature's active windows and background into windows whose weights add up to the corpus:

- `top` is a certainty stratum: every such window was kept, so each stands for itself (weight 1);
- `sample` was drawn uniformly from the other active windows and stands for them;
- `silent` are the background windows on which the feature is off; they stand for all silent windows, whose number is known.

Weak windows (active, under the threshold) keep their weight and are left out of every rate: neither a hit nor a false
alarm. Near misses have weight 0 and are dropped; `against_near` puts them in the place of the silent windows.

**Intervals.** A Bayesian bootstrap over documents (Rubin 1981): every draw gives each document a weight from Exp(1), and
all windows of a document, of whatever stratum, share it. Nothing about the top windows is random within their split; but
a split is a draw of the corpus's documents, and top windows come and go with their documents. So intervals are for
"other documents like these", and wider than the split's own figures need. Three repairs, measured by benchmarks/coverage.py:

- No draw shows a miss where none was seen. So the lower end is taken with made-up windows among the drawn ones, the worst
  that this predictor could have had (a firing window ranked last, a silent one ranked first), the upper end with the best.
  They have the mass of Gamma(1/2) effective windows, as in Jeffreys' prior; false alarms Gamma(1), as in Clopper and
  Pearson's bound. An effective window has the mass sum w^2 / sum w (Kish); a false alarm, of
  as many windows as false positives come together in a document.
- Draws from Exp(1) have D / (D + 1) times the variance of D documents, where an unbiased estimate has D / (D - 1): the
  distance of the ends from the value grows by the root of their ratio. D is the effective number of firing documents; of
  documents with false positives, where those are fewer and matter.
- An interval holds its value and stays within the metric's range.

What it does not do: the harvest does not keep how many active windows each document has, so what depends on the base
rate (precision, F1, Brier skill) comes out a little wide. Under five firing documents bounds are NaN: too few to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from glossator.scorers.bounds import (
    FEWEST,
    Measured,
    at_least,
    f1_bound,
    false_positive_bound,
    few_false_positives,
    kish,
    missing,
    precision_bound,
)
from glossator.scorers.formulas import RATES, Sums
from glossator.types import Bools, Estimate, Floats, Ints, Sample, Windows

CUT = 0.5  # a window is predicted to fire from this probability on
METRICS = ("auroc", "auprc", "precision", "recall", "f1", "balanced_accuracy", "false_positive_rate", "brier_skill")
_TAIL = 0.025
_MIN_DOCUMENTS = 5
_LEAST_EFFECTIVE = 1.25  # documents: fewer would stretch an interval more than threefold


# --------------------------------------------------------------------------- windows that stand for the corpus


@dataclass(frozen=True)
class Census:
    """Windows with weights that add up to the corpus. The sample's strata: top, sample, silent."""

    sample: Sample
    fires: Bools  # [n]
    weak: Bools  # [n]: in no rate


def census(active: Sample, background: Sample, threshold: float) -> Census:
    """Of one feature and split, as `FeatureRecord` has them. Silent windows share what the active ones leave."""
    silent = background.take(np.flatnonzero(~(background.activations > 0).any(1)))
    left = background.weight.sum() - active.weight.sum()  # the sizes of both strata are exact
    return _join(active, silent, left / max(len(silent.weight), 1), threshold)


def against_near(active: Sample, near: Sample, threshold: float) -> Census:
    """Near misses in the place of silent windows, each counting 1: hard, and no estimate of anything in the corpus."""
    return _join(active, near, 1.0, threshold)


def _join(active: Sample, silent: Sample, weight: float, threshold: float) -> Census:
    a, b, n = active.windows, silent.windows, len(silent.weight)
    windows = Windows(
        np.concatenate([a.ids, b.ids]), np.concatenate([a.document, b.document]), a.start,
        np.concatenate([a.window_id, b.window_id]),
    )  # fmt: skip
    sample = Sample(
        windows,
        np.concatenate([active.activations, silent.activations]),
        np.concatenate([active.stratum, np.full(n, "silent")]),
        np.concatenate([active.weight, np.full(n, weight)]),
        np.concatenate([active.quantile, silent.quantile]),
    )
    strongest = sample.activations.max(1, initial=0)
    fires = strongest >= threshold
    return Census(sample, fires, (strongest > 0) & ~fires)


# --------------------------------------------------------------------------- draws


@dataclass(frozen=True)
class Draws:
    """Weights of documents, made once for a split and shared by all its features and labels: differences are paired.

    documents [d] sorted; times [d, draws] float32; made_up [4, draws]: how much of a hit, miss, false alarm and quiet
    silent window is added, in effective windows.
    """

    documents: Ints
    times: Floats
    made_up: Floats

    def of(self, documents: Ints) -> Draws:
        """The same draws without documents that are not among these, where that spares much."""
        kept = np.isin(self.documents, documents)
        if 2 * kept.sum() > len(kept):
            return self
        return Draws(self.documents[kept], self.times[kept], self.made_up)


def draw(documents: Ints, draws: int, seed: int) -> Draws:
    """For windows of these documents, which may repeat."""
    rng = np.random.default_rng(seed)
    unique = np.unique(documents)
    times = rng.standard_exponential((len(unique), draws), dtype=np.float32)
    shape = np.array([0.5, 0.5, 1.0, 0.5])[:, None]
    return Draws(unique, times, rng.gamma(shape, size=(4, draws)).astype(np.float32))


# --------------------------------------------------------------------------- rates


def rates(
    p: Floats, seen: Census, draws: Draws, metrics: Sequence[str] = METRICS, cut: float = CUT
) -> dict[str, Measured]:
    """p [n]: predicted p(fires) on the windows of the census."""
    kept = ~seen.weak
    weight, document = seen.sample.weight[kept], seen.sample.windows.document[kept]
    return measure(np.asarray(p)[kept], seen.fires[kept], weight, document, draws, metrics, cut)


def measure(
    p: Floats, fires: Bools, weight: Floats, document: Ints, draws: Draws,
    metrics: Sequence[str] = METRICS, cut: float = CUT,
) -> dict[str, Measured]:  # fmt: skip
    """The same over plain arrays [n]: firing and silent windows; those of weight 0 are left out.

    A metric without a value has a note that says why. Under ten false positives the rate has an upper bound, and
    precision and F1 (AUPRC: under ten silent windows above half of the firing ones) a lower bound in place of a value.
    `balanced_accuracy` is for comparison with others only: it hides false positives of rare features.
    Raises ValueError where a prediction is no number, or the draws are not for these documents.
    """
    if not np.isfinite(p).all():
        raise ValueError("a window has no prediction: leave it out, or count the feature as a failure")
    kept = weight > 0
    p, fires, weight, document = (np.asarray(x)[kept] for x in (p, fires, weight, document))
    n_fires = int(fires.sum())
    if n_fires in (0, len(p)):
        reason = "no silent window beside the firing ones" if n_fires else "no firing window"
        return {name: missing(reason, len(p)) for name in metrics}
    if not np.isin(document, draws.documents).all():
        raise ValueError("a window's document is not among those that the draws were made for")
    draws = draws.of(document)
    place = np.searchsorted(draws.documents, document)
    of = len(draws.documents), cut, "auroc" in metrics, "auprc" in metrics
    scene = _Ranked(p, fires, weight, place, *of)
    wanted = [name for name in metrics if name != "false_positive_rate"] + ["recall", "specificity", "hits"]
    found = _estimates(scene, draws, list(dict.fromkeys(wanted)))
    return {name: _told(name, found, scene) for name in metrics}


def auroc_draws(p: Floats, fires: Bools, weight: Floats, document: Ints, draws: Draws) -> Floats:
    """[draws] AUROC under each draw, nothing made up: for differences of predictors on the same windows, all of weight > 0."""
    draws = draws.of(document)
    place = np.searchsorted(draws.documents, document)
    s = _Ranked(p, fires, weight, place, len(draws.documents), CUT, True, False).sums(draws.times)
    return np.asarray(1 - s.lost / (s.fires * s.silent), np.float64)


def _estimates(scene: _Ranked, draws: Draws, wanted: list[str]) -> dict[str, Estimate]:
    """Values with two-sided intervals, whatever may be told of them."""
    one = scene.sums(np.ones((scene.documents, 1)))
    drawn, made_up = scene.sums(draws.times), draws.made_up * scene.effective[:, None]
    nothing, zero = np.zeros((4, 1)), np.zeros_like(made_up[0])
    worst, best = (zero, made_up[1], made_up[2], zero), (made_up[0], zero, zero, made_up[3])
    value = np.array([RATES[name](one, *nothing)[0] for name in wanted])
    low = _quantile(np.stack([RATES[name](drawn, *worst) for name in wanted]), _TAIL)
    high = _quantile(np.stack([RATES[name](drawn, *best) for name in wanted]), 1 - _TAIL)
    wider = np.array([scene.wider(name) for name in wanted])
    floor = np.array([-np.inf if name == "brier_skill" else 0.0 for name in wanted])
    ceiling = np.array([np.inf if name == "hits" else 1.0 for name in wanted])
    value = np.clip(value, floor, ceiling)  # a perfect reversal comes out a rounding error below 0
    low = np.maximum(value + np.minimum(low - value, 0) * wider, floor)
    high = np.minimum(value + np.maximum(high - value, 0) * wider, ceiling)
    rows = zip(wanted, value.tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Estimate(v, a, b, len(scene.p)) for name, v, a, b in rows}


def _quantile(drawn: Floats, share: float) -> Floats:
    """Of each row, outwards of where it falls between two draws."""
    at = share * (drawn.shape[1] - 1)
    return np.asarray(np.sort(drawn, 1)[:, int(np.floor(at) if share < 0.5 else np.ceil(at))], np.float64)


def _told(name: str, found: dict[str, Estimate], scene: _Ranked) -> Measured:
    """What may be said of a metric, given how many false positives were seen."""
    false, n_silent, n = scene.false_documents, int((~scene.fires).sum()), len(scene.p)
    few = len(false) < FEWEST
    if name == "false_positive_rate":
        if few:
            return few_false_positives(false, n_silent)
        right = found["specificity"]
        return Measured(Estimate(1 - right.value, 1 - right.high, 1 - right.low, n_silent))
    if name == "precision" and not (scene.p >= scene.cut).any():
        return missing("nothing is predicted to fire", n)
    if name in ("precision", "f1") and few and scene.enough:
        rate = false_positive_bound(false, n_silent, 1 - _TAIL)
        hits, recall = found["hits"].low, found["recall"].low
        bound = precision_bound(hits, rate) if name == "precision" else f1_bound(hits, recall, rate)
        return at_least(bound, len(false), n_silent, n)
    if name == "auprc" and scene.above_half < FEWEST and scene.enough:
        return at_least(found[name].low, scene.above_half, n_silent, n)
    return _checked(found[name], scene)


def _checked(e: Estimate, scene: _Ranked) -> Measured:
    if scene.enough:
        return Measured(e)
    return Measured(Estimate(e.value, np.nan, np.nan, e.n), f"under {_MIN_DOCUMENTS} firing documents: no interval")


# --------------------------------------------------------------------------- sums over documents


@dataclass(frozen=True)
class _Ranked:
    """One predictor's windows, sorted once: whatever documents weigh, a matrix product gives all masses."""

    p: Floats
    fires: Bools
    weight: Floats
    place: Ints  # of the window's document
    documents: int
    cut: float
    ranks: bool  # pairs of a firing and a silent window are wanted
    curves: bool  # masses by prediction are wanted, too
    effective: Floats = field(init=False)  # [4] mass of an effective window: firing, firing, silent, silent
    false_documents: Ints = field(init=False)
    firing_documents: Floats = field(init=False)  # mass in each

    def __post_init__(self) -> None:
        fires, w = self.fires, self.weight
        mass = [w[kind].sum() / kish(w[kind]) for kind in (fires, fires, ~fires, ~fires)]
        false = self.place[~fires & (self.p >= self.cut)]
        mass[2] *= max(len(false), 1) / max(kish(np.bincount(false).astype(np.float64)), 1)  # they come in clusters
        object.__setattr__(self, "effective", np.asarray(mass, np.float32))
        object.__setattr__(self, "false_documents", false)
        object.__setattr__(self, "firing_documents", self._by_document(w * fires))

    def _by_document(self, mass: Floats) -> Floats:
        return np.bincount(self.place, mass, self.documents)

    @property
    def enough(self) -> bool:
        return int((self.firing_documents > 0).sum()) >= _MIN_DOCUMENTS

    @property
    def above_half(self) -> int:
        """Silent windows predicted as high as half of the firing mass is."""
        order = np.argsort(-self.p[self.fires], kind="stable")
        mass = self.weight[self.fires][order].cumsum()
        median = self.p[self.fires][order][np.searchsorted(mass, mass[-1] / 2)]
        return int((self.p[~self.fires] >= median).sum())

    def wider(self, name: str) -> float:
        """By how much an interval from Exp(1) weights has to grow."""
        firing = kish(self.firing_documents)
        false = kish(np.bincount(self.false_documents).astype(np.float64))
        few = {"specificity": false, "precision": min(firing, false), "f1": min(firing, false)}.get(name, firing)
        few = max(few, _LEAST_EFFECTIVE)
        return float(np.sqrt((few + 1) / (few - 1)))

    def sums(self, times: Floats) -> Sums:
        """times [documents, draws]."""
        said, w, fires = self.p >= self.cut, self.weight, self.fires
        terms = [
            self._by_document(x)
            for x in (w * fires, w * ~fires, w * (fires & said), w * (~fires & said), w * (self.p - fires) ** 2)
        ]
        firing, silent, hits, false, error = np.stack(terms).astype(times.dtype) @ times
        ends = float(self.p.min()), float(self.p.max())
        return Sums(firing, silent, hits, false, error, *ends, *self._curves(times))

    def _curves(self, times: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """at, above, true, lost: what is not wanted stays empty."""
        none, kind = np.empty((0, times.shape[1])), times.dtype
        if not (self.ranks or self.curves):
            return none, none, none, none
        documents, mass, above, half = self._levels
        if not self.curves and mass.shape[1] > len(documents):  # fewer documents than levels: sum over them instead
            pairs = (mass @ half).astype(kind) @ times
            return none, none, none, np.einsum("ij,ij->j", times[documents], pairs)
        at = mass.T.astype(kind) @ times[documents]
        over = above.astype(kind) @ times
        lost = np.einsum("ij,ij->j", at, over if half is above else half.astype(kind) @ times)
        return at, over, at.cumsum(0) if self.curves else none, lost

    @cached_property
    def _levels(self) -> tuple[Ints, Floats, Floats, Floats]:
        """By the m distinct predictions on firing windows, falling: the firing documents [f] and their mass [f, m] at each.

        Then [m, documents], twice: the silent mass with this prediction or a higher one, all of it and without half of the level.
        """
        d, firing, silent = self.documents, np.flatnonzero(self.fires), np.flatnonzero(~self.fires)
        steps, level = np.unique(-self.p[firing], return_inverse=True)
        documents, row = np.unique(self.place[firing], return_inverse=True)
        m, shape = len(steps), (len(documents), len(steps))
        mass = np.bincount(row * m + level, self.weight[firing], shape[0] * m).reshape(shape)
        q, heavy = -self.p[silent], self.weight[silent]
        step = np.searchsorted(steps, q, side="left")  # the highest level that is not above q; m: all are
        cell = step * d + self.place[silent]
        above = np.bincount(cell, heavy, (m + 1) * d).reshape(m + 1, d)[:m].cumsum(0)
        tied = np.append(steps, np.nan)[step] == q
        if not tied.any():
            return documents, mass, above, above
        return documents, mass, above, above - np.bincount(cell[tied], heavy[tied], m * d).reshape(m, d) / 2
