"""What all stages that ask a language model do around their questions: the warning about prices, the books, the account.

The account is given at the end, and also where the run was stopped by a budget, a batch or a person: what was paid for must
be said. A run that nobody could answer has nothing to account for, and ends with its one line.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from glossator.agents.pool import wait_for
from glossator.agents.run import Run
from glossator.config import LLMConfig
from glossator.errors import ProviderError, Stopped
from glossator.llm.base import LLM
from glossator.llm.opening import in_batches, known_price, open_llms
from glossator.llm.prices import Price, listed
from glossator.llm.spec import Spec, parse_spec
from glossator.store.labels import materialise_labels
from glossator.store.replies import Replies

Work = Callable[[LLM, int], Awaitable[None]]  # a model, and how many features it is asked about at once
WorkOfSeveral = Callable[[Sequence[LLM], int], Awaitable[None]]


def ask(
    run: Run, spec: str, llm: LLMConfig, work: Work | None, tally: Counter[Any], account: Callable[[str], str]
) -> str:
    """`ask_several` of one model."""

    async def alone(models: Sequence[LLM], in_hand: int) -> None:
        if work is not None:
            await work(models[0], in_hand)

    return ask_several(run, [spec], llm, None if work is None else alone, tally, account)


def ask_several(
    run: Run,
    specs: Sequence[str],
    llm: LLMConfig,
    work: WorkOfSeveral | None,
    tally: Counter[Any],
    account: Callable[[str], str],
) -> str:
    """`work` with the models that `specs` name, if there is any; then labels anew, and account(session id), which is returned.

    One budget is for all of them.

    tally: what `work` counts; where it counted nothing and nobody answered, there is no account.
    Raises UsageError for a spec or a budget that makes no sense, ProviderError where nobody can answer, Stopped where the
    budget is spent or a batch is waited for; run again to go on.
    """
    asked = [parse_spec(spec) for spec in specs]
    for one in dict.fromkeys(asked):
        _tell_of_prices(run, one, llm, known_price(one, llm))
    books = Replies(run.store, time.time())

    async def whole(work: WorkOfSeveral) -> None:
        async with open_llms(specs, books, llm, run.say) as models:
            run.asking = models
            gc.freeze()  # what torch and the SDKs have made is not walked again while replies wait: 0.3 s each time
            try:
                await work(models, llm.features_in_hand(batched=any(map(in_batches, asked))))
            finally:
                run.asking = ()
                gc.unfreeze()

    def said() -> str:
        materialise_labels(run.store)
        return account(books.session_id)

    try:
        if work is not None:
            wait_for(whole(work))
    except (ProviderError, Stopped, KeyboardInterrupt) as stop:
        calls = run.store.sql("SELECT count(*) FROM llm_call WHERE session_id = ?", [books.session_id])
        if not isinstance(stop, ProviderError) or tally.total() or calls[0][0]:
            run.say(said())
        else:
            materialise_labels(run.store)
        raise
    return said()


def _tell_of_prices(run: Run, asked: Spec, llm: LLMConfig, price: Price | None) -> None:
    """A file of prices that has not the model's is a slip of the pen as often as not."""
    if llm.prices and not listed(asked.provider, asked.name, llm.prices):
        then = "dollars are unknown" if price is None else "our own price is taken"
        run.say(f"--prices {llm.prices}: has no price of {asked.provider}:{asked.name}; {then}")
