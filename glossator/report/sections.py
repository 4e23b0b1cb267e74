"""What the report sums over features: tiles, statuses, best and worst labels, counterexamples, cost, the cascade, failures.

Each is a query and what the template needs of it. A section without rows is empty, and the template leaves it out or says
so: a number that nobody measured is None here, never 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from glossator.report.cards import LAST
from glossator.report.plots import Bar, bars
from glossator.report.values import count, dollars

if TYPE_CHECKING:
    from glossator.agents.run import Run

STATUSES = ("labelled", "abstained", "dense", "rare", "dead", "failed", "waiting")
_LISTED = 10

# By the label's own predictor; simulation where it has that, else detection. `place` counts from either end.
_RANKED = """
WITH own AS (
    SELECT l.feature, l.label, l.explainer, l.predictor, l.density, l.trusted, s.metric, s.value, s.low, s.high, s.n
    FROM label l JOIN score s ON s.dictionary = l.dictionary AND s.explanation_id = l.explanation_id AND s.predictor = l.predictor
    WHERE l.dictionary = $1 AND l.status = 'labelled' AND s.split = 'test' AND s.value IS NOT NULL AND s.metric IN ('simulation', 'detection')
    QUALIFY row_number() OVER (PARTITION BY l.feature ORDER BY s.metric DESC, s.rowid DESC) = 1
)
SELECT *, row_number() OVER up AS place, count(*) OVER (PARTITION BY predictor, metric) AS ranked FROM own
WINDOW up AS (PARTITION BY predictor, metric ORDER BY value DESC, feature)
QUALIFY place <= $2 OR place > ranked - $2 ORDER BY predictor, metric DESC, place
"""
_KINDS = f"""
WITH {LAST} SELECT e.kind, count(DISTINCT experiment_id) AS n, count(DISTINCT experiment_id) FILTER ((p.p_fires >= 0.5) <> o.fires AND NOT o.weak) AS against
FROM prediction p JOIN experiment e USING (experiment_id)
JOIN last ON last.explanation_id = p.explanation_id AND last.predictor = p.predictor AND last.pool = e.pool
JOIN outcome o USING (experiment_id) GROUP BY e.kind ORDER BY against / n DESC, e.kind
"""
# Of each feature the one that contradicts its label most, so that no feature fills the list.
_COUNTEREXAMPLES = f"""
WITH {LAST} SELECT c.feature, c.label, c.kind, c.text, c.p_fires, c.fires, c.fired_share, c.max_activation, c.threshold
FROM counterexamples c JOIN experiment e USING (experiment_id)
JOIN last ON last.explanation_id = c.explanation_id AND last.predictor = c.predictor AND last.pool = e.pool
QUALIFY row_number() OVER (PARTITION BY c.feature ORDER BY abs(c.p_fires - c.fires::INT) DESC, c.experiment_id) = 1
ORDER BY abs(c.p_fires - c.fires::INT) DESC, c.max_activation / c.threshold DESC, c.feature LIMIT $2
"""
# `still`: features whose last word in that stage is that it failed.
_FAILURES = """
WITH last_word AS (SELECT dictionary, feature, stage, arg_max(status, rowid) AS status FROM stage GROUP BY ALL)
SELECT x.stage, x.error, count(*) AS rows, count(DISTINCT x.feature) AS features,
       count(DISTINCT x.feature) FILTER (coalesce(w.status, 'failed') = 'failed') AS still, arg_max(x.message, x.rowid) AS message
