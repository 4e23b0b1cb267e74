"""`files:DIR`: rounds of requests and replies by files; what is wrong in a file is said with its name and line, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from glossator.config import LLMConfig
from glossator.errors import BatchWaiting, ProviderError, RejectedError, UnavailableError, UsageError
from glossator.llm.batch_rows import parts
from glossator.llm.client import Client
from glossator.llm.opening import open_llm
from glossator.llm.spec import parse_spec
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Message, Request


class Number(BaseModel):
    number: int


def question(words: str) -> Request:
    return Request("explain", (Message("system", "Say it."), Message("user", words)), Number, 50, about="d/1")


def run(folder: Path, store: Store, asked: Sequence[int], **changes: Any) -> list[Any]:
    """For each number a first question, and with its reply a second one. Replies, or the errors that came instead."""
    spec = changes.pop("spec", f"files:{folder}")
    config = LLMConfig(batch_idle=0.05, batch_poll=0.02, attempts=3, **changes)

    async def both(llm: Client, number: int) -> int:
        first = (await llm.complete(question(f"number {number}"))).value.number
        return int((await llm.complete(question(f"after {first} number {number + 1000}"))).value.number)

    async def ask() -> list[Any]:
        async with open_llm(spec, Replies(store, time.time()), config) as llm:
            return await asyncio.gather(*(both(llm, n) for n in asked), return_exceptions=True)

    return asyncio.run(ask())


def requests(folder: Path) -> list[Path]:
    return sorted(folder.glob("requests-*.jsonl"), key=lambda path: path.stat().st_mtime_ns)


def reply(row: dict[str, Any]) -> dict[str, Any]:
    """As `vllm run-batch` writes it."""
    said = row["body"]["messages"][-1]["content"]
    message = {"role": "assistant", "content": json.dumps({"number": int(said.rsplit(" ", 1)[1])})}
    usage = {"prompt_tokens": 60, "completion_tokens": 8, "total_tokens": 68}
    body = {
        "id": "c",
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage,
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "vllm-1", "custom_id": row["custom_id"], "response": response, "error": None}


def answer(
    path: Path, keep: Callable[[int], bool] = lambda n: True, make: Callable[[dict[str, Any]], Any] = reply
) -> Path:
    """Reply to the requests of a file, in another order, where the message says to."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    random.Random(0).shuffle(rows)
    out = path.with_name(path.name.replace("requests", "replies"))
    number = [int(row["body"]["messages"][-1]["content"].rsplit(" ", 1)[1]) for row in rows]
    out.write_text("".join(json.dumps(make(row)) + "\n" for row, n in zip(rows, number, strict=True) if keep(n)))
    return out


