"""What does it cost to score all features without a language model?

    .venv/bin/python benchmarks/offline_scores.py demo.duckdb

Scores every rule of a labelled run file (a copy of it), and every label by the sentence encoder, and prints seconds with the
targets beside: wall and CPU, since other work on the machine lengthens the one and hardly the other. Then what the intervals
cost a feature: `rates` with all metrics of a rule, and the AUROC of predictions that are all different, with 1,000 draws
made once. The encoder runs in as many threads as torch takes, or in `--threads`; a wall time of all of them is that of the
machine as it is.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from glossator import pipeline
from glossator.agents.editor.probe import labelled_programs
from glossator.agents.run import Run
from glossator.agents.scoring.score_rules import split_draws
from glossator.config import EmbeddingConfig, ScoreConfig
from glossator.scorers.predictor import corpus_predictor
from glossator.scorers.rates import Census, Draws, census, rates
from glossator.scorers.rule import Rule
from glossator.scorers.scoring import CORPUS_METRICS
from glossator.store.store import Store
from glossator.types import Floats

DRAWS = 1000
TARGETS = {"rule + embedding": 60.0, "interval": 2.0}


@contextmanager
def timed(into: dict[str, tuple[float, float]], name: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into[name] = time.perf_counter() - wall, time.process_time() - cpu


def intervals(run: Run, features: list[int]) -> dict[str, tuple[float, float]]:
    """Milliseconds of CPU a feature, median and mean."""
    draws = split_draws(run, "test", DRAWS, 0)
    rng = np.random.default_rng(0)
    programs = labelled_programs(run, features)
    cost: dict[str, list[float]] = {"a rule, seven metrics": [], "all predictions different, AUROC": []}
    for record in run.records([feature for feature in features if feature in programs]):
        seen = census(record.exemplars["test"], record.background["test"], record.threshold)
        rule = Rule(programs[record.feature.index][1], run.lexicon)
        p = corpus_predictor(record, rule).fires(rule.strengths(seen.sample.windows))
        apart = np.clip(p + 0.3 * rng.random(len(p)), 0, 1)
        cost["a rule, seven metrics"].append(_once(p, seen, draws, tuple(CORPUS_METRICS.values())))
        cost["all predictions different, AUROC"].append(_once(apart, seen, draws, ("auroc",)))
    return {name: (float(np.median(each)), float(np.mean(each))) for name, each in cost.items()}


def _once(p: Floats, seen: Census, draws: Draws, metrics: tuple[str, ...]) -> float:
    started = time.process_time()
    rates(p, seen, draws, metrics)
    return 1000 * (time.process_time() - started)


def stages(run: Run) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of scoring all features; models and what they share are loaded within."""
    features = [feature for (feature,) in run.store.sql("SELECT feature FROM feature ORDER BY feature")]
    found: dict[str, tuple[float, float]] = {}
    work: dict[str, Callable[[], object]] = {
        "rule": lambda: pipeline.score(run, ScoreConfig(draws=DRAWS), features),
        "embedding": lambda: pipeline.score_by_embedding(run, None, EmbeddingConfig(draws=DRAWS), features),
    }
    for name, stage in work.items():
        with timed(found, name):
            stage()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a labelled run file; it is copied")
    parser.add_argument("--threads", type=int, default=None, help="of the encoder")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.duckdb"
        shutil.copy(args.run, path)
        with Store(path) as store:
            run = Run(store)
            (n,) = store.sql("SELECT count(*) FROM feature")[0]
            load = os.getloadavg()[0]
            seconds = stages(run)
            cost = intervals(run, list(range(min(n, 300))))
    seconds["rule + embedding"] = tuple(np.sum(list(seconds.values()), axis=0).tolist())
    print(
        f"\n{n:,} features; load before {load:.1f}, after {os.getloadavg()[0]:.1f}; {torch.get_num_threads()} threads"
    )
    print(f"{'scoring':34} {'wall, s':>9} {'CPU, s':>9} {'target, s':>10}")
    for name, (wall, cpu) in seconds.items():
        print(f"{name:34} {wall:9.1f} {cpu:9.1f} {TARGETS.get(name, ''):>10}")
    print(f"\n{f'{DRAWS:,} draws':34} {'median ms':>9} {'mean ms':>9} {'target, ms':>10}")
    for name, (median, mean) in cost.items():
        print(f"{name:34} {median:9.2f} {mean:9.2f} {TARGETS['interval']:10.1f}")
    print(f"\nCPU of {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
