"""Does each score rank the right label first, and how much reading error does it stand?

`.venv/bin/python benchmarks/scorers.py [--features 200] [--rates 0,0.1,0.2,0.3] [--seed 0]`

Planted features, harvested like any model; labels executed to the letter (`rule`) and read by an oracle whose errors are
correlated. Operating curves: at each rate, the share of features in which the right label ranks first among broader,
narrower, neighbouring and unrelated ones, with Wilson's interval, and each pair with ties (=) and the AUROC over features.
Then, at 10%, which features fail, by kind. Targets: at 10% a score that a model reads for, and `adversarial`, reach 95%.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from glossator.agents.validity.ground import Ground, planted_run, prepare
from glossator.agents.validity.table import SCORERS, Found, executed, read
from glossator.config import LLMScoreConfig
from glossator.llm.oracle import OracleLLM
from glossator.scorers.reading import LLMPredictor
from glossator.scorers.validity import RIGHT, RIVALS, first, ranked
from glossator.store.store import Store

TARGET, AT = 0.95, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--rates", default="0,0.1,0.2,0.3")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.process_time()
    with Store(":memory:") as store:
        run = planted_run(store, given.features, given.seed)
        ground = asyncio.run(prepare(run, given.features, given.seed, LLMScoreConfig()))
        print(
            f"{given.features} planted features, seed {given.seed}; ground in {time.process_time() - began:.0f} s CPU"
        )
        by_rule = executed(ground)
        curves = {}
        for rate in (float(text) for text in given.rates.split(",")):
            oracle = LLMPredictor(OracleLLM(ground.features, rate, given.seed), run.lexicon.vocabulary, ground.config)
            curves[rate] = asyncio.run(read(ground, oracle, SCORERS, 64))
    print("\nrule, executed to the letter")
    show(by_rule)
    for rate, found in curves.items():
        print(f"\nread by an oracle that errs in {rate:.0%}")
        show(found)
    if AT in curves:
        targets(curves[AT])
        failures(ground, curves[AT])
    print(f"\n{time.process_time() - began:.0f} s CPU")


def show(found: Found) -> None:
    """The share of the first place, and of each pair: share (ties) AUROC."""
    print(f"{'score':<23}{'n':>4}  {'first':<19}" + "".join(f"{rival:<22}" for rival in RIVALS))
    for metric, values in found.values.items():
        best = first(values)
        pairs = [ranked(values, rival) for rival in RIVALS]
        cells = [f"{p.share.value:.3f} ={p.ties:<4} auc {p.auroc:.2f}" for p in pairs]
        print(
            f"{metric:<23}{best.n:>4}  {best.value:.3f} [{best.low:.2f}, {best.high:.2f}] "
            + "".join(f"{cell:<22}" for cell in cells)
        )


def targets(found: Found) -> None:
    """Of all features that were planted: one without a value is one in which the right label is not first."""
    reached = {}
    for metric, values in found.values.items():
        best = first(values)
        reached[metric] = best.value * best.n / len(values) if best.n else 0.0
    read_by = max((m for m in reached if m != "adversarial"), key=reached.__getitem__)
    print(f"\nat {AT:.0%}, of all features                        reached   target")
    for what, metric in (("best score that a model reads for", read_by), ("adversarial", "adversarial")):
        verdict = "" if reached[metric] >= TARGET else "   MISSED"
        print(f"{f'{what}: {metric}':<48}{reached[metric]:>8.3f}{TARGET:>9.2f}{verdict}")


def failures(ground: Ground, found: Found) -> None:
    """In which features the right label is not alone in the first place, and against what: kind and rival, most first."""
    print(f"\nnot alone in the first place at {AT:.0%}, by kind and rival")
    for metric, values in found.values.items():
        lost = Counter(
            f"{tried.kind}/{rival}"
            for tried, one in zip(ground.tried, values, strict=True)
            for rival in RIVALS
            if one.get(RIGHT, 1.0) <= one.get(rival, 0.0) + 1e-9
        )
        print(f"{metric:<23}{_most(lost.most_common(8))}")


def _most(counted: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{what} {n}" for what, n in counted) or "none"


if __name__ == "__main__":
    main()
