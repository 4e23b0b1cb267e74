"""The stages of a night, in order, each a plain call of the pipeline; and which features each has still to deal with.

    rules       the lexical explainer: a baseline for whatever else is asked, and it costs nothing
    edits       the mechanical editor on the rules
    rule        scores of the rules, with their comparisons
    explain     the explainer that asks a language model
    probe       the editor with a language model, on the labels that stand then
    read        scores of labels by a language model that reads them
    embedding   scores of labels by a sentence encoder
    compare     what was read beside labels of other features, and drawn again

The first three are about rules, and of all features at once. `explain`, `probe` and `read` ask a provider, and go through the
features in waves (waves.py). What is said of a feature there follows from that feature alone, so rows are the same however large a
wave is; base rates of `probe`, which are over all features, are reckoned anew after each. The last two are of all labels together:
which labels a feature is compared with depends on who has one, so comparisons come when all were read, and are made of all or none.

A feature is done where the last word about it was said under the same settings: those of the stage, and who writes and reads.
What was said under others is done anew. Each call of a stage is a row `night:NAME` of `run`, whose digest says the settings;
the rows that the stage itself writes belong to the one in whose time they began. Where the same came out under new settings the
stage writes no new row, so it is restated here when the stage is through.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import glossator
from glossator import pipeline
from glossator.agents.explainers.explaining import stage_of as explain_stage
from glossator.agents.explainers.named import name_of
from glossator.agents.run import Run
from glossator.agents.scoring.read_before import labels_of
from glossator.agents.scoring.scenes import METRICS
from glossator.agents.scoring.scenes import SCORERS as READ
from glossator.agents.scoring.score_llm import stage_of as score_stage
from glossator.arguments import EMBEDDING, explainer_config
from glossator.config import EditorConfig, EmbeddingConfig, LexicalConfig, LLMScoreConfig, Night, ScoreConfig
from glossator.config.base import Config
from glossator.llm.base import Address
from glossator.llm.spec import parse_spec
from glossator.store.store import Store
from glossator.types import content_id

RULE = "rule"
FIRST, WAVES, LAST = "first", "waves", "last"
SCORERS = (RULE, EMBEDDING, *READ)
_PREFIX = "night:"


@dataclass(frozen=True)
class Stage:
    """marks: how rows of `stage` call it. asked: who is asked, which is part of its settings. when: `first`, in `waves`, or `last`.

    whole: its work is one piece, and where that was stopped all of it is done. together: it is of all features, or of none.
    unread: features that are to be dealt with again whatever is marked, since a label has come. needless: how many of the
    marks a feature will never have. ignored: settings of its config that are another stage's.
    """

    name: str
    marks: tuple[str, ...]
    config: Config
    work: Callable[[Run, Sequence[int]], object]
    asked: tuple[str, ...] = ()
    when: str = FIRST
    whole: bool = False
    together: bool = False
    unread: Callable[[Run, Sequence[int]], set[int]] = lambda run, features: set()
    needless: Callable[[Run, Sequence[int]], Mapping[int, int]] = lambda run, features: {}
    ignored: frozenset[str] = frozenset()

    @property
    def settings(self) -> dict[str, Any]:
        return {"config": self.config.model_dump(mode="json"), "asked": list(self.asked)}

    @property
    def digest(self) -> str:
        return content_id(self.config.digest(), self.asked)


def stages(night: Night) -> list[Stage]:
    """Those that this night has, in order."""
    found = [Stage("rules", ("explain",), LexicalConfig(), lambda run, f: pipeline.explain(run, LexicalConfig(), f))]
    if night.probe.by == "rules":
        editor = EditorConfig()
        found.append(Stage("edits", ("probe",), editor, lambda run, f: pipeline.probe(run, editor, f)))
    if RULE in night.score.scorers:
        scoring = ScoreConfig()
        found.append(Stage(RULE, ("score",), scoring, lambda run, f: pipeline.score(run, scoring, f), whole=True))
    found += [*_explain(night), *_probe(night), *_read(night)]
    if EMBEDDING in night.score.scorers:
        found.append(_embedding(night))
    return found + _compare(night)


def asks_a_model(night: Night) -> list[str]:
    """The keys of a night that need a language model."""
    asks = [] if night.explain.explainer.strip() == "lexical" else ["explain.explainer"]
    asks += ["probe.by"] * (night.probe.by == "llm")
    return asks + ["score.scorers"] * bool(set(night.score.scorers) & set(READ))


def _explain(night: Night) -> list[Stage]:
    config, writer = explainer_config(night.explain.explainer), night.llm.writer
    if config is None or writer is None:
        return []
    asking, reader = night.asking(), night.llm.reader

    def work(run: Run, features: Sequence[int]) -> str:
        return pipeline.explain_by_llm(run, writer, asking, config, features, reader=reader)

    return [Stage("explain", (explain_stage(name_of(config)),), config, work, _who(night, writer, reader), WAVES)]


def _probe(night: Night) -> list[Stage]:
    writer, asking, reader = night.llm.writer, night.asking(), night.llm.reader
    if night.probe.by != "llm" or writer is None:
        return []
    from glossator.agents.editor.probe_llm import left_to_probe  # with torch
    from glossator.agents.editor.probe_llm import stage_of as probe_stage

    editor, name = EditorConfig(), _name(reader or writer)

    def work(run: Run, features: Sequence[int]) -> str:
        return pipeline.probe_by_llm(run, writer, asking, editor, features, reader=reader)

    def unread(run: Run, features: Sequence[int]) -> set[int]:
        return set(left_to_probe(run, name, None)) & set(labels_of(run, features))

    return [Stage("probe", (probe_stage(name),), editor, work, _who(night, writer, reader), WAVES, unread=unread)]


def _embedding(night: Night) -> Stage:
    config, folder = EmbeddingConfig(), Path(night.score.embedder) if night.score.embedder else None

    def work(run: Run, features: Sequence[int]) -> str:
        return pipeline.score_by_embedding(run, folder, config, features)

    def unread(run: Run, features: Sequence[int]) -> set[int]:
        return set(labels_of(run, features, unread=(EMBEDDING, (EMBEDDING,))))

    return Stage("embedding", ("score:embedding",), config, work, (str(folder),), LAST, whole=True, unread=unread)


def _read(night: Night) -> list[Stage]:
    scorers, reader, every = _scorers(night), night.reader, reads_every(night)
    if not scorers or reader is None:
        return []
    config, asking, predictor = LLMScoreConfig(nulls=False), night.asking(), f"llm:{_name(reader)}"

    def work(run: Run, features: Sequence[int]) -> str:
        return pipeline.score_by_llm(run, reader, asking, config, scorers, features, every=every)

    def unread(run: Run, features: Sequence[int]) -> set[int]:
        return {f for s in scorers for f in labels_of(run, features, every=every, unread=(predictor, METRICS[s]))}

    marks = tuple(score_stage(one, predictor) for one in scorers)
    others = frozenset({"nulls", "repeats"})
    return [Stage("read", marks, config, work, _who(night, reader), WAVES, unread=unread, ignored=others)]


def _compare(night: Night) -> list[Stage]:
    """What is made of all that was read. Nothing is left of a feature that was read and has no score."""
    scorers, reader, every = _scorers(night), night.reader, reads_every(night)
    config, asking = LLMScoreConfig(nulls=night.score.nulls, repeats=night.score.repeats), night.asking()
    if not scorers or reader is None or not (config.nulls or config.repeats):
        return []
    predictor = f"llm:{_name(reader)}"
    draws = [*([0] if config.nulls else []), *range(1, config.repeats + 1)]

    def mark(scorer: str, draw: int) -> str:
        return score_stage(scorer, predictor, None, draw) if draw else score_stage(scorer, f"{predictor}:nulls")

    def work(run: Run, features: Sequence[int]) -> str:
        return pipeline.compare_by_llm(run, reader, asking, config, scorers, features, every=every)

    def unread(run: Run, features: Sequence[int]) -> set[int]:
        """Those with a score that was compared with nothing: it came since."""
        rows = run.store.sql(
            "SELECT DISTINCT s.feature FROM score s JOIN explanation e USING (explanation_id) WHERE s.dictionary = ? AND s.predictor = ? "
            "AND s.metric IN (SELECT unnest(?::VARCHAR[])) AND s.split = 'test' AND s.value IS NOT NULL AND NOT starts_with(e.explainer, 'imported:') "
            "AND ? AND NOT EXISTS (SELECT 1 FROM null_score n WHERE n.explanation_id = s.explanation_id AND n.predictor = s.predictor "
            "AND n.metric = s.metric AND n.comparison = 'permuted')",
            [run.dictionary, predictor, [METRICS[one][0] for one in scorers], config.nulls],
        )
        return {feature for (feature,) in rows} & set(features)

    def needless(run: Run, features: Sequence[int]) -> Counter[int]:
        found: Counter[int] = Counter()
        for scorer in scorers:
            read = run.store.sql(
                "SELECT DISTINCT feature FROM stage WHERE dictionary = ? AND stage = ? EXCEPT SELECT feature FROM score "
                "WHERE dictionary = ? AND predictor = ? AND metric = ? AND split = 'test' AND value IS NOT NULL",
                [run.dictionary, score_stage(scorer, predictor), run.dictionary, predictor, METRICS[scorer][0]],
            )
            found.update({feature: len(draws) for (feature,) in read})
        return found

    marks = tuple(mark(scorer, draw) for scorer in scorers for draw in draws)
    return [
        Stage("compare", marks, config, work, _who(night, reader), LAST, whole=True, together=True, unread=unread, needless=needless)
    ]  # fmt: skip


def _scorers(night: Night) -> list[str]:
    return list(dict.fromkeys(one for one in night.score.scorers if one in READ))


def reads_every(night: Night) -> bool:
    """Whether rules and sentences are both read. Explainers that weigh no candidates leave sentences without a score on `select`,
    and what has none never becomes the label."""
    return night.explain.explainer.strip() in ("oneshot", "contrastive", "logits")


def _who(night: Night, *specs: str | None) -> tuple[str, ...]:
    """Who is asked, as rows name it, and how hard they are to think: another one's answers are other answers."""
    named = tuple(_name(spec) for spec in specs if spec is not None)
    return (*named, night.llm.effort) if night.llm.effort else named


