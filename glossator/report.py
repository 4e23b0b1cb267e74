"""One self-contained HTML page about a run: what was labelled, how it scores against its nulls, a card for every feature.

The page must open from a disk, without a network, ten years from now: styles, script, plots and data are all in it.
Everything is read with a few queries over the whole dictionary. Texts come from corpora and models: jinja escapes those
of the summary, and the cards' data stand in a JSON block with `<`, `>` and `&` escaped, which the page's script turns into
text nodes only; a content security policy lets no other script run. Windows and tokens are stored once and referred to by number.
What the page does not do: query. It shows six windows a feature; the run file has the others.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import glossator
from glossator.errors import UsageError
from glossator.types import MAX_STRENGTH, PAD, WINDOW, Floats, Vocabulary

if TYPE_CHECKING:
    from glossator.agents.run import Run

_SHOWN = 3  # windows of each stratum
_BARS = 32
_PER_OCTAVE, _LOWEST = 8, -16  # the bins of `feature.histogram`, as harness/statistics.py makes them
_LEVELS = np.frombuffer(b"0123456789a", np.uint8)

_STATUSES = ("labelled", "abstained", "dense", "rare", "dead", "failed", "waiting")
_METRICS = ("simulation", "simulation_within", "simulation_near", "simulation_literature", "detection", "adversarial")


def write_report(run: Run, to: Path) -> int:
    """Write the page about the run's dictionary to `to`; returns the number of features on it.

    Raises UsageError where the folder does not exist or cannot be written, or the run has no row in `label`.
    """
    if not to.parent.is_dir():
        raise UsageError(f"--out {to}: there is no folder {to.parent}; make it, or name another file")
    if to.is_dir():
        raise UsageError(f"--out {to}: is a folder; name a file in it, such as {to / 'report.html'}")
    features = _features(run)
    if not features:
        raise UsageError(
            f"{run.store.path}: has no labels of {run.dictionary} to report; run `glossator label {run.store.path}` first"
        )
    page = _render(run, features)
    temporary = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(to)
    except OSError as error:
        raise UsageError(f"--out {to}: cannot be written ({error.strerror}); name another file") from error
    finally:
        temporary.unlink(missing_ok=True)
    return len(features)


def _render(run: Run, features: list[dict[str, Any]]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"figure": _figure, "percent": _percent, "fingerprint": _fingerprint}
    scoreboard = run.store.arrow("FROM scoreboard").to_pylist()
    n_dictionaries = run.store.sql("SELECT count(*) FROM dictionary")[0][0]
    return environment.get_template("report.html.jinja").render(
        title=f"Glossator report: {run.dictionary}",
        facts=_facts(run),
        statuses=_statuses(features),
        scoreboard=scoreboard,
        metrics=_METRICS,
        coverage=run.store.arrow("FROM coverage").to_pylist(),
        scope="this dictionary" if n_dictionaries == 1 else f"all {n_dictionaries} dictionaries of the run file",
        figures=_figures(run, features),
        data=_json(_cards(run, features)),
    )


# --------------------------------------------------------------------------- writing values


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1%}"


def _fingerprint(script: str) -> str:
    """The script's hash, as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """Compact JSON that cannot end its script block, nor open a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _short(value: float | None) -> float | None:
    """Four digits, and null for what JSON lacks."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


# --------------------------------------------------------------------------- the summary


def _facts(run: Run) -> list[tuple[str, str]]:
    about = run.store.arrow("SELECT * FROM dictionary WHERE dictionary = ?", [run.dictionary]).to_pylist()[0]
    corpora = run.store.arrow("SELECT * FROM corpus").to_pylist()
    stated = json.loads(about["stated"] or "{}")
    done, now = run.store.sql("SELECT max(finished) FROM run")[0][0], datetime.datetime.now(datetime.UTC)

    def beside(name: str, digits: int) -> str:
        measured, said = about[name], stated.get(name)
        found = "not measured" if measured is None else f"{measured:.{digits}f}"
        return found + (f" (stated: {said:.{digits}f})" if isinstance(said, int | float) else " (none stated)")

    made_for = f" (the dictionary states: {stated['model_name']})" if stated.get("model_name") else ""
    return [
        ("Model", f"{about['model']}{made_for}"),
        ("Dictionary", f"{about['dictionary']}: {about['n_features']:,} features, {about['architecture']}"),
        *([("Control", f"{about['control']} of {about['control_of']}")] if about["control"] else []),
        ("Hook", f"{about['hook']}, width {about['d_in']:,}"),
        *(
            ("Corpus", f"{c['corpus']}: {c['documents']:,} documents, {c['tokens']:,} tokens, {c['windows']:,} windows of {WINDOW} tokens "
             f"(explain {c['n_explain']:,}, select {c['n_select']:,}, test {c['n_test']:,})") for c in corpora
        ),
        ("Variance explained", beside("variance_explained", 3)),
        ("L0", beside("l0", 1)),
        ("Made", f"{now:%Y-%m-%d %H:%M} UTC by glossator {glossator.__version__}" + (f"; last stage finished {done:%Y-%m-%d %H:%M}" if done else "")),
    ]  # fmt: skip


def _statuses(features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = [*_STATUSES, *sorted({str(f["status"]) for f in features} - set(_STATUSES))]
    rows = []
    for status in order:
        if mine := [f for f in features if f["status"] == status]:
            labels, scored = (sum(f[name] is not None for f in mine) for name in ("label", "simulation"))
            trusted = sum(f["trusted"] is True for f in mine)
            rows.append({"status": status, "n": len(mine), "labels": labels, "scored": scored, "trusted": trusted})
    return rows


# --------------------------------------------------------------------------- plots


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
        return Markup(f'<svg viewBox="0 0 640 280" role="img" aria-label="{about}">{"".join(lines)}{inside}</svg>')


def _figures(run: Run, features: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A histogram and a scatter for each predictor: scores of different predictors share no plot."""
    nulls = run.store.sql(
        "SELECT l.predictor, n.comparison, n.null_mean FROM null_score n JOIN label l USING (explanation_id) WHERE l.dictionary = ? "
        "AND n.metric = 'simulation' AND n.predictor = l.predictor AND n.comparison IN ('permuted', 'neighbour') AND n.null_mean IS NOT NULL",
        [run.dictionary],
    )  # fmt: skip
    lookup = run.store.sql(
        "SELECT l.predictor, s.value FROM score s JOIN label l USING (dictionary, feature) WHERE l.dictionary = ? AND s.split = 'test' "
        "AND s.metric = 'simulation' AND s.explainer = 'lookup-1' AND s.value IS NOT NULL", [run.dictionary],
    )  # fmt: skip
    figures = []
    for predictor in sorted({str(f["predictor"]) for f in features if f["simulation"] is not None}):
        mine = [f for f in features if f["simulation"] is not None and f["predictor"] == predictor]
        series = {
            "labels": np.asarray([f["simulation"] for f in mine]),
            "lookup": np.asarray([value for who, value in lookup if who == predictor]),
            "null": np.asarray([value for who, name, value in nulls if who == predictor and name == "permuted"]),
            "near": np.asarray([value for who, name, value in nulls if who == predictor and name == "neighbour"]),
        }
        drawn = {"histogram": _histogram(series), "scatter": _scatter(mine), "key": _key(series)}
        figures.append({"predictor": predictor, **drawn})
    return figures


