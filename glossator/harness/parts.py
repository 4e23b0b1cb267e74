"""Files of a harvest under way: each holds what a run of shards [first, last) found, for all dictionaries.

A part is written under a temporary name and renamed, and says in its `about` what it was made of. A longer part takes the
place of the shorter one that it continues, so a harvest that was killed leaves whole parts, and disk stays bounded.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glossator.errors import HarvestError
from glossator.types import Ints, content_id


@dataclass(frozen=True)
class About:
    """What a part was made of. `made_of` must be equal to be merged, `made_by` should be; `recipe` is how to make it again."""

    made_of: dict[str, str]  # subject, dictionaries, corpus, shapes and seed
    made_by: dict[str, str]  # torch, device
    shards: int  # of the whole harvest
    recipe: str | None = None

    @property
    def identity(self) -> str:
        return content_id(self.made_of, self.shards)


@dataclass(frozen=True)
class Part:
    """The shards [first, last), in a file."""

    path: Path
    first: int
    last: int


def part_path(folder: Path, about: About, first: int, last: int) -> Path:
    return folder / f"part-{about.identity}-{first:05d}-{last:05d}.npz"


def part_of(path: Path) -> Part:
    """Raises HarvestError where the name is not one that we give."""
    numbers = re.search(r"-(\d{5,})-(\d{5,})$", path.stem)
    if numbers is None:
        raise HarvestError(f"{path}: was renamed; a part is called part-HARVEST-FIRST-LAST.npz")
    return Part(path, int(numbers[1]), int(numbers[2]))


def parts_in(folder: Path, about: About) -> list[Part]:
    """The parts of this harvest that lie in a folder, in order. Parts that a longer one covers are removed."""
    found = []
    for path in folder.glob(f"part-{about.identity}-*.npz"):
        found.append(part_of(path))
    kept: list[Part] = []
    for part in sorted(found, key=lambda p: (p.first, -p.last)):
        if kept and part.last <= kept[-1].last:
            part.path.unlink()
        else:
            kept.append(part)
    return kept


def missing(parts: Sequence[Part], first: int, last: int) -> list[tuple[int, int]]:
    """The runs of shards within [first, last) that no part covers. Raises HarvestError where two parts hold one shard."""
    gaps, at = [], 0
    for part in sorted(parts, key=lambda p: p.first):
        if part.first < at:
            raise HarvestError(f"{part.path}: holds shards that another part holds too; leave one of them out")
        gaps.append((at, part.first))
        at = part.last
    gaps.append((at, last))
    inside = [(max(a, first), min(b, last)) for a, b in gaps]
    return [(a, b) for a, b in inside if a < b]


def save(path: Path, about: About, arrays: dict[str, Ints]) -> None:
    temporary = path.with_suffix(f".tmp{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            np.savez(file, about=np.asarray(json.dumps(asdict(about))), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HarvestError(f"{path}: could not be written ({error.strerror}); free some space and run again") from error


def load(path: Path) -> tuple[About, dict[str, Ints]]:
    """Raises HarvestError for a file that is cut short, damaged or no part."""
    with _open(path) as file:
        arrays = {name: file[name] for name in file.files}
        return _about(arrays.pop("about")), arrays


def about_of(path: Path) -> About:
    """What a part says of itself, without reading the rest of it. Raises HarvestError as `load` does."""
    with _open(path) as file:
        return _about(file["about"])


def _about(text: Ints) -> About:
    return About(**json.loads(str(text)))


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A part's arrays; whatever reading them raises is an error that says what to do."""
    try:
        with np.load(path, allow_pickle=False) as file:
            yield file
    except FileNotFoundError as error:
        raise HarvestError(f"{path}: no such part; name the files that `harvest --shard` wrote") from error
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise HarvestError(f"{path}: is no complete part; delete it and run its shard again") from error


def check_same(path: Path, about: About, expected: About) -> None:
    """Raise HarvestError where a part belongs to another harvest, saying in what it differs."""
    differs = [what for what, value in expected.made_of.items() if about.made_of.get(what) != value]
    if differs or about.shards != expected.shards:
        raise HarvestError(f"{path}: comes from another harvest (another {', '.join(differs) or 'number of shards'})")
