"""How near does a night come to what its provider allows: 1,000 planted features through the whole cascade, a server that answers after 1 s.

The ideal is calls x latency / concurrency: as if nothing but the provider took time. The target is 0.85 of that rate. The features are
planted, so no model takes part but the server's double, and harvesting them is not counted; offline stages are done before, and are
told apart. CPU is of this process, all threads.

    python -m benchmarks.night                       1,000 features (five families of 200), 64 at once
    python -m benchmarks.night --features 40         a look
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glossator.agents.validity.ground import planted_run
from glossator.config import quiet_tracing, read_night
from glossator.harness.planted_run import doubles
from glossator.night.log import events
from glossator.night.running import run_night
from glossator.planted_family import BLOCK, MOST, planted_family, planted_family_vocabulary
from glossator.store.store import Store
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.planted_night import written

_OFFLINE = ("rules", "edits", "rule")


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def one_night(folder: Path, n: int, seed: int, server: Server, concurrency: int, explainer: str) -> dict[str, float]:
    """Seconds of each stage, and CPU seconds of those that ask."""
    folder.mkdir()
    with Store(folder / "run.duckdb") as store:
        planted_run(store, n, seed)
    model = doubles(planted_family(n, seed), planted_family_vocabulary(n, seed))
    llm = f'writer = "openai:double@{server.openai}"\nconcurrency = {concurrency}'
    sections = {"features": 'order = "density desc"', "score": 'scorers = ["rule", "detection"]'}
    run_night(read_night(written(folder, features=sections["features"])), model=model)  # what is offline
    path = written(folder, **sections, explain=f'explainer = "{explainer}"', llm=llm)
    used = cpu()
    run_night(read_night(path), model=model)
    used = cpu() - used
    ended: dict[str, float] = {}
    for one in events(folder / "run.duckdb"):
        if one["event"] == "stage ended":
            ended[one["stage"]] = ended.get(one["stage"], 0.0) + float(one["seconds"])
    return ended | {"CPU of asking": used}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=1.0)
    parser.add_argument("--explainer", default="cascade")
    args = parser.parse_args()
    quiet_tracing()
    sizes = [min(MOST, args.features - done) for done in range(0, args.features, MOST)]
    if any(size % BLOCK for size in sizes):
        raise SystemExit(f"--features {args.features}: a multiple of {BLOCK}")
    total: dict[str, float] = {}
    with serving(Server(answer=answers, delay=args.delay)) as server, tempfile.TemporaryDirectory() as name:
        for seed, size in enumerate(sizes):
            found = one_night(Path(name) / str(seed), size, seed, server, args.concurrency, args.explainer)
            total = {key: total.get(key, 0.0) + value for key, value in found.items()}
        calls, peak = len(server.seen), server.peak
    report(args, total, calls, peak)


def report(args: argparse.Namespace, total: dict[str, float], calls: int, peak: int) -> None:
    asking = sum(seconds for stage, seconds in total.items() if stage in ("explain", "read", "probe"))
    ideal = calls * args.delay / args.concurrency
    table = Table("what", "measured", "target")
    table.add_row("calls", f"{calls:,} ({calls / args.features:.1f} a feature), at most {peak} at once", "")
    table.add_row("ideal: calls x latency / concurrency", f"{ideal:.1f} s", "")
    table.add_row("the stages that ask", f"{asking:.1f} s", "")
    table.add_row("rate over the ideal", f"{ideal / asking:.3f}", ">= 0.85")
    for stage in ("explain", "read"):
        table.add_row(f"  {stage}", f"{total.get(stage, 0.0):.1f} s", "")
    table.add_row("CPU while asking, a call", f"{1000 * total['CPU of asking'] / max(calls, 1):.1f} ms", "")
    table.add_row("offline stages", f"{sum(total.get(stage, 0.0) for stage in _OFFLINE):.1f} s", "")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
