"""A harvested planted run file, made once; tests copy it before they write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.night.planted_night import harvest


@pytest.fixture(scope="session")
def planted_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harvest(tmp_path_factory.mktemp("planted") / "run.duckdb")


@pytest.fixture
def folder(planted_file: Path, tmp_path: Path) -> Path:
    """With a run file in it that is harvested."""
    shutil.copy(planted_file, tmp_path / "run.duckdb")
    return tmp_path
