"""From what `--llm` says to an LLM: provider, price, ledger, transport, log."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from glossator.config import LLMConfig
from glossator.errors import UsageError
from glossator.llm.base import Provider, Transport
from glossator.llm.batch import Batches
from glossator.llm.batch_rows import BatchBooks, BatchProvider
from glossator.llm.client import Client
from glossator.llm.ledger import Ledger, Money
from glossator.llm.limiter import Limiter
from glossator.llm.live import Live
from glossator.llm.prices import Price, find_price, worst
from glossator.llm.spec import Spec, parse_spec
from glossator.types import Usage


class Books(BatchBooks, Protocol):
    """A reply log that also knows what was spent: the store's."""

    async def mark(self, usd: float, tokens: int) -> None: ...

    async def finish(self, lost_usd: float, lost_tokens: int) -> None: ...

    def spent(self) -> tuple[float, int]: ...

    def unpriced(self) -> list[tuple[str, str, str, bool, int, int]]: ...

    def out_in_batches(self) -> frozenset[str]: ...


@asynccontextmanager
async def open_llm(
    text: str, books: Books, config: LLMConfig, say: Callable[[str], None] | None = None
) -> AsyncIterator[Client]:
    """Raises UsageError for a malformed spec and for a budget in dollars where no price is known, now or of what was
    spent before; ProviderError for a missing key."""
    async with open_llms([text], books, config, say) as (client,):
        yield client


@asynccontextmanager
async def open_llms(
    texts: Sequence[str], books: Books, config: LLMConfig, say: Callable[[str], None] | None = None
) -> AsyncIterator[list[Client]]:
    """A client for each spec, equal ones being one, before one ledger: a budget is for all of them. Raises as `open_llm`.

    So many questions as the config says may be in flight to each.
    """
    specs = [parse_spec(text) for text in texts]
    prices = {spec: known_price(spec, config) for spec in specs}
    before = [spent_before(books, price, config) for price in prices.values()]
    # what a batch reserves stands in its own row; beside a live model it is marked as well, which is rather too much
    mark = None if all(map(in_batches, specs)) else books.mark
    ledger = Ledger(config.budget_usd, config.budget_tokens, max(before, key=lambda money: money.usd), mark)
    clients: dict[Spec, Client] = {}
    async with AsyncExitStack() as stack:
        for spec, price in prices.items():
            made = transport(spec, books, ledger, price, config, say)
            if not clients:
                stack.push_async_callback(lambda: books.finish(ledger.lost.usd, ledger.lost.tokens))
            clients[spec] = Client(made, books)
            stack.push_async_callback(clients[spec].close)
        yield [clients[spec] for spec in specs]


def known_price(spec: Spec, config: LLMConfig) -> Price | None:
    """Raises UsageError where a budget in dollars needs a price that nobody knows."""
    price = find_price(spec.provider, spec.name, config.prices, theirs=spec.theirs)
    if price is None and config.budget_usd is not None:
        raise UsageError(
            f"--budget-usd: no price is known for {spec.provider}:{spec.name}; write it into a TOML file and name that with "
            f'--prices ([{spec.provider}."{spec.name}"], input = ..., output = ..., in dollars for a million tokens), or set --budget-tokens'
        )
    return price


def spent_before(books: Books, price: Price | None, config: LLMConfig) -> Money:
    """What a budget must count of earlier runs; what they asked without a price is priced by what is known now.

    Raises UsageError where a budget in dollars is set and that cannot be.
    """
    usd, tokens = books.spent()
    rows = books.unpriced() if config.budget_usd is not None else []
    known = {"": price} if price else {}
    for name, host, model, *_ in rows:
        if not name:
            continue
        found = find_price(name, model, config.prices, theirs=host == Spec(name, model).host)
        if found is None:
            raise UsageError(
                f"--budget-usd: this run file holds calls to {name}:{model} without a price, which a budget must count; "
                f'write its price into a TOML file and name that with --prices ([{name}."{model}"]), or set --budget-tokens'
            )
        known[f"{name}:{model}"] = found
    for name, _, model, batch, asked, said in rows:
        prices = [known[f"{name}:{model}"]] if name else [*known.values()]  # not known who: the dearest
        counts = [Usage(asked, said)] if asked else [Usage(0, said), Usage(said, 0)]  # a sum may be of either
        usd += max(worst(usage, each, batch=batch).usd for each in prices for usage in counts)
    return Money(usd, tokens)


def transport(
    spec: Spec, books: Books, ledger: Ledger, price: Price | None, config: LLMConfig, say: Callable[[str], None] | None
) -> Transport:
    if in_batches(spec):
        batches = Batches(batch_provider(spec, config), books, ledger, price, config)
        batches.start()
        return batches
    if spec.provider == "local":  # it cannot hang, only be slow: a question may wait for many batches
        config = config.model_copy(update={"timeout": math.inf})
    limiter = Limiter(config.concurrency, config.patience, config.unreached, say)
    asked = provider(spec, config, limiter.pause)
    live = Live(asked, limiter, books, ledger, price, config, books.session_id)
    live.out = books.out_in_batches()
    return live


def provider(spec: Spec, config: LLMConfig, pause: Callable[[float], None]) -> Provider:
    """Imports an SDK, or torch, only when it is asked for."""
    if spec.provider == "openai":
        from glossator.llm.openai_chat import OpenAIChat

        return OpenAIChat(spec, config, pause)
    if spec.provider == "anthropic":
        from glossator.llm.anthropic_messages import AnthropicMessages

        return AnthropicMessages(spec, config, pause)
    if spec.provider == "local":
        from glossator.llm.local import LocalModel

        return LocalModel(spec, config)
    raise UsageError(f"--llm {spec.provider}: not supported yet")


def in_batches(spec: Spec) -> bool:
    return spec.batch or spec.provider == "files"


def batch_provider(spec: Spec, config: LLMConfig) -> BatchProvider:
    """Imports an SDK only when it is asked for."""
    if spec.provider == "anthropic":
        from glossator.llm.anthropic_batch import AnthropicBatch

        return AnthropicBatch(spec, config)
    if spec.provider == "openai":
        from glossator.llm.openai_batch import OpenAIBatch

        return OpenAIBatch(spec, config)
    from glossator.llm.files import Files

    return Files(spec, config, logging.getLogger(__name__).warning)
