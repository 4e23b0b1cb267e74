"""`glossator debate` on the built-in subject: a transcript, the same one again, a view, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from glossator.store.store import Store
from tests import mini
from tests.llm.server import Plan, Server, serving
from tests.test_shown import told

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def path(mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini.copy(mini_run, tmp_path_factory.mktemp("debate"))


def labelled(path: Path) -> int:
    """A labelled feature whose rule names one token that it is sure of."""
    with Store(path, create=False) as store:
        rows = store.sql("SELECT feature FROM labels WHERE status = 'labelled' ORDER BY simulation DESC NULLS LAST")
    return int(rows[0][0])


def test_a_debate_is_shown_and_shown_again(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feature = labelled(path)
    words = ("debate", path, "--feature", feature, "--hypothesis", "token:the", "--hypothesis", "class:year")
    code, said, complained = told(capsys, *words, "--budget-experiments", 8)
    assert code == 0, complained
    assert "predictions sealed before any was measured" in said and "verdict" in said
    again = told(capsys, *words, "--budget-experiments", 8)
    assert (again[0], again[1]) == (0, said)
    code, table, complained = told(capsys, "sql", path, "SELECT number, kind, a, b FROM transcript", "--format", "csv")
    assert code == 0, complained
    assert table.splitlines()[1].startswith("1,")


def test_a_feature_without_a_debate_is_told_why(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(path, create=False) as store:
        rows = store.sql(
            "SELECT feature, status FROM feature WHERE status IN ('dead', 'rare') ORDER BY feature LIMIT 1"
        )
    feature, status = rows[0]
    code, said, _ = told(capsys, "debate", path, "--feature", feature)
    assert code == 0
    assert f"no debate: {status}" in said


def test_a_debate_that_fails_is_a_failure_of_the_command(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feature = labelled(path)
    with serving(Server(plan=Plan(1.0, kinds=("refusal",)))) as server:
        rivals = ("--hypothesis", "It is about gates.", "--hypothesis", "It is about bridges.")
        words = ("debate", path, "--feature", feature, *rivals, "--llm", f"openai:double@{server.openai}")
        code, _, complained = told(capsys, *words)
    assert code == 1
    assert "RefusedError" in complained.strip().splitlines()[-1] and "Traceback" not in complained
    with Store(path, create=False) as store:
        assert store.sql("SELECT error FROM failure WHERE stage = 'debate'") == [("RefusedError",)]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--hypothesis", "token:the"], "1 given"),
        (["--hypothesis", "", "--hypothesis", "token:the"], "empty"),
        (["--hypothesis", "some words", "--hypothesis", "token:the"], "--llm"),
        (["--budget-usd", "1"], "--llm"),
        (["--llm", "nobody:x"], "openai:NAME"),
    ],
)
def test_wrong_flags_are_one_line(path: Path, more: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, complained = told(capsys, "debate", path, "--feature", labelled(path), *more)
    assert code == 2
    assert part in complained.strip().splitlines()[-1]
