"""`glossator score --llm`, as users run it: a server on loopback, scores in the views, a second run, wrong flags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glossator.cli import main
from glossator.planted import planted_features
from glossator.prompts import detect, fuzz, simulate
from glossator.prompts.texts import fixed_text
from glossator.rows import ExplanationRow
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import Message, Request
from tests.test_label_llm import KEY, Server, path, read  # noqa: F401  a fixture

TASKS = {fixed_text(task.name): task for task in (detect.TASK, fuzz.TASK, simulate.TASK)}


class Reader(Server):
    """An oracle that reads labels, and sees the messages alone."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
        task = TASKS[messages[0].text]
        assert body["response_format"]["json_schema"]["schema"]["additionalProperties"] is False
        said = self.oracle._answer(Request(task.purpose, messages, task.form, 99))
        usage = {"prompt_tokens": sum(len(m.text) for m in messages) // 4, "completion_tokens": len(said) // 4 + 1}
        return {"model": "tiny", "choices": [{"message": {"role": "assistant", "content": said}}], "usage": usage}


@pytest.fixture
def server() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.http.shutdown()
    made.http.server_close()


def label(path: Path) -> None:  # noqa: F811
    with Store(path) as store:
        store.put_now(
            *(
                ExplanationRow(f"e{i}", "planted", i, "typed", None, f.description, None, False, None, "")
                for i, f in enumerate(planted_features())
            )
        )
        materialise_labels(store)


def score(path: Path, *more: object) -> int:  # noqa: F811
    with pytest.raises(SystemExit) as stop:
        main(["score", str(path), *map(str, more)])
    return int(stop.value.code or 0)


def test_a_model_behind_a_server_reads_every_label_and_a_second_run_asks_nothing(
    path: Path, server: Reader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    label(path)
    assert score(path, "--llm", server.spec, "--budget-tokens", 10_000_000) == 0
    said = capsys.readouterr().out
    assert f"detection by {server.spec}: 12 scored" in said and "fuzzing" in said and "spent now" in said
    rows = read(
        path, "SELECT min(simulation), min(detection), count(*) FILTER (predictor = 'llm:openai:tiny') FROM labels"
    )
    assert rows == [(pytest.approx(1, abs=1e-3), 1, 12)]  # strengths are whole numbers
    asked = len(server.asked)
    before = read(path, "SELECT * FROM score ORDER BY ALL"), read(path, "SELECT * FROM run ORDER BY ALL")
    assert score(path, "--llm", server.spec) == 0
    assert "no label was left" in capsys.readouterr().out and len(server.asked) == asked
    assert (read(path, "SELECT * FROM score ORDER BY ALL"), read(path, "SELECT * FROM run ORDER BY ALL")) == before
    assert score(path, "--llm", server.spec, "--features", "0-3", "--scorer", "detection") == 0
    assert len(server.asked) == asked and read(path, "SELECT * FROM score ORDER BY ALL") == before[0]


def test_a_budget_that_ends_in_the_middle_exits_with_3_and_goes_on_when_it_is_raised(
    path: Path, server: Reader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    label(path)
    flags = ["--llm", server.spec, "--scorer", "detection"]
    assert score(path, *flags, "--no-nulls", "--budget-tokens", 20_000) == 3
    assert "budget is spent" in capsys.readouterr().err
    done = len(server.asked)
    assert 0 < done < 24
    assert score(path, *flags, "--no-nulls", "--budget-tokens", 10_000_000) == 0
    assert len(server.asked) == len(set(server.asked)) == 24
    assert read(path, "SELECT count(value) FROM score WHERE metric = 'detection'") == [(24,)]
    assert read(path, "SELECT count(*) FROM null_score") == [(0,)]


def test_comparisons_are_foretold_made_up_for_later_and_shown(
    path: Path, server: Reader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    label(path)
    flags = ["--llm", server.spec, "--scorer", "detection"]
    assert score(path, *flags, "--no-nulls") == 0
    assert "comparisons" not in capsys.readouterr().err
    assert score(path, *flags, "--repeats", 1) == 0
    said = capsys.readouterr()
    assert "up to 24 questions more, 12 with labels of other features and 12 with the neighbour's" in said.err
    assert "p_vs_permuted will be NULL: it takes 999 pairs" in said.err
    assert "detection beside other labels by" in said.out and "12 compared" in said.out
    asked = len(server.asked)
    assert 24 + 12 < asked <= 24 + 12 + 24  # of comparisons and repeats alone; some neighbours are also tried at random
    rows = read(
        path, "SELECT comparison, count(*), count(null_mean), count(p_value) FROM null_score GROUP BY ALL ORDER BY 1"
    )
    assert rows == [("neighbour", 12, 12, 12), ("permuted", 12, 12, 0)]
    board = read(
        path,
        "SELECT n, p_permuted_share, p_neighbour_share > 0.5, repeat_sd FROM scoreboard WHERE metric = 'detection'",
    )
    assert board == [(12, None, True, 0.0)]  # an oracle without errors says the same of all windows
    assert score(path, *flags, "--repeats", 1) == 0 and len(server.asked) == asked
    assert score(path, *flags, "--repeats", 1, "--features", "0-11") == 0 and len(server.asked) == asked


@pytest.mark.parametrize(
    ("flags", "code", "parts"),
    [
        (["--scorer", "detection"], 2, ["--scorer", "--llm"]),
        (["--budget-usd", "5"], 2, ["--budget-usd", "--llm"]),
        (["--every"], 2, ["--every", "--llm"]),
        (["--retry-failed"], 2, ["--retry-failed", "--llm"]),
        (["--repeats", "2"], 2, ["--repeats 2", "no noise but the sample of text", "--llm"]),
        (["--no-nulls"], 2, ["--no-nulls", "--llm"]),
        (["--llm", "openai:m", "--labels", "x.csv", "--nulls"], 2, ["x.csv", "no such file"]),
        (["--llm", "openai:x", "--scorer", "psychic"], 2, ["psychic", "simulation, detection, fuzzing"]),
        (["--llm", "openai:m", "--effort", "hard"], 2, ["--effort hard", "low, medium, high"]),
        (["--llm", "gpt-5"], 2, ["--llm gpt-5", "openai:NAME"]),
        (["--llm", "openai:gpt-5-mini"], 1, ["OPENAI_API_KEY"]),
        (["--llm", "openai:m", "--features", "9999"], 2, ["9999", "0 to 11"]),
    ],
)
def test_wrong_flags_get_one_line_and_change_nothing(
    path: Path, flags: list[str], code: int, parts: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert score(path, *flags) == code
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert complaint.startswith("glossator: ") and all(part in complaint for part in parts), complaint
    assert read(path, "SELECT (SELECT count(*) FROM run) + (SELECT count(*) FROM stage)") == [(0,)]


def test_what_is_sent_is_strict_json_schema_without_a_key_in_any_row(
    path: Path, server: Reader, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    label(path)
    assert score(path, "--llm", server.spec, "--features", "2") == 0
    forms = {json.dumps(json.loads(r)["schema"]) for (r,) in read(path, "SELECT request FROM llm_call")}
    assert len(forms) == 2  # one for all questions of simulation, one for those of detection and fuzzing
    assert "prefixItems" not in "".join(forms) and KEY.encode() not in path.read_bytes()
