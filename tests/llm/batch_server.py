"""The batch interfaces of OpenAI and Anthropic on the loopback, with a bill of their own, and with faults.

What becomes of a request is said by `fate(custom_id, body, seen)`, `seen` being how often its body came before; what
becomes of an HTTP request by `faults`: lists of kinds by `METHOD /path`, used up in order. A batch ends when it has been
asked for `polls` times, unless `held`. Results come in another order than requests. Only what succeeds is billed.
Standard asyncio, in a thread of its own, so that it outlives whoever asks it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Fate = Callable[[str, dict[str, Any], int], str]
Refuse = Callable[["Batch"], tuple[str, str] | None]
ERRORS = {"invalid": (400, "invalid_request_error"), "overloaded": (529, "overloaded_error"), "no model": (404, "not_found_error")}  # fmt: skip


def tokens(body: dict[str, Any]) -> int:
    return len(json.dumps(body["messages"])) // 4 + 1


def answer(body: dict[str, Any]) -> str:
    """The number in `number 17`, so that a test sees whether each question got its own reply."""
    text = json.dumps(body["messages"])
    return json.dumps({"number": int(text.rsplit("number ", 1)[1].split('"')[0].split("\\")[0])})


@dataclass
class Batch:
    id: str
    requests: list[tuple[str, dict[str, Any]]]
    metadata: dict[str, str] = field(default_factory=dict)
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    status: str = "in_progress"
    errors: tuple[str, str] | None = None
    asked: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)  # of results that succeeded, or of all (Anthropic)
    failed: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@dataclass
class BatchServer:
    fate: Fate = lambda custom_id, body, seen: "good"
    refuse: Refuse = lambda batch: None
    ends_as: str = "completed"
    polls: int = 2
    held: bool = False
    strange: int = 0  # rows in each batch's results that nobody asked for
    port: int = 0
    faults: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    bill: Counter[str] = field(default_factory=Counter)  # a hash of the question -> how often it was paid for
    billed: list[tuple[int, int]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def openai(self) -> str:
        return f"openai:m@http://127.0.0.1:{self.port}/v1+batch"

    @property
    def anthropic(self) -> str:
        return f"anthropic:m@http://127.0.0.1:{self.port}+batch"

    # ------------------------------------------------------------------ batches

    def end(self, batch: Batch, anthropic: bool) -> None:
        batch.status = "ended" if anthropic else self.ends_as
        for custom_id, body in batch.requests:
            name = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            fate = self.fate(custom_id, body, self.seen[name])
            self.seen[name] += 1
            if fate in ("good", "twice", "swallowed", "wrong usage", "garbled"):
                self.bill[name] += 1
                self.billed.append((tokens(body), 8))
                batch.counts["succeeded"] += 1
            else:
                batch.counts["expired" if fate == "expired" else "canceled" if fate == "canceled" else "errored"] += 1
            row = (_message if anthropic else _completion)(custom_id, body, fate)
            if fate in ("swallowed", "missing"):
                continue
            good = anthropic or (row["error"] is None and row["response"]["status_code"] == 200)
            (batch.rows if good else batch.failed).extend([row] * (2 if fate == "twice" else 1))
        for number in range(self.strange):
            batch.rows.append(
                (_message if anthropic else _completion)(f"stranger-{number}", batch.requests[0][1], "good")
            )
        random.Random(len(self.log)).shuffle(batch.rows)

    def ask(self, batch: Batch, anthropic: bool) -> None:
        batch.asked += 1
        if batch.status in ("in_progress", "validating") and batch.asked >= self.polls and not self.held:
            self.end(batch, anthropic)

    def openai_json(self, batch: Batch) -> dict[str, Any]:
        over = batch.status in ("completed", "expired", "cancelled")
        errors = {"data": [{"code": batch.errors[0], "message": batch.errors[1]}]} if batch.errors else None
        return {
            "id": batch.id, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "f",
            "created_at": int(batch.created.timestamp()), "status": batch.status, "metadata": batch.metadata, "errors": errors,
            "output_file_id": f"out-{batch.id}" if over and batch.rows else None,
            "error_file_id": f"err-{batch.id}" if over and batch.failed else None,
            "request_counts": {"total": len(batch.requests), "completed": batch.counts["succeeded"], "failed": len(batch.failed)},
        }  # fmt: skip

    def anthropic_json(self, batch: Batch) -> dict[str, Any]:
        over = batch.status == "ended"
        kinds = ("succeeded", "errored", "expired", "canceled")
        counts = {kind: batch.counts[kind] if over else 0 for kind in kinds}
        return {
            "id": batch.id, "type": "message_batch", "created_at": batch.created.isoformat(), "processing_status": batch.status,
            "expires_at": (batch.created + timedelta(days=1)).isoformat(), "archived_at": None, "ended_at": None, "cancel_initiated_at": None,
            "request_counts": {"processing": 0 if over else len(batch.requests), **counts},
            "results_url": f"http://127.0.0.1:{self.port}/v1/messages/batches/{batch.id}/results" if over else None,
        }  # fmt: skip

    # ------------------------------------------------------------------ requests by HTTP

    def handle(self, method: str, path: str, kind: str, body: bytes) -> tuple[int, bytes]:
        parts = path.split("?")[0].strip("/").split("/")[1:]
        if parts[:1] == ["files"]:
            if method == "POST":
                name = f"file-{len(self.files)}"
                self.files[name] = _uploaded(kind, body)
                return _json({"id": name, "object": "file", "bytes": len(body), "created_at": 0, "filename": "f", "purpose": "batch", "status": "processed"})  # fmt: skip
            batch = self.batches[parts[1][4:]]
            return 200, _lines(batch.rows if parts[1].startswith("out") else batch.failed)
        anthropic = parts[0] == "messages"
        shape = self.anthropic_json if anthropic else self.openai_json
        rest = parts[2:] if anthropic else parts[1:]
        if method == "POST":
            given = json.loads(body)
            batch = Batch(f"{'msgbatch' if anthropic else 'batch'}_{len(self.batches)}", _requests(given, self.files))
            batch.metadata = given.get("metadata") or {}
            if problem := self.refuse(batch):
                batch.status, batch.errors = "failed", problem
            self.batches[batch.id] = batch
            return _json(shape(batch))
        if not rest:
            found = [shape(b) for b in reversed(self.batches.values())]
            return _json({"object": "list", "data": found, "has_more": False, "first_id": None, "last_id": None})
        if rest[0] not in self.batches:
            return _json({"error": {"type": "not_found_error", "message": "no such batch"}, "type": "error"}, 404)
        batch = self.batches[rest[0]]
        if len(rest) > 1:
            return 200, _lines(batch.rows)
        self.ask(batch, anthropic)
        return _json(shape(batch))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                headers = {}
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.log.append(f"{method} {path.split('?')[0]}")
                waiting = self.faults.get(self.log[-1]) or []
                fault = waiting.pop(0) if waiting else ""
                if fault.isdigit():
                    status, content = _json({"type": "error", "error": {"type": "x", "message": fault}}, int(fault))
                else:
                    status, content = self.handle(method, path, headers.get("content-type", ""), body)
                if fault == "late":
                    await asyncio.sleep(3)
                size = len(content)
                if fault == "cut":  # it was done, but nobody hears of it
                    content = content[: size // 2]
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n".encode() + content)  # fmt: skip
                await writer.drain()
                if fault == "cut":
                    break
        writer.close()

    @contextmanager
    def running(self) -> Iterator[BatchServer]:
        loop = asyncio.new_event_loop()
        server = loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0, limit=2**26))
        self.port = server.sockets[0].getsockname()[1]
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


def _json(value: Any, status: int = 200) -> tuple[int, bytes]:
    return status, json.dumps(value).encode()


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _uploaded(kind: str, body: bytes) -> bytes:
    boundary = kind.split("boundary=")[1].strip('"').encode()
    (part,) = [p for p in body.split(b"--" + boundary) if b'name="file"' in p]
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")


def _requests(given: dict[str, Any], files: dict[str, bytes]) -> list[tuple[str, dict[str, Any]]]:
    if "requests" in given:
        return [(one["custom_id"], one["params"]) for one in given["requests"]]
    return [(one["custom_id"], one["body"]) for one in map(json.loads, files[given["input_file_id"]].splitlines())]


def _completion(custom_id: str, body: dict[str, Any], fate: str) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"r-{custom_id}", "custom_id": custom_id, "response": None, "error": None}
    if fate in ERRORS:
        status, kind = ERRORS[fate]
        row["response"] = {"status_code": status, "body": {"error": {"type": kind, "message": fate}}}
    elif fate in ("expired", "canceled"):
        row["error"] = {"code": f"batch_{fate}", "message": "it did not get its turn"}
    else:
        usage = {"prompt_tokens": 10**9 if fate == "wrong usage" else tokens(body), "completion_tokens": 8}
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer(body)}}
        good = {"id": "c", "model": "m-1", "choices": [] if fate == "garbled" else [choice], "usage": usage}
        row["response"] = {"status_code": 200, "body": good}
    return row


def _message(custom_id: str, body: dict[str, Any], fate: str) -> dict[str, Any]:
    if fate in ERRORS:
        result: dict[str, Any] = {"type": "errored", "error": {"type": "error", "error": {"type": ERRORS[fate][1], "message": fate}}}  # fmt: skip
    elif fate in ("expired", "canceled"):
        result = {"type": fate}
    else:
        usage = {"input_tokens": 10**9 if fate == "wrong usage" else tokens(body), "output_tokens": 8}
        content = "none" if fate == "garbled" else [{"type": "text", "text": answer(body)}]
        message = {"id": "m", "model": "m-1", "type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn", "usage": usage}  # fmt: skip
        result = {"type": "succeeded", "message": message}
    return {"custom_id": custom_id, "result": result}
