"""What people write on the command line, as values: features, shards, how a language model is to be asked. Raises UsageError."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glossator.errors import UsageError

if TYPE_CHECKING:
    from glossator.agents.validity.run_validity import Asked
    from glossator.config import ExplainerConfig, LLMConfig

_MOST_FEATURES = 10_000_000
_EXPLAINERS = ("lexical", "oneshot", "contrastive", "logits", "best_of:N", "refine:K", "label:K", "cascade")
_SCORERS = ("simulation", "detection", "fuzzing", "discrimination")
EMBEDDING = "embedding"  # a scorer that asks no language model
_MOST_DRAWS = 8  # candidates, or rounds
_KEPT = "validity.duckdb"  # where `validate` keeps what a model answered, if nothing else is named
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


def explainer_config(text: str) -> ExplainerConfig | None:
    """`oneshot`, `best_of:4` and the others that ask a language model, as a config; None for lexical, which asks none."""
    from glossator.config import (
        BestOfConfig,
        CascadeConfig,
        ContrastiveConfig,
        LabelConfig,
        LogitsConfig,
        OneshotConfig,
        RefineConfig,
    )

    name, colon, written = text.partition(":")
    simple: dict[str, type[ExplainerConfig]] = {
        "oneshot": OneshotConfig, "contrastive": ContrastiveConfig, "logits": LogitsConfig, "cascade": CascadeConfig,
    }  # fmt: skip
    if not colon and (name in simple or name == "lexical"):
        return simple[name]() if name in simple else None
    if name not in ("best_of", "refine", "label"):
        raise UsageError(f"--explainer {text}: this version has the explainers {', '.join(_EXPLAINERS)}")
    fewest, what = (2, "candidates") if name == "best_of" else (1, "rounds")
    if colon and not (re.fullmatch(r"[0-9]{1,3}", written) and fewest <= int(written) <= _MOST_DRAWS):
        raise UsageError(f"--explainer {text}: write {fewest} to {_MOST_DRAWS} {what}, such as {name}:{fewest}")
    if name == "best_of":
        return BestOfConfig(n=int(written)) if colon else BestOfConfig()
    if name == "label":
        return LabelConfig(refine=RefineConfig(rounds=int(written))) if colon else LabelConfig()
    return RefineConfig(rounds=int(written)) if colon else RefineConfig()


def llm_config(
    explainer: str, llm: str | None, flags: Mapping[str, Any], *, retry_failed: bool, reader: str | None = None
) -> LLMConfig:
    """How a language model is asked: `flags` by the names of LLMConfig, None where not given. An explainer without one takes none."""
    from glossator.config import BestOfConfig, CascadeConfig, LabelConfig, LLMConfig, RefineConfig

    given = {name: value for name, value in flags.items() if value is not None}
    config = explainer_config(explainer)
    if config is not None and llm is None:
        raise UsageError(f"--explainer {explainer}: name a language model with --llm, such as --llm openai:gpt-5-mini")
    said = ["llm"] * bool(llm) + ["reader"] * bool(reader) + [*given] + ["retry-failed"] * retry_failed
    if config is None and said:
        raise UsageError(
            f"--{said[0].replace('_', '-')}: the explainer lexical asks no language model; add --explainer oneshot, or leave it out"
        )
    if reader is not None and not isinstance(config, BestOfConfig | RefineConfig | LabelConfig | CascadeConfig):
        raise UsageError(
            f"--reader: the explainer {explainer} weighs no candidates; use best_of:N, refine:K, label:K or cascade, or leave it out"
        )
    if reader is not None:
        _check_reader(reader)
    _check_effort(given)
    return LLMConfig(**given)


def scoring_config(
    scorers: Sequence[str], llm: str | None, flags: Mapping[str, Any], *, others: Mapping[str, bool]
) -> tuple[list[str], LLMConfig]:
    """Which scorers a language model is to be asked for, all if none is named, and how. `others`: flags that need one too."""
    from glossator.config import LLMConfig

    given = {name: value for name, value in flags.items() if value is not None}
    if unknown := [name for name in scorers if name not in _SCORERS]:
        raise UsageError(f"--scorer {unknown[0]}: this version has the scorers {', '.join((*_SCORERS, EMBEDDING))}")
    asked = ["scorer"] * bool(scorers) + [*given] + [name for name, on in others.items() if on]
    if llm is None and asked:
        raise UsageError(
            f"--{asked[0].replace('_', '-')}: rules are scored without a language model; name one with --llm, such as --llm openai:gpt-5-mini"
        )
    _check_effort(given)
    return list(dict.fromkeys(scorers or _SCORERS)), LLMConfig(**given)


def validity_asked(
    features: int | None,
    scorers: Sequence[str],
    llm: str | None,
    flags: Mapping[str, Any],
    *,
    keep: Path | None,
    seed: int,
) -> tuple[Asked, LLMConfig]:
    """What `validate` is to do, and how a language model is asked; without one the oracle reads, which costs nothing."""
    from glossator.agents.validity.run_validity import Asked
    from glossator.agents.validity.table import SCORERS
    from glossator.config import LLMConfig
    from glossator.planted_family import BLOCK, MOST

    given = {name: value for name, value in flags.items() if value is not None}
    if llm is None and given:
        raise UsageError(
            f"--{next(iter(given)).replace('_', '-')}: without --llm an oracle reads, which costs nothing; name a model with --llm"
        )
    if unknown := [name for name in scorers if name not in SCORERS]:
        raise UsageError(f"--scorer {unknown[0]}: a model reads for the scorers {', '.join(SCORERS)}")
    n = features if features is not None else 100 if llm is None else 20
    if n % BLOCK or not 0 < n <= MOST:
        raise UsageError(f"--features {n}: write a multiple of {BLOCK}, at most {MOST}: they are planted by twenties")
    _check_effort(given)
    kept = keep if keep is not None or llm is None else Path(_KEPT)  # what is paid for is not lost
    return Asked(n, tuple(dict.fromkeys(scorers or SCORERS)), llm, kept, seed), LLMConfig(**given)


def embedding_asked(scorers: Sequence[str], embedder: object, llm: str | None) -> tuple[bool, list[str]]:
    """Whether the scorer `embedding` is among these, and the others. Flags of `score` that go with it, or do not."""
    rest = [name for name in scorers if name != EMBEDDING]
    asked = len(rest) < len(scorers)
    if embedder and not asked:
        raise UsageError(f"--embedder {embedder}: only the scorer {EMBEDDING} reads it; add --scorer {EMBEDDING}")
    if asked and llm and not rest:
        raise UsageError(
            f"--llm {llm}: the scorer {EMBEDDING} asks no language model; leave it out, or name another scorer"
        )
    return asked, rest


def check_repeats(repeats: int | None, nulls: bool | None, llm: str | None) -> None:
    """Flags of `score` that are about a model's questions."""
    if repeats and llm is None:
        raise UsageError(
            f"--repeats {repeats}: rules are executed on all windows that are kept, so they have no noise but the sample of text, "
            "which their intervals show; repeats are for --llm"
        )
    if nulls is not None and llm is None:
        raise UsageError(
            f"--{'nulls' if nulls else 'no-nulls'}: rules are compared with other labels for nothing, always; it is for --llm"
        )


