"""Files of a harvest under way: each holds what a run of shards [first, last) found, for all dictionaries.

A part is written under a temporary name and renamed, and says in its `about` what it was made of, and which shards it
holds. A longer part takes the place of the shorter one that it continues, so a harvest that was killed leaves whole parts,
and disk stays bounded. A folder may hold parts of several harvests: each looks at its own, by their names, and removes no other.
"""

from __future__ import annotations

import json
import os
import platform
import re
import time
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glossator.errors import HarvestError
from glossator.types import Ints, content_id

FORMAT = 2  # of what a part holds and means: count it up when either changes
_STALE = 600.0  # seconds after which nobody writes, or reads, a passing file any more


@dataclass(frozen=True)
class About:
    """What a part was made of. `made_of` must be equal to be merged, `made_by` should be; `recipe` is how to make it again."""

    made_of: dict[str, str]  # subject, dictionaries, corpus, shapes and seed, format
    made_by: dict[str, str]  # torch, device, threads
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


def corpus_path(folder: Path, about: About) -> Path:
    """Where a prepared corpus lies while workers load it: a name that no other run has."""
    return folder / f"corpus-{about.identity}-{uuid.uuid4().hex}.npz"


def part_of(path: Path) -> Part:
    """What a part holds by its name. Raises HarvestError where the name is not one that we give."""
    numbers = re.search(r"-(\d{5,})-(\d{5,})$", path.stem)
    if numbers is None:
        raise HarvestError(f"{path}: was renamed; a part is called part-HARVEST-FIRST-LAST.npz")
    return Part(path, int(numbers[1]), int(numbers[2]))


def parts_in(folder: Path, about: About) -> list[Part]:
    """The parts of this harvest that lie in a folder, in order; none holds a shard that another holds.

    Others are removed: a longer one covers them, or will once what they leave uncovered has been run again.
    """
    found = [part_of(path) for path in folder.glob(f"part-{about.identity}-*.npz")]
    kept = settled(found)
    for part in found:
        if part not in kept:
            part.path.unlink(missing_ok=True)  # another process may tidy up at the same time
    return kept


def found_in(path: Path) -> list[Path]:
    """The parts in a folder, of whatever harvest; a file stands for itself. Raises HarvestError where there are those of several."""
    if not path.is_dir():
        return [path]
    found = [part_of(part) for part in path.glob("part-*.npz")]
    harvests = sorted({part.path.name.split("-")[1] for part in found})
    if len(harvests) > 1:
        raise HarvestError(
            f"{path}: holds parts of {len(harvests)} harvests; name the files of one, such as {path}/part-{harvests[0]}-*.npz"
        )
    return [part.path for part in settled(found)]


def settled(parts: Sequence[Part]) -> list[Part]:
    """Of parts that hold the same shards the longer one, in order."""
    kept: list[Part] = []
    for part in sorted(parts, key=lambda p: (p.first, -p.last)):
        if kept and part.first < kept[-1].last:
            if part.last - part.first <= kept[-1].last - kept[-1].first:
                continue
            kept.pop()
        kept.append(part)
    return kept


def sweep(folder: Path, about: About) -> None:
    """Remove the passing files that killed processes left. Young ones may be somebody's who lives."""
    for path in _passing(folder, about):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE:
                path.unlink()


def _passing(folder: Path, about: About) -> list[Path]:
    names = (f"part-{about.identity}-*.tmp", f"corpus-{about.identity}-*")
    return [path for name in names for path in folder.glob(name)]


def remove(folder: Path, about: About) -> int:
    """Remove what this harvest left in a folder, and the folder with it once it is empty. Returns how many files stay."""
    for path in [*folder.glob(f"part-{about.identity}-*.npz"), *_passing(folder, about)]:
        path.unlink(missing_ok=True)
    with suppress(OSError):  # others' files are in it, or it is gone already
        folder.rmdir()
    return len(list(folder.iterdir())) if folder.is_dir() else 0


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
    """Write what the shards gave that the name says; the part says it, too."""
    part = part_of(path)
    temporary = path.with_suffix(f".{platform.node()}-{uuid.uuid4().hex}.tmp")
    held = {"about": np.asarray(json.dumps(asdict(about))), "shards": np.asarray([part.first, part.last]), **arrays}
    try:
        with temporary.open("wb") as file:
            np.savez(file, **held)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise HarvestError(f"{path}: could not be written ({error.strerror}); free some space and run again") from error
    finally:  # after an interruption, too; once renamed, it is not there
        temporary.unlink(missing_ok=True)


def load(path: Path, expected: About) -> tuple[Part, dict[str, Ints]]:
    """Raises HarvestError for a file that is cut short, damaged or no part, and for a part of another harvest or of other shards."""
    with _open(path) as file:
        arrays = {name: file[name] for name in file.files}
        _check_same(path, _about(arrays.pop("about")), expected)
        first, last = (int(number) for number in arrays.pop("shards"))
    part = part_of(path)
    if (first, last) != (part.first, part.last):
        raise HarvestError(
            f"{path}: holds the shards {first + 1} to {last}, not those that its name says; delete it and run its shards again"
        )
    return part, arrays


def about_of(path: Path) -> About:
    """What a part says of itself, without reading the rest of it. Raises HarvestError as `load` does."""
    with _open(path) as file:
        return _about(file["about"])


def mixture(files: Sequence[Path]) -> str:
    """In what those differ who made these parts, in words; empty where they do not."""
    made_by = [about_of(file).made_by for file in files]
    what = sorted({name for each in made_by for name in each})
    values = {name: sorted({each.get(name, "?") for each in made_by}) for name in what}
    return ", ".join(f"{name} ({' and '.join(given)})" for name, given in values.items() if len(given) > 1)


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


def _check_same(path: Path, about: About, expected: About) -> None:
    """Raise HarvestError where a part belongs to another harvest, saying in what it differs."""
    differs = [what for what, value in expected.made_of.items() if about.made_of.get(what) != value]
    if differs or about.shards != expected.shards:
        raise HarvestError(f"{path}: comes from another harvest (another {', '.join(differs) or 'number of shards'})")
