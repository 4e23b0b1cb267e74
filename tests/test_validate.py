"""`glossator validate`, as users run it: the page, its file, a model on loopback, a budget that ends, wrong flags."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glossator.cli import main
from glossator.llm.oracle import OracleLLM
from glossator.planted_family import planted_family
from tests.test_label_llm import KEY
from tests.test_score_llm import Reader, server  # noqa: F401  a fixture


def validate(*flags: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["validate", "--features", "20", *map(str, flags)])
    return int(stop.value.code or 0)


def test_a_page_is_printed_and_written_and_says_that_an_oracle_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "validity.json"
    nothing = tmp_path / "encoder"
    nothing.mkdir()
    assert validate("--scorer", "fuzzing", "--out", page, "--embedder", nothing) == 0
    said = capsys.readouterr().out
    assert "read by an oracle that errs in 10%: this shows what the score can see, not what a model can" in said
    assert "fuzzing does not see: broader" in said and "embedding is left out" in said
    by = {one["reader"]: one for one in json.loads(page.read_text())["readers"]}
    broader = by["llm:scripted:oracle"]["scores"]["fuzzing"]["against"]["broader"]
    assert broader["low"] < 0.6 and broader["ties"] > 5 and broader["n"] >= 16


def test_a_model_reads_and_a_budget_that_ends_is_gone_on_with(
    tmp_path: Path, server: Reader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.oracle = OracleLLM(planted_family(20))
    flags = ["--llm", server.spec, "--scorer", "detection", "--embedder", tmp_path]
    monkeypatch.chdir(tmp_path)
    assert validate(*flags, "--budget-tokens", 40_000) == 3
    said = capsys.readouterr().err
    assert (
        "152 questions" in said
        and "dollars unknown" in said
        and "validity.duckdb" in said
        and "budget is spent" in said
    )
    assert 0 < len(server.asked) < 152
    assert validate(*flags) == 0
    assert len(server.asked) == len(set(server.asked)) == 152
    said = capsys.readouterr().out
    assert f"read by {server.spec}" in said and "oracle" not in said and "spent now" in said


def test_wrong_flags_exit_with_2_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in (
        (["--features", "30"], "--features 30: write a multiple of 20, at most 200"),
        (["--scorer", "clarity"], "--scorer clarity: a model reads for the scorers simulation, detection"),
        (["--budget-usd", "1"], "--budget-usd: without --llm an oracle reads, which costs nothing"),
        (["--out", tmp_path / "no" / "page.md"], "there is no folder"),
    ):
        assert validate(*flags) == 2
        error = capsys.readouterr().err
        assert said in error and "planting" not in error
