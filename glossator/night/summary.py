"""What came of a night, in a few lines, from the run file."""

from __future__ import annotations

from collections.abc import Sequence

from glossator.store.store import Store


def outcome(store: Store, features: Sequence[tuple[str, Sequence[int]]]) -> list[str]:
    """features: of each dictionary, those that the night was about."""
    lines = []
    for dictionary, mine in features:
        rows = store.sql(
            "SELECT status, count(*), count(*) FILTER (trusted), count(trusted) FROM label WHERE dictionary = ? "
            "AND feature IN (SELECT unnest(?::INTEGER[])) GROUP BY status ORDER BY count(*) DESC, status",
            [dictionary, list(mine)],
        )
        counts = ", ".join(f"{n:,} {status}" for status, n, *_ in rows)
        trusted, decided = sum(row[2] for row in rows), sum(row[3] for row in rows)
        said = f"; {trusted:,} trusted of {decided:,} that were compared" if decided else ""
        lines.append(f"{dictionary}: {sum(row[1] for row in rows):,} features: {counts}{said}")
    lines.append(f'look in: glossator sql {store.path} "FROM labels LIMIT 20"')
    return lines
