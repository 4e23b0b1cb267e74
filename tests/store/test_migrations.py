"""A file of an older schema opens, keeps its rows, and says NULL where nobody measured."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import duckdb
import pytest

from glossator.errors import UsageError
from glossator.store import migrations
from glossator.store.labels import materialise_labels
from glossator.store.migrations import M001, MIGRATIONS
from glossator.store.query import query
from glossator.store.records import records
from glossator.store.store import Store

ROWS = """
INSERT INTO schema_version VALUES (1);
INSERT INTO manifest VALUES ('glossator', '0.1.0');
INSERT INTO dictionary VALUES ('d', 'folder', 'topk', 'm', 'layer.1', 3, 8, 2.0, 0.5, '{}', '{}');
INSERT INTO corpus VALUES ('c', ['c'], 'digest', 2, 64, 2, 1, 0, 1);
INSERT INTO feature BY NAME SELECT 'd' AS dictionary, f AS feature, 'waiting' AS status, 0.5 AS density, [1, 0, 1] AS active_windows,
    3.0 AS max_activation, 1.0 AS threshold, []::INTEGER[] AS neighbours FROM range(3) r(f);
INSERT INTO feature_token VALUES ('d', 1, 5, 2, 4.5), ('d', 1, 6, 1, 9.0);
INSERT INTO text_window SELECT i, 0, if(i < 5, 'explain', 'test'), 1, [7, 8] || range(32)::INTEGER[], 'text' FROM range(10) r(i);
INSERT INTO exemplar SELECT 'd', 1, 'test', 'top', 0, 7, 3.0, list_transform(range(32), x -> if(x = 4, 3, 0));
INSERT INTO background SELECT 'd', i, if(i < 5, 'explain', 'test'), [1], [3], [0.5] FROM range(10) r(i);
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.duckdb"
    with duckdb.connect(str(path), config={"storage_compatibility_version": "v1.2.0"}) as connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER)")
        connection.execute(M001)
        connection.execute(ROWS)
        connection.execute(migrations.VIEWS.partition("CREATE OR REPLACE VIEW scoreboard")[0])
        connection.execute("CREATE OR REPLACE TABLE label AS FROM label")  # as materialising does
    return path


def test_the_first_step_is_as_it_was() -> None:
    """Files in the world were made from it."""

    assert hashlib.blake2b(M001.encode(), digest_size=8).hexdigest() == "a24c919c7af052c2"


def test_a_file_of_the_first_schema_opens_and_has_names(old: Path) -> None:
    for _ in range(2):  # and once it has been upgraded
        with Store(old, create=False) as store:
            assert store.sql("SELECT version FROM schema_version ORDER BY 1") == [
                (n + 1,) for n in range(len(MIGRATIONS))
            ]
            assert store.sql(
                "SELECT name, quantiles, top_logits, bottom_logit_values FROM feature ORDER BY feature"
            ) == [(name, None, None, None) for name in "012"]
            assert store.sql("SELECT signed, hook_out FROM dictionary") == [(False, None)]
            assert store.sql("SELECT quantile, max_activation FROM exemplar") == [(None, 3.0)]
            assert store.sql("SELECT count(*) FROM near_miss") == [(0,)]
            assert store.sql("SELECT status, density FROM feature") == [("waiting", 0.5)] * 3


def test_its_records_are_read_without_near_misses_and_quantiles(old: Path) -> None:
    with Store(old, create=False) as store:
        materialise_labels(store)
        (record,) = records(store, "d", [1])
    held = record.exemplars["test"]
    assert held.windows.window_id.tolist() == [7] and held.activations[0].tolist() == [
        3.0 * (i == 4) for i in range(32)
    ]
    assert all(math.isnan(x) for x in held.quantile)
    assert [len(record.near_misses[split].windows) for split in ("explain", "select", "test")] == [0, 0, 0]
    assert record.token_ids.tolist() == [6, 5]
    assert record.background["test"].activations[:, 3].tolist() == [0.5] * 5


def test_it_can_be_queried_without_being_upgraded(old: Path) -> None:
    assert query(old, "SELECT count(*) AS n FROM exemplar").to_pylist() == [{"n": 1}]
    with pytest.raises(UsageError, match="name"):
        query(old, "SELECT name FROM feature")


def test_an_upgrade_that_is_cut_off_is_done_again(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "MIGRATIONS", (M001, MIGRATIONS[1] + "; SELECT error('killed')"))
    with pytest.raises(Exception, match="killed"):
        Store(old)
    monkeypatch.undo()
    with Store(old) as store:
        assert store.sql("SELECT name FROM feature ORDER BY 1") == [("0",), ("1",), ("2",)]


def test_a_new_file_and_an_upgraded_one_have_the_same_columns(old: Path) -> None:
    columns = "SELECT table_name, column_name, data_type FROM information_schema.columns ORDER BY ALL"
    with Store(old) as upgraded, Store(":memory:") as new:
        materialise_labels(upgraded)
        materialise_labels(new)
        assert upgraded.sql(columns) == new.sql(columns)
