"""In which line of a TOML file each key stands, so that a mistake can be shown where it is. tomllib reads values and forgets lines.

It finds table headers and the keys at the beginning of lines, and skips what strings and arrays over several lines hold. A key
inside an inline table, or an entry of an array, is at the line of the key that holds it. It judges nothing: tomllib does.
"""

from __future__ import annotations

import re

Place = tuple[str, ...]

_KEY = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_PATH = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*\[\[?\s*({_PATH})\s*\]\]?")
_ENTRY = re.compile(rf"\s*({_PATH})\s*=")
# what a value may hold that brackets and quotes must not be looked for in, and the brackets themselves
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""' r"|'''.*?'''" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'" r"|\#[^\n]*|[\[\]{}]", re.DOTALL
)


def lines_of(text: str) -> dict[Place, int]:
    """(`llm`, `concurrency`) -> 14, and (`llm`,) -> 12 for the header. The first line is 1."""
    plain = _TOKEN.sub(_blanked, text)
    inside = _inside_strings(text)
    found: dict[Place, int] = {}
    table: Place = ()
    depth = 0
    for number, (line, shown) in enumerate(zip(text.split("\n"), plain.split("\n"), strict=True), 1):
        if depth == 0 and number not in inside:
            if header := _HEADER.match(line):
                table = _parts(header[1])
                found.setdefault(table, number)
                continue
            if entry := _ENTRY.match(line):
                found.setdefault((*table, *_parts(entry[1])), number)
        depth = max(0, depth + sum(shown.count(c) for c in "[{") - sum(shown.count(c) for c in "]}"))
    return found


def line_of(found: dict[Place, int], place: Place) -> int | None:
    """The line of a place, or of the nearest that holds it."""
    while place:
        if place in found:
            return found[place]
        place = place[:-1]
    return None


def _inside_strings(text: str) -> set[int]:
    """The lines that begin inside a string."""
    found: set[int] = set()
    for token in _TOKEN.finditer(text):
        if lines := token[0].count("\n"):
            first = text.count("\n", 0, token.start()) + 1
            found |= set(range(first + 1, first + 1 + lines))
    return found


def _blanked(token: re.Match[str]) -> str:
    """Brackets stay; strings and comments become as many empty lines as they had."""
    return token[0] if token[0] in "[]{}" else "\n" * token[0].count("\n")


def _parts(path: str) -> Place:
    return tuple(part.strip("\"'") for part in re.findall(_KEY, path))
