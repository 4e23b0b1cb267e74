"""Keys come from the environment, and go nowhere else: whatever is stored or printed passes through `redact`."""

from __future__ import annotations

import os
import re

from glossator.errors import ProviderError

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_LIKE_A_KEY = re.compile(r"\b(?:sk|rk|pk)-[A-Za-z0-9_\-]{8,}|(?i:bearer)\s+[A-Za-z0-9._\-]{8,}")
_SHORTEST = 6  # characters of a value that is taken for a secret


def key(provider: str, *, needed: bool) -> str:
    """The provider's key. Raises ProviderError naming the variable where there is none; `needed` False: a stand-in."""
    found = os.environ.get(KEYS[provider], "").strip()
    if not found and needed:
        raise ProviderError(f"{provider}: no key; set the environment variable {KEYS[provider]} and run again")
    return found or "none"


def redact(text: str) -> str:
    """`text` without our keys, and without what looks like one, as a server may have echoed it."""
    for variable in KEYS.values():
        value = os.environ.get(variable, "").strip()
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"[{variable}]")
    return _LIKE_A_KEY.sub("[key]", text)
