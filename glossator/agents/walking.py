"""How a LangGraph graph is run: a node that was cancelled ends the run, and is no error of what the graph is about.

LangGraph makes an ordinary exception of a cancellation that comes out of a node. Taken for one, a stop would become a failure row.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def walked(graph: Any, begin: Any, limit: int) -> Any:
    """The state that a compiled graph ends with. limit: nodes that it may visit. Raises what a node raises, CancelledError too."""
    from langgraph.errors import NodeCancelledError

    try:
        return await graph.ainvoke(begin, {"recursion_limit": limit})
    except NodeCancelledError as error:
        raise asyncio.CancelledError from error
