"""`glossator score --labels`, as users run it: a server on loopback, a set that is better, the same again, wrong files and flags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from glossator.planted import planted_features
from glossator.store.store import Store
from tests.test_label_llm import KEY, path, read  # noqa: F401  a fixture
from tests.test_score_llm import Reader, label, score, server  # noqa: F401  a fixture

WHO = "llm:openai:tiny"
EVERYTHING = ("explanation", "score", "stage", "failure", "set_comparison", "run", "llm_call", "label")


def theirs(folder: Path, labels: Mapping[int, str], name: str = "theirs.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps({"feature": i, "label": text}) + "\n" for i, text in labels.items()))
    return file


def shifted(n: int) -> dict[int, str]:
    """Each of the first n features with the label of the next one, the others with their own."""
    true = [f.description for f in planted_features()]
    return {i: true[(i + 1) % n] if i < n else text for i, text in enumerate(true)}


def contents(path: Path) -> dict[str, object]:  # noqa: F811
    return {table: read(path, f"SELECT * FROM {table} ORDER BY ALL") for table in EVERYTHING}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_a_worse_set_is_beaten_on_the_same_windows_and_the_second_time_for_nothing(
    path: Path, server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str],  # noqa: F811
) -> None:  # fmt: skip
    label(path)
    file = theirs(tmp_path, shifted(10))
    assert score(path, "--llm", server.spec, "--scorer", "detection", "--no-nulls") == 0
    own = read(path, "FROM labels")
    asked = len(server.asked)
    assert score(path, "--labels", file, "--llm", server.spec, "--scorer", "detection", "--no-nulls") == 0
    told = capsys.readouterr()
    assert "12 labels of 12 features read as JSONL; exposure unknown" in told.err
    assert f"detection of imported:theirs by {server.spec}: 12 scored" in told.out
    assert "typed beats imported:theirs by 0." in told.out and f"on 12 features (detection by {WHO})" in told.out
    assert len(server.asked) == asked + 20  # two features have the label that was read before
    assert read(path, "FROM labels") == own
    ((difference, low, high, n),) = read(
        path, "SELECT difference, low, high, n FROM set_comparison WHERE metric = 'detection'"
    )
    means = dict(read(path, "SELECT explainer, avg(value) FROM score WHERE metric = 'detection' AND split = 'test' GROUP BY ALL"))  # fmt: skip
    assert (
        difference == pytest.approx(means["imported:theirs"] - means["typed"])
        and low < difference < high < 0
        and n == 12
    )
    before, asked = contents(path), len(server.asked)
    assert score(path, "--labels", file, "--llm", server.spec, "--scorer", "detection", "--no-nulls") == 0
    again = capsys.readouterr().out
    assert "typed beats imported:theirs by 0." in again and "no label was left" in again
    assert contents(path) == before and len(server.asked) == asked


def test_a_budget_that_ends_in_the_middle_keeps_what_was_read_and_goes_on(
    path: Path, server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str],  # noqa: F811
) -> None:  # fmt: skip
    file = theirs(tmp_path, shifted(10))
    command = (path, "--labels", file, "--llm", server.spec, "--scorer", "detection", "--no-nulls", "--budget-tokens")
    assert score(*command, 20_000) == 3
    assert "budget is spent" in capsys.readouterr().err
    assert 0 < len(server.asked) < 24 and read(path, "SELECT count(*) FROM explanation") == [(12,)]
    assert score(*command, 10_000_000) == 0
    assert len(server.asked) == len(set(server.asked)) == 24
    assert read(path, "SELECT count(*) FROM labels WHERE label IS NOT NULL") == [(0,)]  # theirs are not the run's


def test_two_files_are_compared_with_one_another(
    path: Path, server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str],  # noqa: F811
) -> None:  # fmt: skip
    files = (theirs(tmp_path, shifted(1), "a.jsonl"), theirs(tmp_path, shifted(12), "b.jsonl"))
    flags = [flag for file in files for flag in ("--labels", file)]
    assert score(path, *flags, "--llm", server.spec, "--scorer", "detection", "--against", "imported:b") == 0
    assert "imported:a beats imported:b by 0." in capsys.readouterr().out
    assert read(path, "SELECT DISTINCT a, b FROM set_comparison") == [("imported:a", "imported:b")]


WRONG: tuple[tuple[dict[int, str] | None, list[str], list[str]], ...] = (
    ({0: "tea"}, [], ["theirs.jsonl", "--llm"]),
    ({0: "tea"}, ["--llm", "SERVER", "--every"], ["--every", "--labels"]),
    ({0: "tea"}, ["--llm", "SERVER", "--against", "nobody"], ["--against nobody", "imported:theirs, typed"]),
    ({0: "tea"}, ["--llm", "SERVER", "--features", "12"], ["feature 12", "0 to 11"]),
    ({0: "tea"}, ["--llm", "gpt-5"], ["--llm gpt-5", "openai:NAME"]),
    ({12: "tea"}, ["--llm", "SERVER"], ["theirs.jsonl", "line 1: 12", "planted has 0 to 11"]),
    ({0: "x" * 100_000}, ["--llm", "SERVER"], ["theirs.jsonl: line 1", "100,000 characters"]),
    ({0: ""}, ["--llm", "SERVER"], ["theirs.jsonl", "none of its 1 rows holds a label"]),
    ({}, ["--llm", "SERVER"], ["theirs.jsonl", "empty"]),
    (None, ["--llm", "SERVER"], ["theirs.jsonl", "no such file"]),
)


def test_wrong_files_and_flags_get_one_line_and_change_nothing(
    path: Path, server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str],  # noqa: F811
) -> None:  # fmt: skip
    label(path)
    before = contents(path)
    for labels, flags, parts in WRONG:
        file = tmp_path / "theirs.jsonl"
        file.unlink(missing_ok=True)
        if labels is not None:
            theirs(tmp_path, labels)
        given = [server.spec if flag == "SERVER" else flag for flag in flags]
        assert score(path, "--labels", file, *given) == 2
        said = capsys.readouterr()
        (complaint,) = said.err.strip().splitlines()
        assert complaint.startswith("glossator: ") and all(part in complaint for part in parts), complaint
        assert not said.out
    assert contents(path) == before and not server.asked


def test_against_needs_a_file(path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert score(path, "--against", "lexical") == 2
    assert "name the file with --labels" in capsys.readouterr().err


def test_a_missing_key_stores_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.delenv("OPENAI_API_KEY")
    assert score(path, "--labels", theirs(tmp_path, {0: "tea"}), "--llm", "openai:gpt-5-mini") == 1
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    assert read(path, "SELECT (SELECT count(*) FROM explanation) + (SELECT count(*) FROM run)") == [(0,)]


def test_a_dictionary_that_a_file_does_not_label_is_said_and_left_alone(
    path: Path, server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str],  # noqa: F811
) -> None:  # fmt: skip
    with Store(path) as store:
        store.execute("INSERT INTO dictionary SELECT * REPLACE ('another' AS dictionary) FROM dictionary")
    file = tmp_path / "theirs.jsonl"
    file.write_text(json.dumps({"feature": 0, "label": "tea", "dictionary": "planted"}))
    assert score(path, "--labels", file, "--llm", server.spec, "--scorer", "detection", "--no-nulls") == 0
    assert "another  these files label none of its features" in capsys.readouterr().out
    assert read(path, "SELECT DISTINCT dictionary FROM score") == [("planted",)]
