"""Blind ratings at a terminal: a screen for each feature, one key for each judgement, and what came of it in the end.

Where standard input is a terminal a key counts when it is pressed; else a line is a key, so that answers can be piped.
Each judgement is on disk before the next screen is shown: Ctrl-C, or a lost connection, loses nothing.

Tokens on which the feature fires stand in «marks» and, in colour, the brighter the stronger; the marks are for people and
terminals without colour. What is not printable in a label or in the corpus (escape sequences, marks that turn text
around) is shown as its escape, so that no text can speak to the terminal.

What ratings cannot show stands in agents/others/ratings.py.
"""

from __future__ import annotations

import getpass
import io
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TextIO

import numpy as np
import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from glossator.agents.others.rated import Duel, Summary
from glossator.agents.others.ratings import (
    A_BETTER,
    ALIKE,
    B_BETTER,
    GRADES,
    NEITHER,
    SKIPPED,
    Shown,
    Sitting,
    forget,
    keep,
)
from glossator.errors import UsageError
from glossator.scorers.bounds import Measured
from glossator.types import PAD, Estimate, Ints, Vocabulary, visible

if TYPE_CHECKING:
    from glossator.agents.run import Run
    from glossator.rows import RatingRow

Keys = Callable[[], str | None]  # the next key; None: there will be no more

GRADE_KEYS = {str(number): grade for number, grade in enumerate(GRADES, 1)}
PAIR_KEYS = {"a": A_BETTER, "b": B_BETTER, "=": ALIKE, "n": NEITHER}
_WIDEST = 110  # columns; longer lines are harder to read
_LONGEST = 2_000  # characters of a label
_SHADES = tuple(f"#ffffff on {shade}" for shade in ("#3a3a00", "#5f5f00", "#875f00", "#af5f00", "#d75f00"))
_MARKS = ("«", "»")


def keys_of(stdin: TextIO) -> Keys:
    """Single keys of a terminal; lines of anything else."""
    if stdin.isatty():
        return _pressed
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="replace")

    def line() -> str | None:
        text = stdin.readline()
        return text.strip() if text else None

    return line


def _pressed() -> str | None:
    """What was pressed before the screen was there is dropped: nobody can have read it."""
    try:
        return typer.getchar()
    except EOFError:  # Ctrl-D
        return None


def rater_name(given: str | None) -> str:
    """The name that is given, or the login name. Raises UsageError where there is neither."""
    if given is None:
        try:
            return getpass.getuser()
        except (OSError, KeyError, ImportError):
            raise UsageError("--rater: this account has no login name; say who rates, such as --rater ada") from None
    name = given.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise UsageError(f"--rater '{visible(given[:100])}': write a name of 1 to 100 printable characters")
    return name


# --------------------------------------------------------------------------- rating


def rate(
    run: Run, sitting: Sitting, keys: Keys, console: Console, *, plain: bool = False, clock: Callable[[], float] = time.time
) -> bool:  # fmt: skip
    """Ask about all that is left. Returns whether nothing is left then; False: the rater stopped."""
    note = Text(_opening(sitting))
    kept: list[RatingRow] = []
    while len(kept) < len(sitting.left):
        shown = sitting.left[len(kept)]
        place = sitting.size - len(sitting.left) + len(kept) + 1
        if console.is_terminal and not plain:
            console.clear()
        console.print(
            screen(shown, run.lexicon.vocabulary, f"{place} of {sitting.size}", note, plain=plain),
            width=min(console.width, _WIDEST),
        )
        words = GRADE_KEYS if len(shown.labels) == 1 else PAIR_KEYS
        began = clock()
        key = _ask(words, keys, console, undo=bool(kept))
        if key == "q":
            break
        if key == "u":
            forget(run, kept.pop())
            note = Text("taken back; rate it anew")
            continue
        judgement = SKIPPED if key == "s" else words[key]
        now = clock()
        kept.append(keep(run, shown, judgement, sitting.rater, now - began, now))
        note = Text(f"noted: {judgement}")
    console.print(_closing(sitting, kept), width=min(console.width, _WIDEST))
    return len(kept) == len(sitting.left)


def _opening(sitting: Sitting) -> str:
    some = (
        f"{sitting.size:,} of {sitting.ratable:,} labels"
        if sitting.size < sitting.ratable
        else f"all {sitting.size:,} labels"
    )
    before = sitting.size - len(sitting.left)
    done = f", {before:,} of them rated before" if before else ""
    return f"{some} to be rated by {sitting.rater}{done}; each key is stored at once"


