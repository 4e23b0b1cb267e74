"""`glossator label` with a language model, as users run it: a child process, a server on loopback, kills, stops, wrong flags."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glossator.cli import main
from glossator.config import HarvestConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.loading import loading_check
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.tables import harvest_tables
from glossator.llm.oracle import OracleLLM
from glossator.planted import planted_features
from glossator.prompts.oneshot import Answer
from glossator.prompts.texts import fixed_text
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import Message, Request
from tests.mini import GLOSSATOR

KEY = "sk-this-must-never-be-seen-1234567890"
TRUTHS = [(i, f"Fires on {f.description}.", "labelled") for i, f in enumerate(planted_features())]
PURPOSES = {fixed_text(t): f"explain:{t}" for t in ("oneshot", "contrastive", "refine")} | {fixed_text("detect"): "score:detection"}  # fmt: skip
ROWS = (
    "SELECT * EXCLUDE (run_id) FROM explanation ORDER BY ALL",
    "SELECT * EXCLUDE (run_id) FROM stage ORDER BY ALL",
    "SELECT * EXCLUDE (run_id) FROM score ORDER BY ALL",
    "SELECT * EXCLUDE (seconds, asked_at, session_id) FROM llm_call ORDER BY ALL",
    "FROM labels",
    "FROM prompt",
)


class Server:
    """Chat completions by an oracle that sees the messages alone. `asked`: the user messages that came, in order."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.keys: set[str] = set()
        self.models: list[str] = []
        self.delay, self.status = 0.0, 200
        self.oracle = OracleLLM()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.keys.add(self.headers["Authorization"])
                server.asked.append(body["messages"][-1]["content"])
                server.models.append(body["model"])
                time.sleep(server.delay)
                content = json.dumps(server.reply(body)).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.spec = f"openai:tiny@http://127.0.0.1:{self.http.server_port}/v1"

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        if self.status != 200:
            return {"error": {"message": f"no, {KEY}", "code": "model_not_found"}}
        messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        said = self.oracle._answer(Request(PURPOSES[messages[0].text], messages, Answer, 99))
        usage = {"prompt_tokens": sum(len(m.text) for m in messages) // 4, "completion_tokens": len(said) // 4 + 1}
        return {"model": "tiny", "choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage}


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def path(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig, tmp_path: Path,
) -> Path:  # fmt: skip
    to = tmp_path / "run.duckdb"
    with Store(to) as store:
        check = loading_check(planted_subject, planted_dictionary, planted_corpus, planted_config)
        store.put_tables(
            harvest_tables(
                planted_subject,
                [planted_dictionary],
                planted_corpus,
                ["planted"],
                planted_harvest,
                [check],
                planted_config,
            )
        )
        materialise_labels(store)
    return to


def heeds_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def label(
    path: Path, server: Server, *more: object, when: Callable[[], bool] | None = None, how: int = 0
) -> tuple[int, str, str]:
    """The command in a process of its own, which gets the signal `how` as soon as `when` holds. Exit code, output, errors."""
    line = [GLOSSATOR, "label", path, "--explainer", "oneshot", "--llm", server.spec, *more]
    environment = os.environ | {"OPENAI_API_KEY": KEY, "COLUMNS": "150"}
    with subprocess.Popen(
        [str(part) for part in line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=heeds_ctrl_c,
    ) as process:
        while when is not None and process.poll() is None and not when():
            time.sleep(0.005)
        if when is not None:
            process.send_signal(how)
        said, complained = process.communicate(timeout=60)
    return process.returncode, said, complained


def read(path: Path, query: str) -> list[tuple[Any, ...]]:
    with Store(path) as store:
        return store.sql(query)


def rows(path: Path) -> list[list[tuple[Any, ...]]]:
    return [read(path, query) for query in ROWS]


def logged(path: Path) -> set[str]:
    found = read(path, "SELECT request FROM llm_call WHERE reply IS NOT NULL")
    return {json.loads(request)["messages"][-1]["content"] for (request,) in found}


def test_a_model_behind_a_server_labels_every_feature_and_the_command_says_so(path: Path, server: Server) -> None:
    code, said, complained = label(path, server)
    assert code == 0, complained
    assert read(path, "SELECT feature, label, status FROM labels") == TRUTHS
    assert len(server.asked) == len(set(server.asked)) == 12 and server.keys == {f"Bearer {KEY}"}
    assert "12 labelled, 0 abstained, 0 failed; spent now dollars unknown for" in said
    assert "FROM labels" in said and "no scores" in said
    before = rows(path)
    code, said, complained = label(path, server)
    assert code == 0 and "no feature was left" in said and "spent now $0.0000 for 0 tokens" in said, complained
    assert len(server.asked) == 12 and rows(path) == before
    assert KEY.encode() not in path.read_bytes() and KEY not in said + complained


def test_killed_in_the_middle_and_run_again_the_rows_are_the_same_and_no_logged_reply_is_asked_for(
    path: Path, server: Server, tmp_path: Path
) -> None:
    undisturbed = tmp_path / "undisturbed.duckdb"
    undisturbed.write_bytes(path.read_bytes())
    assert label(undisturbed, server)[0] == 0
    server.delay = 0.15
    known: set[str] = set()
    for kill_after in (3, 3):
        server.asked.clear()
        code, _, _ = label(
            path, server, "--concurrency", 2, when=lambda n=kill_after: len(server.asked) > n, how=signal.SIGKILL
        )
        assert code == -signal.SIGKILL
        assert not known & set(server.asked)
        known = logged(path)
    assert 2 <= len(known) < 12
    server.asked.clear()
    server.delay = 0.0
    assert label(path, server)[0] == 0
    assert not known & set(server.asked) and len(server.asked) == 12 - len(known)
    assert rows(path) == rows(undisturbed)


def test_refine_with_another_reader_killed_and_run_again_ends_the_same_and_pays_for_nothing_twice(
    path: Path, server: Server, tmp_path: Path
) -> None:
    server.oracle = OracleLLM(error_rate=0.4, bias="broad", seed=2)
    more = ["--explainer", "refine:2", "--features", "0,4,8", "--reader", server.spec.replace("tiny", "other")]
    undisturbed = tmp_path / "undisturbed.duckdb"
    undisturbed.write_bytes(path.read_bytes())
    code, said, complained = label(undisturbed, server, *more)
    assert code == 0 and "3 labelled, 0 abstained, 0 failed" in said, complained
    n = len(server.asked)
    assert n == len(set(server.asked)) and set(server.models) == {"tiny", "other"}
    server.asked.clear()
    server.delay = 0.1
    stopped = label(path, server, "--concurrency", 1, *more, when=lambda: len(server.asked) > 1, how=signal.SIGKILL)
    assert stopped[0] == -signal.SIGKILL
    known = logged(path)
    assert known and len(known) < n
    server.asked.clear()
    server.delay = 0.0
    assert label(path, server, *more)[0] == 0
    assert not known & set(server.asked) and len(server.asked) == n - len(known)
    assert rows(path) == rows(undisturbed)
    assert KEY.encode() not in path.read_bytes()


def test_ctrl_c_exits_with_3_and_keeps_what_was_logged(path: Path, server: Server) -> None:
    server.delay = 0.15
    code, _, complained = label(path, server, "--concurrency", 2, when=lambda: len(server.asked) > 4, how=signal.SIGINT)
    assert code == 3 and "stopped" in complained.splitlines()[-1] and "Traceback" not in complained, complained
    assert "labelled" in complained
    known = logged(path)
    assert 2 <= len(known) < 12 and read(path, "SELECT count(*) > 0 FROM labels WHERE label IS NOT NULL") == [(True,)]
    server.asked.clear()
    server.delay = 0.0
    assert label(path, server)[0] == 0 and not known & set(server.asked)
    assert read(path, "SELECT feature, label, status FROM labels") == TRUTHS


def test_a_budget_that_ends_in_the_middle_exits_with_3_and_goes_on_when_it_is_raised(
    path: Path, server: Server
) -> None:
    code, _, complained = label(path, server, "--budget-tokens", 12_000)
    assert code == 3, complained
    assert complained.strip().splitlines()[-1].startswith("glossator: the budget is spent: ")
    ((spent,),) = read(path, "SELECT sum(input_tokens + output_tokens)::BIGINT FROM llm_call")
    assert 0 < spent <= 12_000 and 0 < len(server.asked) < 12
    assert label(path, server, "--budget-tokens", 200_000)[0] == 0
    assert len(server.asked) == 12 and read(path, "SELECT feature, label, status FROM labels") == TRUTHS


def test_a_model_that_does_not_exist_is_one_line_without_the_key(path: Path, server: Server) -> None:
    server.status = 404
    code, said, complained = label(path, server)
    assert code == 1 and "no such model" in complained.strip().splitlines()[-1], complained
    assert "Traceback" not in complained and KEY not in said + complained
    assert read(path, "SELECT count(*) FROM failure") == [(0,)] and KEY.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("flags", "code", "parts"),
    [
        (["--explainer", "oneshot"], 2, ["--explainer oneshot", "--llm"]),
        (["--llm", "openai:gpt-5-mini"], 2, ["--llm", "lexical", "--explainer oneshot"]),
        (["--budget-usd", "5"], 2, ["--budget-usd", "lexical"]),
        (["--retry-failed"], 2, ["--retry-failed", "lexical"]),
        (["--explainer", "psychic", "--llm", "openai:x"], 2, ["psychic", "lexical, oneshot, contrastive, logits, best_of:N, refine:K"]),
        (["--explainer", "best_of:1", "--llm", "openai:x"], 2, ["--explainer best_of:1", "2 to 8 candidates"]),
        (["--explainer", "best_of:9", "--llm", "openai:x"], 2, ["--explainer best_of:9", "2 to 8 candidates"]),
        (["--explainer", "refine:0", "--llm", "openai:x"], 2, ["--explainer refine:0", "1 to 8 rounds"]),
        (["--explainer", "refine:", "--llm", "openai:x"], 2, ["--explainer refine:", "1 to 8 rounds"]),
        (["--explainer", "oneshot:2", "--llm", "openai:x"], 2, ["--explainer oneshot:2", "best_of:N"]),
        (["--explainer", "refine:2"], 2, ["--explainer refine:2", "--llm"]),
        (["--explainer", "logits", "--llm", "openai:x"], 2, ["--explainer logits", "planted", "causal"]),
        (["--reader", "openai:x"], 2, ["--reader", "lexical"]),
        (["--explainer", "contrastive", "--llm", "openai:x", "--reader", "openai:y"], 2, ["--reader", "contrastive", "best_of:N"]),
        (["--explainer", "refine", "--llm", "openai:x", "--reader", "gpt-5"], 2, ["--reader gpt-5", "openai:NAME"]),
        (["--explainer", "refine", "--llm", "openai:gpt-6-luna", "--reader", "openai:nobody", "--budget-usd", "5"], 2, ["--budget-usd", "nobody"]),
        (["--explainer", "oneshot", "--llm", "gpt-5"], 2, ["--llm gpt-5", "openai:NAME"]),
        (["--explainer", "oneshot", "--llm", "openai:gpt-5-mini"], 1, ["OPENAI_API_KEY"]),
        (["--explainer", "oneshot", "--llm", "openai:nobody-knows", "--budget-usd", "5"], 2, ["--budget-usd", "--prices"]),
        (["--explainer", "oneshot", "--llm", "openai:m", "--prices", "none.toml"], 2, ["none.toml"]),
        (["--explainer", "oneshot", "--llm", "openai:m", "--effort", "hard"], 2, ["--effort hard", "low, medium, high"]),
        (["--explainer", "oneshot", "--llm", "openai:m", "--budget-usd", "nan"], 2, ["--budget-usd"]),
        (["--explainer", "oneshot", "--llm", "openai:m", "--features", "9999"], 2, ["9999", "0 to 11"]),
    ],
)  # fmt: skip
def test_wrong_flags_get_one_line_and_change_nothing(
    path: Path,
    flags: list[str],
    code: int,
    parts: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["label", str(path), *flags])
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == code, complaint
    assert complaint.startswith(("glossator: ", "Error: ")) and all(part in complaint for part in parts), complaint
    assert read(path, "SELECT (SELECT count(*) FROM run) + (SELECT count(*) FROM stage)") == [(0,)]
