"""A bounded number of questions in progress at once, each made in a thread before there is room for it; and how plain code waits.

What is raised ends the run: what is in flight finishes first, and nothing more is begun. Where nobody waits for replies
any more, or they cannot be kept, it is given up instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from glossator.errors import StoreError
from glossator.llm.limiter import TURN

_AHEAD = 4  # one for so many in hand
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def wait_for(work: Coroutine[Any, Any, _Result]) -> _Result:
    """`asyncio.run`, also inside of a notebook, where a loop is running already: in a thread of its own there.

    An interrupt cancels the work, and comes out when that has ended.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    begun: Future[Callable[[], object]] = Future()

    async def whole() -> _Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel) if task else None)
        return await work

    with ThreadPoolExecutor(1, "glossator-loop") as threads:
        done = threads.submit(lambda: asyncio.run(whole()))
        try:
            return done.result()
        except KeyboardInterrupt:
            begun.result()()
            raise


async def in_progress(
    items: Iterator[_Item],
    total: int,
    in_hand: int,
    work: Callable[[_Item], Awaitable[None]],
    progress: Callable[[int, int], None],
) -> None:
    """`work` for each of the `total` items, at most `in_hand` at once; progress(done, total). Raises what `work` raises.

    Some items are made ahead, one after the other in a thread, so that there is always one to begin.
    """
    working: set[asyncio.Task[None]] = set()
    thread, loop = ThreadPoolExecutor(1, "glossator-prepare"), asyncio.get_running_loop()
    ahead = deque(loop.run_in_executor(thread, next, items) for _ in range(min(total, max(1, in_hand // _AHEAD))))
    begun = 0
    progress(0, total)
    try:
        while begun < total or working:
            if begun < total and len(working) < in_hand:
                item = await ahead.popleft()
                begun += 1
                if begun + len(ahead) < total:
                    ahead.append(loop.run_in_executor(thread, next, items))
                working.add(asyncio.ensure_future(_task(work, item, begun)))
                continue
            ready, working = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            progress(begun - len(working), total)
            if errors := [error for task in ready if (error := task.exception())]:
                raise errors[0]
    except (asyncio.CancelledError, StoreError):
        for task in working:
            task.cancel()
        raise
    finally:
        for item_to_come in ahead:
            item_to_come.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await asyncio.to_thread(thread.shutdown, cancel_futures=True)


async def _task(work: Callable[[_Item], Awaitable[None]], item: _Item, number: int) -> None:
    TURN.set(number)
    await work(item)
