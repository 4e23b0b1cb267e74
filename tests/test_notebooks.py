"""The notebooks are whole, hold no outputs, call nothing that is not ours, and run offline from top to bottom, in a kernel.

They run on copies of the small real run that other tests use too, with `GLOSSATOR_RUN`; where they ask a language model,
`GLOSSATOR_LLM` names a server on loopback behind which `literal_reader` answers, so that these cells are run as well.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from glossator.cli import main
from glossator.store.query import query
from glossator.store.store import Store
from tests import literal_reader, mini
from tests.llm.server import Server, serving

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ["01_quickstart", "02_label_a_dictionary", "03_score_someone_elses_labels", "04_debate", "05_sql_cookbook"]
_TIMEOUT = 300  # seconds for a cell, on a machine that has much else to do


def test_the_five_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_thin_and_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [cell for cell in cells if cell.outputs or cell.execution_count], "clear its outputs"
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    for cell in cells:
        assert len(cell.source.splitlines()) <= 22, cell.source
        assert "class " not in cell.source and cell.source.count("def ") <= ("def sql(" in cell.source), cell.source
    written = json.dumps(notebook)
    assert "sk-" not in written and "/tmp/" not in written and "/home/" not in written


def test_the_cookbook_has_a_line_on_why_before_each_of_at_least_fifteen_queries() -> None:
    cells = nbformat.read(FOLDER / "05_sql_cookbook.ipynb", as_version=4).cells
    asked = [number for number, cell in enumerate(cells) if cell.source.startswith("sql(")]
    assert len(asked) >= 15
    for number in asked:
        title, _, why = cells[number - 1].source.partition("\n\n")
        assert title.startswith("## ") and why.strip(), cells[number - 1].source


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Server(answer=literal_reader.answer)) as made:
        yield made


@pytest.fixture(scope="module")
def spec(server: Server) -> str:
    return f"openai:literal@{server.openai}"


@pytest.fixture
def path(mini_run: Path, tmp_path: Path) -> Path:
    return mini.copy(mini_run, tmp_path)


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel finds neither a network nor anybody's settings."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    for name, value in {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GLOSSATOR_LLM", raising=False)


def run(name: str, path: Path, monkeypatch: pytest.MonkeyPatch, spec: str | None = None) -> list[Any]:
    """Run a notebook on a run file; its code cells with what they showed. Raises where a cell does."""
    monkeypatch.setenv("GLOSSATOR_RUN", str(path))
    if spec:
        monkeypatch.setenv("GLOSSATOR_LLM", spec)
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    folder = path.parent / "here"
    folder.mkdir()
    client = NotebookClient(
        notebook, timeout=_TIMEOUT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells: list[Any]) -> str:
    """All that a notebook showed, as text."""
    found = []
    for output in (output for cell in cells for output in cell.outputs):
        found.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(found)


def rows(path: Path, text: str) -> list[dict[str, Any]]:
    return query(path, text).to_pylist()


@pytest.mark.slow
@pytest.mark.real
def test_the_quickstart_shows_a_run_and_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    said = shown(run("01_quickstart", path, monkeypatch))
    assert "labelled" in said and "simulation" in said and "threshold" in said
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.real
def test_a_dictionary_is_labelled_by_rules_and_by_a_model(
    path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    waiting = rows(path, "SELECT count(*) AS n FROM labels WHERE status = 'waiting'")
    said = shown(run("02_label_a_dictionary", path, monkeypatch, spec))
    assert "explain:oneshot" in said and "score:detection" in said
    assert rows(path, "SELECT count(*) AS n FROM labels WHERE status = 'waiting'")[0]["n"] <= waiting[0]["n"] - 6
    found = rows(path, "SELECT explainer, count(*) AS n FROM explanation WHERE explainer = 'oneshot' GROUP BY ALL")
    assert found == [{"explainer": "oneshot", "n": 6}]
    assert rows(path, "SELECT count(*) > 0 AS any FROM score WHERE predictor LIKE 'llm:%' AND value IS NOT NULL")[0][
        "any"
    ]


@pytest.mark.slow
@pytest.mark.real
def test_a_set_that_is_known_to_be_worse_is_found_worse_and_the_file_stays_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    before = path.read_bytes()
    cells = run("03_score_someone_elses_labels", path, monkeypatch, spec)
    said = shown(cells)
    assert "exposure unknown" in said and "lexical beats imported:shifted by" in said
    assert "detection by llm:openai:literal" in said
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.real
def test_debates_are_held_with_rules_and_with_sentences(path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    before = path.read_bytes()
    cells = run("04_debate", path, monkeypatch, spec)
    said = shown(cells)
    assert said.count("predictions sealed before any was measured") == 3
    assert "llm:openai:literal" in said and "verdict" in said
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def lived_in(mini_run: Path, tmp_path_factory: pytest.TempPathFactory, spec: str) -> Path:
    """A run file with a debate, and with labels that a model wrote and read."""
    made = mini.copy(mini_run, tmp_path_factory.mktemp("lived"))
    with Store(made) as store:
        features = store.sql(
            "SELECT feature FROM labels WHERE status = 'labelled' AND trusted IS DISTINCT FROM true ORDER BY length(label) DESC, feature LIMIT 3"
        )
    named = ",".join(str(feature) for (feature,) in features)
    rivals = ("--hypothesis", "token:the", "--hypothesis", "class:year")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "none")
        for command in (
            ("debate", made, "--feature", features[0][0], *rivals, "--budget-experiments", 6),
            ("label", made, "--explainer", "oneshot", "--llm", spec, "--features", named),
            ("score", made, "--llm", spec, "--scorer", "detection", "--features", named, "--every", "--no-nulls"),
        ):
            with pytest.raises(SystemExit) as stop:
                main([str(word) for word in command])
            assert not stop.value.code, command
    return made


@pytest.mark.slow
@pytest.mark.real
def test_every_query_of_the_cookbook_has_a_result(
    lived_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(lived_in, tmp_path / "run.duckdb"))
    cells = [cell for cell in run("05_sql_cookbook", path, monkeypatch) if cell.source.startswith("sql(")]
    empty = [cell.source for cell in cells if "Empty DataFrame" in shown([cell])]
    allowed = ("control", "FROM failure", "HAVING")  # nothing of it is in this run
    assert not [source for source in empty if not any(word in source for word in allowed)]
    assert len(cells) - len(empty) >= 20