def _name(spec: str) -> str:
    asked = parse_spec(spec)
    model = (asked.name.rpartition("@")[0] or "model") if asked.provider == "files" else asked.name
    return str(Address(asked.provider, asked.host, model))


# --------------------------------------------------------------------------- what is left


@dataclass(frozen=True)
class Left:
    """Of the chosen features: done under these settings; done under others, so to be done anew; not done yet. todo keeps their order."""

    stands: int
    anew: int
    fresh: int
    todo: tuple[int, ...]
    changed: str = ""  # what is different, in words


_LATEST = """
WITH calls AS (SELECT run_id, stage, config, started, coalesce(finished, lead(started) OVER (ORDER BY started, rowid), 'infinity'::TIMESTAMP) AS ended
               FROM run WHERE starts_with(stage, 'night:')),
     latest AS (SELECT feature, arg_max(status, s.rowid) AS status, arg_max(run_id, s.rowid) AS run_id FROM stage s WHERE dictionary = ? AND stage = ? GROUP BY feature)
SELECT l.feature, l.status, r.config, c.config FROM latest l LEFT JOIN run r USING (run_id)
LEFT JOIN calls c ON c.stage = ? AND (c.run_id = r.run_id OR r.started BETWEEN c.started AND c.ended)
QUALIFY row_number() OVER (PARTITION BY l.feature ORDER BY c.started DESC) = 1
"""


