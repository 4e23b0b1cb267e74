"""Does a language model work, how fast, and what would it cost? Asked as a run asks: by the same client, log and retries.

Two questions are sent that begin alike. Their fixed part is as long as that of a prompt, so that a prompt cache that would
serve a run shows; what the provider counts for them says how many bytes it takes for a token, so the price needs no guess
at its tokenizer. The form asks for one field that the words do not mention: a reply that has it was made by the schema.
What was not seen is not claimed. It says nothing of rate limits, nor of how good the answers are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, Field

from glossator.config import LLMConfig
from glossator.errors import CutOffError, ProviderError, RefusedError, ReplyError, UnparsableError, UsageError
from glossator.llm.base import call_id
from glossator.llm.client import Client
from glossator.llm.live import Live
from glossator.llm.opening import Books, known_price, open_llm
from glossator.llm.prices import Price
from glossator.llm.spec import Spec, parse_spec
from glossator.rows import CallRow
from glossator.types import Message, Reply, Request, Usage

_FEATURES = 1000
_ALTERNATIVES = 5
_FILLER = "You are asked a small question, to see whether all is well between the one who asks and the one who answers. Nothing needs to be done about this text; it is here because the questions to come have an introduction of the same length.\n"
_ASKED = 'How many legs has a cat? Reply with a JSON object, such as {"legs": 3}.'
_HASTE = {"attempts": 2, "timeout": 90.0, "first_wait": 0.5, "longest_wait": 4.0, "patience": 3.0}  # somebody waits


@dataclass(frozen=True, slots=True)
class Usual:
    """A prompt of the work to come, in bytes, and the tokens of its reply.

    The figures are those of `oneshot`: 20 windows of 32 tokens, which took 4,400 bytes on the average of 396 features of the
    built-in subject (90% of them 3,400 to 5,600); a reply of notes and one sentence.
    """

    fixed: int
    changing: int = 4_400
    output: int = 120


class _Legs(BaseModel):
    legs: int = Field(ge=0)
    by_form: str = ""  # the words do not mention it; a schema makes it be there


async def examine(text: str, books: Books, config: LLMConfig, usual: Usual, say: Callable[[str], None]) -> None:
    """Says a line for each thing. Raises UsageError for a bad spec, ProviderError or ReplyError where it does not work."""
    spec = parse_spec(text)
    if spec.provider == "files":
        raise UsageError(f"--llm {text}: files: has nobody who answers; ask openai:, anthropic: or local:")
    price = known_price(spec, config)
    async with open_llm(text.strip().removesuffix("+batch"), books, config.model_copy(update=_HASTE)) as client:
        first = _question(usual)
        row, came = await _ask(client, books, first)
        say(_who(row))
        say(f"structured output: {_structured(client, row, came)}")
        row_again, likely = await _again(client, books, spec, first)
        say(f"log-probabilities: {likely}")
        say(f"prompt caching: {_caching(spec, [row, row_again])}")
        missing, batches = await _batches(client, spec)
        say(f"batch interface: {batches}")
        say(f"price: {_price(spec, price, usual, first, row, [row, row_again])}")
    if price is not None and spec.provider != "local":
        say(f"this check: ${books.spent()[0]:.4f}")
    if isinstance(came, ReplyError):
        raise came
    if spec.batch and missing:
        raise ProviderError(f"--llm {text}: {spec.host} has no batch interface ({batches}); leave out +batch")


def _question(usual: Usual) -> Request:
    fixed = (_FILLER * (usual.fixed // len(_FILLER) + 1))[: usual.fixed]
    return Request("doctor", (Message("system", fixed), Message("user", _ASKED)), _Legs, max_tokens=512)


async def _ask(client: Client, books: Books, request: Request) -> tuple[CallRow, Reply | ReplyError]:
    """What came back, in the log and as it was read. Raises what means that nothing came back."""
    came: Reply | ReplyError
    try:
        came = await client.complete(request)
    except (RefusedError, CutOffError, UnparsableError) as error:
        came = error
    row = await books.get(call_id(client.transport.address, request))
    assert row is not None, "a reply is logged before it is used"
    return row, came


def _provider(client: Client) -> Any:
    assert isinstance(client.transport, Live), "asked one by one, not in batches"
    return client.transport.provider


def _who(row: CallRow) -> str:
    other = f" (it calls itself {row.replied_by})" if row.replied_by not in (None, "", row.model) else ""
    counted = f", with {row.output_tokens:,} tokens" if row.output_tokens and not row.error else ""
    where = f" at {row.host}" if row.host else " on this machine"
    return f"{row.provider}:{row.model}{where} answers in {row.seconds:.2f} s{counted}{other}"


def _structured(client: Client, row: CallRow, came: Reply | ReplyError) -> str:
    provider = _provider(client)
    late = "; only at the second try" if isinstance(came, Reply) and came.call_id != row.call_id else ""
    if not provider.structured:
        how = "no; the form is asked for in words"  # the server refused a schema, or wrote something else
    elif isinstance(came, Reply) and "by_form" in came.value.model_fields_set:
        how = "yes, by JSON schema"
    else:
        how = "the server takes a JSON schema and does not follow it; only the words of the prompt ask for the form"
    return how + late + (f"; no usable reply: {came}" if isinstance(came, ReplyError) else "")


async def _again(client: Client, books: Books, spec: Spec, first: Request) -> tuple[CallRow | None, str]:
    """The question once more, with log-probabilities where the protocol has them."""
    if spec.provider == "anthropic":
        row, _ = await _ask(client, books, replace(first, sample=1))
        return row, "none in this protocol"
    try:
        row, _ = await _ask(client, books, replace(first, sample=1, logprobs=_ALTERNATIVES))
    except ReplyError as error:
        return None, f"no; asked for them, the server does not answer: {error}"
    if row.logprobs is not None:
        return row, f"yes, of up to {_ALTERNATIVES} alternatives and perhaps more"
    return row, "no; the server " + ("does not say them" if _provider(client).likely else "refuses to say them")


def _caching(spec: Spec, rows: list[CallRow | None]) -> str:
    if spec.provider == "local":
        return "none"
    seen = [row for row in rows if row is not None and row.cache_read_tokens]
    if seen:
        return f"yes; {seen[-1].cache_read_tokens:,} of {seen[-1].input_tokens:,} tokens came from the cache"
    return "none seen between two questions that begin alike"


async def _batches(client: Client, spec: Spec) -> tuple[bool, str]:
    """Whether there is none, and a line."""
    if spec.provider == "local":
        return True, "none; questions that come together are answered together"
    sdk = _provider(client).client
    try:
        listed = await (sdk.batches if spec.provider == "openai" else sdk.messages.batches).list(limit=1)
    except _errors(spec) as error:
        status = getattr(error, "status_code", None)
        return True, f"none at {spec.host} ({f'status {status}' if status else type(error).__name__})"
    if not isinstance(getattr(listed, "data", None), list):
        return True, f"none at {spec.host} (its answer is no list of batches)"
    return False, "yes (+batch)"


def _errors(spec: Spec) -> type[Exception]:
    if spec.provider == "openai":
        from openai import OpenAIError

        return OpenAIError
    from anthropic import AnthropicError

    return AnthropicError


def _price(
    spec: Spec, price: Price | None, usual: Usual, first: Request, row: CallRow, rows: list[CallRow | None]
) -> str:
    """Of a thousand features, by what was counted for `first`. A thinking model's reply is as long as it was here at least."""
    if row.error or not row.input_tokens or not row.output_tokens:
        return f"cannot be said; {row.error or 'the provider counts no tokens'}"
    size = sum(len(m.text.encode()) for m in first.messages)
    token = size / row.input_tokens
    cached = round(usual.fixed / token) if any(r and r.cache_read_tokens for r in rows) else 0
    usage = Usage(round((usual.fixed + usual.changing) / token), max(usual.output, row.output_tokens), cached)
    counted = f"{usage.input:,} tokens in and {usage.output:,} out a feature ({token:.1f} bytes a token)"
    if spec.provider == "local":
        return f"nothing; {counted}"
    if price is None:
        return f"not known ({counted}); put it into a TOML file and name that with --prices"
    halved = f", ${price.of(usage, batch=True) * _FEATURES:.2f} with +batch" if price.batch < 1 and spec.theirs else ""
    return f"${price.of(usage) * _FEATURES:.2f} for {_FEATURES:,} features{halved}: {counted}"
