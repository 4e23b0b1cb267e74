"""A wheel built from the tree and installed elsewhere runs without the tree: data, template and entry point are inside."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_package_and_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "glossator/data/corpus/passages.jsonl" in names
    assert "glossator/data/dictionaries/minilm-l4/sae_weights.safetensors" in names
    assert {"glossator/prompts/oneshot.md", "glossator/llm/prices.toml"} <= set(names)
    assert {f"glossator/report/page.{kind}" for kind in ("html.jinja", "css", "js")} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {"glossator", next(t for t in tops if t.endswith(".dist-info"))}


@pytest.mark.slow
@pytest.mark.real
def test_an_installed_wheel_harvests_and_labels_outside_of_the_tree(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
    )
    script = f"""
import sys; sys.path.insert(0, {str(site)!r})
import glossator; assert glossator.__file__.startswith({str(site)!r}), glossator.__file__
from glossator.cli import main
for line in (["harvest", "w.duckdb", "--model", "demo", "--hook", "encoder.layer.4", "--dictionary", "demo", "--corpus", "themes"],
             ["label", "w.duckdb", "--features", "0-15"], ["sql", "w.duckdb", "SELECT count(label) FROM labels"], ["report", "w.duckdb"]):
    try: main(line)
    except SystemExit as stop: assert not stop.code, (line, stop.code)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "report.html").stat().st_size > 10_000
