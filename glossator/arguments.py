"""What people write on the command line, as values: features, shards, how a language model is to be asked. Raises UsageError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glossator.errors import UsageError

if TYPE_CHECKING:
    from glossator.config import LLMConfig

_MOST_FEATURES = 10_000_000
_EXPLAINERS = ("lexical", "oneshot")
_SCORERS = ("simulation", "detection", "fuzzing")
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def llm_config(explainer: str, llm: str | None, flags: Mapping[str, Any], *, retry_failed: bool) -> LLMConfig:
    """How a language model is asked: `flags` by the names of LLMConfig, None where not given. An explainer without one takes none."""
    from glossator.config import LLMConfig

    given = {name: value for name, value in flags.items() if value is not None}
    if explainer not in _EXPLAINERS:
        raise UsageError(f"--explainer {explainer}: this version has the explainers {' and '.join(_EXPLAINERS)}")
    if explainer == "oneshot" and llm is None:
        raise UsageError("--explainer oneshot: name a language model with --llm, such as --llm openai:gpt-5-mini")
    if explainer == "lexical" and (said := ["llm"] * bool(llm) + [*given] + ["retry-failed"] * retry_failed):
        raise UsageError(
            f"--{said[0].replace('_', '-')}: the explainer lexical asks no language model; add --explainer oneshot, or leave it out"
        )
    _check_effort(given)
    return LLMConfig(**given)


def scoring_config(
    scorers: Sequence[str], llm: str | None, flags: Mapping[str, Any], *, others: Mapping[str, bool]
) -> tuple[list[str], LLMConfig]:
    """Which scorers a language model is to be asked for, all if none is named, and how. `others`: flags that need one too."""
    from glossator.config import LLMConfig

    given = {name: value for name, value in flags.items() if value is not None}
    if unknown := [name for name in scorers if name not in _SCORERS]:
        raise UsageError(f"--scorer {unknown[0]}: this version has the scorers {', '.join(_SCORERS)}")
    asked = ["scorer"] * bool(scorers) + [*given] + [name for name, on in others.items() if on]
    if llm is None and asked:
        raise UsageError(
            f"--{asked[0].replace('_', '-')}: rules are scored without a language model; name one with --llm, such as --llm openai:gpt-5-mini"
        )
    _check_effort(given)
    return list(dict.fromkeys(scorers or _SCORERS)), LLMConfig(**given)


def _check_effort(given: Mapping[str, Any]) -> None:
    if (effort := given.get("effort")) is not None and effort not in _EFFORTS:
        raise UsageError(f"--effort {effort}: write one of {', '.join(_EFFORTS)}")


def parse_features(text: str | None, poles: int | None = None) -> list[int] | None:
    """`17`, `0-999`, `3,5,8-12`, and `17+` or `17-` where features have `poles`, as indices; None for None. Raises UsageError."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        pole, low, high = _range(text, part.strip(), poles)
        found += range(low + pole, high + pole + 1)
    if not found:
        raise UsageError(f"--features {text}: an empty range; write the smaller index first")
    return sorted(set(found))


def _range(text: str, part: str, poles: int | None) -> tuple[int, int, int]:
    """What to add for the pole, the first index and the last one."""
    written = re.fullmatch(r"(\d+)(?:-(\d+)|([+-]))?", part)
    if written is None:
        raise UsageError(f"--features {text}: write indices such as 17, 0-999 or 3,5,8-12")
    low, high, sign = written[1], written[2] or written[1], written[3]
    if sign and poles is None:
        raise UsageError(f"--features {text}: this dictionary's features have no poles; write {low}")
    if sign and poles is not None and int(low) >= poles:
        raise UsageError(f"--features {text}: this dictionary has the poles 0+ to {poles - 1}-")
    if int(high) > _MOST_FEATURES:
        raise UsageError(f"--features {text}: no dictionary has {high} features")
    return (poles or 0) if sign == "-" else 0, int(low), int(high)


def parse_feature(text: str, poles: int | None = None) -> int:
    """One index, or one pole."""
    found = parse_features(text, poles) or []
    if len(found) != 1:
        raise UsageError(f"--feature {text}: name one feature, such as 17")
    return found[0]


def parse_shard(text: str) -> tuple[int, int]:
    """`2/4`: the second of four. Raises UsageError."""
    written = re.fullmatch(r"(\d+)/(\d+)", text)
    if written is None or not 1 <= int(written[1]) <= int(written[2]):
        raise UsageError(f"--shard {text}: write which of how many, 1/4 to 4/4")
    return int(written[1]), int(written[2])
