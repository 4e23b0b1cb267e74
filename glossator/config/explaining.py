"""How labels are written, and how they are tried: explainers, the editor, the debate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glossator.config.base import Config
from glossator.config.scoring import LLMScoreConfig
from glossator.types import MARGIN


class LexicalConfig(Config):
    """The offline explainer: at most `items` items a rule."""

    items: int = Field(default=12, ge=1)
    min_gain: float = Field(default=0.004, ge=0)  # share of variance that an item must explain to be worth its words
    min_fit: float = Field(default=0.10, ge=0)  # variance explained on `explain` below which it abstains
    min_select: float = Field(default=0.20, ge=-1)  # simulation on `select` below which it abstains


class OneshotConfig(Config):
    """What the explainer `oneshot` shows a language model of a feature, and how much it may answer."""

    strongest: int = Field(default=10, ge=1)  # windows with the highest maxima
    over_range: int = Field(default=10, ge=0)  # windows from as many equal parts of the activations' range
    margin: int = Field(default=6, ge=0, le=MARGIN)  # tokens shown beside a window, where the subject read them
    max_tokens: int = Field(default=1024, ge=64)  # of the answer, with what a model that thinks spends on thinking
    temperature: float | None = Field(default=None, ge=0, le=2)  # None: the model's own


class ContrastiveConfig(OneshotConfig):
    """`oneshot` with near misses."""

    near: int = Field(default=10, ge=1)  # silent windows that resemble the active ones


class LogitsConfig(OneshotConfig):
    """`oneshot` with the tokens that the feature makes likelier and less likely."""

    tokens: int = Field(default=10, ge=1)  # of each


class BestOfConfig(Config):
    """The explainer `best_of`: `n` candidates, of which the one is taken that a reader predicts `select` best with."""

    n: int = Field(default=4, ge=2, le=8)
    oneshot: OneshotConfig = OneshotConfig()  # asked in turn with the next
    contrastive: ContrastiveConfig = ContrastiveConfig()
    by: Literal["detection", "simulation"] = "detection"  # the score that decides
    reading: LLMScoreConfig = LLMScoreConfig()  # as scoring reads, which then finds the replies in the log
    together: bool = False  # all candidates at once, as batches want it; else none is asked for after a perfect one


class RefineConfig(Config):
    """The explainer `refine`: a draft, and up to `rounds` of counterexamples and a new sentence."""

    rounds: int = Field(default=1, ge=1, le=8)
    draft: OneshotConfig = OneshotConfig()
    by: Literal["detection", "simulation"] = "detection"  # the score on `select` that decides
    reading: LLMScoreConfig = LLMScoreConfig()
    looking: LLMScoreConfig = LLMScoreConfig(firing=8, silent=4, near=8)  # windows of `explain` read in each round
    experiments: int = Field(default=8, ge=0)  # texts of the editor that are read besides
    missed: int = Field(default=5, ge=1)  # windows shown in which the draft was wrong, at most
    false_alarms: int = Field(default=5, ge=1)
    right: int = Field(default=3, ge=0)  # firing windows shown in which it was right


ExplainerConfig = OneshotConfig | ContrastiveConfig | LogitsConfig | BestOfConfig | RefineConfig


class EditorConfig(Config):
    """The mechanical edits: at most `texts` measured texts a feature, carriers included."""

    texts: int = Field(default=12, ge=3)
    carriers: int = Field(default=3, ge=1)
    seed: int = 0
    in_flight: int = Field(default=384, ge=1)  # features that are probed at once, so that batches are full


class DebateConfig(Config):
    """When a debate is decided, and what it may measure. benchmarks/debate.py shows what these numbers do."""

    budget: int = Field(default=30, ge=1)  # experiments
    least: int = Field(default=6, ge=1)  # experiments before anybody has won
    lead: float = Field(default=3.0, gt=0)  # nats over every other hypothesis
    floor: float = Field(default=0.1, gt=0, lt=0.5)  # share of texts on which a reader is taken to err, at least
    most_error: float = Field(
        default=0.1, gt=0, lt=0.5
    )  # and at most, whatever fits `select`: more excuses rivals that are wrong
    same_word: float = Field(default=0.25, ge=0, le=1)  # the j-th text that turns on a word counts j^-same_word
    carriers: int = Field(default=3, ge=1)  # windows that a text is measured in
    pool: int = Field(default=60, ge=6)  # texts that are proposed
    pool_read: int = Field(default=36, ge=6)  # texts that are proposed where a language model has to read them
    in_flight: int = Field(default=192, ge=1)  # debates at once, so that batches are full
    draws: int = Field(default=500, ge=100)  # bootstrap resamples of documents, for the scores on `test`
    seed: int = 0
