"""The figures that `glossator demo` prints at its end, read from the run file; nothing here is computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glossator.scorers.estimators import wilson
from glossator.store.query import query

_MIDDLE = "f.density BETWEEN 0.001 AND 0.03 AND f.active_windows[3] >= 50 AND f.status NOT IN ('dead', 'rare', 'dense')"
_NO_ACCOUNT = 0.3

_COMPARED = f"""
WITH f AS (FROM feature f WHERE {_MIDDLE}),
own AS (SELECT s.* FROM score s JOIN f USING (dictionary, feature) WHERE s.split = 'test')
SELECT name, count(value) AS n, median(value) AS median, avg(value) AS mean FROM (
    SELECT CASE metric WHEN 'simulation' THEN '1 rule, at most 12 items' WHEN 'simulation_near' THEN '6 rule, silent windows it speaks on as the other half'
           WHEN 'simulation_literature' THEN '7 rule, top and random windows (saturates)' WHEN 'simulation_within' THEN '8 rule, within firing windows' END AS name, value
    FROM own WHERE explainer = 'lexical' AND metric LIKE 'simulation%'
    UNION ALL SELECT CASE explainer WHEN 'lookup-1' THEN '2 lookup of 1 token' WHEN 'lookup-5' THEN '3 lookup of 5 tokens' ELSE '4 lookup of all tokens' END, value
    FROM own WHERE explainer LIKE 'lookup%' AND metric = 'simulation'
    UNION ALL SELECT '5 rules of other features (null)', n.null_mean FROM null_score n JOIN f USING (dictionary, feature) WHERE n.comparison = 'permuted')
GROUP BY name ORDER BY name
"""


def compared(path: Path) -> list[dict[str, Any]]:
    """Medians of `simulation` on `test` for features of density 0.1-3% with 50 active test windows: rule, lookups, null."""
    rows: list[dict[str, Any]] = query(path, _COMPARED).to_pylist()
    return rows


def demo_figures(path: Path) -> RenderableType:
    parts: list[RenderableType] = [Text(f"\n{path}", style="bold")]
    counts = query(path, "SELECT status, count(*) AS n FROM labels GROUP BY status ORDER BY n DESC").to_pylist()
    parts.append(Text("features: " + ", ".join(f"{row['n']:,} {row['status']}" for row in counts)))
    table = Table(
        title="simulation on test: features of density 0.1-3%, at least 50 active test windows",
        title_justify="left",
        show_edge=False,
    )
    for name in ("prediction", "features", "median", "mean"):
        table.add_column(name, justify="left" if name == "prediction" else "right")
    for row in compared(path):
        numbers = ("-" if row[k] is None else f"{row[k]:.3f}" for k in ("median", "mean"))
        table.add_row(row["name"][2:], f"{row['n']:,}", *numbers)
    parts.append(table)
    facts = query(
        path,
        "SELECT median(adversarial) AS adversarial, count(adversarial) AS probed, count(*) FILTER (trusted) AS trusted, count(trusted) AS tested FROM labels",
    ).to_pylist()[0]
    if facts["probed"]:
        share = wilson(facts["trusted"], facts["tested"])
        parts.append(
            Text(
                f"adversarial (Brier skill over the base rate of each edit), median of {facts['probed']:,} features: {facts['adversarial']:.2f}; "
                f"trusted: {facts['trusted']:,} of {facts['tested']:,} ({share.low:.0%} to {share.high:.0%})"
            )
        )
    parts += _unaccounted(path)
    parts.append(
        Text(
            f'\nNext: glossator show {path} 17    glossator sql {path} "FROM labels WHERE trusted LIMIT 20"    glossator report {path}'
        )
    )
    return Group(*parts)


def _unaccounted(path: Path) -> list[RenderableType]:
    """Features that no rule of the kinds tried accounts for: the work that is left to agents that read."""
    where = f"(l.status = 'abstained' OR (l.simulation < {_NO_ACCOUNT} AND l.status IN ('labelled', 'dense')))"
    n = query(path, f"SELECT count(*) AS n FROM labels l WHERE {where}").to_pylist()[0]["n"]
    some = query(
        path,
        f"SELECT l.feature, l.simulation, l.density, l.reason, f.top_tokens[1:6] AS tokens FROM labels l JOIN feature f USING (dictionary, feature) "
        f"WHERE {where} ORDER BY hash(l.feature) LIMIT 10",
    ).to_pylist()
    if not some:
        return []
    table = Table(
        title=f"\nno lexical account (abstained, or simulation under {_NO_ACCOUNT}): {n:,} features; ten of them",
        title_justify="left",
        show_edge=False,
    )
    for name in ("feature", "simulation", "density", "most of its activation is on", "reason"):
        table.add_column(name, overflow="fold")
    for row in some:
        value = "-" if row["simulation"] is None else f"{row['simulation']:.2f}"
        table.add_row(
            str(row["feature"]),
            value,
            f"{row['density']:.2%}",
            Text(" ".join(row["tokens"] or [])),
            Text(row["reason"] or ""),
        )
    return [table]
