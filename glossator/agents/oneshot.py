"""The explainer `oneshot`: one question to a language model about each feature; a sentence, an abstention, or a failure row.

Features are read and prompts rendered in a thread, a bounded number of questions is in progress at once, and every
feature writes its own rows when its reply is there. What ends one question is a row; what ends the run (no credit, no
budget, no disk) lets the questions in flight finish, leaves the others without a row, and is raised: a run that is
started again finds the replies in the log and goes on.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from glossator.agents.pool import in_progress
from glossator.agents.run import Run
from glossator.config import OneshotConfig
from glossator.errors import CutOffError, GlossatorError, RefusedError, ReplyError, UnparsableError
from glossator.llm.base import LLM, call_id
from glossator.llm.secrets import redact
from glossator.prompts import oneshot
from glossator.rows import ExplanationRow, FailureRow, Row, StatusRow
from glossator.types import FeatureId, Request, content_id

NAME, STAGE = oneshot.TASK, oneshot.PURPOSE
_UNUSABLE = (RefusedError, UnparsableError, CutOffError)  # the reply stands in the log
_Question = tuple[FeatureId, Request | Exception | None]  # None: there is nothing to ask about


class OneshotExplainer:
    """`explain(features)` asks; `tally` counts what came of it: labelled, abstained, and failures by kind."""

    def __init__(
        self,
        run: Run,
        llm: LLM,
        config: OneshotConfig,
        run_id: str,
        tally: Counter[str] | None = None,
        *,
        retry_failed: bool = False,
    ) -> None:
        """`retry_failed`: questions whose replies were unusable are asked anew, as new draws."""
        self.run, self.llm, self.config, self.run_id, self.retry_failed = run, llm, config, run_id, retry_failed
        self.tally = Counter() if tally is None else tally

    async def explain(self, features: Sequence[int], in_hand: int) -> None:
        """At most `in_hand` features at once. Raises ProviderError, Stopped and StoreError when what was in flight has finished."""
        self.history = await asyncio.to_thread(_History, self.run, features)
        if not self.history.prompt_known:
            await self.run.store.put(oneshot.prompt())
        await in_progress(
            self._questions(features),
            len(features),
            in_hand,
            lambda question: self._one(*question),
            lambda done, total: self.run.progress(NAME, done, total),
        )

    def _questions(self, features: Sequence[int]) -> Iterator[_Question]:
        """One for each feature, in their order. A prompt that cannot be rendered is that feature's failure."""
        vocabulary = self.run.lexicon.vocabulary
        for record in self.run.records(features):
            if not record.active("explain"):
                yield record.feature, None
                continue
            try:
                request: Request | Exception = oneshot.render(record, vocabulary, self.config)
            except Exception as error:  # noqa: BLE001  one feature's failure is a row, not the end of the night
                request = error
            yield record.feature, request

    async def _one(self, feature: FeatureId, request: Request | Exception | None) -> None:
        """The first draw, and those after it as long as they are in the log: of these, the last one counts."""
        attempt = request.attempt if isinstance(request, Request) else 0
        try:
            rows = await self._rows(feature, request)
        except ReplyError as error:
            if isinstance(request, Request) and self._again(request, error):
                await self._one(feature, replace(request, attempt=attempt + 1))
                return
            rows = self._failed(feature, error, attempt)
        except GlossatorError:
            raise  # no other question will fare better: no row
        except Exception as error:  # noqa: BLE001  one feature's failure is a row
            rows = self._failed(feature, error, attempt)
        if rows:
            await self.run.store.put(*rows)

    def _again(self, request: Request, error: ReplyError) -> bool:
        """Whether the next draw is to be had: it was bought before, or is to be, because this one was, and is unusable.

        Told by the identity of this very question to this very model. What did not come is no draw: it is asked for itself.
        """
        if not isinstance(error, _UNUSABLE):
            return False
        following = call_id(self.llm.address, replace(request, attempt=request.attempt + 1))
        bought = call_id(self.llm.address, request) in self.history.answered
        return following in self.history.answered or (self.retry_failed and bought)

    async def _rows(self, feature: FeatureId, request: Request | Exception | None) -> list[Row]:
        if isinstance(request, Exception):
            raise request
        if request is None:
            return self._explained(feature, None, "never active in the split explain", None, None)
        answer = (await self.llm.complete(request)).value
        if answer.abstain:
            return self._explained(feature, None, answer.notes, None, request.prompt_id)
        return self._explained(feature, answer.claim, None, answer.scope, request.prompt_id)

    def _explained(
        self, feature: FeatureId, text: str | None, reason: str | None, scope: str | None, prompt_id: str | None
    ) -> list[Row]:
        """A claim, or an abstention with its reason. What the store has already is not written again."""
        status = "abstained" if text is None else "done"
        self.tally["abstained" if text is None else "labelled"] += 1
        model = self.llm.name if prompt_id else None
        identity = content_id("explanation", feature.dictionary, feature.index, NAME, model, text, reason)
        known, last = identity in self.history.explained, self.history.status.get(feature.index)
        rows: list[Row] = []
        if not known:
            rows.append(
                ExplanationRow(
                    identity, feature.dictionary, feature.index, NAME, model, text, None, text is None, reason,
                    self.run_id, scope, prompt_id,
                )
            )  # fmt: skip
        if not known or last != status:
            rows.append(StatusRow(feature.dictionary, feature.index, STAGE, status, reason, self.run_id))
        return rows

    def _failed(self, feature: FeatureId, error: Exception, attempt: int) -> list[Row]:
        """A failure, but for one that was found before: it is the same one, read from the log again."""
        kind, message = type(error).__name__, redact(str(error))[:500]
        self.tally[kind] += 1
        known = (feature.index, attempt, kind, message) in self.history.failures
        rows: list[Row] = []
        if not known:
            trace = redact("".join(traceback.format_exception(error)))[-4000:]
            rows.append(
                FailureRow(feature.dictionary, feature.index, STAGE, kind, message, trace, self.run_id, attempt)
            )
        if not known or self.history.status.get(feature.index) != "failed":
            rows.append(StatusRow(feature.dictionary, feature.index, STAGE, "failed", message[:200], self.run_id))
        return rows


