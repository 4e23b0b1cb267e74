"""What a card shows of one feature. Columns that search, filters and lists need are read when the page opens; the evidence
of features stands in blocks of 256, each parsed when the first card of it is opened, so that 16,000 features open at once.

Three windows of each stratum, three counterexamples and five further explanations a feature: the run file has the others.
Tokens are stored once and referred to by number, levels of activation only where a token is active.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from glossator.report.values import short
from glossator.types import MAX_STRENGTH, PAD, WINDOW, Floats

if TYPE_CHECKING:
    from glossator.agents.run import Run

METRICS = ("simulation", "detection", "fuzzing", "discrimination", "embedding", "adversarial",
           "simulation_within", "simulation_near", "simulation_literature")  # fmt: skip
BLOCK = 256
_SHOWN = 3  # windows of each stratum
_OTHERS = 5
_LOGITS = 8
_BARS = 32
_PER_OCTAVE, _LOWEST = 8, -16  # the bins of `feature.histogram`, as harness/statistics.py makes them
_PLACES = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"  # of tokens in a window, and levels

# Of each label that of its pools on `test` which was predicted last, by the label's own predictor: $1 is the dictionary.
LAST = (
    "last AS (SELECT l.explanation_id, l.predictor, arg_max(e.pool, (p.sealed_at, e.pool)) AS pool FROM label l "
    "JOIN prediction p ON p.explanation_id = l.explanation_id AND p.predictor = l.predictor JOIN experiment e USING (experiment_id) "
    "WHERE l.dictionary = $1 AND e.dictionary = $1 AND e.split = 'test' GROUP BY ALL)"
)


def read_features(run: Run) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = run.store.arrow(
        "SELECT l.*, f.top_tokens, f.neighbours, f.neighbour_cosines, f.histogram, f.top_logits, f.top_logit_values, f.bottom_logits, "
        "f.bottom_logit_values FROM label l LEFT JOIN feature f USING (dictionary, feature) WHERE l.dictionary = ? ORDER BY l.feature",
        [run.dictionary],
    ).to_pylist()
    return rows


def cards(run: Run, features: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The index over all features, and blocks of evidence, each about the next `BLOCK` of them."""
    metrics, scores = _scores(run)
    index: dict[str, Any] = {name: [f[name] for f in features] for name in ("feature", "label", "reason", "trusted")}
    for name in ("status", "explainer", "predictor", "model"):
        index[name] = _coded([f[name] for f in features])
    index["names"] = [run.name(f["feature"]) for f in features] if run.poles is not None else None
    index |= {name: [short(f[name]) for f in features] for name in ("density", "max_activation", "threshold")}
    index["top_tokens"] = [f["top_tokens"] or [] for f in features]
    index["metrics"] = metrics
    index["values"] = [
        [None if (s := scores.get((f["feature"], k))) is None else s[0] for f in features] for k in range(len(metrics))
    ]
    beside = {name: _grouped(run, query) for name, query in _BESIDE.items()}
    exemplars, windows, pieces = _exemplars(run, {f["feature"]: f["max_activation"] for f in features})
    index["pieces"] = pieces
    blocks = []
    for first in range(0, len(features), BLOCK):
        chunk = features[first : first + BLOCK]
        block: dict[str, list[Any]] = {"card": [_card(f, scores, len(metrics)) for f in chunk]}
        for name, rows in beside.items():
            block[name] = [rows.get(f["feature"], []) for f in chunk]
        block["exemplars"], block["windows"] = _of_block(chunk, exemplars, windows)
        blocks.append(block)
    return index, blocks


def _coded(values: Sequence[str | None]) -> dict[str, Any]:
    """Few different texts for many features: the texts once, and numbers into them; -1 where there is none."""
    place: dict[str, int] = {}
    codes = [-1 if value is None else place.setdefault(value, len(place)) for value in values]
    return {"texts": list(place), "codes": codes}


