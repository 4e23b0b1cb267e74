"""What doctor says is what the server does: a small server of either protocol, with and without each thing it may lack."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glossator.config import LLMConfig
from glossator.errors import GlossatorError, ProviderError, RejectedError, UnparsableError, UsageError
from glossator.llm.doctor import Usual, examine
from glossator.store.replies import Replies
from glossator.store.store import Store
from tests.llm.tiny_chat import tiny_chat

USUAL = Usual(fixed=2000, changing=6000, output=100)
BYTES = 4  # the server's tokens
REPLY_TOKENS = 12
PRICES = "[{0}.tiny]\ninput = 1.0\noutput = 10.0\ncache_read = 0.1\nbatch = 0.5\n"
ABOUT = ["structured output", "log-probabilities", "prompt caching", "batch interface", "price"]
Body = dict[str, Any]


class Small(ThreadingHTTPServer):
    """`lacks`: schema (400), schema-detail (422, as FastAPI says it), schema-ignored, prose, logprobs, logprobs-refused, batch, usage."""

    def __init__(self, lacks: tuple[str, ...], *, caches: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lacks, self.caches = lacks, caches
        self.bodies: list[Body] = []
        self.seen: set[str] = set()

    @property
    def host(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Small
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith(("/v1/batches", "/v1/messages/batches")) and "batch" not in self.server.lacks:
            return self._say(200, {"object": "list", "data": [], "has_more": False})
        return self._say(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        theirs = self.path == "/v1/messages"
        key = self.headers.get("x-api-key") or self.headers.get("Authorization", "").removeprefix("Bearer ")
        if key != "good-key":
            return self._fail(401, "invalid_api_key", f"Incorrect API key provided: {key}")
        if body["model"] != "tiny":
            return self._fail(404, "model_not_found", f"The model {body['model']} does not exist")
        if "key-in-body" in self.server.lacks:
            return self._fail(400, "bad", f"your key {key} is odd")
        structured = "response_format" in body or "output_config" in body
        if structured and "schema" in self.server.lacks:
            return self._fail(
                400, "bad_request", "response_format or output_config of type json_schema is not supported"
            )
        if structured and "schema-detail" in self.server.lacks:
            said = {"loc": ["body", "response_format"], "msg": "Extra inputs are not permitted", "input": body}
            return self._say(422, {"detail": [said]})
        if "logprobs" in body and "logprobs-refused" in self.server.lacks:
            return self._fail(400, "bad_request", "logprobs are not supported")
        return self._say(200, self._message(body) if theirs else self._completion(body))

    def _text(self, body: Body, structured: bool) -> str:
        words = json.dumps(body["messages"]) + json.dumps(body.get("system", ""))
        if "prose" in self.server.lacks:
            return "A cat has four legs."
        if "schema-ignored-prose" in self.server.lacks and "JSON schema" not in words:
            return "A cat has four legs."
        if structured and not {"schema-ignored"} & set(self.server.lacks):
            return '{"legs": 4, "by_form": "yes"}'
        return '{"legs": 4}'

    def _counted(self, body: Body) -> tuple[int, int]:
        """Tokens of the prompt, and those that came from the cache."""
        texts = [m["content"] for m in body["messages"]] + [part["text"] for part in body.get("system", [])]
        fixed = body["messages"][0]["content"] if "system" not in body else body["system"][0]["text"]
        cached = len(fixed) // BYTES if self.server.caches and fixed in self.server.seen else 0
        self.server.seen.add(fixed)
        return sum(map(len, texts)) // BYTES, cached

    def _completion(self, body: Body) -> Body:
        read, cached = self._counted(body)
        choice: Body = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": self._text(body, "response_format" in body)},
        }
        if body.get("logprobs") and "logprobs" not in self.server.lacks:
            likely = [{"token": str(n), "logprob": -1.0 - n} for n in range(body["top_logprobs"])]
            choice["logprobs"] = {"content": [likely[0] | {"top_logprobs": likely}]}
        usage = {
            "prompt_tokens": read,
            "completion_tokens": REPLY_TOKENS,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        answer: Body = {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny-1", "choices": [choice]}
        return answer if "usage" in self.server.lacks else answer | {"usage": usage}

    def _message(self, body: Body) -> Body:
        read, cached = self._counted(body)
        usage = {"input_tokens": read - cached, "cache_read_input_tokens": cached, "output_tokens": REPLY_TOKENS}
        text = self._text(body, "output_config" in body)
        return {
            "id": "1", "type": "message", "role": "assistant", "model": "tiny", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": text}], "usage": usage,
        }  # fmt: skip

    def _fail(self, status: int, code: str, message: str) -> None:
        self._say(status, {"type": "error", "error": {"type": code, "code": code, "message": message}})

    def _say(self, status: int, content: Body) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def small(*lacks: str, caches: bool = False) -> Iterator[Small]:
    server = Small(lacks, caches=caches)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["openai", "anthropic"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, "good-key")


def spec(server: Small, protocol: str = "openai", model: str = "tiny") -> str:
    return f"{protocol}:{model}@{server.host}" + ("/v1" if protocol == "openai" else "")


def examined(
    spec: str, folder: Path | None = None, usual: Usual = USUAL
) -> tuple[dict[str, str], GlossatorError | None]:
    """What it says, by what it is about, and how it ended."""
    lines: list[str] = []
    prices = None
    if folder is not None:
        prices = folder / "prices.toml"
        prices.write_text(PRICES.format(spec.partition(":")[0]))
    config = LLMConfig(prices=None if prices is None else str(prices))
    end = None
    with Store(":memory:") as store:
        try:
            asyncio.run(examine(spec, Replies(store, 0.0), config, usual, lines.append))
        except GlossatorError as error:
            end = error
    assert not any("\n" in line for line in [*lines, str(end)])
    who = {"who": lines[0]} if lines else {}
    return who | {what: says for what, _, says in (line.partition(": ") for line in lines[1:])}, end


def test_a_server_that_can_all_of_it(protocol: str, tmp_path: Path) -> None:
    with small(caches=True) as server:
        said, end = examined(spec(server, protocol), tmp_path)
        sent = len(server.bodies)
    assert end is None
    assert sent == 2
    assert re.search(rf"{protocol}:tiny at 127.0.0.1:\d+\S* answers in 0\.\d\d s, with 12 tokens", said["who"])
    assert ("it calls itself tiny-1" in said["who"]) == (protocol == "openai")
    assert said["structured output"] == "yes, by JSON schema"
    assert said["log-probabilities"].startswith("yes" if protocol == "openai" else "none in this protocol")
    assert said["prompt caching"].startswith("yes; 500 of ")
    assert said["batch interface"] == "yes (+batch)"


def test_the_price_is_that_of_a_prompt_of_the_usual_length_by_what_the_server_counts(
    protocol: str, tmp_path: Path
) -> None:
    """8,000 bytes of 4 a token, 100 tokens out: 2,000 x $1 + 100 x $10 a million, a thousand times."""
    with small() as server:
        said, _ = examined(spec(server, protocol), tmp_path)
    found = re.match(r"\$(\d+\.\d\d) for 1,000 features: ([\d,]+) tokens in and 100 out", said["price"])
    assert found, said["price"]
    assert float(found[1]) == pytest.approx(3.0, abs=0.02)
    assert int(found[2].replace(",", "")) == pytest.approx(2000, rel=0.01)
    assert "4.0 bytes a token" in said["price"]


def test_what_comes_from_the_cache_costs_less(tmp_path: Path) -> None:
    """500 of the 2,000 tokens are at a tenth."""
    with small(caches=True) as server:
        said, _ = examined(spec(server), tmp_path)
    found = re.match(r"\$(\d+\.\d\d) for", said["price"])
    assert found and float(found[1]) == pytest.approx(2.55, abs=0.02)


def test_what_the_check_itself_cost_is_what_the_server_counted(tmp_path: Path) -> None:
    with small() as server:
        said, _ = examined(spec(server), tmp_path)
        read = sum(sum(len(m["content"]) for m in body["messages"]) // BYTES for body in server.bodies)
    cost = (read * 1.0 + 2 * REPLY_TOKENS * 10.0) / 1e6
    assert said["this check"] == f"${cost:.4f}"


def test_a_price_that_nobody_knows_is_said_to_be_unknown() -> None:
    with small() as server:
        said, end = examined(spec(server))
    assert end is None and said["price"].startswith("not known (") and "--prices" in said["price"]


def test_without_usage_no_price_is_made_up(tmp_path: Path) -> None:
    with small("usage") as server:
        said, end = examined(spec(server), tmp_path)
    assert end is None and said["price"].startswith("cannot be said") and "tokens" not in said["who"]


@pytest.mark.parametrize("how", ["schema", "schema-detail"])
def test_a_server_that_takes_no_schema_is_asked_in_words(how: str, protocol: str) -> None:
    if (how, protocol) == ("schema-detail", "anthropic"):
        how = "schema"
    with small(how) as server:
        said, end = examined(spec(server, protocol))
        last = server.bodies[-1]
    assert end is None
    assert said["structured output"] == "no; the form is asked for in words"
    assert "response_format" not in last and "output_config" not in last
    assert "It must fit this JSON schema" in json.dumps(last)


def test_a_server_that_takes_a_schema_and_does_not_follow_it(protocol: str) -> None:
    with small("schema-ignored") as server:
        said, end = examined(spec(server, protocol))
    assert end is None and "does not follow it" in said["structured output"]


def test_a_server_that_ignores_the_schema_and_writes_prose_is_asked_in_words_from_then_on() -> None:
    with small("schema-ignored-prose") as server:
        said, end = examined(spec(server))
        structured = ["response_format" in body for body in server.bodies]
    assert end is None
    assert said["structured output"] == "no; the form is asked for in words; only at the second try"
    assert structured == [True, False, False]


def test_a_server_that_ignores_log_probabilities_and_one_that_refuses_them() -> None:
    with small("logprobs") as server:
        ignored, end = examined(spec(server))
    assert end is None and ignored["log-probabilities"] == "no; the server does not say them"
    with small("logprobs-refused") as server:
        refused, end = examined(spec(server))
        assert ["logprobs" in body for body in server.bodies] == [False, True, False]
    assert end is None and refused["log-probabilities"] == "no; the server refuses to say them"


def test_a_server_without_a_batch_interface(protocol: str) -> None:
    with small("batch") as server:
        said, end = examined(spec(server, protocol))
        assert end is None and re.fullmatch(r"none at \S+ \(status 404\)", said["batch interface"])
        _, end = examined(spec(server, protocol) + "+batch")
    assert isinstance(end, ProviderError) and "leave out +batch" in str(end)


def test_a_model_whose_replies_are_of_no_use_ends_it_after_all_was_said(protocol: str, tmp_path: Path) -> None:
    with small("prose") as server:
        said, end = examined(spec(server, protocol), tmp_path)
    assert isinstance(end, UnparsableError)
    assert list(said) == ["who", *ABOUT, "this check"]
    assert "no usable reply" in said["structured output"]


def test_a_bad_key_is_named_by_its_variable_and_not_shown(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"{protocol.upper()}_API_KEY"
    monkeypatch.setenv(variable, "very-bad-key-1234")
    with small() as server:
        said, end = examined(spec(server, protocol))
    assert isinstance(end, ProviderError) and variable in str(end) and "very-bad" not in str(end)
    assert said == {}


def test_a_model_that_is_not_there(protocol: str) -> None:
    with small() as server:
        said, end = examined(spec(server, protocol, model="big"))
    assert isinstance(end, ProviderError) and "no such model" in str(end) and "big" in str(end) and said == {}


def test_a_question_that_is_refused_says_why_without_the_key(protocol: str) -> None:
    with small("key-in-body") as server:
        _, end = examined(spec(server, protocol))
    assert isinstance(end, RejectedError) and "is odd" in str(end) and "good-key" not in str(end)


def test_nobody_there_is_found_out_within_seconds(protocol: str) -> None:
    with socket.socket() as held:  # bound, and nobody listens
        held.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{held.getsockname()[1]}"
        said, end = examined(f"{protocol}:tiny@{host}/v1")
    assert end is not None and "cannot reach 127.0.0.1" in str(end) and said == {}


def test_replies_in_files_have_nobody_who_answers() -> None:
    _, end = examined("files:folder")
    assert isinstance(end, UsageError)


def test_a_local_model(tmp_path: Path) -> None:
    model = tiny_chat(tmp_path, says='{"legs": 4}', context=4096)
    said, end = examined(f"local:{model}", usual=Usual(fixed=500))
    assert end is None
    assert "on this machine answers in" in said["who"] and "with 3 tokens" in said["who"]
    assert said["structured output"] == "no; the form is asked for in words"
    assert said["log-probabilities"].startswith("yes")
    assert said["price"].startswith("nothing; ")


# --------------------------------------------------------------------------- the command


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glossator.cli", "doctor", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_prints_a_line_for_each_thing(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text(PRICES.format("openai"))
    with small() as server:
        done = command("--llm", spec(server), "--prices", str(tmp_path / "prices.toml"), "--effort", "low")
        assert server.bodies[0]["reasoning_effort"] == "low"
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()][1:] == [*ABOUT, "this check"]


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        (lambda s: ("--llm", spec(s, model="big")), 1, "no such model"),
        (lambda s: ("--llm", "openai"), 2, "--llm openai: write openai:NAME"),
        (lambda s: ("--llm", spec(s), "--effort", "huge"), 2, "--effort huge"),
        (lambda s: ("--llm", spec(s), "--prices", "/no/such/file.toml"), 2, "/no/such/file.toml"),
    ],
)
def test_the_command_ends_with_one_line_where_it_does_not_work(
    given: Callable[[Small], tuple[str, ...]], code: int, says: str
) -> None:
    with small() as server:
        done = command(*given(server))
    assert done.returncode == code
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("glossator: ") and says in line
