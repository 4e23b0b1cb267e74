"""Does a night that is killed with SIGKILL ten times, at random moments, with a faulty server, end as one that was left alone?

The command line itself on the demo subject: 200 features through the cascade, the editor with a model, detection and comparisons,
while another process queries the run file all the time. Compared are labels, scores, experiments, predictions and comparisons, row by
row; times, run ids and attempts are not. The night that is left alone is one wave, the one that is killed goes in waves of a quarter
of the features: they must not differ by that either. The server repeats no answer by itself: what it was asked twice is counted, too.

    python -m benchmarks.drill                      harvests 110,000 tokens first
    python -m benchmarks.drill --run RUN.duckdb     starts from copies of a harvested run file
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from tests.llm.server import Plan, Server, serving
from tests.mini import GLOSSATOR, HARVEST, glossator
from tests.night.answers import answers
from tests.night.drilling import FAULTS, finish, kill_after, looking, repeated, rows

_NIGHT = """\
run = "run.duckdb"
report = "report.html"
[features]
which = "0-{last}"
order = "density desc"
wave = {wave}
[explain]
explainer = "{explainer}"
[probe]
by = "{probe}"
[score]
scorers = ["rule", "detection"]
[llm]
writer = "openai:double@{address}"
concurrency = {concurrency}
"""


def night(folder: Path, server: Server, args: argparse.Namespace, wave: str) -> list[str]:
    """A night.toml, and the command that runs it."""
    path = folder / "night.toml"
    given = {
        "last": args.features - 1,
        "wave": wave,
        "explainer": args.explainer,
        "probe": args.probe,
        "concurrency": args.concurrency,
    }
    path.write_text(_NIGHT.format(address=server.openai, **given))
    return [str(GLOSSATOR), "run", str(path)]


def faulty(args: argparse.Namespace) -> Server:
    return Server(answer=answers, delay=args.delay, plan=Plan(args.faults, args.seed, FAULTS))


def prepared(folder: Path, run: Path | None) -> Path:
    """The run file that both nights start from: the one that is named, or a harvest of our own text."""
    if run is not None:
        return run
    path = folder / "harvested.duckdb"
    done = glossator("harvest", path, *HARVEST, timeout=1200)
    if done.returncode:
        raise SystemExit(done.stderr)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--explainer", default="cascade")
    parser.add_argument("--probe", default="rules", choices=("rules", "llm", "none"))
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--delay", type=float, default=0.1)
    parser.add_argument("--faults", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console, draw = Console(width=120), random.Random(args.seed)
    with (
        tempfile.TemporaryDirectory(prefix="glossator-drill-") as name,
        serving(faulty(args)) as alone,
        serving(faulty(args)) as server,
    ):
        folder = Path(name)
        start = prepared(folder, args.run)
        whole, killed = folder / "whole", folder / "killed"
        for one in (whole, killed):
            one.mkdir()
            shutil.copy(start, one / "run.duckdb")
        began = time.monotonic()
        finish(night(whole, alone, args, '"all"'))
        seconds = time.monotonic() - began
        console.print(f"left alone: {seconds:.0f} s, {len(alone.seen):,} attempts at the server")
        share = max(1, len(alone.seen) // (args.kills + 1))
        command = night(killed, server, args, str(max(1, args.features // 4)))
        table = Table("kill", "after, s", "attempts at the server so far")
        with looking(killed / "run.duckdb", folder / "looks"):
            for number in range(args.kills):
                began = time.monotonic()
                if not kill_after(
                    command, server, draw.randint(1, share), draw.uniform(0, 1.0), draw.uniform(5, seconds)
                ):
                    console.print(f"it came to its end before kill {number + 1}")
                    break
                table.add_row(str(number + 1), f"{time.monotonic() - began:.0f}", f"{len(server.seen):,}")
            finish(command)
        console.print(table)
        sys.exit(judged(folder, alone, server, console))


def judged(folder: Path, alone: Server, server: Server, console: Console) -> int:
    """What came of it; 1 where anything is not as it must be."""
    whole, killed = (folder / one / "run.duckdb" for one in ("whole", "killed"))
    wanted, found = rows(whole), rows(killed)
    table = Table("rows", "left alone", "killed", "equal")
    for name, mine in wanted.items():
        table.add_row(name, f"{len(mine):,}", f"{len(found[name]):,}", "yes" if mine == found[name] else "NO")
    console.print(table)
    looks = (folder / "looks").read_text().splitlines()
    failed = [line for line in looks if not line.startswith("ok")]
    ways = {way: sum(line.startswith(f"ok {way}") for line in looks) for way in ("file", "live", "snapshot")}
    answered = [sum(one.status == 200 for one in each.seen) for each in (alone, server)]
    with duckdb.connect(str(killed), read_only=True) as connection:
        ((calls, replies),) = connection.execute("SELECT count(*), count(reply) FROM llm_call").fetchall()
    console.print(f"replies logged more than once: {repeated(killed)}; {calls:,} rows in the log, {replies:,} replies")
    console.print(
        f"answers of the server: {answered[0]:,} left alone, {answered[1]:,} killed ({answered[1] - answered[0]:,} more: in flight when it was killed)"
    )
    console.print(f"queries meanwhile: {len(looks):,}, {ways}, failed: {len(failed)} {failed[:3]}")
    return 0 if wanted == found and not failed and not repeated(killed) else 1


if __name__ == "__main__":
    main()
