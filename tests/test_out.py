"""What commands write for people never takes the place of a run file, their own or another."""

from __future__ import annotations

from pathlib import Path

import pytest

from glossator.store.store import Store
from tests.test_shown import told


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    "command",
    [
        ("report", "RUN", "--out", "TO"),
        ("sql", "RUN", "FROM labels", "--format", "csv", "--out", "TO"),
        ("sql", "RUN", "FROM labels", "--format", "parquet", "--out", "TO"),
        ("export", "RUN", "--out", "TO"),
        ("validate", "--features", "20", "--out", "TO"),
    ],
)
def test_a_run_file_is_not_overwritten(
    command: tuple[str, ...], same: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run.duckdb", tmp_path / "other.duckdb"
    for path in (run, other):
        Store(path).close()
    to = run if same else other
    before = to.read_bytes()
    code, _, complained = told(capsys, *({"RUN": run, "TO": to}.get(word, word) for word in command))
    assert code == 2 and "which it would overwrite" in complained.replace("\n", " "), complained
    assert to.read_bytes() == before
