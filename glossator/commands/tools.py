"""Commands about what is around: doctor, version."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated

import typer

import glossator
from glossator.arguments import llm_config
from glossator.commands.common import Effort, Prices, app, example, out


@app.command(epilog=example("doctor --llm openai:gpt-6-luna"))
def doctor(
    llm: Annotated[
        str,
        typer.Option(metavar="SPEC", help="openai:NAME, openai:NAME@http://host:8000/v1, anthropic:NAME, local:PATH."),
    ],
    prices: Prices = None,
    effort: Effort = None,
) -> None:
    """Ask a language model two small questions: what works, how fast it is, and what a thousand features would cost."""
    from glossator.llm.doctor import Usual, examine
    from glossator.prompts.texts import fixed_text
    from glossator.store.replies import Replies
    from glossator.store.store import Store

    config = llm_config("oneshot", llm, {"prices": prices, "effort": effort}, retry_failed=False)
    usual = Usual(len(fixed_text("oneshot").encode()))
    with Store(":memory:") as store:
        books = Replies(store, time.time())
        asyncio.run(examine(llm, books, config, usual, lambda line: out.print(line, soft_wrap=True)))


@app.command(epilog=example("version"))
def version() -> None:
    """The version of this Glossator and of its schema."""
    from glossator.store.migrations import MIGRATIONS

    out.print(json.dumps({"glossator": glossator.__version__, "schema": len(MIGRATIONS)}))
