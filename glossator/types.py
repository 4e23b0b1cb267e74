"""The nouns of Glossator: plain frozen values, no torch, no input or output.

Arrays are numpy; shapes stand in the comments. Token ids of shown text are padded with `PAD`.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

# The kind of number is said by the name; numpy's own promotion rules make a checked one more noise than help.
Ints = NDArray[Any]
Floats = NDArray[Any]
Bools = NDArray[Any]

Split = Literal["explain", "select", "test"]
SPLITS: tuple[Split, ...] = ("explain", "select", "test")
WINDOW = 32  # tokens that are sampled and scored together
MARGIN = 32  # tokens that are shown beside a window and not scored
PAD = -1
MAX_STRENGTH = 10


def content_id(*parts: object) -> str:
    """16 hex digits that depend on the parts alone: the id of a row."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def visible(text: str, kept: str = "") -> str:
    """What can be printed, or is `kept`, as it is; other spaces as a space; all else (controls, marks of direction) as its escape."""
    if text.isprintable():
        return text
    return "".join(c if c in kept else _visible(c) for c in text)


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    return character.encode("unicode_escape").decode("ascii")


@dataclass(frozen=True, slots=True, order=True)
class FeatureId:
    """One column of a dictionary."""

    dictionary: str
    index: int

    def __str__(self) -> str:
        return f"{self.dictionary}/{self.index}"


def feature_name(signed: bool, n_features: int, index: int) -> str:
    """`17`; of a signed dictionary `17+` for feature 17 and `17-` for feature 17 + n_features / 2."""
    if not signed:
        return str(index)
    half = n_features // 2
    return f"{index}+" if index < half else f"{index - half}-"


@dataclass(frozen=True, slots=True)
class Document:
    """A source text. Passages of one document share a split; a context never spans two passages."""

    name: str
    passages: tuple[str, ...]
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Windows:
    """Windows as a predictor sees them: token ids with their margins, nothing else.

    ids [n, width] int32, PAD where there is no token; columns [start, start + WINDOW) are scored.
    document [n] int32 numbers documents, for intervals that resample documents.
    """

    ids: Ints
    document: Ints
    start: int
    window_id: Ints  # [n] int64

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def scored(self) -> slice:
        return slice(self.start, self.start + WINDOW)

    @property
    def mask(self) -> Bools:
        """[n, WINDOW]: which scored positions hold a token."""
        return np.asarray(self.ids[:, self.scored] != PAD)

    def take(self, index: Ints | Bools | slice) -> Windows:
        return Windows(self.ids[index], self.document[index], self.start, self.window_id[index])


@dataclass(frozen=True)
class Sample:
    """One feature's windows of one split, with what was measured on them.

    activations [n, WINDOW] float32; weight [n]: how many windows of the corpus one of these stands for, 0: near miss.
    quantile [n]: about where the window's maximum stands among the feature's active windows of the split, 0: weakest.
    """

    windows: Windows
    activations: Floats
    stratum: NDArray[np.str_]  # [n]: top, sample, background, near_overlap, near_embedding
    weight: Floats
    quantile: Floats = field(default_factory=lambda: np.empty(0))  # left out: NaN, as for background and near misses

    def __post_init__(self) -> None:
        if not len(self.quantile):
            object.__setattr__(self, "quantile", np.full(len(self.weight), np.nan))

    def take(self, index: Ints | Bools | slice) -> Sample:
        """Some of its windows, with all that is known of them."""
        return Sample(
            self.windows.take(index),
            self.activations[index],
            self.stratum[index],
            self.weight[index],
            self.quantile[index],
        )


@dataclass(frozen=True)
class FeatureRecord:
    """All that is known of one feature before anybody explains it."""

    feature: FeatureId
    status: str
    reason: str | None
    density: float
    threshold: float
    max_activation: float
    active_windows: tuple[int, int, int]
    n_windows: tuple[int, int, int]
    token_ids: Ints  # [m] tokens it was active on in `explain`
    token_counts: (
        Floats  # [m] how often it was active there; scaled to the whole split where a draw of windows was counted
    )
    token_sums: Floats  # [m] summed activation there
    neighbours: tuple[int, ...]  # nearest decoder directions, nearest first
    exemplars: dict[Split, Sample]
    background: Mapping[Split, Sample]
    near_misses: Mapping[Split, Sample] = field(default_factory=dict)  # silent windows that resemble the exemplars

    def active(self, split: Split) -> int:
        return self.active_windows[SPLITS.index(split)]


