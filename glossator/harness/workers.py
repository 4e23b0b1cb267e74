"""The same shards in several processes: on this machine, or as tasks of a Ray cluster.

A worker is given a recipe and a run of shards, loads the model itself, and writes parts to a folder that all can see. It
never opens the run file. A worker that fails ends the others too, so that its error is read at once: what is lost are the
shards since the last parts, and the next run does them. Workers end with the process that started them, however that ends.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from glossator.config import HarvestConfig, Recipe
from glossator.errors import GlossatorError, HarvestError, UsageError
from glossator.harness.contexts import Corpus, prepare
from glossator.harness.corpus import read_corpus
from glossator.harness.harvest import Progress, Work, run_missing
from glossator.harness.loading import load_model
from glossator.harness.parts import corpus_path, missing, parts_in, sweep
from glossator.harness.subject import check_device

Runs = Sequence[tuple[int, int]]
_PIECES = 4  # shards for each worker, so that they end at about the same time
_GRACE = 10.0  # seconds for a worker to end in good order
_LEAST_SHARD = 8  # batches: a shard ends with a part-filled batch for each width, so smaller ones waste too much


def set_up(recipe: Recipe, corpus: Corpus | None = None, workers: int = 1) -> Work:
    """Load what a recipe names; `corpus` where it has been prepared already. For several workers a small corpus is cut finer."""
    check_device(recipe.harvest.device)
    subject, dictionaries = load_model(recipe.subject, recipe.corpus.context_size, recipe.harvest.device)
    if corpus is None:
        size = subject.context_size - len(subject.prefix) - len(subject.suffix)
        corpus = prepare(read_corpus(recipe.subject.corpus), subject.tokenize, size, recipe.corpus)
        _hand_back()
    recipe = recipe.model_copy(update={"harvest": _cut(recipe.harvest, len(corpus.tokens), workers)})
    return Work(subject, dictionaries, corpus, recipe.harvest, recipe.model_dump_json())


def _cut(config: HarvestConfig, tokens: int, workers: int) -> HarvestConfig:
    """Shards small enough that each worker gets some. It depends on nothing else, so that machines agree without a word."""
    fair = max(tokens // (_PIECES * workers), _LEAST_SHARD * config.batch_tokens)
    return config if workers == 1 else config.model_copy(update={"shard_tokens": min(config.shard_tokens, fair)})


def too_small(work: Work, workers: int) -> str | None:
    """What to say where there are fewer shards than workers."""
    n, least = len(work.ranges), workers * work.config.shard_tokens
    if n >= workers:
        return None
    return f"the corpus is {n} shard{'s' * (n > 1)} of up to {work.config.shard_tokens:,} tokens: {workers} workers need at least some {least:,} to share"


def _hand_back() -> None:
    """Give the heap's free pages back to the system, where the C library can: preparing a corpus leaves many, the more the longer it is."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    gc.collect()
    if trim is not None:  # glibc has it, musl has not
        trim(0)


def share(n_shards: int, number: int, of: int) -> tuple[int, int]:
    """Which shards [first, last) the worker `number` of `of` (from 1) runs: neighbours, so that one part holds them."""
    return (number - 1) * n_shards // of, number * n_shards // of


def run_workers(work: Work, recipe: Recipe, folder: Path, workers: int, progress: Progress) -> None:
    """Run what is missing in `workers` processes of this machine. Raises HarvestError as soon as one of them failed."""
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder, work.about)
    runs = _shared(missing(parts_in(folder, work.about), 0, len(work.ranges)), workers)
    if not runs:
        return
    corpus = corpus_path(folder, work.about)
    context = multiprocessing.get_context("spawn")
    crew: list[_Hand] = []
    try:
        work.corpus.save(corpus)
        with _deaf_to_ctrl_c():  # from their first moment on: the driver ends them
            for run in runs:
                news, tell = context.Pipe(duplex=False)
                told = (recipe.model_dump_json(), str(corpus), str(folder), *run, tell)
                crew.append(_Hand(context.Process(target=_worker, args=told, daemon=True), news))
                crew[-1].process.start()
                tell.close()  # the worker has its own: when that is gone, there are no more news
        _listen(crew, runs, work, progress)
    finally:
        _dismiss([hand for hand in crew if hand.process.pid is not None])
        corpus.unlink(missing_ok=True)


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes that are started meanwhile stay deaf to it. Only the main thread can do this."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)


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
    done: int
    error: str | None = None


@dataclass(frozen=True)
class _Hand:
    """A worker as its driver sees it. Each has a pipe of its own: who dies while telling holds up nobody else."""

    process: Any
    news: Any


def _dismiss(crew: Sequence[_Hand]) -> None:
    """End those that have not ended, in good order where they heed it."""
    for hand in crew:
        hand.process.terminate()
    for hand in crew:
        hand.process.join(_GRACE)
        hand.process.kill()
        hand.process.join()
        hand.news.close()


def _worker(recipe_json: str, corpus: str, folder: str, first: int, last: int, tell: Any) -> None:
    """What a spawned process does. Its errors are told, not raised: nobody reads its traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no half-written file is left
    threading.Thread(target=_end_with_driver, daemon=True).start()

    def say(done: int, error: str | None = None) -> None:
        try:
            tell.send(_News(done, error))
        except OSError:  # nobody listens
            os._exit(1)

    try:
        recipe = Recipe.model_validate_json(recipe_json)
        work = set_up(recipe, Corpus.load(Path(corpus)))
        run_missing(work, Path(folder), first, last, lambda done, total: say(done))
    except GlossatorError as error:
        say(0, str(error))
    except Exception as error:  # noqa: BLE001  the driver turns it into an error that names the worker
        say(0, f"{type(error).__name__}: {error}\n{traceback.format_exc()}")


def _end_with_driver() -> None:
    """A driver that was killed cannot end its workers: they would go on, and hold shards that the next run does too."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os._exit(1)


def _listen(crew: Sequence[_Hand], runs: Runs, work: Work, progress: Progress) -> None:
    """Until all have ended. Raises HarvestError for the first that fails."""
    before = work.n_tokens - sum(work.tokens_in(*run) for run in runs)
    done = [0] * len(crew)
    heard = {hand.news: number for number, hand in enumerate(crew)}
    progress(before, work.n_tokens)
    while heard:
        for news in wait(list(heard)):
            number = heard[news]
            try:
                told: _News = crew[number].news.recv()
            except (EOFError, OSError):  # it has ended, or was killed in the middle of a word
                del heard[news]
                told = _farewell(crew[number].process, done[number])
            if told.error is not None:
                others = ", the others were stopped" if len(crew) > 1 else ""
                raise HarvestError(
                    f"worker {number + 1} of {len(crew)} failed{others}: {told.error}; what they finished is kept, run again to go on"
                )
            done[number] = told.done
            progress(before + sum(done), work.n_tokens)


def _farewell(process: Any, done: int) -> _News:
    process.join()
    if not process.exitcode:
        return _News(done)
    return _News(done, f"the process died (exit code {process.exitcode}; -9 is often a lack of memory)")


def run_share(work: Work, folder: Path, number: int, of: int, progress: Progress) -> int:
    """What the worker `number` of `of` has to do, as parts in `folder`; returns how many shards that are."""
    first, last = share(len(work.ranges), number, of)
    run_missing(work, folder, first, last, progress)
    return last - first


def run_shard(recipe: Recipe, folder: Path, number: int, of: int, progress: Progress) -> None:
    """`run_share` for a worker that must load what the recipe names."""
    run_share(set_up(recipe, workers=of), folder, number, of, progress)


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
