"""What a night would take: features, calls, tokens, dollars, rounds of batches and hours, stage by stage, before a cent is spent.

Where this run file holds what the same model was asked at the same stage before, its averages are taken. Else real prompts of a few
of the chosen features are counted (counting.py). Explainers of several questions are multiples of `oneshot` then, as measured on the
demo dictionary (docs/figures.md). Without a harvest there are no prompts, and the demo dictionary's averages stand in.

What it cannot know it says: how much a model thinks, how fast a provider answers, how many features a cascade refines.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glossator.agents.run import Run
from glossator.agents.scoring.scenes import SCORERS as READ
from glossator.arguments import explainer_config, parse_features
from glossator.config import CascadeConfig, LLMScoreConfig, Night, Written, refuse
from glossator.config.harvest import located
from glossator.errors import UsageError
from glossator.llm.opening import in_batches
from glossator.llm.prices import find_price
from glossator.llm.spec import Spec, parse_spec
from glossator.night.checking import harvested, mistakes
from glossator.night.choosing import chosen, is_condition
from glossator.night.counting import Size, oneshot_size, read_size
from glossator.night.deadline import moment
from glossator.night.stages import RULE, Stage, left, reads_every, stages
from glossator.night.waves import standing
from glossator.store.reading import open_for_reading
from glossator.store.store import Store
from glossator.types import Usage

_ONESHOT = Size(1.0, 2_310)  # tokens of a prompt, demo dictionary
_OF_SCORER = {"detection": 3_670, "simulation": 10_350, "fuzzing": 3_030, "discrimination": 3_110}  # both splits
_REPLY = {"detection": 150, "simulation": 350, "fuzzing": 100, "discrimination": 120}  # of one call
_EXPLAINED = 120  # tokens of a reply of notes and a sentence
_OFFLINE = {
    "rules": 0.034,
    "edits": 0.08,
    RULE: 0.029,
    "embedding": 0.03,
}  # seconds a feature, two cores, demo dictionary
_READS = ("read", "compare")  # both are `score:llm` in the rows of `run`, so they are told apart by the night's own
_HARVEST = 4_600  # tokens a second, the demo
_SECONDS = 5.0  # of one call, where nothing is known
_FEW = 10  # features from which a run file's own averages are taken
_WRITTEN = Size(2.0, 5_500)  # `probe` with a model: texts are written, and read


@dataclass(frozen=True)
class Forecast:
    """Of one stage. None: not known. usd None: no price is known. at_most: it may well be less."""

    stage: str
    features: int | None
    calls: float | None = None
    input: float | None = None
    output: float | None = None
    usd: float | None = None
    rounds: int | None = None
    seconds: float | None = None
    at_most: bool = False
    basis: str = ""


@dataclass(frozen=True)
class Plan:
    """unknown: what it cannot know, in words; notes: what the limits make of it."""

    stages: tuple[Forecast, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


def forecast(written: Written) -> Plan:
    """Raises UsageError with all mistakes of the file. Nothing is written, and nobody is asked."""
    now = datetime.datetime.now()
    refuse(written.path, [*written.mistakes, *mistakes(written, now, asks=False)])
    night = written.night.located(written.path.parent)
    if harvested(night):
        with open_for_reading(night.run) as store:
            found = planned(night, store)
    else:
        found = _unharvested(night)
    return Plan(tuple(found), tuple(_unknown(night, found)), tuple(_notes(night, found, now)))


def planned(night: Night, store: Store, parts: Sequence[tuple[Run, Sequence[int]]] | None = None) -> list[Forecast]:
    """Where there is a harvest: what is left of each stage. parts: dictionaries and their features, if they are chosen already."""
    if parts is None:
        names = store.sql("SELECT dictionary FROM dictionary ORDER BY control IS NOT NULL, dictionary")
        parts = [(run, chosen(run, night.features, write=False)) for run in (Run(store, name) for (name,) in names)]
    found = []
    for stage in stages(night):
        each = [(run, left(run, stage, features).todo) for run, features in parts]
        n = sum(len(todo) for _, todo in each)
        run, todo = max(each, key=lambda one: len(one[1]))
        found.append(_of_stage(night, stage, run, todo, n) if n else Forecast(stage.name, 0, basis="nothing is left"))
    return found


def _of_stage(night: Night, stage: Stage, run: Run, todo: Sequence[int], n: int) -> Forecast:
    if stage.name in _OFFLINE:
        seconds = _own_seconds(run, stage)
        basis = "this file's own rate" if seconds is not None else "the demo dictionary's rate on two cores"
        return Forecast(
            stage.name, n, seconds=n * (seconds if seconds is not None else _OFFLINE[stage.name]), basis=basis
        )
    asked = n
    at_most = False
    if stage.name == "explain" and isinstance(config := explainer_config(night.explain.explainer), CascadeConfig):
        asked = n - standing(run, todo, config)
        at_most = True
    if own := _own(night, stage, run):
        size, reply, latency = own
        return _asked(night, stage, Asked(n, asked, size, reply, latency), at_most, "this file's own averages")
    size, reply = _rendered(night, stage, run, todo, n)
    return _asked(night, stage, Asked(n, asked, size, reply), at_most, "prompts of a few features, counted")


def _unharvested(night: Night) -> list[Forecast]:
    """Where there is none: the demo dictionary's averages, for as many features as can be known."""
    n = _features(night)
    tokens = night.corpus.tokens or (590_047 if set(night.corpus.text) == {"python-docs", "themes"} else None)
    known = night.subject.model == "demo" and tokens is not None
    found = [
        Forecast(
            "harvest",
            None,
            seconds=tokens / _HARVEST if known and tokens else None,
            basis="the demo's rate on two cores" if known else "",
        )
    ]
    for stage in stages(night):
        if n is None:
            found.append(Forecast(stage.name, None, basis="how many features there are is known after the harvest"))
        elif stage.name in _OFFLINE:
            found.append(
                Forecast(
                    stage.name, n, seconds=n * _OFFLINE[stage.name], basis="the demo dictionary's rate on two cores"
                )
            )
        else:
            size, reply = _rendered(night, stage, None, (), n)
            most = stage.name == "explain" and night.explain.explainer == "cascade"
            found.append(_asked(night, stage, Asked(n, n, size, reply), most, "the demo dictionary's averages"))
    return found


