"""`glossator export` and `glossator import`: a file goes out and comes in, and what is wrong is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from glossator.store.store import Store
from tests.exchange.test_round_trips import lines
from tests.report import tiny
from tests.test_shown import told


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "tiny.duckdb") as store:
        tiny.fill(store)
    return tmp_path / "tiny.duckdb"


def test_labels_go_out_and_come_in(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "labels.jsonl"
    code, said, complained = told(capsys, "export", path, "--out", out)
    assert (code, said) == (0, f"{out}: 6 features of tiny, 2 of them with a label, as JSON lines\n"), complained
    code, said, complained = told(capsys, "import", path, out, "--name", "mine")
    assert code == 0, complained
    assert "2 labels of 2 features read as JSONL" in said and "4 rows without a label" in said
    with Store(path, create=False) as store:
        assert store.sql("SELECT DISTINCT explainer FROM explanation ORDER BY 1") == [("imported:mine",), ("lexical",)]
        assert store.sql("SELECT label FROM labels WHERE feature = 5") == [("cats\u2028and dogs",)]


def test_folders_are_written(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form, name in (("neuronpedia", "features"), ("parquet", "labels.parquet")):
        code, _, complained = told(capsys, "export", path, "--format", form, "--out", tmp_path / form)
        assert code == 0, complained
        assert (tmp_path / form / name).exists()


def test_what_was_published_comes_in_and_goes_out_as_it_was(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs"
    assert told(capsys, "export", path, "--format", "neuronpedia", "--out", theirs)[0] == 0
    code, said, complained = told(capsys, "import", path, theirs)
    assert code == 0 and "stored as published by 'theirs'" in said, complained
    out = tmp_path / "again"
    code, said, complained = told(
        capsys, "export", path, "--format", "neuronpedia", "--imported", "theirs", "--out", out
    )
    assert code == 0 and "as 'theirs' published them" in said, complained
    assert not (theirs / "activations").exists()  # this run has none
    for kind in ("features", "explanations"):
        assert lines(out / kind / "batch-0.jsonl.gz") == lines(theirs / kind / "batch-0.jsonl.gz")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["export", "--out", "x", "--format", "excel"], "--format excel"),
        (["export", "--out", "x", "--features", "0-9"], "feature 6"),
        (["export", "--out", "x", "--dictionary", "nobody"], "--dictionary nobody"),
        (
            ["export", "--out", "x", "--format", "neuronpedia", "--imported", "them"],
            "--imported them: this run has imported no such",
        ),
        (["import", "nothing.jsonl"], "nothing.jsonl: no such file"),
        (["import", "nothing.jsonl", "--dictionary", "nobody"], "--dictionary nobody"),
    ],
)
def test_what_is_wrong_is_one_line(
    path: Path, capsys: pytest.CaptureFixture[str], words: list[str], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    code, _, complained = told(capsys, words[0], path, *words[1:])
    assert code == 2 and part in complained and len(complained.strip().splitlines()) == 1
