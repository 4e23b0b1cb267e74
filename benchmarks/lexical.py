"""How far do rules get on a corpus, beside lookups and the labels of other features?

    .venv/bin/python benchmarks/lexical.py --corpus python-docs --corpus themes
    .venv/bin/python benchmarks/lexical.py --corpus wt2_valid.txt --corpus wt2_test.txt

Harvests the corpus with the built-in subject and dictionary, fits rules there, scores them on `test`, prints the medians
and their ratio to the full token lookup, with the seconds of each stage and the peak memory of this process.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from pathlib import Path

from rich.console import Console

from glossator import pipeline
from glossator.agents.run import Run
from glossator.config import EditorConfig, LexicalConfig, Recipe, ScoreConfig, subject_config
from glossator.store.store import Store
from glossator.summary import compared, demo_figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--run", type=Path, default=None, help="keep the run file here")
    parser.add_argument("--no-probe", action="store_true", help="leave the editor out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.run or Path(folder) / "lexical.duckdb"
        seconds = {}
        started = time.monotonic()
        pipeline.harvest(path, Recipe(subject=subject_config("demo", [], ["demo"], args.corpus)), say=print)
        seconds["harvest"] = time.monotonic() - started
        with Store(path) as store:
            run = Run(store)
            for name, stage, config in (
                ("explain", pipeline.explain, LexicalConfig()), ("probe", pipeline.probe, EditorConfig()), ("score", pipeline.score, ScoreConfig())
            ):  # fmt: skip
                if name == "probe" and args.no_probe:
                    continue
                started = time.monotonic()
                stage(run, config)  # type: ignore[operator]
                seconds[name] = time.monotonic() - started
        Console(width=150).print(demo_figures(path))
        found = {row["name"][2:]: row["median"] for row in compared(path)}
        print(f"\nrule / full lookup: {found['rule, at most 12 items'] / found['lookup of all tokens']:.3f}")
        print(
            "seconds: "
            + ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())
            + f", in all {sum(seconds.values()):.0f}"
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"peak memory {peak:.2f} GiB; Python {platform.python_version()}, {platform.machine()}")


if __name__ == "__main__":
    main()
