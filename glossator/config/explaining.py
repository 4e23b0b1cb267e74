"""How labels are written, and how they are tried: explainers, the editor, the debate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glossator.config.base import Config
from glossator.config.scoring import LLMScoreConfig
from glossator.types import MARGIN, WINDOW


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


class WritingConfig(Config):
    """What the editor asks a language model to write about a feature, what it shows it, and what it takes of the reply."""

    positive: int = Field(default=3, ge=0)  # texts that should fire, by the label
    boundary: int = Field(default=3, ge=0)  # texts that should nearly fire
    minimal_off: int = Field(default=2, ge=0)  # small changes of firing windows, after which they should be silent
    minimal_on: int = Field(default=2, ge=0)  # and of silent ones, after which they should fire
    windows: int = Field(default=2, ge=1)  # shown of firing and of silent windows
    claims: int = Field(default=3, ge=1)  # labels shown, the first of those given
    avoided: int = Field(default=8, ge=0)  # tokens it is told to do without, those that are most active in `explain`
    longest: int = Field(default=24, ge=4, le=WINDOW)  # tokens of a text that is put into other windows
    change: int = Field(default=6, ge=1)  # tokens that a small change may take out, and put in
    copied: float = Field(default=0.5, gt=0, le=1)  # share of a text's 8-grams in exemplars from which it is a copy
    max_tokens: int = Field(default=1024, ge=64)  # of the answer, with what a model that thinks spends on thinking
    temperature: float | None = Field(default=None, ge=0, le=2)  # None: the model's own


class EditorConfig(Config):
    """The editor's pool: at most `texts` measured texts of mechanical edits a feature, carriers included, and what a model writes."""

    texts: int = Field(default=12, ge=3)
    random: int = Field(default=2, ge=0)  # windows of the corpus as they are, at most
    carriers: int = Field(default=3, ge=1)
    seed: int = 0
    in_flight: int = Field(default=384, ge=1)  # features that are probed at once, so that batches are full
    writing: WritingConfig = WritingConfig()
    every: bool = False  # a model reads all explanations that have a text, not the label alone
    carriers_read: Literal[1, 3] = 1  # of each experiment, by a model that reads labels; rules read all
    reading: LLMScoreConfig = LLMScoreConfig(request_windows=60)  # a whole pool in one question


def wide_editor(*, every: bool = False) -> EditorConfig:
    """More texts, and every carrier read: what it takes to tell near rivals apart over features (docs/figures.md, Agents)."""
    many = WritingConfig(positive=4, boundary=12, minimal_off=4, minimal_on=4, windows=4, max_tokens=2048)
    return EditorConfig(carriers_read=3, writing=many, every=every)


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
    statements: int = Field(default=4, ge=0)  # of sides for which a model speaks: two closing words, and texts before
    statement_tokens: int = Field(default=256, ge=32)  # of the answer
    amend: bool = True  # whether a side for which a model speaks may amend what it says; once a debate
    amend_after: int = Field(default=4, ge=1)  # experiments
    amend_behind: float = Field(default=2.0, ge=0)  # nats behind who leads
    amend_read: int = Field(
        default=12, ge=4
    )  # texts that are left in the debate then: the new explanation is read on them
    seed: int = 0


class LabelConfig(Config):
    """The graph `label`: `refine`, which in each round tries the sentence on the subject as well."""

    refine: RefineConfig = RefineConfig(rounds=2)
    editor: EditorConfig = EditorConfig(seed=1)  # experiments on `select`; the reported ones have another seed


class CascadeConfig(Config):
    """The graph `cascade`: what is cheap first, and what costs more only where that leaves a doubt.

    Values on `select`: of the lexical rule `simulation`, of sentences the score that `label.refine.by` names, averaged over
    what there is of it, as labels are compared.
    """

    escalate: Literal["doubtful", "all"] = "doubtful"  # all: no lexical label stands, for comparison
    stands: float = Field(default=0.9, ge=-1, le=1)  # simulation of a rule from which it needs no language model
    list_items: int = Field(default=1, ge=0)  # a rule of more items, all of them single tokens, is a mere list
    good: float = Field(default=0.95, ge=0, le=1)  # a sentence that reads as well is not refined
    doubt: float = Field(default=0.85, ge=0, le=1)  # below it after refining, further candidates are drawn
    margin: float = Field(default=0.03, ge=0, le=1)  # the two best that differ debate where they lie so close
    label: LabelConfig = LabelConfig()
    best_of: BestOfConfig = BestOfConfig()  # read as `label.refine` is
    debate: DebateConfig = DebateConfig()


ExplainerConfig = (
    OneshotConfig | ContrastiveConfig | LogitsConfig | BestOfConfig | RefineConfig | LabelConfig | CascadeConfig
)
