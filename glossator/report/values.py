"""How the report writes values: numbers for people, JSON for its script. What was not measured is said, never shown as 0.

Texts come from corpora, label files and models. In HTML jinja escapes them; here JSON is made so that nothing in it can
end its script block or open a comment there.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from typing import Any

from markupsafe import Markup

NOT_MEASURED = "not measured"


def figure(value: float | None, digits: int = 3) -> str:
    if value is None or math.isnan(value):
        return NOT_MEASURED
    written = f"{value:.{digits}f}"
    return written.removeprefix("-") if float(written) == 0 else written.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return NOT_MEASURED
    return f"{figure(low)} to {figure(high)}"


def percent(value: float | None) -> str:
    return NOT_MEASURED if value is None or math.isnan(value) else f"{value:.1%}"


def share(value: float | None) -> str:
    """A small share of something, with its first two digits."""
    return NOT_MEASURED if value is None or math.isnan(value) else f"{100 * value:.2g}%"


def count(value: int | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,}"


def dollars(value: float | None) -> str:
    """Cents where there are some, more digits for less; None: the price of that model is not known."""
    if value is None:
        return "no price known"
    if value and abs(value) < 0.01:
        return f"${value:.2g}"
    return f"${value:,.2f}"


def short(value: float | None, digits: int = 4) -> float | None:
    """A few digits, and null for what JSON lacks."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def fingerprint(code: str) -> str:
    """The hash of a script or style, as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


def json_block(value: Any) -> Markup:
    """Compact JSON that cannot end its script block, nor open a comment in it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate has no UTF-8: it becomes the mark for what cannot be shown.
    return Markup(text.encode("utf-8", "replace").decode("utf-8"))
