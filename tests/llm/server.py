"""A server that lies: OpenAI's and Anthropic's protocols on the loopback, a seeded plan of faults, and a bill of its own.

What goes wrong is decided by a hash of the seed, the body and how often that body was seen, so that a plan does not depend
on the order in which questions arrive. The bill is the judge of budgets: it counts the tokens itself, and books a question
in full before the first byte of the reply is sent, also where the reply never arrives. What is turned away with an error
status costs nothing. Each line of the bill is in its file before anything is answered, so it survives whoever asked.

    python -m tests.llm.server --port 8010 --delay 1 --faults 0.3 --seed 1 --bill bill.jsonl

It is standard asyncio, HTTP/1.1 with keep-alive. It knows no batches and does not stream.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TURNED_AWAY = ("429", "429 with Retry-After", "429 with rate-limit headers", "500", "502", "529")
BROKEN = ("time-out", "cut in the middle", "slow drip", "no JSON", "no message")
MISSHAPEN = ("empty", "truncated JSON", "wrong types", "out of range", "cut off at max_tokens")
HARMLESS = ("JSON with extra text", "lone surrogate")
WRONG_USAGE = ("usage null", "usage negative", "usage zero", "usage huge", "usage missing")
KINDS = (*TURNED_AWAY, *BROKEN, *MISSHAPEN, *HARMLESS, *WRONG_USAGE, "refusal")

Answer = Callable[[dict[str, Any]], str]


def texts(body: dict[str, Any]) -> list[str]:
    """The texts of a question's messages, the system's first, in either protocol."""
    system = body.get("system") or []
    found = [system] if isinstance(system, str) else [block["text"] for block in system]
    for message in body.get("messages", []):
        content = message["content"]
        found.append(content if isinstance(content, str) else "".join(block.get("text", "") for block in content))
    return found


def echo(body: dict[str, Any]) -> str:
    """The number in `number 17`, so that a test sees whether each question got its own reply."""
    found = re.search(r"number (\d+)", "\n".join(texts(body)))
    return json.dumps({"number": int(found.group(1)) if found else 0})


@dataclass(frozen=True)
class Plan:
    """`faults`: the share of attempts that go wrong, in one of `kinds`. `first`: only among the first that the server sees."""

    faults: float = 0.0
    seed: int = 0
    kinds: tuple[str, ...] = KINDS
    first: int | None = None

    def kind(self, body: bytes, seen: int, before: int) -> str:
        """What happens to a body that was seen so often, after `before` others: one of `kinds`, or `good`."""
        if not self.kinds or (self.first is not None and before >= self.first):
            return "good"
        drawn = hashlib.sha256(f"{self.seed} {seen} ".encode() + body).digest()
        if int.from_bytes(drawn[:6], "big") >= self.faults * 2**48:
            return "good"
        return self.kinds[int.from_bytes(drawn[6:12], "big") % len(self.kinds)]


@dataclass(frozen=True)
class Seen:
    """One attempt, as the server saw it."""

    at: float  # time.monotonic
    path: str
    body: str  # a hash
    prompt: str  # all its texts, the first 300 characters
    messages: int  # of user and assistant
    max_tokens: int
    kind: str
    status: int
    usd: float = 0.0
    tokens: int = 0


@dataclass
class Server:
    """All that a test can set. `keys` None: any key goes. `lacks`: parameters that are refused with a 400."""

    answer: Answer = echo
    delay: float = 0.0
    plan: Plan = Plan()
    keys: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    credit: bool = True
    lacks: tuple[str, ...] = ()
    price: tuple[float, float] = (1.0, 4.0)  # dollars for a million tokens, in and out
    token: int = 4  # bytes
    thought: int = 0  # tokens of each reply that are billed, and told, whatever max_tokens says
    bill: Path | None = None
    retry_after: float = 0.2
    keep: bool = True  # remember every attempt in `seen`
    seen: list[Seen] = field(default_factory=list)
    bills: list[tuple[float, float, int]] = field(default_factory=list)  # time.time, total dollars, total tokens
    usd: float = 0.0
    tokens: int = 0
    in_flight: int = 0
    peak: int = 0
    host: str = ""

    def __post_init__(self) -> None:
        self._times: Counter[bytes] = Counter()
        self._before = 0

    @property
    def openai(self) -> str:
        return f"http://{self.host}/v1"

    @property
    def anthropic(self) -> str:
        return f"http://{self.host}"

    # ------------------------------------------------------------------ HTTP

    async def serve(self, port: int = 0) -> asyncio.Server:
        listening = await asyncio.start_server(self._connection, "127.0.0.1", port, backlog=1024)
        self.host = f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        return listening

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _ = head[0].split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                body = await reader.readexactly(int(headers.get("content-length") or 0))
                self.in_flight += 1
                self.peak = max(self.peak, self.in_flight)
                try:
                    if not await self._one(method, path, headers, body, (reader, writer)):
                        return
                finally:
                    self.in_flight -= 1
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # who asked has gone, or the server stops
        finally:
            writer.close()

    async def _one(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        ends: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        """Answer one request; whether the connection is still good."""
        reader, writer = ends
        path = path.partition("?")[0]
        theirs = path.endswith("/messages")
        turned = self._key(headers, theirs)
        if turned is None and method == "GET" and path.endswith("/models"):
            listed = [{"id": name, "object": "model"} for name in self.models or ("echo",)]
            return await _send(writer, 200, {"object": "list", "data": listed})
        if turned is None and (method != "POST" or not (theirs or path.endswith("/chat/completions"))):
            turned = (404, "not_found", f"no {method} {path} here")
        content = json.loads(body) if body else {}
        turned = turned or self._wrong(content, theirs)
        if turned:
            self._note(path, body, content, f"turned away: {turned[1]}", turned[0])
            return await _send(writer, turned[0], _error(theirs, turned[1], turned[2]))
        digest = hashlib.sha256(body).digest()
        times = self._times[digest]
        self._times[digest] += 1
        kind = self.plan.kind(body, times, self._before)
        self._before += 1
        if kind in TURNED_AWAY:
            status = int(kind[:3])
            self._note(path, body, content, kind, status)
            extra = self._headers(kind, theirs)
            return await _send(writer, status, _error(theirs, "overloaded", "too much to do"), extra)
        answer, usage = self._reply(content, theirs, kind)
        self._book(path, body, content, kind, usage)
        if kind == "time-out":
            await reader.read(1)  # never a word; until who asked gives up
            return False
        if self.delay:
            await asyncio.sleep(self.delay)
        if kind in ("cut in the middle", "slow drip"):
            await self._badly(writer, answer, drip=kind == "slow drip")
            return False
        return await _send(writer, 200, "<html>It works!</html>" if kind == "no JSON" else answer)

    async def _badly(self, writer: asyncio.StreamWriter, answer: dict[str, Any], *, drip: bool) -> None:
        """Half of a reply and then nothing; or a byte now and then."""
        whole = json.dumps(answer).encode()
        writer.write(_head(200, len(whole), {}))
        if drip:
            for byte in whole:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.2)
        else:
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
        writer.transport.abort()

    # ------------------------------------------------------------------ what is wrong with a question

    def _key(self, headers: dict[str, str], theirs: bool) -> tuple[int, str, str] | None:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        given = (headers.get("x-api-key") or given) if theirs else given  # that protocol's SDKs send either
        if self.keys is not None and given not in self.keys:
            return 401, "invalid_api_key", f"Incorrect API key provided: {given}"
        return None

    def _wrong(self, content: dict[str, Any], theirs: bool) -> tuple[int, str, str] | None:
        if self.models is not None and content.get("model") not in self.models:
            return 404, "model_not_found", f"The model {content.get('model')} does not exist"
        if not self.credit and theirs:
            return 400, "invalid_request_error", "Your credit balance is too low to access the API"
        if not self.credit:
            return 429, "insufficient_quota", "You exceeded your current quota, please check your plan"
        for name in self.lacks:
            if name in content:
                return 400, "unsupported_parameter", f"Unsupported parameter: '{name}'"
        return None

    def _headers(self, kind: str, theirs: bool) -> dict[str, str]:
        if kind == "429 with Retry-After":
            return {"retry-after": f"{self.retry_after:g}"}
        if kind == "429 with rate-limit headers" and theirs:
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.retry_after))
            return {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": moment}
        if kind == "429 with rate-limit headers":
            reset = f"{round(self.retry_after * 1000)}ms"
            return {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}
        return {}

    # ------------------------------------------------------------------ replies and the bill

    def _reply(self, content: dict[str, Any], theirs: bool, kind: str) -> tuple[dict[str, Any], tuple[int, int]]:
        """The body of a reply, and the tokens that it truly took."""
        room = int(content.get("max_tokens") or content.get("max_completion_tokens") or 2**20)
        said = _spoilt(self.answer(content), kind).encode("utf-8", "surrogatepass")
        most = self.token * room
        cut = len(said) > most or kind == "cut off at max_tokens"
        text = said[:most].decode("utf-8", "surrogatepass" if kind == "lone surrogate" else "ignore")
        asked = sum(len(part.encode("utf-8", "surrogatepass")) for part in texts(content)) // self.token + 8
        usage = (asked, -(-len(said[:most]) // self.token) + 1 + self.thought)
        finish = "length" if cut else "refusal" if kind == "refusal" else "stop"
        make = _message if theirs else _completion
        return make(content, text, finish, _told(usage, kind), kind), usage

    def _book(self, path: str, body: bytes, content: dict[str, Any], kind: str, usage: tuple[int, int]) -> None:
        usd = (usage[0] * self.price[0] + usage[1] * self.price[1]) / 1e6
        self.usd, self.tokens = self.usd + usd, self.tokens + sum(usage)
        self.bills.append((time.time(), self.usd, self.tokens))
        if self.bill:
            line = {"at": time.time(), "kind": kind, "usd": usd, "tokens": sum(usage)}
            with self.bill.open("a") as file:
                file.write(json.dumps(line | {"total_usd": self.usd, "total_tokens": self.tokens}) + "\n")
        self._note(path, body, content, kind, 200, usd, sum(usage))

    def _note(
        self, path: str, body: bytes, content: dict[str, Any], kind: str, status: int, usd: float = 0.0, tokens: int = 0
    ) -> None:
        if not self.keep:
            return
        room = int(content.get("max_tokens") or content.get("max_completion_tokens") or 0)
        words = [m for m in content.get("messages", []) if m["role"] != "system"]
        prompt, digest = "\n".join(texts(content))[:300], hashlib.sha256(body).hexdigest()[:16]
        self.seen.append(Seen(time.monotonic(), path, digest, prompt, len(words), room, kind, status, usd, tokens))


def _spoilt(text: str, kind: str) -> str:
    """An answer with what `kind` does to it."""
    if kind == "empty":
        return ""
    if kind == "refusal":
        return "I cannot help with that."
    if kind in ("truncated JSON", "cut off at max_tokens"):
        return text[: max(1, len(text) - 2)]
    if kind == "JSON with extra text":
        return f"Here it is:\n```json\n{text}\n```\nAnything else?"
    if kind == "lone surrogate":
        return f"\ud83d {text}"
    if kind == "wrong types":
        return json.dumps({name: ["what"] for name in json.loads(text)})
    if kind == "out of range":
        return json.dumps(dict.fromkeys(json.loads(text), -(10**12)))
    return text


def _told(usage: tuple[int, int], kind: str) -> tuple[int | None, int | None]:
    """The usage that is told, which need not be the true one."""
    lies: dict[str, tuple[int | None, int | None]] = {
        "usage null": (None, None),
        "usage negative": (-usage[0], -usage[1]),
        "usage zero": (0, 0),
        "usage huge": (10**30, 10**30),
    }
    return lies.get(kind, usage)


def _completion(
    content: dict[str, Any], text: str, finish: str, told: tuple[int | None, int | None], kind: str
) -> dict[str, Any]:
    refused = finish == "refusal"
    message = {"role": "assistant", "content": None if refused else text, "refusal": text if refused else None}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "stop" if refused else finish}
    if content.get("logprobs"):
        choice["logprobs"] = {"content": _logprobs(text, int(content.get("top_logprobs") or 0))}
    out = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": f"{content.get('model')}-2026"}
    out |= {"choices": [] if kind == "no message" else [choice]}
    usage = {"prompt_tokens": told[0], "completion_tokens": told[1], "total_tokens": None}
    return out if kind == "usage missing" else out | {"usage": usage}


def _message(
    content: dict[str, Any], text: str, finish: str, told: tuple[int | None, int | None], kind: str
) -> dict[str, Any]:
    reason = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal"}[finish]
    out = {"id": "msg_1", "type": "message", "role": "assistant", "model": f"{content.get('model')}-2026"}
    out |= {} if kind == "no message" else {"content": [{"type": "text", "text": text}]}
    out |= {"stop_reason": reason, "stop_sequence": None}
    usage = {"input_tokens": told[0], "output_tokens": told[1]}
    return out if kind == "usage missing" else out | {"usage": usage}


def _logprobs(text: str, top: int) -> list[dict[str, Any]]:
    """Four characters a token, the second likeliest being what was not said."""
    places = []
    for first in range(0, len(text), 4):
        token = text[first : first + 4]
        others = [{"token": f"{token}{rank}", "logprob": -2.5 - rank, "bytes": None} for rank in range(1, top)]
        likely = {"token": token, "logprob": -0.1, "bytes": None}
        places.append(likely | {"top_logprobs": [likely, *others][:top]})
    return places


def _error(theirs: bool, code: str, message: str) -> dict[str, Any]:
    if theirs:
        return {"type": "error", "error": {"type": code, "message": message}}
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _head(status: int, length: int, extra: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", "content-type: application/json", f"content-length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in extra.items()), "", ""]).encode("latin-1")


async def _send(writer: asyncio.StreamWriter, status: int, body: Any, extra: dict[str, str] | None = None) -> bool:
    whole = (body if isinstance(body, str) else json.dumps(body)).encode()
    writer.write(_head(status, len(whole), extra or {}) + whole)
    await writer.drain()
    return True


@contextmanager
def serving(server: Server, port: int = 0) -> Iterator[Server]:
    """The server in a thread and a loop of its own, so that what a test does to its loop does not touch it."""
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    listening: list[asyncio.Server] = []

    def run() -> None:
        asyncio.set_event_loop(loop)
        listening.append(loop.run_until_complete(server.serve(port)))
        ready.set()
        loop.run_forever()

    async def stop() -> None:
        listening[0].close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=run, name="lying-server", daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the server did not start")
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--faults", type=float, default=0.0, help="share of attempts that go wrong")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bill", type=Path)
    args = parser.parse_args()
    server = Server(delay=args.delay, plan=Plan(args.faults, args.seed), bill=args.bill, keep=False)

    async def run() -> None:
        listening = await server.serve(args.port)
        print(f"listening at {server.openai} and {server.anthropic}", flush=True)
        await listening.serve_forever()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())


if __name__ == "__main__":
    main()