FROM failure x LEFT JOIN last_word w ON w.dictionary = x.dictionary AND w.feature = x.feature AND w.stage = x.stage
WHERE x.dictionary = $1 OR x.dictionary IS NULL GROUP BY x.stage, x.error ORDER BY rows DESC, x.stage, x.error
"""


def statuses(features: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    order = [*STATUSES, *sorted({str(f["status"]) for f in features} - set(STATUSES))]
    rows = []
    for status in order:
        if mine := [f for f in features if f["status"] == status]:
            labels = sum(f["label"] is not None for f in mine)
            scored = sum(f["simulation"] is not None or f["detection"] is not None for f in mine)
            decided = sum(f["trusted"] is not None for f in mine)
            trusted = sum(f["trusted"] is True for f in mine) if decided else None
            rows.append({"status": status, "n": len(mine), "labels": labels, "scored": scored, "decided": decided, "trusted": trusted})  # fmt: skip
    return rows


def ranked(run: Run) -> list[dict[str, Any]]:
    """For each predictor and metric {predictor, metric, n, best, worst}; no feature stands in both lists."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in run.store.arrow(_RANKED, [run.dictionary, _LISTED]).to_pylist():
        row["name"] = run.name(row["feature"])
        groups.setdefault((row["predictor"], row["metric"]), []).append(row)
    found = []
    for (predictor, metric), rows in groups.items():
        half = min(_LISTED, (rows[0]["ranked"] + 1) // 2)
        best = [row for row in rows if row["place"] <= half]
        worst = [row for row in reversed(rows) if row["place"] > max(half, row["ranked"] - _LISTED)]
        found.append({"predictor": predictor, "metric": metric, "n": rows[0]["ranked"], "best": best, "worst": worst})
    return found


def edits(run: Run) -> dict[str, Any]:
    """Sealed predictions about labels on test: how many were contradicted by kind of edit, and the ones most contradicted."""
    kinds = run.store.arrow(_KINDS, [run.dictionary]).to_pylist()
    worst = run.store.arrow(_COUNTEREXAMPLES, [run.dictionary, _LISTED]).to_pylist() if kinds else []
    for row in worst:
        row["name"] = run.name(row["feature"])
    rows = [Bar(k["kind"], k["against"] / k["n"], f"{k['against'] / k['n']:.1%}  ({k['against']:,} of {k['n']:,})") for k in kinds]  # fmt: skip
    n, against = (sum(k[name] for k in kinds) for name in ("n", "against"))
    picture = bars(rows, "Share of experiments that contradict the label, by kind of edit") if kinds else None
    return {"n": n, "against": against, "picture": picture, "worst": worst}


def spending(run: Run) -> dict[str, Any]:
    """The view `spend`, and bars by purpose: dollars where every price is known, else tokens. Of the whole run file."""
    rows = run.store.arrow("FROM spend").to_pylist()
    known = all(row["dollars"] is not None for row in rows)
    by: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["purpose"], []).append(row)
    drawn = []
    for purpose, mine in by.items():
        tokens = _total(row["tokens"] for row in mine)
        usd = _total(row["dollars"] for row in mine)
        said = f"{dollars(usd)}, {count(tokens)} tokens" if known else f"{count(tokens)} tokens"
        drawn.append(Bar(purpose, usd if known else tokens, said))
    drawn.sort(key=lambda bar: (-(bar.value or 0), bar.name))
    about = "Dollars by purpose" if known else "Tokens by purpose"
    return {
        "rows": rows, "known": known, "picture": bars(drawn, about) if drawn else None,
        "dollars": _total(row["dollars"] for row in rows), "tokens": _total(row["tokens"] for row in rows),
    }  # fmt: skip


def _total(values: Any) -> Any:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def failures(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.store.arrow(_FAILURES, [run.dictionary]).to_pylist()
    return rows


def still_failed(run: Run) -> int:
    """Features whose last word in some stage is that it failed."""
    ((n,),) = run.store.sql(
        "SELECT count(DISTINCT feature) FROM (SELECT feature, arg_max(status, rowid) AS status FROM stage WHERE dictionary = ? "
        "GROUP BY feature, stage) WHERE status = 'failed'",
        [run.dictionary],
    )
    return int(n)


def controls(run: Run) -> list[dict[str, Any]]:
    """Beside this dictionary's labels those of its controls: features, labels, median of simulation, share trusted."""
    rows: list[dict[str, Any]] = run.store.arrow(
        "SELECT d.dictionary, d.control, l.predictor, count(*) FILTER (f.status <> 'dead') AS alive, count(l.label) AS labels, "
        "count(l.simulation) AS n, median(l.simulation) AS simulation, count(l.detection) AS n_detection, median(l.detection) AS detection, "
        "count(l.trusted) AS decided, count(*) FILTER (l.trusted) / nullif(count(l.trusted), 0) AS trusted "
        "FROM dictionary d JOIN label l USING (dictionary) JOIN feature f USING (dictionary, feature) WHERE (d.dictionary = $1 OR d.control_of = $1) "
        "AND l.predictor IS NOT NULL GROUP BY ALL ORDER BY l.predictor, d.control NULLS FIRST",
        [run.dictionary],
    ).to_pylist()
    return rows if any(row["control"] for row in rows) else []
