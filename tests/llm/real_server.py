"""`glossator doctor` and `label` against a real OpenAI-compatible server, with tiny models. A script, not a test.

    python -m venv servenv && servenv/bin/pip install "transformers[serving]" torch
    python -m tests.llm.real_server --server servenv/bin/transformers

It builds two models in a temporary folder, starts `transformers serve` on the loopback for each, and prints what comes
out. A random model writes no JSON, so doctor must end with exit code 1 and say that no reply could be used. The other one
always says the same, which is an answer to doctor and an abstention of `oneshot`: doctor and label must end with 0. For
the random one it also shows what the server says when it is asked in other ways. `--run FILE.duckdb` (a harvested run
file, which is copied) labels four features of it as well.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.llm.tiny_chat import tiny_chat

ANSWER = '{"legs": 4, "notes": "no pattern", "abstain": true, "scope": "none", "claim": ""}'
_PATIENCE = 120.0  # seconds in which the server must come up


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def answered(url: str, body: dict[str, Any] | None = None) -> str:
    """Status and the beginning of what it says."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return f"{reply.status} {reply.read().decode()[:400]}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()[:400]}"


def wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"the server did not come up (exit code {server.poll()})")


def glossator(*arguments: str) -> None:
    print("\n$ glossator", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", "glossator.cli", *arguments], check=False)
    print("exit code", done.returncode, flush=True)


@contextmanager
def served(program: str, model: Path) -> Iterator[str]:
    """The address of a server of that model."""
    port = free_port()
    command = [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    print("\n$", *command, flush=True)
    server = subprocess.Popen(command, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        wait_for(server, port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def with_a_random_model(program: str, model: Path) -> None:
    with served(program, model) as url:
        glossator("doctor", "--llm", f"openai:{model}@{url}")
        glossator("doctor", "--llm", f"openai:no-such-model@{url}")
        glossator("doctor", "--llm", f"openai:{model}@{url.removesuffix('/v1')}/v9")
        said = {"model": str(model), "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}
        for name, more in {
            "plain": {},
            "logprobs": {"logprobs": True, "top_logprobs": 2},
            "response_format": {"response_format": {"type": "json_object"}},
            "an unknown field": {"no_such_field": 1},
            "temperature 0": {"temperature": 0},
        }.items():
            print(f"\n{name}: {answered(f'{url}/chat/completions', said | more)}")


def with_a_model_that_answers(program: str, model: Path, run: Path | None) -> None:
    with served(program, model) as url:
        spec = f"openai:{model}@{url}"
        glossator("doctor", "--llm", spec)
        glossator("doctor", "--llm", spec + "+batch")
        if run is None:
            return
        label = ("label", str(shutil.copy(run, model.parent)), "--explainer", "oneshot", "--llm", spec)
        for _ in range(2):  # the second time from the log
            glossator(*label, "--features", "0-3", "--concurrency", "2")
        print("\n$ (the log)")
        query = "SELECT purpose, finish, input_tokens, output_tokens, reply, error FROM llm_call"
        glossator("sql", str(model.parent / run.name), query, "--format", "json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="`transformers` of an environment with its extra `serving`")
    parser.add_argument("--run", type=Path, help="a harvested run file")
    given = parser.parse_args()
    version = subprocess.run([given.server, "version"], capture_output=True, text=True, check=False)
    print(f"transformers {version.stdout.strip() or version.stderr.strip()[-200:]}")
    with tempfile.TemporaryDirectory() as folder:
        answering = tiny_chat(Path(folder) / "answers" / "model", context=16_384, says=ANSWER)
        with_a_model_that_answers(given.server, answering, given.run)
        with_a_random_model(given.server, tiny_chat(Path(folder) / "random", context=16_384))


if __name__ == "__main__":
    main()
