"""What an answer by HTTP that is no reply means: wait and try again, drop this question, or stop the run.

Both SDKs raise the same tree of errors; the names below are theirs. A status that says the provider did not take the
question is not billed; a connection that broke in the middle may be.
"""

from __future__ import annotations

import datetime
import email.utils
import re
import time
from collections.abc import Mapping
from typing import Any

from glossator.errors import ProviderError, RejectedError
from glossator.llm.base import Address, Fault
from glossator.llm.secrets import KEYS, redact

_NO_CREDIT = re.compile(
    r"insufficient_quota|credit balance|billing_(?:error|not_active|hard_limit)|payment required", re.I
)
_NO_CREDIT_400 = re.compile(
    r"Your credit balance is too low", re.I
)  # Anthropic's; other texts of a 400 may echo a question
_BEGINNING = 200  # characters of a message in which the provider speaks itself
_TOO_LONG = re.compile(r"context.length|maximum context|too (?:long|many tokens)", re.I)
_FLAGGED = re.compile(r"moderation|flagged", re.I)  # OpenRouter's 403 for one question
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_LEFT = ("requests", "tokens", "input-tokens", "output-tokens")


def translate(address: Address, error: Exception) -> Exception:
    """The error to raise for one of an SDK's. Bad keys, lacking credit and unknown models end the run; 4xx ends the question."""
    kind = type(error).__name__
    if kind in ("APITimeoutError", "APIConnectionError"):
        return _connection(address, error, late=kind == "APITimeoutError")
    if kind == "APIResponseValidationError":
        return Fault("the reply is no JSON of this protocol", billed=True)
    status: int | None = getattr(error, "status_code", None)
    if status is None:
        return Fault(f"{kind}: {_said(error)}", billed=True)
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    return _status(address, status, _said(error), headers, broke=_no_credit(status, error))


def _no_credit(status: int, error: Exception) -> bool:
    """What the provider calls it decides; words do only where they cannot be a question's, which a 400 may repeat."""
    codes, message = _parts(error)
    if status == 402 or (status in (400, 403, 429) and _NO_CREDIT.search(codes)):
        return True
    if status == 400:
        return "invalid_request_error" in codes and _NO_CREDIT_400.match(message) is not None
    return status in (403, 429) and _NO_CREDIT.search(message[:_BEGINNING]) is not None


class DisguisedError(Exception):
    """An error that came with status 200, in the shape of an SDK's."""

    def __init__(self, status_code: int, body: Any) -> None:
        super().__init__(str(body))
        self.status_code, self.body = status_code, body


def disguised(address: Address, content: Any) -> Exception | None:
    """What the error in an answer with status 200 means (OpenRouter, when the model's own host fails). None: there is none.

    The host had begun, so its own failures may be billed.
    """
    choices = content.get("choices") if isinstance(content, dict) else None
    for holder in (content, *(choices[:1] if isinstance(choices, list) else ())):
        inner = holder.get("error") if isinstance(holder, dict) else None
        status = str(inner.get("code")) if isinstance(inner, dict) else ""
        if re.fullmatch(r"[45]\d\d", status):
            found = translate(address, DisguisedError(int(status), {"error": inner}))
            if isinstance(found, Fault):
                found.billed = found.billed or int(status) >= 500
            return found
    return None


def _status(address: Address, status: int, said: str, headers: Mapping[str, str], *, broke: bool) -> Exception:
    if broke:
        return ProviderError(f"{address}: no credit left at the provider ({status}); top it up and run again [{said}]")
    if status in (401, 403) and not (status == 403 and _FLAGGED.search(said)):
        variable = KEYS.get(address.provider, "the key")
        return ProviderError(f"{address}: the provider does not accept the key ({status}); check {variable} [{said}]")
    if status == 404:
        return ProviderError(f"{address}: no such model or address at {address.host}; check --llm [{said}]")
    wait = retry_after(headers)
    if status == 429:
        return Fault(f"429 {said}", overload=True, retry_after=exhausted(headers) if wait is None else wait)
    if status >= 500 or status in (408, 409, 425):
        billed = status in (504, 524)  # gateways that lost patience with somebody who may be answering still
        return Fault(f"{status} {said}", overload=status in (503, 529), billed=billed, retry_after=wait)
    return RejectedError(f"{address}: the provider refused the question ({status} {said})")


