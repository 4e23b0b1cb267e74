"""Is a run file of a million features still quick to ask and to write?

The rows are made up in SQL: a million features, each with a label, seven scores, three comparisons and ten experiments
that were predicted and measured. `show` is of features that were really harvested, in the same tables. The file is
temporary and needs about 6 GB. Beside the time that passed stands the processors' time, which other programs lengthen less.

.venv/bin/python benchmarks/store.py [--features 1000000] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console

from glossator.agents.run import Run
from glossator.agents.validity.ground import planted_run
from glossator.rows import ExperimentRow, MeasurementRow, PredictionRow, Row, ScoreRow
from glossator.show import card
from glossator.store.extensions import SEARCH
from glossator.store.labels import materialise_labels
from glossator.store.live import serving
from glossator.store.reading import open_for_reading
from glossator.store.search import index_labels, search
from glossator.store.store import Store

EXPERIMENTS = 10
REAL = 40
BYTES = 8_000  # of disk for a feature, at the most
QUERIES = {  # those of README.md, then of docs/
    "counts and median of labels": "SELECT count(*), count(label), median(simulation) FROM labels",
    "some trusted labels": "SELECT feature, label, simulation, adversarial FROM labels WHERE trusted LIMIT 20",
    "trusted, best first": "SELECT feature, label, adversarial FROM labels WHERE trusted ORDER BY adversarial DESC LIMIT 20",
    "one feature's label": "FROM labels WHERE feature = 654321",
    "scoreboard": "FROM scoreboard",
    "coverage": "FROM coverage",
    "spend": "FROM spend",
    "transcript": "FROM transcript",
    "counterexamples of a feature": "FROM counterexamples WHERE feature = 654321",
}
SEARCHES = ("golden gate bridge", "bridge golden", "number", "words", "words like after golden", "gol dge", "nowhere")
WORDS = "SELECT ['golden','gate','bridge','river','token','years','names','python','import','number','after','before','words','money']"
FILL = {
    "feature": """INSERT INTO feature BY NAME SELECT d.* REPLACE (i::INTEGER AS feature, i::VARCHAR AS name)
        FROM (SELECT * FROM feature WHERE feature = 0) d, range({real}, {n}) r(i)""",
    "explanation": """INSERT INTO explanation BY NAME SELECT 'x' || i AS explanation_id, {d} AS dictionary, i::INTEGER AS feature, 'lexical' AS explainer,
        'words like "' || w[(1 + hash(i || 'a') % 14)::INT] || '" after "' || w[(1 + hash(i || 'b') % 14)::INT] || '" (' || w[(1 + hash(i || 'c') % 14)::INT] || ' ' || hash(i) % 100000 || ')' AS text,
        '{{"items": []}}' AS program, false AS abstained, 'run' AS run_id FROM range({real}, {n}) r(i), ({words}) t(w)""",
    "score": """INSERT INTO score BY NAME SELECT 'x' || i AS explanation_id, {d} AS dictionary, i::INTEGER AS feature, 'lexical' AS explainer,
        'rule' AS predictor, m AS metric, s AS split, (hash(i, m) % 1000) / 1000 AS value, 0.1 AS low, 0.9 AS high, 160 AS n, 'run' AS run_id
        FROM range({real}, {n}) r(i), (VALUES ('simulation', 'select'), ('simulation', 'test'), ('simulation_within', 'test'), ('detection', 'test'),
        ('detection_near', 'test'), ('adversarial', 'test'), ('recall', 'test')) v(m, s)""",
    "null_score": """INSERT INTO null_score BY NAME SELECT 'x' || i AS explanation_id, {d} AS dictionary, i::INTEGER AS feature, 'simulation' AS metric,
        'rule' AS predictor, c AS comparison, 0.1 AS null_mean, (hash(i, c) % 100) / 1000 AS p_value, (hash(i, c) % 100) / 1000 AS q_value,
        0.3 AS difference, 0.1 AS low, 0.5 AS high, 40 AS n, 'run' AS run_id FROM range({real}, {n}) r(i), (VALUES ('permuted'), ('neighbour'), ('lexical')) v(c)""",
    "stage": """INSERT INTO stage BY NAME SELECT {d} AS dictionary, i::INTEGER AS feature, s AS stage, 'done' AS status, 'run' AS run_id
        FROM range({real}, {n}) r(i), (VALUES ('explain'), ('probe'), ('score')) v(s)""",
    "experiment": """INSERT INTO experiment BY NAME SELECT 'e' || i || '-' || k AS experiment_id, {d} AS dictionary, i::INTEGER AS feature, 'mechanical' AS pool,
        'test' AS split, 'swap' AS kind, '{{"from": "a", "to": "b"}}' AS edit, hash(i, k) % 100000 AS source_window,
        ['some words before the ' || hash(i, k) % 10000 || ' and some after it'] AS texts, 'run' AS run_id FROM range({real}, {n}) r(i), range({k}) q(k)""",
    "prediction": """INSERT INTO prediction BY NAME SELECT 'e' || i || '-' || k AS experiment_id, 'x' || i AS explanation_id, 'rule' AS predictor,
        (hash(i, k) % 100) / 100 AS p_fires, [0, 0, 10, 0] AS strengths, 1e9 AS sealed_at FROM range({real}, {n}) r(i), range({k}) q(k)""",
    "measurement": """INSERT INTO measurement BY NAME SELECT 'e' || i || '-' || k AS experiment_id, {d} AS dictionary, i::INTEGER AS feature, 0 AS carrier,
        'some words before the ' || hash(i, k) % 10000 || ' and some after it' AS text, ['some', 'words'] AS tokens, [0, 1.5] AS activations,
        1.5 AS max_activation, hash(i, k, 1) % 2 = 0 AS fires, 1e9 AS measured_at FROM range({real}, {n}) r(i), range({k}) q(k)""",
}  # fmt: skip


def fill(store: Store, n: int) -> None:
    run = planted_run(store, REAL, 0)
    literal = "'" + run.dictionary.replace("'", "''") + "'"
    for table, script in FILL.items():
        began = time.perf_counter()
        store.execute(script.format(d=literal, real=REAL, n=n, k=EXPERIMENTS, words=WORDS))
        store.checkpoint()
        print(f"  {table}: {time.perf_counter() - began:.0f} s", flush=True)
    store.execute("UPDATE dictionary SET n_features = ?", [n])


def timed(work: Callable[[], object], times: int = 5) -> tuple[float, float]:
    """Milliseconds that passed, and of processors: medians, the first time left out."""
    taken: list[tuple[float, float]] = []
    for _ in range(times + 1):
        began, used = time.perf_counter(), time.process_time()
        work()
        taken.append((1000 * (time.perf_counter() - began), 1000 * (time.process_time() - used)))
    passed, used_up = zip(*taken[1:] or taken, strict=True)
    return statistics.median(passed), statistics.median(used_up)


def written(path: Path) -> tuple[float, float, float]:
    """Experiments as a run writes them: rows a second, seconds to open the file, MB at the peak of this process.

    Predictions first, then outcomes and scores; 50 rows in a put, many puts at once.
    """
    began = time.perf_counter()
    with Store(path) as store:
        opened = time.perf_counter() - began
        began, rows = time.perf_counter(), 0
        for block in range(40):
            features = range(block * 10, block * 10 + 10)
            asyncio.run(
                _together(store, [kind(feature) for feature in features for kind in (_experiments, _predictions)])
            )
            asyncio.run(_together(store, [kind(feature) for feature in features for kind in (_outcomes, _scores)]))
            rows += 4 * 50 * len(features)
        return rows / (time.perf_counter() - began), opened, peak()


async def _together(store: Store, puts: Sequence[Sequence[Row]]) -> None:
    await asyncio.gather(*(store.put(*rows) for rows in puts))


def _experiments(feature: int) -> list[Row]:
    words = ["a text of some words that is about as long as what the editor writes"]
    return [
        ExperimentRow(f"n{feature}-{k}", "d", feature, "pool", "test", "swap", "{}", 1, words, "r") for k in range(50)
    ]


def _predictions(feature: int) -> list[Row]:
    return [PredictionRow(f"n{feature}-{k}", f"x{feature}", "rule", 0.5, [0, 10] * 8, 1.0) for k in range(50)]


def _outcomes(feature: int) -> list[Row]:
    tokens, values = ["a", "text"] * 8, [0.0, 1.0] * 8
    return [
        MeasurementRow(f"n{feature}-{k}", "d", feature, 0, "a text", tokens, values, 1.0, True, 2.0) for k in range(50)
    ]


def _scores(feature: int) -> list[Row]:
    return [
        ScoreRow(f"n{feature}", "d", feature, "lexical", "rule", None, f"m{k}", "test", 0.5, 0.1, 0.9, 9, None, "r")
        for k in range(50)
    ]


def peak() -> float:
    """MB of this process. Not by `getrusage` where it can be helped: that begins at what the parent had."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(row.split()[1]) for row in status.read_text().splitlines() if row.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1 << 20)


