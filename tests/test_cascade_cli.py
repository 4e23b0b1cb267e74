"""`glossator label --explainer cascade` as users run it: rules first, a model for the others, kills, wrong flags."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from glossator.cli import main
from tests.test_label_llm import ROWS, Server, label, logged, path, read, server

__all__ = ["path", "server"]  # fixtures
CASCADE = ("--explainer", "cascade")
STEPS = "SELECT * EXCLUDE (run_id) FROM step ORDER BY ALL"


def rows(path: Path) -> list[list[tuple[object, ...]]]:
    return [read(path, query) for query in (*ROWS, STEPS)]


def test_rules_are_written_first_and_a_model_is_asked_about_the_others_alone(path: Path, server: Server) -> None:
    code, said, complained = label(path, server, *CASCADE)
    assert code == 0, complained
    routes = dict(read(path, "SELECT feature, outcome FROM step WHERE node = 'route'"))
    stand = sum(outcome == "lexical stands" for outcome in routes.values())
    assert len(routes) == 12 and 0 < stand < 12
    assert f"{stand} keep their lexical label, {12 - stand} labelled, 0 abstained, 0 failed" in said
    assert (
        f"the way of 12 features (FROM flow): {stand} stood by their lexical rule, {12 - stand} escalated, 0 refined, 0 best_of, 0 debated; "
        in said
    )
    assert dict(read(path, "SELECT explainer, count(*) FROM labels GROUP BY 1")) == {
        "lexical": stand,
        "cascade": 12 - stand,
    }


def test_killed_in_the_middle_and_run_again_the_rows_are_the_same(path: Path, server: Server, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed.duckdb"
    undisturbed.write_bytes(path.read_bytes())
    assert label(undisturbed, server, *CASCADE)[0] == 0
    server.asked.clear()
    server.delay = 0.15
    code, _, _ = label(
        path, server, *CASCADE, "--concurrency", 2, when=lambda: len(server.asked) > 3, how=signal.SIGKILL
    )
    assert code == -signal.SIGKILL
    known = logged(path)
    assert known
    server.asked.clear()
    server.delay = 0.0
    assert label(path, server, *CASCADE)[0] == 0
    assert not known & set(server.asked)
    assert rows(path) == rows(undisturbed)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--explainer", "cascade"], ["--explainer cascade", "--llm"]),
        (["--explainer", "label:2"], ["--explainer label:2", "--llm"]),
        (["--explainer", "label:9", "--llm", "openai:x"], ["--explainer label:9", "1 to 8 rounds"]),
        (["--explainer", "cascade:2", "--llm", "openai:x"], ["--explainer cascade:2", "label:K, cascade"]),
    ],
)
def test_wrong_flags_are_one_line_that_names_them(
    path: Path, arguments: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["label", str(path), *arguments])
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and all(part in complaint for part in parts), complaint
