"""Whatever is wrong with a run file that can be known before anything is started: all of it at once, each with its line.

The form of the file was judged when it was read (config/night.py). Here the values are: whether files are there, names are known,
keys are set, prices are known for a budget, a condition can be asked, and whether the run file's harvest is the one that is
asked for. What only a network or a loaded model can tell is not tried.
"""

from __future__ import annotations

import datetime
import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from glossator.agents.run import Run
from glossator.arguments import EMBEDDING, explainer_config, scoring_config
from glossator.config import CONTROLS, NEAR_BY, CorpusConfig, Mistake, Night, Written, check_controls
from glossator.config.harvest import located
from glossator.errors import GlossatorError, UsageError
from glossator.llm.opening import known_price
from glossator.llm.secrets import KEYS
from glossator.llm.spec import Spec, parse_spec
from glossator.night.choosing import candidates, check_which, prompts_in
from glossator.night.deadline import moment
from glossator.night.stages import SCORERS, asks_a_model
from glossator.store.reading import open_for_reading
from glossator.store.records import dictionaries, the_dictionary
from glossator.store.store import Store

_TEXTS = ("python-docs", "themes")
Say = Callable[[str, str], None]  # which key, what is wrong with it


def harvested(night: Night, tell: Callable[[str], None] = lambda line: None) -> bool:
    """Whether the run file is there and holds a harvest. Raises StoreError where it cannot be opened. tell: how old a snapshot is."""
    if not Path(night.run).is_file():
        return False
    with open_for_reading(night.run, tell) as store:
        return bool(dictionaries(store))


def mistakes(
    written: Written, now: datetime.datetime, tell: Callable[[str], None] = lambda line: None, *, asks: bool = True
) -> list[Mistake]:
    """All that is wrong, beside what was wrong with the form. Raises StoreError for a run file that cannot be opened.

    asks: whether anybody will be asked; else it does not matter that a key is missing.
    """
    night = written.night.located(written.path.parent)
    found: list[Mistake] = []

    def say(key: str, message: str) -> None:
        if written.readable(key):
            found.append(written.mistake(key, message))

    for key, message in _odd_names(written.night):
        say(key, message)
    for check in (_files, _subject, _corpus, _kinds, _features, _models, _money):
        check(night, say)
    if asks:
        _keys(night, say)
    _not_overwritten(night, written.path, say)
    try:
        moment(night.limits.deadline, now)
    except UsageError as error:
        say("limits.deadline", str(error))
    if night.run and harvested(night, tell):
        with open_for_reading(night.run) as store:
            _against(store, night, say)
    else:
        _needed(night, say)
    return found


def _needed(night: Night, say: Say) -> None:
    """A harvest needs these; a run file that holds one has them."""
    if not night.subject.model:
        say("subject.model", 'is missing: name a model, such as model = "demo"')
    if not night.subject.dictionaries:
        say("subject.dictionaries", 'is missing: name at least one, such as dictionaries = ["demo"]')
    if not night.corpus.text:
        say("corpus.text", 'is missing: name some text, such as text = ["python-docs", "themes"]')


def _files(night: Night, say: Say) -> None:
    if not night.run:
        say("run", 'is missing: name the run file to write, such as run = "demo.duckdb"')
    elif not Path(night.run).parent.is_dir():
        say("run", f"there is no folder {Path(night.run).parent}; make it first")
    elif Path(night.run).is_dir():
        say("run", f"{night.run} is a folder; name a file")
    if night.report and not Path(night.report).parent.is_dir():
        say("report", f"there is no folder {Path(night.report).parent}; make it first")
    elif night.report and Path(night.report).is_dir():
        say("report", f"{night.report} is a folder; name a file")
    if night.score.embedder and not Path(night.score.embedder).is_dir():
        say("score.embedder", f"{night.score.embedder}: no such folder")
    if night.llm.prices and not Path(night.llm.prices).is_file():
        say("llm.prices", f"{night.llm.prices}: no such file")


def _odd_names(night: Night) -> list[tuple[str, str]]:
    """Names that no file can have, and empty ones, which would mean this folder."""
    several = {
        "subject.dictionaries": night.subject.dictionaries,
        "subject.hooks": night.subject.hooks,
        "corpus.text": night.corpus.text,
    }
    one = {
        "run": night.run,
        "report": night.report,
        "subject.model": night.subject.model,
        "features.active_on": night.features.active_on,
        "score.embedder": night.score.embedder,
        "llm.prices": night.llm.prices,
        "llm.writer": night.llm.writer,
        "llm.reader": night.llm.reader,
    }
    odd = [(key, text) for key, texts in several.items() for text in texts] + [
        (k, text) for k, text in one.items() if text
    ]
    return [(key, "holds the character NUL, which no name can") for key, text in odd if "\0" in text] + [
        (key, "holds an empty name; leave it out") for key, texts in several.items() if not all(map(str.strip, texts))
    ]


