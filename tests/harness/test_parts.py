"""Parts: whose they are, which shards they hold, who may remove them, and what a kill leaves of them."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glossator.config import HarvestConfig
from glossator.errors import HarvestError
from glossator.harness.harvest import Work, harvest, merge, run_missing
from glossator.harness.parts import (
    Part,
    about_of,
    corpus_path,
    found_in,
    missing,
    mixture,
    part_path,
    parts_in,
    remove,
    save,
    settled,
    sweep,
)
from glossator.planted import planted_documents
from tests.harness.planted_runs import corpus_of, work_of

CONFIG = HarvestConfig(
    top=3, sample=5, background=(20, 20, 20), batch_tokens=512, encode_tokens=256, shard_tokens=1024, threads=1
)


@pytest.fixture(scope="module")
def work() -> Work:
    found = work_of(corpus_of(planted_documents(120)), CONFIG)
    assert len(found.ranges) > 6
    return found


@pytest.fixture(scope="module")
def whole(work: Work, tmp_path_factory: pytest.TempPathFactory) -> str:
    return harvest(work, tmp_path_factory.mktemp("whole")).found[0].digest


def digest(work: Work, folder: Path) -> str:
    return merge(work, [part.path for part in parts_in(folder, work.about)]).found[0].digest


def ranges(parts: list[Part]) -> list[tuple[int, int]]:
    return [(part.first, part.last) for part in parts]


# ------------------------------------------------------------------ parts that hold the same shards


def test_of_parts_that_overlap_the_longer_one_stays_and_the_gap_is_run_again(
    work: Work, whole: str, tmp_path: Path
) -> None:
    n = len(work.ranges)
    run_missing(work, tmp_path / "a", 0, 3)
    run_missing(work, tmp_path / "b", 2, n)
    shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    (kept,) = tmp_path.glob(f"b/part-*-00002-{n:05d}.npz")
    written = kept.stat().st_mtime_ns
    run_missing(work, tmp_path / "b", 0, n)
    assert ranges(parts_in(tmp_path / "b", work.about)) == [(0, 2), (2, n)]
    assert kept.stat().st_mtime_ns == written
    assert digest(work, tmp_path / "b") == whole


@pytest.mark.parametrize(
    ("given", "stay"),
    [
        ([(0, 2), (2, 4)], [(0, 2), (2, 4)]),
        ([(0, 2), (0, 4)], [(0, 4)]),
        ([(0, 4), (2, 6)], [(0, 4)]),
        ([(0, 3), (2, 6)], [(2, 6)]),
        ([(0, 4), (1, 3), (2, 6), (6, 7)], [(0, 4), (6, 7)]),
        ([(0, 2), (1, 4), (3, 9)], [(3, 9)]),
    ],
)
def test_no_shard_is_held_twice(given: list[tuple[int, int]], stay: list[tuple[int, int]]) -> None:
    kept = settled([Part(Path(f"{a}-{b}"), a, b) for a, b in reversed(given)])
    assert ranges(kept) == stay
    missing(kept, 0, 9)  # raises where two parts hold one shard


class _Folder(type(Path())):  # type: ignore[misc]  # the class depends on the system
    """A folder in which another process removes a part right after it was listed."""

    def glob(self, pattern: str, **more: Any) -> Iterator[Path]:
        found = list(super().glob(pattern, **more))
        yield from found
        if found and pattern.endswith(".npz"):
            yield found[0].with_name(found[0].name.replace("-00003.npz", "-00001.npz"))


def test_a_part_that_another_process_has_removed_already_is_no_error(work: Work, tmp_path: Path) -> None:
    run_missing(work, tmp_path, 0, 3)
    assert ranges(parts_in(_Folder(tmp_path), work.about)) == [(0, 3)]


# ------------------------------------------------------------------ whose a part is


def test_a_part_under_the_name_of_another_is_refused(work: Work, tmp_path: Path) -> None:
    half, n = len(work.ranges) // 2, len(work.ranges)
    run_missing(work, tmp_path, 0, half)
    (part,) = parts_in(tmp_path, work.about)
    copy = part_path(tmp_path, work.about, half, n)
    shutil.copy(part.path, copy)
    with pytest.raises(HarvestError, match=rf"{copy.name}: holds the shards 1 to {half}, not those.*delete it and run"):
        merge(work, [part.path, copy])


def test_parts_of_another_format_are_not_merged(work: Work, tmp_path: Path) -> None:
    run_missing(work, tmp_path, 0, len(work.ranges))
    (part,) = parts_in(tmp_path, work.about)
    with np.load(part.path) as file:
        arrays = {name: file[name] for name in file.files if name not in ("about", "shards")}
    made_of = {what: value for what, value in work.about.made_of.items() if what != "format of parts"}
    older = dataclasses.replace(work.about, made_of=made_of)
    path = part_path(tmp_path, older, part.first, part.last)
    save(path, older, arrays)
    assert path != part.path
    with pytest.raises(HarvestError, match=r"comes from another harvest .another format of parts."):
        merge(work, [path])


def test_names_and_places_are_no_part_of_what_a_part_was_made_of(work: Work) -> None:
    moved = work_of(work.corpus, CONFIG)
    moved.subject.name = "elsewhere"
    moved.dictionaries[0].name = "another name"
    assert moved.about == work.about


def test_what_made_parts_is_told_where_it_differs(work: Work, tmp_path: Path) -> None:
    run_missing(work, tmp_path, 0, 2)
    threads = work_of(work.corpus, CONFIG.model_copy(update={"threads": 2}))
    assert threads.about.identity == work.about.identity
    run_missing(threads, tmp_path, 0, 4)
    torch.set_num_threads(1)
    files = [part.path for part in parts_in(tmp_path, work.about)]
    assert len(files) == 2
    assert about_of(files[0]).made_by["threads"] == "1"
    assert mixture(files[:1]) == ""
    assert mixture(files) == "threads (1 and 2)"


def test_a_folder_of_several_harvests_is_not_merged_as_one(work: Work, tmp_path: Path) -> None:
    run_missing(work, tmp_path, 0, 2)
    assert [path.name[-15:] for path in found_in(tmp_path)] == ["00000-00002.npz"]
    run_missing(work_of(work.corpus, CONFIG.model_copy(update={"seed": 5})), tmp_path, 0, 2)
    with pytest.raises(HarvestError, match=r"holds parts of 2 harvests; name the files of one, such as .*-\*\.npz"):
        found_in(tmp_path)


# ------------------------------------------------------------------ what is removed, and when


def test_a_harvest_removes_its_own_files_and_no_other(work: Work, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    other = work_of(work.corpus, CONFIG.model_copy(update={"top": 4}))
    for each in (work, other):
        run_missing(each, folder, 0, 1)
        part_path(folder, each.about, 1, 2).with_suffix(".host-1.tmp").touch()
        corpus_path(folder, each.about).touch()
    theirs = {path.name for path in folder.iterdir() if other.about.identity in path.name}
    assert remove(folder, work.about) == 3 == len(theirs)
    assert {path.name for path in folder.iterdir()} == theirs
    assert remove(folder, other.about) == 0
    assert not folder.exists()
    assert remove(folder, other.about) == 0


class _Interrupted:
    """Ctrl-C while this is written; it notes what lies in the folder then."""

    def __init__(self, folder: Path, seen: list[str]) -> None:
        self.folder, self.seen = folder, seen

    def __reduce__(self) -> Any:
        self.seen += [path.name for path in self.folder.iterdir()]
        raise KeyboardInterrupt


def test_a_write_that_is_interrupted_leaves_nothing(work: Work, tmp_path: Path) -> None:
    seen: list[str] = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            arrays = {"x": np.asarray(_Interrupted(tmp_path, seen), object)}
            save(part_path(tmp_path, work.about, 0, 1), work.about, arrays)
    assert list(tmp_path.iterdir()) == []
    assert len(set(seen)) == 2  # no two writers share a name, be they on two machines with one folder
    assert all(platform.node() in name and name.endswith(".tmp") for name in seen)


def test_what_killed_writers_left_is_swept_once_it_is_old(work: Work, tmp_path: Path) -> None:
    other = work_of(work.corpus, CONFIG.model_copy(update={"top": 4}))
    part = part_path(tmp_path, work.about, 0, 1).with_suffix(".host-1.tmp")
    corpus = corpus_path(tmp_path, work.about)
    young = part_path(tmp_path, work.about, 1, 2).with_suffix(".host-2.tmp")
    theirs = part_path(tmp_path, other.about, 0, 1).with_suffix(".host-3.tmp")
    for path in (part, corpus, young, theirs):
        path.touch()
    for path in (part, corpus, theirs):
        os.utime(path, (time.time() - 3600,) * 2)
    run_missing(work, tmp_path, 0, 0)
    assert sorted(tmp_path.iterdir()) == sorted([young, theirs])
    sweep(tmp_path / "not there", work.about)
