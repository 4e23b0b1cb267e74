"""A server that lies, asked by the real SDKs: every question ends as one reply or one failure of the right kind, none is lost."""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import socket
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from glossator.errors import GlossatorError, ProviderError, RejectedError, UnparsableError
from glossator.llm.base import Address, Fault
from glossator.llm.faults import disguised, exhausted, refuses, retry_after, translate
from glossator.llm.openai_chat import read_completion
from glossator.llm.opening import provider
from glossator.llm.prices import most_usage
from glossator.llm.spec import parse_spec
from glossator.store.store import Store
from glossator.types import Message, Reply
from tests.llm.asking import PROTOCOLS, ask_all, asked, config, opened, priced, question
from tests.llm.fault_table import Outcome, outcomes
from tests.llm.server import BROKEN, HARMLESS, KINDS, MISSHAPEN, TURNED_AWAY, WRONG_USAGE, Plan, Seen, Server, serving

QUESTIONS, ATTEMPTS = 1000, 8  # questions by each protocol


def verdict(attempts: list[Seen]) -> tuple[str, int]:
    """What a question must end as after what the server did to it, and how many of the attempts were enough for that."""
    again = failed = 0
    for number, one in enumerate(attempts, 1):
        if one.kind in TURNED_AWAY + BROKEN:
            failed += 1
            if failed == ATTEMPTS:
                return "UnavailableError", number
        elif one.kind == "refusal":
            return "RefusedError", number
        elif one.kind not in MISSHAPEN:
            return "Reply", number
        elif again:
            return "CutOffError" if one.kind == "cut off at max_tokens" else "UnparsableError", number
        else:
            again, failed = 1, 0
    return "nothing", len(attempts)


def by_number(server: Server) -> dict[int, list[Seen]]:
    """The attempts of each question, in their order; those of asking again are with the first."""
    found: dict[int, list[Seen]] = defaultdict(list)
    for one in server.seen:
        found[int(one.prompt.split("number ")[1].split(".")[0])].append(one)
    return found


@pytest.mark.slow
def test_of_2000_questions_with_30_percent_faults_each_ends_once_and_rightly_and_none_is_asked_again() -> None:
    questions = [question(number) for number in range(QUESTIONS)]

    async def ask(server: Server, protocol: str, store: Store) -> list[Reply | GlossatorError]:
        async with opened(server, protocol, store, config(timeout=1.5, attempts=ATTEMPTS, patience=60)) as llm:
            return await ask_all(llm, questions)

    async def both(servers: dict[str, Server], stores: dict[str, Store]) -> list[list[Reply | GlossatorError]]:
        return await asyncio.gather(*(ask(servers[name], name, stores[name]) for name in PROTOCOLS))

    plans = {name: Plan(0.3, seed) for seed, name in enumerate(PROTOCOLS)}
    with (
        serving(Server(plan=plans["openai"], retry_after=0.03)) as first,
        serving(Server(plan=plans["anthropic"], retry_after=0.03)) as second,
        Store(":memory:") as one,
        Store(":memory:") as two,
    ):
        servers, stores = (
            dict(zip(PROTOCOLS, (first, second), strict=True)),
            dict(zip(PROTOCOLS, (one, two), strict=True)),
        )
        found = dict(zip(PROTOCOLS, asyncio.run(both(servers, stores)), strict=True))
        for name in PROTOCOLS:
            check(servers[name], stores[name], found[name])
        before = [len(server.seen) for server in servers.values()]
        for name, again in zip(PROTOCOLS, asyncio.run(both(servers, stores)), strict=True):
            assert [outcome(x) for x in again if not unavailable(x)] == [
                outcome(x) for x in found[name] if not unavailable(x)
            ]
        if not any(unavailable(x) for every in found.values() for x in every):
            assert [len(server.seen) for server in servers.values()] == before, (
                "a second run over the log makes no call"
            )
        assert {one.kind for server in servers.values() for one in server.seen} == {*KINDS, "good"}


def outcome(ended: Reply | GlossatorError) -> object:
    return ended.value if isinstance(ended, Reply) else (type(ended), str(ended))


def unavailable(ended: Reply | GlossatorError) -> bool:
    return type(ended).__name__ == "UnavailableError"


