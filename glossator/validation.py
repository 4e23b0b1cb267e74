"""The page of the validity suite: a table for each reader, and in words what each score cannot see, from the same figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from glossator.errors import UsageError
from glossator.scorers.validity import FAULTS, RIGHT, RIVALS, SEES, Ranked, first, in_words, ranked
from glossator.store.files import refuse_to_overwrite
from glossator.types import Estimate

if TYPE_CHECKING:
    from glossator.agents.validity.run_validity import Validation
    from glossator.agents.validity.table import Found

HEAD = ("score", "n", "first", *FAULTS)
_ABOUT = (
    f"Shares of planted features in which a score ranks the right label above a wrong one; ties count half, and chance is 0.50. "
    f"`first`: above {', '.join(RIVALS)} together; chance is {1 / (1 + len(RIVALS)):.2f}. A lower bound under {SEES} is marked "
    "with (): the score does not see that fault. `=n`: n features tied."
)


def check_out(path: Path | None) -> None:
    """Raise UsageError for a file that could not be written, before the work."""
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(
            f"--out {path}: {'is a folder' if path.is_dir() else f'there is no folder {path.parent}'}; name a file"
        )
    refuse_to_overwrite(path)


def figures(found: Found) -> dict[str, dict[str, Ranked]]:
    """By score and fault."""
    return {metric: {fault: ranked(values, fault) for fault in FAULTS} for metric, values in found.values.items()}


def page(done: Validation) -> RenderableType:
    parts: list[RenderableType] = [Text(plain(_ABOUT))]
    for found in done.found:
        table = Table(title=_title(done, found), title_justify="left", show_edge=False, pad_edge=False)
        for name in HEAD:
            wide = name in ("score", "first")
            table.add_column(name.replace(" ", "\n"), justify="left" if name == "score" else "right", no_wrap=wide)
        for row in rows(found):
            table.add_row(*row)
        parts += [Text(), table, Text(), *(Text(f"- {line}") for line in words(found))]
    return Group(*parts, Text(), *(Text(note) for note in done.notes))


def plain(text: str) -> str:
    return text.replace("`", "")


def markdown(done: Validation) -> str:
    lines = [_ABOUT, ""]
    for found in done.found:
        lines += [
            f"### {_title(done, found)}",
            "",
            "| " + " | ".join(HEAD) + " |",
            "| --- " + "| ---: " * (len(HEAD) - 1) + "|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in rows(found)]
        lines += ["", *(f"- {line}" for line in words(found)), ""]
    return "\n".join([*lines, *done.notes]).rstrip() + "\n"


def as_json(done: Validation) -> str:
    """NaN has no place in JSON: null."""
    found = [
        {
            "reader": one.reader,
            "failed": dict(one.failed),
            "scores": {
                metric: {
                    "first": _estimate(first(one.values[metric])),
                    "against": {
                        fault: {**_estimate(r.share), "ties": r.ties, "auroc": _number(r.auroc)}
                        for fault, r in by.items()
                    },
                }
                for metric, by in figures(one).items()
            },
        }
        for one in done.found
    ]
    return json.dumps(
        {"features": done.features, "read_by": done.read_by, "notes": done.notes, "readers": found}, indent=1
    )


def rows(found: Found) -> list[list[str]]:
    """Of each score: how many features have a value, how often the right label is first, and its share against each fault."""
    out = []
    for metric, by in figures(found).items():
        best = first(found.values[metric])
        out.append([metric, str(_known(found, metric)), _share(best), *(_cell(by[fault]) for fault in FAULTS)])
    return out


def words(found: Found) -> list[str]:
    return [in_words(metric, by) + _lacking(found, metric) for metric, by in figures(found).items()]


def _lacking(found: Found, metric: str) -> str:
    n, known = len(found.values[metric]), _known(found, metric)
    return f"; has no value for {n - known} of {n} features" if known < n else ""


def _known(found: Found, metric: str) -> int:
    return sum(math.isfinite(one.get(RIGHT, math.nan)) for one in found.values[metric])


def _title(done: Validation, found: Found) -> str:
    if found.reader == "rule":
        return "rule: every label executed to the letter, on all windows of the split"
    if found.reader == "embedding":
        return "embedding: cosines of a sentence encoder"
    return f"{found.reader}: {done.read_by}"


def _cell(one: Ranked) -> str:
    if not one.share.n:
        return "-"
    value = f"{one.share.value:.2f}" + f"={one.ties}" * bool(one.ties)
    return value if one.seen else f"({value})"


def _share(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" if one.n else "-"


def _estimate(one: Estimate) -> dict[str, Any]:
    return {"value": _number(one.value), "low": _number(one.low), "high": _number(one.high), "n": one.n}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
