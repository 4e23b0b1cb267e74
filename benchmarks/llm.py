"""What the language-model layer costs beside the waiting: rate, stalls, CPU, memory, log, and a second run over the same questions.

A server on loopback, in a process of its own, answers every question after a fixed time; the client is the real one: SDK,
hashing, limiter, ledger with a budget, group commits, parsing. Questions are of the size of an explainer's: some fifteen windows of
Python's documentation after a fixed part. The ideal rate is what is in flight over the server's time.

    python benchmarks/llm.py                    10,000 calls, 128 in flight, a server that takes 1 s: some three minutes
    python benchmarks/llm.py --calls 2000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from glossator.config import LLMConfig
from glossator.harness.corpus import read_corpus
from glossator.llm.opening import open_llm
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Message, Request


class Answer(BaseModel):
    claim: str
    scope: str


REPLY = {
    "claim": "Fires on names of exceptions where a text says when they are raised, and stays silent on the word error alone.",
    "scope": "token",
}


# --------------------------------------------------------------------------- the server


async def serve(delay: float) -> None:
    """Chat completions and nothing else, as cheap as can be. Prints its port."""
    content = json.dumps({
        "id": "x", "object": "chat.completion", "created": 0, "model": "bench",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": json.dumps(REPLY)}}],
        "usage": {"prompt_tokens": 1500, "completion_tokens": 40, "total_tokens": 1540},
    }).encode()  # fmt: skip
    answer = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(content)
    ) + content

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head, re.I)
                await reader.readexactly(int(length[1]) if length else 0)
                await asyncio.sleep(delay)
                writer.write(answer)
                await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError):
                return

    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


# --------------------------------------------------------------------------- the client


def questions(n: int) -> Iterator[Request]:
    """`n` questions, all different, with a fixed part as long as an explainer's."""
    words = [word for document in read_corpus(["python-docs"]) for text in document.passages for word in text.split()]
    fixed = Message("system", " ".join(words[:500]))
    draw = random.Random(0)
    for number in range(n):
        starts = [draw.randrange(len(words) - 24) for _ in range(15)]
        windows = "\n".join(json.dumps(" ".join(words[i : i + 24])) for i in starts)
        yield Request(
            "explain", (fixed, Message("user", f"Feature {number}\n{windows}")), Answer, 400, about=str(number)
        )


async def stalls(found: list[float]) -> None:
    """How late a task is that wants to run every 5 ms."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(0.005)
        found.append(time.perf_counter() - began - 0.005)


async def ask_all(path: Path, spec: str, config: LLMConfig, n: int) -> dict[str, float]:
    """Ask `n` questions, twice as many tasks as may be in flight."""
    late: list[float] = []
    with Store(path) as store:
        async with open_llm(spec, Replies(store, time.time()), config) as llm:
            todo = questions(n)
            first = next(todo)
            await llm.complete(first)  # connections, imports
            base = peak_mib()
            watcher = asyncio.create_task(stalls(late))
            began, cpu = time.perf_counter(), time.process_time()

            async def work() -> None:
                for request in todo:
                    await llm.complete(request)

            await asyncio.gather(*(work() for _ in range(2 * config.concurrency)))
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
            watcher.cancel()
            grown = peak_mib() - base
    late.sort()
    return {
        "seconds": seconds, "cpu_ms": 1000 * cpu / n, "rate": n / seconds, "worst_ms": 1000 * late[-1], "mib": grown,
        "p999_ms": 1000 * late[int(len(late) * 0.999)], "file": path.stat().st_size,
    }  # fmt: skip


def peak_mib() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("utf-8"))
    if found is None:
        raise SystemExit("no VmHWM in /proc/self/status: run this on Linux")
    return int(found[1]) / 1024


def rows(calls: int, concurrency: int, delay: float) -> Iterator[tuple[str, str, str, str]]:
    """What, measured, target, detail."""
    server = subprocess.Popen([sys.executable, __file__, "--serve", str(delay)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    spec = f"openai:bench@http://127.0.0.1:{server.stdout.readline().strip()}/v1"
    config = LLMConfig(concurrency=concurrency, budget_tokens=10**12)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.duckdb"
            with Store(path):
                pass
            empty = path.stat().st_size
            one = asyncio.run(ask_all(path, spec, config, calls))
            asked = sum(len(m.text.encode()) for r in questions(calls) for m in r.messages)
            said = calls * (len(json.dumps(REPLY)) + len(json.dumps(Answer.model_json_schema())))
            server.kill()  # whoever asks now fails
            two = asyncio.run(ask_all(path, spec, config, calls))
    finally:
        server.kill()
    ideal = concurrency / delay
    detail = f"{one['rate']:.1f} calls/s of {ideal:.0f}, {calls:,} calls, {concurrency} in flight"
    yield "rate over the ideal", f"{one['rate'] / ideal:.3f}", ">= 0.93", detail
    yield (
        "longest stall of the event loop",
        f"{one['worst_ms']:.0f} ms",
        "< 20 ms",
        f"99.9% under {one['p999_ms']:.1f} ms",
    )
    yield "CPU a call", f"{one['cpu_ms']:.1f} ms", "<= 6 ms", "SDK, hashing, log, ledger, parsing, all threads"
    yield "memory of the run", f"{one['mib']:.0f} MiB", "<= 150 MiB", "peak over what it was after the first call"
    share = (one["file"] - empty) / (asked + said)
    yield (
        "log over what was asked and said",
        f"{share:.2f}",
        "<= 0.5",
        f"{(one['file'] - empty) / 2**20:.1f} of {(asked + said) / 2**20:.1f} MiB",
    )
    yield (
        "a question of a second run",
        f"{1000 * two['seconds'] / calls:.2f} ms",
        "<= 1 ms",
        "no call: the server is gone",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=128)
    parser.add_argument("--delay", type=float, default=1.0)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        asyncio.run(serve(args.serve))
        return
    os.environ.setdefault("OPENAI_API_KEY", "none")
    table = Table("what", "measured", "target", "detail", title=f"Language-model layer: {os.cpu_count()} cores")
    for row in rows(args.calls, args.concurrency, args.delay):
        table.add_row(*row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
