"""How features went through the graphs `label` and `cascade`: at each node how many, and what came of them there.

Drawn from the view `flow`: a bar a node, as long as the share of the graph's features that came to it, in parts by outcome.
A node of a loop is visited more than once; a feature counts once for each outcome that it had there, so parts can overlap
and a bar is cut at its end. The table beneath has the exact counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from glossator.agents.run import Run

_LEFT, _WIDE, _ROW, _PARTS = 150, 480, 44, 6


def cascade(run: Run) -> list[dict[str, Any]]:
    """[{graph, n, rows, picture}]: rows as in the view `flow`; empty where no feature went through a graph."""
    rows = run.store.arrow(
        "SELECT graph, node, outcome, features, visits, share, value FROM flow WHERE dictionary = ?", [run.dictionary]
    ).to_pylist()
    sizes = dict(
        run.store.sql(
            "SELECT graph, count(DISTINCT feature) FROM step WHERE dictionary = ? GROUP BY graph", [run.dictionary]
        )
    )
    found = []
    for graph in dict.fromkeys(row["graph"] for row in rows):
        mine = [row for row in rows if row["graph"] == graph]
        found.append({"graph": graph, "n": sizes[graph], "rows": mine, "picture": _picture(graph, sizes[graph], mine)})
    return found


def _picture(graph: str, n: int, rows: list[dict[str, Any]]) -> Markup:
    nodes: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        nodes.setdefault(row["node"], []).append(row)
    lines = []
    for k, (node, parts) in enumerate(nodes.items()):
        y, x = _ROW * k + 4, float(_LEFT)
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(node[:22])}</text>')
        key = []
        for part, row in enumerate(parts):
            wide = min(_WIDE * row["features"] / n, _LEFT + _WIDE - x)
            if wide > 0:
                lines.append(
                    f'<path class="p{part % _PARTS}" d="M{x:.1f} {y}h{max(wide - 1, 1):.1f}v18h-{max(wide - 1, 1):.1f}Z"/>'
                )
            key.append(f'<tspan class="p{part % _PARTS}">■</tspan> {escape(row["outcome"])} {row["features"]:,}\u2003')
            x += max(wide, 0.0)
        lines.append(f'<text class="said" x="{_LEFT}" y="{y + 32}">{"".join(key)}</text>')
    about = escape(f"Flow of {n:,} features through {graph}")
    return Markup(
        f'<svg viewBox="0 0 640 {_ROW * len(nodes) + 4}" role="img" aria-label="{about}">{"".join(lines)}</svg>'
    )
