"""Which labels there are to read, and what a stage did before with these features: the memory of scorers that ask a model."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from glossator.agents.run import Run
from glossator.llm.secrets import redact
from glossator.rows import FailureRow, Row, StatusRow
from glossator.scorers.reading import ANSWERED
from glossator.types import FeatureId

Place = tuple[str, str, str]  # explanation, metric, split
_ANSWERED = {kind.__name__ for kind in ANSWERED}


@dataclass(frozen=True, slots=True)
class Label:
    """An explanation as a reader has it."""

    explanation_id: str
    explainer: str
    text: str


def labels_of(
    run: Run,
    features: Sequence[int] | None = None,
    *,
    every: bool = False,
    unread: tuple[str, Sequence[str]] | None = None,
    explainer: str | None = None,
) -> dict[int, list[Label]]:
    """feature -> its current label, or `every` explanation of this run with a text, or those of one `explainer`.

    unread: those alone that lack scores on `test` by (predictor, metrics). What others wrote is read where their set is named.
    """
    source = "explanation e" if every or explainer else "label l JOIN explanation e USING (explanation_id)"
    where = " AND NOT starts_with(e.explainer, 'imported:') AND NOT ends_with(e.explainer, ':candidate')"
    given = list[object]([run.dictionary])
    if explainer is not None:
        where = " AND e.explainer = ?"
        given.append(explainer)
    if features is not None:
        where += " AND e.feature IN (SELECT unnest(?::INTEGER[]))"
        given.append(list(features))
    if unread is not None:
        where += (
            " AND f.status NOT IN ('dead', 'rare') AND NOT EXISTS (SELECT 1 FROM score s "
            "WHERE s.explanation_id = e.explanation_id AND s.predictor = ? AND s.metric = ? AND s.split = 'test')"
        )
        given += [unread[0], unread[1][0]]
    rows = run.store.sql(
        f"SELECT DISTINCT e.feature, e.explanation_id, e.explainer, e.text FROM {source} "
        "JOIN feature f ON f.dictionary = e.dictionary AND f.feature = e.feature "
        f"WHERE e.dictionary = ? AND e.text IS NOT NULL{where} ORDER BY ALL",
        given,
    )
    found: dict[int, list[Label]] = {}
    for feature, explanation_id, explainer, text in rows:
        found.setdefault(feature, []).append(Label(explanation_id, explainer, text))
    return found


class Before:
    """Of one stage and its features: the last status, the last failure, the scores that are stored."""

    def __init__(self, run: Run, stage: str, of: tuple[str, Sequence[str], int], features: Sequence[int]) -> None:
        """of: predictor, metrics, and which repeat, 0 for the first draw."""
        self.stage = stage
        chosen = "dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[]))"
        given = [run.dictionary, list(features)]
        rows = run.store.sql(
            f"SELECT feature, status, reason FROM stage WHERE {chosen} AND stage = ? "
            "QUALIFY row_number() OVER (PARTITION BY feature ORDER BY rowid DESC) = 1",
            [*given, stage],
        )
        self.status: dict[int, tuple[str, str | None]] = {feature: (status, reason) for feature, status, reason in rows}
        rows = run.store.sql(
            f"SELECT feature, attempt, error, message FROM failure WHERE {chosen} AND stage = ? "
            "QUALIFY row_number() OVER (PARTITION BY feature ORDER BY attempt DESC, rowid DESC) = 1",
            [*given, stage],
        )
        self.last_failure: dict[int, tuple[int, str, str]] = {
            feature: (n, kind, said) for feature, n, kind, said in rows
        }
        table, columns = ("repeat_score", "value, n, note") if of[2] else ("score", "value, low, high, n, note")
        rows = run.store.sql(
            f"SELECT explanation_id, metric, split, {columns} FROM {table} WHERE {chosen} AND predictor = ? "
            f"AND metric IN (SELECT unnest(?::VARCHAR[])){' AND repeat = ?' if of[2] else ''}",
            [*given, of[0], list(of[1]), *([of[2]] if of[2] else [])],
        )
        self.scores: dict[Place, tuple[object, ...]] = {(i, m, s): tuple(values) for i, m, s, *values in rows}

    def attempt(self, feature: int, retry_failed: bool) -> int:
        """The last draw that may be asked for. A failed one is replayed, unless it is to be retried; one that came after it stays."""
        if feature not in self.last_failure:
            return 0
        attempt, kind, _ = self.last_failure[feature]
        failed = self.status.get(feature, ("", None))[0] == "failed"
        return attempt + (retry_failed if failed else kind in _ANSWERED)

    def status_rows(self, feature: FeatureId, status: str, reason: str | None, run_id: str) -> list[Row]:
        """Nothing where that is its status already."""
        if self.status.get(feature.index) == (status, reason):
            return []
        return [StatusRow(feature.dictionary, feature.index, self.stage, status, reason, run_id)]

    def failure_rows(
        self, feature: FeatureId, failed: Sequence[tuple[str, Exception]], attempt: int, run_id: str
    ) -> list[Row]:
        """failed: where, and what. No failure that was found before: it is the same one, read from the log again."""
        error = failed[0][1]
        kind = type(error).__name__
        message = redact("; ".join(f"{where}: {what}" for where, what in failed))[:500]
        status = self.status_rows(feature, "failed", message[:200], run_id)
        if self.last_failure.get(feature.index) == (attempt, kind, message):
            return status
        trace = redact("".join(traceback.format_exception(error)))[-4000:]
        return [
            FailureRow(feature.dictionary, feature.index, self.stage, kind, message, trace, run_id, attempt),
            *status,
        ]
