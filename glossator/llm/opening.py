"""From what `--llm` says to an LLM: provider, price, ledger, transport, log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

from glossator.config import LLMConfig
from glossator.errors import UsageError
from glossator.llm.base import Provider, ReplyLog, Transport
from glossator.llm.client import Client
from glossator.llm.ledger import Ledger, Money
from glossator.llm.limiter import Limiter
from glossator.llm.live import Live
from glossator.llm.prices import Price, find_price
from glossator.llm.spec import Spec, parse_spec


class Books(ReplyLog, Protocol):
    """A reply log that also knows what was spent: the store's."""

    session_id: str

    async def mark(self, usd: float, tokens: int) -> None: ...

    async def finish(self, lost_usd: float, lost_tokens: int) -> None: ...

    def spent(self) -> tuple[float, int]: ...


@asynccontextmanager
async def open_llm(text: str, books: Books, config: LLMConfig) -> AsyncIterator[Client]:
    """Raises UsageError for a malformed spec and for a budget in dollars where no price is known; ProviderError for a missing key."""
    spec = parse_spec(text)
    price = known_price(spec, config)
    ledger = Ledger(config.budget_usd, config.budget_tokens, Money(*books.spent()), books.mark)
    client = Client(transport(spec, books, ledger, price, config), books)
    try:
        yield client
    finally:
        await client.close()
        await books.finish(ledger.lost.usd, ledger.lost.tokens)


def known_price(spec: Spec, config: LLMConfig) -> Price | None:
    """Raises UsageError where a budget in dollars needs a price that nobody knows."""
    price = find_price(spec.provider, spec.name, config.prices)
    if price is None and config.budget_usd is not None:
        raise UsageError(
            f"--budget-usd: no price is known for {spec.provider}:{spec.name}; write it into a TOML file and name that with "
            f'--prices ([{spec.provider}."{spec.name}"], input = ..., output = ..., in dollars for a million tokens), or set --budget-tokens'
        )
    return price


def transport(spec: Spec, books: Books, ledger: Ledger, price: Price | None, config: LLMConfig) -> Transport:
    limiter = Limiter(config.concurrency, config.patience)
    asked = provider(spec, config, limiter.pause)
    return Live(asked, limiter, books, ledger, price, config, books.session_id)


def provider(spec: Spec, config: LLMConfig, pause: Callable[[float], None]) -> Provider:
    """Imports an SDK, or torch, only when it is asked for."""
    if spec.provider == "openai":
        from glossator.llm.openai_chat import OpenAIChat

        return OpenAIChat(spec, config, pause)
    if spec.provider == "anthropic":
        from glossator.llm.anthropic_messages import AnthropicMessages

        return AnthropicMessages(spec, config, pause)
    raise UsageError(f"--llm {spec.provider}: not supported yet")
