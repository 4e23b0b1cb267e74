"""The one page that reads top to bottom: harvest -> explain -> probe -> score -> report.

Each stage reads what is pending from the run file, works, and writes rows; running again goes on where it stopped.
Stages are plain functions of an open `Run`; `label` joins explain, probe and score. Imports of torch happen inside the
stages that need a model, so that queries stay fast.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import glossator
from glossator.config import CorpusConfig, EditorConfig, HarvestConfig, LexicalConfig, ScoreConfig, SubjectConfig
from glossator.errors import StoreError, UsageError
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import FeatureRecord, Split, content_id

if TYPE_CHECKING:
    from glossator.harness.dictionary import SaeDictionary
    from glossator.harness.subject import HFSubject

Progress = Callable[[str, int, int], None]  # what, done, total
Say = Callable[[str], None]


def _silent(*_: object) -> None:
    return


class Run:
    """An open run file with one dictionary in hand, and what its stages share, made when first needed."""

    def __init__(self, store: Store, dictionary: str | None = None, progress: Progress = _silent, say: Say = _silent) -> None:
        self.store, self.progress, self.say = store, progress, say
        self.dictionary = reading.the_dictionary(store, dictionary)

    @cached_property
    def lexicon(self) -> Any:
        from glossator.scorers.rule import Lexicon

        return Lexicon(reading.vocabulary(self.store))

    @cached_property
    def counts(self) -> Any:
        """[V] how often each token stands in the split explain."""
        return self.store.arrow("SELECT n_explain FROM token ORDER BY token_id")["n_explain"].to_numpy()

    @cached_property
    def neighbours(self) -> Any:
        """[V, 8] nearest tokens in the subject's embedding, -1 where the corpus lacks the token."""
        out = np.full((len(self.counts), 8), -1)
        for token, near in self.store.sql("SELECT token_id, neighbours FROM token_neighbour"):
            out[token, : len(near)] = near
        return out

    @cached_property
    def behind(self) -> dict[Split, reading.Background]:
        return reading.background(self.store, self.dictionary)

    def records(self, features: Sequence[int]) -> Iterator[FeatureRecord]:
        return reading.records(self.store, self.dictionary, features, self.behind)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Subject and dictionary, as the harvest stored them."""
        found: dict[str, Any] = json.loads(
            self.store.sql("SELECT identity FROM dictionary WHERE dictionary = ?", [self.dictionary])[0][0]
        )
        return found

    def model(self) -> tuple[HFSubject, SaeDictionary]:
        """Load subject and dictionary again; they must be the ones that were harvested."""
        from glossator.harness.dictionary import SaeDictionary
        from glossator.harness.subject import HFSubject

        stored = self.identity["subject"]
        subject = HFSubject(stored["path"], stored["hook"], context_size=stored["context_size"])
        dictionary = SaeDictionary(self.identity["dictionary"]["source"])
        if subject.identity()["weights"] != stored["weights"] or dictionary.identity()["weights"] != self.identity["dictionary"]["weights"]:
            raise UsageError(f"{self.store.path}: the model or dictionary on disk is not the one that was harvested; harvest again")
        return subject, dictionary

    @contextmanager
    def stage(self, name: str, *configs: Any) -> Iterator[str]:
        """A row in `run` around a stage; yields the run id."""
        config = json.dumps([c.model_dump(mode="json") for c in configs], sort_keys=True)
        started = datetime.datetime.now(datetime.UTC)
        run_id = content_id(name, config, started.isoformat())
        insert = "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, NULL)"
        self.store.execute(insert, [run_id, name, config, content_id(config), glossator.__version__, started])
        yield run_id
        self.store.execute("UPDATE run SET finished = ? WHERE run_id = ?", [datetime.datetime.now(datetime.UTC), run_id])

    def chosen(self, features: Sequence[int] | None, stage: str) -> list[int]:
        """What this stage has to do: all that is pending, or the asked-for features whatever was done before."""
        if features is None:
            return self.store.pending(stage, self.dictionary)
        reading.check_features(self.store, self.dictionary, features)
        return list(features)


# --------------------------------------------------------------------------- harvest


def harvest(
    path: Path, what: SubjectConfig, corpus_config: CorpusConfig, config: HarvestConfig, progress: Progress = _silent, say: Say = _silent
) -> None:
    """Read the corpus through the subject and the dictionary once, and write what was found. Raises on wrong input, before the pass."""
    from glossator.harness.contexts import prepare
    from glossator.harness.corpus import read_corpus
    from glossator.harness.dictionary import SaeDictionary, check_width
    from glossator.harness.harvest import harvest as pass_over
    from glossator.harness.harvest import loading_check
    from glossator.harness.subject import HFSubject
    from glossator.harness.tables import harvest_tables

    with Store(path) as store:  # a run file that cannot be used is found out before the work
        if reading.dictionaries(store):
            raise StoreError(f"{path}: holds a harvest already; name another file")
        subject = HFSubject(what.model, what.hook, context_size=corpus_config.context_size, device=config.device)
        dictionary = SaeDictionary(what.dictionary, device=config.device)
        check_width(dictionary, subject.d_hook, what.hook)
        size = subject.context_size - len(subject.prefix) - len(subject.suffix)
        corpus = prepare(read_corpus(what.corpus), subject.tokenize, size, corpus_config)
        say(f"corpus: {len(corpus.tokens):,} tokens in {len(corpus.names):,} documents, {len(corpus.window_start):,} windows")
        check = loading_check(subject, dictionary, corpus, config)
        say(f"dictionary: {dictionary.n_features:,} features at {what.hook}, {check.summary}")
        for warning in check.warnings:
            say(f"WARNING: {dictionary.name}: {warning}")
        folder = path.with_suffix(path.suffix + ".harvest")
        found = pass_over(subject, dictionary, corpus, config, folder, lambda done, total: progress("harvest", done, total))
        store.put_tables(harvest_tables(subject, dictionary, corpus, list(what.corpus), found, check, config))
        materialise_labels(store)
        shutil.rmtree(folder, ignore_errors=True)


# --------------------------------------------------------------------------- explain, probe, score


def explain(run: Run, config: LexicalConfig, features: Sequence[int] | None = None) -> int:
    """Give features a lexical rule and its sentence, or an abstention. Returns how many were dealt with."""
    from glossator.agents.explain import explain_all

    todo = run.chosen(features, "explain")
    if todo:
        with run.stage("explain", config) as run_id:
            explain_all(run, todo, config, run_id)
        materialise_labels(run.store)
    return len(todo)


def probe(run: Run, config: EditorConfig, features: Sequence[int] | None = None) -> int:
    """Run the editor on labelled features. Returns how many were dealt with."""
    from glossator.agents.probe import probe_all

    todo = run.chosen(features, "probe")
    if todo:
        with run.stage("probe", config) as run_id:
            asyncio.run(probe_all(run, todo, config, run_id))
        materialise_labels(run.store)
    return len(todo)


def score(run: Run, config: ScoreConfig, features: Sequence[int] | None = None) -> int:
    """Score the labels of features on `test`, against their nulls. Returns how many were dealt with."""
    from glossator.agents.score import score_all

    todo = run.chosen(features, "score")
    if todo:
        with run.stage("score", config) as run_id:
            score_all(run, todo, config, run_id)
        materialise_labels(run.store, config.q)
    return len(todo)


def label(
    run: Run, lexical: LexicalConfig, editor: EditorConfig, scoring: ScoreConfig, features: Sequence[int] | None = None
) -> dict[str, int]:
    """explain, probe and score: how many features each stage dealt with."""
    return {
        "explain": explain(run, lexical, features),
        "probe": probe(run, editor, features),
        "score": score(run, scoring, features),
    }


def demo(path: Path, progress: Progress = _silent, say: Say = _silent) -> None:
    """The whole job on the built-in subject: a harvest if there is none yet, then labels for all features."""
    from glossator.config import DEMO_HOOK, data_path, demo_model

    what = SubjectConfig(
        model=str(demo_model()), hook=DEMO_HOOK, dictionary=str(data_path("dictionaries", "minilm-l4")), corpus=("python-docs", "themes")
    )
    with Store(path) as store:
        harvested = bool(reading.dictionaries(store))
    if not harvested:
        harvest(path, what, CorpusConfig(), HarvestConfig(), progress, say)
    with Store(path) as store:
        label(Run(store, None, progress, say), LexicalConfig(), EditorConfig(), ScoreConfig())