def _closing(sitting: Sitting, kept: list[RatingRow]) -> Text:
    left = len(sitting.left) - len(kept)
    if not sitting.left:
        return Text(f"{sitting.rater} has rated all {sitting.size:,} labels of this sample; a larger --n has more")
    said = f"\n{len(kept):,} rated by {sitting.rater}"
    return Text(f"{said}, {left:,} left: run the same command again to go on" if left else f"{said}, none left")


def _ask(words: Mapping[str, str], keys: Keys, console: Console, *, undo: bool) -> str:
    """A key that means something."""
    while True:
        key = keys()
        if key is None:
            return "q"
        small = key.lower()
        if small in words or small in ("s", "q") or (small == "u" and undo):
            return small
        known = ", ".join([*words, "s", *(["u"] if undo else []), "q"])
        what = "there is nothing to take back yet" if small == "u" else f"'{visible(key[:8])}' is none of {known}"
        console.print(Text(what))


# --------------------------------------------------------------------------- what a rater sees


def screen(shown: Shown, vocabulary: Vocabulary, place: str, note: Text, *, plain: bool) -> RenderableType:
    """Windows, then the label or labels, then the keys; nothing that says whose they are or how they scored."""
    strong, weak = ("", "") if plain else ("bold", "dim")
    firing = [
        _marked(shown.firing.windows.ids[i, shown.firing.windows.scored], shown.firing.activations[i], shown, vocabulary, plain=plain)
        for i in range(len(shown.firing.windows))
    ]  # fmt: skip
    silent = [_marked(ids, np.zeros(len(ids)), shown, vocabulary, plain=plain) for ids in shown.silent]
    head = Table.grid(expand=True)
    head.add_column()
    head.add_column(justify="right")
    head.add_row(Text(place, style=strong), Text(note.plain, style=weak))
    parts: list[RenderableType] = [head, Text(f"\nIt fires on the {_MARKS[0]}marked{_MARKS[1]} tokens:", style=weak)]
    parts.append(_listed([(Text("+", style=weak), text) for text in firing]))
    if silent:
        parts += [Text("It is silent on all of these:", style=weak)]
        parts.append(_listed([(Text("-", style=weak), text) for text in silent]))
    names = ["Label"] if len(shown.labels) == 1 else ["A", "B"]
    spoken = [visible(text) for _, text in shown.labels]
    labels = [
        (Text(name, style=strong), Text(_short(text), style="" if plain else "bold cyan"))
        for name, text in zip(names, spoken, strict=True)
    ]
    parts += [Text(""), _listed(labels), Text(""), _legend(len(labels) == 2, plain=plain)]
    return Group(*parts)


def _legend(pair: bool, *, plain: bool) -> RenderableType:
    if pair:
        question = "Which says better on what it fires, and on what it does not?"
        keys = [("a", "A is better"), ("b", "B is better"), ("=", "both alike"), ("n", "neither is any good")]
    else:
        question = "Does the label say on what it fires, and on what it does not?"
        keys = list(GRADE_KEYS.items())
    others = [("s", "skip"), ("u", "undo"), ("q", "stop")]

    def line(some: list[tuple[str, str]]) -> Text:
        text = Text()
        for key, word in some:
            text.append(key, style="" if plain else "bold reverse")
            text.append(f" {word}   ")
        return text

    return Group(Text(question), line(keys), line(others))


def _listed(rows: list[tuple[Text, Text]]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return Padding(table, (0, 0, 0, 1))


def _marked(ids: Ints, values: Ints, shown: Shown, vocabulary: Vocabulary, *, plain: bool) -> Text:
    """Readable text; neighbouring tokens that fire share their marks."""
    text, open_ = Text(), False
    for token, value in zip(ids.tolist(), values.tolist(), strict=True):
        if token == PAD or vocabulary.special[token]:
            continue
        fires = value > 0 and value >= np.float32(shown.threshold)
        space = " " if vocabulary.starts_word[token] and len(text) else ""
        if open_ and not fires:
            text.append(_MARKS[1])
        text.append(space)
        if fires and not open_:
            text.append(_MARKS[0])
        share = value / max(shown.maximum, 1e-9)
        shade = "" if plain or value <= 0 else _SHADES[min(len(_SHADES) - 1, int(len(_SHADES) * share))]
        text.append(visible(vocabulary.pieces[token]), style=shade)
        open_ = fires
    if open_:
        text.append(_MARKS[1])
    return text


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text) - _LONGEST:,} more characters)"


