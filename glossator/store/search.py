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
_SHOWN = "dictionary, feature, label, round(simulation, 2) AS simulation, round(adversarial, 2) AS adversarial, density, status"
_HOLDS = f"""
SELECT {_SHOWN} FROM label l WHERE {{parts}} AND l.explanation_id NOT IN (SELECT unnest(?::VARCHAR[]))
ORDER BY simulation DESC NULLS LAST, dictionary, feature LIMIT {{limit}}
"""
_TERMS = """
SELECT d.termid, d.df FROM (SELECT DISTINCT stem(unnest(fts_main_label.tokenize(?)), 'porter') AS term) LEFT JOIN fts_main_label.dict d USING (term)
ORDER BY d.df, d.termid
"""
_OFTEN = (
    "t{number} AS (SELECT docid, count(*) AS n FROM fts_main_label.terms WHERE termid = {term} {among} GROUP BY docid)"
)
_SCORE = (  # (K1 + 1) is 2.2; K1 1.2, b 0.75
    "log((num_docs - {df} + 0.5) / ({df} + 0.5) + 1) * (t{number}.n * (1.2 + 1) / (t{number}.n + 1.2 * (1 - 0.75 + 0.75 * (len / avgdl))))"
)
_RANKED = f"""
WITH {{often}},
     ranked AS (SELECT name AS explanation_id, {{score}} AS rank FROM {{all}} JOIN fts_main_label.docs USING (docid) CROSS JOIN fts_main_label.stats),
     best AS (SELECT l.rowid AS row, rank, round(l.simulation, 2) AS simulation, dictionary, feature FROM label l JOIN ranked USING (explanation_id)
              ORDER BY ALL_THAT LIMIT {{limit}})
SELECT {_SHOWN}, explanation_id FROM label l JOIN (SELECT row, rank FROM best) ON l.rowid = row
ORDER BY ALL_THAT
""".replace("ALL_THAT", "rank DESC, simulation DESC NULLS LAST, dictionary, feature")


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
    found = _ranked(reader, words, limit) if reader.without is None else None
    parts = " AND ".join(["contains(lower(l.label), lower(?))"] * len(wanted))
    if found is None:
        return reader.arrow(_HOLDS.format(parts=parts, limit=int(limit)), [*wanted, []])
    ids = found["explanation_id"].to_pylist()
    found = found.drop_columns("explanation_id")
    if len(ids) >= limit:  # what the index finds comes first: nothing else would be shown
        return found
    return pa.concat_tables(
        [found, reader.arrow(_HOLDS.format(parts=parts, limit=int(limit) - len(ids)), [*wanted, ids])]
    )


def _ranked(reader: Reader, words: str, limit: int) -> pa.Table | None:
    """What the index finds, best first; None without an index, or where it lacks a word.

    The score is BM25 as the extension's own macro `match_bm25` has it, for labels that have all words. That macro reckons
    with every label that has any of them.
    """
    if not reader.sql("SELECT 1 FROM duckdb_schemas() WHERE schema_name = ?", [_INDEX]):
        return None
    terms = reader.sql(_TERMS, [words])
    if any(term is None for term, _ in terms):
        return None
    among = [""] + [f"AND docid IN (SELECT docid FROM t{number})" for number in range(len(terms))]
    query = _RANKED.format(
        often=", ".join(
            _OFTEN.format(number=number, term=term, among=among[number]) for number, (term, _) in enumerate(terms)
        ),
        all=" JOIN ".join(f"t{number}" + " USING (docid)" * (number > 0) for number in range(len(terms))),
        score=" + ".join(_SCORE.format(number=number, df=df) for number, (_, df) in enumerate(terms)),
        limit=int(limit),
    )
    return reader.arrow(query)


def _indexed(connection: duckdb.DuckDBPyConnection) -> bool:
    found = connection.execute("SELECT 1 FROM duckdb_schemas() WHERE schema_name = ?", [_INDEX])
    return bool(found.fetchall())
