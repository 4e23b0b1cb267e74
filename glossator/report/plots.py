"""Plots as inline SVG: a histogram with outlines over it, a scatter, and bars. Made of numbers and our own words alone.

A library would bring styles and fonts of its own; this is a frame, its ticks and a few paths, coloured by the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from glossator.types import Floats

# What takes no height of its own in a histogram: where it is taller than the bars, it is cut and its height is written.
_CUT = {"null", "near", "control"}


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    kind: str  # a class of the style


@dataclass(frozen=True)
class Bar:
    """value None: not measured."""

    name: str
    value: float | None
    said: str


@dataclass(frozen=True)
class _Frame:
    """A plot's window: data ranges onto a 640 x 280 picture."""

    x: tuple[float, float]
    y: tuple[float, float]
    left, right, top, bottom = 52.0, 630.0, 22.0, 240.0

    def at(self, x: float, y: float) -> str:
        across = self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)
        down = self.bottom - (y - self.y[0]) / (self.y[1] - self.y[0]) * (self.bottom - self.top)
        return f"{across:.1f} {down:.1f}"

    def picture(
        self, about: str, xs: Sequence[tuple[float, str]], ys: Sequence[tuple[float, str]], inside: str
    ) -> Markup:
        """`about` is what a screen reader says; xs and ys are (place, text) of the ticks."""
        lines = []
        for place, text in ys:
            x, y = self.at(self.x[0], place).split()
            lines.append(
                f'<path class="axis" d="M{x} {y}H{self.right}"/><text x="{self.left - 6}" y="{float(y) + 4}" text-anchor="end">{text}</text>'
            )
        for place, text in xs:
            x, y = self.at(place, self.y[0]).split()
            lines.append(
                f'<path class="axis" d="M{x} {y}v5"/><text x="{x}" y="{float(y) + 18}" text-anchor="middle">{text}</text>'
            )
        return Markup(
            f'<svg viewBox="0 0 640 280" role="img" aria-label="{escape(about)}">{"".join(lines)}{inside}</svg>'
        )


def histogram(series: dict[str, Floats], metric: str, chance: float | None = None) -> Markup:
    """`labels` as bars, the others as outlines; what is taller than the labels need is cut, and its height written."""
    series = {name: x for name, x in series.items() if len(x)}
    values = np.concatenate(list(series.values()))
    edges = np.round(np.arange(max(math.floor(min(values.min(), 0) * 5) / 5, -1.0), 1.0001, 0.05), 2) + 0.0
    counts = {name: np.histogram(x.clip(edges[0], edges[-1]), edges)[0] for name, x in series.items()}
    top = 1.1 * max(height.max() for name, height in counts.items() if name not in _CUT or len(counts) == 1)
    frame = _Frame((float(edges[0]), 1.0), (0.0, float(max(top, 1.0))))
    drawn = [_series(frame, name, edges, np.minimum(height, top)) for name, height in counts.items()]
    drawn += _cut(frame, edges, counts, float(top))
    if chance is not None:
        drawn.append(f'<path class="chance" d="M{frame.at(chance, float(top))}L{frame.at(chance, 0)}"/>')
    ticks = [(float(x), _tick(x)) for x in edges[::4]]
    about = f"Histogram of {metric} on test. " + " ".join(
        f"{name}: median {np.median(x):.2f} of {len(x)}." for name, x in series.items()
    )
    under = f'<text x="340" y="275" text-anchor="middle">{escape(metric)} on test</text>'
    return frame.picture(about, ticks, [(t, f"{t:,.0f}") for t in _nice(float(top))], "".join(drawn) + under)