def _key(series: dict[str, Floats]) -> list[tuple[str, str]]:
    said = {
        "labels": "the labels.",
        "lookup": "lookup-1, the single token that explains most.",
        "null": "mismatched labels: for each feature the mean over labels of other features of like density.",
        "near": "mismatched labels: that of the nearest decoder direction, one for each feature.",
    }  # fmt: skip
    return [(name, text) for name, text in said.items() if len(series[name])]


def _histogram(series: dict[str, Floats]) -> Markup:
    """Labels as bars, the others as outlines; what is taller than the labels need is cut, and its height written."""
    values = np.concatenate(list(series.values()))
    edges = np.round(np.arange(math.floor(min(values.min(), 0) * 5) / 5, 1.0001, 0.05), 2) + 0.0
    counts = {name: np.histogram(x, edges)[0] for name, x in series.items() if len(x)}
    top = 1.1 * max(counts[name].max() for name in ("labels", "lookup") if name in counts)
    frame, drawn = _Frame((float(edges[0]), 1.0), (0.0, float(top))), []
    for name, height in counts.items():
        shown = np.minimum(height, top)
        if name == "labels":
            bars = (
                f"M{frame.at(a, 0)}L{frame.at(a, h)}L{frame.at(b, h)}L{frame.at(b, 0)}Z"
                for a, b, h in zip(edges, edges[1:], shown, strict=False)
            )
            drawn.append(f'<path class="s-labels" d="{"".join(bars)}"/>')
            continue
        steps = "L".join(f"{frame.at(a, h)}L{frame.at(b, h)}" for a, b, h in zip(edges, edges[1:], shown, strict=False))
        drawn.append(f'<path class="s-{name}" d="M{frame.at(edges[0], 0)}L{steps}L{frame.at(1, 0)}"/>')
    cut = {name: np.flatnonzero(height > top) for name, height in counts.items()}
    for row, (name, at) in enumerate((name, at) for name, at in cut.items() if len(at)):
        x, heights = frame.at(float(edges[at[-1] + 1]), top).split()[0], ", ".join(f"{counts[name][k]:,}" for k in at)
        drawn.append(f'<text class="t-{name}" x="{float(x) + 6}" y="{frame.top + 14 * row + 4}">↑ {heights}</text>')
    ticks = [(float(x), f"{x:.1f}".replace("-", "−")) for x in edges[::4]]
    about = "Histogram of simulation on test. " + " ".join(
        f"{name}: median {np.median(series[name]):.2f}." for name in counts
    )
    inside = "".join(drawn) + '<text x="340" y="275" text-anchor="middle">simulation on test</text>'
    return frame.picture(about, ticks, [(t, f"{t:,.0f}") for t in _nice(float(top))], inside)