def account(run: Run, tally: Counter[str], session_id: str) -> str:
    """What came of it, what it cost now and in all, and where to look."""
    failed = {kind: n for kind, n in sorted(tally.items()) if kind not in ("labelled", "abstained")}
    kinds = f" ({', '.join(f'{n:,} {kind}' for kind, n in failed.items())})" if failed else ""
    counts = f"{tally['labelled']:,} labelled, {tally['abstained']:,} abstained, {sum(failed.values()):,} failed{kinds}"
    if not tally.total():
        counts = "no feature was left to ask about" if not run.store.pending(STAGE, run.dictionary) else counts
    now = spent(run, "WHERE session_id = ?", [session_id])
    ((hidden,),) = run.store.sql(
        "SELECT count(DISTINCT e.feature) FROM explanation e JOIN label l USING (dictionary, feature) "
        "WHERE e.dictionary = ? AND e.explainer = ? AND e.text IS NOT NULL AND l.explainer IS DISTINCT FROM e.explainer",
        [run.dictionary, NAME],
    )
    where = f"SELECT feature, text FROM explanation WHERE explainer = '{NAME}'" if hidden else "FROM labels"
    look = ", ".join(f'"{query}"' for query in (where, "FROM spend", *(["FROM failure"] if failed else [])))
    others = f" ({hidden:,} of them are not in labels, which shows what has scores first)" if hidden else ""
    return (
        f"{run.dictionary}  {NAME}: {counts}; spent now {now}, in all {spent(run, '', [])}{set_aside(run)}\n"
        f"to read with glossator sql {run.store.path}: {look}; these labels{others} have no scores until glossator score --llm reads them"
    )


def spent(run: Run, where: str, given: list[str]) -> str:
    """Dollars and tokens of the calls in the log, or of some, in words."""
    ((usd, unknown, tokens),) = run.store.sql(
        "SELECT sum(usd), count(*) FILTER (usd IS NULL), coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0)::BIGINT "
        f"FROM llm_call {where}",
        given,
    )
    dollars = "dollars unknown" if unknown else f"${usd or 0:.4f}"
    return f"{dollars} for {tokens:,} tokens"


def set_aside(run: Run) -> str:
    """What counts as spent beside the calls in the log, in words; empty where there is nothing of it."""
    rows = run.store.sql(
        "SELECT purpose, sum(dollars), sum(tokens)::BIGINT FROM spend "
        "WHERE purpose IN ('in flight when stopped', 'out in batches') GROUP BY ALL ORDER BY ALL"
    )
    of = {
        "in flight when stopped": "booked for what was in flight when runs were stopped",
        "out in batches": "out in batches",
    }
    parts = [f"{f'${usd:.4f} for ' if usd else ''}{tokens:,} tokens {of[purpose]}" for purpose, usd, tokens in rows]
    return f", and {', '.join(parts)}" if parts else ""


class _History:
    """What this explainer did before with these features: last status, failures, explanations, and which questions have replies."""

    def __init__(self, run: Run, features: Sequence[int]) -> None:
        chosen = "dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[]))"
        given = [run.dictionary, list(features)]
        rows = run.store.sql(
            f"SELECT feature, arg_max(status, rowid) FROM stage WHERE {chosen} AND stage = ? GROUP BY feature",
            [*given, STAGE],
        )
        self.status = dict(rows)
        rows = run.store.sql(
            f"SELECT feature, attempt, error, message FROM failure WHERE {chosen} AND stage = ?", [*given, STAGE]
        )
        self.failures = set(rows)
        rows = run.store.sql("SELECT call_id FROM llm_call WHERE purpose = ? AND reply IS NOT NULL", [oneshot.PURPOSE])
        self.answered = {identity for (identity,) in rows}
        rows = run.store.sql(f"SELECT explanation_id FROM explanation WHERE {chosen} AND explainer = ?", [*given, NAME])
        self.explained = {identity for (identity,) in rows}
        known = run.store.sql("SELECT count(*) FROM prompt WHERE prompt_id = ?", [oneshot.prompt().prompt_id])
        self.prompt_known = bool(known[0][0])
