"""What a put promises: all of it or nothing, on disk when it resolves, whatever its neighbours or the world do."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from glossator.errors import GlossatorError, HarvestError, StoreError, UnsealedError
from glossator.rows import MeasurementRow, NullScoreRow, PredictionRow, Row, ScoreRow
from glossator.store.store import Store
from tests.store.rows import experiment, explanation, feature_table, measurement, one_of_each, prediction, score, status


def done(work: Coroutine[Any, Any, Any]) -> Any:
    """The result, or a failure where the store would hang."""
    return asyncio.run(asyncio.wait_for(work, 10))


def explained(store: Store) -> list[str]:
    return sorted(i for (i,) in store.sql("SELECT explanation_id FROM explanation"))


@pytest.fixture
def store() -> Any:
    with Store(":memory:") as opened:
        yield opened


# ------------------------------------------------------------------ what is put


def test_every_kind_of_row_comes_back_as_it_was_put(store: Store) -> None:
    rows = one_of_each()
    store.put_now(rows["prediction"])  # sealed before the outcome
    store.put_now(*(row for name, row in rows.items() if name != "prediction"))
    for table, row in rows.items():
        (found,) = store.arrow(f"SELECT * FROM {table}").to_pylist()
        assert found == dataclasses.asdict(row)


def test_rows_are_committed_when_put_resolves(store: Store) -> None:
    async def work() -> None:
        for i in range(5):
            await store.put(explanation(i), score(i))
            assert store.sql("SELECT count(*) FROM explanation") == [(i + 1,)]
            assert store.sql("SELECT count(*) FROM score") == [(i + 1,)]

    done(work())


def test_puts_from_many_tasks_are_all_written(store: Store) -> None:
    async def work() -> None:
        await asyncio.gather(*(store.put(explanation(i), score(i)) for i in range(3000)))

    done(work())
    assert store.sql("SELECT count(DISTINCT feature), count(*) FROM explanation JOIN score USING (feature)") == [
        (3000, 3000)
    ]


def test_rows_of_one_put_keep_their_order(store: Store) -> None:
    store.put_now(*(status(i, "explain", "done") for i in range(1500)))
    assert [i for (i,) in store.sql("SELECT feature FROM stage ORDER BY rowid")] == list(range(1500))


def test_a_put_of_nothing_resolves(store: Store) -> None:
    done(store.put())


BAD_ROWS: dict[str, Any] = {
    "a word for a number": dataclasses.replace(score(1), n="many"),  # type: ignore[arg-type]
    "a number that no column holds": dataclasses.replace(score(1), n=2**80),
    "half of a surrogate pair": explanation(1, "\ud83d"),
    "something that is no row": "a string",
    "a value that is no value": dataclasses.replace(score(1), note=object()),  # type: ignore[arg-type]
    "an outcome without a prediction": measurement(77),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_put_is_written_whole_or_not_at_all(store: Store, name: str) -> None:
    with pytest.raises(StoreError):
        done(store.put(explanation(1), BAD_ROWS[name], explanation(2)))
    assert explained(store) == []
    done(store.put(explanation(3)))  # and the writer lives on
    assert explained(store) == ["x3"]


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_put_does_not_sink_its_neighbours_in_the_group(store: Store, name: str) -> None:
    async def work() -> list[Any]:
        puts: list[tuple[Row, ...]] = [(explanation(i),) for i in range(20)]
        puts.insert(11, (explanation(100), BAD_ROWS[name]))
        return await asyncio.gather(*(store.put(*rows) for rows in puts), return_exceptions=True)

    results = done(work())
    assert [i for i, result in enumerate(results) if result is not None] == [11]
    assert isinstance(results[11], StoreError)
    assert explained(store) == sorted(f"x{i}" for i in range(20))


def test_a_put_that_is_given_up_does_not_stop_the_writer(store: Store) -> None:
    async def work() -> None:
        given_up = [asyncio.create_task(store.put(explanation(i))) for i in range(50)]
        await asyncio.sleep(0)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        await store.put(explanation(1000))

    done(work())
    assert "x1000" in explained(store)


# ------------------------------------------------------------------ sealing


def test_an_outcome_without_a_stored_prediction_is_refused(store: Store) -> None:
    store.put_now(experiment(1))
    with pytest.raises(UnsealedError, match="e1"):
        store.put_now(measurement(1))
    store.put_now(prediction(1))
    store.put_now(measurement(1))
    assert store.sql("SELECT count(*) FROM measurement") == [(1,)]


def test_a_prediction_in_the_same_put_as_its_outcome_is_not_sealed(store: Store) -> None:
    with pytest.raises(UnsealedError):
        store.put_now(experiment(1), prediction(1), measurement(1))
    assert store.sql("SELECT (SELECT count(*) FROM prediction), (SELECT count(*) FROM experiment)") == [(0, 0)]


def test_a_prediction_that_failed_to_be_written_seals_nothing(store: Store) -> None:
    with pytest.raises(StoreError):
        store.put_now(prediction(1), BAD_ROWS["a word for a number"])
    with pytest.raises(UnsealedError):
        store.put_now(measurement(1))


def test_a_prediction_put_before_its_outcome_seals_it_though_both_are_in_one_group(store: Store) -> None:
    async def work() -> list[Any]:
        return await asyncio.gather(
            store.put(prediction(1)), store.put(measurement(1)), store.put(measurement(2)), return_exceptions=True
        )

    first, second, third = done(work())
    assert first is None and second is None
    assert isinstance(third, UnsealedError)


def test_seals_are_remembered_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with Store(path) as store:
        store.put_now(prediction(1))
    with Store(path) as store:
        store.put_now(measurement(1))
        with pytest.raises(UnsealedError):
            store.put_now(measurement(2))


# ------------------------------------------------------------------ tables, statements, closing


def test_tables_are_appended_all_or_none(store: Store) -> None:
    tokens = pa.table({"token_id": pa.array([0, 1], pa.int32()), "piece": ["a", "b"]})
    store.put_tables({"token": tokens})
    with pytest.raises(StoreError):
        store.put_tables({"token": tokens, "feature": pa.table({"no_such_column": [1]})})
    assert store.sql("SELECT token_id, piece FROM token") == [(0, "a"), (1, "b")]


def pieces(*ids: int) -> pa.Table:
    return pa.table({"token_id": pa.array(ids, pa.int32()), "piece": [str(i) for i in ids]})


def test_a_stream_of_tables_is_written_while_it_is_made(store: Store) -> None:
    """One table at a time, in the writer's thread, and none of it is seen before all of it is there."""
    seen: list[tuple[str, int]] = []

    def stream() -> Iterator[tuple[str, pa.Table]]:
        for i in range(5):
            yield "token", pieces(2 * i, 2 * i + 1)
            seen.append((threading.current_thread().name, store.sql("SELECT count(*) FROM token")[0][0]))
        yield "manifest", pa.table({"key": ["k"], "value": ["v"]})

    store.put_tables(stream())
    assert seen == [("glossator-store", 0)] * 5
    assert [i for (i,) in store.sql("SELECT token_id FROM token ORDER BY rowid")] == list(range(10))
    assert store.sql("FROM manifest") == [("k", "v")]


