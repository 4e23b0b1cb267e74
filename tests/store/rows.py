"""One row of every kind, numbered."""

from __future__ import annotations

import pyarrow as pa

from glossator.rows import (
    ExperimentRow,
    ExplanationRow,
    FailureRow,
    MeasurementRow,
    NullScoreRow,
    PredictionRow,
    Row,
    ScoreRow,
    StatusRow,
)


def explanation(i: int, text: str | None = "fires on “dogs” \N{DOG FACE}") -> ExplanationRow:
    return ExplanationRow(f"x{i}", "d", i, "lexical", None, text, '{"items": []}', text is None, None, "run")


def experiment(i: int) -> ExperimentRow:
    return ExperimentRow(f"e{i}", "d", i, "pool", "test", "boundary", "swap", 2**62 + i, ["a", "b'\";--"], "run")


def prediction(i: int) -> PredictionRow:
    return PredictionRow(f"e{i}", f"x{i}", "rule", 0.1 + i / 10, [0, 10, 3], 17.25)


def measurement(i: int, fires: bool = False) -> MeasurementRow:
    return MeasurementRow(f"e{i}", "d", i, 0, "a text", ["a", "text"], [0.0, 1.5], 1.5, fires, 18.5)


def score(i: int, value: float | None = 0.5) -> ScoreRow:
    return ScoreRow(
        f"x{i}", "d", i, "lexical", "rule", None, "simulation", "test", value, -0.25, None, 40, "note", "run"
    )


def status(feature: int, stage: str, what: str) -> StatusRow:
    return StatusRow("d", feature, stage, what, None, "run")


def one_of_each() -> dict[str, Row]:
    """By table."""
    return {
        "explanation": explanation(1),
        "experiment": experiment(1),
        "prediction": prediction(1),
        "measurement": measurement(1),
        "score": score(1),
        "null_score": NullScoreRow("x1", "d", 1, "simulation", "permuted", 0.1, 0.001, None, None, None, 0.5, 9, "run"),
        "failure": FailureRow("d", None, "explain", "ValueError", "what\nwent wrong", "trace", "run"),
        "stage": StatusRow("d", 1, "explain", "abstained", "no coherent pattern", "run"),
    }


def feature_table(statuses: list[str], dictionary: str = "d") -> pa.Table:
    n = len(statuses)
    return pa.table(
        {
            "dictionary": [dictionary] * n,
            "feature": pa.array(range(n), pa.int32()),
            "status": statuses,
            "threshold": [1.0] * n,
        }
    )
