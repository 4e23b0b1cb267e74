"""The one page that reads top to bottom: harvest -> explain -> probe -> score -> report.

Each stage reads what is pending from the run file, works, and writes rows; running again goes on where it stopped.
Stages are plain functions of an open `Run`; `label` joins explain, probe and score. `explain_by_llm` is explain with a
language model, `score_by_llm` scores by one that reads the labels. Imports of torch happen inside the
stages that need a model, so that queries stay fast.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from glossator.agents.run import Progress, Run, Say, silent
from glossator.config import (
    BestOfConfig,
    EditorConfig,
    EmbeddingConfig,
    ExplainerConfig,
    LexicalConfig,
    LLMConfig,
    LLMScoreConfig,
    Recipe,
    ScoreConfig,
    elsewhere,
)
from glossator.errors import UsageError
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

if TYPE_CHECKING:
    from glossator.agents.validity.run_validity import Asked, Validation
    from glossator.harness.harvest import Work
    from glossator.harness.loading import LoadingCheck
    from glossator.llm.base import LLM

# --------------------------------------------------------------------------- harvest


ENGINES = ("process", "ray")


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
    from glossator.harness.controls import set_up_with_controls
    from glossator.harness.harvest import run_missing
    from glossator.harness.parts import parts_in, remove

    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: write one of {', '.join(ENGINES)}")
    with _new(path) as store:
        work, recipe = set_up_with_controls(recipe, path, workers, progress, say)
        recipe = recipe.model_copy(update={"harvest": work.config})
        checks = _introduce(work, recipe, say)
        folder = harvest_folder(path)
        if few := crew.too_small(work, workers):
            say(f"--workers {workers}: {few}")

        def tell(done: int, total: int) -> None:
            progress("harvest", done, total)

        if engine == "ray":
            crew.run_ray(recipe, folder, workers, lambda done, of: progress("tasks", done, of))
        elif workers > 1:
            crew.run_workers(work, recipe, folder, workers, tell)
        else:
            run_missing(work, folder, 0, len(work.ranges), tell)
        _store(store, work, recipe, [part.path for part in parts_in(folder, work.about)], checks, say)
        if left := remove(folder, work.about):
            say(f"{folder}: still holds files of other harvests ({left}); merge them, or delete the folder")
        _conclude(store, say)


def harvest_shard(
    path: Path, recipe: Recipe, number: int, of: int, progress: Progress = silent, say: Say = silent
) -> None:
    """One worker's share of a harvest, as parts beside the run file, which is not opened. `merge` makes one run of all parts."""
    from glossator.harness import workers as crew
    from glossator.harness.controls import set_up_with_controls

    _check_folder(path)
    work, recipe = set_up_with_controls(recipe, path, of, progress, say)
    _introduce(work, recipe, say)
    if few := crew.too_small(work, of):
        say(f"--shard {number}/{of}: {few}")
    folder = harvest_folder(path)
    n = crew.run_share(work, folder, number, of, lambda done, total: progress("harvest", done, total))
    say(f"shard {number}/{of}: {n} of {len(work.ranges)} pieces of the corpus, in {folder}")


def merge(
    path: Path,
    shards: Sequence[Path],
    say: Say = silent,
    *,
    model: str | None = None,
    dictionaries: Sequence[str] = (),
    corpus: Sequence[str] = (),
) -> None:
    """Make a run file of the parts that `harvest_shard` left, files or folders of them. What they were made from is loaded again.

    The parts say where that lay when they were made; `model`, `dictionaries` and `corpus` say where the same things lie here.
    """
    from glossator.harness import workers as crew
    from glossator.harness.parts import about_of, found_in

    files = [file for shard in shards for file in found_in(shard)]
    if not files:
        raise UsageError(f"{', '.join(map(str, shards))}: no parts here; name what `harvest --shard` wrote")
    text = about_of(files[0]).recipe
    if text is None:
        raise UsageError(f"{files[0]}: does not say what it was made from; harvest its shard again")
    recipe = Recipe.model_validate_json(text)
    recipe = recipe.model_copy(update={"subject": elsewhere(recipe.subject, model, dictionaries, corpus)})
    with _new(path) as store:
        work = crew.set_up(recipe)
        _store(store, work, recipe, files, _introduce(work, recipe, say), say)
        say(f"{len(files)} part{'s' * (len(files) > 1)} joined; they may be deleted: {', '.join(map(str, shards))}")
        _conclude(store, say)


