"""The one page that reads top to bottom: harvest -> explain -> probe -> score -> report.

Each stage reads what is pending from the run file, works, and writes rows; running again goes on where it stopped.
Stages are plain functions of an open `Run`; `label` joins explain, probe and score. Imports of torch happen inside the
stages that need a model, so that queries stay fast.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from glossator.agents.run import Progress, Run, Say, silent
from glossator.config import (
    CorpusConfig,
    EditorConfig,
    HarvestConfig,
    LexicalConfig,
    ScoreConfig,
    SubjectConfig,
)
from glossator.errors import StoreError
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

# --------------------------------------------------------------------------- harvest


def harvest(
    path: Path,
    what: SubjectConfig,
    corpus_config: CorpusConfig,
    config: HarvestConfig,
    progress: Progress = silent,
    say: Say = silent,
) -> None:
    """Read the corpus through the subject and the dictionary once, and write what was found. Raises on wrong input, before the pass."""
    from glossator.harness.contexts import prepare
    from glossator.harness.corpus import read_corpus
    from glossator.harness.dictionary import SaeDictionary, check_width
    from glossator.harness.harvest import harvest as pass_over
    from glossator.harness.harvest import loading_check
    from glossator.harness.subject import HFSubject, check_device
    from glossator.harness.tables import harvest_tables, manifest

    with Store(path) as store:  # a run file that cannot be used is found out before the work
        if reading.dictionaries(store):
            raise StoreError(f"{path}: holds a harvest already; name another file")
        check_device(config.device)
        subject = HFSubject(
            what.model, what.hook, name=what.model_name, context_size=corpus_config.context_size, device=config.device
        )
        dictionary = SaeDictionary(what.dictionary, device=config.device)
        check_width(dictionary, subject.d_hook, what.hook)
        size = subject.context_size - len(subject.prefix) - len(subject.suffix)
        corpus = prepare(read_corpus(what.corpus), subject.tokenize, size, corpus_config)
        say(
            f"corpus: {len(corpus.tokens):,} tokens in {len(corpus.names):,} documents, {len(corpus.window_start):,} windows"
        )
        check = loading_check(subject, dictionary, corpus, config)
        say(f"dictionary: {dictionary.n_features:,} features at {what.hook}, {check.summary}")
        for warning in check.warnings:
            say(f"WARNING: {dictionary.name}: {warning}")
        folder = path.with_suffix(path.suffix + ".harvest")
        found = pass_over(
            subject, dictionary, corpus, config, folder, lambda done, total: progress("harvest", done, total)
        )
        tables = harvest_tables(subject, dictionary, corpus, list(what.corpus), found, check, config)
        store.put_tables(manifest(subject, dictionary, corpus_config, config) | tables)
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
    run: Run,
    lexical: LexicalConfig,
    editor: EditorConfig,
    scoring: ScoreConfig,
    features: Sequence[int] | None = None,
) -> dict[str, int]:
    """explain, probe and score: how many features each stage dealt with."""
    return {
        "explain": explain(run, lexical, features),
        "probe": probe(run, editor, features),
        "score": score(run, scoring, features),
    }


def demo(path: Path, progress: Progress = silent, say: Say = silent) -> None:
    """The whole job on the built-in subject: a harvest if there is none yet, then labels for all features."""
    from glossator.config import DEMO_HOOK, subject_config

    what = subject_config("demo", DEMO_HOOK, "demo", ["python-docs", "themes"])
    with Store(path) as store:
        harvested = bool(reading.dictionaries(store))
    if not harvested:
        harvest(path, what, CorpusConfig(), HarvestConfig(), progress, say)
    with Store(path) as store:
        label(Run(store, None, progress, say), LexicalConfig(), EditorConfig(), ScoreConfig())
