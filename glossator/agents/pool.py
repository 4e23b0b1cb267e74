"""A bounded number of questions in progress at once, each made in a thread when there is room for it.

What is raised ends the run: what is in flight finishes first, and nothing more is begun. Where nobody waits for replies
any more, or they cannot be kept, it is given up instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from glossator.errors import StoreError

_Item = TypeVar("_Item")


async def in_progress(
    items: Iterator[_Item],
    total: int,
    in_hand: int,
    work: Callable[[_Item], Awaitable[None]],
    progress: Callable[[int, int], None],
) -> None:
    """`work` for each of the `total` items, at most `in_hand` at once; progress(done, total). Raises what `work` raises."""
    working: set[asyncio.Task[None]] = set()
    begun = 0
    progress(0, total)
    try:
        while begun < total or working:
            if begun < total and len(working) < in_hand:
                item = await asyncio.to_thread(next, items)
                working.add(asyncio.ensure_future(_task(work, item)))
                begun += 1
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
        await asyncio.gather(*working, return_exceptions=True)


async def _task(work: Callable[[_Item], Awaitable[None]], item: _Item) -> None:
    await work(item)
