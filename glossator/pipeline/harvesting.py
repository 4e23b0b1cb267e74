"""The harvest: one pass over the corpus, whole, in shards, or by several workers, and what is stored of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glossator.agents.run import Progress, Say, silent
from glossator.config import (
    Recipe,
    elsewhere,
)
from glossator.errors import UsageError
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

if TYPE_CHECKING:
    from glossator.harness.harvest import Work
    from glossator.harness.loading import LoadingCheck

ENGINES = ("process", "ray")


def harvest(
    path: Path,
    recipe: Recipe,
    workers: int = 1,
    engine: str = "process",
    progress: Progress = silent,
    say: Say = silent,
) -> None:
    """Read the corpus through the subject and its dictionaries once, and write what was found. Raises on wrong input, before the pass."""
    from glossator.harness import workers as crew
    from glossator.harness.controls import set_up_with_controls
    from glossator.harness.harvest import run_missing
    from glossator.harness.parts import parts_in, remove

    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: write one of {', '.join(ENGINES)}")
    with _new(path) as store:
        work, recipe = set_up_with_controls(recipe, path, workers, progress, say)
        recipe = recipe.model_copy(update={"harvest": work.config})
        checks = _introduce(work, recipe, say)
        folder = harvest_folder(path)
        if few := crew.too_small(work, workers):
            say(f"--workers {workers}: {few}")

        def tell(done: int, total: int) -> None:
            progress("harvest", done, total)

        if engine == "ray":
            crew.run_ray(recipe, folder, workers, lambda done, of: progress("tasks", done, of))
        elif workers > 1:
            crew.run_workers(work, recipe, folder, workers, tell)
        else:
            run_missing(work, folder, 0, len(work.ranges), tell)
        _store(store, work, recipe, [part.path for part in parts_in(folder, work.about)], checks, say)
        if left := remove(folder, work.about):
            say(f"{folder}: still holds files of other harvests ({left}); merge them, or delete the folder")
        _conclude(store, say)


def harvest_shard(
    path: Path, recipe: Recipe, number: int, of: int, progress: Progress = silent, say: Say = silent
) -> None:
    """One worker's share of a harvest, as parts beside the run file, which is not opened. `merge` makes one run of all parts."""
    from glossator.harness import workers as crew
    from glossator.harness.controls import set_up_with_controls

    _check_folder(path)
    work, recipe = set_up_with_controls(recipe, path, of, progress, say)
    _introduce(work, recipe, say)
    if few := crew.too_small(work, of):
        say(f"--shard {number}/{of}: {few}")
    folder = harvest_folder(path)
    n = crew.run_share(work, folder, number, of, lambda done, total: progress("harvest", done, total))
    say(f"shard {number}/{of}: {n} of {len(work.ranges)} pieces of the corpus, in {folder}")


def merge(
    path: Path,
    shards: Sequence[Path],
    say: Say = silent,
    *,
    model: str | None = None,
    dictionaries: Sequence[str] = (),
    corpus: Sequence[str] = (),
) -> None:
    """Make a run file of the parts that `harvest_shard` left, files or folders of them. What they were made from is loaded again.

    The parts say where that lay when they were made; `model`, `dictionaries` and `corpus` say where the same things lie here.
    """
    from glossator.harness import workers as crew
    from glossator.harness.parts import about_of, found_in

    files = [file for shard in shards for file in found_in(shard)]
    if not files:
        raise UsageError(f"{', '.join(map(str, shards))}: no parts here; name what `harvest --shard` wrote")
    text = about_of(files[0]).recipe
    if text is None:
        raise UsageError(f"{files[0]}: does not say what it was made from; harvest its shard again")
    recipe = Recipe.model_validate_json(text)
    recipe = recipe.model_copy(update={"subject": elsewhere(recipe.subject, model, dictionaries, corpus)})
    with _new(path) as store:
        work = crew.set_up(recipe)
        _store(store, work, recipe, files, _introduce(work, recipe, say), say)
        say(f"{len(files)} part{'s' * (len(files) > 1)} joined; they may be deleted: {', '.join(map(str, shards))}")
        _conclude(store, say)


def harvest_folder(path: Path) -> Path:
    """Where the parts of a harvest lie until they are stored."""
    return path.with_suffix(path.suffix + ".harvest")


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")


@contextmanager
def _new(path: Path) -> Iterator[Store]:
    """A run file to put a harvest into, opened before the work: one that cannot be used is found out then.

    A file that this made and that holds no harvest in the end is removed.
    """
    _check_folder(path)
    made, used = not path.exists(), True
    try:
        with Store(path) as store:
            used = not made
            if reading.dictionaries(store):
                raise UsageError(f"{path}: holds a harvest already; name another file")
            try:
                yield store
            finally:
                used = used or bool(reading.dictionaries(store))
    finally:
        if not used:
            path.unlink(missing_ok=True)


def _conclude(store: Store, say: Say) -> None:
    """What came out, and what to do next, in one line."""
    counts = store.sql("SELECT status, count(*) FROM feature GROUP BY status ORDER BY count(*) DESC, status")
    features = ", ".join(f"{n:,} {status}" for status, n in counts)
    say(f"{store.path}: {sum(n for _, n in counts):,} features ({features}); next: glossator label {store.path}")


def _introduce(work: Work, recipe: Recipe, say: Say) -> list[LoadingCheck]:
    """Say what was loaded and whether it fits together."""
    corpus = work.corpus
    asked, size = recipe.corpus.context_size, work.subject.context_size
    if asked is not None and size < asked:
        say(f"--context-size {asked}: the model reads {size} tokens at most, so contexts have {size}")
    say(
        f"corpus: {len(corpus.tokens):,} tokens in {len(corpus.names):,} documents, {len(corpus.window_start):,} windows"
    )
    checks = []
    for dictionary in work.dictionaries:
        checks.append(work.check(dictionary))
        say(
            f"dictionary {dictionary.name}: {dictionary.n_features:,} features at {dictionary.hook}, {checks[-1].summary}"
        )
        for warning in checks[-1].warnings:
            say(f"WARNING: {dictionary.name}: {warning}")
    return checks


def _store(
    store: Store, work: Work, recipe: Recipe, files: Sequence[Path], checks: list[LoadingCheck], say: Say
) -> None:
    from glossator.harness.harvest import merge as merged
    from glossator.harness.parts import mixture
    from glossator.harness.tables import harvest_tables, manifest

    if mixed := mixture(files):
        say(f"WARNING: the parts were made with different {mixed}: they equal those of one machine up to rounding")
    found = merged(work, files)
    tables = harvest_tables(
        work.subject, work.dictionaries, work.corpus, list(recipe.subject.corpus), found, checks, recipe.harvest
    )
    facts = manifest(work.subject, work.dictionaries, recipe.corpus, recipe.harvest)
    store.put_tables(itertools.chain(facts.items(), tables))
    materialise_labels(store)