def _features(night: Night) -> int | None:
    """How many features at most, as far as the file tells."""
    n = None
    if not is_condition(night.features.which) and night.features.which.strip() != "all":
        n = len(parse_features(night.features.which, 10**9) or [])
    else:
        sizes = []
        for source in located(night.recipe().subject).dictionaries:
            try:
                sizes.append(int(json.loads((Path(source) / "cfg.json").read_text())["d_sae"]))
            except (OSError, ValueError, KeyError):
                return night.features.first
        n = sum(sizes)
    return min(n, night.features.first or n) + len(night.harvest.controls) * night.features.controls


# --------------------------------------------------------------------------- what is asked


def _rendered(night: Night, stage: Stage, run: Run | None, todo: Sequence[int], n: int) -> tuple[Size, float]:
    """Calls and tokens of the prompts for one feature, and tokens of one reply."""
    if stage.name == "explain":
        one = (oneshot_size(run, todo) if run is not None else None) or _ONESHOT
        calls, times = multiple(night.explain.explainer)
        return Size(calls, one.tokens * times), _EXPLAINED
    if stage.name == "probe":
        return _WRITTEN, 300.0
    reads = stage.name == "read"
    calls = tokens = replies = 0.0
    for scorer in dict.fromkeys(one for one in night.score.scorers if one in READ):
        config = LLMScoreConfig()
        size = (read_size(run, scorer, config, todo) if run is not None else None) or Size(2.0, _OF_SCORER[scorer])
        if reads_every(night):
            size = Size(2 * size.calls, 2 * size.tokens)  # the rule's sentence, and the model's
        half = Size(size.calls / 2, size.tokens / 2)  # one split: comparisons and repeats are on `test`
        halves = 2.0 if reads else night.score.repeats + (1 + _pairs(n) if night.score.nulls else 0)
        calls += halves * half.calls
        tokens += halves * half.tokens
        replies += halves * half.calls * _REPLY[scorer]
    return Size(calls, tokens), replies / max(calls, 1.0)


def _pairs(n: int) -> float:
    """Other features' labels that are read about one feature: about 999 pairs in all; one each where 40 each would not give them."""
    return 999 / n if 40 * n >= 999 else 1.0


def multiple(explainer: str) -> tuple[float, float]:
    """Calls of an explainer, and its prompts' tokens over those of `oneshot`, as measured on the demo dictionary (docs/figures.md)."""
    name, _, n = explainer.partition(":")
    if name == "best_of":
        return 1.5 * int(n or 4), 1.52 * int(n or 4)
    if name in ("refine", "label", "cascade"):
        rounds = int(n or (1 if name == "refine" else 2))
        return 2.2 + 2.7 * rounds, 2.0 + 1.68 * rounds
    return 1.0, {"contrastive": 1.31, "logits": 1.09}.get(name, 1.0)


def depth(explainer: str) -> int:
    """Questions about a feature that wait for one another: as many batches, one after the other."""
    name, _, n = explainer.partition(":")
    if name in ("refine", "label", "cascade"):
        return 2 + 3 * int(n or (1 if name == "refine" else 2)) + 4 * (name == "cascade")
    return 2 if name == "best_of" else 1


@dataclass(frozen=True)
class Asked:
    """features of a stage, and how many of them a model is asked about; what each takes; tokens of a reply; seconds of a call."""

    features: int
    about: int
    size: Size
    reply: float
    latency: float = _SECONDS


def _asked(night: Night, stage: Stage, what: Asked, at_most: bool, basis: str) -> Forecast:
    spec = parse_spec(_spec(night, stage))
    calls = what.about * what.size.calls
    given, said = what.about * what.size.tokens, calls * what.reply
    price = find_price(spec.provider, spec.name, night.llm.prices, theirs=spec.theirs)
    usd = None if price is None else price.of(Usage(round(given), round(said)), batch=spec.batch)
    rounds = _rounds(night, stage) if in_batches(spec) else None
    known = rounds is None and spec.provider != "local"
    seconds = calls * what.latency / night.llm.concurrency if known else None
    return Forecast(stage.name, what.features, calls, given, said, usd, rounds, seconds, at_most, basis)


