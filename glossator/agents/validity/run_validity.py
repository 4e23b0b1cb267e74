"""The whole validity suite: planting, then every reader in turn. What came of it is values; validation.py puts it on a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glossator.agents.asking import ask
from glossator.agents.pool import wait_for
from glossator.agents.run import Progress, Say
from glossator.agents.spent import set_aside, spent
from glossator.agents.validity.ground import Ground, planted_run, prepare
from glossator.agents.validity.table import SCORERS, Embeds, Found, embedded, executed, read, size
from glossator.config import LLMConfig, LLMScoreConfig
from glossator.errors import UsageError
from glossator.llm.base import LLM
from glossator.llm.opening import known_price
from glossator.llm.oracle import OracleLLM
from glossator.llm.spec import parse_spec
from glossator.scorers.reading import LLMPredictor
from glossator.store.store import Store
from glossator.types import Usage

ERRORS = 0.1  # of the oracle, where no model reads


@dataclass(frozen=True)
class Asked:
    """How the suite is run. features: how many are planted; llm None: the oracle reads. path: where it is all kept."""

    features: int
    scorers: Sequence[str] = SCORERS
    llm: str | None = None
    path: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Validation:
    """What every reader found, in words who read, what was left out, and what it cost."""

    features: int
    found: tuple[Found, ...]
    read_by: str
    notes: tuple[str, ...]


def validate_scores(
    asked: Asked, llm: LLMConfig, encoder: Callable[[], Embeds], progress: Progress, say: Say
) -> Validation:
    """encoder: opens one; UsageError there is no more than a note. Raises UsageError, and what asking a model raises."""
    with Store(":memory:" if asked.path is None else asked.path) as store:
        run = planted_run(store, asked.features, asked.seed, say)
        run.progress = progress
        config = LLMScoreConfig()
        ground = wait_for(prepare(run, asked.features, asked.seed, config))
        notes = []
        by_model, who, cost = _read(ground, asked, llm)
        found = [executed(ground), by_model]
        try:
            found.append(embedded(ground, encoder()))
        except UsageError as error:
            notes.append(f"embedding is left out: {error}")
        if by_model.failed:
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(by_model.failed.items()))
            notes.append(
                f"{by_model.failed.total()} labels could not be read by some scorer ({kinds}): no value, left out"
            )
        return Validation(asked.features, tuple(found), who, (*notes, *cost))


def _read(ground: Ground, asked: Asked, llm: LLMConfig) -> tuple[Found, str, list[str]]:
    """What a model found that reads labels, who that was, and what it cost."""
    run = ground.run
    if asked.llm is None:
        oracle = LLMPredictor(OracleLLM(ground.features, ERRORS), run.lexicon.vocabulary, ground.config)
        found = wait_for(read(ground, oracle, asked.scorers, 64))
        return (
            found,
            f"read by an oracle that errs in {ERRORS:.0%}: this shows what the score can see, not what a model can",
            [],
        )
    run.say(cost_in_words(ground, asked, llm))
    said: list[Found] = []
    tally: Counter[str] = Counter()

    async def work(model: LLM, in_hand: int) -> None:
        said.append(
            await read(ground, LLMPredictor(model, run.lexicon.vocabulary, ground.config), asked.scorers, in_hand)
        )

    def account(session: str) -> str:
        now = spent(run, "WHERE session_id = ?", [session])
        return f"spent now {now}, in all {spent(run, '', [])}{set_aside(run)}"

    cost = ask(run, asked.llm, llm, work, tally, account)
    return said[0], f"read by {asked.llm}", [cost]


def cost_in_words(ground: Ground, asked: Asked, llm: LLMConfig) -> str:
    """Before anything is asked."""
    spec = parse_spec(str(asked.llm))
    price, needs = known_price(spec, llm), size(ground, asked.scorers)
    usd = None if price is None else price.of(Usage(needs.tokens_in, needs.tokens_out), batch=spec.batch)
    dollars = "dollars unknown" if usd is None else f"about ${usd:.2f}"
    return (
        f"{asked.llm} will be asked {needs.questions:,} questions: about {needs.tokens_in:,} tokens in and {needs.tokens_out:,} "
        f"out, without what it thinks; {dollars}, less what {asked.path} has the replies to already"
    )
