"""Two models in one run: who writes and who reads. One budget for both, each with its own log entries, closed together."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from glossator.config import LLMConfig
from glossator.errors import BudgetSpent, GlossatorError, ProviderError
from glossator.llm.opening import open_llms
from glossator.store.replies import Replies
from glossator.store.store import Store
from tests.llm.asking import config, question
from tests.llm.server import Server, serving


def ask(server: Server, names: tuple[str, str], how: LLMConfig, store: Store, n: int) -> list[object]:
    """n questions to each, in turn, all at once; how they ended."""

    async def run() -> list[object]:
        specs = [f"openai:{name}@{server.openai}" for name in names]
        async with open_llms(specs, Replies(store, 0.0), how) as (writer, reader):
            work = [model.complete(question(k)) for k in range(n) for model in (writer, reader)]
            return list(await asyncio.gather(*work, return_exceptions=True))

    return asyncio.run(run())


def test_one_budget_is_for_both(tmp_path: Path) -> None:
    with serving(Server()) as server, Store(tmp_path / "run.duckdb") as store:
        ask(server, ("writer", "reader"), config(), store, 1)
        one = server.tokens // 2
        how = config(budget_tokens=server.tokens + 12 * one)
        ended = ask(server, ("writer", "reader"), how, store, 40)
        assert any(isinstance(one, BudgetSpent) for one in ended)
        assert all(not isinstance(one, Exception) or isinstance(one, GlossatorError) for one in ended)
        assert server.tokens <= (how.budget_tokens or 0)
        rows = dict(store.sql("SELECT model, sum(input_tokens + output_tokens)::BIGINT FROM llm_call GROUP BY model"))
        assert set(rows) == {"writer", "reader"} and sum(rows.values()) == server.tokens
        ((sessions,),) = store.sql("SELECT count(*) FROM llm_session WHERE finished")
        assert sessions >= 1


def test_the_same_model_twice_is_asked_once(tmp_path: Path) -> None:
    with serving(Server()) as server, Store(tmp_path / "run.duckdb") as store:
        ended = ask(server, ("one", "one"), config(), store, 5)
        assert len(server.seen) == 5 and not any(isinstance(one, Exception) for one in ended)


def test_where_the_second_cannot_be_opened_the_first_is_closed_and_the_cause_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    async def run(server: Server, store: Store) -> None:
        async with open_llms([f"openai:here@{server.openai}", "openai:gpt-5-mini"], Replies(store, 0.0), config()):
            raise AssertionError("opened without a key")

    with (
        serving(Server()) as server,
        Store(tmp_path / "run.duckdb") as store,
        pytest.raises(ProviderError, match="OPENAI_API_KEY"),
    ):
        asyncio.run(run(server, store))