@dataclass(frozen=True, slots=True)
class Activations:
    """What the subject did on one text, for one feature: values [n] at tokens [n], special tokens left out."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def maximum(self) -> float:
        return max(self.values, default=0.0)


@dataclass(frozen=True, slots=True)
class Explanation:
    """One candidate about one feature. `program` is executable (see scorers/rule.py); text is for people."""

    dictionary: str
    feature: int
    explainer: str
    text: str | None
    program: dict[str, Any] | None = None
    abstained: bool = False
    reason: str | None = None
    model: str | None = None

    @property
    def explanation_id(self) -> str:
        return content_id("explanation", self.dictionary, self.feature, self.explainer, self.text, self.program)


@dataclass(frozen=True, slots=True)
class Prediction:
    """strengths [n tokens] in 0..10 and the probability that the window fires."""

    strengths: tuple[int, ...]
    p_fires: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval and the number of things it was taken over. NaN bounds: too few to say."""

    value: float
    low: float
    high: float
    n: int


# --------------------------------------------------------------------------- language models


@lru_cache(maxsize=256)  # pydantic makes it anew each time, which costs a millisecond
def _schema(answer: type[BaseModel]) -> dict[str, Any]:
    return answer.model_json_schema()


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Request:
    """One question to a language model. Its fixed part comes first, as the system message, so that prompt caches hit.

    answer: the form of the reply; its validators hold what a JSON schema cannot say, and get `asked` as pydantic's context.
    temperature None: the model's own.
    logprobs: alternatives wanted for every output token (0 to 20). sample numbers repeated draws of one question;
    attempt rises only when a failed question is asked again. asked, purpose, about and prompt_id are no part of what makes
    two requests equal; the last three are for the books.
    """

    purpose: str
    messages: tuple[Message, ...]
    answer: type[BaseModel]
    max_tokens: int
    temperature: float | None = None
    logprobs: int = 0
    sample: int = 0
    attempt: int = 0
    about: str | None = None  # the feature, as FeatureId writes it
    prompt_id: str | None = None
    asked: Mapping[int, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the answer. Shared: not to be changed."""
        return _schema(self.answer)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counts them. `input` includes what was read from and written to a prompt cache."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model answered. logprobs: for each output token (token, log-probability) of the likeliest alternatives."""

    value: Any  # an instance of request.answer
    text: str
    model: str
    usage: Usage | None
    seconds: float
    call_id: str
    logprobs: tuple[tuple[tuple[str, float], ...], ...] | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The subject's tokens as text: pieces [V], and whether each begins a word. Special tokens are marked."""

    pieces: tuple[str, ...]
    starts_word: Bools
    special: Bools
    index: dict[str, int] = field(repr=False, default_factory=dict)

    def __len__(self) -> int:
        return len(self.pieces)

    def name(self, token_id: int) -> str:
        """The token as rules write it: `##` before a piece that continues a word."""
        piece = self.pieces[token_id]
        return piece if self.starts_word[token_id] else "##" + piece

    def find(self, name: str) -> int | None:
        """The id of a token that `name` wrote, or None."""
        return self.index.get(name)

    def join(self, ids: Sequence[int]) -> str:
        """Readable text of token ids; PAD and special tokens are dropped."""
        out: list[str] = []
        for token in ids:
            if token < 0 or self.special[token]:
                continue
            out.append((" " if self.starts_word[token] and out else "") + self.pieces[token])
        return "".join(out)

    @classmethod
    def build(cls, pieces: Sequence[str], starts_word: Sequence[bool], special: Sequence[bool]) -> Vocabulary:
        starts, marked = np.asarray(starts_word, bool), np.asarray(special, bool)
        index: dict[str, int] = {}
        for i, piece in enumerate(pieces):
            if not marked[i]:
                index.setdefault(piece if starts[i] else "##" + piece, i)
        return cls(tuple(pieces), starts, marked, index)
