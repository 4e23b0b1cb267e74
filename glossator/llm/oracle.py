"""The double that knows the planted truth: it reads our prompts, answers in their form, and errs at a set rate.

Errors are drawn from a hash of a word in the prompt, so they are not independent: questions that turn on the same word
are answered wrongly together, whoever asks, and the same question always in the same way. That is how language models
err, and what estimates that count on independence must survive. What an error looks like is the bias: a clause dropped
(broad), one added (narrow), or something else altogether.

As a reader of labels it knows what each description, right or almost right, would make a feature do, and says that; of any
other label it knows nothing, and says so by a constant. Where it errs about a window, it says the opposite: on the two
words on which the window turns, whatever label and scorer it is asked about.

The explainers' questions are answered in `oracle_explains.py`, the editor's in `oracle_edits.py`. A new prompt adds its answer to `OracleLLM.tasks`. Prompts
are read as text, as a model reads them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glossator.errors import ProviderError
from glossator.llm.base import ReplyLog
from glossator.llm.oracle_debates import debating
from glossator.llm.oracle_edits import editing
from glossator.llm.oracle_explains import UNKNOWN, explaining, plain
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import Activation, PlantedFeature, planted_features, planted_tokens
from glossator.types import WINDOW, Request, content_id

Bias = Literal["none", "broad", "narrow"]

_SURE, _UNSURE = 95, 50  # percent


class OracleLLM(ScriptedLLM):
    """`features` in the order of their indices; `error_rate`: the share of words on which it errs."""

    def __init__(
        self,
        features: Sequence[PlantedFeature] | None = None,
        error_rate: float = 0.0,
        seed: int = 0,
        bias: Bias = "none",
        log: ReplyLog | None = None,
    ) -> None:
        super().__init__(self._answer, log, "oracle")
        self.features = tuple(planted_features() if features is None else features)
        self.error_rate, self.seed, self.bias = error_rate, seed, bias
        explains = explaining(self)
        self.tasks: dict[str, Callable[[Request], dict[str, Any]]] = {
            **explains,
            **editing(self),
            **debating(self, explains["explain:refine"]),
            "score:detection": self._detects,
            "score:fuzzing": self._checks_marks,
            "score:simulation": self._simulates,
        }
        self.meanings = _meanings(self.features)

    def errs_on(self, word: str) -> bool:
        """Whether questions that turn on this word are answered wrongly."""
        return self.draw("errs", word) < self.error_rate

    def _answer(self, request: Request) -> str:
        if request.purpose not in self.tasks:
            raise ProviderError(f"{self.name}: knows no answer to {request.purpose}; it knows {', '.join(self.tasks)}")
        return json.dumps(self.tasks[request.purpose](request))

    def _detects(self, request: Request) -> dict[str, Any]:
        said = []
        for window, told in self._read(request):
            p = _UNSURE if told is None else _SURE if any(told) else 100 - _SURE
            said.append([window.name, 100 - p if self._errs_in(window, told) else p])
        return {"windows": said}

    def _checks_marks(self, request: Request) -> dict[str, Any]:
        """By the share of marked tokens that the label covers."""
        said = []
        for window, told in self._read(request):
            covered = [told[i] > 0 for i in window.marked] if told is not None else []
            p = round(100 - _SURE + (2 * _SURE - 100) * sum(covered) / len(covered)) if covered else _UNSURE
            said.append([window.name, 100 - p if self._errs_in(window, told) else p])
        return {"windows": said}

    def _simulates(self, request: Request) -> dict[str, Any]:
        """Strengths relative to the largest in the request; runs of equal ones as spans."""
        windows = self._read(request)
        scale = max((max(told, default=0.0) for _, told in windows if told is not None), default=0.0) or 1.0
        active, silent = [], []
        for window, told in windows:
            strengths = [round(10 * value / scale) for value in told or ()]
            if self._errs_in(window, told):
                strengths = [0 if any(strengths) else 10 * (i == window.turns_on(told)) for i in range(len(strengths))]
            if any(strengths):
                active.append({"id": window.name, "tokens": _stated(window, strengths)})
            else:
                silent.append(window.name)
        return {"active": active, "silent": silent}

    def _read(self, request: Request) -> list[tuple[_Shown, list[float] | None]]:
        """Windows, and what the label says that a feature does on each token; None: it says nothing that it knows."""
        label, windows = read_question(request.messages[1].text)
        meaning = self.meanings.get(plain(label))
        return [(window, None if meaning is None else window.under(meaning)) for window in windows]

    def _errs_in(self, window: _Shown, told: Sequence[float] | None) -> bool:
        if told is None:
            return False
        place = window.turns_on(told)
        return self.errs_on(" ".join(window.tokens[max(0, place - 1) : place + 1]))

    def draw(self, what: str, word: str) -> float:
        """Between 0 and 1, the same for the same word."""
        return float(int(content_id(self.seed, what, word), 16) / 2**64)


@dataclass(frozen=True)
class _Shown:
    """A window as a reader of labels is shown it. before None: the context begins with it."""

    name: int
    before: str | None
    tokens: list[str]
    numbers: list[int]
    marked: list[int]  # places among the tokens

    def under(self, activation: Activation) -> list[float]:
        """Windows lie on a grid of contexts, so where anything stands before, a whole window does."""
        before = [] if self.before is None else planted_tokens(self.before)[-WINDOW:]
        filled = [] if self.before is None else [UNKNOWN] * (WINDOW - len(before)) + before
        return activation([*filled, *self.tokens])[len(filled) :]

    def turns_on(self, told: Sequence[float] | None) -> int:
        """The place of the token that is told to be the strongest; of a silent window one that depends on its text."""
        if told is not None and any(told):
            return max(range(len(told)), key=told.__getitem__)
        return int(content_id("turns", *self.tokens), 16) % max(len(self.tokens), 1)


def read_question(text: str) -> tuple[str, list[_Shown]]:
    """The label and the windows of a prompt of `simulation`, `detection` or `fuzzing`."""
    lines = text.splitlines()
    label: str = json.loads(lines[lines.index("label") + 1])
    return label, [_shown(*json.loads(line)) for line in lines if re.match(r"\[\d", line)]


def _shown(name: int, before: str | None, window: str | list[Any], after: str | None = None) -> _Shown:
    """A text, a list of numbered tokens, or a list of text with marked text in lists."""
    pieces = [window] if isinstance(window, str) else window
    if pieces and all(isinstance(piece, str) and re.match(r"\d+ ", piece) for piece in pieces):
        pairs = [piece.split(" ", 1) for piece in pieces]
        return _Shown(name, before, [text.removeprefix("##") for _, text in pairs], [int(n) for n, _ in pairs], [])
    tokens: list[str] = []
    marked: list[int] = []
    for piece in pieces:
        new = planted_tokens(piece if isinstance(piece, str) else piece[0])
        if not isinstance(piece, str):
            marked += range(len(tokens), len(tokens) + len(new))
        tokens += new
    return _Shown(name, before, tokens, list(range(1, len(tokens) + 1)), marked)


def _stated(window: _Shown, strengths: Sequence[int]) -> list[list[int | str]]:
    """Tokens that are not 0; four or more of one strength in a row as a span."""
    found: list[list[int | str]] = []
    places = [*range(len(strengths))]
    for strength, run in itertools.groupby(places, key=lambda i: strengths[i]):
        members = list(run)
        if strength and len(members) > 3:
            found.append([window.numbers[members[0]], window.numbers[members[-1]], strength])
        elif strength:
            found += [[window.numbers[i], window.tokens[i], strength] for i in members]
    return found


def _meanings(features: Sequence[PlantedFeature]) -> dict[str, Activation]:
    """What each description would make a feature do."""
    found: dict[str, Activation] = {}
    for feature in features:
        nearly = feature.almost.values()
        found |= {plain(n.description): n.activation for n in nearly if plain(n.description) not in found}
    return found | {plain(feature.description): feature.activation for feature in features}
