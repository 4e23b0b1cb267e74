"""The key is sent to the provider and is nowhere else: no table, log record, output, message or traceback of a run that fails.

The server echoes the key wherever a server can: in error messages, in headers, in a reply, in a refusal, in its model's name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from glossator.errors import GlossatorError, ProviderError, UsageError
from glossator.llm.opening import provider
from glossator.llm.secrets import KEYS, redact, without_keys
from glossator.llm.spec import Spec, parse_spec
from glossator.store.store import Store
from glossator.types import Reply, Request
from tests.llm.asking import PROTOCOLS, ask_all, config, opened, question
from tests.llm.server import Plan, Server, echo, serving

SENTINEL = "sentinel-5c1f0e77-key"
NOWHERE = Server(host="127.0.0.1:9")


class Echoing(Server):
    """Turns questions away with the key in the message; or answers with the key in the reply."""

    turned: int | None = None

    def _wrong(self, content: dict[str, Any], theirs: bool) -> tuple[int, str, str] | None:
        if self.turned:
            return self.turned, SENTINEL, f"something is wrong with {SENTINEL}, sk-{SENTINEL} and Bearer {SENTINEL}"
        return super()._wrong(content, theirs)


def turning_away(status: int) -> Echoing:
    server = Echoing()
    server.turned = status
    return server


def telling(body: dict[str, Any]) -> str:
    return json.dumps(json.loads(echo(body)) | {"key": SENTINEL}) + SENTINEL


SERVERS = {
    "bad key": Server(keys=("right",)),  # its message repeats the key that was given
    "400": turning_away(400),
    "403": turning_away(403),
    "404": turning_away(404),
    "429": turning_away(429),
    "500": turning_away(500),
    "reply": Server(answer=telling),
    "misshapen": Server(answer=lambda body: f'{{"number": "{SENTINEL}", "{SENTINEL}": 1}}'),
    "refusal": Server(answer=telling, plan=Plan(1.0, 0, ("refusal",))),
    "no JSON": Server(answer=telling, plan=Plan(1.0, 0, ("no JSON",))),
    "cut": Server(answer=telling, plan=Plan(1.0, 0, ("cut in the middle",))),
    "time-out": Server(answer=telling, plan=Plan(1.0, 0, ("time-out",))),
}


@pytest.fixture
def records() -> Iterator[list[str]]:
    """Everything that any library logs, at its most talkative, the debug mode of the event loop too."""
    said: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(self.format(record) + repr(record.args) + repr(record.exc_info))

    root, handler = logging.getLogger(), Keep()
    before = root.level
    names = ("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio")
    levels = {name: logging.getLogger(name).level for name in names}
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield said
    root.removeHandler(handler)
    root.setLevel(before)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    for variable in KEYS.values():
        monkeypatch.setenv(variable, SENTINEL)
    return SENTINEL


def held(store: Store) -> str:
    """All that the run file holds, as text."""
    tables = store.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'")
    return "\n".join(repr(store.sql(f'SELECT * FROM "{name}"')) for (name,) in tables)


def traces(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(error.args)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("what", [*SERVERS, "nobody there"])
def test_the_key_is_nowhere_but_in_the_request(
    what: str, protocol: str, key: str, records: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server = SERVERS.get(what, NOWHERE)
    settings = config(attempts=2, patience=0.3, timeout=0.5)

    async def run(store: Store) -> list[Reply | GlossatorError]:
        async with opened(server, protocol, store, settings) as llm:
            return await ask_all(llm, [question(1), question(2)])

    def collect() -> list[Reply | GlossatorError]:
        with Store(tmp_path / "run.duckdb") as store:
            ended = asyncio.run(run(store), debug=True)
            assert key not in held(store)
            return ended

    if server is NOWHERE:
        ended = collect()
    else:
        with serving(server):
            ended = collect()
    for one in ended:
        assert key not in (traces(one) if isinstance(one, BaseException) else repr(one))
    assert any(isinstance(one, GlossatorError) for one in ended) == (what != "reply")
    assert records, "nothing was captured"
    assert not [line for line in records if key in line]
    out, err = capfd.readouterr()
    assert key not in out + err
    for path in tmp_path.iterdir():
        assert key.encode() not in path.read_bytes()


def test_a_command_that_fails_with_the_sdks_debug_logging_on_prints_no_key(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from glossator.store.store import Store\n"
        "from tests.llm.asking import ask_all, config, opened, question\n"
        "from tests.llm.server import Server\n"
        "async def run(store):\n"
        "    async with opened(Server(host=sys.argv[1]), 'openai', store, config()) as llm:\n"
        "        await llm.complete(question(1))\n"
        "with Store(':memory:') as store:\n"
        "    asyncio.run(run(store))\n"
    )
    variables = dict.fromkeys(KEYS.values(), SENTINEL) | {"OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug"}
    with serving(Server(keys=("right",))) as server:
        done = subprocess.run(
            [sys.executable, "-c", script, server.host],
            env=os.environ | variables, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1 and "does not accept the key" in done.stderr and "DEBUG" in done.stderr
    assert SENTINEL not in done.stdout + done.stderr


def test_messages_lose_what_looks_like_a_key_and_replies_only_what_is_ours(key: str) -> None:
    assert redact(f"no {key}, no sk-proj-abcdefgh123, no Bearer abcdefgh123") == (
        "no [OPENAI_API_KEY], no [key], no [key]"
    )
    said = f"fires on API keys such as sk-abcdefgh123, but not on {key}"
    assert without_keys(said) == "fires on API keys such as sk-abcdefgh123, but not on [OPENAI_API_KEY]"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("bad", ["sk-good 12345678", "sk-good\n12345678", "sk-g\u00f6\u00f6d-1234", "sk-good\x0712345"])
@pytest.mark.parametrize("host", ["", "@http://127.0.0.1:9"])
def test_a_key_that_no_header_can_hold_is_named_by_its_variable_and_not_shown(
    protocol: str, bad: str, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYS[protocol], bad)
    with pytest.raises(ProviderError, match=KEYS[protocol]) as raised:
        provider(parse_spec(f"{protocol}:echo{host}"), config(), lambda seconds: None)
    assert bad not in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.setenv(KEYS[protocol], " sk-good-12345678\n")  # as a file has it
    provider(parse_spec(f"{protocol}:echo{host}"), config(), lambda seconds: None)


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{SENTINEL}@host/v1", f"http://{SENTINEL}@host/v1", f"https://host/v1?key={SENTINEL}", f"http://host/v1#{SENTINEL}",
        f"http://user:{SENTINEL}@@host", f"http://:{SENTINEL}@host:port/v1", f"user:{SENTINEL}@host:8000", f"http://host:{SENTINEL}/v1",
        f"ftp://{SENTINEL}@host",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["openai:m", "openai:org/m@2", "anthropic:m", "opnai:m"])
def test_an_address_that_may_hold_a_key_is_refused_and_not_repeated(name: str, address: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_spec(f"{name}@{address}")
    assert SENTINEL not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("openai:m@http://user:pw@host/v1", "OPENAI_API_KEY"),
        ("openai:m+batch@http://host/v1", r"\+batch goes last; write openai:NAME@http://host:8000/v1\+batch"),
        ("openai:", "--llm: name a model after openai:$"),
        ("openai:@http://host/v1", "--llm: name a model after openai:$"),
        ("openai:m@host:8000", "no address; write openai:NAME@http"),
    ],
)
def test_what_cannot_be_meant_by_llm_says_what_can(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_spec(text)
    assert parse_spec("openai:@cf/m@http://host/v1/+batch") == Spec("openai", "@cf/m", "http://host/v1", True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_a_server_says_cannot_command_the_terminal(protocol: str) -> None:
    wild = "\x1b]0;owned\x07\x1b[31mred\x9b2J \u202eback"

    def command(body: dict[str, Any]) -> str:
        return json.dumps({wild: 1}) if "number 1." in str(body) else wild

    class Wild(Server):
        def _wrong(self, content: dict[str, Any], theirs: bool) -> tuple[int, str, str] | None:
            return (400, wild, wild) if "number 3." in str(content) else None

    class Refusing(Server):
        def _reply(self, content: dict[str, Any], theirs: bool, kind: str) -> tuple[dict[str, Any], tuple[int, int]]:
            answer, usage = super()._reply(content | {"model": wild}, theirs, "refusal")
            return json.loads(json.dumps(answer).replace("I cannot help with that.", json.dumps(wild)[1:-1])), usage

    class Closed(BaseModel, extra="forbid"):
        number: int

    with Store(":memory:") as store:
        with serving(Wild(answer=command)) as server:
            closed = replace(question(1), answer=Closed)
            ended = asyncio.run(_all(server, protocol, store, [closed, question(2), question(3)]))
            assert "red" in str(ended[0])
        with serving(Refusing(answer=lambda body: wild)) as server:
            ended += asyncio.run(_all(server, protocol, store, [question(4)]))
            assert "declined" in str(ended[3]) and "red" in str(ended[3])
        assert all(isinstance(one, GlossatorError) for one in ended)
        assert "red" in str(ended[2]), "but for that, its words are shown"
        shown = [str(one) for one in ended] + [str(row) for (row,) in store.sql("SELECT replied_by FROM llm_call")]
        assert not [text for text in shown if not text.isprintable()]


async def _all(server: Server, protocol: str, store: Store, questions: list[Request]) -> list[Reply | GlossatorError]:
    async with opened(server, protocol, store, config()) as llm:
        return await ask_all(llm, questions)