def check_imported(
    labels: Sequence[object], against: Sequence[str], llm: str | None, scorers: Sequence[str], *, every: bool
) -> None:
    """Flags of `score` that go with labels of others, or do not."""
    if against and not labels:
        raise UsageError(f"--against {against[0]}: compares the labels of a file; name the file with --labels")
    if labels and every:
        raise UsageError(
            "--every: reads the explanations of this run; score those first, and --labels in a run of its own"
        )
    if labels and llm is None and EMBEDDING not in scorers:
        raise UsageError(
            f"--labels {labels[0]}: text needs a reader; add --llm, such as --llm openai:gpt-5-mini, or --scorer {EMBEDDING}"
        )


def _check_reader(spec: str) -> None:
    from glossator.llm.spec import parse_spec

    try:
        parse_spec(spec)
    except UsageError as error:
        raise UsageError(str(error).replace("--llm", "--reader", 1)) from None


def debate_config(llm: str | None, flags: Mapping[str, Any]) -> LLMConfig:
    """How a language model is asked to read the rivals; flags that need one are refused without."""
    from glossator.config import LLMConfig

    given = {name: value for name, value in flags.items() if value is not None}
    if llm is None and given:
        raise UsageError(
            f"--{next(iter(given)).replace('_', '-')}: rules debate without a language model; name one with --llm, or leave it out"
        )
    _check_effort(given)
    return LLMConfig(**given)


