"""The commented file that `glossator init` writes. What it writes is read again before it is kept, so it holds no mistake of form."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glossator.config import read_night, refuse
from glossator.errors import UsageError
from glossator.llm.prices import find_price
from glossator.llm.spec import parse_spec

_BUILT_IN = ("python-docs", "themes")


@dataclass(frozen=True)
class Wanted:
    """What the flags of `init` said; empty where they did not."""

    model: str = "demo"
    dictionaries: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    corpus: tuple[str, ...] = ()
    explainer: str | None = None
    llm: str | None = None


_TEXT = """\
# What `glossator run` does. Paths are taken from this file's folder. Run it again to go on where it was stopped.
# First: glossator run {file} --plan

run = {run}  # the run file: everything is kept there, and can be queried with SQL at any time
report = {report}  # the page for the morning; leave the line out for none

[subject]
model = {model}  # a model folder, a hub name, or "demo" for the built-in subject
dictionaries = {dictionaries}  # SAELens folders, "RELEASE:SAE_ID", "neurons", or "demo"
{hooks}
device = "cpu"  # "cuda" where there is one

[corpus]
text = {corpus}  # text, JSONL, CSV, Parquet, folders, "hf:NAME"; built in: "python-docs", "themes"
# tokens = 10_000_000  # read no more than this
# context_size = 256  # tokens in one forward pass; if not given, what the dictionaries state, or 256

[harvest]
workers = 1  # processes on this machine
near_misses = ["overlap"]  # and "embedding": silent windows that resemble those in which a feature fires
controls = []  # "random-dictionary", "frozen-decoder", "reinitialised-subject": harvested beside, to see what scores are worth

[features]
which = "all"  # or "0-999", "3,5,8-12", or a condition on columns of labels and feature: "density BETWEEN 1e-5 AND 0.01"
# active_on = "prompts.txt"  # only features that fire on your own prompts, each a line
order = "density desc"  # which first: index, density, density desc, max_activation, max_activation desc, random
# first = 1000  # no more than so many, in that order
# wave = 500  # so many are explained and read wholly before the next are begun; or "all". Not given: 16 for each question in flight; batches: all
controls = 100  # of each control, drawn at random

[explain]
# lexical: rules, offline. By a language model: oneshot, contrastive, logits, best_of:N, refine:K, label:K, and
# cascade: the rule where it will do, a sentence where it will not, and more only where doubt remains
explainer = {explainer}

[probe]
by = "rules"  # the mechanical editor on the rules; "llm": a model writes texts against the labels as well; "none"

[score]
scorers = {scorers}  # rule and embedding are offline; a model reads for detection, simulation, fuzzing, discrimination
# embedder = "models/encoder"  # for the scorer embedding; the built-in one if not given
nulls = true  # where a model reads: other features' labels, too, without which nothing is trusted
repeats = 0  # further draws of every question, which show the noise

[llm]
{writer}
# reader = "openai:gpt-6-luna"  # who reads labels, if not the one that writes
concurrency = 64  # questions in flight at most
# effort = "low"  # how hard a model that thinks is to think
# prices = "prices.toml"  # where ours lack a model; needed for a limit in dollars
# Keys come from the environment: OPENAI_API_KEY, ANTHROPIC_API_KEY.

[limits]
{usd}
# tokens = 20_000_000
# deadline = "07:00"  # or "8h", from each start; what was wanted most is done wholly by then. Comparisons come last
"""


def write_template(path: Path, wanted: Wanted) -> None:
    """Raises UsageError where there is a file already, or no folder for it."""
    if path.exists():
        raise UsageError(f"{path}: is there already; name another file with --out, or delete it")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    text = template(path.name, wanted)
    with tempfile.TemporaryDirectory(prefix="glossator-init-") as folder:
        tried = Path(folder) / path.name
        tried.write_text(text, encoding="utf-8")
        refuse(path, read_night(tried).mistakes)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error


def template(file: str, wanted: Wanted) -> str:
    """The text, for a case."""
    stem = "demo" if wanted.model == "demo" else Path(wanted.model.rstrip("/")).name or "run"
    demo = wanted.model == "demo"
    explainer = wanted.explainer or ("cascade" if wanted.llm else "lexical")
    hooks = (
        f"hooks = {_list(wanted.hooks)}"
        if wanted.hooks
        else '# hooks = ["model.layers.12"]  # where the dictionaries do not say themselves'
    )
    writer = f"writer = {_text(wanted.llm)}" if wanted.llm else 'writer = "openai:gpt-6-luna"'
    return _TEXT.format(
        file=file,
        run=_text(f"{stem}.duckdb"),
        report=_text(f"{stem}.html"),
        model=_text(wanted.model),
        dictionaries=_list(wanted.dictionaries or (("demo",) if demo else ("neurons",))),
        hooks=hooks,
        corpus=_list(wanted.corpus or _BUILT_IN),
        explainer=_text(explainer),
        scorers=_list(("rule", "detection") if wanted.llm else ("rule",)),
        writer=writer
        if wanted.llm
        else f"# {writer}  # openai:NAME@http://host:8000/v1, anthropic:NAME, local:PATH; +batch",
        usd="usd = 5.0" if _priced(wanted.llm) else "# usd = 5.0  # needs prices, see above",
    )


def _priced(llm: str | None) -> bool:
    """Whether a limit in dollars can be kept."""
    spec = parse_spec(llm) if llm else None
    return spec is not None and spec.theirs and find_price(spec.provider, spec.name) is not None


def _text(value: str) -> str:
    """A TOML string: JSON's are, except for what JSON leaves unescaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, values))}]"