def _series(frame: _Frame, name: str, edges: Floats, height: Floats) -> str:
    rows = zip(edges, edges[1:], height, strict=False)
    if name == "labels":
        bars = (f"M{frame.at(a, 0)}L{frame.at(a, h)}L{frame.at(b, h)}L{frame.at(b, 0)}Z" for a, b, h in rows)
        return f'<path class="s-labels" d="{"".join(bars)}"/>'
    steps = "L".join(f"{frame.at(a, h)}L{frame.at(b, h)}" for a, b, h in rows)
    return f'<path class="s-{name}" d="M{frame.at(edges[0], 0)}L{steps}L{frame.at(1, 0)}"/>'


def _cut(frame: _Frame, edges: Floats, counts: dict[str, Floats], top: float) -> list[str]:
    """The heights of what was cut, beside its highest bin."""
    said = []
    cut = {name: np.flatnonzero(height > top) for name, height in counts.items()}
    for row, (name, at) in enumerate((name, at) for name, at in cut.items() if len(at)):
        x, heights = frame.at(float(edges[at[-1] + 1]), top).split()[0], ", ".join(f"{counts[name][k]:,}" for k in at)
        late = float(x) > 520
        place = f'x="{float(x) + (-20 if late else 6)}" text-anchor="{"end" if late else "start"}"'
        said.append(f'<text class="t-{name}" {place} y="{frame.top + 14 * row + 4}">↑ {heights}</text>')
    return said


def scatter(dots: Sequence[Dot], metric: str) -> Markup:
    """y against x, whose scale is logarithmic; every x is above 0. Kinds are drawn in the order in which they first come."""
    x = np.log10([dot.x for dot in dots]) if dots else np.asarray([-3.0])
    low, high = math.floor(x.min()), math.ceil(x.max() + 1e-9)
    least = max(min([math.floor(dot.y * 5) / 5 for dot in dots] + [0.0]), -1.0)
    frame = _Frame((low, max(high, low + 1)), (least, 1.0))
    inside = []
    for kind in dict.fromkeys(dot.kind for dot in dots):
        path = (f"M{frame.at(a, max(d.y, least))}h0" for a, d in zip(x, dots, strict=False) if d.kind == kind)
        inside.append(f'<path class="dots d-{kind}" d="{"".join(path)}"/>')
    inside.append(
        f'<text x="340" y="275" text-anchor="middle">density (log scale)</text><text x="6" y="12">{escape(metric)} on test</text>'
    )
    xs = [(float(k), f"{10.0**k:g}") for k in range(low, max(high, low + 1) + 1)]
    ys = [(float(t), _tick(t)) for t in np.arange(least, 1.001, 0.2)]
    return frame.picture(f"{metric} against density, {len(dots):,} features", xs, ys, "".join(inside))


def bars(rows: Sequence[Bar], about: str) -> Markup:
    """Horizontal bars from one edge, each with its name before and its value behind it."""
    most = max([row.value for row in rows if row.value] + [0.0])
    height, lines = 26 * len(rows) + 6, []
    for k, row in enumerate(rows):
        y = 26 * k + 4
        lines.append(f'<text x="196" y="{y + 14}" text-anchor="end">{escape(row.name[:32])}</text>')
        wide = 230 * row.value / most if row.value and most else 0.0
        if row.value is not None:
            lines.append(f'<path class="bar" d="M204 {y}h{max(wide, 1.0):.1f}v18h-{max(wide, 1.0):.1f}Z"/>')
        lines.append(f'<text class="said" x="{212 + wide:.1f}" y="{y + 14}">{escape(row.said)}</text>')
    return Markup(f'<svg viewBox="0 0 640 {height}" role="img" aria-label="{escape(about)}">{"".join(lines)}</svg>')


def _tick(value: float) -> str:
    return f"{value + 0.0:.1f}".replace("-0.0", "0.0").replace("-", "−")


def _nice(top: float) -> Iterable[float]:
    """Three to six round numbers from 0 to top."""
    unit = 10.0 ** math.floor(math.log10(max(top, 1)))
    step = next(s * unit for s in (0.2, 0.5, 1, 2, 5) if top / (s * unit) <= 6)
    return np.arange(0, top, max(step, 1)).tolist()
