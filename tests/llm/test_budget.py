"""A budget is never passed, by the server's own bill; a small one is slow, not stuck; a larger one goes on."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from glossator.config import LLMConfig
from glossator.errors import BatchWaiting, BudgetSpent, GlossatorError, ProviderError, RejectedError, UsageError
from glossator.llm.base import Address, Fault, RawReply, call_id
from glossator.llm.batch_rows import kept_rows
from glossator.llm.ledger import Ledger, Money
from glossator.llm.limiter import Limiter
from glossator.llm.live import Live, call_row
from glossator.llm.openai_chat import strict
from glossator.llm.prices import FREE, Price, find_price, most, most_usage, plausible
from glossator.rows import BatchRow, CallRow
from glossator.store.replies import Replies
from glossator.store.store import Store
from glossator.types import Message, Reply, Request, Usage
from tests.llm.asking import PROTOCOLS, Echo, ask_all, asked, config, opened, priced, question
from tests.llm.server import Plan, Server, echo, serving

PRICE = Price(1.0, 4.0, 1.0, 1.0, 0.5)
DEAREST = most(question(999, 100, 100), PRICE)


def long_echo(body: dict[str, Any]) -> str:
    return echo(body).ljust(99)


def dear(number: int) -> Request:
    return question(number, 100, 100)


# ---------------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("protocol", "limit"), [("openai", "budget_usd"), ("anthropic", "budget_tokens")])
def test_with_128_in_flight_a_budget_that_ends_in_the_middle_is_not_passed_and_a_larger_one_goes_on(
    protocol: str, limit: str, tmp_path: Path
) -> None:
    server = Server(answer=long_echo, delay=2.5, token=1, plan=Plan(0.2, 3, ("500", "no JSON", "usage zero")))
    budget = DEAREST.usd * 170 if limit == "budget_usd" else DEAREST.tokens * 170
    settings = {"concurrency": 128, "prices": priced(tmp_path)}
    questions = [dear(number) for number in range(300)]
    with Store(":memory:") as store, serving(server):
        ended = asked(server, protocol, store, config(**settings, **{limit: budget}), questions)
        billed = server.usd if limit == "budget_usd" else server.tokens
        assert 0.6 * budget < billed <= budget
        assert {type(one) for one in ended} == {Reply, BudgetSpent}
        spent = next(one for one in ended if isinstance(one, BudgetSpent))
        assert spent.exit_code == 3 and "run again" in str(spent) and "\n" not in str(spent)
        bought = sum(isinstance(one, Reply) for one in ended)
        assert store.sql("SELECT count(reply) FROM llm_call") == [(bought,)]
        assert server.peak > 100
        server.delay = 0.0
        again = asked(server, protocol, store, config(**settings, **{limit: budget * 4}), questions)
        assert [one.value.number for one in again if isinstance(one, Reply)] == list(range(300))
        assert store.sql("SELECT count(reply), count(DISTINCT call_id) FROM llm_call WHERE reply IS NOT NULL") == [
            (300, 300)
        ]


def test_a_small_budget_is_slow_and_not_stuck(tmp_path: Path) -> None:
    """Reservations fit one at a time; what is truly billed is a tenth of them."""
    server = Server()
    questions = [question(number, 1000) for number in range(60)]
    budget = most(questions[0], PRICE).usd * 1.9
    with Store(":memory:") as store, serving(server):
        settings = config(concurrency=32, budget_usd=budget, prices=priced(tmp_path))
        ended = asked(server, "openai", store, settings, questions)
        assert [one.value.number for one in ended if isinstance(one, Reply)] == list(range(60))
        assert server.peak == 1 and server.usd <= budget


def test_a_budget_counts_what_was_lost_of_sight_by_a_session_that_had_none(tmp_path: Path) -> None:
    """A run without a budget is given up in the middle; a later one with a budget knows of it."""
    server = Server(answer=long_echo, delay=3.0, token=1)

    async def give_up(store: Store) -> None:
        async with opened(server, "openai", store, config(prices=priced(tmp_path))) as llm:
            asking = asyncio.create_task(ask_all(llm, [dear(number) for number in range(10)]))
            while len(server.seen) < 10:
                await asyncio.sleep(0.01)
            asking.cancel()

    with Store(":memory:") as store, serving(server):
        asyncio.run(give_up(store))
        assert Replies(store, 2).spent()[0] >= server.usd > 0
        server.delay = 0.0
        settings = config(budget_usd=server.usd + DEAREST.usd / 2, prices=priced(tmp_path))
        (ended,) = asked(server, "openai", store, settings, [dear(11)])
        assert isinstance(ended, BudgetSpent) and len(server.seen) == 10


def test_a_budget_in_dollars_needs_a_price_before_the_first_call() -> None:
    with Store(":memory:") as store, serving(Server()) as server:
        with pytest.raises(UsageError, match=r"--budget-usd: no price is known for openai:echo.*--prices"):
            asked(server, "openai", store, config(budget_usd=1.0), [question(1)])
        assert server.seen == []
        (ended,) = asked(server, "openai", store, config(budget_tokens=100_000), [question(1)])
        assert isinstance(ended, Reply)
        assert store.sql("SELECT usd FROM llm_call") == [(None,)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("limit", ["budget_usd", "budget_tokens"])
def test_a_server_that_bills_more_than_max_tokens_is_booked_as_it_says_and_stops_a_run_with_a_budget(
    protocol: str, limit: str, tmp_path: Path
) -> None:
    server = Server(thought=5000)
    settings = config(concurrency=4, prices=priced(tmp_path), **{limit: 0.06 if limit == "budget_usd" else 15_000})
    with Store(":memory:") as store, serving(server):
        ended = asked(server, protocol, store, settings, (question(number) for number in range(50)))
        said = str(ended[-1])
        assert {type(one) for one in ended} == {ProviderError}
        assert "bills more than max_tokens" in said and "a budget cannot hold here" in said and "\n" not in said
        assert 1 <= len(server.seen) <= 4, "no more than were in flight"
        usd, tokens = Replies(store, 99).spent()
        assert usd >= server.usd and tokens >= server.tokens, "what it says it bills is booked"
        assert store.sql("SELECT count(*) FROM llm_call WHERE reply IS NULL OR error NOT LIKE '%more than%'") == [(0,)]
        paid = len(server.seen)
        free = asked(server, protocol, store, config(concurrency=4), (question(number) for number in range(8)))
        assert {type(one) for one in free} == {Reply}, "without a budget it can be used"
        assert len(server.seen) == 8 and paid <= 4, "what was bought before is kept"


@pytest.mark.parametrize(
    ("told", "taken"),
    [
        (Usage(20, 5000), (None, 5000)),
        (Usage(90_000, 5), (90_000, None)),
        (Usage(-1, 5000), (None, 5000)),
        (Usage(20, 10_000_000), (None, None)),
        (Usage(20, -5), (None, None)),
        (None, (None, None)),
    ],
)
def test_a_usage_that_cannot_be_is_booked_at_the_most_and_beyond_that_as_it_was_told(
    told: Usage | None, taken: tuple[int | None, int | None]
) -> None:
    bound, raw = most_usage(question(1)), RawReply('{"number": 1}', "stop", told, "m")
    row = call_row(Address("openai", "h", "m"), "c", question(1), raw, None, ("s", PRICE, 0.0, 0.0))
    wanted = Usage(taken[0] or bound.input, taken[1] or bound.output)
    assert (row.input_tokens, row.output_tokens) == (wanted.input, wanted.output)
    assert row.usd == pytest.approx(PRICE.of(wanted)) and row.error and str(told)[:40] in row.error


def test_what_was_spent_without_a_price_counts_by_the_price_that_is_known_now(tmp_path: Path) -> None:
    with Store(":memory:") as store, serving(Server(token=1)) as server:
        asked(server, "openai", store, config(), [dear(number) for number in range(20)])
        assert store.sql("SELECT DISTINCT usd FROM llm_call") == [(None,)]
        settings = config(budget_usd=server.usd, prices=priced(tmp_path))
        (ended,) = asked(server, "openai", store, settings, [dear(21)])
        assert isinstance(ended, BudgetSpent) and len(server.seen) == 20
        (ended,) = asked(server, "openai", store, config(prices=settings.prices), [dear(21)])
        assert isinstance(ended, Reply), "nothing else is in the way"


def test_a_budget_in_dollars_is_refused_where_a_price_of_earlier_calls_is_not_known(tmp_path: Path) -> None:
    with Store(":memory:") as store, serving(Server()) as server:
        asked(server, "openai", store, config(), [question(1)])
        only = tmp_path / "only.toml"
        only.write_text("[anthropic.echo]\ninput = 1.0\noutput = 4.0\n")
        settings = config(budget_usd=1.0, prices=str(only))
        with pytest.raises(UsageError, match=r"--budget-usd: .* calls to openai:echo without a price.*--prices") as no:
            asked(server, "anthropic", store, settings, [question(2)])
        assert "\n" not in str(no.value) and len(server.seen) == 1
        (ended,) = asked(server, "anthropic", store, config(budget_tokens=10**5), [question(2)])
        assert isinstance(ended, Reply), "tokens are known"


@pytest.mark.parametrize("hidden", ["a kill", "a batch"])
def test_what_may_have_been_spent_without_a_price_counts_by_the_dearest_that_is_known(
    hidden: str, tmp_path: Path
) -> None:
    async def hide(store: Store) -> None:
        if hidden == "a kill":
            await Replies(store, 0.5).mark(0.0, 100_000)
        else:
            row = BatchRow("b", "openai", "elsewhere", "echo", "sent", "r", 1, 0.0, 100_000, 1.0)
            await Replies(store, 0.5).put_batch(row)

    with Store(":memory:") as store, serving(Server()) as server:
        asyncio.run(hide(store))
        (ended,) = asked(server, "openai", store, config(budget_usd=0.39, prices=priced(tmp_path)), [question(1)])
        assert isinstance(ended, BudgetSpent) and server.seen == [], (
            "100,000 tokens at 4 dollars a million are 40 cents"
        )
        (ended,) = asked(server, "openai", store, config(budget_usd=0.41, prices=priced(tmp_path)), [question(1)])
        assert isinstance(ended, Reply)


@pytest.mark.parametrize("state", ["intent", "sent", "done", "lost"])
def test_a_question_that_is_out_in_a_batch_is_not_bought_a_second_time(state: str) -> None:
    with Store(":memory:") as store, serving(Server()) as server:
        out = Address("openai", f"{server.host}/v1", "echo")
        row = BatchRow("b", out.provider, out.host, out.model, state, "r", 1, 0.0, 0, 1.0)
        asyncio.run(Replies(store, 0.5).put_batch(row, kept_rows("b", out, {call_id(out, question(1)): question(1)})))
        first, second = asked(server, "openai", store, config(), [question(1), question(2)])
        assert isinstance(second, Reply)
        if state in ("intent", "sent"):
            assert isinstance(first, BatchWaiting) and "run with +batch" in str(first) and len(server.seen) == 1
        else:
            assert isinstance(first, Reply) and len(server.seen) == 2


# ---------------------------------------------------------------------- the ledger


def test_who_came_first_is_served_first_and_nobody_overtakes() -> None:
    async def run() -> None:
        ledger, order = Ledger(budget_tokens=10), []

        async def one(name: str, tokens: int) -> None:
            await ledger.reserve(Money(0, tokens))
            order.append(name)

        await ledger.reserve(Money(0, 8))
        waiting = [asyncio.create_task(one(*each)) for each in (("large", 9), ("small", 1), ("tiny", 1))]
        await asyncio.sleep(0)
        assert order == [], "the small ones fit, but the large one was first"
        ledger.settle(Money(0, 8), Money(0, 0))
        await asyncio.sleep(0)
        assert order == ["large", "small"]
        ledger.settle(Money(0, 9), Money(0, 1))
        await asyncio.gather(*waiting)
        assert order == ["large", "small", "tiny"]

    asyncio.run(run())


def test_what_does_not_fit_waits_for_those_in_flight_and_then_is_told() -> None:
    async def run() -> None:
        ledger = Ledger(budget_usd=1.0)
        await ledger.reserve(Money(0.6, 10))
        waiting = asyncio.create_task(ledger.reserve(Money(0.6, 10)))
        await asyncio.sleep(0)
        assert not waiting.done()
        ledger.settle(Money(0.6, 10), Money(0.5, 8))
        with pytest.raises(BudgetSpent, match=r"\$0.5000 of \$1 \(the next question may cost \$0.6000\)"):
            await waiting
        await ledger.reserve(Money(0.5, 10))
        assert (ledger.spent, ledger.reserved) == (Money(0.5, 8), Money(0.5, 10))

    asyncio.run(run())


@pytest.mark.parametrize("tick", [0, 1])
def test_who_gives_up_waiting_leaves_no_reservation_and_those_behind_move_up(tick: int) -> None:
    async def run() -> None:
        ledger = Ledger(budget_tokens=10)
        await ledger.reserve(Money(0, 6))
        first = asyncio.create_task(ledger.reserve(Money(0, 9)))
        second = asyncio.create_task(ledger.reserve(Money(0, 4)))
        await asyncio.sleep(0)
        if tick:  # its turn comes as it gives up
            ledger.release(Money(0, 6))
        first.cancel()
        await asyncio.wait_for(second, 1)
        assert first.cancelled()
        assert ledger.reserved.tokens == (4 if tick else 10)

    asyncio.run(run())


def test_the_mark_is_written_before_what_it_covers_and_covers_what_was_lost_too() -> None:
    async def run() -> None:
        marks: list[tuple[float, int]] = []

        async def mark(usd: float, tokens: int) -> None:
            await asyncio.sleep(0.01)
            marks.append((usd, tokens))

        ledger = Ledger(mark=mark)  # also where there is no budget: a later run may have one

        async def one() -> None:
            await ledger.reserve(Money(0.1, 100))
            assert marks and marks[-1][1] >= 100

        await asyncio.gather(*(one() for _ in range(64)))
        assert marks[-1][0] >= 6.4 and marks[-1][1] >= 6400
        assert len(marks) <= 4, "not one for each question"
        ledger.lose(Money(0.1, 100))
        for _ in range(63):
            ledger.settle(Money(0.1, 100), Money(0.01, 10))
        assert (ledger.reserved.tokens, ledger.lost.tokens) == (0, 100)
        for _ in range(70):
            await ledger.reserve(Money(0.1, 100))
        assert marks[-1][1] >= 100 + 7000

    asyncio.run(run())


def test_the_mark_covers_what_was_lost_beside_what_is_reserved() -> None:
    async def run() -> None:
        marks: list[int] = []

        async def mark(usd: float, tokens: int) -> None:
            marks.append(tokens)

        ledger = Ledger(mark=mark)
        await ledger.reserve(Money(0.1, 100))
        ledger.lose(Money(0.1, 100))
        await ledger.reserve(Money(0.1, 100))  # alone it would be covered
        assert marks[-1] >= 200

    asyncio.run(run())


def test_a_mark_that_cannot_be_written_reserves_nothing() -> None:
    async def run() -> None:
        async def mark(usd: float, tokens: int) -> None:
            raise OSError("no space")

        ledger = Ledger(mark=mark)
        with pytest.raises(OSError, match="no space"):
            await ledger.reserve(Money(0.1, 100))
        assert ledger.reserved.tokens == 0

    asyncio.run(run())


# ---------------------------------------------------------------------- one attempt, however it ends


class Scripted:
    """A provider that does what it is told."""

    address = Address("openai", "host", "m")

    def __init__(self, *steps: RawReply | BaseException | float) -> None:
        self.steps = list(steps)

    async def ask(self, request: Request) -> RawReply:
        step = self.steps.pop(0)
        if isinstance(step, float):
            await asyncio.sleep(step)
            return GOOD
        if isinstance(step, BaseException):
            raise step
        return step

    async def close(self) -> None:
        pass


class FullDisk:
    async def get(self, call_id: str) -> CallRow | None:
        return None

    async def put(self, *rows: CallRow) -> None:
        raise GlossatorError("the disk is full")


GOOD = RawReply('{"number": 1}', "stop", Usage(300, 5), "m-1")


def live(provider: Any, log: Any, settings: LLMConfig) -> Live:
    return Live(provider, Limiter(4, 60), log, Ledger(budget_tokens=10**6), PRICE, settings, "s")


@pytest.mark.parametrize(
    ("steps", "error", "spent", "lost"),
    [
        ([GOOD], None, 305, False),
        ([Fault("500"), Fault("503", overload=True), GOOD], None, 305, False),
        ([Fault("cut", billed=True), GOOD], None, 305 + DEAREST.tokens, False),
        ([9.0, GOOD], None, 305 + DEAREST.tokens, False),  # the time-out
        ([UsageError("what")], UsageError, DEAREST.tokens, True),
        ([ValueError("a bug")], ValueError, DEAREST.tokens, True),
        ([asyncio.CancelledError()], asyncio.CancelledError, DEAREST.tokens, True),
    ],
)
def test_however_an_attempt_ends_no_reservation_and_no_place_is_left(
    steps: list[Any], error: type[BaseException] | None, spent: int, lost: bool
) -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            asking = live(Scripted(*steps), Replies(store, 1), config(timeout=0.1))
            ended = (await asyncio.gather(asking.fetch("c", dear(999)), return_exceptions=True))[0]
            assert isinstance(ended, error or CallRow)
            assert asking.limiter.in_flight == 0 and asking.ledger.reserved.tokens == 0
            assert asking.ledger.spent.tokens == spent
            assert asking.ledger.lost.tokens == (spent if lost else 0)

    asyncio.run(run())


def test_a_run_that_is_over_after_the_reservation_gives_it_back() -> None:
    class Stopping(Limiter):
        """Over in the moment between the reservation and the question."""

        times = 0

        async def ready(self) -> None:
            self.times += 1
            if self.times == 2:
                self.stop("the key is wrong")
            await super().ready()

    async def run() -> None:
        with Store(":memory:") as store:
            limiter, ledger = Stopping(4, 60), Ledger(budget_tokens=10**6)
            asking = Live(Scripted(GOOD), limiter, Replies(store, 1), ledger, PRICE, config(), "s")
            with pytest.raises(ProviderError, match="the key is wrong"):
                await asking.fetch("c", dear(999))
            assert limiter.times == 2 and limiter.in_flight == 0
            assert (ledger.reserved, ledger.spent, ledger.lost) == (Money(), Money(), Money())

    asyncio.run(run())


def test_a_reply_that_cannot_be_logged_is_booked_in_full_and_is_not_used() -> None:
    async def run() -> None:
        asking = live(Scripted(GOOD), FullDisk(), config())
        with pytest.raises(GlossatorError, match="the disk is full"):
            await asking.fetch("c", dear(999))
        assert asking.ledger.lost == asking.ledger.spent == DEAREST
        assert asking.ledger.reserved.tokens == 0 and asking.limiter.in_flight == 0

    asyncio.run(run())


def test_a_run_that_is_stopped_as_a_reply_is_being_logged_keeps_it() -> None:
    async def run() -> None:
        with Store(":memory:") as store:
            log = Replies(store, 1)
            asking = live(Scripted(GOOD), log, config())
            task = asyncio.create_task(asking.fetch("c", dear(999)))
            while asking.limiter._last_success == 0.0:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await log.get("c") is not None
            assert (asking.ledger.spent.tokens, asking.ledger.lost.tokens) == (305, 0)

    asyncio.run(run())


class Moody:
    """Answers, fails, rejects or dawdles, by chance; knows how many it has at once and what it billed."""

    address = Address("openai", "host", "m")

    def __init__(self, seed: int) -> None:
        self.draw, self.at_once, self.peak, self.billed = random.Random(seed), 0, 0, 0

    async def ask(self, request: Request) -> RawReply:
        self.at_once += 1
        self.peak = max(self.peak, self.at_once)
        try:
            mood = self.draw.choice(["good", "good", "good", "500", "529", "cut", "400", "slow"])
            self.billed += 305 if mood in ("good", "cut", "slow") else 0
            await asyncio.sleep(10 if mood == "slow" else self.draw.uniform(0, 0.004))
        finally:
            self.at_once -= 1
        if mood in ("500", "529", "cut"):
            raise Fault(mood, overload=mood == "529", billed=mood == "cut")
        if mood == "400":
            raise RejectedError("no")
        return GOOD

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_and_whoever_gives_up_no_place_and_no_reservation_is_left_and_nothing_is_underbooked(
    seed: int,
) -> None:
    async def run() -> None:
        provider, draw = Moody(seed), random.Random(seed)
        with Store(":memory:") as store:
            ledger = Ledger(budget_tokens=DEAREST.tokens * 60)
            settings = config(timeout=0.05, attempts=3, first_wait=0.002, longest_wait=0.01)
            limiter = Limiter(16, 60)
            asking = Live(provider, limiter, Replies(store, 1), ledger, PRICE, settings, "s")
            tasks = [asyncio.create_task(asking.fetch(f"c{number}", dear(999))) for number in range(200)]
            left = draw.sample(tasks, len(tasks))  # each is given up at most once
            while not all(task.done() for task in tasks):
                if left and draw.random() < 0.6:
                    left.pop().cancel()
                await asyncio.sleep(draw.uniform(0, 0.004))
            assert limiter.in_flight == 0 and provider.peak <= 16
            assert ledger.reserved == Money(pytest.approx(0, abs=1e-9), 0)
            assert provider.billed <= ledger.spent.tokens <= DEAREST.tokens * 60
            logged = store.sql("SELECT coalesce(sum(input_tokens + output_tokens), 0) FROM llm_call")[0][0]
            assert ledger.spent.tokens == logged + ledger.lost.tokens
            kinds = {type(task.exception()) for task in tasks if not task.cancelled()}
            assert kinds >= {type(None), RejectedError} and any(task.cancelled() for task in tasks)
            async with asyncio.timeout(1), limiter.slot():
                pass

    asyncio.run(run())


# ---------------------------------------------------------------------- prices


def test_the_most_is_never_less_than_what_any_tokenizer_counts() -> None:
    asked = Request("t", (Message("system", "né"), Message("user", "\N{DOG FACE}" * 10)), Echo, 50)
    bound = most_usage(asked)
    assert bound.input >= 3 + 40 + len(str(strict(asked.schema))) and bound.output >= 50
    assert most(asked, None) == Money(0.0, bound.input + bound.output)
    cache = Price(1.0, 4.0, 0.1, 1.25, 0.5)
    assert most(asked, cache).usd == pytest.approx((bound.input * 1.25 + bound.output * 4) / 1e6)
    assert most(asked, cache, batch=True).usd == pytest.approx(most(asked, cache).usd / 2)


def test_what_was_read_from_a_cache_and_written_to_it_has_its_own_price() -> None:
    price = Price(1.0, 4.0, 0.1, 1.25, 0.5)
    usage = Usage(1000, 100, cache_read=600, cache_write=200)
    assert price.of(usage) * 1e6 == pytest.approx(200 + 60 + 250 + 400)
    assert price.of(usage, batch=True) == pytest.approx(price.of(usage) / 2)


@pytest.mark.parametrize(
    "usage",
    [
        None, Usage(-1, 5), Usage(20, -5), Usage(0, 0), Usage(20, 0), Usage(1, 5), Usage(10**30, 5), Usage(20, 200),
        Usage(20, 5, cache_read=21), Usage(20, 5, cache_read=-1), Usage(20, 5, cache_read=11, cache_write=11),
    ],
)  # fmt: skip
def test_a_usage_that_cannot_be_is_not_believed(usage: Usage | None) -> None:
    text = '{"number": 1}'
    assert plausible(question(1), text, Usage(20, 5, 10, 10))
    assert not plausible(question(1), text, usage)


def test_a_price_is_found_by_the_longest_name_the_users_own_first(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('[openai.m]\ninput = 1\noutput = 2\n[openai."m-large"]\ninput = 3\noutput = 4\ncache_read = 0.5\n')
    assert find_price("openai", "m-2026-01-01", str(path)) == Price(1, 2, 1, 1, 1)
    assert find_price("openai", "m-large-latest", str(path)) == Price(3, 4, 0.5, 3, 1)
    assert find_price("openai", "m-large-20260101", str(path), theirs=False) == Price(3, 4, 0.5, 3, 1)
    for other in ("mini", "m-pro", "m-large-1", "m-2026-01-01-pro", "m-latest-2026", "m-"):
        assert find_price("openai", other, str(path)) is None, other
    assert find_price("local", "any") == find_price("files", "any") == FREE
    ours = find_price("anthropic", "claude-haiku-4-5-20251001")
    assert ours is not None and ours.output > ours.input > 0
    assert find_price("anthropic", "claude-haiku-4-5-20251001", theirs=False) is None, "another host has other prices"
    assert find_price("openai", "gpt-6-sol") and find_price("openai", "gpt-6-sol-pro") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[openai", "is no TOML"),
        ("", "holds no price"),
        ("[openai.m]\ninput = 1\n", "needs input and output"),
        ("[openai.m]\ninput = 1\noutput = -2\n", "output must be a number"),
        ("[openai.m]\ninput = 1\noutput = nan\n", "output must be a number"),
        ("[openai.m]\ninput = 1\noutput = 2\nhour = 3\n", "unknown hour"),
    ],
)
def test_a_price_list_that_is_wrong_is_one_clear_line(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=words) as raised:
        find_price("openai", "m", str(path))
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="cannot be read"):
        find_price("openai", "m", str(tmp_path / "none.toml"))