def _card(f: dict[str, Any], scores: dict[tuple[int, int], list[Any]], n_metrics: int) -> list[Any]:
    """[bars, neighbours, logits or none, bounds of scores: metric, low, high, n]."""
    near = [[n, short(c, 3)] for n, c in zip(f["neighbours"] or (), f["neighbour_cosines"] or (), strict=False)]
    logits = None
    if f["top_logits"]:
        ends = (("top_logits", "top_logit_values"), ("bottom_logits", "bottom_logit_values"))
        logits = [[[t, short(x, 3)] for t, x in zip((f[a] or [])[:_LOGITS], f[b] or [], strict=False)] for a, b in ends]
    bounds = [[k, *s[1:]] for k in range(n_metrics) if (s := scores.get((f["feature"], k))) is not None]
    return [_bars(f["histogram"], f["threshold"]), near, logits, bounds]


_BESIDE = {  # each: feature, then what a card shows; $1 is the dictionary
    "nulls": "SELECT l.feature, n.metric, n.comparison, n.null_mean, n.p_value, n.q_value, n.difference, n.low, n.high FROM null_score n "
    "JOIN label l USING (explanation_id, predictor) WHERE l.dictionary = $1 ORDER BY l.feature, n.metric DESC, n.comparison DESC",
    "baselines": "SELECT s.feature, s.explainer, s.value, s.low, s.high, s.n FROM score s JOIN label l USING (dictionary, feature, predictor) "
    "WHERE s.dictionary = $1 AND s.split = 'test' AND s.metric = 'simulation' AND starts_with(s.explainer, 'lookup-') AND s.value IS NOT NULL "
    "ORDER BY s.feature, s.explainer",
    "counterexamples": f"WITH {LAST} SELECT * EXCLUDE (experiment_id) FROM (SELECT DISTINCT c.feature, c.kind, c.text, c.p_fires, c.fires, "
    "c.fired_share, o.carriers, c.max_activation, experiment_id FROM counterexamples c JOIN experiment e USING (experiment_id) JOIN last ON "
    "last.explanation_id = c.explanation_id AND last.predictor = c.predictor AND last.pool = e.pool JOIN outcome o USING (experiment_id)) "
    "WINDOW worst AS (PARTITION BY feature ORDER BY abs(p_fires - fires::INT) DESC, experiment_id) "
    "QUALIFY row_number() OVER worst <= 3 ORDER BY feature, row_number() OVER worst",
    "tested": f"WITH {LAST} SELECT e.feature, count(DISTINCT experiment_id) FILTER ((p.p_fires >= 0.5) <> o.fires AND NOT o.weak), "
    "count(DISTINCT experiment_id) FROM prediction p JOIN experiment e USING (experiment_id) JOIN last ON last.explanation_id = p.explanation_id "
    "AND last.predictor = p.predictor AND last.pool = e.pool JOIN outcome o USING (experiment_id) GROUP BY ALL",
    # what else was said of it: with its simulation, or else detection, by each predictor
    "others": "SELECT feature, explainer, model, text, reason, scores FROM ("
    "SELECT e.feature, e.explainer, e.model, e.text, e.reason, e.explanation_id, any_value(s.scores) AS scores FROM explanation e "
    "JOIN label l USING (dictionary, feature) LEFT JOIN (SELECT explanation_id, list({m: metric, p: predictor, v: round(value, 4)} ORDER BY predictor, metric DESC) AS scores "
    "FROM score WHERE split = 'test' AND value IS NOT NULL AND metric IN ('simulation', 'detection') GROUP BY explanation_id) s ON s.explanation_id = e.explanation_id "
    "WHERE e.dictionary = $1 AND e.explanation_id IS DISTINCT FROM l.explanation_id AND NOT ends_with(e.explainer, ':candidate') GROUP BY ALL) "
    f"QUALIFY row_number() OVER (PARTITION BY feature ORDER BY text IS NULL, explainer, explanation_id) <= {_OTHERS} ORDER BY feature, text IS NULL, explainer, explanation_id",
}  # fmt: skip


