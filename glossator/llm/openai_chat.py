"""OpenAI's Chat Completions, and what speaks it: vLLM, llama.cpp, OpenRouter, `transformers serve`.

Structured output by JSON schema; a server that refuses it, or takes it and writes something else, is asked in plain text
with the schema in the prompt, from then on. The same goes for `temperature` (newer models take none) and for log-probabilities. The request that is hashed stays
what it was: these are ways of asking, not other questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from glossator.config import LLMConfig
from glossator.errors import RejectedError
from glossator.llm.base import Address, Fault, RawReply
from glossator.llm.faults import disguised, exhausted, refuses, translate
from glossator.llm.secrets import key, redact
from glossator.llm.spec import HOSTS, Spec
from glossator.types import Request, Usage

CONNECT = 10.0  # seconds in which a connection is made, or nobody is there
_REFUSALS = ("content_filter",)


class OpenAIChat:
    """`OpenAIChat(spec)`: raises ProviderError where the provider's own host is asked without a key."""

    def __init__(self, spec: Spec, config: LLMConfig, pause: Callable[[float], None] | None = None) -> None:
        """`pause`: told how long to send nothing, where headers say that no request is left."""
        from openai import AsyncOpenAI, Timeout

        self.address = Address("openai", spec.host, spec.name, config.effort)
        self.client = AsyncOpenAI(
            api_key=key("openai", needed=spec.theirs),
            base_url=spec.base_url or HOSTS["openai"],  # never the SDK's own variable: the host is part of the question
            max_retries=0,
            timeout=Timeout(config.timeout, connect=min(CONNECT, config.timeout / 2)),
        )
        self.theirs, self.pause = spec.theirs, pause
        self.structured = self.tempered = self.likely = True

    async def ask(self, request: Request) -> RawReply:
        import openai

        while True:
            sent = (self.structured, self.tempered, self.likely)
            try:
                answer = await self.client.chat.completions.with_raw_response.create(**self.body(request))
            except UnicodeEncodeError as error:
                raise RejectedError(f"{self.address}: the question holds half characters ({error.reason})") from None
            except openai.OpenAIError as error:
                if self._learned(error, request, sent):
                    continue
                raise translate(self.address, error) from None  # its own words may hold a key
            if self.pause and (wait := exhausted(answer.headers)) is not None:
                self.pause(wait)
            try:
                content = json.loads(answer.content)
            except (ValueError, RecursionError):
                raise Fault("the reply is no JSON of this protocol", billed=True) from None
            if (error_inside := disguised(self.address, content)) is not None:
                raise error_inside
            raw = read_completion(content)
            if sent[0] and not self.theirs and _formless(raw):
                self.structured = False
            return raw

    async def close(self) -> None:
        await self.client.close()

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request as it is sent, live or in a batch."""
        messages = [{"role": m.role, "content": m.text} for m in request.messages]
        body: dict[str, Any] = {"model": self.address.model, "messages": messages}
        body["max_completion_tokens" if self.theirs else "max_tokens"] = request.max_tokens
        if request.temperature is not None and self.tempered:
            body["temperature"] = request.temperature
        if request.logprobs and self.likely:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
        if self.address.effort:
            body["reasoning_effort"] = self.address.effort
        if self.structured:
            form = {"name": request.answer.__name__, "schema": strict(request.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        else:
            messages[0] = {**messages[0], "content": messages[0]["content"] + in_words(request)}
        return body

    def _learned(self, error: Exception, request: Request, sent: tuple[bool, bool, bool]) -> bool:
        """Whether a refusal was of something that can be left out; it is left out from now on."""
        if getattr(error, "status_code", None) not in (400, 422, 501):
            return False
        if sent != (self.structured, self.tempered, self.likely):
            return True  # another question found it out while this one was under way
        if self.tempered and request.temperature is not None and refuses(error, "temperature"):
            self.tempered = False
        elif self.likely and request.logprobs and refuses(error, "logprob"):
            self.likely = False
        elif self.structured and refuses(error, "response_format", "schema", "guided", "grammar"):
            self.structured = False
        else:
            return False
        return True


def _formless(raw: RawReply) -> bool:
    """Whether a reply cannot have been made by a schema: some servers take the field and ignore it."""
    return raw.finish != "refusal" and bool(raw.text.strip()) and not raw.text.lstrip().startswith(("{", "<think"))


def in_words(request: Request) -> str:
    """The form of the reply, for who takes no schema."""
    return (
        f"\n\nAnswer with one JSON object and nothing else. It must fit this JSON schema:\n{json.dumps(request.schema)}"
    )


def strict(schema: Any) -> Any:
    """A schema as strict modes want it: every property required, none besides; no ranges, which are checked after parsing."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    out = {name: strict(part) for name, part in schema.items() if name not in _UNSUPPORTED or name == "properties"}
    if isinstance(properties := schema.get("properties"), dict):
        out["properties"] = {name: strict(part) for name, part in properties.items()}
        out |= {"required": list(properties), "additionalProperties": False}
    return out


_UNSUPPORTED = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems", "default", "title", "uniqueItems")  # fmt: skip


def read_completion(content: Any) -> RawReply:
    """A chat completion's JSON. Raises Fault where it has no message, RejectedError where it is an error in disguise."""
    if not isinstance(content, dict):
        raise Fault("the reply is no chat completion", billed=True)
    if content.get("error") and not content.get("choices"):
        raise RejectedError(f"the provider answered with an error: {redact(str(content['error']))[:200]}")
    try:
        choice = content["choices"][0]
        message = choice["message"]
        refusal = message.get("refusal")
        text = _joined(message.get("content"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Fault("the reply holds no message", billed=True) from error
    finish = str(choice.get("finish_reason") or "stop")
    if refusal or finish in _REFUSALS:
        finish = "refusal"
    kept = str(refusal or text or "")
    return RawReply(kept, finish, _usage(content.get("usage")), str(content.get("model") or ""), _logprobs(choice))


def _joined(content: Any) -> Any:
    """The text of a message that came in parts."""
    if not isinstance(content, list):
        return content
    return "".join(
        str(part.get("text") or "") for part in content if isinstance(part, dict) and part.get("type") == "text"
    )


def _usage(found: Any) -> Usage | None:
    if not isinstance(found, dict):
        return None
    details = found.get("prompt_tokens_details")
    details = details if isinstance(details, Mapping) else {}
    counts = counted(
        found.get("prompt_tokens"),
        found.get("completion_tokens"),
        details.get("cached_tokens") or 0,
        details.get("cache_write_tokens") or 0,
    )
    return Usage(*counts) if counts else None


def counted(*counts: Any) -> list[int]:
    """The numbers of tokens that a server gave; none of them where one is no whole number."""
    return [*counts] if all(isinstance(n, int) and not isinstance(n, bool) for n in counts) else []


def _logprobs(choice: Any) -> tuple[tuple[tuple[str, float], ...], ...] | None:
    try:
        places = (choice.get("logprobs") or {}).get("content") or []
        return tuple(tuple((str(a["token"]), float(a["logprob"])) for a in p["top_logprobs"]) for p in places) or None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