def _not_overwritten(night: Night, path: Path, say: Say) -> None:
    """The report takes the place of whatever has its name: it must not be what the night is made of."""
    if not night.report:
        return
    others = {
        "the run file": night.run,
        "this file": str(path),
        "the file of prompts": night.features.active_on,
        "the file of prices": night.llm.prices,
    }
    others |= {f"the text {one}": one for one in night.corpus.text}
    for what, other in others.items():
        if other and "\0" not in other + night.report and os.path.realpath(other) == os.path.realpath(night.report):
            say("report", f"is {what}, which it would overwrite; name another file")


def _path_like(text: str) -> bool:
    return text.startswith((".", "~", os.sep)) or text.count("/") > 1


def _subject(night: Night, say: Say) -> None:
    model, names, hooks = night.subject.model, night.subject.dictionaries, night.subject.hooks
    if _path_like(model) and not Path(model).expanduser().exists():
        say("subject.model", f"{model}: no such folder")
    for one in names:
        if (
            one not in ("demo", "neurons")
            and (_path_like(one) or ":" not in one)
            and not Path(one).expanduser().exists()
        ):
            say("subject.dictionaries", f"{one}: no such folder; write a folder, RELEASE:SAE_ID, neurons, or demo")
    if len(hooks) not in (0, 1, len(names)):
        say("subject.hooks", f"{len(hooks)} hooks for {len(names)} dictionaries: one for each, one for all, or none")


def _corpus(night: Night, say: Say) -> None:
    for one in night.corpus.text:
        if one not in _TEXTS and not one.startswith("hf:") and not Path(one).expanduser().exists():
            said = f"{one}: no such file or folder{_nearest(one, _TEXTS)}"
            say("corpus.text", f"{said} (built-in: {', '.join(_TEXTS)}; data sets: hf:NAME)")


def _kinds(night: Night, say: Say) -> None:
    for key, given, known in (
        ("harvest.near_misses", night.harvest.near_misses, NEAR_BY),
        ("harvest.controls", night.harvest.controls, CONTROLS),
        ("score.scorers", night.score.scorers, SCORERS),
    ):
        for one in given:
            if one not in known:
                say(key, f"{one}: no such kind{_nearest(one, known)}; known are {', '.join(known)}")
    if not set(night.harvest.controls) - set(CONTROLS):
        for error in _raised(check_controls, night.harvest.controls, night.subject.dictionaries):
            say("harvest.controls", _plain(error))
    for error in _raised(explainer_config, night.explain.explainer):
        say("explain.explainer", _plain(error))
    if night.score.embedder and EMBEDDING not in night.score.scorers:
        say("score.embedder", f"only the scorer {EMBEDDING} reads it; add it to scorers, or leave it out")


def _features(night: Night, say: Say) -> None:
    for error in _raised(check_which, night.features.which):
        say("features.which", f"{night.features.which}: {error}")
    if night.features.active_on:
        for error in _raised(prompts_in, Path(night.features.active_on)):
            say("features.active_on", str(error))


def _models(night: Night, say: Say) -> None:
    """Who is asked, and whether anybody can be."""
    for who in asks_a_model(night):
        needs = night.llm.writer if who in ("explain.explainer", "probe.by") else night.reader
        if needs is None:
            say("llm.writer", f'{who} asks a language model: name it, such as writer = "openai:gpt-6-luna"')
            break
    for key, text in _named(night):
        for wrong in _raised(parse_spec, text):
            say(key, _plain(wrong))
    for key, spec in _specs(night):
        if spec.provider == "local" and not Path(spec.name).expanduser().exists():
            say(key, f"{spec.name}: no such folder")
    if night.llm.effort is not None:
        for error in _raised(_check_effort, night.llm.effort):
            say("llm.effort", _plain(error))


def _keys(night: Night, say: Say) -> None:
    for key, spec in _specs(night):
        if spec.theirs and not os.environ.get(KEYS[spec.provider], "").strip():
            say(key, f"{spec.provider}: no key; set the environment variable {KEYS[spec.provider]}")


def _named(night: Night) -> list[tuple[str, str]]:
    """Who is asked, as it is written, by key of the file."""
    named = {"llm.writer": night.llm.writer, "llm.reader": night.llm.reader}
    return [(key, text) for key, text in named.items() if text is not None]


def _specs(night: Night) -> list[tuple[str, Spec]]:
    """The same as they are meant, without those that mean nothing."""
    return [(key, parse_spec(text)) for key, text in _named(night) if not _raised(parse_spec, text)]


