"""The one page that reads top to bottom: harvest -> explain -> probe -> score -> report.

Each stage reads what is pending from the run file, works, and writes rows; running again goes on where it stopped.
Stages are plain functions of an open `Run`; `label` joins explain, probe and score. Imports of torch happen inside the
stages that need a model, so that queries stay fast.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glossator.agents.run import Progress, Run, Say, silent
from glossator.config import EditorConfig, LexicalConfig, Recipe, ScoreConfig
from glossator.errors import StoreError, UsageError
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

if TYPE_CHECKING:
    from glossator.harness.harvest import Work
    from glossator.harness.loading import LoadingCheck

# --------------------------------------------------------------------------- harvest


def harvest(
    path: Path,
    recipe: Recipe,
    workers: int = 1,
    engine: str = "process",
    progress: Progress = silent,
    say: Say = silent,
) -> None:
    """Read the corpus through the subject and its dictionaries once, and write what was found. Raises on wrong input, before the pass."""
    from glossator.harness import workers as crew
    from glossator.harness.harvest import run_missing
    from glossator.harness.parts import parts_in

    with Store(path) as store:  # a run file that cannot be used is found out before the work
        _check_empty(store)
        work = crew.set_up(recipe)
        checks = _introduce(work, recipe, say)
        folder = harvest_folder(path)

        def tell(done: int, total: int) -> None:
            progress("harvest", done, total)

        if engine == "ray":
            crew.run_ray(recipe, folder, workers, lambda done, of: progress("tasks", done, of))
        elif workers > 1:
            crew.run_workers(work, recipe, folder, workers, tell)
        else:
            run_missing(work, folder, 0, len(work.ranges), tell)
        _store(store, work, recipe, [part.path for part in parts_in(folder, work.about)], checks)
        shutil.rmtree(folder, ignore_errors=True)


def harvest_shard(
    path: Path, recipe: Recipe, number: int, of: int, progress: Progress = silent, say: Say = silent
) -> None:
    """One worker's share of a harvest, as parts beside the run file, which is not opened. `merge` makes one run of all parts."""
    from glossator.harness import workers as crew

    work = crew.set_up(recipe)
    _introduce(work, recipe, say)
    folder = harvest_folder(path)
    n = crew.run_share(work, folder, number, of, lambda done, total: progress("harvest", done, total))
    say(f"shard {number}/{of}: {n} of {len(work.ranges)} pieces of the corpus, in {folder}")


def merge(path: Path, shards: Sequence[Path], say: Say = silent) -> None:
    """Make a run file of the parts that `harvest_shard` left, files or folders of them. What they were made from is loaded again."""
    from glossator.harness import workers as crew
    from glossator.harness.parts import about_of

    files = [file for shard in shards for file in (sorted(shard.glob("part-*.npz")) if shard.is_dir() else [shard])]
    if not files:
        raise UsageError(f"{', '.join(map(str, shards))}: no parts here; name what `harvest --shard` wrote")
    with Store(path) as store:
        _check_empty(store)
        text = about_of(files[0]).recipe
        if text is None:
            raise UsageError(f"{files[0]}: does not say what it was made from; harvest its shard again")
        recipe = Recipe.model_validate_json(text)
        work = crew.set_up(recipe)
        made_by = {json.dumps(about_of(file).made_by, sort_keys=True) for file in files}
        if len(made_by) > 1:
            say(f"WARNING: the parts were made by different versions or devices: {', '.join(sorted(made_by))}")
        _store(store, work, recipe, files, _introduce(work, recipe, say))


def harvest_folder(path: Path) -> Path:
    """Where the parts of a harvest lie until they are stored."""
    return path.with_suffix(path.suffix + ".harvest")


def _check_empty(store: Store) -> None:
    if reading.dictionaries(store):
        raise StoreError(f"{store.path}: holds a harvest already; name another file")


def _introduce(work: Work, recipe: Recipe, say: Say) -> list[LoadingCheck]:
    """Say what was loaded and whether it fits together."""
    from glossator.harness.loading import loading_check

    corpus = work.corpus
    say(
        f"corpus: {len(corpus.tokens):,} tokens in {len(corpus.names):,} documents, {len(corpus.window_start):,} windows"
    )
    checks = []
    for dictionary in work.dictionaries:
        checks.append(loading_check(work.subject, dictionary, corpus, recipe.harvest))
        say(
            f"dictionary {dictionary.name}: {dictionary.n_features:,} features at {dictionary.hook}, {checks[-1].summary}"
        )
        for warning in checks[-1].warnings:
            say(f"WARNING: {dictionary.name}: {warning}")
    return checks


def _store(store: Store, work: Work, recipe: Recipe, files: Sequence[Path], checks: list[LoadingCheck]) -> None:
    from glossator.harness.harvest import merge as merged
    from glossator.harness.tables import harvest_tables, manifest

    found = merged(work, files)
    tables = harvest_tables(
        work.subject, work.dictionaries, work.corpus, list(recipe.subject.corpus), found, checks, recipe.harvest
    )
    facts = manifest(work.subject, work.dictionaries, recipe.corpus, recipe.harvest)
    store.put_tables(itertools.chain(facts.items(), tables))
    materialise_labels(store)


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
    from glossator.config import subject_config

    what = subject_config("demo", [], ["demo"], ["python-docs", "themes"])
    with Store(path) as store:
        harvested = bool(reading.dictionaries(store))
    if not harvested:
        harvest(path, Recipe(subject=what), progress=progress, say=say)
    with Store(path) as store:
        label(Run(store, None, progress, say), LexicalConfig(), EditorConfig(), ScoreConfig())
