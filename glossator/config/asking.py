"""How language models are asked, and that what they are asked stays here."""

from __future__ import annotations

import os
import sys

from pydantic import Field

from glossator.config.base import Config

TRACING = "GLOSSATOR_TRACING"
_TRACERS = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")


class LLMConfig(Config):
    """How a language model is asked. Time in seconds; none of it changes what is asked."""

    concurrency: int = Field(default=64, ge=1)  # questions in flight at most
    timeout: float = Field(default=180.0, gt=0)  # for one whole reply
    attempts: int = Field(default=8, ge=1)  # of one question, when the provider fails
    first_wait: float = Field(default=1.0, gt=0)  # before the second attempt; doubles, with jitter
    longest_wait: float = Field(default=60.0, gt=0)
    patience: float = Field(default=300.0, gt=0)  # give up when nothing has succeeded for so long
    unreached: float = Field(default=30.0, gt=0)  # give up when nobody was ever there for so long
    budget_usd: float | None = Field(default=None, ge=0)  # for all that this run file has spent and will spend
    budget_tokens: int | None = Field(default=None, ge=0)
    effort: str | None = None  # how hard models think that can: none, low, medium, high; part of the question
    prices: str | None = None  # a TOML file whose prices go before ours
    batch_idle: float = Field(default=2.0, gt=0)  # a batch is sent when nothing was added for so long
    batch_poll: float = Field(default=30.0, gt=0)
    batch_features: int = Field(default=20_000, ge=1)  # in hand at most where questions go in batches

    def features_in_hand(self, *, batched: bool) -> int:
        """Features that are worked on at once: enough that there is always a question to send."""
        return self.batch_features if batched else 2 * self.concurrency


def quiet_tracing() -> None:
    """Graphs post their state, prompts and replies included, to LangSmith where its variables say so: not from here.

    Those variables are often set for something else. GLOSSATOR_TRACING=1 asks for it. Call it before a graph runs.
    """
    if os.environ.get(TRACING) == "1":
        return
    os.environ.update(dict.fromkeys(_TRACERS, "false"))
    if langsmith := sys.modules.get("langsmith"):
        langsmith.configure(enabled=False)  # it remembers what it read of the environment before
