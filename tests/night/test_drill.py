"""The drill, short: a night with a faulty server, killed twice while another process looks in, ends as one that was left alone.

The one that is killed goes in waves of three features, the other in one: how large waves are changes no row either.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.llm.server import Plan, Server, serving
from tests.night.answers import answers
from tests.night.drilling import FAULTS, finish, kill_after, looking, repeated, rows
from tests.night.planted_night import written

IN_FLIGHT = 8


def faulty() -> Server:
    return Server(answer=answers, delay=0.05, plan=Plan(0.04, 3, FAULTS))


def night(folder: Path, server: Server, wave: str) -> list[str]:
    path = written(
        folder,
        features=f'which = "0-7"\norder = "density desc"\nwave = {wave}',
        explain='explainer = "cascade"',
        score='scorers = ["rule", "detection"]',
        llm=f'writer = "openai:double@{server.openai}"\nconcurrency = {IN_FLIGHT}',
    )
    return [sys.executable, "-m", "tests.night.planted_night", str(path)]


@pytest.mark.slow
def test_a_night_that_is_killed_twice_under_the_eyes_of_others_ends_as_one_that_was_left_alone(
    planted_file: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        shutil.copy(planted_file, folder / "run.duckdb")
    with serving(faulty()) as server, serving(faulty()) as other:
        finish(night(whole, other, '"all"'))
        command = night(killed, server, "3")
        with looking(killed / "run.duckdb", tmp_path / "looks"):
            assert kill_after(command, server, 5, 0.1)
            assert kill_after(command, server, 12, 0.0)
            finish(command)
        found, wanted = rows(killed / "run.duckdb"), rows(whole / "run.duckdb")
        assert {name: len(one) for name, one in found.items()} == {name: len(one) for name, one in wanted.items()}
        assert found == wanted
        assert wanted["experiment"] and wanted["score"]
        assert repeated(killed / "run.duckdb") == 0
        asked = [one.body for one in server.seen if one.status == 200]
        assert len(asked) - len([one for one in other.seen if one.status == 200]) <= 2 * 2 * IN_FLIGHT
    looks = (tmp_path / "looks").read_text().splitlines()
    assert len(looks) > 10
    assert not [line for line in looks if not line.startswith("ok")]
