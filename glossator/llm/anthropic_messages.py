"""Anthropic's Messages: structured output by JSON schema, cache marks on the fixed prefix, no temperature where a model takes none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from glossator.config import LLMConfig
from glossator.errors import RejectedError
from glossator.llm.base import Address, Fault, RawReply
from glossator.llm.faults import exhausted, refuses, translate
from glossator.llm.openai_chat import CONNECT, counted, in_words, strict
from glossator.llm.secrets import key
from glossator.llm.spec import HOSTS, Spec
from glossator.types import Request, Usage

_FINISH = {"max_tokens": "length", "model_context_window_exceeded": "length", "refusal": "refusal"}


class AnthropicMessages:
    """`AnthropicMessages(spec)`: raises ProviderError where the provider's own host is asked without a key."""

    def __init__(self, spec: Spec, config: LLMConfig, pause: Callable[[float], None] | None = None) -> None:
        """`pause`: told how long to send nothing, where headers say that no request is left."""
        from anthropic import AsyncAnthropic, Timeout

        self.address = Address("anthropic", spec.host, spec.name, config.effort)
        self.client = AsyncAnthropic(
            api_key=key("anthropic", needed=spec.theirs),
            base_url=spec.base_url
            or HOSTS["anthropic"],  # never the SDK's own variable: the host is part of the question
            max_retries=0,
            timeout=Timeout(config.timeout, connect=min(CONNECT, config.timeout / 2)),
        )
        self.pause = pause
        self.structured = self.tempered = True

    async def ask(self, request: Request) -> RawReply:
        import anthropic

        while True:
            sent = (self.structured, self.tempered)
            try:
                answer = await self.client.messages.with_raw_response.create(**self.body(request))
            except UnicodeEncodeError as error:
                raise RejectedError(f"{self.address}: the question holds half characters ({error.reason})") from None
            except anthropic.AnthropicError as error:
                if self._learned(error, request, sent):
                    continue
                raise translate(self.address, error) from None  # its own words may hold a key
            if self.pause and (wait := exhausted(answer.headers)) is not None:
                self.pause(wait)
            try:
                content = json.loads(answer.http_response.content)
            except (ValueError, RecursionError):
                raise Fault("the reply is no JSON of this protocol", billed=True) from None
            return read_message(content)

    async def close(self) -> None:
        await self.client.close()

    def body(self, request: Request) -> dict[str, Any]:
        """The body of a request as it is sent, live or in a batch."""
        fixed = "\n\n".join(m.text for m in request.messages if m.role == "system")
        if not self.structured:
            fixed += in_words(request)
        body: dict[str, Any] = {
            "model": self.address.model,
            "max_tokens": request.max_tokens,
            "messages": [{"role": m.role, "content": m.text} for m in request.messages if m.role != "system"],
        }
        if fixed:
            body["system"] = [{"type": "text", "text": fixed, "cache_control": {"type": "ephemeral"}}]
        if request.temperature is not None and self.tempered:
            body["temperature"] = request.temperature
        wanted: dict[str, Any] = {}
        if self.structured:
            wanted["format"] = {"type": "json_schema", "schema": strict(request.schema)}
        if self.address.effort == "none":
            body["thinking"] = {"type": "disabled"}
        elif self.address.effort:
            wanted["effort"] = self.address.effort
        if wanted:
            body["output_config"] = wanted
        return body

    def _learned(self, error: Exception, request: Request, sent: tuple[bool, bool]) -> bool:
        """Whether a refusal was of something that can be left out; it is left out from now on."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        if sent != (self.structured, self.tempered):
            return True
        if self.tempered and request.temperature is not None and refuses(error, "temperature"):
            self.tempered = False
        elif self.structured and refuses(error, "output_config", "output_format", "schema"):
            self.structured = False
        else:
            return False
        return True


def read_message(content: Any) -> RawReply:
    """A message's JSON. Raises Fault where it holds no content."""
    if not isinstance(content, dict) or not isinstance(content.get("content"), list):
        raise Fault("the reply holds no message", billed=True)
    blocks = [b for b in content["content"] if isinstance(b, dict) and b.get("type") == "text"]
    text = "".join(str(b.get("text") or "") for b in blocks)
    reason = str(content.get("stop_reason") or "end_turn")
    return RawReply(text, _FINISH.get(reason, "stop"), _usage(content.get("usage")), str(content.get("model") or ""))


def _usage(found: Any) -> Usage | None:
    if not isinstance(found, dict):
        return None
    counts = counted(
        found.get("input_tokens"),
        found.get("output_tokens"),
        found.get("cache_read_input_tokens") or 0,
        found.get("cache_creation_input_tokens") or 0,
    )
    if not counts:
        return None
    fresh, output, read, written = counts
    return Usage(fresh + read + written, output, read, written)
