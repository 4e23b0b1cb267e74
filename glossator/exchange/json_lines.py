"""Objects of a file of JSON lines, packed or not, one at a time: a file of any size is read in the memory of one line.

Stricter than `json`: a name twice in an object would lose one of the two in silence, and NaN is no JSON. What is wrong is
one UsageError that names file and line; a file that was cut off exactly between two lines cannot be told from a shorter one.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glossator.agents.others.label_files import shown
from glossator.errors import UsageError

_LONGEST = 1 << 27  # bytes of one line


def objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object with the number of its line. Raises UsageError."""
    number = 0
    try:
        with path.open("rb") as packed:
            head = packed.read(2)
        with gzip.open(path, "rb") if head == b"\x1f\x8b" else path.open("rb") as file:
            while line := file.readline(_LONGEST):
                number += 1
                if line.strip():
                    yield number, _object(path, number, line)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except EOFError as error:
        raise UsageError(f"{path}: cut off in the middle, after line {number}; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(
            f"{path}: a damaged gzip file, after line {number} ({error}); copy or download it again"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    if len(line) >= _LONGEST:
        raise UsageError(f"{path}: line {number}: over {_LONGEST >> 20} MiB; write one object a line")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: line {number}: not UTF-8; save the file as UTF-8, or copy it again") from error
    try:
        found = json.loads(text, object_pairs_hook=_named_once, parse_constant=_no_number)
    except RecursionError as error:
        raise UsageError(f"{path}: line {number}: nested too deeply") from error
    except ValueError as error:
        said = getattr(error, "msg", str(error).split(";")[0])
        raise UsageError(
            f"{path}: line {number}: not a whole JSON object ({said}); write one object a line, or copy the file again if it was cut off"
        ) from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: line {number}: is {shown(found)}, not an object; write one object a line")
    return found


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {shown(twice)} twice in an object")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")
