"""Which features a condition such as `density BETWEEN 1e-5 AND 0.01` means, and that it is a condition and nothing more.

What a person wrote into a file is put between the brackets of a WHERE, so it is parsed first, by DuckDB itself: the query
around it must come back as it was, and the condition may hold columns, constants, comparisons, AND, OR, NOT, IN, BETWEEN, LIKE,
CASE, casts, and functions of values. It may hold no subquery, no other table, no function that reads files or settings. Columns
are those of `labels` and `feature`; where both have one of a name (density, status), it is that of `labels`.
"""

from __future__ import annotations

import json
from typing import Any

import duckdb

from glossator.errors import UsageError
from glossator.store.store import Store

_AROUND = "SELECT feature FROM candidate WHERE ({})"
_CLASSES = {"COMPARISON", "CONJUNCTION", "CONSTANT", "COLUMN_REF", "BETWEEN", "OPERATOR", "FUNCTION", "CASE", "CAST"}
_FUNCTIONS = {
    "+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "abs", "round", "floor", "ceil", "sqrt", "ln", "log", "log10",
    "log2", "exp", "least", "greatest", "coalesce", "contains", "starts_with", "ends_with", "lower", "upper", "length", "len",
    "regexp_matches", "list_contains", "list_has_any", "list_has", "list_sum", "list_value", "list_extract", "array_extract", "isnan", "isfinite", "not_in",
}  # fmt: skip
_CANDIDATES = (
    "WITH candidate AS (SELECT l.*, f.* EXCLUDE (dictionary, feature, density, max_activation, threshold, status, reason) "
    "FROM labels l JOIN feature f USING (dictionary, feature)) SELECT feature FROM candidate WHERE dictionary = ? AND coalesce((\n{}\n), false) "
    "ORDER BY feature"
)

_MADE_UP = """
INSERT INTO feature BY NAME SELECT 'none' AS dictionary, 0 AS feature, 'alive' AS status, 0.001 AS density, 1 AS active_tokens, 1.0 AS mean,
    1.0 AS max_activation, 1.0 AS min_positive, 1.0 AS threshold, 1.0 AS token_entropy, ['the'] AS top_tokens, 1.0 AS decoder_norm, '0' AS name;
INSERT INTO label BY NAME SELECT 'none' AS dictionary, 0 AS feature, 'the word the' AS label, 'lexical' AS explainer, 'rule' AS predictor,
    'm' AS model, 0.001 AS density, 1.0 AS max_activation, 1.0 AS threshold, 0.5 AS simulation, 0.5 AS simulation_within, 0.5 AS detection,
    0.5 AS adversarial, 0.5 AS p_vs_permuted, 0.5 AS p_vs_neighbour, 0.5 AS lift_over_lexical, true AS trusted, 'labelled' AS status
"""


def check_condition(text: str) -> None:
    """Raise UsageError for what is no condition, or asks for more than features."""
    try:
        with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
            found, plain = (_parsed(connection, condition) for condition in (f"\n{text}\n", "true"))
        mine, its = found.pop("where_clause", None), plain.pop("where_clause", None)
        if mine is None or its is None or found != plain:
            raise UsageError("write one condition, such as density BETWEEN 1e-5 AND 0.01")
        _walk(mine)
    except RecursionError:
        raise UsageError("is nested hundreds deep; write a shorter condition") from None


def matching(store: Store, dictionary: str, condition: str) -> list[int]:
    """The features that a checked condition holds of, by index. Raises UsageError for columns that there are not, and wrong types."""
    try:
        return [feature for (feature,) in store.sql(_CANDIDATES.format(condition), [dictionary])]
    except duckdb.Error as error:
        said = " ".join(str(error).split()).partition(" LINE ")[0]
        raise UsageError(said.removeprefix("Binder Error: ").removeprefix("Conversion Error: ")[:300]) from error


def bound(condition: str) -> None:
    """Raise UsageError for columns that there are not and wrong types, where there is no run file to ask yet.

    A constant that is none of its column's values, as in feature = 'x', comes out only where there is a feature: one is made up.
    """
    with Store(":memory:") as store:
        matching(store, "none", condition)
        store.execute(_MADE_UP)
        try:
            matching(store, "none", condition)
        except UsageError as error:
            if isinstance(error.__cause__, duckdb.ConversionException):
                raise  # other errors may be those of the values that were made up


def _parsed(connection: duckdb.DuckDBPyConnection, condition: str) -> dict[str, Any]:
    """The tree of the query around a condition, without the places of things in the text."""
    ((written,),) = connection.execute("SELECT json_serialize_sql(?)", [_AROUND.format(condition)]).fetchall()
    tree = json.loads(written)
    if tree["error"]:
        said = " ".join(str(tree.get("error_message", "it cannot be parsed")).split())
        raise UsageError(f"is no condition: {said[:200]}")
    if len(tree["statements"]) != 1:
        raise UsageError("write one condition, such as density BETWEEN 1e-5 AND 0.01")
    node: dict[str, Any] = _without_places(tree["statements"][0]["node"])
    return node


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_places(value) for key, value in tree.items() if key != "query_location"}
    return [_without_places(one) for one in tree] if isinstance(tree, list) else tree


def _walk(tree: Any) -> None:
    """Every expression in the tree is of a kind that only looks at a feature."""
    if isinstance(tree, list):
        for one in tree:
            _walk(one)
    if not isinstance(tree, dict):
        return
    kind = tree.get("class")
    if kind is not None and kind not in _CLASSES:
        raise UsageError(f"holds a {kind.lower()}: a condition may only compare what is known of a feature")
    if kind == "FUNCTION" and tree.get("function_name") not in _FUNCTIONS:
        raise UsageError(f"the function {tree.get('function_name')} is none that a condition may call")
    for value in tree.values():
        _walk(value)