# --------------------------------------------------------------------------- what came of it


def outcome(summary: Summary, dictionary: str) -> RenderableType:
    """The figures of all ratings of a dictionary, as text and tables."""
    if not summary.ratings:
        skipped = f" ({summary.skipped:,} skipped)" if summary.skipped else ""
        return Text(f"{dictionary}  nothing has been rated yet{skipped}; glossator rate RUN.duckdb")
    who = ", ".join(f"{visible(name)} {n:,}" for name, n in summary.raters.items())
    ratings, raters = _count(summary.ratings, "rating"), _count(len(summary.raters), "rater")
    parts: list[RenderableType] = [Text(f"\n{dictionary}  {ratings} by {raters} ({who}), {summary.skipped:,} skipped")]
    if summary.means:
        parts += _grades(summary)
    for duel in summary.duels:
        parts += _duel(duel)
    if summary.shown_first.n:
        parts.append(Text(f"\nthe label shown first was preferred in {_rate(summary.shown_first)} judgements"))
    if summary.between:
        parts += _table(
            "raters with one another: the same answer, and kappa (of grades: quadratic weights)",
            ["raters", "of", "the same", "n", "kappa", "95% interval", ""],
            [
                [" and ".join(one.raters), "pairs" if one.pairs else "grades", f"{one.same.value:.0%}", *_cells(one.kappa)]
                for one in summary.between
            ],
        )  # fmt: skip
    return Group(*parts)


def _grades(summary: Summary) -> list[RenderableType]:
    means = _table(
        "mean rating of the labels in the sample, 1 wrong to 5 right",
        ["explainer", "labels", "mean", "95% interval", ""],
        [[name, *_cells(m)] for name, m in summary.means.items()],
    )
    if not summary.scores:
        return [*means, Text("\nnone of them has a score on the split test yet: glossator score RUN.duckdb")]
    return means + _table(
        f"Spearman's rank correlation of each score with the mean ratings of {_count(summary.labels, 'label')}",
        ["metric", "predictor", "labels", "rho", "95% interval", ""],
        [[*which, *_cells(m)] for which, m in summary.scores.items()],
    )


def _duel(duel: Duel) -> list[RenderableType]:
    x, y = map(visible, duel.explainers)
    features = _count(sum(duel.wins) + duel.alike + duel.neither + duel.split, "feature")
    said = f"{duel.alike:,} alike, {duel.neither:,} neither" + (
        f", raters split on {duel.split:,}" if duel.split else ""
    )
    lines: list[RenderableType] = [Text(f"\n{x} against {y}, {features}: {duel.wins[0]:,} to {duel.wins[1]:,}, {said}")]
    if duel.share.n:
        lines.append(Text(f"{x} is preferred on {_rate(duel.share)} features that were decided"))
    if not duel.scores:
        return [*lines, Text("no score has a value for both sides: glossator score RUN.duckdb reads labels of both")]
    return lines + _table(
        "how often a score prefers the same side; chance 50%",
        ["metric", "predictor", "features", "same side", "95% interval", ""],
        [[*which, *_cells(m, percent=True)] for which, m in duel.scores.items()],
    )


def _cells(measured: Measured, *, percent: bool = False) -> list[str]:
    """n, value, interval, note."""
    e = measured.estimate
    form = "{:.0%}" if percent else "{:.2f}"
    value = "-" if math.isnan(e.value) else form.format(e.value)
    interval = "-" if math.isnan(e.low) else f"[{form.format(e.low)}, {form.format(e.high)}]"
    return [f"{e.n:,}", value, interval, measured.note or ""]


def _rate(e: Estimate) -> str:
    return f"{round(e.value * e.n):,} of {e.n:,} ({e.low:.0%} to {e.high:.0%})"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _table(title: str, names: list[str], rows: list[list[str]]) -> list[RenderableType]:
    table = Table(show_edge=False, pad_edge=False, box=None)
    for name in names:
        number = name in ("labels", "features", "n", "mean", "rho", "kappa", "the same", "same side")
        table.add_column(name, overflow="fold", justify="right" if number else "left")
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    return [Text(f"\n{title}"), table]
