"""Watches a night: how far each stage is, what is spent, who is being asked, and that it stops when it should.

Stages report (what, done, total) from whatever thread; a thread of this one looks at the run file once in a while, for counts that
stages do not report: spend and failures. It writes what it sees into the log three times a minute, and shows it all the time.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from glossator.agents.run import Run, Say
from glossator.errors import GlossatorError
from glossator.llm.client import Client
from glossator.llm.live import Live
from glossator.night.log import Log
from glossator.night.stopping import Stopping
from glossator.progress import Stage, Standing
from glossator.store.store import Store

_LOOK = 1.0  # seconds
_LOGGED = 20.0
_SPAN = 120.0  # over which a rate is taken


class Watch:
    """`progress` and `say` go to the stages; `stage(...)` stands around each; `open()` around all."""

    def __init__(
        self, name: str, stages: Sequence[str], log: Log, show: Callable[[Standing], None], say: Say, stopping: Stopping
    ) -> None:
        self.log, self._show, self._say, self.stopping = log, show, say, stopping
        self._lock = threading.Lock()
        self._stages = {one: Stage(one) for one in stages}
        until = f"{stopping.deadline:%H:%M}" if stopping.deadline else None
        self._standing = Standing(name, until=until)
        self._marks: deque[tuple[float, int]] = deque()
        self._begun = self._first = 0.0
        self._spent_before = 0.0
        self._planned: Mapping[str, float | None] = {}
        self._store: Store | None = None
        self._run: Run | None = None
        self._over = threading.Event()

    # ------------------------------------------------------------------ what stages call

    def progress(self, what: str, done: int, total: int) -> None:
        """Raises Stopped where it is time to stop and something is left."""
        now = time.monotonic()
        with self._lock:
            one = self._current()
            if one is not None:
                if what != one.doing or done < one.done:
                    self._marks.clear()
                self._marks.append((now, done))
                while len(self._marks) > 2 and now - self._marks[0][0] > _SPAN:
                    self._marks.popleft()
                rate, rest = self._pace(done, total)
                self._put(dataclasses.replace(one, doing=what, done=done, total=total, rate=rate, left=rest))
        if done < total:
            self.stopping.check()

    def say(self, line: str) -> None:
        self.log.write("said", text=line)
        self._say(line)

    # ------------------------------------------------------------------ what the night calls

    def reads(self, store: Store, run: Run | None = None) -> None:
        """From here on counts come from this store; `run` knows who is being asked."""
        with self._lock:
            self._store, self._run = store, run

    def plans(self, usd: Mapping[str, float | None]) -> None:
        """What stages were forecast to cost, for the projection."""
        self._planned = usd

    def stands(self, stage: str, total: int) -> None:
        """A stage that has nothing to do: it was done before, or there is nothing for it."""
        with self._lock:
            self._put(Stage(stage, "stands", total, total))

    @contextmanager
    def stage(self, name: str, about: str, total: int) -> Iterator[None]:
        """Around the work of one stage on one dictionary."""
        with self._lock:
            self._marks.clear()
            self._begun = time.monotonic()
            self._spent_before = self._standing.usd or 0.0
            self._put(Stage(name, "running", 0, total))
        self.log.write("stage begun", stage=name, about=about, total=total)
        self.log.write("standing", standing=dataclasses.asdict(self.standing()))
        state, why = "stopped", "stopped at once"
        try:
            yield
            state, why = "done", ""
        except GlossatorError as error:
            why = str(error)
            raise
        finally:
            self.look()
            with self._lock:
                one = self._stages[name]
                seconds = time.monotonic() - self._begun
                if state == "done":  # features, whatever its last step counted
                    one = dataclasses.replace(one, done=total, total=total)
                self._put(dataclasses.replace(one, state=state, seconds=seconds, rate=None, left=None))
                ended = self._stages[name]
            self.log.write("stage ended", stage=name, about=about, state=state, why=why, done=ended.done, total=ended.total, failed=ended.failed, seconds=round(seconds, 3))  # fmt: skip

    @contextmanager
    def open(self) -> Iterator[None]:
        """The thread that looks, and the handler of Ctrl-C."""
        thread = threading.Thread(target=self._watch, name="glossator-watch", daemon=True)
        thread.start()
        try:
            with self.stopping.on_interrupt(self.say):
                yield
        finally:
            self._over.set()
            thread.join(5)
            self.log.write("standing", standing=dataclasses.asdict(self.standing()))

    # ------------------------------------------------------------------ looking

    def standing(self) -> Standing:
        with self._lock:
            return dataclasses.replace(self._standing, stages=tuple(self._stages.values()))

    def look(self) -> Standing:
        """Read what the store knows. Nothing is raised: whoever works will find out what is wrong with it."""
        with self._lock:
            store, run, one = self._store, self._run, self._current()
        usd, tokens, failed = self._read(store, one) if store is not None else (0.0, 0, 0)
        in_flight, most = _in_flight(run)
        with self._lock:
            if one is not None and (now := self._current()) is not None and now.name == one.name:
                rate, rest = self._pace(now.done, now.total)
                seconds = time.monotonic() - self._begun
                self._put(dataclasses.replace(now, failed=failed, seconds=seconds, rate=rate, left=rest))
            self._standing = dataclasses.replace(
                self._standing, usd=usd, tokens=tokens, in_flight=in_flight, most=most, projected=self._projected(usd)
            )
        return self.standing()

    def _read(self, store: Store, stage: Stage | None) -> tuple[float | None, int, int]:
        try:
            ((usd, unknown, tokens),) = store.sql(
                "SELECT coalesce(sum(usd), 0), count(*) FILTER (usd IS NULL), "
                "coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0)::BIGINT FROM llm_call"
            )
            ((failed,),) = store.sql(
                "SELECT count(*) FROM (SELECT arg_max(status, rowid) AS status FROM stage GROUP BY dictionary, feature, stage) WHERE status = 'failed'"
            )
        except Exception:  # noqa: BLE001  the store is being closed, or is broken: the one who writes will say so
            return self._standing.usd, self._standing.tokens, 0 if stage is None else stage.failed
        return None if unknown else float(usd), int(tokens), int(failed)

    def _watch(self) -> None:
        logged = time.monotonic()
        while not self._over.wait(_LOOK):
            self._show(self.look())
            if self.stopping.long_past():
                self.log.write("said", text="the deadline is long past: what is still in flight is let go")
                self.stopping.let_go()
            if time.monotonic() - logged >= _LOGGED:
                logged = time.monotonic()
                self.log.write("standing", standing=dataclasses.asdict(self.standing()))

    # ------------------------------------------------------------------ under the lock

    def _current(self) -> Stage | None:
        return next((one for one in self._stages.values() if one.state == "running"), None)

    def _put(self, stage: Stage) -> None:
        self._stages[stage.name] = stage

    def _pace(self, done: int, total: int) -> tuple[float | None, float | None]:
        """Rate over the last two minutes, and how long the rest takes at that."""
        if len(self._marks) < 2:
            return None, None
        since, was = self._marks[0]
        seconds = time.monotonic() - since
        if done <= was or seconds <= 0:
            return None, None
        rate = (done - was) / seconds
        return rate, (total - done) / rate

    def _projected(self, usd: float | None) -> float | None:
        """Spent, the rest of this stage at its own price so far, and what was planned for those that wait."""
        one = self._current()
        if usd is None or one is None:
            return None
        now = usd - self._spent_before
        share = one.done / one.total if one.total else 0.0
        rest = now * (1 / share - 1) if share > 0.02 and now > 0 else (self._planned.get(one.name) or 0.0) * (1 - share)
        later = [self._planned.get(other.name) for other in self._stages.values() if other.state == "waiting"]
        return None if any(cost is None for cost in later) else usd + rest + sum(cost or 0.0 for cost in later)


def _in_flight(run: Run | None) -> tuple[int, int]:
    """Questions that are with a provider now, and how many may be."""
    limiters = [
        model.transport.limiter for model in dict.fromkeys(run.asking if run is not None else ())
        if isinstance(model, Client) and isinstance(model.transport, Live)
    ]  # fmt: skip
    return sum(one.in_flight for one in limiters), sum(int(one.limit) for one in limiters)
