"""DuckDB's extensions from packages of Python (extra `live`): nothing is downloaded, nothing written to the home folder.

DuckDB loads an extension only if it was built for exactly its own version; else, or where the package is missing, `load`
says so, and what needs it does without.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import duckdb

LIVE = ("httpfs", "quack")  # Quack speaks HTTP through the first
SEARCH = ("fts",)


def load(connection: duckdb.DuckDBPyConnection, names: tuple[str, ...]) -> str | None:
    """Load extensions for all connections to this database; None, or why it cannot be done."""
    for name in names:
        file = _file(name)
        if isinstance(file, str):
            return file
        try:
            connection.execute(f"LOAD '{str(file).replace(chr(39), chr(39) * 2)}'")
        except duckdb.Error as error:
            return f"the extension {name} could not be loaded ({str(error).splitlines()[0][:120]})"
    return None


def _file(name: str) -> Path | str:
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    if package is None:
        return f"the package duckdb-extension-{name} is not installed (pip install 'glossator[live]')"
    for folder in package.submodule_search_locations or ():
        file = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if file.exists():
            return file
    return (
        f"the package duckdb-extension-{name} is not for DuckDB {duckdb.__version__} (pip install -U 'glossator[live]')"
    )
