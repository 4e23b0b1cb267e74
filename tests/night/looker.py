"""Queries a run file over and over, as people do from another shell, and writes a line for each try: `ok`, or what went wrong.

python -m tests.night.looker RUN.duckdb OUT
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from glossator.errors import GlossatorError
from glossator.store.reading import open_for_reading

QUERIES = (
    "SELECT status, count(*) FROM labels GROUP BY status",
    "FROM coverage",
    "FROM spend",
    "SELECT count(*) FROM experiment",
)


def main() -> None:
    path, out = Path(sys.argv[1]), Path(sys.argv[2])
    number = 0
    while True:
        query = QUERIES[number % len(QUERIES)]
        began = time.monotonic()
        try:
            with open_for_reading(path, live=True) as reader:
                reader.sql(query)
                said = f"ok {reader.way} {time.monotonic() - began:.2f}"
        except GlossatorError as error:
            said = f"failed {time.monotonic() - began:.2f} {error}"
        with out.open("a") as file:
            file.write(said + "\n")
        number += 1
        time.sleep(0.2)


if __name__ == "__main__":
    main()