def left(run: Run, stage: Stage, chosen: Sequence[int]) -> Left:
    """What a stage has still to do on this dictionary. Failed features are tried again: from the log, where they were asked."""
    marked: dict[int, int] = {}
    others: set[int] = set()
    was: dict[str, Any] | None = None
    for mark in stage.marks:
        for feature, status, config, settings in run.store.sql(_LATEST, [run.dictionary, mark, _PREFIX + stage.name]):
            same = _same(stage, json.loads(settings)) if settings is not None else _by_hand(run, stage, config)
            if same and status != "failed":
                marked[feature] = marked.get(feature, 0) + 1
            elif not same and status != "failed":
                others.add(feature)
                was = json.loads(settings) if settings is not None else was
    for feature, n in stage.needless(run, chosen).items():
        marked[feature] = marked.get(feature, 0) + n
    done = {feature for feature, n in marked.items() if n >= len(stage.marks)}
    done -= stage.unread(run, chosen)
    todo = tuple(f for f in chosen if f not in done)
    if (stage.whole and not _through(run, stage)) or (stage.together and todo):
        todo = tuple(chosen)  # some may be marked, but what is made of all together was not made
    anew = len(others.intersection(todo))
    return Left(len(chosen) - len(todo), anew, len(todo) - anew, todo, _difference(was, stage.settings) if anew else "")


