"""The explainer `best_of`: several candidates, and of them the one that a reader predicts the split `select` best with.

Candidates are draws of the questions of `oneshot` and `contrastive` in turn: a model without temperature answers the same
question alike, but not two questions that show different windows. The reader knows a candidate and windows of `select`, as
when labels are scored. Ties go to the candidate that came first, so none is asked for after one that cannot be beaten.

What cannot be read, because the feature is rare, or too dense to be detected, has nothing to choose by: one candidate is
asked for, and taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from glossator.agents.explainers.claims import PERFECT, Candidate, Found, Material, ask, read, unread
from glossator.config import BestOfConfig
from glossator.errors import ReplyError
from glossator.llm.base import LLM
from glossator.prompts import contrastive, oneshot
from glossator.scorers.reading import LLMPredictor
from glossator.types import FeatureRecord, Request, Vocabulary


def candidate_questions(record: FeatureRecord, vocabulary: Vocabulary, config: BestOfConfig) -> list[Request]:
    """`n` of them: oneshot and contrastive in turn; without near misses all are of oneshot."""
    near = record.near_misses.get("explain")
    if near is None or not len(near.windows):
        return [oneshot.render(record, vocabulary, config.oneshot, sample=k) for k in range(config.n)]
    return [
        contrastive.render(record, vocabulary, config.contrastive, sample=k // 2)
        if k % 2
        else oneshot.render(record, vocabulary, config.oneshot, sample=k // 2)
        for k in range(config.n)
    ]


async def best_of(
    questions: Sequence[Request], on: Material, writer: LLM, reader: LLMPredictor, *, together: bool = False
) -> Found:
    """Raises the first candidate's ReplyError where none has a usable reply, and whatever ends the run."""
    wanted = questions[:1] if isinstance(on.scene, str) else questions
    found: list[Candidate] = []
    failures: list[tuple[str, Exception]] = []
    for numbers in [range(len(wanted))] if together else [range(k, k + 1) for k in range(len(wanted))]:
        work = (_one(wanted[k], on, writer, reader) for k in numbers)
        for k, ended in zip(numbers, await asyncio.gather(*work, return_exceptions=True), strict=True):
            if isinstance(ended, ReplyError):
                failures.append((f"candidate {k + 1}", ended))
            elif isinstance(ended, BaseException):
                raise ended
            else:
                found.append(ended[0])
                failures += [(f"reading candidate {k + 1}", ended[1])] if ended[1] else []
        if any(one.value is not None and one.value >= PERFECT for one in found):
            break
    if not found:
        raise failures[0][1]
    best = max(found, key=_rank)  # the first of several
    return Found(best, _how(found, best, on, len(questions)), tuple(found), tuple(failures))


async def _one(
    question: Request, on: Material, writer: LLM, reader: LLMPredictor
) -> tuple[Candidate, ReplyError | None]:
    claim = await ask(writer, question)
    try:
        return await read(reader, claim, on), None
    except ReplyError as error:
        return unread(claim, on), error


def _rank(one: Candidate) -> tuple[bool, float]:
    """What was read before what was not, and an abstention last."""
    return one.claim.text is not None, float("-inf") if one.value is None else one.value


def _how(found: Sequence[Candidate], best: Candidate, on: Material, n: int) -> str:
    if isinstance(on.scene, str):
        return f"the first candidate, unread: {on.scene}"
    distinct = len({one.claim.text for one in found})
    values = [
        ("abstained" if one.claim.text is None else "unread" if one.value is None else f"{one.value:.3f}")
        + " (taken)" * (one is best)
        for one in found
    ]
    return f"{len(found)} of {n} candidates, {distinct} distinct; {on.by} on select: {', '.join(values)}"
