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

_NO_CREDIT = re.compile(r"insufficient_quota|credit balance|billing|exceeded your current quota|payment required", re.I)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_LEFT = ("requests", "tokens", "input-tokens", "output-tokens")


def translate(address: Address, error: Exception) -> Exception:
    """The error to raise for one of an SDK's. Bad keys, lacking credit and unknown models end the run; 4xx ends the question."""
    kind = type(error).__name__
    if kind == "APITimeoutError":
        return Fault("the provider did not reply in time", billed=True)
    if kind == "APIConnectionError":
        return _connection(address, error)
    if kind == "APIResponseValidationError":
        return Fault("the reply is no JSON of this protocol", billed=True)
    status: int | None = getattr(error, "status_code", None)
    if status is None:
        return Fault(f"{kind}: {_said(error)}", billed=True)
    return _status(address, status, _said(error), getattr(getattr(error, "response", None), "headers", None) or {})


def _status(address: Address, status: int, said: str, headers: Mapping[str, str]) -> Exception:
    if status in (401, 403):
        variable = KEYS.get(address.provider, "the key")
        return ProviderError(f"{address}: the provider does not accept the key ({status}); check {variable} [{said}]")
    if status == 402 or (status in (400, 403, 429) and _NO_CREDIT.search(said)):
        return ProviderError(f"{address}: no credit left at the provider ({status}); top it up and run again [{said}]")
    if status == 404:
        return ProviderError(f"{address}: no such model or address at {address.host} [{said}]")
    if status == 429:
        return Fault(f"429 {said}", overload=True, retry_after=retry_after(headers))
    if status >= 500 or status in (408, 409, 425):
        overload = status in (503, 529)
        return Fault(f"{status} {said}", overload=overload, billed=status == 504, retry_after=retry_after(headers))
    return RejectedError(f"{address}: the provider refused the question ({status} {said})")


def _connection(address: Address, error: Exception) -> Exception:
    """Nobody there, or cut in the middle of a reply. The first may be mended while a run waits; it costs nothing."""
    cause: BaseException | None = error
    names: list[str] = []
    while cause is not None and len(names) < 6:
        names.append(type(cause).__name__)
        cause = cause.__cause__ or cause.__context__
    if "ConnectError" in names:
        return Fault(f"cannot reach {address.host}", billed=False)
    return Fault(f"the connection to {address.host} broke", billed=True)


def _said(error: Exception) -> str:
    """The provider's own words, on one line, without keys."""
    body: Any = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    message = inner.get("message") if isinstance(inner, dict) else None
    code = inner.get("code") or inner.get("type") if isinstance(inner, dict) else None
    words = " ".join(str(x) for x in (code, message) if x) or str(error)
    return redact(" ".join(words.split()))[:200]


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, by Retry-After (seconds or a date) or retry-after-ms; None where nothing is said."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * scale
        except ValueError:
            when = email.utils.parsedate_to_datetime(text) if "," in text else None
            seconds = when.timestamp() - time.time() if when else -1.0
        if 0 <= seconds < 86_400:
            return seconds
    return None


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
