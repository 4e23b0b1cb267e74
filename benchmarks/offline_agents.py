"""What do the editor and a debate cost without a language model?

    .venv/bin/python benchmarks/offline_agents.py demo.duckdb [--features 200]

On a copy of a labelled run file: a fresh pool of the editor for each of some labelled features (drawn by a hash), then a
debate of each, the label's rule against its best rival. Target: 3 minutes for both, 200 features, two cores. CPU seconds
stand beside, since other work on the machine lengthens the wall time and hardly these.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glossator import pipeline
from glossator.agents.debate.debating import debate
from glossator.agents.run import Run
from glossator.config import DebateConfig, EditorConfig
from glossator.store.store import Store

_DRAWN = "SELECT feature FROM labels WHERE status = 'labelled' AND dictionary = ? ORDER BY hash(feature) LIMIT ?"
_SEED = 77  # no earlier run's pool


@contextmanager
def timed(what: str, spent: dict[str, tuple[float, float]]) -> Iterator[None]:
    wall, cpu = time.monotonic(), time.process_time()
    yield
    spent[what] = time.monotonic() - wall, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a labelled run file; it is copied")
    parser.add_argument("--features", type=int, default=200)
    args = parser.parse_args()
    spent: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.duckdb"
        shutil.copy(args.run, path)
        with Store(path, create=False) as store:
            run = Run(store)
            with timed("loading the subject", spent):
                run = Run(store, model=run.model())
            features = [f for (f,) in store.sql(_DRAWN, [run.dictionary, args.features])]
            with timed("editor", spent):
                pipeline.probe(run, EditorConfig(seed=_SEED), features)
            with timed("debates", spent):
                held = debate(run, features, [], DebateConfig(seed=_SEED))
            pools = "SELECT count(DISTINCT feature), count(*) FROM experiment JOIN measurement USING (experiment_id, feature) WHERE pool LIKE ?"
            ((probed, texts),) = store.sql(pools, [f"test:{_SEED}:%"])
            ended = Counter(verdict or reason for verdict, reason in store.sql("SELECT verdict, reason FROM debate"))
    print(
        f"{len(features)} features; {probed} probed with {texts:,} texts; {sum(h.debate_id is not None for h in held)} debates: ",
        end="",
    )
    print(", ".join(f"{what} {n}" for what, n in ended.most_common(6)))
    for what, (wall, cpu) in spent.items():
        print(f"{what:<22} wall {wall:6.1f} s   CPU {cpu:6.1f} s")
    both = spent["editor"][0] + spent["debates"][0]
    print(f"{'editor and debates':<22} wall {both:6.1f} s   target 180 s{'' if both <= 180 else '   MISSED'}")


if __name__ == "__main__":
    main()