def _scatter(features: list[dict[str, Any]]) -> Markup:
    seen = [f for f in features if f["density"]]
    x = np.log10([f["density"] for f in seen]) if seen else np.asarray([-3.0])
    low, high = math.floor(x.min()), math.ceil(x.max() + 1e-9)
    least = min([math.floor(f["simulation"] * 5) / 5 for f in seen] + [0.0])
    frame = _Frame((low, max(high, low + 1)), (least, 1.0))
    inside = []
    for name, verdict in (("open", None), ("doubted", False), ("trusted", True)):
        dots = (
            f"M{frame.at(at, f['simulation'])}h0" for at, f in zip(x, seen, strict=False) if f["trusted"] is verdict
        )
        inside.append(f'<path class="dots d-{name}" d="{"".join(dots)}"/>')
    inside.append(
        '<text x="340" y="275" text-anchor="middle">density (log scale)</text><text x="6" y="12">simulation on test</text>'
    )
    xs = [(float(k), f"{10.0**k:g}") for k in range(low, max(high, low + 1) + 1)]
    ys = [(float(t), f"{t:.1f}".replace("-", "−")) for t in np.arange(least, 1.001, 0.2)]
    return frame.picture(f"Simulation against density, {len(seen):,} features", xs, ys, "".join(inside))


def _nice(top: float) -> Iterable[float]:
    """Three to six round numbers from 0 to top."""
    unit = 10.0 ** math.floor(math.log10(max(top, 1)))
    step = next(s * unit for s in (0.2, 0.5, 1, 2, 5) if top / (s * unit) <= 6)
    return np.arange(0, top, max(step, 1)).tolist()


