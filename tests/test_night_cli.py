"""The commands init, run and status, as a person types them, on the demo subject offline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mini import copy, glossator


def test_init_writes_a_file_that_run_takes_and_overwrites_none(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    done = glossator("init", "--out", path)
    assert done.returncode == 0 and f"glossator run {path} --plan" in done.stdout
    planned = glossator("run", path, "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "harvest" in planned.stdout and "2,048" in planned.stdout
    assert not (tmp_path / "demo.duckdb").exists()
    again = glossator("init", "--out", path)
    assert again.returncode == 2 and "is there already" in again.stderr


def test_mistakes_are_told_with_their_lines_and_nothing_is_started(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text('run = "x.duckdb"\n[llm]\nconcurency = 3\n[explain]\nexplainer = "nobody"\n')
    done = glossator("run", path)
    assert done.returncode == 2
    assert (
        "line 3: llm.concurency: no such key; did you mean concurrency?" in done.stderr
        and "line 5: explain.explainer" in done.stderr
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "x.duckdb").exists()


@pytest.mark.slow
@pytest.mark.real
def test_a_night_on_the_demo_subject_offline_and_its_status(mini_run: Path, tmp_path: Path) -> None:
    run = copy(mini_run, tmp_path)
    path = tmp_path / "night.toml"
    path.write_text(f'run = "{run.name}"\nreport = "r.html"\n[features]\nwhich = "70-89"\norder = "density desc"\n')
    done = glossator("run", path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"rules: stands for \d+ features, \d+ to go", done.stderr), done.stderr
    assert (tmp_path / "r.html").stat().st_size > 10_000
    status = glossator("status", run)
    assert (
        status.returncode == 0
        and "not running: done" in status.stdout
        and re.search(r"rules +\d+ of \d+", status.stdout)
    )
    shown = glossator(
        "sql",
        run,
        "SELECT count(*) AS n FROM labels WHERE feature BETWEEN 70 AND 89 AND label IS NOT NULL",
        "--format",
        "csv",
    )
    assert int(shown.stdout.split()[-1]) > 10
    deadline = path.read_text().replace("70-89", "90-140") + '[limits]\ndeadline = "1s"\n'
    path.write_text(deadline)
    stopped = glossator("run", path)
    assert stopped.returncode == 3 and "the deadline of" in stopped.stderr