def _grouped(run: Run, query: str) -> dict[int, list[list[Any]]]:
    found: dict[int, list[list[Any]]] = {}
    for feature, *rest in run.store.sql(query, [run.dictionary]):
        found.setdefault(feature, []).append([_plain(x) for x in rest])
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return short(value, 3)
    if isinstance(value, list):
        return [[_plain(x) for x in one.values()] for one in value]
    return value


def _scores(run: Run) -> tuple[list[str], dict[tuple[int, int], list[Any]]]:
    """The metrics of labels on test, and by (feature, metric) [value, low, high, n], of the label's own predictor."""
    rows = run.store.sql(
        "SELECT l.feature, s.metric, s.value, s.low, s.high, s.n FROM score s JOIN label l USING (explanation_id, predictor) "
        "WHERE l.dictionary = ? AND s.split = 'test' AND s.value IS NOT NULL",
        [run.dictionary],
    )
    present = {row[1] for row in rows}
    metrics = [*(m for m in METRICS if m in present), *sorted(present - set(METRICS))]
    place = {metric: k for k, metric in enumerate(metrics)}
    scores = {(f, place[m]): [short(value), short(low, 3), short(high, 3), n] for f, m, value, low, high, n in rows}
    return metrics, scores


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


def levels_of(values: Floats, maximum: float | None) -> str:
    """A character for the place and one for the level (1 to 10, 1 at least) of each active token, the first 62 tokens."""
    share = np.rint(values[: len(_PLACES)] / max(maximum or 0.0, 1e-12) * MAX_STRENGTH)
    return "".join(
        _PLACES[k] + _PLACES[int(min(max(share[k], 1), MAX_STRENGTH))]
        for k in np.flatnonzero(values[: len(_PLACES)] > 0)
    )


def _exemplars(
    run: Run, maximum: dict[int, float | None]
) -> tuple[dict[int, list[Any]], dict[int, list[int]], list[str]]:
    """For each feature [stratum, window id, levels]; windows by id as numbers of pieces; pieces with a space where a word begins."""
    chosen = "dictionary = $1 AND split = 'test' AND rank < $2"
    shown = run.store.arrow(
        f"SELECT window_id, ids[start + 1 : start + $3] AS ids FROM text_window WHERE window_id IN (SELECT window_id FROM exemplar WHERE {chosen}) ORDER BY window_id",
        [run.dictionary, _SHOWN, WINDOW],
    )
    vocabulary = run.lexicon.vocabulary
    piece_of: dict[int, int] = {}
    windows: dict[int, list[int]] = {}
    kept: dict[int, list[int]] = {}
    for window_id, ids in zip(shown["window_id"].to_pylist(), shown["ids"].to_pylist(), strict=True):
        keep = [k for k, token in enumerate(ids) if token != PAD and not vocabulary.special[token]]
        kept[window_id], windows[window_id] = keep, [piece_of.setdefault(ids[k], len(piece_of)) for k in keep]
    table = run.store.arrow(
        f"SELECT feature, stratum, window_id, activations FROM exemplar WHERE {chosen} ORDER BY feature, stratum DESC, rank",
        [run.dictionary, _SHOWN],
    )
    found: dict[int, list[Any]] = {}
    columns = (table[name].to_pylist() for name in ("feature", "stratum", "window_id", "activations"))
    for feature, stratum, window_id, activations in zip(*columns, strict=True):
        values = np.asarray(activations)[kept[window_id]]
        found.setdefault(feature, []).append([stratum, window_id, levels_of(values, maximum.get(feature))])
    pieces = [(" " if vocabulary.starts_word[t] else "") + vocabulary.pieces[t] for t in piece_of]
    return found, windows, pieces


def _of_block(
    features: Sequence[dict[str, Any]], exemplars: dict[int, list[Any]], windows: dict[int, list[int]]
) -> tuple[list[Any], list[list[int]]]:
    """Exemplars of a block's features with windows numbered within the block: [1 for top, window, levels]."""
    number: dict[int, int] = {}
    mine = [
        [[int(stratum == "top"), number.setdefault(w, len(number)), levels] for stratum, w, levels in exemplars.get(f["feature"], [])]
        for f in features
    ]  # fmt: skip
    return mine, [windows[w] for w in number]
