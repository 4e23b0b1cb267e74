"""What a terminal shows of a run: one feature's card, its experiments, and which features fire on a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glossator.store.records import check_features
from glossator.types import PAD, FeatureRecord, Sample, Split, Vocabulary, visible

if TYPE_CHECKING:
    from glossator.agents.run import Run

_SHADES = ("", "on #3a3a00", "on #5f5f00", "on #875f00", "on #af5f00", "on #d75f00")
_SHOWN = 5


def card(run: Run, feature: int) -> RenderableType:
    """Label, scores, exemplars of `test` with coloured activations, experiments."""
    check_features(run.store, run.dictionary, [feature])
    record = next(run.records([feature]))
    about = run.store.arrow(
        "SELECT * FROM label WHERE dictionary = ? AND feature = ?", [run.dictionary, feature]
    ).to_pylist()
    row: dict[str, Any] = about[0] if about else {}
    label = visible(row.get("label") or "(no label)")
    parts: list[RenderableType] = [
        Text.assemble((f"{run.dictionary} feature {run.name(feature)}", "bold"), "  ", (label, "bold cyan")),
        Text(f"status {row.get('status')}" + (f": {visible(row['reason'])}" if row.get("reason") else ""), style="dim"),
        Text(
            f"density {record.density:.4%}   threshold {record.threshold:.3g}   maximum {record.max_activation:.3g}   "
            f"active windows {record.active('explain')}/{record.active('select')}/{record.active('test')} (explain/select/test)"
        ),
        _scores(run, feature, row.get("explanation_id")),
        _explanations(run, feature, row.get("explanation_id")),
    ]
    for stratum in ("top", "sample"):
        parts.append(
            Text(
                f"\n{'strongest' if stratum == 'top' else 'randomly drawn'} windows of the split test",
                style="bold",
            )
        )
        parts += exemplars(record, "test", stratum, run.lexicon.vocabulary)
    parts.append(experiments(run, feature))
    return Group(*parts)


def _explanations(run: Run, feature: int, chosen: str | None) -> RenderableType:
    """All that was said of a feature, where more than the label was: by whom, and the words or why there are none."""
    rows = run.store.sql(
        "SELECT explanation_id, explainer, model, coalesce(text, '(abstained: ' || coalesce(reason, 'no reason') || ')') "
        "FROM explanation WHERE dictionary = ? AND feature = ? ORDER BY explainer, model, rowid",
        [run.dictionary, feature],
    )
    if all(identity == chosen for identity, *_ in rows):
        return Text("")
    table = Table(
        title="\nexplanations; * is the label", title_justify="left", show_edge=False, pad_edge=False, box=None
    )
    for name in ("", "explainer", "model", "text"):
        table.add_column(name, overflow="fold")
    for identity, explainer, model, text in rows:
        table.add_row(
            "*" if identity == chosen else "", Text(visible(explainer)), Text(visible(model or "")), Text(visible(text))
        )
    return table


def _scores(run: Run, feature: int, explanation_id: str | None) -> RenderableType:
    if explanation_id is None:
        return Text("")
    table = Table(show_edge=False, pad_edge=False, box=None)
    for name in ("metric", "predictor", "value", "95% interval", "n", "split"):
        table.add_column(name)
    for metric, predictor, value, low, high, n, split in run.store.sql(
        "SELECT metric, predictor, value, low, high, n, split FROM score WHERE dictionary = ? AND feature = ? AND explanation_id = ? "
        "ORDER BY split DESC, metric",
        [run.dictionary, feature, explanation_id],
    ):
        interval = f"[{low:.2f}, {high:.2f}]" if low is not None and high is not None else "-"
        table.add_row(
            metric,
            Text(predictor or ""),
            "-" if value is None else f"{value:.2f}",
            Text(interval),
            str(n),
            split,
        )
    for metric, predictor, comparison, null_mean, p, difference in run.store.sql(
        "SELECT metric, predictor, comparison, null_mean, p_value, difference FROM null_score "
        "WHERE dictionary = ? AND feature = ? AND explanation_id = ? ORDER BY metric, predictor, comparison",
        [run.dictionary, feature, explanation_id],
    ):
        said = f"null mean {null_mean:.2f}" if null_mean is not None else ""
        table.add_row(
            f"  {metric} vs {comparison}",
            Text(predictor or ""),
            "" if difference is None else f"{difference:+.2f}",
            said + (f", p {p:.2g}" if p is not None else ""),
        )
    return table


def exemplars(record: FeatureRecord, split: Split, stratum: str, vocabulary: Vocabulary) -> list[Text]:
    """The first few windows of a stratum, each a line of coloured tokens with its highest activation."""
    sample: Sample | None = record.exemplars.get(split)
    if sample is None:
        return []
    lines = []
    for row in np.flatnonzero(sample.stratum == stratum)[:_SHOWN]:
        ids = sample.windows.ids[row, sample.windows.scored].tolist()
        values = sample.activations[row].tolist()
        line = Text(f"{max(values):7.2f}  ", style="dim")
        line.append_text(coloured(ids, values, record.max_activation, vocabulary))
        lines.append(line)
    return lines


def coloured(ids: Sequence[int], values: Sequence[float], maximum: float, vocabulary: Vocabulary) -> Text:
    """Tokens as text, the background the brighter the stronger the activation."""
    text = Text()
    for token, value in zip(ids, values, strict=True):
        if token == PAD:
            continue
        piece = vocabulary.pieces[token]
        if vocabulary.starts_word[token] and len(text):
            text.append(" ")
        shade = 0 if value <= 0 else min(len(_SHADES) - 1, 1 + int(4.999 * value / max(maximum, 1e-9)))
        text.append(visible(piece), style=_SHADES[shade])
    return text


def experiments(run: Run, feature: int) -> RenderableType:
    """Every edit of the feature: predicted, measured, and whether they agree; and why there are none, or none by a model."""
    rows = run.store.sql(
        "SELECT e.kind, p.predictor, p.p_fires, o.fired_share, o.weak, o.max_activation, e.edit, e.texts[1] FROM experiment e "
        "JOIN prediction p USING (experiment_id) "
        "JOIN outcome o ON o.experiment_id = e.experiment_id AND o.dictionary = e.dictionary AND o.feature = e.feature "
        "LEFT JOIN label l ON l.dictionary = e.dictionary AND l.feature = e.feature "
        "WHERE e.dictionary = ? AND e.feature = ? AND (NOT starts_with(e.pool, 'debate:') OR p.explanation_id = l.explanation_id) "
        "QUALIFY e.pool = arg_max(e.pool, p.sealed_at) OVER (PARTITION BY e.split, p.predictor, p.explanation_id, e.pool LIKE 'debate:%') "
        "ORDER BY p.sealed_at, e.rowid, p.rowid",
        [run.dictionary, feature],
    )
    said = _probes(run, [feature])
    if not rows:
        return Text(
            "\n" + "\n".join(["no experiments yet", *(f"{stage}: {why}" for _, stage, why in said)]), style="dim"
        )
    readers = len({row[1] for row in rows}) > 1
    table = Table(
        title="experiments: predicted before measured; yellow: it came out otherwise", title_justify="left", show_edge=False,
        pad_edge=False,
    )  # fmt: skip
    for name in ("edit", *["predictor"] * readers, "p(fires)", "fired", "max", "what", "text (first carrier)"):
        table.add_column(name, overflow="fold")
    for kind, predictor, p, share, weak, maximum, edit, text in rows:
        style = "dim" if weak else "" if (p >= 0.5) == (share > 0.5) else "yellow"
        what = ", ".join(f"{k} {v}" for k, v in json.loads(edit).items())
        table.add_row(
            kind,
            *[Text(visible(predictor))] * readers,
            f"{p:.2f}",
            "weak" if weak else f"{share:.0%}",
            f"{maximum:.2f}",
            Text(visible(what)),
            Text(visible(text[:160])),
            style=style,
        )
    return Group(table, *(Text(visible(f"{stage}: {why}"), style="dim") for _, stage, why in said))


def probed(run: Run, features: Sequence[int]) -> RenderableType:
    """One line for each probed feature and predictor: what came of its last pool of `test`."""
    rows = run.store.sql(
        "SELECT e.feature, p.predictor, count(*), count(*) FILTER (o.weak), count(*) FILTER ((p.p_fires >= 0.5) <> o.fires AND NOT o.weak), "
        "any_value(s.value), any_value(l.label) FROM experiment e JOIN prediction p USING (experiment_id) JOIN outcome o USING (experiment_id) "
        "JOIN label l ON l.dictionary = e.dictionary AND l.feature = e.feature AND l.explanation_id = p.explanation_id "
        "LEFT JOIN score s ON s.explanation_id = p.explanation_id AND s.predictor = p.predictor AND s.metric = 'adversarial' AND s.split = 'test' "
        "JOIN (SELECT p.predictor, p.explanation_id, arg_max(e.pool, p.sealed_at) AS pool FROM prediction p JOIN experiment e USING (experiment_id) "
        "WHERE e.split = 'test' GROUP BY ALL) last ON last.pool = e.pool AND last.predictor = p.predictor AND last.explanation_id = p.explanation_id "
        "WHERE e.dictionary = ? AND e.split = 'test' AND e.feature IN (SELECT unnest(?::INTEGER[])) GROUP BY e.feature, p.predictor, l.explanation_id "
        "ORDER BY ALL",
        [run.dictionary, list(features)],
    )
    table = Table(show_edge=False, pad_edge=False)
    for name in ("feature", "predictor", "experiments", "weak", "came out otherwise", "adversarial", "label"):
        table.add_column(name, overflow="fold")
    for feature, predictor, n, weak, wrong, value, label in rows:
        score = "-" if value is None else f"{value:.2f}"
        named = Text(visible(label or ""))
        table.add_row(run.name(feature), Text(visible(predictor)), str(n), str(weak), str(wrong), score, named)
    found = {row[0] for row in rows}
    rest = [f"{run.name(f)}  {stage}: {why}" for f, stage, why in _probes(run, features) if f not in found]
    return Group(table, *(Text(visible(line), style="dim") for line in rest))


def _probes(run: Run, features: Sequence[int]) -> list[tuple[int, str, str]]:
    """(feature, stage, reason): the last word of each stage that probed, where it has one."""
    return [
        (feature, stage, reason)
        for feature, stage, reason in run.store.sql(
            "SELECT feature, stage, arg_max(reason, rowid) AS why FROM stage WHERE dictionary = ? AND (stage = 'probe' OR "
            "starts_with(stage, 'probe:')) AND feature IN (SELECT unnest(?::INTEGER[])) GROUP BY feature, stage HAVING why IS NOT NULL "
            "ORDER BY feature, stage",
            [run.dictionary, list(features)],
        )
    ]


def inspection(run: Run, text: str, limit: int) -> RenderableType:
    """The features that fire on a text, trusted labels first, by share of their maximum, with the tokens coloured."""
    from glossator.harness.measurer import Measurer

    subject, dictionary = run.model()
    ids, values = Measurer(subject, dictionary).measure_all(text)
    acts = values.numpy()
    rows = run.store.sql(
        "SELECT feature, label, threshold, max_activation, status, coalesce(trusted, false) FROM label WHERE dictionary = ? ORDER BY feature",
        [run.dictionary],
    )
    peak = acts.max(0)
    firing = [r for r in rows if peak[r[0]] > 0 and peak[r[0]] >= r[2]]
    firing.sort(key=lambda r: (not r[5], -peak[r[0]] / max(r[3], 1e-9)))
    table = Table(
        show_edge=False,
        pad_edge=False,
        title=f"{len(firing)} features fire on this text; trusted labels first, by share of their maximum",
        title_justify="left",
    )
    for name in ("feature", "of max", "peak", "label", "where"):
        table.add_column(name, overflow="fold", no_wrap=name in ("feature", "of max", "peak"))
    for feature, label, _, maximum, status, _ in firing[:limit]:
        where = coloured(ids, acts[:, feature].tolist(), float(peak[feature]), run.lexicon.vocabulary)
        at = run.lexicon.vocabulary.name(ids[int(acts[:, feature].argmax())])
        table.add_row(
            run.name(feature),
            f"{peak[feature] / maximum:.0%}",
            Text(visible(at)),
            Text(visible(label or f"({status})")),
            where,
        )
    return table