def harvest_folder(path: Path) -> Path:
    """Where the parts of a harvest lie until they are stored."""
    return path.with_suffix(path.suffix + ".harvest")


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")


@contextmanager
def _new(path: Path) -> Iterator[Store]:
    """A run file to put a harvest into, opened before the work: one that cannot be used is found out then.

    A file that this made and that holds no harvest in the end is removed.
    """
    _check_folder(path)
    made, used = not path.exists(), True
    try:
        with Store(path) as store:
            used = not made
            if reading.dictionaries(store):
                raise UsageError(f"{path}: holds a harvest already; name another file")
            try:
                yield store
            finally:
                used = used or bool(reading.dictionaries(store))
    finally:
        if not used:
            path.unlink(missing_ok=True)


def _conclude(store: Store, say: Say) -> None:
    """What came out, and what to do next, in one line."""
    counts = store.sql("SELECT status, count(*) FROM feature GROUP BY status ORDER BY count(*) DESC, status")
    features = ", ".join(f"{n:,} {status}" for status, n in counts)
    say(f"{store.path}: {sum(n for _, n in counts):,} features ({features}); next: glossator label {store.path}")


def _introduce(work: Work, recipe: Recipe, say: Say) -> list[LoadingCheck]:
    """Say what was loaded and whether it fits together."""
    corpus = work.corpus
    asked, size = recipe.corpus.context_size, work.subject.context_size
    if asked is not None and size < asked:
        say(f"--context-size {asked}: the model reads {size} tokens at most, so contexts have {size}")
    say(
        f"corpus: {len(corpus.tokens):,} tokens in {len(corpus.names):,} documents, {len(corpus.window_start):,} windows"
    )
    checks = []
    for dictionary in work.dictionaries:
        checks.append(work.check(dictionary))
        say(
            f"dictionary {dictionary.name}: {dictionary.n_features:,} features at {dictionary.hook}, {checks[-1].summary}"
        )
        for warning in checks[-1].warnings:
            say(f"WARNING: {dictionary.name}: {warning}")
    return checks


def _store(
    store: Store, work: Work, recipe: Recipe, files: Sequence[Path], checks: list[LoadingCheck], say: Say
) -> None:
    from glossator.harness.harvest import merge as merged
    from glossator.harness.parts import mixture
    from glossator.harness.tables import harvest_tables, manifest

    if mixed := mixture(files):
        say(f"WARNING: the parts were made with different {mixed}: they equal those of one machine up to rounding")
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
    from glossator.agents.lexical.explain import explain_all

    todo = run.chosen(features, "explain")
    if todo:
        with run.stage("explain", config) as run_id:
            explain_all(run, todo, config, run_id)
        materialise_labels(run.store)
    return len(todo)


def explain_by_llm(
    run: Run,
    spec: str,
    llm: LLMConfig,
    config: ExplainerConfig,
    features: Sequence[int] | None = None,
    *,
    reader: str | None = None,
    retry_failed: bool = False,
) -> str:
    """Ask a language model about each feature, by the explainer that `config` is of. Returns what came of it and what it cost, in words.

    reader: who reads candidates, where the explainer weighs any; the one that writes if not given. One budget is for both.
    Raises UsageError for a spec or a budget that makes no sense, ProviderError where nobody can answer, Stopped where the
    budget is spent or a batch is waited for; run again to go on.
    """
    from glossator.agents.asking import ask_several
    from glossator.agents.explainers.explaining import ModelExplainer, account, stage_of
    from glossator.agents.explainers.named import explainer
    from glossator.llm.opening import in_batches
    from glossator.llm.spec import parse_spec

    specs = [spec] if reader is None else [spec, reader]
    batched = any(in_batches(parse_spec(one)) for one in specs)
    if isinstance(config, BestOfConfig) and batched:
        config = config.model_copy(update={"together": True})
    what = explainer(run, config, "")  # what the run file lacks is said before anybody is asked
    todo = run.chosen(features, stage_of(what.name))
    tally: Counter[str] = Counter()

    async def work(models: Sequence[LLM], in_hand: int) -> None:
        with run.stage(stage_of(what.name), config, llm) as run_id:
            asking = ModelExplainer(run, models[0], config, run_id, tally, reader=models[-1], retry_failed=retry_failed)
            await asking.explain(todo, in_hand)

    if todo and what.depth > 1 and batched:
        run.say(
            f"{what.name}: up to {what.depth} questions about a feature wait for one another, each in a batch of its own"
        )
    return ask_several(
        run, specs, llm, work if todo else None, tally, lambda session: account(run, tally, session, what.name)
    )


