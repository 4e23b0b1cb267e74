"""Runs a night: the harvest if there is none, then each stage on each dictionary, then the report. Running again goes on.

Nothing is kept here that is not in the run file: what is left follows from its rows (stages.py), and replies from its log. A budget,
a deadline or a person ends it in good order, with `Stopped`; the report is written all the same.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glossator import pipeline
from glossator.agents.run import Run, Say, silent
from glossator.config import Night, Written, refuse
from glossator.errors import BatchWaiting, GlossatorError, ProviderError, Stopped, StoreError, UsageError
from glossator.night.checking import harvested, mistakes
from glossator.night.choosing import chosen
from glossator.night.deadline import moment
from glossator.night.log import Log
from glossator.night.plan import planned
from glossator.night.stages import Left, Stage, called, left, stages
from glossator.night.stopping import Stopping
from glossator.night.summary import outcome
from glossator.night.watching import Watch
from glossator.progress import Standing, clock
from glossator.store.labels import materialise_labels
from glossator.store.live import serving
from glossator.store.search import index_labels
from glossator.store.store import Store

if TYPE_CHECKING:
    from glossator.harness.dictionary import Dictionary
    from glossator.harness.subject import Subject

HARVEST, REPORT = "harvest", "report"
_GRACE = 120.0  # seconds, beside a question's own timeout


@dataclass(frozen=True)
class Part:
    """A dictionary, and its features in the order in which they are wanted."""

    run: Run
    features: tuple[int, ...]


def run_night(
    written: Written,
    show: Callable[[Standing], None] = silent,
    say: Say = silent,
    model: tuple[Subject, Dictionary] | None = None,
) -> None:
    """model: subject and dictionary at hand, or doubles.

    Raises UsageError with all mistakes before anything is started; Stopped where it was stopped in good order.
    """
    now = datetime.datetime.now()
    refuse(written.path, [*written.mistakes, *mistakes(written, now, say)])
    night = written.night.located(written.path.parent)
    stopping = Stopping(moment(night.limits.deadline, now), night.llm.timeout + _GRACE)
    todo = stages(night)
    names = [HARVEST, *(one.name for one in todo), *([REPORT] if night.report else [])]
    log = Log(night.run)
    watch = Watch(night.run, names, log, show, say, stopping)
    with ExitStack() as stack:
        store = (
            stack.enter_context(Store(night.run, create=False)) if harvested(night) else None
        )  # ours before anything is said of it
        stack.enter_context(_told(log, written.path))
        stack.enter_context(watch.open())
        if store is None:
            with watch.stage(HARVEST, night.subject.model, 0):
                pipeline.harvest(
                    Path(night.run), night.recipe(), night.harvest.workers, progress=watch.progress, say=watch.say
                )
            store = stack.enter_context(Store(night.run, create=False))
        else:
            watch.stands(HARVEST, 0)
        stack.enter_context(serving(store, watch.say))
        _work(night, todo, store, watch, model)


@contextmanager
def _told(log: Log, path: Path) -> Iterator[None]:
    """What began a run and what ended it, in the log."""
    log.write("run begun", night=str(path.resolve()))
    why = "stopped at once"
    try:
        yield
        why = "done"
    except GlossatorError as error:
        why = str(error)
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        log.write("run ended", why=why)


def parts_of(night: Night, store: Store, watch: Watch, model: tuple[Subject, Dictionary] | None) -> list[Part]:
    """The dictionaries of the run, controls last. Raises UsageError where none of their features is wanted."""
    names = store.sql("SELECT dictionary FROM dictionary ORDER BY control IS NOT NULL, dictionary")
    found = []
    for (name,) in names:
        run = Run(store, name, watch.progress, watch.say, model)
        found.append(Part(run, tuple(chosen(run, night.features))))
    if not any(part.features for part in found):
        raise UsageError(f"{night.run}: no feature is left of those that [features] names; ask for others")
    return found


def _work(
    night: Night, todo: Sequence[Stage], store: Store, watch: Watch, model: tuple[Subject, Dictionary] | None
) -> None:
    """All stages, and the report whatever ends them."""
    parts = parts_of(night, store, watch, model)
    watch.reads(store)
    watch.plans({one.stage: one.usd for one in planned(night, store, [(part.run, part.features) for part in parts])})
    for line in standing_lines(todo, parts):
        watch.say(line)
    waiting: list[BatchWaiting] = []
    try:
        for stage in todo:
            waiting += _stage(stage, parts, watch)
        if waiting:
            raise waiting[-1]
    except (Stopped, ProviderError):
        materialise_labels(store)
        _ended(night, parts, watch)
        raise
    _ended(night, parts, watch)


def _ended(night: Night, parts: Sequence[Part], watch: Watch) -> None:
    """What the morning is for: an index to search labels by, the report, and a few lines."""
    store = parts[0].run.store
    index_labels(store)
    _report(night, parts[0].run, watch)
    for line in outcome(store, [(part.run.dictionary, part.features) for part in parts]):
        watch.say(line)


def standing_lines(todo: Sequence[Stage], parts: Sequence[Part]) -> list[str]:
    """Which stages stand, and which are done anew, in words; nothing about those that were never begun."""
    lines = []
    for stage in todo:
        for part in parts:
            found = left(part.run, stage, part.features)
            where = f"{stage.name} of {part.run.dictionary}" if len(parts) > 1 else stage.name
            if found.stands and not found.todo:
                lines.append(f"{where}: stands for all {found.stands:,} features")
            elif found.anew:
                lines.append(
                    f"{where}: settings have changed ({found.changed}): {found.anew:,} features are done anew{_anew(stage)}"
                )
            elif found.stands:
                lines.append(f"{where}: stands for {found.stands:,} features, {len(found.todo):,} to go")
    return lines


def _anew(stage: Stage) -> str:
    if stage.asked:
        return "; what the log has a reply to is not asked again, and earlier explanations and scores by others stay beside"
    return "; it costs time alone"


def _stage(stage: Stage, parts: Sequence[Part], watch: Watch) -> list[BatchWaiting]:
    """One stage on each dictionary; those that wait for a batch do not keep the others."""
    waiting: list[BatchWaiting] = []
    found: list[tuple[Part, Left]] = [(part, left(part.run, stage, part.features)) for part in parts]
    if not any(one.todo for _, one in found):
        watch.stands(stage.name, sum(one.stands for _, one in found))
        return waiting
    for part, one in found:
        if not one.todo:
            continue
        watch.reads(part.run.store, part.run)
        watch.stopping.check()
        try:
            with watch.stage(stage.name, part.run.dictionary, len(one.todo)), called(part.run, stage, one.todo):
                said = stage.work(part.run, one.todo)
        except BatchWaiting as error:
            waiting.append(error)
            continue
        if isinstance(said, str):
            watch.say(said)
    return waiting


def _report(night: Night, run: Run, watch: Watch) -> None:
    """The page for the morning. What is wrong with it is said, and does not take the night's end away."""
    if not night.report:
        return
    from glossator.report import write_report

    began = time.monotonic()
    with contextlib.suppress(StoreError), watch.stage(REPORT, night.report, 0):
        write_report(run, Path(night.report))
    watch.say(f"{night.report}: written in {clock(time.monotonic() - began)}")
