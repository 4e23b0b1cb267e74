"""How a night is stopped in good order: by its deadline, by Ctrl-C, and, for a provider that is slow to answer, a little later for good.

Stages tell how far they are after each piece of work; that is where they are stopped, by raising `Stopped` there. What is in
flight then finishes, as for a budget. Whoever presses Ctrl-C twice, and a deadline that nothing answered to for some minutes, is
given what a single Ctrl-C gives elsewhere: everything is let go at once. Nothing that was paid for is lost either way.
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
        self._over = False

    def check(self) -> None:
        """Raises Stopped where it is time."""
        if why := self.why():
            raise Stopped(why)

    def why(self) -> str | None:
        if self.asked is None and self.deadline is not None and datetime.datetime.now() >= self.deadline:
            self.asked = f"the deadline of {self.deadline:%H:%M} is reached; {AGAIN}"
        return self.asked

    def long_past(self) -> bool:
        """Whether the deadline passed so long ago that nobody is waited for any more."""
        if self.deadline is None or self._over:
            return False
        return datetime.datetime.now() >= self.deadline + datetime.timedelta(seconds=self.grace)

    def let_go(self) -> None:
        """End the main thread's work as Ctrl-C does."""
        self._over = True
        signal.raise_signal(
            signal.SIGINT
        ) if threading.current_thread() is threading.main_thread() else _interrupt_main()

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

        before: Any = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _interrupt_main() -> None:
    import _thread

    _thread.interrupt_main()
