"""Writes the report of a run's dictionary: the summary with its plots, and data for a card of every feature.

The page must open from a disk, without a network, ten years from now: styles, script, plots and data are all in it.
Everything is read with a few queries over the whole dictionary. Texts come from corpora, label files and models: jinja
escapes those of the summary, and the data stand in JSON blocks with `<`, `>` and `&` escaped, which the page's script
turns into text nodes only; a content security policy lets no other script or style run, and nothing be loaded.
What the page does not do: query. It shows a few windows a feature; the run file has the others.
"""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import glossator
from glossator.errors import UsageError
from glossator.report import sections, values
from glossator.report.cards import METRICS, cards, read_features
from glossator.report.cascade import cascade
from glossator.report.debates import debates
from glossator.report.figures import score_figures
from glossator.types import WINDOW

if TYPE_CHECKING:
    from glossator.agents.run import Run

_HERE = Path(__file__).parent
_HEADLINE = ("simulation", "detection", "fuzzing", "discrimination", "embedding", "adversarial")


def write_report(run: Run, to: Path) -> int:
    """Write the page about the run's dictionary to `to`; returns the number of features on it.

    Raises UsageError where the folder does not exist or cannot be written, or the run has no row in `label`.
    """
    if not to.parent.is_dir():
        raise UsageError(f"--out {to}: there is no folder {to.parent}; make it, or name another file")
    if to.is_dir():
        raise UsageError(f"--out {to}: is a folder; name a file in it, such as {to / 'report.html'}")
    features = read_features(run)
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
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("figure", "percent", "share", "interval", "count", "dollars", "fingerprint")
    environment.filters |= {name: getattr(values, name) for name in names}
    index, blocks = cards(run, features)
    held = debates(run, {f["feature"]: f["max_activation"] for f in features})
    scoreboard = run.store.arrow("FROM scoreboard").to_pylist()
    n_dictionaries = run.store.sql("SELECT count(*) FROM dictionary")[0][0]
    edits, spending = sections.edits(run), sections.spending(run)
    statuses = sections.statuses(features)
    failures = sections.failures(run)
    return environment.get_template("page.html.jinja").render(
        title=f"Glossator report: {run.dictionary}",
        code=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        facts=_facts(run),
        tiles=_tiles(statuses, edits, spending, sections.still_failed(run), held["all"]),
        statuses=statuses,
        headline=[row for row in scoreboard if row["metric"] in _HEADLINE],
        scoreboard=scoreboard,
        metrics=METRICS,
        controls=sections.controls(run),
        coverage=run.store.arrow("FROM coverage").to_pylist(),
        scope="this dictionary" if n_dictionaries == 1 else f"all {n_dictionaries} dictionaries of the run file",
        figures=score_figures(run),
        ranked=sections.ranked(run),
        edits=edits,
        spending=spending,
        cascade=cascade(run),
        failures=failures,
        debates=held,
        explainers=index["explainer"]["texts"],
        predictors=index["predictor"]["texts"],
        scored=index["metrics"],
        sortable=[*(m for m in _HEADLINE if m in index["metrics"]), "density"],
        index=values.json_block(index),
        blocks=[values.json_block(block) for block in blocks],
        transcripts=values.json_block(held["shown"]),
    )


def _tiles(
    statuses: list[dict[str, Any]], edits: dict[str, Any], spending: dict[str, Any], still: int, debates: int
) -> list[tuple[str, str, str]]:  # fmt: skip
    """What came out, at a glance: (name, value, of what)."""
    n, labels, decided = (sum(row[name] for row in statuses) for name in ("n", "labels", "decided"))
    trusted = sum(row["trusted"] or 0 for row in statuses)
    tiles = [
        ("features", f"{n:,}", ""),
        ("with a label", f"{labels:,}", f"{labels / n:.0%} of features"),
        ("trusted", f"{trusted:,}" if decided else values.NOT_MEASURED, f"of {decided:,} that were decided" if decided else ""),
        ("contradicted", f"{edits['against'] / edits['n']:.1%}" if edits["n"] else values.NOT_MEASURED,
         f"of {edits['n']:,} experiments on test" if edits["n"] else "no experiments on test"),
    ]  # fmt: skip
    if debates:
        tiles.append(("debates", f"{debates:,}", "decided by experiments"))
    if spending["rows"]:
        part = "" if spending["known"] or spending["dollars"] is None else ", as far as prices are known"
        tiles.append(("spent", values.dollars(spending["dollars"]), f"{values.count(spending['tokens'])} tokens{part}"))
    tiles.append(
        ("failed", f"{still:,}", "features of which a stage has failed" if still else "no stage of any feature")
    )
    return tiles


def _facts(run: Run) -> list[tuple[str, str]]:
    about = run.store.arrow("SELECT * FROM dictionary WHERE dictionary = ?", [run.dictionary]).to_pylist()[0]
    corpora = run.store.arrow("SELECT * FROM corpus").to_pylist()
    stated = json.loads(about["stated"] or "{}")
    done, now = run.store.sql("SELECT max(finished) FROM run")[0][0], datetime.datetime.now(datetime.UTC)

    def beside(name: str, digits: int) -> str:
        said = stated.get(name)
        found = values.figure(about[name], digits)
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