def _check_effort(effort: str) -> None:
    scoring_config((), "any", {"effort": effort}, others={})


def _money(night: Night, say: Say) -> None:
    """A budget in dollars needs prices."""
    asking = night.asking()
    for spec in dict.fromkeys(spec for _, spec in _specs(night)):
        if night.llm.prices and not Path(night.llm.prices).is_file():
            asking = asking.model_copy(update={"prices": None})
        for error in _raised(known_price, spec, asking):
            priced = str(error).startswith("--budget-usd")
            say(
                "limits.usd" if priced else "llm.prices",
                _plain(error).replace("--prices", "llm.prices").replace("--budget-tokens", "limits.tokens"),
            )


def _against(store: Store, night: Night, say: Say) -> None:
    """What the run file holds: its harvest must be the one that is asked for, and hold features that are."""
    way_out = f"{night.run} holds another harvest, which cannot be changed; name another file under run, or put back"
    ((sources,),) = store.sql("SELECT sources FROM corpus LIMIT 1")
    if night.corpus.text and not _same(night.corpus.text, sources):
        say("corpus.text", f"{way_out} {json.dumps(list(sources))}")
    kept = dict(store.sql("SELECT key, value FROM manifest"))
    was = CorpusConfig.model_validate_json(kept["CorpusConfig"]) if "CorpusConfig" in kept else CorpusConfig()
    for key in ("tokens", "context_size"):
        if (asked := getattr(night.corpus, key)) != (had := getattr(was, key)) and night.corpus.text:
            say(f"corpus.{key}", f"{way_out} {had if had is not None else f'what it was: none, instead of {asked}'}")
    near = tuple(json.loads(kept.get("HarvestConfig", "{}")).get("near_by", ()))
    if near and night.subject.model and set(near) != set(night.harvest.near_misses):
        say("harvest.near_misses", f"{way_out} {json.dumps(near)}")
    rows = store.sql(
        "SELECT dictionary, source, architecture, control, model, identity FROM dictionary ORDER BY dictionary"
    )
    _same_subject(rows, night, way_out, say)
    _any_feature(store, night, say)


def _same_subject(rows: Sequence[tuple[str, ...]], night: Night, way_out: str, say: Say) -> None:
    real, controls = [row for row in rows if row[3] is None], {row[3] for row in rows if row[3] is not None}
    if night.subject.dictionaries:
        hooks = [None] * len(night.subject.dictionaries)
        asked = (
            located(night.recipe().subject.model_copy(update={"hooks": tuple(hooks), "model": "any"})).dictionaries
            if _can(night)
            else ()
        )
        had = {_last(source) for _, source, *_ in real} | {architecture for _, _, architecture, *_ in real}
        if asked and (len(asked) != len(real) or not {_last(one) for one in asked} <= had):
            say("subject.dictionaries", f"{way_out} {', '.join(source for _, source, *_ in real)}")
    if night.subject.model and night.subject.model != "demo":
        stored = json.loads(real[0][5])["subject"] if real else {}
        if stored and _last(night.subject.model) not in (_last(stored.get("path") or ""), _last(stored["model"])):
            say("subject.model", f"{way_out} {stored['model']}")
    if night.subject.model and set(night.harvest.controls) != controls:
        say("harvest.controls", f"{way_out} {json.dumps(sorted(controls))}")


def _can(night: Night) -> bool:
    return not _raised(night.recipe)


def _any_feature(store: Store, night: Night, say: Say) -> None:
    """Whether anything is chosen in any dictionary; only what can be asked without a model."""
    if _raised(check_which, night.features.which):
        return
    real = [
        name for (name,) in store.sql("SELECT dictionary FROM dictionary WHERE control IS NULL ORDER BY dictionary")
    ]
    said = []
    for name in real:
        run = Run(store, the_dictionary(store, name))
        try:
            if candidates(store, name, night.features.which, run.poles):
                return
            said.append(f"matches no feature of {name} that was ever active")
        except UsageError as error:
            said.append(str(error))
    say("features.which", f"{night.features.which}: {'; '.join(dict.fromkeys(said))}")


def _same(asked: Sequence[str], stored: Sequence[str]) -> bool:
    return [_last(one) for one in asked] == [_last(one) for one in stored]


def _last(source: str) -> str:
    """What a source is called, wherever it lies."""
    return source if source.startswith("hf:") else Path(source.rstrip("/")).name


def _nearest(text: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(text, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _raised(what: Callable[..., object], *given: object) -> list[UsageError]:
    try:
        what(*given)
    except UsageError as error:
        return [error]
    return []


def _plain(error: GlossatorError) -> str:
    """An error about a flag, without the flag."""
    flag, colon, rest = str(error).partition(": ")
    return rest if colon and flag.startswith("--") else str(error)
