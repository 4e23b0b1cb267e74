"""The predictor `llm:<model>`: a language model that read the label, and the text of windows, and nothing else.

It knows no exemplar, activation, threshold or stratum; windows come to it shuffled, several in a request. A question whose
reply was of no use may be drawn anew: earlier draws are read from the log, so a later run finds the same reply as this one.

`few` draws the few windows that such a predictor is paid to read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from glossator.config import LLMScoreConfig
from glossator.errors import CutOffError, RefusedError, ReplyError, UnparsableError
from glossator.llm.base import LLM
from glossator.prompts import detect, fuzz, simulate
from glossator.prompts.reading import Question
from glossator.types import WINDOW, Bools, Floats, Ints, Request, Sample, Vocabulary, Windows, content_id

ANSWERED = (RefusedError, UnparsableError, CutOffError)  # the reply stands in the log, and another draw may be better
_TOP_SHARE = 3  # one window of three


class LLMPredictor:
    """Raises what `LLM.complete` raises, and ValueError for a label that no question can hold. sample: which repeat, 0 the first draw."""

    def __init__(self, llm: LLM, vocabulary: Vocabulary, config: LLMScoreConfig, sample: int = 0) -> None:
        self.llm, self.vocabulary, self.config, self.sample = llm, vocabulary, config, sample

    @property
    def predictor(self) -> str:
        return f"llm:{self.llm.name}"

    async def strengths(self, label: str, windows: Windows, about: str | None = None, tries: int = 1) -> Ints:
        """[n, WINDOW] 0 to 10. tries: how often each question may be drawn."""
        asked = simulate.render(label, windows, self.vocabulary, self.config, about)
        found: Ints | Floats = await self._read(asked, simulate.parse, np.zeros((len(windows), WINDOW), np.int8), tries)
        return found

    async def fires(self, label: str, windows: Windows, about: str | None = None, tries: int = 1) -> Floats:
        """[n] p(fires)."""
        asked = detect.render(label, windows, self.vocabulary, self.config, about)
        found: Ints | Floats = await self._read(asked, detect.parse, np.zeros(len(windows)), tries)
        return found

    async def marks_are_right(
        self, label: str, windows: Windows, marked: Bools, about: str | None = None, tries: int = 1
    ) -> Floats:
        """[n] the probability that the marked tokens [n, WINDOW] are those on which the feature fires."""
        asked = fuzz.render(label, windows, marked, self.vocabulary, self.config, about)
        found: Ints | Floats = await self._read(asked, fuzz.parse, np.zeros(len(windows)), tries)
        return found

    async def _read(
        self, questions: Sequence[Question], parse: Callable[[Question, Any], Ints | Floats], into: Any, tries: int
    ) -> Any:
        answers = await asyncio.gather(*(self._answer(q.request, tries) for q in questions), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:  # what ends the run goes first
            raise min(errors, key=lambda error: isinstance(error, ReplyError))
        for question, answer in zip(questions, answers, strict=True):
            into[list(question.rows.values())] = parse(question, answer)
        return into

    async def _answer(self, request: Request, tries: int) -> Any:
        request = replace(request, sample=self.sample)
        for attempt in range(tries - 1):
            try:
                return (await self.llm.complete(replace(request, attempt=attempt))).value
            except ANSWERED:
                continue
        return (await self.llm.complete(replace(request, attempt=tries - 1))).value


def few(sample: Sample, n: int, seed: int) -> Sample:
    """At most n of its windows, by a hash of their text; where there are top windows, a third of them. Weights make up for those left out."""
    if len(sample.windows) <= n:
        return sample
    ids = np.ascontiguousarray(sample.windows.ids)
    places = (_place(seed, one.tobytes(), ids.dtype) for one in ids)
    order = np.argsort(np.fromiter(places, np.uint64, len(ids)), kind="stable")
    top, rest = (order[(sample.stratum[order] == "top") == is_top] for is_top in (True, False))
    n_top = min(len(top), max(n // _TOP_SHARE, n - len(rest)))
    parts = [(top, n_top), (rest, n - n_top)]
    weight = np.concatenate([sample.weight[part[:k]] * (len(part) / max(k, 1)) for part, k in parts])
    kept = sample.take(np.concatenate([part[:k] for part, k in parts]))
    return replace(kept, weight=weight)


@lru_cache(maxsize=1 << 15)  # all features of a dictionary share its background, of some thousands of windows
def _place(seed: int, ids: bytes, dtype: np.dtype[Any]) -> int:
    """Of a window among others, by a hash of its text."""
    return int(content_id(seed, np.frombuffer(ids, dtype).tolist()), 16)
