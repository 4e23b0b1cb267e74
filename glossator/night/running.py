"""Runs a night: the harvest if there is none, what is about rules, then a dictionary at a time what asks a provider, then the report.

Running it again goes on. What asks a provider goes through a dictionary in waves (waves.py), so that what was wanted most is done
wholly first; what is made of all its labels together comes after the last wave. One that waits for a batch does not keep the others.

Nothing is kept here that is not in the run file: what is left follows from its rows (stages.py), and replies from its log. A budget,
a deadline or a person ends it in good order, with `Stopped`; the report is written all the same.
"""

from __future__ import annotations

import datetime
import re
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
from glossator.night.stages import FIRST, LAST, WAVES, Left, Stage, called, left, stages, torn
from glossator.night.stopping import Stopping
from glossator.night.summary import outcome
from glossator.night.watching import Watch
from glossator.night.waves import about_to_be_asked, waves
from glossator.progress import Standing, clock
from glossator.store.labels import materialise_labels
from glossator.store.live import serving
from glossator.store.search import index_labels
from glossator.store.store import Store

if TYPE_CHECKING:
    from glossator.harness.dictionary import Dictionary
    from glossator.harness.subject import Subject

HARVEST, REPORT = "harvest", "report"
_LONGEST = 60  # characters of a dictionary's name in that of a file
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
    grace: float | None = None,
) -> None:
    """model: subject and dictionary at hand, or doubles. grace: seconds after the deadline in which features in hand may be finished;
    the timeout of a question and two minutes if not given.

    Raises UsageError with all mistakes before anything is started; Stopped where it was stopped in good order.
    """
    now = datetime.datetime.now()
    refuse(written.path, [*written.mistakes, *mistakes(written, now, say)])
    night = written.night.located(written.path.parent)
    stopping = Stopping(moment(night.limits.deadline, now), night.llm.timeout + _GRACE if grace is None else grace)
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
            with stopping.in_order(), watch.stage(HARVEST, night.subject.model, 0):
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
    if torn(store):
        materialise_labels(store)  # a kill may have come between what was written and the labels that follow from it
    parts = parts_of(night, store, watch, model)
    watch.reads(store)
    forecasts = planned(night, store, [(part.run, part.features) for part in parts])
    watch.plans({one.stage: one.usd for one in forecasts if one.calls})
    for line in standing_lines(todo, parts):
        watch.say(line)
    try:
        with watch.stopping.in_order():
            _all_stages(night, todo, parts, watch)
    except (Stopped, ProviderError):
        watch.stopping.ends()
        materialise_labels(store)
        _ended(night, parts, watch)
        raise
    _ended(night, parts, watch)


def _all_stages(night: Night, todo: Sequence[Stage], parts: Sequence[Part], watch: Watch) -> None:
    for stage in todo:
        if stage.when == FIRST:
            _stage(stage, parts, watch)
    later = [stage for stage in todo if stage.when != FIRST]
    for stage in later:
        watch.expects(stage.name, *_counts(stage, parts))
    waiting: list[BatchWaiting] = []
    for part in parts:
        try:
            _dictionary(night, later, part, watch)
        except BatchWaiting as error:
            waiting.append(error)
    if waiting:
        raise waiting[-1]
    for stage in later:
        watch.through(stage.name)


def _counts(stage: Stage, parts: Sequence[Part]) -> tuple[int, int]:
    """How many features stand, and how many there are."""
    return sum(left(part.run, stage, part.features).stands for part in parts), sum(len(part.features) for part in parts)


def _dictionary(night: Night, later: Sequence[Stage], part: Part, watch: Watch) -> None:
    """The waves of one dictionary, then what is made of all of them. Raises BatchWaiting: what comes after needs what is waited for."""
    if not later or not part.features:
        return
    asking = [stage for stage in later if stage.when == WAVES]
    pieces = waves(night, part.features, about_to_be_asked(night, part.run, part.features)) if asking else []
    with part.run.keeping():
        for number, features in enumerate(pieces, 1):
            wave = f"wave {number} of {len(pieces)}" if len(pieces) > 1 else ""
            for stage in asking:
                _piece(stage, part, features, watch, wave)
        if len(pieces) > 1:
            # a later wave may change which label an earlier one's feature has: by the scores of which of several readers it is chosen
            for stage in asking:
                changed = stage.unread(part.run, part.features)
                _call(stage, part, [f for f in part.features if f in changed], watch, "")
    for stage in later:
        if stage.when == LAST:
            _piece(stage, part, part.features, watch, "")


def _ended(night: Night, parts: Sequence[Part], watch: Watch) -> None:
    """What the morning is for: an index to search labels by, the report, and a few lines."""
    watch.stopping.ends()
    store = parts[0].run.store
    index_labels(store)
    for run, to in reports(night.report, [part.run for part in parts if part.features]):
        _report(run, to, watch)
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


def _stage(stage: Stage, parts: Sequence[Part], watch: Watch) -> None:
    """One stage on each dictionary."""
    found: list[tuple[Part, Left]] = [(part, left(part.run, stage, part.features)) for part in parts]
    if not any(one.todo for _, one in found):
        watch.stands(stage.name, sum(one.stands for _, one in found))
    for part, one in found:
        _call(stage, part, one.todo, watch, "")


def _piece(stage: Stage, part: Part, features: Sequence[int], watch: Watch, wave: str) -> None:
    """What is left of a stage of these features of a dictionary."""
    _call(stage, part, left(part.run, stage, features).todo, watch, wave)


def _call(stage: Stage, part: Part, todo: Sequence[int], watch: Watch, wave: str) -> None:
    if not todo:
        return
    watch.reads(part.run.store, part.run)
    watch.stopping.check()
    about = part.run.dictionary
    with watch.stage(stage.name, about, len(todo), wave, (stage.marks, part.features)), called(part.run, stage, todo):
        said = stage.work(part.run, todo)
    if isinstance(said, str):
        watch.say(f"{wave}: {said}" if wave else said)


def reports(asked: str | None, runs: Sequence[Run]) -> list[tuple[Run, Path]]:
    """A page for each dictionary that is no control (those are beside what they control): the first has the name asked for, others their own beside it."""
    if not asked:
        return []
    controls = {name for (name,) in runs[0].store.sql("SELECT dictionary FROM dictionary WHERE control IS NOT NULL")}
    real, path = [run for run in runs if run.dictionary not in controls] or list(runs[:1]), Path(asked)
    found = [(real[0], path)]
    for number, run in enumerate(real[1:], 2):
        words = "-".join(re.findall(r"\w+", run.dictionary))[-_LONGEST:]
        found.append((run, path.with_name(f"{path.stem}-{number}-{words}{path.suffix}")))
    return found


def _report(run: Run, to: Path, watch: Watch) -> None:
    """The page for the morning. What is wrong with it is said, and does not take the night's end away."""
    from glossator.report import write_report

    began = time.monotonic()
    try:
        with watch.stage(REPORT, str(to), 0):
            write_report(run, to)
    except (StoreError, UsageError) as error:
        watch.say(f"no report: {error}")
    else:
        watch.say(f"{to}: written in {clock(time.monotonic() - began)}")