def probe(run: Run, config: EditorConfig, features: Sequence[int] | None = None) -> int:
    """Run the editor on labelled features. Returns how many were dealt with."""
    from glossator.agents.editor.probe import probe_all

    todo = run.chosen(features, "probe")
    if todo:
        with run.stage("probe", config) as run_id:
            asyncio.run(probe_all(run, todo, config, run_id))
        materialise_labels(run.store)
    return len(todo)


def score(run: Run, config: ScoreConfig, features: Sequence[int] | None = None) -> int:
    """Score the labels of features on `test`, against their nulls. Returns how many were dealt with."""
    from glossator.agents.scoring.score_rules import left_to_score, score_all

    todo = left_to_score(run, features)
    if todo:
        with run.stage("score", config) as run_id:
            score_all(run, todo, config, run_id)
        materialise_labels(run.store, config.q)
    return len(todo)


def score_by_embedding(
    run: Run,
    folder: Path | None,
    config: EmbeddingConfig,
    features: Sequence[int] | None = None,
    *,
    every: bool = False,
) -> str:
    """Score labels by a sentence encoder, the one in `folder` or the extra demo's. Returns what came of it, in words.

    `every`: all explanations of the run with a text. Raises UsageError for an encoder that cannot be used.
    """
    from glossator.agents.scoring.score_embedding import STAGE, left_to_embed, score_embedding
    from glossator.harness.embedder import Embedder

    encoder = Embedder(folder)
    if not (todo := left_to_embed(run, encoder.name, features, every=every)):
        return f"{run.dictionary}  no label was left for {encoder.name} to read"
    with run.stage(STAGE, config) as run_id:
        said = score_embedding(run, encoder, todo, config, run_id, every=every)
    materialise_labels(run.store)
    return said


def score_by_llm(
    run: Run,
    spec: str,
    llm: LLMConfig,
    config: LLMScoreConfig,
    scorers: Sequence[str],
    features: Sequence[int] | None = None,
    *,
    every: bool = False,
    retry_failed: bool = False,
) -> str:
    """Ask a language model that reads the labels alone what the features do, and score that. Returns what came of it, in words.

    `every`: all explanations with a text, so that they can be compared; the labels alone otherwise. The config says whether
    they are compared with labels of others, and how often it is all drawn again. Raises as `explain_by_llm`.
    """
    from glossator.agents.asking import ask
    from glossator.agents.scoring.read_labels import Wanted, read_labels
    from glossator.agents.scoring.score_llm import account
    from glossator.scorers.reading import LLMPredictor

    run.chosen(features, "score")  # no such feature: said before anybody is asked
    tally: Counter[tuple[str, str]] = Counter()
    wanted = Wanted(scorers, features, every, retry_failed)

    async def work(model: LLM, in_hand: int) -> None:
        await read_labels(run, LLMPredictor(model, run.lexicon.vocabulary, config), wanted, llm, in_hand, tally)

    return ask(run, spec, llm, work, tally, lambda session: account(run, tally, spec, session))


def validate(
    asked: Asked, llm: LLMConfig, embedder: Path | None = None, progress: Progress = silent, say: Say = silent
) -> Validation:
    """Can the scores fail? Right and wrong labels of planted features, by every reader. Raises as `explain_by_llm`."""
    from glossator.agents.validity.run_validity import validate_scores
    from glossator.harness.embedder import Embedder

    return validate_scores(asked, llm, lambda: Embedder(embedder), progress, say)


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
    harvested = False
    if path.exists():
        with Store(path) as store:
            harvested = bool(reading.dictionaries(store))
    if not harvested:
        harvest(path, Recipe(subject=what), progress=progress, say=say)
    with Store(path) as store:
        label(Run(store, None, progress, say), LexicalConfig(), EditorConfig(), ScoreConfig())