def test_round_by_round_until_all_is_answered(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        found = run(tmp_path, store, range(5))
        assert all(isinstance(error, BatchWaiting) and error.exit_code == 3 for error in found)
        (first,) = requests(tmp_path)
        said = str(found[0])
        assert str(first) in said and str(first).replace("requests", "replies") in said and "5 replies" in said
        assert "\n" not in said and not [*tmp_path.glob("*.part")]
        rows = [json.loads(line) for line in first.read_text().splitlines()]
        assert {row["url"] for row in rows} == {"/v1/chat/completions"} and {row["method"] for row in rows} == {"POST"}
        assert all(row["body"]["model"] == "model" and row["body"]["max_tokens"] == 50 for row in rows)
        assert len({row["custom_id"] for row in rows}) == 5 and all(parts(row["custom_id"]) for row in rows)
        answer(first)
        assert all(isinstance(error, BatchWaiting) for error in run(tmp_path, store, range(5)))
        assert store.sql("SELECT count(*), count(batch_id) FROM llm_call") == [(5, 5)]
        _, second = requests(tmp_path)
        answer(second)
        assert run(tmp_path, store, range(5)) == [1000, 1001, 1002, 1003, 1004]
        assert len(requests(tmp_path)) == 2
        assert run(tmp_path, store, range(5)) == [1000, 1001, 1002, 1003, 1004]
        assert store.sql("SELECT count(*), sum(usd) FROM llm_call") == [(10, 0.0)]


def test_waiting_requests_are_not_written_twice(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        run(tmp_path, store, range(3))
        (first,) = requests(tmp_path)
        before = first.read_bytes()
        found = run(tmp_path, store, range(5))
        assert all(isinstance(error, BatchWaiting) for error in found)
        both = requests(tmp_path)
        assert first.read_bytes() == before and [len(p.read_text().splitlines()) for p in both] == [3, 2]
        assert all(str(path) in str(found[0]) for path in both)


def test_missing_rows_still_wait_and_the_others_go_on(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        run(tmp_path, store, range(5))
        (first,) = requests(tmp_path)
        answer(first, keep=lambda n: n != 2)
        found = run(tmp_path, store, range(5))
        assert f"1 replies are not there yet: have {first}" in str(found[0])
        _, second = requests(tmp_path)
        assert len(second.read_text().splitlines()) == 4, "the second questions of those that were answered"
        answer(second)
        answer(first, keep=lambda n: n == 2).rename(tmp_path / "later.jsonl")  # any name will do
        found = run(tmp_path, store, range(5))
        assert sorted(n for n in found if isinstance(n, int)) == [1000, 1001, 1003, 1004]
        assert isinstance(found[2], BatchWaiting)
        answer(requests(tmp_path)[-1])
        assert run(tmp_path, store, range(5)) == [1000, 1001, 1002, 1003, 1004]
        assert store.sql("SELECT count(*), count(DISTINCT call_id) FROM llm_call") == [(10, 10)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"custom_id": "x", "respon', "is no JSON"),
        ("[1, 2]", "has no custom_id"),
        ('{"custom_id": "x"}', "has neither response nor error"),
        ('{"custom_id": "x", "response": {"body": {}}}', "has a response without a status_code, and without choices"),
        ('{"custom_id": "x", "response": {"status_code": "200"}, "error": {}}', "has a response without a status_code"),
        ('{"custom_id": "x", "response": "said"}', "has a response without a status_code"),
    ],
)
def test_a_broken_line_is_named_and_nothing_is_lost(line: str, why: str, tmp_path: Path) -> None:
    with Store(":memory:") as store:
        run(tmp_path, store, range(3))
        replies = answer(requests(tmp_path)[0])
        good = replies.read_text().splitlines()
        replies.write_text("\n".join([good[0], line, *good[1:], line]))
        found = run(tmp_path, store, range(3))
        assert all(isinstance(error, ProviderError) for error in found)
        assert f"{replies}:2: {why}" in str(found[0]) and "1 more lines" in str(found[0]) and "\n" not in str(found[0])
        replies.write_text("\n".join(good))
        assert isinstance(run(tmp_path, store, range(3))[0], BatchWaiting)
        assert store.sql("SELECT count(*) FROM llm_call") == [(3,)] and len(requests(tmp_path)) == 2


@pytest.mark.parametrize("status", [None, "200"])
def test_a_reply_without_a_status_is_a_reply(status: str | None, tmp_path: Path) -> None:
    def bare(row: dict[str, Any]) -> dict[str, Any]:
        made = reply(row)
        made["response"].pop("status_code")
        if status:
            made["response"]["status_code"] = status
        return made

    with Store(":memory:") as store:
        run(tmp_path, store, range(3))
        answer(requests(tmp_path)[0], make=bare)
        assert isinstance(run(tmp_path, store, range(3))[0], BatchWaiting)
        answer(requests(tmp_path)[1], make=bare)
        assert run(tmp_path, store, range(3)) == [1000, 1001, 1002]
        assert store.sql("SELECT count(*), count(error) FROM llm_call") == [(6, 0)] and len(requests(tmp_path)) == 2


def test_the_home_directory_is_written_as_in_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Store(":memory:") as store:
        run(tmp_path, store, range(2), spec="files:m@~/asked")
    assert len(requests(tmp_path / "asked")) == 1


def test_foreign_ids_are_reported_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Store(":memory:") as store:
        run(tmp_path, store, range(3))
        replies = answer(requests(tmp_path)[0])
        rows = [json.loads(line) for line in replies.read_text().splitlines()]
        calls, batch = zip(*(parts(row["custom_id"]) or ("", "") for row in rows), strict=True)
        strangers = ["theirs-1", f"{calls[0]}-{'0' * 16}", f"{'0' * 16}-{batch[0]}"]
        content = [*rows, *({**rows[0], "custom_id": name} for name in strangers), rows[1]]
        replies.write_text("".join(json.dumps(row) + "\n" for row in content))
        assert isinstance(run(tmp_path, store, range(3))[0], BatchWaiting)
        assert store.sql("SELECT count(*) FROM llm_call") == [(3,)]
        assert f"{replies}:4: 'theirs-1' is no id of a request here; 2 such rows are left out" in caplog.text
        assert f"{strangers[2]} in {replies}:6" in caplog.text
        caplog.clear()
        replies.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(tmp_path, store, range(3))
        assert "left out" not in caplog.text, "replies that were read before are no strangers"


def test_a_failed_row_is_written_again_and_given_up_in_the_end(tmp_path: Path) -> None:
    def broken(row: dict[str, Any]) -> Any:
        if not row["body"]["messages"][-1]["content"].endswith("number 1"):
            return reply(row)
        error = {"message": "out of memory", "code": 500}
        return {"id": "x", "custom_id": row["custom_id"], "response": {"status_code": 500}, "error": error}

    with Store(":memory:") as store:
        for number in range(3):
            found = run(tmp_path, store, range(2))
            assert isinstance(found[1], BatchWaiting)
            assert len(requests(tmp_path)) == number + 1
            answer(requests(tmp_path)[-1], make=broken)
        found = run(tmp_path, store, range(2))
        assert found[0] == 1000 and isinstance(found[1], UnavailableError) and "out of memory" in str(found[1])


def test_a_refused_row_ends_its_question(tmp_path: Path) -> None:
    def refused(row: dict[str, Any]) -> Any:
        error = {"message": "too long", "code": 400}
        return {
            "id": "x",
            "custom_id": row["custom_id"],
            "response": {"status_code": 400, "body": error},
            "error": error,
        }

    with Store(":memory:") as store:
        run(tmp_path, store, [7])
        answer(requests(tmp_path)[0], make=refused)
        (error,) = run(tmp_path, store, [7])
        assert isinstance(error, RejectedError) and "too long" in str(error)


def test_requests_that_are_gone_are_written_anew(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        run(tmp_path, store, range(2))
        requests(tmp_path)[0].unlink()
        assert isinstance(run(tmp_path, store, range(2))[0], BatchWaiting)
        answer(requests(tmp_path)[0])
        run(tmp_path, store, range(2))
        assert store.sql("SELECT count(*) FROM llm_call") == [(2,)]


def test_replies_count_also_where_the_requests_were_moved_away(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        run(tmp_path, store, range(3))
        (first,) = requests(tmp_path)
        answer(first, keep=lambda n: n != 1)
        first.unlink()
        assert isinstance(run(tmp_path, store, range(3))[0], BatchWaiting)
        assert store.sql("SELECT count(*) FROM llm_call") == [(2,)]
        (second,) = requests(tmp_path)
        assert second.read_text().count('number 1"') == 1 and len(second.read_text().splitlines()) == 3


def test_the_model_is_named_before_the_folder(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        (error,) = run(tmp_path, store, [1], spec=f"files:org/some-model@{tmp_path}/sub")
        (path,) = requests(tmp_path / "sub")
        assert json.loads(path.read_text())["body"]["model"] == "org/some-model"
        assert "--model org/some-model" in str(error)
    with pytest.raises(UsageError, match="name a path after files:"):
        parse_spec("files:org/some-model@")


def test_a_token_budget_holds_here_too_and_nobody_is_left_waiting_for_room(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        found = run(tmp_path, store, range(10), budget_tokens=1000)
        assert all(isinstance(error, BatchWaiting) for error in found)
        assert 1 <= len(requests(tmp_path)[0].read_text().splitlines()) < 10


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Store(":memory:") as store:
        (error,) = run(tmp_path / "file", store, [1])
        assert isinstance(error, ProviderError) and "cannot be written" in str(error) and str(tmp_path) in str(error)
