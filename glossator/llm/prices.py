"""What a question may cost at most, and what it did cost. Prices lie in `prices.toml`; the user's file goes before it.

The most: a token is at least one byte of the prompt, and a provider adds a few for each message and for the form of the
reply; the output is bounded by max_tokens. So no tokenizer is needed to be on the safe side.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from glossator.errors import UsageError
from glossator.llm.ledger import Money
from glossator.llm.spec import HOSTS, PROVIDERS
from glossator.types import Request, Usage

_PER_MESSAGE = 16  # tokens that a chat format adds to a message, with room to spare
_FRAME = 64  # and to the whole
_LONGEST = 16  # bytes in a token, on the average over a text, at the very most
_OUTPUT_SLACK = 8  # tokens over max_tokens that servers count (end of turn)
_CREDIBLE = 10_000_000  # tokens of one question: what is told beyond is no count
_VERSION = re.compile(r"-(?:\d{4}-\d{2}-\d{2}|\d{8}|latest)")  # any other ending may be a dearer model


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for a million tokens; `batch` is the share that a batch costs."""

    input: float
    output: float
    cache_read: float
    cache_write: float
    batch: float

    def of(self, usage: Usage, *, batch: bool = False) -> float:
        fresh = usage.input - usage.cache_read - usage.cache_write
        million = (
            fresh * self.input
            + usage.cache_read * self.cache_read
            + usage.cache_write * self.cache_write
            + usage.output * self.output
        )
        return million / 1e6 * (self.batch if batch else 1.0)


FREE = Price(0.0, 0.0, 0.0, 0.0, 1.0)


def find_price(provider: str, model: str, override: str | None = None, *, theirs: bool = True) -> Price | None:
    """The price of a model; None where nobody knows it. Raises UsageError for a file that is no price list.

    A name prices also its versions: `gpt-5` prices `gpt-5-2025-08-07`, and no `gpt-5-pro`. theirs: whether the provider's
    own host is asked; our list is of prices there, the user's file is of any host's.
    """
    if provider in ("local", "files"):
        return FREE
    ours = Path(__file__).with_name("prices.toml")
    for path in [*([Path(override)] if override else []), *([ours] if theirs else [])]:
        if found := _price_in(path, provider, model, users=path != ours):
            return found
    return None


def listed(provider: str, model: str, override: str) -> bool:
    """Whether the user's own file has a price of this model."""
    return provider not in HOSTS or _price_in(Path(override), provider, model, users=True) is not None


def _price_in(path: Path, provider: str, model: str, *, users: bool) -> Price | None:
    found = _prices(path, users).get(provider, {})
    names = [name for name in found if model == name or _is_version(model, name)]
    return found[max(names, key=len)] if names else None


def _is_version(model: str, name: str) -> bool:
    return model.startswith(name) and _VERSION.fullmatch(model, len(name)) is not None


def _prices(path: Path, users: bool) -> dict[str, dict[str, Price]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a TOML file of prices") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no TOML ({error})") from error
    found: dict[str, dict[str, Price]] = {}
    for provider, models in content.items():
        if provider not in PROVIDERS:
            raise UsageError(f"{path}: [{provider}]: no such provider; write {' or '.join(HOSTS)}")
        for name, row in (models if isinstance(models, dict) else {}).items():
            found.setdefault(provider, {})[name] = _price(path, provider, name, row)
    if users and not found:
        raise UsageError(
            f'{path}: holds no price; write [openai."NAME"] with input and output, in dollars for a million tokens'
        )
    return found


def _price(path: Path, provider: str, name: str, row: object) -> Price:
    what = f'{path}: [{provider}."{name}"]'
    if not isinstance(row, dict) or not {"input", "output"} <= set(row):
        raise UsageError(f"{what} needs input and output, in dollars for a million tokens")
    if unknown := set(row) - {"input", "output", "cache_read", "cache_write", "batch"}:
        raise UsageError(
            f"{what}: unknown {', '.join(sorted(unknown))}; known are input, output, cache_read, cache_write, batch"
        )
    if bad := [k for k, v in row.items() if isinstance(v, bool) or not isinstance(v, int | float) or not 0 <= v < 1e6]:
        raise UsageError(f"{what}: {', '.join(bad)} must be a number of dollars, 0 or more")
    price = float(row["input"])
    return Price(
        price,
        float(row["output"]),
        float(row.get("cache_read", price)),
        float(row.get("cache_write", price)),
        float(row.get("batch", 1.0)),
    )


def most_usage(request: Request) -> Usage:
    """No tokenizer gives more tokens than this to the question, and no reply is longer."""
    texts = [m.text for m in request.messages]
    form = json.dumps(request.schema)
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + 2 * len(form.encode())
    return Usage(size + _PER_MESSAGE * len(texts) + _FRAME, request.max_tokens + _OUTPUT_SLACK)


def most(request: Request, price: Price | None, *, batch: bool = False) -> Money:
    """What to reserve for a question: dollars 0 where no price is known."""
    return worst(most_usage(request), price, batch=batch)


def worst(usage: Usage, price: Price | None, *, batch: bool = False) -> Money:
    """What so many tokens can have cost, where it is not known how many came from a cache or went into it."""
    if price is None:
        return Money(0.0, usage.input + usage.output)
    dearest = max(price.input, price.cache_write, price.cache_read)
    usd = (usage.input * dearest + usage.output * price.output) / 1e6 * (price.batch if batch else 1.0)
    return Money(usd, usage.input + usage.output)


def plausible(request: Request, text: str, usage: Usage | None) -> bool:
    """Whether a provider can have counted so: within the bounds, and not nothing where there is something."""
    if usage is None:
        return False
    bound = most_usage(request)
    counts = (usage.input, usage.output, usage.cache_read, usage.cache_write)
    if min(counts) < 0 or usage.input > bound.input or usage.output > bound.output:
        return False
    if usage.cache_read + usage.cache_write > usage.input:
        return False
    size = sum(len(m.text.encode("utf-8", "surrogatepass")) for m in request.messages)
    return usage.input * _LONGEST >= size and usage.output * _LONGEST >= len(text.encode("utf-8", "surrogatepass"))


def booked(request: Request, told: Usage | None) -> Usage:
    """What to book where a usage cannot be right: the most it can be; more where a server says more, for it will bill that."""
    bound = most_usage(request)
    if told is None:
        return bound
    found = ((bound.input, told.input), (bound.output, told.output))
    return Usage(*(max(most, said) if 0 <= said < _CREDIBLE else most for most, said in found))


def exceeds(request: Request, told: Usage | None) -> bool:
    """Whether a server bills more than could be reserved."""
    bound, found = most_usage(request), booked(request, told)
    return found.input > bound.input or found.output > bound.output