@pytest.mark.parametrize("error", [HarvestError("feature 3: no good"), ZeroDivisionError("by nothing")])
def test_what_a_stream_raises_undoes_it_and_reaches_the_caller(store: Store, error: Exception) -> None:
    def stream() -> Iterator[tuple[str, pa.Table]]:
        yield "token", pieces(1, 2)
        raise error

    with pytest.raises(GlossatorError) as caught:
        store.put_tables(stream())
    if isinstance(error, GlossatorError):
        assert caught.value is error
    else:
        assert isinstance(caught.value, StoreError) and caught.value.__cause__ is error
        assert "by nothing" in str(caught.value)
    assert store.sql("SELECT count(*) FROM token") == [(0,)]
    store.put_tables([("token", pieces(3))])  # and the writer lives on
    assert store.sql("SELECT token_id FROM token") == [(3,)]


def test_a_stream_is_read_once_though_its_neighbours_fail(store: Store) -> None:
    """It is written in a transaction of its own: what is tried again one by one cannot be a generator."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        for i in range(4):
            bad = asyncio.create_task(store.put(explanation(100), BAD_ROWS["a word for a number"]))
            good = asyncio.create_task(store.put(explanation(i)))
            await asyncio.sleep(0)  # they wait in the group that the stream joins
            await loop.run_in_executor(None, store.put_tables, iter([("token", pieces(i))]))
            await good
            with pytest.raises(StoreError):
                await bad

    done(work())
    assert [i for (i,) in store.sql("SELECT token_id FROM token ORDER BY 1")] == [0, 1, 2, 3]
    assert explained(store) == ["x0", "x1", "x2", "x3"]


def test_a_statement_waits_for_what_was_put_before_it(store: Store) -> None:
    async def work() -> None:
        put = asyncio.create_task(store.put(explanation(1)))
        await asyncio.sleep(0)
        store.execute("UPDATE explanation SET text = 'changed'")
        await put

    done(work())
    assert store.sql("SELECT text FROM explanation") == [("changed",)]


def test_a_statement_that_fails_leaves_nothing_and_the_store_goes_on(store: Store) -> None:
    with pytest.raises(StoreError):
        store.execute("INSERT INTO manifest VALUES ('a', 'b'); INSERT INTO manifest VALUES (1, 2, 3)")
    assert store.sql("SELECT * FROM manifest") == []
    store.execute("INSERT INTO manifest VALUES (?, ?)", ["k", "v"])
    assert store.sql("SELECT * FROM manifest") == [("k", "v")]


def test_closing_writes_what_waits_and_leaves_one_file(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    store = Store(path)

    async def work() -> None:
        puts = [asyncio.create_task(store.put(explanation(i))) for i in range(30)]
        await asyncio.sleep(0)
        store.close()
        await asyncio.gather(*puts)

    done(work())
    store.close()
    assert [p.name for p in tmp_path.iterdir()] == ["run.duckdb"]
    with Store(path, create=False) as again:
        assert len(explained(again)) == 30


def test_a_put_after_closing_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.duckdb")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.put_now(explanation(1))


# ------------------------------------------------------------------ reading


def test_pending_leaves_out_the_dead_and_what_is_done_and_takes_the_failed_again(store: Store) -> None:
    store.put_tables({"feature": feature_table(["waiting", "dead", "rare", "waiting", "dense"])})
    assert store.pending("explain", "d") == [0, 2, 3, 4]
    store.put_now(status(0, "explain", "done"), status(2, "explain", "failed"), status(3, "explain", "abstained"))
    assert store.pending("explain", "d") == [2, 4]
    assert store.pending("score", "d") == [0, 2, 3, 4]
    store.put_now(status(2, "explain", "done"))
    store.put_now(status(0, "explain", "failed"))
    assert store.pending("explain", "d") == [0, 4]
    assert store.pending("explain", "another") == []


def test_coverage_counts_the_last_word_on_each_feature(store: Store) -> None:
    store.put_tables({"feature": feature_table(["waiting", "dead", "rare", "waiting", "dense"])})
    store.put_now(status(0, "explain", "failed"), status(3, "explain", "abstained"))
    store.put_now(status(0, "explain", "done"))
    assert store.sql("SELECT stage, done, failed, abstained, waiting FROM coverage") == [
        ("explain", 1, 0, 1, 2),
        ("probe", 0, 0, 0, 4),
        ("score", 0, 0, 0, 4),
    ]


def test_coverage_adds_up_several_dictionaries(store: Store) -> None:
    store.put_tables(
        [("feature", feature_table(["waiting", "dead", "rare"])), ("feature", feature_table(["waiting"] * 4, "e"))]
    )
    of_e = (dataclasses.replace(status(i, "explain", "done"), dictionary="e") for i in range(3))
    store.put_now(status(0, "explain", "abstained"), *of_e)
    assert store.sql("SELECT stage, done, failed, abstained, waiting FROM coverage") == [
        ("explain", 3, 0, 1, 2),
        ("probe", 0, 0, 0, 6),
        ("score", 0, 0, 0, 6),
    ]


def of_dictionary(name: str, i: int, value: float | None, explainer: str = "lexical") -> ScoreRow:
    return dataclasses.replace(
        score(i, value), dictionary=name, explanation_id=f"{name}{explainer}{i}", explainer=explainer, note=None
    )


def test_the_scoreboard_counts_the_features_of_dictionaries_that_an_explainer_has_scores_on(store: Store) -> None:
    """`lexical` was scored on d and e, `other` on e alone, and nobody has touched f."""
    for name, statuses in (
        ("d", ["waiting"] * 3 + ["dead"]),
        ("e", ["waiting"] * 4 + ["rare"]),
        ("f", ["waiting"] * 9),
    ):
        store.put_tables({"feature": feature_table(statuses, name)})
    store.put_now(*(of_dictionary("d", i, 0.5) for i in range(3)), *(of_dictionary("e", i, 0.2) for i in range(2)))
    store.put_now(of_dictionary("e", 0, 0.9, "other"), of_dictionary("e", 1, None, "other"))
    store.put_now(status(3, "score", "failed"), *(status(i, "score", "done") for i in range(3)))
    store.put_now(dataclasses.replace(status(1, "score", "failed"), dictionary="f"))
    found = {row["explainer"]: row for row in store.arrow("FROM scoreboard").to_pylist()}
    assert found["lexical"]["n"] == 5
    assert found["lexical"]["mean"] == pytest.approx(1.9 / 5)
    assert found["lexical"]["mean_with_failures"] == pytest.approx(1.9 / 6)  # the failure in d
    assert found["lexical"]["coverage"] == pytest.approx(5 / 7)
    assert found["other"]["mean_with_failures"] == pytest.approx(0.9 / 2)  # its own score that failed
    assert found["other"]["coverage"] == pytest.approx(1 / 4)


def test_the_scoreboard_keeps_scores_of_a_dependent_encoder_apart(store: Store) -> None:
    store.put_tables({"feature": feature_table(["waiting"] * 2)})
    embedded = [dataclasses.replace(score(i, 0.25 + i / 2), predictor="embedding", note=None) for i in range(2)]
    store.put_now(embedded[0], dataclasses.replace(embedded[1], note="dependent: the encoder is the subject"))
    null = NullScoreRow(
        embedded[1].explanation_id,
        "d",
        1,
        embedded[1].metric,
        "permuted",
        0.5,
        0.2,
        0.2,
        None,
        None,
        None,
        9,
        "r",
        "embedding",
    )
    store.put_now(null)
    found = store.sql("SELECT predictor, n, mean, null_mean FROM scoreboard ORDER BY ALL")
    assert found == [("embedding", 1, 0.25, None), ("embedding (dependent)", 1, 0.75, 0.5)]


def measured(i: int, carrier: int, activation: float, fires: bool) -> MeasurementRow:
    return dataclasses.replace(measurement(i, fires), carrier=carrier, max_activation=activation)


def test_where_most_carriers_are_weak_there_is_no_verdict(store: Store) -> None:
    """Active under the threshold is neither firing nor silent."""
    store.put_tables({"feature": feature_table(["waiting"] * 3)})
    store.put_now(
        *(experiment(i) for i in range(3)), *(PredictionRow(f"e{i}", "x", "rule", 0.9, [], 0.0) for i in range(3))
    )
    for i, maxima in enumerate([(0.5, 0.5, 0.0), (0.5, 0.0, 0.0), (0.5, 2.0, 2.0)]):
        store.put_now(*(measured(i, c, value, value >= 1) for c, value in enumerate(maxima)))
    assert store.sql("SELECT experiment_id, fires, weak FROM outcome ORDER BY ALL") == [
        ("e0", False, True), ("e1", False, False), ("e2", True, False),
    ]  # fmt: skip
    assert store.sql("SELECT experiment_id FROM counterexamples") == [("e1",)]


def test_counterexamples_are_outcomes_that_most_carriers_share_and_the_prediction_does_not(store: Store) -> None:
    store.put_tables({"feature": feature_table(["waiting"] * 10)})
    predicted = [PredictionRow(f"e{i}", f"x{i}", "rule", p, [], 0.0) for i, p in enumerate([0.9, 0.9, 0.1, 0.1, 0.5])]
    store.put_now(*(experiment(i) for i in range(5)), *predicted)
    fired = [(True, False, False), (True, True, False), (True, True, False), (False, False, True), (True, False, False)]
    for i, carriers in enumerate(fired):
        store.put_now(*(measured(i, c, float(fires), fires) for c, fires in enumerate(carriers)))
    found = store.sql("SELECT experiment_id, fires, round(fired_share, 2) FROM counterexamples ORDER BY experiment_id")
    assert found == [("e0", False, 0.33), ("e2", True, 0.67), ("e4", False, 0.33)]


def test_a_reader_that_still_holds_a_transaction_costs_the_end_of_a_run_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    store = Store(path)
    with store.cursor() as held:
        store.put_now(explanation(1))
        held.execute("BEGIN")
        held.execute("UPDATE explanation SET text = 'of somebody else'")
        store.close()
    with Store(path) as again:
        assert explained(again) == ["x1"]
