"""Labels that hold words: by DuckDB's full-text index where there is one, and always by the words as they stand.

The index (extension `fts`, extra `live`) stems words, so that `bridges` finds `bridge`, and ranks by BM25. It is made when
labels are, and of all labels at once; labels that were written later are not in it. Both ways are therefore taken together:
a label is found if the index finds all words, or if it holds each of them as a part, whatever the case.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from glossator.errors import UsageError
from glossator.store.extensions import SEARCH, load
from glossator.store.reading import Reader
from glossator.store.store import Store

_INDEX = "fts_main_label"
_MAKE = "PRAGMA create_fts_index('label', 'explanation_id', 'label', stopwords = 'none', ignore = '(\\.|[^a-z0-9])+', overwrite = 1)"
_LACKING = (
    "SELECT count(*) FROM label ANTI JOIN fts_main_label.docs d ON d.name = explanation_id WHERE label IS NOT NULL"
)
_FOUND = """
SELECT dictionary, feature, label, round(simulation, 2) AS simulation, round(adversarial, 2) AS adversarial, density, status
FROM (SELECT l.*, {rank} AS rank, {parts} AS holds FROM label l) WHERE holds OR rank IS NOT NULL
ORDER BY rank DESC NULLS LAST, simulation DESC NULLS LAST, dictionary, feature LIMIT {limit}
"""
_RANK = "fts_main_label.match_bm25(l.explanation_id, ?, fields := 'label', conjunctive := 1)"


def index_labels(store: Store) -> str | None:
    """Make the index anew if labels are not in it; None, or why it cannot be made. To be called when labels have been made."""
    with store.cursor() as cursor:
        try:
            if _indexed(cursor) and not cursor.execute(_LACKING).fetchall()[0][0]:
                return None
            try:
                cursor.execute(_MAKE)
            except duckdb.Error:  # not loaded yet
                missing = load(cursor, SEARCH)
                if missing is not None:
                    return missing
                cursor.execute(_MAKE)
        except duckdb.Error as error:
            return f"no full-text index ({str(error).splitlines()[0][:120]})"
    store.changes += 1
    return None


def search(reader: Reader, words: str, limit: int) -> pa.Table:
    """Labels that hold every word, in any order: those that the index finds first, then best simulation first."""
    wanted = words.split()
    if not wanted:
        raise UsageError('search: name at least one word, such as "golden gate bridge"')
    parts = " AND ".join(["contains(lower(l.label), lower(?))"] * len(wanted))
    if reader.without is None and reader.sql("SELECT 1 FROM duckdb_schemas() WHERE schema_name = ?", [_INDEX]):
        return reader.arrow(_FOUND.format(rank=_RANK, parts=parts, limit=int(limit)), [words, *wanted])
    return reader.arrow(_FOUND.format(rank="NULL", parts=parts, limit=int(limit)), wanted)


def _indexed(connection: duckdb.DuckDBPyConnection) -> bool:
    found = connection.execute("SELECT 1 FROM duckdb_schemas() WHERE schema_name = ?", [_INDEX])
    return bool(found.fetchall())
