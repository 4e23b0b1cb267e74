"""The figures that `glossator demo` prints at its end, read from the run file; nothing here is computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glossator.scorers.estimators import wilson
from glossator.store.query import query
from glossator.types import visible

_MIDDLE = "f.density BETWEEN 0.001 AND 0.03 AND f.active_windows[3] >= 50 AND f.status NOT IN ('dead', 'rare', 'dense')"
_NO_ACCOUNT = 0.3
_REAL = (
    "(FROM labels WHERE dictionary IN (SELECT dictionary FROM dictionary WHERE control IS NULL))"  # not the controls
)
_DRAWS, _LEAST = 1000, 10  # of a bootstrap over features, and the features without which there is none

_COMPARED = f"""
WITH f AS (FROM feature f WHERE {_MIDDLE} AND dictionary IN (SELECT dictionary FROM dictionary WHERE control IS NULL)),
own AS (SELECT s.* FROM score s JOIN f USING (dictionary, feature) WHERE s.split = 'test')
SELECT name, count(value) AS n, median(value) AS median, avg(value) AS mean FROM (
    SELECT CASE metric WHEN 'simulation' THEN '1 rule, at most 12 items' WHEN 'simulation_near' THEN '6 rule, silent windows it speaks on as the other half'
           WHEN 'simulation_literature' THEN '7 rule, top and random windows (saturates)' WHEN 'simulation_within' THEN '8 rule, within firing windows' END AS name, value
    FROM own WHERE explainer = 'lexical' AND metric LIKE 'simulation%'
    UNION ALL SELECT CASE explainer WHEN 'lookup-1' THEN '2 lookup of 1 token' WHEN 'lookup-5' THEN '3 lookup of 5 tokens' ELSE '4 lookup of all tokens' END, value
    FROM own WHERE explainer LIKE 'lookup%' AND metric = 'simulation'
    UNION ALL SELECT '5 rules of other features (null)', n.null_mean FROM null_score n JOIN f USING (dictionary, feature)
    WHERE n.comparison = 'permuted' AND n.predictor = 'rule' AND n.metric = 'simulation')
GROUP BY name ORDER BY name
"""


def compared(path: Path) -> list[dict[str, Any]]:
    """Medians of `simulation` on `test` for features of density 0.1-3% with 50 active test windows: rule, lookups, null."""
    rows: list[dict[str, Any]] = query(path, _COMPARED).to_pylist()
    return rows


# Features that have been explained, of the same densities whatever the dictionary; an abstention has no value.
_CONTROLLED = f"""
WITH f AS (FROM feature f WHERE {_MIDDLE} AND EXISTS (
        FROM stage s WHERE s.dictionary = f.dictionary AND s.feature = f.feature AND s.stage = 'explain')),
n AS (SELECT dictionary, count(*) AS features FROM f GROUP BY dictionary),
own AS (SELECT s.* FROM score s JOIN f USING (dictionary, feature) WHERE s.split = 'test' AND s.metric = 'simulation' AND s.predictor = 'rule'),
beside AS (SELECT n.* FROM null_score n JOIN f USING (dictionary, feature) WHERE n.metric = 'simulation' AND n.predictor = 'rule'),
each AS (
    SELECT dictionary, feature, '1 rule' AS what, value FROM own WHERE explainer = 'lexical'
    UNION ALL SELECT dictionary, feature, '2 single-token lookup', value FROM own WHERE explainer = 'lookup-1'
    UNION ALL SELECT dictionary, feature, '3 rules of other features', null_mean FROM beside WHERE comparison = 'permuted'
    UNION ALL SELECT dictionary, feature, '4 rule of the nearest feature', null_mean FROM beside WHERE comparison = 'neighbour'),
trusted AS (SELECT dictionary, count(*) FILTER (l.trusted) AS trusted, count(l.trusted) AS decided
            FROM label l JOIN f USING (dictionary, feature) GROUP BY dictionary),
kinds AS (SELECT * FROM (SELECT dictionary, coalesce(control_of, dictionary) AS real, control FROM dictionary), (
    VALUES ('1 rule'), ('2 single-token lookup'), ('3 rules of other features'), ('4 rule of the nearest feature')) AS v(what))
