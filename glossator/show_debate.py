"""What a terminal shows of a debate: who claims what, every text with what each side said of it and what it did, the verdict.

Read from the run file alone, so a debate that was held yesterday is shown as it was. Text of the corpus and of hypotheses
is printed as it stands, never read as markup.
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

if TYPE_CHECKING:
    from glossator.agents.run import Run

_SHADES = ("", "on #3a3a00", "on #5f5f00", "on #875f00", "on #af5f00", "on #d75f00")
_COLOUR = {"A": "cyan", "B": "magenta", "both": "green", "overlap": "green", "neither": "yellow", "editor": "dim"}
_LEAST, _BAR = 0.05, 12
_NAME = {"both": "A or B", "overlap": "A and B", "neither": "neither"}


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
    parts += [_turn(turn, measured.get(turn["experiment_id"], ([], [])), threshold, maximum) for turn in turns]
    return Group(*parts, _verdict(about))


def _measured(run: Run, experiments: Sequence[str]) -> dict[str, tuple[list[str], list[float]]]:
    """Tokens and activations of the carrier that fired most, by experiment."""
    rows = run.store.sql(
        "SELECT experiment_id, arg_max(tokens, (max_activation, -carrier)), arg_max(activations, (max_activation, -carrier)) FROM measurement "
        "WHERE experiment_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY experiment_id",
        [list(experiments)],
    )
    return {identity: (tokens, values) for identity, tokens, values in rows}


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
                (about[f"{side}_text"], _COLOUR[name]),
                (f"  ({about[f'{side}_source']})", "dim"),
            )
        )
    reader = (
        "rules are executed"
        if about["predictor"] == "rule"
        else f"{about['predictor'].removeprefix('llm:')} reads both"
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


def _turn(
    turn: dict[str, Any], measured: tuple[list[str], list[float]], threshold: float, maximum: float
) -> RenderableType:
    if turn["experiment_id"] is None:
        return _statement(turn, "  ")
    fired, n = turn["fired"], turn["number"]
    outcome = Text("it fired" if fired else "silent", style="bold green" if fired else "bold")
    if 0 < turn["fired_share"] < 1:
        outcome.append(f" (fired in {turn['fired_share']:.0%} of carriers)", style="dim")
    head = Text.assemble(
        (f"{n:>2}  ", "bold"),
        (f"{turn['kind']}", "italic"),
        f", proposed by {turn['proposer']}",
        (f"  experiment {turn['experiment_id'][:4]}", "dim"),
    )
    said = Table.grid(padding=(0, 2))
    said.add_row(
        Text("      "),
        _said("A", turn["p_a"], fired),
        _said("B", turn["p_b"], fired),
        outcome,
        _lead(turn["leader"], turn["lead"]),
    )
    text = coloured_tokens(*measured, threshold, maximum) if measured[0] else Text(turn["text"])
    lines: list[RenderableType] = [head, Padding(text, (0, 0, 0, 6)), said]
    if turn["statement"]:
        lines.append(_statement(turn, "      "))
    return Group(*lines)


def _said(side: str, p: float, fired: bool) -> Text:
    right = (p >= 0.5) == fired
    return Text.assemble(
        (f"{side} ", f"bold {_COLOUR[side]}"),
        f"{p:4.0%} ",
        ("foresaw" if right else "erred  ", "green" if right else "red"),
    )


def _lead(leader: str, lead: float) -> Text:
    if lead < _LEAST:
        return Text("nobody leads", style="dim")
    bar = "▪" * min(_BAR, max(1, round(2 * lead)))
    return Text.assemble(
        (f"{_NAME.get(leader, leader)} leads by {lead:.1f} nats ", _COLOUR[leader]), (bar, _COLOUR[leader])
    )


def _statement(turn: dict[str, Any], indent: str) -> RenderableType:
    """What was said, and what of it the evidence does not bear out."""
    said = Text.assemble(
        indent, (f"{turn['speaker']}: ", f"bold {_COLOUR.get(turn['speaker'], '')}"), turn["statement"]
    )
    if turn["unsupported"]:
        said.append(f"  [not borne out: {', '.join(turn['unsupported'])}]", style="bold red")
    return said


def _verdict(about: dict[str, Any]) -> RenderableType:
    lines = [Text(about["sentence"], style="bold")]
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
        piece = name.removeprefix("##")
        if piece == name and len(text):
            text.append(" ")
        shade = 0 if value <= 0 else min(len(_SHADES) - 1, 1 + int(4.999 * value / max(maximum, 1e-9)))
        fires = value >= threshold and value > 0
        text.append(f"‹{piece}›" if fires else piece, style=f"bold {_SHADES[shade]}" if fires else _SHADES[shade])
    return text
