"""Does a harvest that is killed with SIGKILL, ten times on its way, end as the one that was not?

The command line itself, the demo dictionary, real text. Kills come at random moments, in loading, in a shard, in writing a part.

    python benchmarks/kills.py --corpus a.txt --corpus b.txt
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

GLOSSATOR = Path(sys.executable).with_name("glossator")


def command(path: Path, corpora: list[str]) -> list[str]:
    return [str(GLOSSATOR), "harvest", str(path), "--model", "demo", "--dictionary", "demo"] + [
        part for corpus in corpora for part in ("--corpus", corpus)
    ]


def digest(path: Path) -> tuple[str, int, int, str]:
    """What the harvest says of itself, and a digest of what the tables hold."""
    with duckdb.connect(str(path), read_only=True) as connection:
        (row,) = connection.execute("SELECT h.digest, c.tokens, h.shards FROM harvest h, corpus c").fetchall()
        (held,) = connection.execute(
            "SELECT md5(string_agg(line, '' ORDER BY line)) FROM (SELECT e::VARCHAR AS line FROM exemplar e "
            "UNION ALL SELECT f::VARCHAR FROM feature f UNION ALL SELECT n::VARCHAR FROM near_miss n)"
        ).fetchall()
    return (*row, held[0])


def covered(folder: Path) -> list[tuple[int, int]]:
    """The runs of shards [first, last) whose parts lie in the folder; of parts that begin together the longest."""
    runs: dict[int, int] = {}
    for path in folder.glob("part-*.npz"):
        first, last = (int(number) for number in path.stem.split("-")[-2:])
        runs[first] = max(runs.get(first, 0), last)
    return sorted(runs.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    draw, console = random.Random(args.seed), Console(width=120)
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole.duckdb", Path(folder) / "killed.duckdb"
        started = time.monotonic()
        subprocess.run(command(whole, args.corpus), check=True, env=environment, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - started
        table = Table("kill", "after", "parts that lay there then", title=f"undisturbed: {seconds:.0f} s")
        parts = Path(f"{killed}.harvest")
        for number in range(args.kills):
            process = subprocess.Popen(command(killed, args.corpus), env=environment, stderr=subprocess.DEVNULL)
            done = sum(b - a for a, b in covered(parts))
            after = draw.uniform(5, seconds / 2 if done < digest(whole)[2] - 1 else seconds / 8)  # the last shard waits
            time.sleep(after)
            if process.poll() is not None:
                raise SystemExit(f"the harvest ended before kill {number + 1}: give it a larger corpus")
            process.kill()
            process.wait()
            held = ", ".join(f"shards {a + 1} to {b}" for a, b in covered(parts))
            table.add_row(str(number + 1), f"{after:.0f} s", held or "none")
        subprocess.run(command(killed, args.corpus), check=True, env=environment, stderr=subprocess.DEVNULL)
        console.print(table)
        one, two = digest(whole), digest(killed)
        console.print(
            f"{one[1]:,} tokens in {one[2]} shards; digests {one[0]} and {two[0]}, of the tables {one[3]} and {two[3]}"
        )
        if one != two:
            raise SystemExit("the harvest that was killed ended otherwise")
        console.print("equal")


if __name__ == "__main__":
    main()
