"""What a harvest is made from: a model, its dictionaries, text, and how one pass reads them."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pydantic import Field

from glossator.config.base import Config
from glossator.config.shipped import data_path, demo_model
from glossator.errors import UsageError

DEMO_HOOK = "encoder.layer.4"
DEMO_MODEL = "all-MiniLM-L6-v2"
CONTROLS = ("random-dictionary", "frozen-decoder", "reinitialised-subject")  # harness/controls.py
NEAR_BY = ("overlap", "embedding")  # how near misses are found: harness/near_misses.py


class CorpusConfig(Config):
    """How text becomes documents, contexts and splits."""

    tokens: int | None = Field(default=None, gt=0)  # read no more than this
    context_size: int | None = Field(default=None, ge=16)  # None: what the dictionaries state, or 256
    seed: int = 0
    explain_share: float = Field(default=0.5, gt=0, lt=1)
    select_share: float = Field(default=0.2, gt=0, lt=1)
    near_duplicate: float = Field(default=0.5, gt=0, le=1)  # share of 13-grams that two copies share


class HarvestConfig(Config):
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


class ControlConfig(Config):
    """How controls of a dictionary are made: harness/controls.py."""

    tokens: int = Field(default=131_072, ge=256)  # of the corpus that one is trained on, at most
    steps: int = Field(default=600, ge=1)
    rows: int = Field(default=1024, ge=16)  # tokens of one step
    sample: int = Field(default=8192, ge=256)  # tokens on which densities and L0 are matched, and that are held out
    seed: int = 0


class SubjectConfig(Config):
    """A model, what is read in it, and the text. `hooks` beside `dictionaries`; None: where the dictionary itself says.

    A hook that begins with `reinitialised:` is one of the same model with its weights drawn anew.
    """

    model: str  # a folder, a hub name, or `demo`
    model_name: str | None = None  # what to call it, where the folder's name says nothing
    dictionaries: tuple[str, ...]  # SAELens folders, RELEASE:SAE_ID, `neurons`, or `demo`
    hooks: tuple[str | None, ...]
    corpus: tuple[str, ...]


class Recipe(Config):
    """All that a harvest is made from: what a worker, or the one who merges, needs to be told.

    `controls` are still to be made: once they are, they stand among the dictionaries, and none is left here.
    """

    subject: SubjectConfig
    corpus: CorpusConfig = CorpusConfig()
    harvest: HarvestConfig = HarvestConfig()
    controls: tuple[str, ...] = ()
    control: ControlConfig = ControlConfig()


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
        found |= {"model": str(demo_model()), "model_name": what.model_name or DEMO_MODEL}
    return what.model_copy(update=found)
