"""What `glossator run` does, as one TOML file says it: typed sections, and every mistake of form in it, with its line.

Each section is a config like any other, so a night is a value. A file is read as far as it can be: what is wrong in one place
does not hide what is wrong in another (night/checking.py goes on with what could be read). What the file says of things
outside, such as models and files, is not judged here. Paths in it are taken from its own folder: `located`.
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, ValidationError

from glossator.config.asking import LLMConfig
from glossator.config.base import Config
from glossator.config.harvest import Recipe, harvest_recipe
from glossator.config.toml_lines import Place, line_of, lines_of
from glossator.errors import UsageError
from glossator.types import visible

Whole = Annotated[int, Strict()]
Number = Annotated[float, Strict()]
Flag = Annotated[bool, Strict()]
Order = Literal["index", "density", "density desc", "max_activation", "max_activation desc", "random"]


class SubjectSection(Config):
    model: str = ""
    dictionaries: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()  # one for each dictionary, one for all, or none
    device: str = Field(default="cpu", pattern=r"^(cpu|mps|(cuda|xpu)(:\d+)?)$")


class CorpusSection(Config):
    text: tuple[str, ...] = ()
    tokens: Whole | None = Field(default=None, ge=1)
    context_size: Whole | None = Field(default=None, ge=16, le=1 << 20)


class HarvestSection(Config):
    workers: Whole = Field(default=1, ge=1, le=1024)
    near_misses: tuple[str, ...] = ("overlap",)
    controls: tuple[str, ...] = ()


class FeaturesSection(Config):
    """Which features, and which first. Controls are labelled on `controls` features each, drawn at random."""

    which: str = "all"  # all, 0-999, or a condition such as density BETWEEN 1e-5 AND 0.01
    active_on: str | None = None  # a file of prompts, each a line: the features that fire on one of them
    order: Order = "index"
    first: Whole | None = Field(default=None, ge=1)  # no more than so many, in that order
    controls: Whole = Field(default=100, ge=1)
    seed: Whole = 0
    wave: Annotated[int, Strict(), Field(ge=1)] | Literal["all"] | None = (
        None  # asked about together; see night/waves.py
    )


class ExplainSection(Config):
    explainer: str = "lexical"


class ProbeSection(Config):
    by: Literal["rules", "llm", "none"] = "rules"


class ScoreSection(Config):
    scorers: tuple[str, ...] = ("rule",)
    embedder: str | None = None  # a folder; the built-in one if not given
    nulls: Flag = True  # read labels of other features, too, where a model reads
    repeats: Whole = Field(default=0, ge=0, le=99)


class LLMSection(Config):
    writer: str | None = None
    reader: str | None = None  # who reads labels; the writer if not given
    concurrency: Whole = Field(default=64, ge=1)
    timeout: Number = Field(default=180.0, gt=0, le=86_400)
    effort: str | None = None
    prices: str | None = None


class LimitsSection(Config):
    usd: Number | None = Field(default=None, gt=0, allow_inf_nan=False)
    tokens: Whole | None = Field(default=None, gt=0)
    deadline: str | Annotated[datetime.time, Strict()] | Annotated[datetime.datetime, Strict()] | None = None


class Night(Config):
    """The whole file."""

    run: str = ""
    report: str | None = None
    subject: SubjectSection = SubjectSection()
    corpus: CorpusSection = CorpusSection()
    harvest: HarvestSection = HarvestSection()
    features: FeaturesSection = FeaturesSection()
    explain: ExplainSection = ExplainSection()
    probe: ProbeSection = ProbeSection()
    score: ScoreSection = ScoreSection()
    llm: LLMSection = LLMSection()
    limits: LimitsSection = LimitsSection()

    def recipe(self) -> Recipe:
        """What the harvest is made from. Raises UsageError for hooks that do not go with the dictionaries, and unknown kinds."""
        s, c, h = self.subject, self.corpus, self.harvest
        return harvest_recipe(
            (s.model, s.hooks, s.dictionaries, c.text),
            tokens=c.tokens,
            context_size=c.context_size,
            device=s.device,
            workers=h.workers,
            near_by=h.near_misses,
            controls=h.controls,
        )

    def asking(self) -> LLMConfig:
        """How language models are asked."""
        given = self.llm.model_dump(include={"concurrency", "timeout", "effort", "prices"})
        return LLMConfig(**given, budget_usd=self.limits.usd, budget_tokens=self.limits.tokens)

    @property
    def reader(self) -> str | None:
        return self.llm.reader or self.llm.writer

    def located(self, folder: Path) -> Night:
        """The same, with paths that hold wherever it is run from. What is no path, such as a name on the hub, stays as it is."""

        def of(text: str, *, surely: bool = True) -> str:
            path = Path(text).expanduser()
            if path.is_absolute():
                return str(path)
            if folder == Path():
                return text
            return str(folder / path) if surely or (folder / path).exists() else text

        def spec(text: str) -> str:
            provider, _, rest = text.partition(":")
            name, at, where = rest.rpartition("@")
            if provider == "local":
                return f"local:{of(rest)}"
            return f"files:{name}{at}{of(where)}" if provider == "files" else text

        found = self.model_dump()
        for section, key in (("features", "active_on"), ("score", "embedder"), ("llm", "prices")):
            if found[section][key]:
                found[section][key] = of(found[section][key])
        for key in ("writer", "reader"):
            if found["llm"][key]:
                found["llm"][key] = spec(found["llm"][key])
        for key in ("run", "report"):
            found[key] = of(found[key]) if found[key] else found[key]
        found["subject"]["model"] = of(self.subject.model, surely=False) if self.subject.model else ""
        found["subject"]["dictionaries"] = tuple(of(one, surely=False) for one in self.subject.dictionaries)
        found["corpus"]["text"] = tuple(of(one, surely=False) for one in self.corpus.text)
        return Night.model_validate(found)


@dataclass(frozen=True, order=True)
class Mistake:
    """line None: it is about what the file does not say."""

    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return visible(f"{where}{self.key}: {self.message}" if self.key else f"{where}{self.message}")


@dataclass(frozen=True)
class Written:
    """A run file as far as it could be read. bad: places whose value is not what the file says."""

    path: Path
    night: Night
    mistakes: tuple[Mistake, ...]
    lines: dict[Place, int]
    bad: frozenset[Place]

    def mistake(self, key: str, message: str) -> Mistake:
        """key: as `llm.writer`."""
        return Mistake(line_of(self.lines, tuple(key.split("."))), key, message)

    def readable(self, key: str) -> bool:
        """Whether the value at `key` is the one that was written, or the default."""
        place = tuple(key.split("."))
        return not any(place[: len(one)] == one for one in self.bad)


def read_night(path: Path) -> Written:
    """Raises UsageError for a file that cannot be read, or is no TOML; all else that is wrong is in `mistakes`."""
    try:
        text = path.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
        content = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); write one with glossator init") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is no text in UTF-8 (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is no TOML: {error}") from error
    lines = lines_of(text)
    mistakes: list[Mistake] = []
    bad: set[Place] = set()
    while True:
        try:
            night = Night.model_validate(content)
            break
        except ValidationError as error:
            new: dict[Place, str] = {}
            for one in error.errors():
                place, message = _told(one)
                new.setdefault(place, message)  # a value that may be of several types has an error for each
            mistakes += [Mistake(line_of(lines, place), ".".join(place[:2]), said) for place, said in new.items()]
            for place in sorted(new, key=lambda place: (len(place), place[:2], -int(place[2]) if place[2:] else 0)):
                _drop(content, place)
            bad |= set(new)
    return Written(path, night, tuple(mistakes), lines, frozenset(bad))


def refuse(path: Path, mistakes: Iterable[Mistake]) -> None:
    """Raise UsageError that names all mistakes, in the order of the file; nothing where there is none."""
    found = sorted(set(mistakes), key=lambda one: (one.line or 0, one.key, one.message))
    if found:
        count = f"{len(found)} mistakes" if len(found) > 1 else "a mistake"
        raise UsageError("\n  ".join([f"{path}: {count}; nothing was started", *map(str, found)]))


def _drop(content: dict[str, Any], place: Place) -> None:
    """Take out what stands at a place; of a list, one entry."""
    held: Any = content
    for part in place[:-1]:
        held = held.get(part) if isinstance(held, dict) else None
    if isinstance(held, list):
        del held[int(place[-1])]
    elif isinstance(held, dict):
        held.pop(place[-1], None)


def _told(error: Any) -> tuple[Place, str]:
    """Where an error of pydantic's is in the file, and what to do about it."""
    entry = error["loc"][2] if len(error["loc"]) > 2 and isinstance(error["loc"][2], int) else None
    place: Place = tuple(str(part) for part in error["loc"][: 2 if entry is None else 3])
    kind, given, about = error["type"], error["input"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return place, _unknown(place)
    if len(place) == 1 and kind == "model_type":
        return place, f"is a section: write [{place[0]}] and its keys below"
    what = {
        "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false", "string_type": "text in quotes",
        "tuple_type": 'a list, such as ["demo"]', "time_type": "a time",
    }.get(kind)  # fmt: skip
    if place == ("limits", "deadline"):
        what = 'a time such as "07:00", or how long, such as "8h"'
    if place == ("features", "wave"):
        what = 'a number of features, at least 1, or "all"'
    if what:
        return place, f"{_shown(given)} is not {what}"
    if kind == "literal_error":
        return place, f"{_shown(given)}: write one of {about['expected'].replace(' or ', ', ')}"
    if kind == "string_pattern_mismatch":
        return place, f"{_shown(given)}: write cpu, cuda, cuda:0, or mps"  # there is one with a pattern
    said = error["msg"].replace("Input should be", "must be")
    return place, f"{_shown(given)}: {said[0].lower()}{said[1:]}"


def _unknown(place: Place) -> str:
    known = Night.model_fields
    if len(place) == 2:
        section = known[place[0]].annotation
        known = section.model_fields if isinstance(section, type) and issubclass(section, Config) else {}
    near = difflib.get_close_matches(place[-1], known, 1, 0.6)
    elsewhere = [f"{name}.{place[-1]}" for name, of in _sections().items() if place[-1] in of]
    said = near[:1] or elsewhere[:1]
    return "no such key" + (f"; did you mean {said[0]}?" if said else f"; known here are {', '.join(known)}")


def _sections() -> dict[str, set[str]]:
    return {
        name: set(field.annotation.model_fields)
        for name, field in Night.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config)
    }


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else f"{text[:60]}..."
