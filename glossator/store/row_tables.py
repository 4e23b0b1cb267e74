"""Rows as Arrow tables: which kind of row goes to which table, its fields being the table's columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pyarrow as pa

from glossator.rows import (
    BatchRequestRow,
    BatchRow,
    CallRow,
    DebateRow,
    DebateTurnRow,
    ExperimentRow,
    ExplanationRow,
    FailureRow,
    MeasurementRow,
    NullScoreRow,
    PredictionRow,
    PromptRow,
    RatingRow,
    RepeatScoreRow,
    Row,
    ScoreRow,
    SessionRow,
    SetComparisonRow,
    StatusRow,
    StepRow,
)

TABLES: dict[type, str] = {
    ExplanationRow: "explanation",
    ExperimentRow: "experiment",
    PredictionRow: "prediction",
    MeasurementRow: "measurement",
    ScoreRow: "score",
    NullScoreRow: "null_score",
    RepeatScoreRow: "repeat_score",
    RatingRow: "rating",
    SetComparisonRow: "set_comparison",
    DebateRow: "debate",
    DebateTurnRow: "debate_turn",
    FailureRow: "failure",
    StatusRow: "stage",
    StepRow: "step",
    PromptRow: "prompt",
    CallRow: "llm_call",
    SessionRow: "llm_session",
    BatchRow: "llm_batch",
    BatchRequestRow: "llm_batch_request",
}


def arrow(kind: type, rows: Sequence[Row]) -> pa.Table:
    names = [f.name for f in dataclasses.fields(kind)]
    return pa.table({name: pa.array([getattr(row, name) for row in rows]) for name in names})
