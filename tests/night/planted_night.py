"""A night on planted features: a run file that is harvested already, its night.toml, and the process that a test may kill.

python -m tests.night.planted_night NIGHT.toml
"""

from __future__ import annotations

import sys
from pathlib import Path

from glossator.agents.validity.ground import planted_run
from glossator.config import quiet_tracing, read_night
from glossator.errors import GlossatorError
from glossator.harness.dictionary import Dictionary
from glossator.harness.planted_run import doubles
from glossator.harness.subject import Subject
from glossator.night.running import run_night
from glossator.planted_family import planted_family, planted_family_vocabulary
from glossator.store.store import Store
from tests.llm.server import Server

FEATURES, SEED = 20, 0


def harvest(path: Path) -> Path:
    with Store(path) as store:
        planted_run(store, FEATURES, SEED)
    return path


def model() -> tuple[Subject, Dictionary]:
    return doubles(planted_family(FEATURES, SEED), planted_family_vocabulary(FEATURES, SEED))


def written(folder: Path, **sections: str) -> Path:
    """A night.toml beside `run.duckdb`. sections: by their names, as lines; `top` for what stands before them."""
    text = f'run = "run.duckdb"\n{sections.pop("top", "")}\n'
    path = folder / "night.toml"
    path.write_text(text + "".join(f"[{name}]\n{lines}\n" for name, lines in sections.items()))
    return path


def run(path: Path) -> list[str]:
    """A night in this process; what it said."""
    said: list[str] = []
    run_night(read_night(path), say=said.append, model=model())
    return said


def asks(server: Server, concurrency: int = 4, name: str = "double") -> str:
    """The section `llm`."""
    return f'writer = "openai:{name}@{server.openai}"\nconcurrency = {concurrency}'


def sql(folder: Path, query: str) -> list[tuple[object, ...]]:
    with Store(folder / "run.duckdb") as store:
        return store.sql(query)


def main() -> None:
    quiet_tracing()
    try:
        run_night(read_night(Path(sys.argv[1])), say=lambda line: print(line, file=sys.stderr), model=model())
    except GlossatorError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
