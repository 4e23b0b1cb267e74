"""Plain code may wait for the agents wherever it is called from: also in a notebook, where a loop is running already."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from glossator.agents.pool import wait_for


async def answer() -> tuple[int, str]:
    await asyncio.sleep(0)
    return 17, threading.current_thread().name


def test_without_a_loop_it_is_run_here() -> None:
    assert wait_for(answer()) == (17, threading.current_thread().name)


def test_inside_of_a_loop_it_is_run_in_a_thread_and_what_it_raises_comes_out() -> None:
    async def failing() -> None:
        raise ValueError("wrong")

    async def notebook() -> tuple[int, str]:
        with pytest.raises(ValueError, match="wrong"):
            wait_for(failing())
        return wait_for(answer())

    value, thread = asyncio.run(notebook())
    assert value == 17 and thread.startswith("glossator-loop")


def test_an_interrupt_in_a_notebook_cancels_the_work_and_waits_for_its_end() -> None:
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(8)
        finally:
            ended.append("in good order")

    async def notebook() -> None:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        wait_for(long())

    loop = asyncio.new_event_loop()  # as a kernel has it: asyncio.run would take the interrupt for itself
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(notebook())
    finally:
        signal.signal(signal.SIGINT, before)
    loop.close()
    assert ended == ["in good order"]
