"""A graph posts its state to nobody, whatever the environment says, unless we were asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

GRAPH = """
import sys
if "before" in sys.argv:  # the environment was read, and is remembered, before we are called
    from langsmith.utils import tracing_is_enabled
    assert tracing_is_enabled()
if "quiet" in sys.argv:
    from glossator.config import quiet_tracing
    quiet_tracing()
if "command" in sys.argv:
    from glossator.cli import main
    try:
        main(["version"])
    except SystemExit as done:
        assert not done.code
from typing import TypedDict
from langchain_core.tracers.langchain import wait_for_all_tracers
from langgraph.graph import END, START, StateGraph

class State(TypedDict):
    text: str

graph = StateGraph(State)
graph.add_node("shout", lambda state: {"text": state["text"].upper()})
graph.add_edge(START, "shout")
graph.add_edge("shout", END)
assert graph.compile().invoke({"text": "a secret window"}) == {"text": "A SECRET WINDOW"}
wait_for_all_tracers()
"""


class Counter(ThreadingHTTPServer):
    """Takes whatever is posted, and keeps the paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taker)
        self.asked: list[str] = []


class Taker(BaseHTTPRequestHandler):
    def _take(self) -> None:
        assert isinstance(self.server, Counter)
        self.server.asked.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST = do_PATCH = _take

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Counter]:
    server = Counter()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run_graph(endpoint: Counter, *how: str, variable: str = "LANGSMITH_TRACING", **more: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANGSMITH", "LANGCHAIN"))}
    address = {"LANGSMITH_ENDPOINT": f"http://127.0.0.1:{endpoint.server_port}", "LANGSMITH_API_KEY": "lsv2_pt_nothing"}
    environment = kept | address | {variable: "true"} | more
    done = subprocess.run([sys.executable, "-c", GRAPH, *how], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_graph_posts_its_state_when_nobody_stops_it(endpoint: Counter) -> None:
    run_graph(endpoint)
    assert any(asked.startswith("POST /runs") for asked in endpoint.asked), endpoint.asked


@pytest.mark.parametrize("variable", ["LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"])
def test_no_graph_of_ours_posts_anything(endpoint: Counter, variable: str) -> None:
    run_graph(endpoint, "quiet", variable=variable)
    assert endpoint.asked == []


def test_a_command_stops_it_first_of_all(endpoint: Counter) -> None:
    run_graph(endpoint, "command")
    assert endpoint.asked == []


def test_it_posts_nothing_either_where_the_environment_was_read_before(endpoint: Counter) -> None:
    run_graph(endpoint, "before", "quiet")
    assert endpoint.asked == []


def test_it_posts_where_we_were_asked_for_it(endpoint: Counter) -> None:
    run_graph(endpoint, "quiet", GLOSSATOR_TRACING="1")
    assert any(asked.startswith("POST /runs") for asked in endpoint.asked), endpoint.asked
