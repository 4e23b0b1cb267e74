"""Do the intervals of weighted rates cover? Brute force over a whole small corpus, many draws of the harvest's design.

    .venv/bin/python benchmarks/coverage.py --draws 500

Makes corpora in which both the feature and the predictor depend on the document, and whole corpora of truth: 20,000
windows in 400 documents of unlike lengths, features of several densities, predictors of several kinds. Each draw of the
design takes 30% of the documents as the split, then the 20 strongest windows, 60 other active ones and 2,048 of background, as a
harvest does. Prints how often intervals hold the figure of the whole corpus, for each density and predictor; where fewer
than ten false positives are to be expected, how often the bounds hold; and what both do about the split's own figure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from glossator.scorers.bounds import FEWEST, Measured
from glossator.scorers.rates import CUT, METRICS, draw, measure
from glossator.types import Bools, Floats, Ints

DENSITIES = (0.006, 0.02, 0.08, 0.25)
# correlation with the feature, times too broad, levels of p (0: continuous), share of its errors that documents decide
PREDICTORS = {
    "sharp": (0.95, 1.0, 0, 0.3),
    "broad": (0.8, 3.0, 11, 0.3),
    "vague": (0.5, 1.0, 11, 0.3),
    "rule": (0.9, 2.0, 2, 0.3),
    "narrow": (0.99, 0.5, 0, 0.3),
    "topic": (0.8, 1.5, 11, 0.8),
    "sober": (0.8, 0.2, 11, 0.8),
}
TOP, SAMPLE, BACKGROUND, SHARE, LEAST = 20, 60, 2048, 0.3, 30
BOUNDED = ("precision", "f1", "auprc", "false_positive_rate")
Estimator = Callable[[Floats, Bools, Floats, Ints, int], dict[str, Measured]]


@dataclass(frozen=True)
class Corpus:
    """Every window of it, of one feature: what a reader of the whole corpus would know."""

    document: Ints  # [n]
    activation: Floats  # [n] maximum of each window
    threshold: float
    p: dict[str, Floats]

    @property
    def counted(self) -> Bools:
        return (self.activation == 0) | (self.activation >= self.threshold)


def corpus(density: float, within: float, seed: int, documents: int = 400, n: int = 20_000) -> Corpus:
    """within: share of the feature's strength that the document decides."""
    rng = np.random.default_rng(seed)
    length = rng.gamma(2, 1, documents)
    document = np.sort(rng.choice(documents, n, p=length / length.sum()))

    def drawn(share: float) -> Floats:
        shared = rng.standard_normal(documents)[document]
        return np.sqrt(share) * shared + np.sqrt(1 - share) * rng.standard_normal(n)

    strength = drawn(within)
    activation = np.maximum(strength - np.quantile(strength, 1 - density), 0)
    p = {}
    for name, (correlation, broad, levels, share) in PREDICTORS.items():
        said = correlation * strength + np.sqrt(1 - correlation**2) * drawn(max(share, within))
        p[name] = 1 / (1 + np.exp(-4 * (said - np.quantile(said, 1 - density * broad))))
        if levels:
            p[name] = np.round(p[name] * (levels - 1)) / (levels - 1)
    return Corpus(document, activation, float(np.quantile(activation[activation > 0], 0.25)), p)


def truth(p: Floats, fires: Bools) -> dict[str, float]:
    """Every metric over all windows [n], unweighted and by its textbook definition."""
    order = np.argsort(-p, kind="stable")
    last = np.flatnonzero(np.append(p[order][1:] != p[order][:-1], True))  # of each group of ties
    true, false = fires[order].cumsum()[last], (~fires[order]).cumsum()[last]
    recall, said = true / true[-1], p >= CUT
    hits, wrong = int((said & fires).sum()), int((said & ~fires).sum())
    found, rate = hits / fires.sum(), wrong / (~fires).sum()
    return {
        "auroc": float(np.trapezoid(np.append(0, recall), np.append(0, false / false[-1]))),
        "auprc": float((np.diff(recall, prepend=0) * true / (true + false)).sum()),
        "precision": hits / max(hits + wrong, 1),
        "recall": found,
        "f1": 2 * hits / (hits + wrong + fires.sum()),
        "balanced_accuracy": (found + 1 - rate) / 2,
        "false_positive_rate": rate,
        "brier_skill": 1 - ((p - fires) ** 2).mean() / fires.mean() / (1 - fires.mean()),
    }