def _by_hand(run: Run, stage: Stage, config: str | None) -> bool:
    """Whether what was done by another command was done under these settings, as far as rows tell."""
    if config is None or not _same(stage, {"config": json.loads(config)[0], "asked": list(stage.asked)}):
        return False
    if stage.name != "explain":
        return True  # no model is asked, or its name is in the mark
    rows = run.store.sql(
        "SELECT DISTINCT model FROM explanation WHERE dictionary = ? AND explainer = ? AND model IS NOT NULL",
        [run.dictionary, stage.marks[0].partition(":")[2]],
    )
    return {model for (model,) in rows} <= {stage.asked[0]}


def _through(run: Run, stage: Stage) -> bool:
    """Whether the last call of a stage on this dictionary under these settings came to its end; by hand counts where there was none."""
    rows = run.store.sql(
        "SELECT config, finished FROM run WHERE stage = ? ORDER BY started DESC", [_PREFIX + stage.name]
    )
    calls = [(json.loads(config), finished) for config, finished in rows]
    mine = [one for one in calls if one[0].get("dictionary", run.dictionary) == run.dictionary]
    return next((finished is not None for settings, finished in mine if _same(stage, settings)), True)


def torn(store: Store) -> bool:
    """Whether anything of this file was begun and never came to its end."""
    return bool(store.sql("SELECT 1 FROM run WHERE finished IS NULL LIMIT 1"))


def _same(stage: Stage, was: dict[str, Any]) -> bool:
    """Whether these are a stage's settings. What an earlier version did not know of counts as what is usual now."""
    try:
        config = type(stage.config).model_validate(was["config"]).model_dump(mode="json")
    except (ValidationError, KeyError):
        return False
    mine, ignored = stage.settings["config"], stage.ignored
    return bool(_bare(config, ignored) == _bare(mine, ignored) and was.get("asked") == list(stage.asked))


def _bare(config: Any, ignored: frozenset[str]) -> Any:
    """Settings that change what is asked: not whether it is asked all at once."""
    if isinstance(config, dict):
        return {key: _bare(value, ignored) for key, value in config.items() if key != "together" and key not in ignored}
    return config


def _difference(was: dict[str, Any] | None, now: dict[str, Any]) -> str:
    """Which settings are others, in words."""
    if was is None:
        return "it was done with other settings, by another command"
    before, after = (dict(_flat(one)) for one in ({k: v for k, v in was.items() if k != "dictionary"}, now))
    said = [
        f"{key.removeprefix('config.')} {before.get(key)} -> {after.get(key)}"
        for key in after | before
        if before.get(key) != after.get(key)
    ]
    return ", ".join(said)


def _flat(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _flat(value, f"{at}.{key}" if at else key)
    else:
        yield at, json.dumps(tree)


# --------------------------------------------------------------------------- one call


@contextmanager
def called(run: Run, stage: Stage, todo: Sequence[int]) -> Iterator[None]:
    """The row in `run` around a call of a stage. It has no end where the call was stopped."""
    started = datetime.datetime.now(datetime.UTC)
    settings = json.dumps(stage.settings | {"dictionary": run.dictionary}, sort_keys=True)
    run_id = content_id(stage.name, settings, run.dictionary, started.isoformat())
    run.store.execute(
        "INSERT INTO run (run_id, stage, config, config_digest, version, started) VALUES (?, ?, ?, ?, ?, ?)",
        [run_id, _PREFIX + stage.name, settings, stage.digest, glossator.__version__, started],
    )
    yield
    _restate(run, stage, todo, run_id)
    run.store.execute("UPDATE run SET finished = ? WHERE run_id = ?", [datetime.datetime.now(datetime.UTC), run_id])


def _restate(run: Run, stage: Stage, todo: Sequence[int], run_id: str) -> None:
    """The last word about features of which nothing new was written, as said in this call."""
    for mark in stage.marks:
        run.store.execute(
            "INSERT INTO stage (dictionary, feature, stage, status, reason, run_id) "
            "WITH latest AS (SELECT feature, arg_max(status, rowid) AS status, arg_max(reason, rowid) AS reason, arg_max(run_id, rowid) AS run_id "
            "FROM stage WHERE dictionary = ? AND stage = ? AND feature IN (SELECT unnest(?::INTEGER[])) GROUP BY feature) "
            "SELECT ?, feature, ?, status, reason, ? FROM latest l JOIN run r USING (run_id) "
            "WHERE status <> 'failed' AND r.started < (SELECT started FROM run WHERE run_id = ?) ORDER BY feature",
            [run.dictionary, mark, list(todo), run.dictionary, mark, run_id, run_id],
        )
