"""One errand to a provider, again and again until it succeeds: for what costs nothing to repeat, such as asking how far a batch is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from glossator.config import LLMConfig
from glossator.errors import ProviderError
from glossator.llm.base import Address, Fault
from glossator.llm.secrets import redact

T = TypeVar("T")


async def patiently(what: Callable[[], Awaitable[T]], address: Address, config: LLMConfig) -> T:
    """Raises ProviderError after `config.attempts`; what is no Fault comes through as it is."""
    own = wait_random_exponential(multiplier=config.first_wait, max=config.longest_wait)

    def pause(state: RetryCallState) -> float:
        """What the provider asked for, or ever longer, with jitter."""
        fault = state.outcome.exception() if state.outcome else None
        asked = fault.retry_after if isinstance(fault, Fault) else None
        return own(state) if asked is None else min(asked, config.longest_wait) + own(state) / 10

    async def once() -> T:  # tenacity awaits what is declared so, and no lambda
        return await what()

    attempts = AsyncRetrying(
        stop=stop_after_attempt(config.attempts), retry=retry_if_exception_type(Fault), wait=pause, reraise=True
    )
    try:
        return await attempts(once)
    except Fault as fault:
        raise ProviderError(
            f"{address}: {config.attempts} attempts, the last: {redact(str(fault))}; open batches are kept, run again"
        ) from fault
