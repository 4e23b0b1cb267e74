"""A small real run, made once a session by the command line itself: our passages through MiniLM and the demo dictionary."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

GLOSSATOR = Path(sys.executable).with_name("glossator")
HARVEST = (
    "--model",
    "demo",
    "--hook",
    "encoder.layer.4",
    "--dictionary",
    "demo",
    "--corpus",
    "themes",
    "--corpus",
    "python-docs",
    "--tokens",
    "110000",
)
LABELLED = 80  # features 0 to 79


def glossator(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The installed entry point, in a process of its own, without a network and without a terminal."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "150"}
    return subprocess.run(
        [GLOSSATOR, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def build(path: Path) -> None:
    for arguments in (("harvest", path, *HARVEST), ("label", path, "--features", f"0-{LABELLED - 1}")):
        done = glossator(*arguments)
        assert done.returncode == 0, done.stderr


def copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copy(source, folder / "run.duckdb"))
