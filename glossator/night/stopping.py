"""How a night is stopped in good order: by its deadline, by Ctrl-C, and, for a provider that is slow to answer, a little later for good.

Stages tell how far they are after each piece of work; that is where they are stopped, by raising `Stopped` there. Features in hand
are then finished, as for a budget, and no other is begun. A deadline gives them a grace: after it everything is let go at once, as a
second Ctrl-C does, and the night still ends in order, with labels settled and a report. Nothing that was paid for is lost either way,
but for questions that had no answer yet.
"""

from __future__ import annotations

import datetime
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from glossator.errors import Stopped

AGAIN = "what was done is kept; run the same command again to go on"


class Stopping:
    """`check()` where work can be stopped. deadline: local time. grace: seconds after it until all is let go."""

    def __init__(self, deadline: datetime.datetime | None = None, grace: float = 300.0) -> None:
        self.deadline, self.grace = deadline, grace
        self.asked: str | None = None  # why it is to stop
        self._gone = self._ending = self._heard = False

    def check(self) -> None:
        """Raises Stopped where it is time."""
        if not self._ending and (why := self.why()):
            raise Stopped(why)

    def ends(self) -> None:
        """What comes now is the end of a night: it is neither stopped nor let go by a deadline."""
        self._ending = True

    def why(self) -> str | None:
        if self.asked is None and self.deadline is not None and datetime.datetime.now() >= self.deadline:
            self.asked = f"the deadline of {self.deadline:%H:%M} is reached; {AGAIN}"
        return self.asked

    def long_past(self) -> bool:
        """Whether the deadline passed so long ago that nobody is waited for any more."""
        if self.deadline is None or self._gone or self._ending or not self._heard:
            return False
        return datetime.datetime.now() >= self.deadline + datetime.timedelta(seconds=self.grace)

    def let_go(self) -> None:
        """End the main thread's work as a second Ctrl-C does."""
        self.why()  # else it would be taken for a first one
        self._gone = True
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # it ends a wait for a socket, too
        else:
            import _thread

            _thread.interrupt_main()

    @contextmanager
    def in_order(self) -> Iterator[None]:
        """Around what may be let go: where the deadline did that, it is told as any other stop."""
        try:
            yield
        except KeyboardInterrupt:
            if self._gone and self.asked is not None:
                raise Stopped(self.asked) from None
            raise

    @contextmanager
    def on_interrupt(self, say: Callable[[str], None]) -> Iterator[None]:
        """The first Ctrl-C asks to stop, the second one stops. Outside of the main thread signals are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def heard(number: int, frame: FrameType | None) -> None:
            if self.asked is not None:
                raise KeyboardInterrupt
            self.asked = f"stopped by hand; {AGAIN}"
            say("stopping when what is in flight has come in; press Ctrl-C again to stop at once")

        self._heard = True
        before: Any = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            self._heard = False
            for number, handler in before.items():
                signal.signal(number, handler)
