"""`files:DIR` and `files:NAME@DIR`: questions are written to a file, somebody answers them, the answers are read from another.

The format is that of OpenAI's batches, which `vllm run-batch` reads and writes. NAME is the model's, as the server that will
answer knows it; without it, `model`. Nobody waits here: when the requests are written, the run stops and says what to do.
Replies are read from all JSON Lines files in DIR but those of requests, as far as they are there, when a run begins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

from glossator.config import LLMConfig
from glossator.errors import ProviderError
from glossator.llm.base import Address
from glossator.llm.batch_rows import Progress, Result, parts
from glossator.llm.openai_batch import LIMITS, line, read_row
from glossator.llm.openai_chat import OpenAIChat
from glossator.llm.spec import Spec
from glossator.rows import BatchRow
from glossator.types import Request


class Files:
    """Raises ProviderError for a folder that cannot be written, and for a line that is no reply."""

    def __init__(
        self, spec: Spec, config: LLMConfig, say: Callable[[str], None], limits: tuple[int, int] = LIMITS
    ) -> None:
        model, _, folder = spec.name.rpartition("@")
        self.folder, self.say, self.limits = Path(folder).expanduser(), say, limits
        self.address = Address("files", "", model or "model", config.effort)
        # It asks nobody: it is here for the form of a request, as servers other than OpenAI's read it.
        self.chat = OpenAIChat(Spec("openai", self.address.model, "http://127.0.0.1/v1"), config)
        self._found: dict[str, list[Result]] | None = None

    def size(self, request: Request) -> int:
        return len(line("x" * 33, self.chat.body(request)))

    async def send(self, batch_id: str, requests: Sequence[tuple[str, Request]]) -> str:
        path = self._requests(batch_id)
        written = path.with_suffix(".part")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with written.open("wb") as file:
                for custom_id, request in requests:
                    file.write(line(custom_id, self.chat.body(request)))
                file.flush()
                os.fsync(file.fileno())
            written.replace(path)
        except OSError as error:
            raise ProviderError(f"{path}: cannot be written ({error.strerror}); name another folder") from error
        return path.name

    async def find(self, row: BatchRow, known: Set[str]) -> str | None:
        path = self._requests(row.batch_id)
        return path.name if path.is_file() else None

    async def progress(self, row: BatchRow) -> Progress:
        if self._requests(row.batch_id).is_file():
            return Progress(ended=False)
        replied = row.batch_id in self._replies()  # then nothing more will come
        return Progress(ended=True, succeeded=0, gone=not replied)

    async def results(self, row: BatchRow) -> list[Result]:
        return self._replies().pop(row.batch_id, [])

    def where(self, row_id: str, missing: int) -> str:
        replies = self.folder / f"replies-{row_id}.jsonl"
        return (
            f"{missing} replies are not there yet: have {self._requests(row_id)} answered (such as by `vllm run-batch "
            f"-i {self._requests(row_id)} -o {replies} --model {self.address.model}`), with the replies in {replies}"
        )

    async def close(self) -> None:
        await self.chat.close()

    def _requests(self, batch_id: str) -> Path:
        return self.folder / f"requests-{batch_id}.jsonl"

    def _replies(self) -> dict[str, list[Result]]:
        """What is in the folder when a run begins."""
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> dict[str, list[Result]]:
        """Batch -> the replies that are there. Raises ProviderError before any is used where a line is none."""
        found: dict[str, list[Result]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            if path.name.startswith("requests-"):
                continue
            foreign: list[Result] = []
            for result in self._read_file(path):
                ours = parts(result.custom_id)
                if ours:
                    found.setdefault(ours[1], []).append(result)
                if not ours or not (ours[1] in path.name or self._requests(ours[1]).is_file()):
                    foreign.append(result)
            if foreign:
                first = foreign[0]
                self.say(
                    f"{first.place}: {first.custom_id[:60]!r} is no id of a request here; {len(foreign)} such rows are left out"
                )
        return found

    def _read_file(self, path: Path) -> list[Result]:
        results: list[Result] = []
        broken: list[str] = []
        try:
            content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        except OSError as error:
            raise ProviderError(f"{path}: cannot be read ({error.strerror})") from error
        for number, text in enumerate(content.splitlines(), 1):
            if not text.strip():
                continue
            try:
                one = json.loads(text)
                why = _why_not(one)
            except (ValueError, RecursionError) as error:
                why = f"is no JSON ({str(error)[:80]})"
            if why:
                broken.append(f"{path}:{number}: {why}")
            else:
                results.append(Result(one["custom_id"], read_row(self.address, _with_status(one)), f"{path}:{number}"))
        if broken:
            more = f" (and {len(broken) - 1} more lines are broken)" if len(broken) > 1 else ""
            raise ProviderError(f"{broken[0]}{more}; mend the line or delete it and run again, nothing is lost")
        return results


def _why_not(one: Any) -> str:
    """Why a line is no row of results; empty where it is one."""
    if not isinstance(one, dict) or not isinstance(one.get("custom_id"), str):
        return "has no custom_id"
    if not one.get("response") and not one.get("error"):
        return "has neither response nor error"
    response = _with_status(one).get("response")
    if response and not (isinstance(response, dict) and isinstance(response.get("status_code"), int)):
        return "has a response without a status_code, and without choices"
    return ""


def _with_status(one: dict[str, Any]) -> dict[str, Any]:
    """Some servers write no status: a body with choices is a reply."""
    response = one.get("response")
    if not isinstance(response, dict) or isinstance(response.get("status_code"), int):
        return one
    body = response.get("body")
    if not isinstance(body, dict) or not body.get("choices"):
        return one
    return {**one, "response": {**response, "status_code": 200}}
