"""What is reckoned beforehand, so that `scoreboard` and `coverage` are soon answered, and why it is never believed when it is old.

At the end of a stage, and when a file is closed, the rows of `scoreboard` are kept in `scoreboard_row`, and how many features
stand where in `stage_count`. The table `reckoned` says from what: how many rows the tables had, and for `coverage` a mark, the
last row of `stage` that was counted. The views ask each time whether that is still so, which takes a few milliseconds:

- `scoreboard` shows the kept rows while it is, and else reckons from the scores as if there were none.
- `coverage` takes what was counted up to the mark, and what came after it, where it takes back what those features stood for
  before. If what was counted is no longer there, or other features live, the mark counts as the beginning.

Rows that are added are seen by their number. Rows that take the place of others are not: whoever changes or deletes rows
removes `scoreboard`'s line in the same transaction (`forget`). `stage` is only ever added to; should somebody delete from it, the number
of rows up to the mark, or the hash of the row at it, gives that away. Not seen: values that were changed in place by
another program than Glossator.
"""

from __future__ import annotations

import re

import duckdb

SCORES_NOW = """[(SELECT count(*) FROM score), (SELECT count(*) FROM null_score), (SELECT count(*) FROM repeat_score),
            (SELECT count(*) FROM stage WHERE stage = 'score'), (SELECT count(*) FROM feature), (SELECT count(*) FROM dictionary)]::UBIGINT[]"""
STAGES_NOW = """[(SELECT count(*) FROM stage, reckoned r WHERE r.what = 'coverage' AND stage.rowid <= r.mark),
            (SELECT coalesce(bit_xor(hash(dictionary, feature, stage, status, run_id)), 0) FROM stage, reckoned r WHERE r.what = 'coverage' AND stage.rowid = r.mark),
            (SELECT count(*) FROM feature WHERE status <> 'dead'),
            (SELECT coalesce(bit_xor(hash(dictionary, feature)), 0) FROM feature WHERE status <> 'dead')]::UBIGINT[]"""
_READ = re.compile(r"\b(score|null_score|repeat_score|stage|feature|dictionary)\b")  # what the scoreboard is made from


def forget(connection: duckdb.DuckDBPyConnection) -> None:
    """Within a transaction that changes or deletes rows: the scoreboard is to be reckoned anew."""
    connection.execute("DELETE FROM reckoned WHERE what = 'scoreboard'")


def changes(connection: duckdb.DuckDBPyConnection, script: str) -> bool:
    """Whether a script may change or delete what the scoreboard is made from. Added rows tell of themselves."""
    statements = connection.extract_statements(script)
    return any(
        one.type != duckdb.StatementType.INSERT and _READ.search(one.query.lower()) is not None for one in statements
    )


def count_stages(connection: duckdb.DuckDBPyConnection) -> None:
    """Move the mark to the last row of `stage`. Within a transaction that has added none itself."""
    last, mark = connection.execute(
        "SELECT max(rowid), (SELECT max(mark) FROM reckoned WHERE what = 'coverage') FROM stage"
    ).fetchall()[0]
    if last is None or last == mark:
        return
    standing = connection.execute("FROM standing").fetchall()
    connection.execute("DELETE FROM stage_count; DELETE FROM reckoned WHERE what = 'coverage'")
    connection.executemany("INSERT INTO stage_count VALUES (?, ?, ?)", standing)
    connection.execute("INSERT INTO reckoned VALUES ('coverage', NULL, ?)", [last])
    connection.execute(f"UPDATE reckoned SET counts = {STAGES_NOW} WHERE what = 'coverage'")


def keep_scoreboard(connection: duckdb.DuckDBPyConnection) -> None:
    """Reckon the scoreboard, unless what is kept is of now. Within a transaction."""
    fresh = f"SELECT 1 FROM reckoned WHERE what = 'scoreboard' AND counts = {SCORES_NOW}"
    if connection.execute(fresh).fetchall():
        return
    forget(connection)
    connection.execute("DELETE FROM scoreboard_row")
    connection.execute("INSERT INTO scoreboard_row FROM scoreboard")
    connection.execute(f"INSERT INTO reckoned VALUES ('scoreboard', {SCORES_NOW}, NULL)")