def design(corpus: Corpus, split: Bools, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Windows that a harvest keeps of a split, weak ones left out, and their weights."""
    active = np.flatnonzero(split & (corpus.activation > 0))
    active = active[np.argsort(-corpus.activation[active])]
    top, rest = active[:TOP], active[TOP:]
    sample = rng.choice(rest, min(SAMPLE, len(rest)), replace=False)
    every = np.flatnonzero(split)
    background = rng.choice(every, min(BACKGROUND, len(every)), replace=False)
    silent = background[corpus.activation[background] == 0]
    kept = np.concatenate([top, sample, silent])
    stands = (1.0, len(rest) / max(len(sample), 1), (len(every) - len(active)) / len(silent))
    weight = np.repeat(stands, [len(top), len(sample), len(silent)])
    counted = corpus.counted[kept]
    return kept[counted], weight[counted]


def estimate(p: Floats, fires: Bools, weight: Floats, document: Ints, seed: int) -> dict[str, Measured]:
    return measure(p, fires, weight, document, draw(document, 1000, seed))


@dataclass
class Cell:
    """One feature and predictor: for each metric, whether each draw's answer held, for the corpus and for the split."""

    density: float
    predictor: str
    truth: dict[str, float]
    expected: float  # false positives in the background
    corpus: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in METRICS})
    split: dict[str, list[bool]] = field(default_factory=lambda: {name: [] for name in METRICS})
    width: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in METRICS})
    bounds: int = 0  # draws in which precision was bounded

    def add(self, found: dict[str, Measured], own: dict[str, float]) -> None:
        for name, measured in found.items():
            e = measured.estimate
            low, high = (
                np.nan_to_num([e.low, e.high], nan=0) if np.isnan(e.low) else (e.low, np.nan_to_num(e.high, nan=1))
            )
            self.corpus[name].append(bool(low - 1e-6 <= self.truth[name] <= high + 1e-6))
            self.split[name].append(bool(low - 1e-6 <= own[name] <= high + 1e-6))
            self.width[name].append(high - low)
        self.bounds += bool(np.isnan(found["precision"].estimate.value))

    def share(self, name: str, of: str = "corpus") -> float:
        return float(np.mean(getattr(self, of)[name]))


def coverage(
    density: float, within: float, draws: int, seed: int, estimator: Estimator = estimate, times: int = 1
) -> list[Cell]:
    """One feature, all predictors: `draws` draws of split and design. times: a larger corpus, of which the split is less."""
    whole = corpus(density, within, seed, 400 * times, 20_000 * times)
    fires, counted = whole.activation >= whole.threshold, whole.counted
    n_silent = BACKGROUND * (1 - density)
    cells = {}
    for name, p in whole.p.items():
        figures = truth(p[counted], fires[counted])
        cells[name] = Cell(density, name, figures, figures["false_positive_rate"] * n_silent)
    rng = np.random.default_rng(seed + 1)
    documents = int(whole.document.max()) + 1
    number = 0
    while number < draws:
        chosen = rng.permutation(documents)[: int(SHARE / times * documents)]
        split = np.isin(whole.document, chosen)
        if (whole.activation[split] > 0).sum() < LEAST:
            continue  # a rare feature is not scored
        kept, weight = design(whole, split, rng)
        for name, cell in cells.items():
            p = whole.p[name]
            found = estimator(p[kept], fires[kept], weight, whole.document[kept], number)
            cell.add(found, truth(p[split & counted], fires[split & counted]))
        number += 1
    return list(cells.values())


