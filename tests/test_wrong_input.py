"""Wrong input gets one clear line and the documented exit code, and the run file still opens."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import duckdb
import pytest

from glossator.config import data_path
from tests import mini
from tests.mini import GLOSSATOR, HARVEST, glossator

pytestmark = pytest.mark.real


def harvest_with(path: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    flags = {"--model": "demo", "--hook": "encoder.layer.4", "--dictionary": "demo", "--corpus": "themes"}
    flags |= {f"--{name}": value for name, value in changes.items()}
    return glossator("harvest", path, *(part for pair in flags.items() for part in pair))


def complains(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("glossator: "), done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in last, last


def test_corpora_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01\x02")
    (tmp_path / "one.txt").write_text("a single short document")
    run = tmp_path / "run.duckdb"
    complains(harvest_with(run, corpus=str(tmp_path / "none.txt")), 2, "none.txt", "no such file")
    complains(harvest_with(run, corpus=str(tmp_path / "empty.txt")), 2, "empty.txt", "no text")
    complains(harvest_with(run, corpus=str(tmp_path / "binary.txt")), 2, "binary.txt", "not text")
    complains(harvest_with(run, corpus=str(tmp_path / "one.txt")), 2, "too few")


def test_hooks_models_and_dictionaries_that_do_not_fit(tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    complains(harvest_with(run, hook="encoder.layer.44"), 2, "encoder.layer.44", "encoder.layer.4", "nearest")
    complains(harvest_with(run, hook="encoder.layer.4.intermediate"), 2, "384", "1536")
    complains(harvest_with(run, model=str(tmp_path / "nothing")), 2, "nothing")
    complains(harvest_with(run, dictionary=str(tmp_path)), 2, "cfg.json")
    assert run.exists() is False or duckdb.connect(str(run)).execute("SELECT count(*) FROM feature").fetchall() == [
        (0,)
    ]


def test_a_dictionary_of_another_width_names_both_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "narrow"
    shutil.copytree(data_path("dictionaries", "minilm-l4"), folder)
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "sae_weights.safetensors")
    cut = {
        k: v[:256].clone() if k in ("W_enc", "b_dec") else v[:, :256].clone() if k == "W_dec" else v
        for k, v in weights.items()
    }
    save_file({k: v.to(torch.float32).contiguous() for k, v in cut.items()}, folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"d_in": 256}))
    complains(harvest_with(tmp_path / "run.duckdb", dictionary=str(folder)), 2, "256", "384")


def test_run_files_that_are_none(tmp_path: Path) -> None:
    text, other, newer = tmp_path / "text.duckdb", tmp_path / "other.duckdb", tmp_path / "newer.duckdb"
    text.write_text("this is not a database, though its name says so. " * 100)
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE mine (x INTEGER)")
    with duckdb.connect(str(newer)) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute("INSERT INTO schema_version VALUES (999)")
    for command in (("sql", "FROM labels"), ("label",), ("show", "1"), ("search", "word")):
        name, *rest = command
        complains(glossator(name, tmp_path / "none.duckdb", *rest), 1, "no such run file")
        complains(glossator(name, text, *rest), 1, "is not a DuckDB file")
        complains(glossator(name, other, *rest), 1, "not a run of Glossator")
        complains(glossator(name, newer, *rest), 1, "999", "upgrade")


def test_features_and_queries_that_are_wrong(mini_run: Path, tmp_path: Path) -> None:
    run = mini.copy(mini_run, tmp_path)
    complains(glossator("show", run, "2048"), 2, "2048", "0 to 2047")
    complains(glossator("probe", run, "--feature", "9999"), 2, "0 to 2047")
    complains(glossator("label", run, "--features", "9-x"), 2, "9-x")
    complains(glossator("label", run, "--explainer", "psychic"), 2, "lexical")
    complains(glossator("sql", run, "SELECT nothing FROM labels"), 2, "nothing")
    complains(glossator("sql", run, "FROM labels", "--format", "xml"), 2, "table, csv, json")
    complains(glossator("inspect", run, "--text", ""), 2, "no tokens")
    complains(glossator("inspect", run, "--text", "word " * 1000), 2, "shorten")
    complains(glossator("harvest", run, *HARVEST), 2, "holds a harvest already")
    complains(glossator("report", run, "--out", tmp_path / "no" / "where.html"), 2, "where")


def test_a_locked_run_file_says_who_holds_it(mini_run: Path, tmp_path: Path) -> None:
    run = mini.copy(mini_run, tmp_path)
    with duckdb.connect(str(run)):
        complains(glossator("sql", run, "FROM labels"), 1, "another process")


def _heeds_ctrl_c() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(arguments: list[str], when: str, how: signal.Signals) -> tuple[int, str]:
    """Start a command, send it a signal once it has printed `when`; its exit code and what it said."""
    with subprocess.Popen(
        [str(GLOSSATOR), *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=_heeds_ctrl_c,
    ) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if when in line:
                time.sleep(1.5)
                process.send_signal(how)
                break
        said += process.stderr.read()
        return process.wait(), said


def test_ctrl_c_in_a_harvest_leaves_a_file_that_goes_on(tmp_path: Path, mini_run: Path) -> None:
    run = tmp_path / "run.duckdb"
    code, said = interrupted(["harvest", str(run), *HARVEST], "minilm-l4:", signal.SIGINT)
    assert code == 3 and "stopped" in said.splitlines()[-1] and "Traceback" not in said
    done = glossator("harvest", run, *HARVEST)
    assert done.returncode == 0, done.stderr
    query = "SELECT digest FROM harvest"
    assert glossator("sql", run, query).stdout == glossator("sql", mini_run, query).stdout


FEATURES = f"{mini.LABELLED}-{mini.LABELLED + 14}"
ANSWERS = (
    "SELECT feature, label, simulation, adversarial, p_vs_permuted FROM labels",
    "SELECT experiment_id, carrier, text, max_activation FROM measurement ORDER BY ALL",
    "SELECT experiment_id, explanation_id, p_fires FROM prediction ORDER BY ALL",
)


@pytest.fixture(scope="module")
def undisturbed(mini_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is in the run after labelling that nobody stopped."""
    run = mini.copy(mini_run, tmp_path_factory.mktemp("undisturbed"))
    assert glossator("label", run, "--features", FEATURES).returncode == 0
    return [glossator("sql", run, query, "--format", "csv").stdout for query in ANSWERS]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "after"), [(signal.SIGINT, 8.0), (signal.SIGKILL, 2.5), (signal.SIGKILL, 8.0), (signal.SIGKILL, 12.0)]
)
def test_labelling_that_was_stopped_ends_like_one_that_was_not(
    mini_run: Path, tmp_path: Path, undisturbed: list[str], how: signal.Signals, after: float
) -> None:
    run = mini.copy(mini_run, tmp_path)
    arguments = [str(GLOSSATOR), "label", str(run), "--features", FEATURES]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        time.sleep(after)
        process.send_signal(how)
        _, said = process.communicate()
        code = process.returncode
    assert code in ((3, 0) if how is signal.SIGINT else (-signal.SIGKILL, 0)), said
    assert "Traceback" not in said
    assert glossator(*arguments[1:]).returncode == 0
    assert [glossator("sql", run, query, "--format", "csv").stdout for query in ANSWERS] == undisturbed


def test_a_full_disk_is_one_line_and_loses_nothing(mini_run: Path, tmp_path: Path) -> None:
    run = mini.copy(mini_run, tmp_path)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))

    done = subprocess.run(
        [str(GLOSSATOR), "label", str(run), "--features", "200-400"],
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        check=False,
    )
    complains(done, 1, "run.duckdb", "the disk is full")
    assert "2048" in glossator("sql", run, "SELECT count(*) FROM labels").stdout
    assert glossator("label", run, "--features", "200-205").returncode == 0
