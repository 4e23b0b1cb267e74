"""What do scores say of dictionaries that should not be interpretable, beside one that should?

    .venv/bin/python benchmarks/controls.py                                        the demo's own corpus, all features
    .venv/bin/python benchmarks/controls.py --corpus wt2_valid.txt --corpus wt2_test.txt
    .venv/bin/python benchmarks/controls.py --tokens 200000 --features 256         a smaller one

Harvests the built-in dictionary with all its controls, fits rules to the features of each and scores them on `test`. Prints
rule, single-token lookup, rules of other features (permuted) and the nearest feature's rule, side by side with intervals and
the share of features whose label is trusted (with --features few nearest features have a rule to be compared with, so few
are decided); how each control came out; and the ratio of each control's rules to the real
ones. Features are compared at the same densities (0.1-3%). The editor is left out: nothing here depends on it.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

from rich.console import Console

from glossator import pipeline
from glossator.agents.run import Run
from glossator.config import CONTROLS, CorpusConfig, LexicalConfig, Recipe, ScoreConfig, subject_config
from glossator.store.records import dictionaries
from glossator.store.store import Store
from glossator.summary import controlled, controls_table

_DRAWN = (
    "SELECT feature FROM feature WHERE dictionary = ? AND status NOT IN ('dead', 'rare', 'dense') AND density BETWEEN 0.001 AND 0.03 "
    "AND active_windows[3] >= 50 ORDER BY hash(feature) LIMIT ?"
)


def label(path: Path, features: int | None, seconds: dict[str, float]) -> None:
    """Rules and their scores, of every dictionary alike; `features` of those that are compared, if a number is given."""
    with Store(path) as store:
        for name in dictionaries(store):
            started = time.monotonic()
            run = Run(store, name)
            chosen = None if features is None else sorted(f for (f,) in store.sql(_DRAWN, [name, features]))
            pipeline.explain(run, LexicalConfig(), chosen)
            pipeline.score(run, ScoreConfig(), chosen)
            seconds[name] = time.monotonic() - started


def made(path: Path) -> None:
    with Store(path) as store:
        rows = store.sql(
            "SELECT dictionary, control, l0, variance_explained, stated FROM dictionary ORDER BY control NULLS FIRST"
        )
        for name, control, l0, explained, stated in rows:
            said = json.loads(stated)
            steps = f", trained {said['steps']:,} steps of {said['rows']:,}" if "steps" in said else ""
            counts = store.sql(
                "SELECT status, count(*) FROM label WHERE dictionary = ? GROUP BY ALL ORDER BY ALL", [name]
            )
            found = ", ".join(f"{n:,} {status}" for status, n in counts)
            print(f"{name}: {control or 'real'}, L0 {l0:.1f}, variance explained {explained:.3f}{steps}; {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", default=None, help="python-docs and themes if not given")
    parser.add_argument("--control", action="append", default=None, choices=CONTROLS, help="all if not given")
    parser.add_argument("--tokens", type=int, default=None)
    parser.add_argument("--features", type=int, default=None, help="of each dictionary, of those that are compared")
    parser.add_argument("--run", type=Path, default=None, help="keep the run file here; harvest it if it is not there")
    args = parser.parse_args()
    corpora = args.corpus or ["python-docs", "themes"]
    if gone := [name for name in corpora if name.endswith(".txt") and not Path(name).exists()]:
        print(f"SKIPPED: {', '.join(gone)}: no such file")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = args.run or Path(folder) / "controls.duckdb"
        seconds: dict[str, float] = {}
        if not path.exists():
            started = time.monotonic()
            recipe = Recipe(
                subject=subject_config("demo", [], ["demo"], corpora),
                corpus=CorpusConfig(tokens=args.tokens),
                controls=tuple(args.control or CONTROLS),
            )
            pipeline.harvest(path, recipe, say=print)
            seconds["controls and harvest"] = time.monotonic() - started
        label(path, args.features, seconds)
        print()
        made(path)
        print()
        Console(width=150).print(controls_table(path))
        rules = [row for row in controlled(path) if row["what"] == "rule" and row["n"]]
        means = {
            row["control"]: row["mean"][0] * row["n"] / row["features"] for row in rules
        }  # no label: no account at all
        for control, mean in means.items():
            if control is not None and None in means:
                print(f"mean simulation of rules, features without one as 0: {control} / real {mean / means[None]:.3f}")
    print("seconds: " + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB; Python {platform.python_version()}, {platform.machine()}")


if __name__ == "__main__":
    main()