def of_bin(cells: list[Cell]) -> dict[str, float]:
    """Of one density, all predictors of which at least ten false positives are expected: share held, by metric."""
    many = [cell for cell in cells if cell.expected >= FEWEST]
    return {name: float(np.mean([cell.share(name) for cell in many])) for name in METRICS}


def bounds_of_bin(cells: list[Cell]) -> dict[str, float]:
    """Of the other predictors: what needs false positives to be seen, and has bounds where they are few."""
    few = [cell for cell in cells if cell.expected < FEWEST]
    return {name: float(np.mean([cell.share(name) for cell in few])) for name in BOUNDED}


def table(cells: list[Cell], of: str) -> None:
    print(
        f"\n{'density':>8} {'predictor':9} {'expected':>8} {'bounded':>8}  " + " ".join(f"{n[:9]:>9}" for n in METRICS)
    )
    for cell in cells:
        shares = " ".join(f"{cell.share(name, of):9.3f}" for name in METRICS)
        draws = len(cell.corpus["auroc"])
        print(f"{cell.density:8.3f} {cell.predictor:9} {cell.expected:8.1f} {cell.bounds / draws:8.2f}  {shares}")


def summary(cells: list[Cell]) -> None:
    print("\nby density, predictors pooled; to reach: 0.900 for intervals, 0.950 for bounds")
    for density in DENSITIES:
        mine = [cell for cell in cells if cell.density == density]
        shares = " ".join(f"{share:9.3f}" for share in of_bin(mine).values())
        print(f"{density:8.3f} ten or more expected          {shares}")
        held = ", ".join(f"{name} {share:.3f}" for name, share in bounds_of_bin(mine).items())
        print(f"{density:8.3f} fewer: {held}")
    low = [f"{c.density} {c.predictor} {n} {c.share(n):.3f}" for c in cells for n in METRICS if c.share(n) < 0.9]
    print(f"under 0.900: {'; '.join(low) or 'none'}")


def speed(documents: int, times: int = 40) -> None:
    """Milliseconds for one feature with draws that are made once for all; continuous predictions are the slowest."""
    whole = corpus(0.05, 0.3, 0, documents)
    kept, weight = design(whole, np.ones(len(whole.document), bool), np.random.default_rng(0))
    document, fires = whole.document[kept], whole.activation[kept] >= whole.threshold
    draws = draw(document, 1000, 0)
    told = []
    for metrics in (METRICS, *((name,) for name in METRICS)):
        seconds = []
        for _ in range(times):
            started = time.perf_counter()
            measure(whole.p["sharp"][kept], fires, weight, document, draws, metrics)
            seconds.append(time.perf_counter() - started)
        name = "all" if len(metrics) > 1 else metrics[0]
        told.append(f"{name} {np.median(seconds) * 1000:.1f} (fastest {min(seconds) * 1000:.1f})")
    print(f"{documents} documents, {len(kept)} windows, 1,000 draws, ms: {', '.join(told)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument(
        "--within", type=float, action="append", help="share of strength that documents decide (0.1, 0.3)"
    )
    parser.add_argument(
        "--times", type=int, default=1, help="corpora that many times as large, splits of the same size"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for within in args.within or (0.1, 0.3):
        print(f"\n== documents decide {within:.0%} of the feature's strength; {args.draws} draws of split and design")
        cells = [c for d in DENSITIES for c in coverage(d, within, args.draws, args.seed, times=args.times)]
        for of in ("corpus", "split"):
            print(f"\nshare of draws whose interval or bound holds the figure of the whole {of}")
            table(cells, of)
        summary(cells)
    for documents in (120, 400):
        speed(documents)


if __name__ == "__main__":
    main()
