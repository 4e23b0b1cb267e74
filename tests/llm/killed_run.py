"""A run that may be killed at any moment: questions to an open LLM, answers into a file at its end.

python -m tests.llm.killed_run RUN.duckdb SPEC OUT.json '{"budget_usd": 1.0}'
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from glossator.config import LLMConfig
from glossator.errors import GlossatorError
from glossator.llm.opening import open_llm
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Reply
from tests.llm.asking import ask_all, question

QUESTIONS, IN_FLIGHT, MAX_TOKENS, PADDING = 300, 64, 100, 200


async def run(path: str, spec: str, settings: LLMConfig) -> dict[int, object]:
    with Store(path) as store:
        async with open_llm(spec, Replies(store, time.time()), settings) as llm:
            ended = await ask_all(llm, (question(n, MAX_TOKENS, PADDING) for n in range(QUESTIONS)))
    for one in ended:
        if isinstance(one, GlossatorError):
            raise one
    return {number: one.value.number for number, one in enumerate(ended) if isinstance(one, Reply)}


def main() -> None:
    path, spec, out, given = sys.argv[1:]
    settings = {"concurrency": IN_FLIGHT, "first_wait": 0.01, "longest_wait": 0.1, "timeout": 5.0} | json.loads(given)
    try:
        Path(out).write_text(json.dumps(asyncio.run(run(path, spec, LLMConfig.model_validate(settings)))))
    except GlossatorError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
