"""Questions for the lying server, and a run file to keep what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from pydantic import BaseModel, Field

from glossator.config import LLMConfig
from glossator.errors import GlossatorError
from glossator.llm.client import Client
from glossator.llm.opening import open_llm
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Message, Reply, Request
from tests.llm.server import Server

PROTOCOLS = ("openai", "anthropic")
PRICES = "".join(f"[{name}.echo]\ninput = 1.0\noutput = 4.0\n" for name in PROTOCOLS)  # as the server bills
_started = count(1)  # two sessions in one tick of the clock are two


class Echo(BaseModel):
    number: int = Field(ge=0, le=1_000_000)


def question(number: int, max_tokens: int = 40, padding: int = 0) -> Request:
    asked = f"Say number {number}.{' and again' * padding}"
    return Request("test", (Message("system", "You repeat numbers."), Message("user", asked)), Echo, max_tokens)


def spec(server: Server, protocol: str) -> str:
    return f"{protocol}:echo@{server.openai if protocol == 'openai' else server.anthropic}"


def priced(folder: Path) -> str:
    path = folder / "prices.toml"
    path.write_text(PRICES)
    return str(path)


def config(**given: object) -> LLMConfig:
    """Waits so short that a test does not wait."""
    return LLMConfig.model_validate({"first_wait": 0.01, "longest_wait": 0.1, "timeout": 5.0, "patience": 20.0} | given)


@asynccontextmanager
async def opened(server: Server, protocol: str, store: Store, config: LLMConfig) -> AsyncIterator[Client]:
    books = Replies(store, next(_started))
    async with open_llm(spec(server, protocol), books, config) as llm:
        yield llm


async def ask_all(llm: Client, questions: Iterable[Request]) -> list[Reply | GlossatorError]:
    """What each ended as; all are asked at once, and the limiter does the rest. Other exceptions are raised."""
    ended = await asyncio.gather(*(llm.complete(question) for question in questions), return_exceptions=True)
    for one in ended:
        if not isinstance(one, Reply | GlossatorError):
            raise one
    return [one for one in ended if isinstance(one, Reply | GlossatorError)]


def asked(
    server: Server, protocol: str, store: Store, config: LLMConfig, questions: Iterable[Request]
) -> list[Reply | GlossatorError]:
    """One session, from opening to an orderly end."""

    async def run() -> list[Reply | GlossatorError]:
        async with opened(server, protocol, store, config) as llm:
            return await ask_all(llm, questions)

    return asyncio.run(run())
