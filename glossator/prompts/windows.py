"""Windows of text as a language model reads them: one JSON object a line, the active tokens marked inside the text.

    {"before": "they sat on", "window": [" the", [" river", 2], [" bank", 10], " and waited"], "after": " for"}

A string is text, a pair is text on which the feature is active and how strongly, 1 to 10. Marks stand where the token
stands, because a list of active tokens beside the text does not say which of two equal words is meant. Neighbours of
equal strength share a pair, and silent ones a string: that keeps topics, which are active on every token, short.

JSON because corpus text may hold anything, a prompt's own marks and fences included. A string is closed by its quote
alone, a line by its newline, and JSON escapes both; any model knows these escapes, and `json.loads` gives back what went
in. Three more things are escaped: what cannot be seen (control characters, marks of direction, tags), `<` before a name,
a slash or a bar, and bracketed capitals: chat formats write their roles as `<|user|>`, `</s>` or `[INST]`, some servers
take them for roles wherever they stand, and our fence is written so too.

Strengths are whole numbers relative to the largest activation in what is sampled, so that equal records give equal bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from glossator.types import MAX_STRENGTH, PAD, WINDOW, Floats, Ints, Sample, Vocabulary

FENCE = ("<data>", "</data>")
_LIKE_A_ROLE = r"<(?=[|｜/]|[^\W\d])|\[(?=/?[A-Z_]+\])"
_PRINTED = re.compile(r"[^ -~]")


def fenced(groups: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Headings of ours, each with its lines, between the marks of the fence. A heading without lines is left out."""
    lines = [line for heading, members in groups if members for line in (heading, *members)]
    return "\n".join((FENCE[0], *lines, FENCE[1]))


def window_lines(
    sample: Sample, index: Ints, vocabulary: Vocabulary, scale: float, margin: int, told: Floats | None = None
) -> list[str]:
    """The chosen windows, one line each, with `margin` tokens of the text beside them. `scale`: the activation shown as 10.

    told [windows]: p(fires) that somebody predicted, shown in percent.
    """
    lines = [_shown(sample.windows.ids[i], sample, i, vocabulary, scale, margin) for i in index]
    if told is not None:
        lines = [{"told": round(100 * float(told[i]))} | line for i, line in zip(index, lines, strict=True)]
    return [escaped(json.dumps(line, ensure_ascii=False)) for line in lines]


def _shown(ids: Ints, sample: Sample, i: int, vocabulary: Vocabulary, scale: float, margin: int) -> dict[str, Any]:
    start = sample.windows.start
    end = start + WINDOW
    window: dict[str, Any] = {"window": _pieces(ids[start:end], strengths(sample.activations[i], scale), vocabulary)}
    if margin and start:
        before = _text(ids[max(0, start - margin) : start], vocabulary)
        window = {"before": before or None} | window
        if not before and window["window"]:
            window["window"][0] = _unspaced(window["window"][0])
    if margin and len(ids) > end:  # encoders read on both sides
        window["after"] = _text(ids[end : end + margin], vocabulary) or None
    return window


def strengths(activations: Floats, scale: float) -> Ints:
    """[WINDOW] 0 to 10. A window that would show no mark at all gets one, of strength 1, at its strongest token."""
    found = np.clip(np.rint(MAX_STRENGTH * activations / scale), 0, MAX_STRENGTH).astype(int)
    if not found.any() and activations.max(initial=0) > 0:
        found[int(activations.argmax())] = 1
    return found


def chosen(sample: Sample, strongest: int, over_range: int) -> tuple[Ints, Ints]:
    """Which windows to show: the strongest, and one from each of `over_range` equal parts of the others' quantiles.

    Windows of equal text are shown once. The strongest come in order of rank, the others strongest first.
    """
    ids = sample.windows.ids[:, sample.windows.scored]
    maxima = sample.activations.max(1, initial=0)
    order = np.lexsort((sample.windows.window_id, -maxima))
    once: dict[bytes, int] = {}
    for i in order:
        once.setdefault(ids[i].tobytes(), i)
    fresh = list(once.values())
    top, rest = np.asarray(fresh[:strongest], int), np.asarray(fresh[strongest:], int)
    quantile = sample.quantile[rest].astype(float)
    if np.isnan(quantile).any():  # an older harvest did not keep it: what is at hand is taken for all
        quantile = 1 - (np.arange(len(rest)) + 0.5) / max(len(rest), 1)
    ranged = []
    for part in reversed(range(over_range)):
        within = np.flatnonzero((quantile >= part / over_range) & (quantile < (part + 1) / over_range))
        if len(within):
            ranged.append(rest[within[np.abs(quantile[within] - (part + 0.5) / over_range).argmin()]])
    return top, np.asarray(ranged, int)


def resembling(near: Sample, shown: Sample, n: int) -> Ints:
    """Up to `n` near misses to show, of each kind in turn, in their order. Windows of equal text once, and none that `shown` holds."""
    place: dict[str, int] = {}
    rank = []
    for kind in near.stratum.tolist():
        place[kind] = place.get(kind, -1) + 1
        rank.append(place[kind])
    known = {row.tobytes() for row in shown.windows.ids[:, shown.windows.scored]}
    found: list[int] = []
    for i in sorted(range(len(rank)), key=lambda i: (rank[i], str(near.stratum[i]))):
        text = near.windows.ids[i, near.windows.scored].tobytes()
        if text not in known and len(found) < n:
            known.add(text)
            found.append(i)
    return np.asarray(found, int)


def escaped(line: str) -> str:
    """A line of JSON in which nothing is invisible and nothing looks like a role or a fence. Means the same."""
    line = re.sub(_LIKE_A_ROLE, lambda found: f"\\u{ord(found[0]):04x}", line)
    return _PRINTED.sub(lambda found: found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1], line)


def _pieces(ids: Ints, marks: Ints, vocabulary: Vocabulary) -> list[Any]:
    """Strings and pairs, in order; neighbours of equal strength joined."""
    found: list[tuple[str, int]] = []
    for token, mark in zip(ids.tolist(), marks.tolist(), strict=True):
        if token == PAD or vocabulary.special[token]:
            continue
        text = _spelled(token, vocabulary)
        if found and found[-1][1] == mark:
            text = found.pop()[0] + text
        found.append((text, mark))
    return [[text, mark] if mark else text for text, mark in found]


def _text(ids: Ints, vocabulary: Vocabulary) -> str:
    return "".join(_spelled(t, vocabulary) for t in ids.tolist() if t != PAD and not vocabulary.special[t])


def _spelled(token: int, vocabulary: Vocabulary) -> str:
    return (" " if vocabulary.starts_word[token] else "") + vocabulary.pieces[token]


def _unspaced(piece: Any) -> Any:
    """The first piece of a text, without the space that only parts it from what would stand before."""
    return piece.removeprefix(" ") if isinstance(piece, str) else [piece[0].removeprefix(" "), *piece[1:]]
