"""What is reckoned beforehand is what all rows say, whatever was written, changed, taken away or opened again in between."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from glossator.rows import ExplanationRow, NullScoreRow, RepeatScoreRow, ScoreRow, StatusRow
from glossator.store import store as stores
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from tests.store.rows import feature_table, score, status
from tests.store.slow_views import COVERAGE, SCOREBOARD

Step = Callable[[Store, random.Random], None]
DICTIONARIES = ("d", "e", "d-random")  # the last one a control
STAGES = ("explain", "probe", "score", "explain:oneshot", "score:detection:llm:m:imported:theirs", "debate")
FEATURES = 9


def place(r: random.Random) -> tuple[str, int]:
    return r.choice(DICTIONARIES), r.randrange(FEATURES)


# ------------------------------------------------------------------ what may happen


def harvests(store: Store, r: random.Random) -> None:
    (there,) = store.sql("SELECT list(DISTINCT dictionary) FROM feature")[0]
    new = [name for name in DICTIONARIES if name not in (there or [])]
    if new:
        statuses = [r.choice(["waiting", "waiting", "dead", "rare", "dense"]) for _ in range(FEATURES)]
        store.put_tables({"feature": feature_table(statuses, new[0])})
        control = "random-dictionary" if new[0] == "d-random" else None
        if r.random() < 0.7:  # else the dictionary is unknown
            store.execute("INSERT INTO dictionary BY NAME SELECT ? AS dictionary, ?::VARCHAR AS control", [new[0], control])  # fmt: skip


def says(store: Store, r: random.Random) -> None:
    said = []
    for _ in range(r.randrange(1, 12)):
        dictionary, feature = place(r)
        said.append(StatusRow(dictionary, feature, r.choice(STAGES), r.choice(["done", "failed", "abstained"]), None, "r"))  # fmt: skip
    store.put_now(*said)


def imports(store: Store, r: random.Random) -> None:
    rows = [place(r) for _ in range(3)]
    store.put_now(*(ExplanationRow(f"i{d}{f}", d, f, "imported:theirs", None, "x", None, False, None, "r") for d, f in rows))  # fmt: skip


def lives_or_dies(store: Store, r: random.Random) -> None:
    dictionary, feature = place(r)
    now = r.choice(["dead", "waiting", "rare"])
    store.execute("UPDATE feature SET status = ? WHERE dictionary = ? AND feature = ?", [now, dictionary, feature])


def swaps_who_is_dead(store: Store, r: random.Random) -> None:
    """As many live as before."""
    store.execute("UPDATE feature SET status = CASE feature WHEN 0 THEN 'dead' WHEN 1 THEN 'waiting' ELSE status END")
    store.execute("UPDATE feature SET status = CASE feature WHEN 1 THEN 'dead' WHEN 0 THEN 'waiting' ELSE status END")


def takes_back(store: Store, r: random.Random) -> None:
    store.execute("DELETE FROM stage WHERE feature = ?", [r.randrange(FEATURES)])
    if r.random() < 0.5:  # and what is left moves up
        store.execute("CREATE TABLE left_over AS FROM stage; DELETE FROM stage; INSERT INTO stage FROM left_over; DROP TABLE left_over")  # fmt: skip


def scores(store: Store, r: random.Random) -> None:
    store.put_now(*(scored(r) for _ in range(r.randrange(1, 6))))


def scored(r: random.Random) -> ScoreRow:
    dictionary, feature = place(r)
    explainer, predictor = r.choice([("lexical", "rule"), ("oneshot", "llm:m"), ("lexical", "embedding")])
    value, note = r.choice([(r.random(), None), (None, None), (None, "none"), (r.random(), "dependent: so it is")])
    return ScoreRow(
        f"{dictionary}{explainer}{feature}", dictionary, feature, explainer, predictor, None,
        r.choice(["simulation", "detection"]), r.choice(["select", "test", "test"]), value, None, None, 9, note, "r",
    )  # fmt: skip


def compares(store: Store, r: random.Random) -> None:
    for of in [scored(r) for _ in range(4)]:
        comparison = r.choice(["permuted", "neighbour", "lexical"])
        low = None if comparison != "lexical" else r.random() - 0.5
        store.put_now(NullScoreRow(of.explanation_id, of.dictionary, of.feature, of.metric, comparison, r.random(), 0.1,
                                   r.choice([0.01, 0.2, None]), 0.1, low, 0.9, 9, "r", of.predictor))  # fmt: skip


def draws_again(store: Store, r: random.Random) -> None:
    for x, d, f, e, p, m in store.sql("SELECT explanation_id, dictionary, feature, explainer, predictor, metric FROM score WHERE split = 'test'")[:3]:  # fmt: skip
        store.put_now(RepeatScoreRow(x, d, f, e, p, m, "test", 1, r.random(), 9, None, "r"))


def scores_anew(store: Store, r: random.Random) -> None:
    """As many rows as before, with other values: nothing that counts rows would see it."""
    old = store.arrow("FROM score LIMIT 3").to_pylist()

    def forget(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("DELETE FROM score WHERE rowid IN (SELECT rowid FROM score LIMIT 3)")

    store.replace_now(forget, [ScoreRow(**{**row, "value": r.random()}) for row in old])


def corrects(store: Store, r: random.Random) -> None:
    store.execute("UPDATE null_score SET q_value = ?", [r.choice([0.01, 0.5])])


def reckons(store: Store, r: random.Random) -> None:
    store._keeping = 0.0  # however long it took the last time
    r.choice([store.reckon, lambda: materialise_labels(store)])()


STEPS: tuple[Step, ...] = (
    harvests, says, says, says, imports, lives_or_dies, swaps_who_is_dead, takes_back, scores, scores, compares, draws_again,
    scores_anew, corrects, reckons, reckons, reckons,
)  # fmt: skip


def equal(found: list[tuple[Any, ...]], wanted: list[tuple[Any, ...]]) -> bool:
    """To the twelfth digit: sums are added in any order."""
    pairs = [(a, b) for row, other in zip(found, wanted, strict=True) for a, b in zip(row, other, strict=True)]
    return all(a == pytest.approx(b, rel=1e-12, abs=1e-12) if isinstance(b, float) else a == b for a, b in pairs)


@pytest.mark.parametrize("seed", range(6))
def test_both_views_show_what_all_rows_say_after_whatever_happens(tmp_path: Path, seed: int) -> None:
    r = random.Random(seed)
    store = Store(tmp_path / "run.duckdb")
    harvests(store, r)
    kept = 0
    for number in range(45):
        step = r.choice(STEPS)
        step(store, r)
        if number % 15 == 14:
            store.close()
            store = Store(tmp_path / "run.duckdb")
        said = f"seed {seed}, step {number}: {step.__name__}"
        assert store.sql("FROM coverage") == store.sql(COVERAGE), said
        assert equal(store.sql("FROM scoreboard"), store.sql(SCOREBOARD)), said
        kept += len(store.sql("FROM scoreboard_row"))
    assert kept, "nothing was ever kept: this tried nothing"
    store.close()


@pytest.mark.parametrize(("view", "query"), [("coverage", COVERAGE), ("scoreboard", SCOREBOARD)])
def test_names_order_and_types_of_columns_are_those_of_the_query(view: str, query: str) -> None:
    with Store(":memory:") as store:
        assert store.sql(f"SELECT column_name, column_type FROM (DESCRIBE FROM {view})") == store.sql(
            f"SELECT column_name, column_type FROM (DESCRIBE {query})"
        )


# ------------------------------------------------------------------ that it is used, and for how long


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A scoreboard and counts that were kept, and then spoilt, so that one sees where a number comes from."""
    with Store(tmp_path / "run.duckdb") as store:
        store.put_tables({"feature": feature_table(["waiting"] * 4)})
        store.put_now(score(0, 0.5), score(1, 0.7), status(0, "explain", "done"), status(1, "explain", "failed"))
        store.reckon()
    with duckdb.connect(str(tmp_path / "run.duckdb")) as connection:
        connection.execute("UPDATE scoreboard_row SET mean = 42")
        connection.execute("UPDATE stage_count SET features = 40 WHERE status = 'done'")
    return tmp_path / "run.duckdb"


