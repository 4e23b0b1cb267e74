"""What the store writes: the fields of a row are the columns of its table, in the same order. No torch, no input or output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ExplanationRow:
    explanation_id: str
    dictionary: str
    feature: int
    explainer: str
    model: str | None
    text: str | None
    program: str | None
    abstained: bool
    reason: str | None
    run_id: str
    scope: str | None = None  # token, phrase, topic or position, where the explainer says so
    prompt_id: str | None = None
    exposure: str | None = None  # which text its writer saw: NULL the split explain, `unknown` for labels of others


@dataclass(frozen=True, slots=True)
class ExperimentRow:
    """One edit. `texts` are its carriers; what they did is in `measurement`."""

    experiment_id: str
    dictionary: str
    feature: int
    pool: str
    split: str
    kind: str
    edit: str
    source_window: int | None
    texts: Sequence[str]
    run_id: str


@dataclass(frozen=True, slots=True)
class PredictionRow:
    experiment_id: str
    explanation_id: str
    predictor: str
    p_fires: float
    strengths: Sequence[int]
    sealed_at: float


@dataclass(frozen=True, slots=True)
class MeasurementRow:
    experiment_id: str
    dictionary: str
    feature: int
    carrier: int
    text: str
    tokens: Sequence[str]
    activations: Sequence[float]
    max_activation: float
    fires: bool
    measured_at: float


@dataclass(frozen=True, slots=True)
class ScoreRow:
    explanation_id: str
    dictionary: str
    feature: int
    explainer: str
    predictor: str
    model: str | None
    metric: str
    split: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str | None
    run_id: str


@dataclass(frozen=True, slots=True)
class NullScoreRow:
    explanation_id: str
    dictionary: str
    feature: int
    metric: str
    comparison: str
    null_mean: float | None
    p_value: float | None
    q_value: float | None
    difference: float | None
    low: float | None
    high: float | None
    n: int
    run_id: str
    predictor: str = "rule"


@dataclass(frozen=True, slots=True)
class RepeatScoreRow:
    """A score drawn again with another seed: `repeat` from 1 on; the first draw is in `score`."""

    explanation_id: str
    dictionary: str
    feature: int
    explainer: str
    predictor: str
    metric: str
    split: str
    repeat: int
    value: float | None
    n: int
    note: str | None
    run_id: str


@dataclass(frozen=True, slots=True)
class RatingRow:
    """What a person said of a label, or of two: `judgement` is what they pressed, in words."""

    rating_id: str
    dictionary: str
    feature: int
    explanation_id: str
    rival_id: str | None
    judgement: str
    rater: str
    seconds: float
    rated_at: float


@dataclass(frozen=True, slots=True)
class SetComparisonRow:
    """Two label sets on the same windows: mean of b - a over features that both label."""

    dictionary: str
    a: str
    b: str
    predictor: str
    metric: str
    split: str
    n: int
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    run_id: str


@dataclass(frozen=True, slots=True)
class DebateRow:
    """Two rivals, and what the experiments decided. verdict NULL: undecided, or nothing to decide; `reason` says which."""

    debate_id: str
    dictionary: str
    feature: int
    predictor: str
    a_id: str
    a_source: str
    a_text: str
    a_program: str | None
    b_id: str
    b_source: str
    b_text: str
    b_program: str | None
    verdict: str | None  # A, B, both, overlap, neither
    sentence: str
    reason: str | None
    lead: float | None  # nats over every other hypothesis
    experiments: int
    budget: int
    proposed: int
    error: float
    same: str  # JSON: hypotheses that were no others, and which they were the same as
    metric: str | None
    a_score: float | None
    b_score: float | None
    winner_score: float | None
    difference: float | None  # the winner's over the better loser's, on test
    low: float | None
    high: float | None
    reversal: bool | None
    run_id: str


@dataclass(frozen=True, slots=True)
class DebateTurnRow:
    """An experiment and what was said of it, or a closing word (experiment_id NULL). p_*: sealed; log_*: after it."""

    debate_id: str
    number: int
    experiment_id: str | None
    proposer: str | None
    kind: str
    word: str | None
    text: str | None
    p_a: float | None
    p_b: float | None
    p_both: float | None
    p_overlap: float | None
    p_neither: float | None
    fired: bool | None  # None, too, where it was weak: no verdict
    fired_share: float | None
    vote: float | None
    gain: float | None  # nats that it was expected to tell
    log_a: float | None
    log_b: float | None
    log_both: float | None
    log_overlap: float | None
    log_neither: float | None
    leader: str | None
    lead: float | None
    speaker: str | None
    statement: str | None
    unsupported: Sequence[str]  # ids and numbers in the statement that the evidence does not bear out
    run_id: str


@dataclass(frozen=True, slots=True)
class FailureRow:
    dictionary: str
    feature: int | None
    stage: str
    error: str
    message: str
    trace: str
    run_id: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class StatusRow:
    dictionary: str
    feature: int
    stage: str
    status: str
    reason: str | None
    run_id: str


@dataclass(frozen=True, slots=True)
class StepRow:
    """A node that the graph of an explainer visited on its way to a feature's label, and what came of it there."""

    dictionary: str
    feature: int
    graph: str
    number: int  # from 1
    node: str
    outcome: str
    value: float | None  # of what the node looked at, on `select`
    detail: str | None
    run_id: str


@dataclass(frozen=True, slots=True)
class PromptRow:
    prompt_id: str
    task: str
    version: int
    text: str


@dataclass(frozen=True, slots=True)
class CallRow:
    """One question that was sent. reply None: nothing usable came, but it may have been billed (`error` says what came)."""

    call_id: str
    session_id: str
    purpose: str
    about: str | None
    prompt_id: str | None
    provider: str
    host: str
    model: str
    request: str  # JSON: messages, schema, max_tokens, temperature, logprobs, sample, attempt
    reply: str | None
    replied_by: str | None  # the model's name, as the reply has it
    finish: str | None  # stop, length, refusal
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    usd: float | None  # None: no price is known
    logprobs: str | None  # JSON, as in Reply
    seconds: float
    asked_at: float
    batch_id: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """The most that a process had reserved at once, of the last row of each session. Not finished: as good as spent."""

    session_id: str
    reserved_usd: float
    reserved_tokens: int
    finished: bool


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch's state, in its last row: intent, sent, done, or lost. What it reserved stays reserved until it is done or lost."""

    batch_id: str
    provider: str
    host: str
    model: str
    state: str
    remote_id: str | None
    requests: int
    reserved_usd: float
    reserved_tokens: int
    changed: float
    note: str | None = None


@dataclass(frozen=True, slots=True)
class BatchRequestRow:
    """What a batch holds, so that its replies can be logged by a later process."""

    batch_id: str
    call_id: str
    purpose: str
    about: str | None
    prompt_id: str | None
    request: str


Row = (
    ExplanationRow
    | ExperimentRow
    | PredictionRow
    | MeasurementRow
    | ScoreRow
    | NullScoreRow
    | RepeatScoreRow
    | RatingRow
    | SetComparisonRow
    | DebateRow
    | DebateTurnRow
    | FailureRow
    | StatusRow
    | StepRow
    | PromptRow
    | CallRow
    | SessionRow
    | BatchRow
    | BatchRequestRow
)
