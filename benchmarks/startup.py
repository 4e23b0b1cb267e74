"""How long does the command line take to say its help? Beside a bare interpreter, as a ratio.

.venv/bin/python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path


def median_seconds(command: list[str], times: int = 7) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    bare = median_seconds([sys.executable, "-c", "pass"])
    told = median_seconds([str(Path(sys.executable).with_name("glossator")), "--help"])
    print(
        f"{'what':<20} {'median seconds':>15}\n{'python -c pass':<20} {bare:>15.3f}\n{'glossator --help':<20} {told:>15.3f}"
    )
    print(f"ratio {told / bare:.1f}")


if __name__ == "__main__":
    main()