def _connection(address: Address, error: Exception, *, late: bool) -> Exception:
    """Nobody there, or cut in the middle of a reply. The first may be mended while a run waits; it costs nothing."""
    cause: BaseException | None = error
    names: list[str] = []
    while cause is not None and len(names) < 6:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if {"ConnectError", "ConnectTimeout"} & set(names):
        return Fault(f"cannot reach {address.host}; is it up, and the address right?", unreached=True)
    if "LocalProtocolError" in names:
        return Fault(f"the request cannot be sent to {address.host}; is a header, such as the key, malformed?")
    if late:
        return Fault("the provider did not reply in time", billed=True)
    return Fault(f"the connection to {address.host} broke", billed=True)


def _said(error: Exception) -> str:
    """The provider's own words, on one line, without keys."""
    return redact(in_their_words(error))[:200]


def refuses(error: Exception, *words: str) -> bool:
    """Whether a refusal names one of these parameters. What stands far behind, or in a refusal for length, is a question's echo."""
    codes, message = _parts(error)
    said = "" if _TOO_LONG.search(message) else message[:_BEGINNING].lower()
    return any(word in codes.lower() or word in said for word in words)


def _parts(error: Exception) -> tuple[str, str]:
    """Code, type and parameter; and the rest in the provider's words."""
    body: Any = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return "", in_their_words(error)
    codes = " ".join(str(inner[name]) for name in ("code", "type", "param") if inner.get(name))
    return codes, str(inner["message"]) if inner.get("message") else in_their_words(error)


def in_their_words(error: Exception) -> str:
    """What an answer that is no reply says. The SDK's own text leaves out whatever is not `error.message`; FastAPI says `detail`."""
    body: Any = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else body
    found: list[Any] = []
    if isinstance(inner, dict):
        found = [inner.get("code") or inner.get("type"), inner.get("message"), inner.get("param")]
        detail = inner.get("detail")
        for one in detail if isinstance(detail, list) else [detail]:  # one for each wrong field; `input` is ours again
            found += [one.get("loc"), one.get("msg")] if isinstance(one, dict) else [one]
    elif isinstance(inner, str) and not inner.lstrip().startswith("<"):  # a page of HTML says nothing
        found = [inner]
    return " ".join((" ".join(str(x) for x in found if x) or str(error)).split())


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by Retry-After (seconds or a date) or retry-after-ms; None where nothing is said."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            seconds = _until_date(text)
        if 0 <= seconds < 86_400:
            return seconds
    return None


def _until_date(text: str) -> float:
    """Seconds until a date as HTTP writes it; less than 0 where it is past, or is none."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return -1.0


def exhausted(headers: Mapping[str, str]) -> float | None:
    """Seconds until there is room again, where rate-limit headers say that nothing is left; None otherwise."""
    waits = []
    for what in _LEFT:
        for left, reset in (
            (f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}"),
            (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset"),
        ):
            if headers.get(left) == "0" and (wait := _until(headers.get(reset, ""))) is not None:
                waits.append(wait)
    return max(waits, default=None)


def _until(text: str) -> float | None:
    """`6m0s`, `20ms`, `1s`, or a time as RFC 3339 writes it."""
    found = _DURATION.fullmatch(text) if text else None
    if found:
        hours, minutes, seconds, thousandths = (float(x or 0) for x in found.groups())
        return hours * 3600 + minutes * 60 + seconds + thousandths / 1000
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, moment.timestamp() - time.time())