def probe_config(
    llm: str | None,
    flags: Mapping[str, Any],
    *,
    reader: str | None = None,
    retry_failed: bool = False,
    every: bool = False,
    wide: bool = False,
) -> LLMConfig:
    """How the editor's models are asked; flags that need one are refused without."""
    from glossator.config import LLMConfig

    given = {name: value for name, value in flags.items() if value is not None}
    more = {"reader": bool(reader), "retry-failed": retry_failed, "every": every, "wide": wide}
    said = [*(name for name, on in more.items() if on), *given]
    if llm is None and said:
        raise UsageError(
            f"--{said[0].replace('_', '-')}: without a language model the editor tries rules by mechanical edits; name one with --llm, or leave it out"
        )
    if reader is not None:
        _check_reader(reader)
    _check_effort(given)
    return LLMConfig(**given)


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


def parse_one_or_several(feature: str | None, features: str | None, poles: int | None = None) -> list[int]:
    """What --feature and --features name together. Raises UsageError where they name nothing."""
    if feature is None and features is None:
        raise UsageError("--feature: name one, such as 17, or several with --features 0-99")
    one = [] if feature is None else [parse_feature(feature, poles)]
    return sorted({*one, *(parse_features(features, poles) or [])})


def parse_feature(text: str, poles: int | None = None) -> int:
    """One index, or one pole."""
    found = parse_features(text, poles) or []
    if len(found) != 1:
        raise UsageError(f"--feature {text}: name one feature, such as 17")
    return found[0]


def check_search(words: str | None, similar: str | None, similar_to: str | None, others: Mapping[str, object]) -> None:
    """Flags of `search` that go together, or do not. `others`: those that are for vectors alone."""
    asked = [("words", words), ("--similar", similar), ("--similar-to", similar_to)]
    given = [name for name, value in asked if value is not None]
    if len(given) != 1:
        said = (
            f"{' and '.join(given)}: give one of them" if given else "what for? give words, --similar or --similar-to"
        )
        raise UsageError(f"search: {said}")
    for name, value in others.items():
        if value is not None and (words is not None or (name == "dictionary" and similar is not None)):
            goes = "--similar-to" if name == "dictionary" else "--similar or --similar-to"
            raise UsageError(f"--{name} {value}: goes with {goes}; leave it out")


def similar_feature(text: str | None, poles: int | None) -> int:
    """The feature of `search --similar-to`."""
    try:
        return parse_feature(text or "", poles)
    except UsageError as error:
        raise UsageError(re.sub("^--features?", "--similar-to", str(error))) from None


def parse_shard(text: str) -> tuple[int, int]:
    """`2/4`: the second of four. Raises UsageError."""
    written = re.fullmatch(r"(\d+)/(\d+)", text)
    if written is None or not 1 <= int(written[1]) <= int(written[2]):
        raise UsageError(f"--shard {text}: write which of how many, 1/4 to 4/4")
    return int(written[1]), int(written[2])