def mean(store: Store) -> float:
    ((value,),) = store.sql("SELECT mean FROM scoreboard")
    return float(value)


def done(store: Store) -> int:
    ((value,),) = store.sql("SELECT done FROM coverage WHERE stage = 'explain'")
    return int(value)


def test_what_is_kept_is_shown_while_nothing_has_changed(path: Path) -> None:
    with Store(path) as store:
        assert (mean(store), done(store)) == (42, 40)
        store.put_now(status(2, "explain", "done"), status(1, "explain", "done"))
        assert (mean(store), done(store)) == (42, 42)  # what was counted, and what came since
        store.put_now(status(0, "explain", "failed"))
        assert done(store) == 41


def test_a_score_a_comparison_or_a_new_feature_ends_it(path: Path) -> None:
    changes: list[Callable[[Store], None]] = [
        lambda store: store.put_now(score(2, 0.6)),
        lambda store: store.replace_now(lambda connection: None, []),
        lambda store: store.execute("UPDATE score SET note = 'seen'"),
        lambda store: store.put_tables({"feature": feature_table(["waiting"], "e")}),
        lambda store: store.put_now(status(2, "score", "failed")),
        lambda store: store.put_now(
            RepeatScoreRow("x0", "d", 0, "lexical", "rule", "simulation", "test", 1, 0.5, 9, None, "r")
        ),
        lambda store: store.put_now(
            NullScoreRow("x0", "d", 0, "simulation", "permuted", 0.1, 0.1, 0.1, None, None, None, 9, "r", "rule")
        ),
    ]
    for number, change in enumerate(changes):
        copy = path.with_name(f"{number}.duckdb")
        copy.write_bytes(path.read_bytes())
        with Store(copy) as store:
            change(store)
            assert mean(store) == pytest.approx(0.6), number


