"""How labels are scored, compared and taken from elsewhere."""

from __future__ import annotations

from pydantic import Field

from glossator.config.base import Config
from glossator.types import MARGIN


class ScoreConfig(Config):
    draws: int = Field(default=1000, ge=100)  # bootstrap resamples of documents
    permutations: int = Field(default=24, ge=1)  # mismatched labels tried on each feature
    min_null: int = Field(default=999, ge=99)  # pairs pooled within a density stratum
    q: float = Field(default=0.05, gt=0, lt=1)
    seed: int = 0


class EmbeddingConfig(Config):
    """What the scorer `embedding` reads. Windows of background are embedded once for all features."""

    background: int = Field(default=1024, ge=1)  # windows of select, and of test, at most
    firing: int = Field(default=8, ge=1)  # fewer firing windows than that among them: exemplars take their place
    cached: int = Field(default=20_000, ge=1)  # embeddings of exemplars in memory, about
    draws: int = Field(default=1000, ge=100)  # bootstrap weights of documents
    permutations: int = Field(default=24, ge=1)  # mismatched labels tried on each feature
    min_null: int = Field(default=999, ge=99)  # pairs pooled within a density stratum
    seed: int = 0


class LLMScoreConfig(Config):
    """What a language model that reads a label is shown of a feature in each split, and how much it may answer."""

    active: int = Field(default=15, ge=1)  # windows of `simulation`
    background: int = Field(default=15, ge=1)
    firing: int = Field(default=10, ge=1)  # windows of `detection`
    silent: int = Field(default=10, ge=1)
    near: int = Field(default=10, ge=0)
    fuzzed: int = Field(default=20, ge=2)  # windows of `fuzzing`, half of them marked wrongly
    margin: int = Field(default=3, ge=1, le=MARGIN)  # tokens shown beside a window, where the subject read them
    request_windows: int = Field(default=30, ge=1)  # in one request at most
    request_tokens: int = Field(default=8_000, ge=64)  # of windows in one request, about
    max_tokens: int = Field(default=512, ge=0)  # of the answer, beside what each window needs
    temperature: float | None = Field(default=None, ge=0, le=2)  # None: the model's own
    draws: int = Field(default=500, ge=100)  # bootstrap resamples of documents
    nulls: bool = True  # labels of others are read on a feature's windows, too
    min_null: int = Field(default=999, ge=19)  # pairs pooled within a density stratum, and about as many as are asked
    mismatched: int = Field(default=40, ge=1)  # labels of others read about one feature at most
    repeats: int = Field(default=0, ge=0, le=99)  # further draws of every question, with other windows
    seed: int = 0


class ImportConfig(Config):
    """Which files of labels were taken into a run file: their names alone."""

    files: tuple[str, ...]


class CompareConfig(Config):
    """How two label sets are compared on the features that both label."""

    draws: int = Field(default=2000, ge=100)  # bootstrap resamples of features
    alike: float = Field(
        default=0.5, gt=0, le=1
    )  # cosine of decoder directions from which features are resampled together
    seed: int = 0
