"""Watches a night: how far each stage is, what is spent, who is being asked, and that it stops when it should.

Stages report (what, done, total) from whatever thread; a thread of this one looks at the run file once in a while, for counts that
stages do not report: spend and failures. It writes what it sees into the log three times a minute, and shows it all the time.

A stage may be worked on in pieces, a wave of features at a time: then it is shown with the features of all pieces, whatever its own
step counts, and waits between them.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

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


@dataclass
class _Piece:
    """What is known of a stage beside what is shown. In features: of all its pieces, those that stood, those since, those in hand."""

    of: int = 0
    stood: int = 0
    before: int = 0
    size: int = 0
    seconds: float = 0.0  # of the pieces before
    usd: float = 0.0

    @property
    def one_of_many(self) -> bool:
        return self.size < self.of


class Watch:
    """`progress` and `say` go to the stages; `stage(...)` stands around each; `open()` around all."""

    def __init__(
        self, name: str, stages: Sequence[str], log: Log, show: Callable[[Standing], None], say: Say, stopping: Stopping
    ) -> None:
        self.log, self._show, self._say, self.stopping = log, show, say, stopping
        self._lock = threading.Lock()
        self._stages = {one: Stage(one) for one in stages}
        self._pieces = {one: _Piece() for one in stages}
        until = f"{stopping.deadline:%H:%M}" if stopping.deadline else None
        self._standing = Standing(name, until=until)
        self._failing: tuple[str, list[str], list[int]] = ("", [], [])
        self._marks: deque[tuple[float, int]] = deque()
        self._begun = 0.0
        self._step = 0
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
                piece = self._pieces[one.name]
                one = dataclasses.replace(one, doing=what, done=done, total=total)
                if piece.one_of_many and total:
                    in_hand = piece.size * done // total
                    one = dataclasses.replace(one, done=piece.stood + piece.before + in_hand, total=piece.of)
                rate, rest = self._pace(one, total)
                self._put(dataclasses.replace(one, rate=rate, left=rest))
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
        """What stages that ask a model were forecast to cost, for the projection; None where no price is known."""
        self._planned = usd

    def expects(self, stage: str, stands: int, of: int) -> None:
        """That a stage will come in pieces to `of` features in all, of which some were done before."""
        with self._lock:
            self._pieces[stage] = _Piece(of, stands)
            self._put(Stage(stage, "waiting", stands, of))

    def stands(self, stage: str, total: int) -> None:
        """A stage that has nothing to do: it was done before, or there is nothing for it."""
        with self._lock:
            self._put(Stage(stage, "stands", total, total))

    def through(self, stage: str) -> None:
        """No piece of it is left: it is done, or stands where there was none."""
        with self._lock:
            one, piece = self._stages[stage], self._pieces[stage]
            state = "done" if piece.before else "stands"
            self._put(dataclasses.replace(one, state=state, done=piece.of, total=piece.of, rate=None, left=None))

    @contextmanager
    def stage(
        self, name: str, about: str, total: int, wave: str = "", failing: tuple[Sequence[str], Sequence[int]] = ((), ())
    ) -> Iterator[None]:
        """Around the work of one stage on one dictionary, or on one wave of its features: `wave 2 of 7`.

        failing: how rows of `stage` call it, and the features of the night, of which those are counted that have failed.
        """
        with self._lock:
            self._failing = (about, list(failing[0]), list(failing[1]))
            self._marks.clear()
            self._begun = time.monotonic()
            self._spent_before = self._standing.usd or 0.0
            piece = self._pieces[name]
            again = max(
                0, piece.stood + piece.before + total - piece.of
            )  # stood when that was looked at, and have a new label since
            piece.stood, piece.size = max(0, piece.stood - again), total
            piece.of = max(piece.of, piece.stood + piece.before + total)
            shown = (piece.stood + piece.before, piece.of) if piece.one_of_many else (0, total)
            self._put(Stage(name, "running", *shown, seconds=piece.seconds))
        more = {"wave": wave} if wave else {}
        self.log.write("stage begun", stage=name, about=about, total=total, **more)
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
                seconds = time.monotonic() - self._begun
                ended = self._end(name, state, seconds)
            done, of = (
                (total, total) if state == "done" else (ended.done, ended.total)
            )  # features, whatever its last step counted
            self.log.write("stage ended", stage=name, about=about, state=state, why=why, done=done, total=of, failed=ended.failed, seconds=round(seconds, 3), **more)  # fmt: skip

    def _end(self, name: str, state: str, seconds: float) -> Stage:
        """Of a piece. The stage waits for its next piece, unless that was the last one."""
        one, piece = self._stages[name], self._pieces[name]
        piece.seconds += seconds
        piece.usd += max(0.0, (self._standing.usd or 0.0) - self._spent_before)
        if state == "done":
            piece.before += piece.size
            if piece.stood + piece.before < piece.of:
                state = "waiting"
            one = dataclasses.replace(one, done=piece.stood + piece.before, total=piece.of)
        one = dataclasses.replace(one, state=state, seconds=piece.seconds, rate=None, left=None)
        self._put(one)
        return one

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
                rate, rest = self._pace(now, self._step)
                seconds = self._pieces[now.name].seconds + time.monotonic() - self._begun
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
                "SELECT count(DISTINCT feature) FROM (SELECT feature, arg_max(status, rowid) AS status FROM stage WHERE dictionary = ? "
                "AND stage IN (SELECT unnest(?::VARCHAR[])) AND feature IN (SELECT unnest(?::INTEGER[])) GROUP BY feature, stage) WHERE status = 'failed'",
                list(self._failing),
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

    def _pace(self, one: Stage, step: int) -> tuple[float | None, float | None]:
        """Rate over the last two minutes, and how long the rest takes at that. step: what the stage itself counts to.

        In features where it comes in pieces: the features that wait for later pieces are part of the rest.
        """
        self._step = step
        if len(self._marks) < 2:
            return None, None
        since, was = self._marks[0]
        seconds = time.monotonic() - since
        if (done := self._marks[-1][1]) <= was or seconds <= 0:
            return None, None
        piece = self._pieces[one.name]
        each = piece.size / step if piece.one_of_many and step else 1.0
        rate = (done - was) / seconds * each
        return rate, (one.total - one.done) / rate

    def _projected(self, usd: float | None) -> float | None:
        """Spent, and the rest of each stage at its own price so far, or at what was planned where nothing is known of it yet."""
        if usd is None or (current := self._current()) is None:
            return None
        rest = 0.0
        for one in self._stages.values():
            if one.state not in ("running", "waiting"):
                continue
            piece, planned = self._pieces[one.name], self._planned.get(one.name)
            now = piece.usd + (usd - self._spent_before if one is current else 0.0)
            stood = piece.stood if piece.one_of_many else 0
            share = (one.done - stood) / (one.total - stood) if one.total > stood else 0.0
            if share > 0.02 and now > 0:
                rest += now * (1 / share - 1)
            elif one.name in self._planned and planned is None:
                return None
            else:
                rest += (planned or 0.0) * (1 - share)
        return usd + rest


def _in_flight(run: Run | None) -> tuple[int, int]:
    """Questions that are with a provider now, and how many may be."""
    limiters = [
        model.transport.limiter for model in dict.fromkeys(run.asking if run is not None else ())
        if isinstance(model, Client) and isinstance(model.transport, Live)
    ]  # fmt: skip
    return sum(one.in_flight for one in limiters), sum(int(one.limit) for one in limiters)
