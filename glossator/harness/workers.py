"""The same shards in several processes: on this machine, or as tasks of a Ray cluster.

A worker is given a recipe and a run of shards, loads the model itself, and writes parts to a folder that all can see. It
never opens the run file. A worker that dies takes nothing with it but the shards since its last part: the others go on,
and the next run does what is missing.
"""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glossator.config import Recipe
from glossator.errors import GlossatorError, HarvestError, UsageError
from glossator.harness.contexts import Corpus, prepare
from glossator.harness.corpus import read_corpus
from glossator.harness.harvest import Progress, Work, run_missing
from glossator.harness.loading import load_model
from glossator.harness.parts import missing, parts_in
from glossator.harness.subject import check_device

Runs = Sequence[tuple[int, int]]


def set_up(recipe: Recipe, corpus: Corpus | None = None) -> Work:
    """Load what a recipe names; `corpus` where it has been prepared already."""
    check_device(recipe.harvest.device)
    subject, dictionaries = load_model(recipe.subject, recipe.corpus.context_size, recipe.harvest.device)
    if corpus is None:
        size = subject.context_size - len(subject.prefix) - len(subject.suffix)
        corpus = prepare(read_corpus(recipe.subject.corpus), subject.tokenize, size, recipe.corpus)
    return Work(subject, dictionaries, corpus, recipe.harvest, recipe.model_dump_json())


def share(n_shards: int, number: int, of: int) -> tuple[int, int]:
    """Which shards [first, last) the worker `number` of `of` (from 1) runs: neighbours, so that one part holds them."""
    return (number - 1) * n_shards // of, number * n_shards // of


def run_workers(work: Work, recipe: Recipe, folder: Path, workers: int, progress: Progress) -> None:
    """Run what is missing in `workers` processes of this machine. Raises HarvestError when one of them failed."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = _shared(missing(parts_in(folder, work.about), 0, len(work.ranges)), workers)
    if not runs:
        return
    corpus = folder / f"corpus-{work.corpus.digest}.npz"
    work.corpus.save(corpus)
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    text = recipe.model_dump_json()
    crew = [
        context.Process(target=_worker, args=(text, str(corpus), str(folder), first, last, number, news), daemon=True)
        for number, (first, last) in enumerate(runs)
    ]
    for process in crew:
        process.start()
    try:
        _wait(crew, runs, news, work, progress)
    finally:
        for process in crew:
            process.terminate()
            process.join()
        corpus.unlink(missing_ok=True)


def _shared(gaps: Runs, workers: int) -> list[tuple[int, int]]:
    """Runs of shards for at most `workers` workers, of sizes as equal as neighbours allow."""
    todo = [shard for a, b in gaps for shard in range(a, b)]
    runs = []
    for number in range(1, workers + 1):
        a, b = share(len(todo), number, workers)
        begin = a
        for i in range(a + 1, b + 1):
            if i == b or todo[i] != todo[i - 1] + 1:  # a run ends at a gap, too
                runs.append((todo[begin], todo[i - 1] + 1))
                begin = i
    return runs


@dataclass(frozen=True)
class _News:
    number: int
    done: int
    error: str | None = None
    trace: str | None = None


def _worker(recipe_json: str, corpus: str, folder: str, first: int, last: int, number: int, news: Any) -> None:
    """What a spawned process does. Its errors are told, not raised: nobody reads its traceback."""
    try:
        recipe = Recipe.model_validate_json(recipe_json)
        work = set_up(recipe, Corpus.load(Path(corpus)))
        run_missing(work, Path(folder), first, last, lambda done, total: news.put(_News(number, done)))
    except GlossatorError as error:
        news.put(_News(number, 0, str(error)))
    except Exception as error:  # noqa: BLE001  the driver turns it into an error that names the worker
        news.put(_News(number, 0, f"{type(error).__name__}: {error}", traceback.format_exc()))


def _wait(crew: Sequence[Any], runs: Runs, news: Any, work: Work, progress: Progress) -> None:
    """Until all have ended; then raise for those that failed."""
    before = work.n_tokens - sum(work.tokens_in(*run) for run in runs)
    done = [0] * len(crew)
    failed: dict[int, str] = {}
    progress(before, work.n_tokens)
    while True:
        alive = any(process.is_alive() for process in crew)
        try:
            told = news.get(timeout=0.2)
        except queue.Empty:
            if not alive:
                break
            continue
        if told.error is not None:
            failed[told.number] = told.error
            if told.trace:
                failed[told.number] += f"\n{told.trace}"
        else:
            done[told.number] = told.done
            progress(before + sum(done), work.n_tokens)
    for number, process in enumerate(crew):
        if process.exitcode and number not in failed:
            failed[number] = f"the process died (exit code {process.exitcode}; -9 is often a lack of memory)"
    if failed:
        number, why = next(iter(failed.items()))
        raise HarvestError(
            f"{len(failed)} of {len(crew)} workers failed; worker {number + 1}: {why}; what they finished is kept, run again to go on"
        )


def run_share(work: Work, folder: Path, number: int, of: int, progress: Progress) -> int:
    """What the worker `number` of `of` has to do, as parts in `folder`; returns how many shards that are."""
    first, last = share(len(work.ranges), number, of)
    run_missing(work, folder, first, last, progress)
    return last - first


def run_shard(recipe: Recipe, folder: Path, number: int, of: int, progress: Progress) -> None:
    """`run_share` for a worker that must load what the recipe names."""
    run_share(set_up(recipe), folder, number, of, progress)


def run_ray(recipe: Recipe, folder: Path, of: int, shards_done: Progress) -> None:
    """`run_shard` as tasks of a Ray cluster; `folder` must be one that every node can write."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray: Ray is not installed; pip install 'glossator[ray]'") from error
    ray.init(ignore_reinit_error=True, logging_level="ERROR")
    task = ray.remote(max_retries=0)(_ray_shard)
    waiting = [task.remote(recipe.model_dump_json(), str(folder), number, of) for number in range(1, of + 1)]
    ended, errors = 0, []
    while waiting:
        ready, waiting = ray.wait(waiting)
        ended += 1
        shards_done(ended, of)
        try:
            errors += [told for told in ray.get(ready) if told]
        except ray.exceptions.RayError as error:
            errors.append(f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
    if errors:
        raise HarvestError(
            f"{len(errors)} of {of} tasks failed: {errors[0]}; what they finished is kept, run again to go on"
        )


def _ray_shard(recipe_json: str, folder: str, number: int, of: int) -> str | None:
    """A task: None, or what went wrong."""
    try:
        run_shard(Recipe.model_validate_json(recipe_json), Path(folder), number, of, lambda done, total: None)
    except GlossatorError as error:
        return str(error)
    return None