SELECT dictionary, any_value(control) AS control, what, coalesce(any_value(n.features), 0) AS features,
       list(value ORDER BY feature) FILTER (value IS NOT NULL) AS "values", any_value(trusted) AS trusted, coalesce(any_value(decided), 0) AS decided
FROM kinds LEFT JOIN each USING (dictionary, what) LEFT JOIN n USING (dictionary) LEFT JOIN trusted USING (dictionary)
GROUP BY dictionary, what ORDER BY any_value(real), any_value(control) NULLS FIRST, what
"""


def controlled(path: Path) -> list[dict[str, Any]]:
    """Simulation on `test` of each dictionary and its controls: rule, lookup and two nulls, as means and medians with intervals.

    For features of density 0.1-3% with 50 active test windows that were explained: `features` of them, `n` with a value (the
    others were abstained from, or failed). Intervals: percentile bootstrap over features, as if they were independent.
    `trusted`: the share of labels that are trusted, where that is decided (the nearest feature must have a rule, too); None but
    for the rule.
    """
    from scipy.stats import bootstrap

    found = []
    for row in query(path, _CONTROLLED).to_pylist():
        values = np.asarray(row.pop("values") or [])
        row["n"], row["what"] = len(values), row["what"][2:]
        for name, statistic in (("mean", np.mean), ("median", np.median)):
            low = high = None
            if len(values) >= _LEAST:
                drawn = bootstrap(
                    (values,), statistic, n_resamples=_DRAWS, method="percentile", rng=np.random.default_rng(0)
                )
                low, high = map(float, drawn.confidence_interval)
            row[name] = (float(statistic(values)) if len(values) else None, low, high)
        row["trusted"] = wilson(row["trusted"], n) if row["what"] == "rule" and (n := row["decided"]) else None
        found.append(row)
    return found


def controls_table(path: Path) -> RenderableType:
    """`controlled`, side by side."""
    table = Table(
        title="simulation on test: features of density 0.1-3%, at least 50 active test windows; 95% intervals over features",
        title_justify="left",
        show_edge=False,
    )
    for name in ("dictionary", "prediction", "features", "median", "mean", "trusted"):
        left = name in ("dictionary", "prediction")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "dictionary", overflow="fold")
    for row in controlled(path):
        share = row["trusted"]
        table.add_row(
            Text((f"  ~{row['control']}" if row["control"] else row["dictionary"]) if row["what"] == "rule" else ""),
            row["what"],
            f"{row['n']:,} of {row['features']:,}",
            *(_with_interval(*row[name]) for name in ("median", "mean")),
            "" if share is None else f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]",
        )
    return table


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def demo_figures(path: Path) -> RenderableType:
    parts: list[RenderableType] = [Text(f"\n{path}", style="bold")]
    counts = query(path, f"SELECT status, count(*) AS n FROM {_REAL} GROUP BY status ORDER BY n DESC").to_pylist()
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
        f"SELECT median(adversarial) AS adversarial, count(adversarial) AS probed, count(*) FILTER (trusted) AS trusted, count(trusted) AS tested FROM {_REAL}",
    ).to_pylist()[0]
    if facts["probed"]:
        share = wilson(facts["trusted"], facts["tested"])
        parts.append(
            Text(
                f"adversarial (Brier skill over the base rate of each edit), median of {facts['probed']:,} features: {facts['adversarial']:.2f}; "
                f"trusted: {facts['trusted']:,} of {facts['tested']:,} ({share.low:.0%} to {share.high:.0%})"
            )
        )
    if query(path, "SELECT count(*) AS n FROM dictionary WHERE control IS NOT NULL").to_pylist()[0]["n"]:
        parts.append(controls_table(path))
    parts += _unaccounted(path)
    parts.append(
        Text(
            f'\nNext: glossator show {path} 17    glossator sql {path} "FROM labels WHERE trusted LIMIT 20"    glossator report {path}'
        )
    )
    return Group(*parts)


def _unaccounted(path: Path) -> list[RenderableType]:
    """Features that no rule of the kinds tried accounts for: the work that is left to agents that read."""
    where = f"dictionary IN (SELECT dictionary FROM dictionary WHERE control IS NULL) AND (l.status = 'abstained' OR (l.simulation < {_NO_ACCOUNT} AND l.status IN ('labelled', 'dense')))"
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
            Text(visible(" ".join(row["tokens"] or []))),
            Text(visible(row["reason"] or "")),
        )
    return [table]
