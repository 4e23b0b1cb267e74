"""What a terminal shows of a debate: who claims what, every text with what each side said of it and what it did, the verdict.

Read from the run file alone, so a debate that was held yesterday is shown as it was. A text that stayed silent as both sides
foresaw is a line, and the others are shown with the tokens at which the feature fires. Text of the corpus, of hypotheses and of
models is never read as markup, and what a terminal would obey is shown as its escape.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from glossator.errors import StoreError
from glossator.types import visible

if TYPE_CHECKING:
    from glossator.agents.run import Run

_SHADES = ("", "on #3a3a00", "on #5f5f00", "on #875f00", "on #af5f00", "on #d75f00")
_COLOUR = {"A": "cyan", "B": "magenta", "both": "green", "overlap": "green", "neither": "yellow", "editor": "dim"}
_LEAST, _BAR = 0.05, 12
_NAME = {"both": "both (A or B)", "overlap": "the overlap (A and B)", "neither": "neither"}
_WHAT = {
    "window": "a window of the corpus",
    "random": "any window of the corpus",
    "transplant": "what it fires on, put into another text",
    "swap": "its word replaced",
    "insert": "a word put into another text",
    "delete": "its word left out",
    "cut_left": "what stood before is cut off",
    "cut_right": "what came after is cut off",
    "case": "upper and lower case exchanged",
}
_Shown = tuple[list[str], list[float], int]  # tokens and activations of a carrier, and how many carriers there are


def transcript(run: Run, debate_id: str) -> RenderableType:
    """A stored debate as a person may enjoy to read it. Raises StoreError for an id that the run file lacks."""
    found = run.store.arrow("SELECT * FROM debate WHERE debate_id = ?", [debate_id]).to_pylist()
    if not found:
        raise StoreError(f"{run.store.path}: holds no debate {debate_id}")
    about = found[0]
    turns = run.store.arrow("SELECT * FROM debate_turn WHERE debate_id = ? ORDER BY number", [debate_id]).to_pylist()
    measured = _measured(run, [turn["experiment_id"] for turn in turns if turn["experiment_id"]])
    threshold, maximum = run.store.sql(
        "SELECT threshold, max_activation FROM feature WHERE dictionary = ? AND feature = ?",
        [about["dictionary"], about["feature"]],
    )[0]
    parts: list[RenderableType] = [_heading(run, about)]
    n = 0
    for turn in turns:
        n += turn["experiment_id"] is not None
        if turn["kind"] == "closing" and not any(t["kind"] == "closing" for t in turns[: turns.index(turn)]):
            parts.append(Text(""))
        parts.append(_turn(turn, n, measured.get(turn["experiment_id"], ([], [], 1)), (threshold, maximum)))
    return Group(*parts, Text(""), _verdict(about))


def _measured(run: Run, experiments: Sequence[str]) -> dict[str, _Shown]:
    """Tokens and activations of the carrier that fired most, and the number of carriers, by experiment."""
    rows = run.store.sql(
        "SELECT experiment_id, arg_max(tokens, (max_activation, -carrier)), arg_max(activations, (max_activation, -carrier)), count(*) FROM measurement "
        "WHERE experiment_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY experiment_id",
        [list(experiments)],
    )
    return {identity: (tokens, values, n) for identity, tokens, values, n in rows}


def _heading(run: Run, about: dict[str, Any]) -> RenderableType:
    lines = [
        Text.assemble(
            (f"{about['dictionary']} feature {run.name(about['feature'])}", "bold"),
            "  a debate, decided by experiments",
        )
    ]
    for side in ("a", "b"):
        name = side.upper()
        lines.append(
            Text.assemble(
                (f"{name}  ", f"bold {_COLOUR[name]}"),
                (visible(about[f"{side}_text"]), _COLOUR[name]),
                (f"  ({visible(about[f'{side}_source'])})", "dim"),
            )
        )
    reader = (
        "rules are executed"
        if about["predictor"] == "rule"
        else f"{visible(about['predictor'].removeprefix('llm:'))} reads both"
    )
    lines.append(
        Text(
            f"{about['proposed']} texts proposed, predictions sealed before any was measured; {reader}, taken to err on {about['error']:.0%}",
            style="dim",
        )
    )
    same = json.loads(about["same"])
    told = [
        f"{_NAME.get(name, name)} is the same as {other}" if other else f"{_NAME.get(name, name)} would never fire"
        for name, other in sorted(same.items())
    ]
    if told:
        lines.append(Text("on these texts " + "; ".join(told), style="dim"))
    return Group(*lines, Text(""))


def _turn(turn: dict[str, Any], n: int, shown: _Shown, scale: tuple[float, float]) -> RenderableType:
    """n: of measured texts up to this one; scale: threshold and maximum of the feature."""
    if turn["experiment_id"] is None:
        return _amended(turn, n) if turn["kind"] == "amended" else _statement(turn, "  ")
    tokens, values, carriers = shown
    fired, word = turn["fired"], visible(turn["word"] or "")
    weak = fired is None
    outcome = Text(
        "it fired" if fired else "weak, no verdict" if weak else "silent", style="bold green" if fired else "bold"
    )
    if 0 < turn["fired_share"] < 1:
        outcome.append(f" ({round(turn['fired_share'] * carriers)} of {carriers} did)", style="dim")
    named = bool(word) and not word.startswith(("(", "window ", "delete "))
    about = f'{" by" if turn["kind"] == "swap" else ", about"} "{word.removeprefix("##")}"' if named else ""
    who = f", which {turn['proposer']} proposed" if turn["proposer"] in ("A", "B") else ""
    head = Text.assemble(
        (f"{n:>2}  ", "bold"),
        f"{_WHAT.get(turn['kind'], visible(turn['kind']))}{about}{who}",
        (f"  experiment {turn['experiment_id'][:4]}", "dim"),
    )
    quiet = max(turn["p_a"], turn["p_b"]) < 0.5 and not turn["fired_share"] and not turn["statement"]
    if quiet and not fired and not weak:
        return head.append(": silent, as both foresaw", style="dim")
    said = Table.grid(padding=(0, 2))
    said.add_row(
        Text("      "),
        _said("A", turn["p_a"], fired),
        _said("B", turn["p_b"], fired),
        outcome,
        _lead(turn["leader"], turn["lead"]),
    )
    text = coloured_tokens(tokens, values, *scale) if tokens else Text(visible(turn["text"]))
    lines: list[RenderableType] = [head, Padding(text, (0, 0, 0, 6)), said]
    if turn["statement"]:
        lines.append(_statement(turn, "      "))
    return Group(*lines)


def _amended(turn: dict[str, Any], n: int) -> RenderableType:
    """A side that says something else from here on."""
    side = turn["speaker"]
    return Text.assemble(
        "    ",
        (f"{side} gives up ", f"bold {_COLOUR.get(side, '')}"),
        f"{visible(turn['text'] or '')}\n    and says from now on: ",
        (visible(turn["statement"]), _COLOUR.get(side, "")),
        (f"\n    of the first {n} experiments none counts for it or against it", "dim"),
    )


def _said(side: str, p: float, fired: bool | None) -> Text:
    """fired None: there is nothing to be right or wrong about."""
    right = (p >= 0.5) == fired
    judged = ("       ", "") if fired is None else ("foresaw", "green") if right else ("erred  ", "red")
    return Text.assemble((f"{side} ", f"bold {_COLOUR[side]}"), f"{p:4.0%} ", judged)


def _lead(leader: str, lead: float | None) -> Text:
    if lead is None:
        return Text(f"{_NAME.get(leader, leader)}: nobody else is left", style=_COLOUR[leader])
    if lead < _LEAST:
        return Text("nobody leads", style="dim")
    bar = "▪" * min(_BAR, max(1, round(2 * lead)))
    return Text.assemble(
        (f"{_NAME.get(leader, leader)} leads by {lead:.1f} nats ", _COLOUR[leader]), (bar, _COLOUR[leader])
    )


def _statement(turn: dict[str, Any], indent: str) -> RenderableType:
    """What was said, and what of it the evidence does not bear out."""
    said = Text.assemble(
        indent, (f"{turn['speaker']}: ", f"bold {_COLOUR.get(turn['speaker'], '')}"), visible(turn["statement"])
    )
    if turn["unsupported"]:
        said.append(f"  [not borne out: {visible(', '.join(turn['unsupported']))}]", style="bold red")
    return said


def _verdict(about: dict[str, Any]) -> RenderableType:
    lines = [Text(visible(about["sentence"]), style="bold")]
    a, b = about["a_score"], about["b_score"]
    if a is not None and b is not None:
        line = f"On the split test, which the debate never saw: {about['metric']} of A {a:.2f}, of B {b:.2f}"
        if about["verdict"] in ("both", "overlap") and about["winner_score"] is not None:
            line += f", of {_NAME[about['verdict']]} {about['winner_score']:.2f}"
        if about["low"] is not None:
            line += f"; the winner's over the better loser's {about['difference']:+.2f} [{about['low']:+.2f}, {about['high']:+.2f}]"
        lines.append(Text(line + "."))
    if about["reversal"]:
        lines.append(
            Text("REVERSAL: the loser predicts the corpus better than the winner of the experiments.", style="bold red")
        )
    style = _COLOUR.get(about["verdict"] or "", "dim")
    return Panel(
        Group(*lines),
        title=Text(f"verdict: {_NAME.get(about['verdict'], about['verdict'] or 'none')}", style=f"bold {style}"),
        border_style=style,
    )


def coloured_tokens(tokens: Sequence[str], values: Sequence[float], threshold: float, maximum: float) -> Text:
    """Tokens as a text, the background the brighter the stronger the activation; those at which it fires stand in ‹›, for eyes and pipes without colour."""
    text = Text()
    for name, value in zip(tokens, values, strict=True):
        piece = visible(name.removeprefix("##"))
        if not name.startswith("##") and len(text):
            text.append(" ")
        shade = 0 if value <= 0 else min(len(_SHADES) - 1, 1 + int(4.999 * value / max(maximum, 1e-9)))
        fires = value >= threshold and value > 0
        text.append(f"‹{piece}›" if fires else piece, style=f"bold {_SHADES[shade]}" if fires else _SHADES[shade])
    return text
