"""How near does a night come to what its provider allows: 1,000 planted features through the whole cascade, a server that answers after 1 s.

The ideal is calls x latency / concurrency: as if nothing but the provider took time. The target is 0.85 of that rate. The features are
planted, so no model takes part but the server's double, which is a process of its own, and harvesting them is not counted; offline
stages are done before, and are told apart. Beyond the 200 of the planted family, features fire where either of two of them does, so all
have descriptions of their own. CPU is of the process of the night, all threads.

    python -m benchmarks.night                       1,000 features, 64 questions at once
    python -m benchmarks.night --features 40         a look
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

from glossator.config import quiet_tracing, read_night
from glossator.harness.planted_run import harvest_planted
from glossator.night.log import events
from glossator.night.running import run_night
from glossator.planted import PlantedFeature
from glossator.planted_family import (
    BLOCK,
    MOST,
    planted_family,
    planted_family_documents,
    planted_family_vocabulary,
)
from glossator.store.store import Store
from tests.llm.server import Server, serving
from tests.night.answers import answers
from tests.night.planted_night import written

_OFFLINE = ("rules", "edits", "rule")
_SEED = 0


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def planted(n: int) -> tuple[PlantedFeature, ...]:
    """The planted family, and then features that fire where one or another of it does."""
    family = planted_family(min(n, MOST), _SEED)
    return family + tuple(_either(family[i % MOST], family[(i + 37 * (i // MOST)) % MOST]) for i in range(MOST, n))


def _either(a: PlantedFeature, b: PlantedFeature) -> PlantedFeature:
    known = a.triggers is not None and b.triggers is not None
    return replace(
        a,
        name=f"{a.name} or {b.name}",
        description=f"{a.description}, or {b.description}",
        activation=lambda tokens: [max(both) for both in zip(a.activation(tokens), b.activation(tokens), strict=True)],
        triggers=(a.triggers or frozenset()) | (b.triggers or frozenset()) if known else None,
    )


@contextmanager
def server_apart(delay: float) -> Iterator[tuple[str, Connection]]:
    """Its address, and a line to it: whatever is sent, it tells calls and the most that it had at once."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, delay), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.terminate()
        process.join()


def _serve(line: Connection, delay: float) -> None:
    with serving(Server(answer=answers, delay=delay)) as server:
        line.send(server.openai)
        while True:
            line.recv()
            line.send((len(server.seen), server.peak))


def one_night(folder: Path, n: int, address: str, concurrency: int, explainer: str) -> dict[str, float]:
    """Seconds of each stage, and seconds and CPU seconds of the night that asks."""
    features, words = planted(n), planted_family_vocabulary(min(n, MOST), _SEED)
    subject, dictionary, tables = harvest_planted(features, words, planted_family_documents(min(n, MOST), _SEED))
    with Store(folder / "run.duckdb") as store:
        store.put_tables(tables)
    model = (subject, dictionary)
    llm = f'writer = "openai:double@{address}"\nconcurrency = {concurrency}'
    sections = {"features": 'order = "density desc"', "score": 'scorers = ["rule", "detection"]'}
    run_night(read_night(written(folder, features=sections["features"])), model=model)  # what is offline
    path = written(folder, **sections, explain=f'explainer = "{explainer}"', llm=llm)
    used, began = cpu(), time.perf_counter()
    run_night(read_night(path), model=model)
    used, seconds = cpu() - used, time.perf_counter() - began
    ended: dict[str, float] = {}
    for one in events(folder / "run.duckdb"):
        if one["event"] == "stage ended":
            ended[one["stage"]] = ended.get(one["stage"], 0.0) + float(one["seconds"])
    return ended | {"the night": seconds, "CPU of asking": used}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=1.0)
    parser.add_argument("--explainer", default="cascade")
    parser.add_argument("--folder", type=Path, help="where the run file stays; a temporary one if not given")
    args = parser.parse_args()
    quiet_tracing()
    if args.features < MOST and args.features % BLOCK:
        raise SystemExit(f"--features {args.features}: a multiple of {BLOCK}")
    with server_apart(args.delay) as (address, line), tempfile.TemporaryDirectory() as name:
        total = one_night(args.folder or Path(name), args.features, address, args.concurrency, args.explainer)
        line.send("calls")
        calls, peak = line.recv()
    report(args, total, calls, peak)


def report(args: argparse.Namespace, total: dict[str, float], calls: int, peak: int) -> None:
    ideal = calls * args.delay / args.concurrency
    table = Table("what", "measured", "target")
    table.add_row("calls", f"{calls:,} ({calls / args.features:.1f} a feature), at most {peak} at once", "")
    table.add_row("ideal: calls x latency / concurrency", f"{ideal:.1f} s", "")
    table.add_row("the night that asks, from its start to its end", f"{total['the night']:.1f} s", "")
    table.add_row("rate over the ideal", f"{ideal / total['the night']:.3f}", ">= 0.85")
    for stage in ("explain", "read", "compare"):
        table.add_row(f"  {stage}", f"{total.get(stage, 0.0):.1f} s", "")
    table.add_row("CPU while asking, a call", f"{1000 * total['CPU of asking'] / max(calls, 1):.1f} ms", "")
    table.add_row("offline stages", f"{sum(total.get(stage, 0.0) for stage in _OFFLINE):.1f} s", "")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