def test_a_file_is_closed_with_what_was_reckoned(path: Path) -> None:
    with Store(path) as store:
        store.put_now(score(2, 0.9))
        assert store.sql("SELECT what FROM reckoned ORDER BY 1") == [("coverage",), ("scoreboard",)]
    with Store(path) as store:
        assert store.sql("SELECT n, round(mean, 9) FROM scoreboard_row") == [(3, 0.7)]
        assert store.sql("SELECT counts[1] FROM reckoned WHERE what = 'scoreboard'") == [(3,)]


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE feature SET status = if(feature = 0, 'dead', 'waiting')",  # as many live as before: feature 3 was dead
        "DELETE FROM stage WHERE feature = 2",
        # as many rows as before, in another order
        "CREATE TABLE other AS SELECT * FROM stage ORDER BY rowid DESC; DROP TABLE stage; CREATE TABLE stage AS FROM other",
    ],
)
def test_counts_of_stages_end_with_what_was_counted(tmp_path: Path, change: str) -> None:
    with Store(":memory:") as store:
        store.put_tables({"feature": feature_table(["waiting", "waiting", "waiting", "dead"])})
        words = zip((0, 1, 0, 2, 1), ("failed", "done", "done", "abstained", "abstained"), strict=True)
        store.put_now(*(status(feature, "explain", word) for feature, word in words))
        materialise_labels(store)
        assert store.sql("SELECT what FROM reckoned ORDER BY what") == [("coverage",), ("scoreboard",)]
        for script in change.split("; "):
            store.execute(script)
            if "stage" in [name for (name,) in store.sql("SELECT table_name FROM duckdb_tables()")]:
                assert store.sql("FROM coverage") == store.sql(COVERAGE), script


def test_stages_are_counted_while_a_run_goes_on(path: Path) -> None:
    with Store(path) as store:
        said = [dataclasses.replace(status(2, "probe", "done"), run_id=str(n)) for n in range(stores._COUNTED)]
        store.put_now(*said)
        store.put_now()  # the writer has counted
        assert store.sql("SELECT mark + 1 - (SELECT count(*) FROM stage) FROM reckoned WHERE what = 'coverage'") == [(0,)]  # fmt: skip
        assert store.sql("SELECT done FROM coverage WHERE stage = 'probe'") == [(1,)]


def test_views_of_another_version_believe_nothing_that_was_kept(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("COMMENT ON COLUMN schema_version.version IS 'of others'")
    with Store(path) as store:
        assert (mean(store), done(store)) == (pytest.approx(0.6), 1)


def test_where_it_cannot_be_reckoned_the_views_do_without(tmp_path: Path) -> None:
    with Store(tmp_path / "run.duckdb") as store:
        store.put_tables({"feature": feature_table(["waiting"])})
        store.put_now(score(0, 0.5), status(0, "explain", "done"))
        store.execute("ALTER TABLE scoreboard_row DROP COLUMN repeat_sd; DROP TABLE stage_count; CREATE VIEW stage_count AS FROM range(0) t(a)")  # fmt: skip
        store.execute("CREATE OR REPLACE TABLE reckoned_before AS FROM reckoned")
        store.reckon()
        store.put_now(score(1, 0.7))
        assert store.sql("SELECT count(*) FROM score") == [(2,)]
        assert store.sql("SELECT count(*) FROM reckoned WHERE what = 'scoreboard'") == [(0,)]


def test_labels_stand_in_order(tmp_path: Path) -> None:
    """Of more features than DuckDB keeps in one part of a table, that came in any order."""
    with Store(":memory:") as store:
        store.execute("INSERT INTO feature BY NAME SELECT 'd' || f % 2 AS dictionary, f // 2 AS feature, 'waiting' AS status FROM range(300000) r(f) ORDER BY hash(f)")  # fmt: skip
        materialise_labels(store)
        for query in ("FROM labels", "SELECT dictionary, feature FROM labels WHERE feature % 3 = 0"):
            table = store.arrow(f"SELECT dictionary, feature FROM ({query})")
            found = table.sort_by([("dictionary", "ascending"), ("feature", "ascending")])
            assert table.equals(found)
