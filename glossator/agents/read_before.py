"""Which labels there are to read, and what a stage did before with these features: the memory of scorers that ask a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glossator.agents.run import Run
from glossator.scorers.reading import ANSWERED

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
) -> dict[int, list[Label]]:
    """feature -> its current label, or `every` explanation with a text. unread: those alone that lack scores by (predictor, metrics)."""
    source = "explanation e" if every else "label l JOIN explanation e USING (explanation_id)"
    where, given = "", list[object]([run.dictionary])
    if features is not None:
        where += " AND e.feature IN (SELECT unnest(?::INTEGER[]))"
        given.append(list(features))
    if unread is not None:
        where += (
            " AND f.status NOT IN ('dead', 'rare') AND NOT EXISTS (SELECT 1 FROM score s "
            "WHERE s.explanation_id = e.explanation_id AND s.predictor = ? AND s.metric = ?)"
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

    def __init__(self, run: Run, stage: str, of: tuple[str, Sequence[str]], features: Sequence[int]) -> None:
        """of: predictor and metrics."""
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
        rows = run.store.sql(
            f"SELECT explanation_id, metric, split, value, low, high, n, note FROM score WHERE {chosen} "
            "AND predictor = ? AND metric IN (SELECT unnest(?::VARCHAR[]))",
            [*given, of[0], list(of[1])],
        )
        self.scores: dict[Place, tuple[object, ...]] = {(i, m, s): tuple(values) for i, m, s, *values in rows}

    def attempt(self, feature: int, retry_failed: bool) -> int:
        """The last draw that may be asked for. A failed one is replayed, unless it is to be retried; one that came after it stays."""
        if feature not in self.last_failure:
            return 0
        attempt, kind, _ = self.last_failure[feature]
        failed = self.status.get(feature, ("", None))[0] == "failed"
        return attempt + (retry_failed if failed else kind in _ANSWERED)