def _rounds(night: Night, stage: Stage) -> int:
    """Batches, one after the other."""
    if stage.name == "explain":
        return depth(night.explain.explainer)
    if stage.name == "compare":
        return night.score.nulls + (night.score.repeats > 0)
    return 2 if stage.name == "probe" else 1


def _spec(night: Night, stage: Stage) -> str:
    return (night.reader if stage.name in _READS else night.llm.writer) or ""


# --------------------------------------------------------------------------- what this file knows


def _own(night: Night, stage: Stage, run: Run) -> tuple[Size, float, float] | None:
    """Of this stage and model: calls and prompt tokens a feature, tokens a reply, seconds a call. None where too little was asked."""
    spec: Spec = parse_spec(_spec(night, stage))
    inner = f"night:{stage.name}" if stage.name in _READS else stage.marks[0]
    ((calls, given, said, seconds, features),) = run.store.sql(
        "SELECT count(*), sum(input_tokens), sum(output_tokens), avg(seconds), count(DISTINCT about) FROM llm_call c "
        "WHERE reply IS NOT NULL AND model = ? AND EXISTS (SELECT 1 FROM (SELECT stage, started, coalesce(finished, lead(started) OVER (ORDER BY started, rowid)) AS ended FROM run "
        "WHERE starts_with(stage, 'night:') = starts_with(?, 'night:')) r WHERE r.stage = ? AND c.asked_at BETWEEN epoch(r.started) AND coalesce(epoch(r.ended), 1e12))",
        [spec.name, inner, inner],
    )
    if features < _FEW or not calls:
        return None
    return Size(calls / features, (given or 0) / features), (said or 0) / calls, float(seconds)


def _own_seconds(run: Run, stage: Stage) -> float | None:
    """Seconds a feature of the last call of this stage that came to its end."""
    rows = run.store.sql(
        "SELECT epoch(any_value(r.finished)) - epoch(any_value(r.started)), count(*) FROM run r JOIN stage s USING (run_id) "
        "WHERE r.stage = ? AND r.finished IS NOT NULL GROUP BY r.run_id HAVING count(*) >= 50 ORDER BY any_value(r.started) DESC LIMIT 1",
        [stage.marks[0]],
    )
    return rows[0][0] / rows[0][1] if rows else None


# --------------------------------------------------------------------------- in words


def _unknown(night: Night, found: Sequence[Forecast]) -> list[str]:
    asks = [one for one in found if one.calls]
    said = []
    if any(one.seconds is None and one.stage == "harvest" for one in found):
        said.append("how fast the subject reads: the first pieces of the harvest tell")
    if asks:
        said.append("what a model that thinks spends on thinking, which is billed as output")
    if any(one.basis != "this file's own averages" and one.seconds is not None for one in asks):
        said.append(
            f"how fast the provider answers: {_SECONDS:g} s a call are taken, with {night.llm.concurrency} at once"
        )
    if any(one.rounds for one in asks):
        said.append("how long a batch takes: minutes to a day each")
    if any(one.at_most for one in asks):
        said.append("how many sentences are good at once: each escalated feature is taken to be refined")
    if any(one.calls and one.usd is None for one in asks):
        said.append("dollars: no price is known of this model; name a file with llm.prices")
    if any(one.stage == "probe" for one in asks):
        said.append("what the editor's texts will be: two questions a feature are taken")
    return said


def _notes(night: Night, found: Sequence[Forecast], now: datetime.datetime) -> list[str]:
    """What the limits make of it."""
    usd, tokens = sum(one.usd or 0.0 for one in found), sum((one.input or 0.0) + (one.output or 0.0) for one in found)
    seconds = sum(one.seconds or 0.0 for one in found)
    said = []
    n = max((one.features or 0 for one in found if one.rounds), default=0)
    if n and isinstance(night.features.wave, int) and n > night.features.wave:
        waves = -(-n // night.features.wave)
        said.append(
            f'features.wave = {night.features.wave}: each of {waves} waves takes these rounds of batches; wave = "all" takes them once'
        )
    if night.limits.usd is not None and usd > night.limits.usd:
        said.append(
            f"limits.usd = {night.limits.usd:g} is less than that: about {night.limits.usd / usd:.0%} of it will be done"
        )
    if night.limits.tokens is not None and tokens > night.limits.tokens:
        said.append(
            f"limits.tokens = {night.limits.tokens:,} is less than that: about {night.limits.tokens / tokens:.0%} of it will be done"
        )
    try:
        until = moment(night.limits.deadline, now)
    except UsageError:
        until = None
    if until is not None and now + datetime.timedelta(seconds=seconds) > until:
        said.append(f"the deadline of {until:%H:%M} comes before the end")
    return said