def elsewhere(path: Path) -> tuple[float, float, float]:
    """`written` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(written, path).result()


Line = tuple[str, str, str, str]  # what, found, milliseconds of processors, target


def line(what: str, work: Callable[[], object], target: str = "", times: int = 5) -> Line:
    passed, used = timed(work, times)
    print(f"  {what}: {passed:.0f} ms, {used:.0f} ms CPU", flush=True)
    return what, f"{passed:.0f} ms", f"{used:.0f}", target


def asked(path: Path) -> list[Line]:
    """What people ask of a file that nobody writes."""
    found = [line("open for reading", lambda: open_for_reading(path).close())]
    with open_for_reading(path, extensions=SEARCH) as reader:
        found += [line(name, lambda q=query: reader.sql(q), "200 ms") for name, query in QUERIES.items()]  # type: ignore[misc]
        for words in SEARCHES:
            found.append(line(f"search: {words}", lambda w=words: search(reader, w, 20), "300 ms"))  # type: ignore[misc]
        run = Run(reader)
        quiet = Console(file=io.StringIO(), width=120)
        shown = iter(range(1, REAL))
        card(run, 0)  # what is read once in a session: vocabulary and background
        found.append(line("show, each after the first", lambda: quiet.print(card(run, next(shown))), "100 ms"))
        found.append(line("show, the first", lambda: quiet.print(card(Run(reader), 7)), "100 ms", 2))
    return found


def while_written(path: Path) -> list[Line]:
    """The same two, by a file that is being written: a score was added, then rows of `stage` up to where they are counted."""
    said = """INSERT INTO stage BY NAME SELECT dictionary, feature, 'explain' AS stage, 'failed' AS status, 'again' AS run_id
              FROM feature ORDER BY hash(feature) LIMIT 65535"""
    with Store(path) as store, serving(store, print, live=False):
        found = [line("a snapshot to read", lambda: _changed(store, path), times=2)]
        store.execute("INSERT INTO score BY NAME SELECT 'x0' AS explanation_id, 'select' AS split")
        found.append(line("scoreboard, a score later", lambda: store.sql("FROM scoreboard"), times=2))
        store.execute(said)
        found.append(line("coverage, 65,535 rows later", lambda: store.sql("FROM coverage"), "200 ms"))
    return found


def _changed(store: Store, path: Path) -> None:
    """From a change to its being read through a new snapshot."""
    store.execute("INSERT INTO manifest VALUES ('changed', '')")
    while True:
        with open_for_reading(path) as reader:
            if reader.sql("SELECT count(*) FROM manifest") == store.sql("SELECT count(*) FROM manifest"):
                return
        time.sleep(0.05)


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--features", type=int, default=1_000_000)
    flags.add_argument("--folder", default=tempfile.gettempdir())
    given = flags.parse_args()
    n, free = given.features, shutil.disk_usage(given.folder).free
    if free < BYTES * n:
        raise SystemExit(f"{given.folder}: {free >> 20} MB are free, {BYTES * n >> 20} MB are needed")
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="glossator-store-") as folder:
        path = Path(folder) / "run.duckdb"
        empty = elsewhere(Path(folder) / "empty.duckdb")
        made: list[Line] = []
        with Store(path) as store:
            print(f"making {n} features", flush=True)
            fill(store, n)
            for name, work in (("labels, scoreboard, coverage", materialise_labels), ("index of labels", index_labels)):
                made.append(line(f"made anew: {name}", lambda w=work: w(store), times=0))  # type: ignore[misc]
        table = [*asked(path), *made]
        table.append(("size of the file", f"{path.stat().st_size / 1e9:.2f} GB", "", "stated"))
        table += while_written(path)
        full = elsewhere(path)
    table.append(("opened for writing", f"{full[1]:.2f} s (empty {empty[1]:.2f})", "", ""))
    table.append(("rows written a second", f"{full[0]:.0f} (empty {empty[0]:.0f})", "", "10000"))
    table.append(("memory of a run at its peak", f"{full[2]:.0f} MB (empty {empty[2]:.0f})", "", "the same"))
    print(f"\n{'what':<40} {'found':>22} {'CPU ms':>8} {'target':>10}")
    for what, value, used, target in table:
        print(f"{what:<40} {value:>22} {used:>8} {target:>10}")


if __name__ == "__main__":
    main()
