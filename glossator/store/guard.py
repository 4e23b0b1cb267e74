"""Which queries the writer's own DuckDB answers for others: one SELECT that will not keep it busy.

DuckDB cannot be told to stop a query of a Quack client, so what might run for hours must not begin: cross joins and
recursions over many rows go to a snapshot, where they trouble nobody. So do functions that make much of little (`range`,
`repeat`): DuckDB does not foresee what comes out of them, and those of constants run while a query is only planned, in the
memory of the run. The judgement rests on DuckDB's own estimates, which are rough: a query that it takes for small may still
take a core for a while.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import duckdb

_MOST_ROWS = 10**9  # that a step of a plan may go through, by DuckDB's estimate
_PAIRS = re.compile("CROSS_PRODUCT|NL_JOIN|NESTED_LOOP|MERGE_JOIN|IE_JOIN|POSITIONAL")  # look at all pairs of rows
_ENDLESS = re.compile("REC_CTE|RECURSIVE")
# functions that act, or that run text which is not seen here
_ACTING = re.compile(
    r"quack_|(force_)?checkpoint$|query$|enable_|disable_|write_log$|truncate_|set_|sql_auto_complete$|json_execute_|(sleep_ms|pg_sleep|setseed|nextval)$"
)
_SWELLING = re.compile(
    r"(range|generate_series|repeat|repeat_row|lpad|rpad|(list|array)_resize|printf|format|bitstring)$"
)


class Guard:
    """`allows` is what Quack asks about every query, in a thread of its own."""

    def __init__(self, cursor: Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]) -> None:
        self._cursor = cursor

    def allows(self, session: str, query: str) -> bool:
        """Whether a query may run here. What does not bind may: it fails, and its error is told."""
        try:
            with self._cursor() as cursor:
                return _allowed(cursor, query)
        except (duckdb.Error, RecursionError):  # the second: brackets in brackets, hundreds deep
            return False


def _allowed(cursor: duckdb.DuckDBPyConnection, query: str) -> bool:
    statements = cursor.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        return False
    parsed = json.loads(cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()[0][0])
    if parsed.get("error") or any(_ACTING.match(name) or _SWELLING.match(name) for name in _functions(parsed)):
        return False
    try:
        plan = cursor.execute(f"EXPLAIN (FORMAT json) {query}").fetchall()[0][1]
    except duckdb.Error:
        return True
    return all(_rows(step) <= _MOST_ROWS for step in json.loads(plan))


def _functions(node: Any) -> list[str]:
    """The names of all functions in a parsed query, in small letters."""
    if isinstance(node, list):
        return [name for part in node for name in _functions(part)]
    if not isinstance(node, dict):
        return []
    own = [str(node["function_name"]).lower()] if "function_name" in node else []
    return own + [name for part in node.values() for name in _functions(part)]


def _rows(step: dict[str, Any]) -> float:
    """The most rows, or pairs of rows, that a step or one below it goes through."""
    below = [_rows(child) for child in step["children"]]
    if _ENDLESS.search(step["name"]):
        return float("inf")
    given = step.get("extra_info", {}).get("Estimated Cardinality")
    most = max([float(given or 0), *below], default=0.0)
    if _PAIRS.search(step["name"]) and len(step["children"]) == 2:
        left, right = (_size(child) for child in step["children"])
        return max(most, left * right)
    return most


def _size(step: dict[str, Any]) -> float:
    """Rows that come out of a step."""
    given = step.get("extra_info", {}).get("Estimated Cardinality")
    if given is not None:
        return float(given)
    if "UNGROUPED_AGGREGATE" in step["name"]:
        return 1.0
    sizes = [_size(child) for child in step["children"]]
    if _PAIRS.search(step["name"]) and len(sizes) == 2:
        return sizes[0] * sizes[1]
    return max(sizes, default=1.0)
