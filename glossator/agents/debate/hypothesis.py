"""What a person types as a hypothesis: a rule in short form or in JSON, or a sentence for a language model to read.

The short form writes the items of a rule (scorers/rule.py) one after the other, with ` or ` or `;` between them:

    token:right                   words:cause,causes,caused       after:on the -> right       after:very
    before:bank -> river          class:year                      number:1900-1999            topic:butter,oven>=2
    position:first                token:rain @3                   not after:polar -> bear     token:or

`@3` gives a strength from 0 to 10, which is 10 where none is given; `not` says that a feature is silent there, which
speaks where the item is more specific than the others. What does not begin with one of these kinds is a sentence.
Reading a hypothesis runs nothing; tokens are looked up in the subject's vocabulary by `known_tokens`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glossator.errors import UsageError
from glossator.types import MAX_STRENGTH, Vocabulary, visible

Program = dict[str, Any]
LONGEST = 2_000  # characters
KINDS = ("token", "words", "after", "before", "class", "number", "topic", "position")
FORMS = "token:right, words:cause,causes, after:on the -> right, before:bank -> river, class:year, number:1900-1999, topic:butter,oven>=2, position:first"
_TYPES: dict[str, type] = dict.fromkeys(("previous", "next", "words", "tokens"), list) | dict.fromkeys(
    ("token", "class", "place"), str
) | dict.fromkeys(("low", "high", "least"), int)  # fmt: skip
_SAID = {list: "list of tokens", str: "text", int: "whole number"}
_BEGINS = re.compile(rf"\s*(?:not\s+)?(?:{'|'.join(KINDS)})\s*:", re.IGNORECASE)
_BETWEEN = re.compile(rf"\s*(?:;|\bor\b)\s*(?=(?:not\s+)?(?:{'|'.join(KINDS)})\s*:)", re.IGNORECASE)
_ITEM = re.compile(r"\s*(not\s+)?(\w+)\s*:\s*(.*?)\s*(?:@\s*(\d+))?\s*", re.IGNORECASE | re.DOTALL)


def parse_hypothesis(text: str) -> Program | None:
    """The program that it writes, or None for a sentence. Raises UsageError for what is empty, too long, or nearly a rule."""
    said = text.strip()
    if not said:
        raise UsageError(f"--hypothesis: is empty; write a sentence, or a rule such as {FORMS}")
    if len(said) > LONGEST:
        raise UsageError(f"--hypothesis {_brief(said)}: has {len(said):,} characters; {LONGEST:,} are the most")
    if unseen := next((c for c in said if not c.isprintable() and not c.isspace()), None):
        raise UsageError(f"--hypothesis {_brief(said)}: holds {visible(unseen)}, which nobody can see; type it without")
    if said.startswith("{"):
        return _from_json(said)
    if not _BEGINS.match(said):
        return None
    items = [_item(part) for part in _BETWEEN.split(said) if part.strip()]
    if not any(item["strength"] for item in items):
        raise UsageError(f"--hypothesis {_brief(said)}: says only where the feature is silent; say where it fires, too")
    return {"items": items}


def _from_json(said: str) -> Program:
    try:
        program = json.loads(said)
    except json.JSONDecodeError as error:
        raise UsageError(f"--hypothesis {_brief(said)}: is no JSON ({error}); or write {FORMS}") from error
    items = program.get("items") if isinstance(program, dict) else None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) for item in items):
        raise UsageError(f'--hypothesis {_brief(said)}: a rule in JSON is {{"items": [{{"kind": "token", ...}}, ...]}}')
    for item in items:
        for field, kind in _TYPES.items():
            if field in item and not (isinstance(item[field], kind) and item[field] not in ("", [])):
                raise UsageError(f"--hypothesis {_brief(said)}: {field} has to be a {_SAID[kind]}")
    return {"items": [{"strength": MAX_STRENGTH, **item} for item in items]}


def _item(part: str) -> Program:
    found = _ITEM.fullmatch(part)
    negated, kind, value, strength = found.groups() if found else (None, "", "", None)
    value = _unquoted(value)
    if not value:
        raise UsageError(f"--hypothesis {_brief(part)}: says nothing after the colon; write {FORMS}")
    item = {"kind": kind.lower(), **_fields(kind.lower(), value, part)}
    if strength is not None and int(strength) > MAX_STRENGTH:
        raise UsageError(f"--hypothesis {_brief(part)}: strengths go from 0 to {MAX_STRENGTH}")
    return item | {"strength": 0 if negated else MAX_STRENGTH if strength is None else int(strength)}


def _fields(kind: str, value: str, part: str) -> Program:
    match kind:
        case "token":
            return {"token": value}
        case "words":
            if not (listed := _listed(value)):
                raise UsageError(f"--hypothesis {_brief(part)}: names no word; write words:cause,causes")
            return {"relation": "listed", "tokens": listed}
        case "after" | "before":
            beside, arrow, token = (side.strip() for side in value.partition("->"))
            names = beside.split()
            if not names or (arrow and not token):
                raise UsageError(f"--hypothesis {_brief(part)}: write {kind}:on the -> right, or {kind}:very")
            more = {"token": _unquoted(token)} if token else {}
            return {"previous" if kind == "after" else "next": [_unquoted(name) for name in names], **more}
        case "class":
            return {"class": value.lower()}
        case "number":
            low, dash, high = value.partition("-")
            if not low.strip().isdecimal() or (dash and not high.strip().isdecimal()):
                raise UsageError(f"--hypothesis {_brief(part)}: write number:1900-1999")
            return {"low": int(low), "high": int(high or low)}
        case "topic":
            words, least = re.fullmatch(r"(.*?)\s*(?:>=\s*(\d+))?", value, re.DOTALL).groups()  # type: ignore[union-attr]
            if not (listed := _listed(words)):
                raise UsageError(f"--hypothesis {_brief(part)}: names no word; write topic:butter,oven>=2")
            return {"words": listed, "least": int(least or 1)}
        case _:
            if value.lower() not in ("first", "last"):
                raise UsageError(f"--hypothesis {_brief(part)}: write position:first or position:last")
            return {"place": value.lower()}


def _listed(value: str) -> list[str]:
    return [_unquoted(word) for word in value.split(",") if word.strip()]


def _unquoted(value: str) -> str:
    value = value.strip()
    return value[1:-1] if len(value) > 2 and value[0] == value[-1] and value[0] in "\"'" else value


def known_tokens(program: Mapping[str, Any], vocabulary: Vocabulary) -> Program:
    """The program in tokens of the subject, lower-cased where it knows no capitals. Raises UsageError for one that it lacks."""

    def known(name: str) -> str:
        for spelled in (name, name.lower()):
            if vocabulary.find(spelled) is not None:
                return spelled
        raise UsageError(
            f'--hypothesis: the subject has no token "{_brief(name)}"; rules speak of its own tokens, such as those that '
            "glossator show prints (## before a piece that goes on with a word)"
        )

    def names(value: Any) -> Any:
        return [known(str(name)) for name in value] if isinstance(value, Sequence) else value

    items = []
    for item in program["items"]:
        found = dict(item)
        for field in ("previous", "next", "words", "tokens"):
            if isinstance(found.get(field), list):
                found[field] = names(found[field])
        if isinstance(found.get("token"), str):
            found["token"] = known(found["token"])
        items.append(found)
    return {"items": items}


def short_form(program: Mapping[str, Any]) -> str:
    """A program as a person may type it again."""
    return " or ".join(_short(item) for item in program["items"])


def _short(item: Mapping[str, Any]) -> str:
    match item["kind"]:
        case "token":
            value = item["token"]
        case "words":
            value = ",".join(item["tokens"])
        case "after" | "before":
            value = " ".join(item["previous" if item["kind"] == "after" else "next"])
            value += f" -> {item['token']}" if item.get("token") is not None else ""
        case "class":
            value = item["class"]
        case "number":
            value = f"{item['low']}-{item['high']}"
        case "topic":
            value = ",".join(item["words"]) + (f">={item['least']}" if item["least"] != 1 else "")
        case _:
            value = item["place"]
    strength = item["strength"]
    said = f"{item['kind']}:{value}"
    return f"not {said}" if not strength else said if strength == MAX_STRENGTH else f"{said} @{strength}"


def _brief(text: str, most: int = 60) -> str:
    flat = visible(" ".join(text.split()))
    return flat if len(flat) <= most else flat[: most - 1] + "…"