# --------------------------------------------------------------------------- cards


def _features(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.store.arrow(
        "SELECT l.*, f.top_tokens, f.neighbours, f.neighbour_cosines, f.histogram FROM label l LEFT JOIN feature f USING (dictionary, feature) "
        "WHERE l.dictionary = ? ORDER BY l.feature",
        [run.dictionary],
    ).to_pylist()
    return rows


def _cards(run: Run, features: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns over features, and the tables of windows and pieces that they point into."""
    columns: dict[str, list[Any]] = {
        name: [f[name] for f in features]
        for name in ("feature", "label", "explainer", "predictor", "model", "trusted", "status", "reason")
    }
    columns["name"] = [run.name(f["feature"]) for f in features]
    columns |= {name: [_short(f[name]) for f in features] for name in ("density", "max_activation", "threshold")}
    columns["top_tokens"] = [f["top_tokens"] or [] for f in features]
    columns["neighbours"] = [
        [[n, _short(c)] for n, c in zip(f["neighbours"] or (), f["neighbour_cosines"] or (), strict=False)]
        for f in features
    ]
    columns["histogram"] = [_bars(f["histogram"], f["threshold"]) for f in features]
    metrics, scores = _scores(run)
    columns["scores"] = [scores.get(f["feature"], [None] * len(metrics)) for f in features]
    for name, query in _BESIDE.items():
        rows = _grouped(run, query)
        columns[name] = [rows.get(f["feature"], []) for f in features]
    columns["tested"] = [rows[0] if rows else [0, 0] for rows in columns["tested"]]
    exemplars, windows, pieces = _exemplars(run, {f["feature"]: f["max_activation"] for f in features})
    columns["exemplars"] = [exemplars.get(f["feature"], []) for f in features]
    return {"metrics": metrics, "pieces": pieces, "windows": windows, "columns": columns}


_BESIDE = {  # each: feature, then what a card shows; $1 is the dictionary
    "nulls": "SELECT l.feature, n.comparison, n.null_mean, n.p_value, n.q_value, n.difference, n.low, n.high FROM null_score n "
    "JOIN label l USING (explanation_id, predictor) WHERE l.dictionary = $1 AND n.metric = 'simulation' ORDER BY l.feature, n.comparison DESC",
    "baselines": "SELECT s.feature, s.explainer, s.value, s.low, s.high, s.n FROM score s WHERE s.dictionary = $1 AND s.split = 'test' "
    "AND s.metric = 'simulation' AND starts_with(s.explainer, 'lookup-') AND s.value IS NOT NULL ORDER BY s.feature, s.explainer",
    "counterexamples": "SELECT * EXCLUDE (experiment_id) FROM (SELECT DISTINCT c.feature, c.kind, c.text, c.p_fires, c.fires, c.fired_share, "
    "o.carriers, c.max_activation, experiment_id FROM counterexamples c JOIN label l USING (dictionary, feature, explanation_id, predictor) "
    "JOIN outcome o USING (experiment_id) WHERE c.dictionary = $1 AND c.split = 'test') WINDOW worst AS (PARTITION BY feature "
    "ORDER BY abs(p_fires - fires::INT) DESC, experiment_id) QUALIFY row_number() OVER worst <= 3 ORDER BY feature, row_number() OVER worst",
    "tested": "SELECT l.feature, count(DISTINCT p.experiment_id) FILTER ((p.p_fires >= 0.5) <> o.fires), count(DISTINCT p.experiment_id) "
    "FROM prediction p JOIN label l USING (explanation_id, predictor) JOIN experiment e USING (experiment_id) "
    "JOIN outcome o USING (experiment_id) WHERE l.dictionary = $1 AND e.split = 'test' GROUP BY ALL",
}  # fmt: skip


def _grouped(run: Run, query: str) -> dict[int, list[list[Any]]]:
    found: dict[int, list[list[Any]]] = {}
    for feature, *rest in run.store.sql(query, [run.dictionary]):
        found.setdefault(feature, []).append([_short(x) if isinstance(x, float) else x for x in rest])
    return found


def _scores(run: Run) -> tuple[list[str], dict[int, list[Any]]]:
    """The metrics of labels on test, and for each feature [value, low, high, n] or None for each of them."""
    rows = run.store.sql(
        "SELECT l.feature, s.metric, s.value, s.low, s.high, s.n FROM score s JOIN label l USING (explanation_id, predictor) "
        "WHERE l.dictionary = ? AND s.split = 'test' AND s.value IS NOT NULL",
        [run.dictionary],
    )
    present = {row[1] for row in rows}
    metrics = [*(m for m in _METRICS if m in present), *sorted(present - set(_METRICS))]
    place = {metric: k for k, metric in enumerate(metrics)}
    found: dict[int, list[Any]] = {}
    for feature, metric, value, low, high, n in rows:
        found.setdefault(feature, [None] * len(metrics))[place[metric]] = [_short(value), _short(low), _short(high), n]
    return metrics, found


def _bars(histogram: list[int] | None, threshold: float | None) -> list[Any]:
    """[lowest bin, bins in a bar, counts], a bar never across the threshold, which is the edge of a bin."""
    counts = np.asarray(histogram or [0])
    used = np.flatnonzero(counts)
    if not len(used):
        return [0, 1, []]
    step = 2
    while (used[-1] - used[0]) / step + 2 > _BARS:
        step *= 2
    edge = round((math.log2(threshold) - _LOWEST) * _PER_OCTAVE) if threshold else 0
    first = int(used[0] - (used[0] - edge) % step)
    bar = (used - first) // step
    return [first, step, np.bincount(bar, counts[used]).astype(int).tolist()]


def _exemplars(run: Run, maximum: dict[int, float]) -> tuple[dict[int, list[Any]], list[list[int]], list[str]]:
    """For each feature [stratum, window, levels]; windows as numbers of pieces; pieces with a space where a word begins."""
    table = run.store.arrow(
        "SELECT e.feature, e.stratum, e.window_id, e.activations, w.ids[w.start + 1 : w.start + ?] AS ids FROM exemplar e "
        "JOIN text_window w USING (window_id) WHERE e.dictionary = ? AND e.split = 'test' "
        "QUALIFY row_number() OVER (PARTITION BY e.feature, e.stratum ORDER BY e.rank) <= ? ORDER BY e.feature, e.stratum DESC, e.rank",
        [WINDOW, run.dictionary, _SHOWN],
    )
    vocabulary: Vocabulary = run.lexicon.vocabulary
    piece_of: dict[int, int] = {}
    windows: list[list[int]] = []
    window_of: dict[int, tuple[int, Any]] = {}
    found: dict[int, list[Any]] = {}
    columns = (table[name].to_pylist() for name in ("feature", "stratum", "window_id", "activations", "ids"))
    for feature, stratum, window_id, activations, ids in zip(*columns, strict=True):
        if window_id not in window_of:
            keep = [k for k, token in enumerate(ids) if token != PAD and not vocabulary.special[token]]
            window_of[window_id] = (len(windows), keep)
            windows.append([piece_of.setdefault(ids[k], len(piece_of)) for k in keep])
        number, keep = window_of[window_id]
        values = np.asarray(activations)[keep]
        share = np.rint(values / max(maximum.get(feature) or 0.0, 1e-12) * MAX_STRENGTH)
        level = np.where(values > 0, share.clip(1, MAX_STRENGTH), 0).astype(int)
        found.setdefault(feature, []).append([stratum, number, _LEVELS[level].tobytes().decode()])
    pieces = [(" " if vocabulary.starts_word[t] else "") + vocabulary.pieces[t] for t in piece_of]
    return found, windows, pieces