def check(server: Server, store: Store, found: list[Reply | GlossatorError]) -> None:
    attempts = by_number(server)
    assert sorted(attempts) == list(range(QUESTIONS)), "none is lost"
    for number, ended in enumerate(found):
        expected, enough = verdict(attempts[number])
        assert type(ended).__name__ == expected, (number, ended, attempts[number])
        assert enough == len(attempts[number]), f"question {number} was asked again after its end"
        assert not isinstance(ended, Reply) or ended.value.number == number, "the reply to another question"
    logged = store.sql(
        "SELECT count(*), count(reply), count(DISTINCT call_id) FILTER (reply IS NOT NULL) FROM llm_call"
    )
    rows, replies, distinct = logged[0]
    billed = [one for one in server.seen if one.tokens]
    assert rows == len(billed), "each attempt that the server billed is one row"
    assert replies == distinct == sum(one.kind not in BROKEN for one in billed), "each reply is logged, once"
    booked = store.sql("SELECT sum(input_tokens) + sum(output_tokens) FROM llm_call")[0][0]
    assert booked >= server.tokens, "what is booked is never less than what is billed"


def expected(kind: str) -> tuple[Outcome, Outcome]:
    if kind in TURNED_AWAY:
        last = Outcome("UnavailableError", "after retries", (0, 0), 0)
        over = Outcome("ProviderError", "patience at an end", (0, 0), 0)
        return Outcome("reply", "after retries", (1, 0), 0), last if kind in ("500", "502") else over
    if kind in BROKEN:
        return Outcome("reply", "after retries", (1, 1), 1), Outcome("UnavailableError", "after retries", (0, 3), 3)
    if kind in MISSHAPEN:
        name = "CutOffError" if kind == "cut off at max_tokens" else "UnparsableError"
        return Outcome("reply", "asked again", (2, 0), 0), Outcome(name, "asked again", (2, 0), 0)
    name, full = ("RefusedError", 0) if kind == "refusal" else ("reply", int(kind in WRONG_USAGE))
    return (Outcome(name, "at once", (1, 0), full),) * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_kind_of_fault_alone_ends_as_it_must_once_and_every_time(protocol: str) -> None:
    found = asyncio.run(outcomes(protocol))
    assert found == {kind: expected(kind) for kind in KINDS}
    assert found[HARMLESS[0]][0].ended == "reply"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("server", "words"),
    [
        (Server(keys=("right",)), ["does not accept the key (401)", "_API_KEY"]),
        (Server(credit=False), ["no credit left", "top it up"]),
        (Server(models=("other",)), ["no such model", "--llm"]),
    ],
    ids=["bad key", "no credit", "no such model"],
)
def test_what_ends_all_is_one_clear_line_after_one_round(protocol: str, server: Server, words: list[str]) -> None:
    server.seen.clear()
    with Store(":memory:") as store, serving(server):
        began = time.monotonic()
        ended = asked(server, protocol, store, config(concurrency=16), (question(n) for n in range(300)))
        assert time.monotonic() - began < 10
        assert {type(one) for one in ended} == {ProviderError}
        said = str(ended[0])
        assert all(word in said for word in words) and "\n" not in said, said
        assert 1 <= len(server.seen) <= 16, "those who waited were not sent"
        assert store.sql("SELECT count(*) FROM llm_call") == [(0,)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_with_nobody_listening_the_run_ends_when_patience_does_and_no_question_is_given_up_before(
    protocol: str,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Server(host=f"127.0.0.1:{free.getsockname()[1]}")
    with Store(":memory:") as store:
        began = time.monotonic()
        settings = config(patience=1.0, attempts=2, first_wait=0.05)
        ended = asked(nobody, protocol, store, settings, (question(n) for n in range(40)))
        assert 1.0 <= time.monotonic() - began < 8
        assert {type(one) for one in ended} == {ProviderError}
        assert f"cannot reach {nobody.host}" in str(ended[0]) and "\n" not in str(ended[0])
        assert store.sql("SELECT count(*) FROM llm_call") == [(0,)], "nobody billed anything"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["429 with Retry-After", "429 with rate-limit headers"])
def test_nothing_is_sent_for_as_long_as_the_provider_asked(protocol: str, kind: str) -> None:
    server = Server(plan=Plan(1.0, 0, (kind,), first=1), retry_after=2.0)  # anthropic's headers say whole seconds
    with Store(":memory:") as store, serving(server):
        ended = asked(server, protocol, store, config(concurrency=1), (question(n) for n in range(4)))
        assert all(isinstance(one, Reply) for one in ended)
        turned, after = server.seen[0], server.seen[1]
        whole = 2.0 if kind == "429 with Retry-After" or protocol == "openai" else 1.0
        assert whole - 0.05 <= after.at - turned.at < 2 + 2.5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_questions_in_flight_share_one_call_and_one_that_is_given_up_takes_nothing_away(protocol: str) -> None:
    server = Server(delay=0.3)

    async def run(store: Store) -> list[Reply | GlossatorError]:
        async with opened(server, protocol, store, config()) as llm:
            given_up = asyncio.create_task(llm.complete(question(3)))
            await asyncio.sleep(0.1)
            rest = asyncio.create_task(ask_all(llm, [question(3)] * 20 + [question(4)]))
            await asyncio.sleep(0.1)
            given_up.cancel()
            return await rest

    with Store(":memory:") as store, serving(server):
        ended = asyncio.run(run(store))
        assert [one.value.number for one in ended if isinstance(one, Reply)] == [3] * 20 + [4]
        assert len(server.seen) == 2
        assert store.sql("SELECT count(*) FROM llm_call") == [(2,)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", WRONG_USAGE)
def test_a_reply_that_lies_about_usage_is_booked_at_the_most_it_can_be(
    protocol: str, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(plan=Plan(1.0, 0, (kind,)))
    settings = config(prices=priced(tmp_path_factory.mktemp("prices")))
    with Store(":memory:") as store, serving(server):
        (ended,) = asked(server, protocol, store, settings, [question(5)])
        assert isinstance(ended, Reply)
        ((tokens, usd, note),) = store.sql("SELECT input_tokens + output_tokens, usd, error FROM llm_call")
        bound = most_usage(question(5))
        assert tokens == bound.input + bound.output >= server.tokens
        assert usd == pytest.approx((bound.input * 1.0 + bound.output * 4.0) / 1e6)
        assert "usage cannot be right" in note


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_closing_in_the_middle_books_what_was_in_flight_so_that_the_next_run_knows(protocol: str) -> None:
    server = Server(delay=5.0)

    async def run(store: Store) -> None:
        async with opened(server, protocol, store, config()) as llm:
            waiting = [asyncio.create_task(llm.complete(question(n))) for n in range(3)]
            while len(server.seen) < 3:
                await asyncio.sleep(0.01)
            for one in waiting:
                one.cancel()

    with Store(":memory:") as store, serving(server):
        asyncio.run(run(store))
        bound = most_usage(question(1))
        ((finished, tokens),) = store.sql(
            "SELECT finished, reserved_tokens FROM llm_session ORDER BY rowid DESC LIMIT 1"
        )
        assert not finished and tokens == 3 * (bound.input + bound.output) >= server.tokens


# ---------------------------------------------------------------------- what headers and statuses mean


def dated(seconds: float) -> str:
    return email.utils.format_datetime(datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry-after": "7"}, 7, 7),
        ({"retry-after": "0"}, 0, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5, 1.5),
    ],
)
def test_the_time_to_wait_is_read_in_each_of_its_forms(headers: dict[str, str], low: float, high: float) -> None:
    found = retry_after(headers)
    assert found is not None and low <= found <= high


def test_the_time_to_wait_may_be_a_date() -> None:
    found = retry_after({"retry-after": dated(3600)})
    assert found is not None and 3590 <= found <= 3600


@pytest.mark.parametrize(
    "text", ["", "soon", "-3", "nan", "inf", "1e9", "Mon, 99 Xxx 2026 99:99:99 GMT", ",", dated(-60)]
)
def test_a_time_to_wait_that_is_none_is_left_out(text: str) -> None:
    assert retry_after({"retry-after": text}) is None


def test_headers_that_say_that_nothing_is_left_say_how_long() -> None:
    soon = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=30)).isoformat()
    assert exhausted({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}) == 360
    assert exhausted({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20ms"}) == 0.02
    assert exhausted({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "6m0s"}) is None
    assert exhausted({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "whenever"}) is None
    found = exhausted({"anthropic-ratelimit-tokens-remaining": "0", "anthropic-ratelimit-tokens-reset": soon})
    assert found is not None and 28 <= found <= 30


class Answered(Exception):
    """What an SDK raises for a status, as far as it is read."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status_code, self.body, self.response = status, {"error": {"message": message, "code": code}}, None


_BILLING = "Rate limit reached: limit 3, used 3. Add a payment method at https://platform.openai.com/account/billing."


@pytest.mark.parametrize(
    ("error", "wanted", "words"),
    [
        (Answered(429, _BILLING, "rate_limit_exceeded"), Fault, "429"),
        (Answered(429, "You exceeded your quota", "insufficient_quota"), ProviderError, "no credit"),
        (Answered(402, "more is needed"), ProviderError, "no credit"),
        (Answered(403, "no access to this model"), ProviderError, "does not accept the key"),
        (Answered(403, "your input was flagged by moderation"), RejectedError, "refused the question"),
        (Answered(400, "too many tokens"), RejectedError, "refused the question"),
        (Answered(413, "too large"), RejectedError, "refused the question"),
        (Answered(408, "late"), Fault, "408"),
        (
            Answered(400, "Your credit balance is too low to use it", "invalid_request_error"),
            ProviderError,
            "no credit",
        ),
        (
            Answered(400, "too long: 'Your credit balance is too low'", "invalid_request_error"),
            RejectedError,
            "refused",
        ),
        (Answered(400, "too long: 'insufficient_quota, payment required'", "bad_request"), RejectedError, "refused"),
        (Answered(400, "no", "billing_hard_limit_reached"), ProviderError, "no credit"),
        (Answered(429, "slow down; " + "a " * 200 + "credit balance", "rate_limit_exceeded"), Fault, "429"),
    ],
)
def test_a_status_ends_the_run_the_question_or_only_the_attempt(
    error: Answered, wanted: type[Exception], words: str
) -> None:
    found = translate(Address("openai", "host", "m"), error)
    assert isinstance(found, wanted) and words in str(found)


@pytest.mark.parametrize(
    ("content", "wanted", "billed"),
    [
        ({"error": {"code": 429, "message": "rate-limited upstream"}}, Fault, False),
        ({"error": {"code": "502", "message": "Provider returned error"}, "choices": None}, Fault, True),
        ({"choices": [{"finish_reason": "error", "error": {"code": 502}, "message": {"content": ""}}]}, Fault, True),
        ({"error": {"code": 402, "message": "more is needed"}}, ProviderError, None),
        ({"error": {"code": 400, "message": "no"}, "choices": 3}, RejectedError, None),
        ({"error": {"code": "overloaded"}}, None, None),
        ({"error": {"code": True}}, None, None),
        ({"error": None, "choices": [{"message": {"content": "{}"}}]}, None, None),
        ([1], None, None),
    ],
)
def test_an_error_that_comes_with_status_200_means_what_it_means_elsewhere(
    content: Any, wanted: type[Exception] | None, billed: bool | None
) -> None:
    found = disguised(Address("openai", "host", "m"), content)
    assert type(found) is (wanted or type(None))
    assert billed is None or (isinstance(found, Fault) and found.billed is billed)


def test_a_host_behind_the_host_that_fails_for_a_while_costs_no_question() -> None:
    class Between(Server):
        """The first two answers are errors inside a 200."""

        def _reply(self, content: dict[str, Any], theirs: bool, kind: str) -> tuple[dict[str, Any], tuple[int, int]]:
            answer, usage = super()._reply(content, theirs, kind)
            code = {0: 429, 1: 502}.get(len(self.seen))
            return ({"error": {"code": code, "message": "Provider returned error"}} if code else answer), usage

    with Store(":memory:") as store, serving(Between()) as server:
        (ended,) = asked(server, "openai", store, config(), [question(3)])
        assert isinstance(ended, Reply) and len(server.seen) == 3
        assert store.sql("SELECT count(*), count(reply) FROM llm_call") == [(2, 1)]


def test_a_message_in_parts_is_joined() -> None:
    parts = [
        {"type": "text", "text": '{"number"'},
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": ": 3}"},
    ]
    assert read_completion({"choices": [{"message": {"content": parts}}]}).text == '{"number": 3}'


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (Answered(400, "Unsupported: response_format"), True),
        (Answered(400, "no", "json_schema_unsupported"), True),
        (Answered(400, "it is too long", "invalid_schema"), True),
        (Answered(400, "the question holds " + "words " * 40 + "such as schema"), False),
        (Answered(400, "maximum context length exceeded in prompt: 'the JSON schema'"), False),
        (Answered(400, "This prompt is too long: 'schema'"), False),
    ],
)
def test_a_refused_form_is_not_found_in_the_echo_of_a_question(error: Answered, found: bool) -> None:
    assert refuses(error, "response_format", "schema") is found


def test_a_request_that_cannot_be_sent_is_not_billed() -> None:
    class LocalProtocolError(Exception):
        """httpx's name for it."""

    class APIConnectionError(Exception):
        """Both SDKs' name for what httpx raises."""

    error = APIConnectionError("Connection error.")
    error.__cause__ = LocalProtocolError("Illegal header value")
    found = translate(Address("openai", "host", "m"), error)
    assert isinstance(found, Fault) and not found.billed and "cannot be sent" in str(found)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('<think>maybe {a: 1}?</think>{"number": 3}', 3),
        ('<think>not {"number": 2}</think>\n```json\n{"number": 3}\n```', 3),
        ('{"number": 3}\n\nNote: {x} unused', 3),
        ('{"number": 3}{"number": 4}', 3),
        ('{"other": 1} no, {"number": 3}', 3),
        ('{"number": 3, "note": "</think> ends it"}', 3),
        ('{"other": {"number": 3}, "more": {"number": 3}', None),  # cut off: a part is not the reply
        ('{"other": {"number": 3}}', None),
        ("{" * 2000, None),
        ('{"a":' * 5000, None),
        ("", None),
    ],
)
def test_the_object_of_a_reply_is_found_among_thoughts_and_words(text: str, number: int | None) -> None:
    with Store(":memory:") as store, serving(Server(answer=lambda body: text, token=400)) as server:
        (ended,) = asked(server, "openai", store, config(), [question(3, 10_000)])
        assert (ended.value.number if isinstance(ended, Reply) else None) == number, ended
        assert isinstance(ended, Reply | UnparsableError)
        assert len(server.seen) == (1 if number else 2)


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_that_lost_patience_may_have_been_billed(status: int) -> None:
    found = translate(Address("openai", "host", "m"), Answered(status, "late"))
    assert isinstance(found, Fault) and found.billed


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_half_a_character_in_a_question_rejects_that_question_alone(protocol: str) -> None:
    bad = replace(question(1), messages=(Message("user", "number 1. \ud83d"),))
    with Store(":memory:") as store, serving(Server()) as server:
        ended = asked(server, protocol, store, config(), [bad, question(2)])
        assert [type(one) for one in ended] == [RejectedError, Reply]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_sdks_own_variables_do_not_send_questions_elsewhere(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{protocol.upper()}_BASE_URL", "http://127.0.0.1:9/elsewhere")
    monkeypatch.setenv(f"{protocol.upper()}_API_KEY", "any")
    asking: Any = provider(parse_spec(f"{protocol}:echo"), config(), lambda seconds: None)
    assert asking.address.host in str(asking.client.base_url)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_key_found_by_one_ends_the_wait_of_those_who_were_told_to_wait(protocol: str) -> None:
    """The first is turned away for half a minute; then the key is withdrawn."""

    class Withdrawn(Server):
        def _key(self, headers: dict[str, str], theirs: bool) -> tuple[int, str, str] | None:
            return (401, "invalid_api_key", "withdrawn") if len(self.seen) > 1 else None

    server = Withdrawn(plan=Plan(1.0, 0, ("500",)))
    settings = config(concurrency=2, first_wait=30.0, longest_wait=30.0)
    with Store(":memory:") as store, serving(server):
        began = time.monotonic()
        ended = asked(server, protocol, store, settings, (question(n) for n in range(5)))
        assert time.monotonic() - began < 10
        assert {type(one) for one in ended} == {ProviderError}
