"""Keys come from the environment, and go nowhere else: whatever is stored or printed passes through `redact`."""

from __future__ import annotations

import os
import re

from glossator.errors import ProviderError

KEYS = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_LIKE_A_KEY = re.compile(r"\b(?:sk|rk|pk)-[A-Za-z0-9_\-]{8,}|(?i:bearer)\s+[A-Za-z0-9._\-]{8,}")
_SHORTEST = 6  # characters of a value that is taken for a secret


def key(provider: str, *, needed: bool) -> str:
    """The provider's key. Raises ProviderError naming the variable where there is none, or none that a header can hold.

    `needed` False: a stand-in where there is none.
    """
    found = os.environ.get(KEYS[provider], "").strip()
    if not found and needed:
        raise ProviderError(f"{provider}: no key; set the environment variable {KEYS[provider]} and run again")
    if not all("!" <= character <= "~" for character in found):
        raise ProviderError(
            f"{provider}: the key in the environment variable {KEYS[provider]} holds a blank or a character that no key has; set it again"
        )
    return found or "none"


def without_keys(text: str) -> str:
    """`text` without our keys, as a server may have echoed them."""
    for variable in KEYS.values():
        value = os.environ.get(variable, "").strip()
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"[{variable}]")
    return text


def redact(text: str) -> str:
    """`without_keys`, and without what looks like somebody's key, and `printable`. For messages, not for replies: they may speak of keys."""
    return printable(_LIKE_A_KEY.sub("[key]", without_keys(text)))


def printable(text: str) -> str:
    """`text` without what a terminal would obey: escapes, other controls, marks that turn the direction of writing."""
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
