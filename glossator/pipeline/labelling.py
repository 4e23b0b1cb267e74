"""The one page that reads top to bottom: harvest -> explain -> probe -> score -> report.

Each stage reads what is pending from the run file, works, and writes rows; running again goes on where it stopped.
Stages are plain functions of an open `Run`; `label` joins explain, probe and score. `explain_by_llm` is explain with a
language model (the explainer `cascade` does explain first, for what is pending), `probe_by_llm` is probe with one, `score_by_llm` scores by one that reads the labels. Imports of torch happen inside the
stages that need a model, so that queries stay fast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glossator.agents.run import Progress, Run, Say, silent
from glossator.config import (
    BestOfConfig,
    CascadeConfig,
    EditorConfig,
    EmbeddingConfig,
    ExplainerConfig,
    LexicalConfig,
    LLMConfig,
    LLMScoreConfig,
    Recipe,
    ScoreConfig,
)
from glossator.pipeline.harvesting import harvest
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.search import index_labels
from glossator.store.store import Store

if TYPE_CHECKING:
    from glossator.agents.scoring.read_labels import Wanted
    from glossator.agents.validity.run_validity import Asked, Validation
    from glossator.llm.base import LLM


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

    if isinstance(config, CascadeConfig):  # which begins with what the lexical explainer says
        waiting = run.store.pending("explain", run.dictionary)
        explain(run, LexicalConfig(), waiting if features is None else [f for f in waiting if f in set(features)])
    specs = [spec] if reader is None else [spec, reader]
    batched = any(in_batches(parse_spec(one)) for one in specs)
    if isinstance(config, BestOfConfig) and batched:
        config = config.model_copy(update={"together": True})
    if isinstance(config, CascadeConfig) and batched:
        config = config.model_copy(update={"best_of": config.best_of.model_copy(update={"together": True})})
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
    from glossator.agents.pool import wait_for

    todo = run.chosen(features, "probe")
    if todo:
        with run.stage("probe", config) as run_id:
            wait_for(probe_all(run, todo, config, run_id))
        materialise_labels(run.store)
    return len(todo)


def probe_by_llm(
    run: Run,
    spec: str,
    llm: LLMConfig,
    config: EditorConfig,
    features: Sequence[int] | None = None,
    *,
    reader: str | None = None,
    retry_failed: bool = False,
) -> str:
    """The editor with a language model: it writes texts that put the labels to the test, and a reader of the labels predicts.

    reader: who predicts; the one that writes if not given. One budget is for both. Returns what came of it and what it cost,
    in words. Raises as `explain_by_llm`.
    """
    from glossator.agents.asking import ask_several
    from glossator.agents.editor.probe_llm import DEPTH, ModelEditor, account, left_to_probe, stage_of
    from glossator.llm.opening import in_batches
    from glossator.llm.spec import parse_spec

    run.chosen(features, "probe")  # no such feature: said before anybody is asked
    specs = [spec] if reader is None else [spec, reader]
    batched = any(in_batches(parse_spec(one)) for one in specs)
    tally: Counter[str] = Counter()

    async def work(models: Sequence[LLM], in_hand: int) -> None:
        name = models[-1].name
        if not (todo := left_to_probe(run, name, features)):
            return
        if batched:
            run.say(f"probe: {DEPTH} questions about a feature wait for one another, each in a batch of its own")
        with run.stage(stage_of(name), config, llm) as run_id:
            editor = ModelEditor(run, models[0], models[-1], config, run_id, tally, retry_failed=retry_failed)
            await editor.probe(todo, in_hand)

    return ask_several(run, specs, llm, work, tally, lambda session: account(run, tally, session, specs[-1]))


def score(run: Run, config: ScoreConfig, features: Sequence[int] | None = None) -> int:
    """Score the labels of features on `test`, against their nulls. Returns how many were dealt with."""
    from threadpoolctl import threadpool_limits

    from glossator.agents.scoring.score_rules import left_to_score, score_all

    todo = left_to_score(run, features)
    if todo:
        with (
            run.stage("score", config) as run_id,
            threadpool_limits(1, "blas"),
        ):  # small matrices: threads only wait for one another
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
    from glossator.agents.scoring.label_vectors import Remembering
    from glossator.agents.scoring.score_embedding import STAGE, left_to_embed, score_embedding
    from glossator.harness.embedder import Embedder

    encoder = Embedder(folder)
    if not (todo := left_to_embed(run, encoder.name, features, every=every)):
        return f"{run.dictionary}  no label was left for {encoder.name} to read"
    with run.stage(STAGE, config) as run_id:
        reading = Remembering(run.store, encoder)
        said = score_embedding(run, reading, todo, config, run_id, every=every)
        reading.keep()  # for `search --similar`
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
    from glossator.agents.scoring.read_labels import Wanted

    run.chosen(features, "score")  # no such feature: said before anybody is asked
    return _read(run, spec, llm, config, Wanted(scorers, features, every, retry_failed))


def compare_by_llm(
    run: Run,
    spec: str,
    llm: LLMConfig,
    config: LLMScoreConfig,
    scorers: Sequence[str],
    features: Sequence[int],
    *,
    every: bool = False,
) -> str:
    """What `score_by_llm` does after the labels were read, alone: comparisons with labels of others, and repeats.

    It needs the scores of all features that are to be compared with one another. Raises as `explain_by_llm`.
    """
    from glossator.agents.scoring.read_labels import Wanted

    return _read(run, spec, llm, config, Wanted(scorers, features, every, read=False))


def _read(run: Run, spec: str, llm: LLMConfig, config: LLMScoreConfig, wanted: Wanted) -> str:
    from glossator.agents.asking import ask
    from glossator.agents.scoring.read_labels import read_labels
    from glossator.agents.scoring.score_llm import account
    from glossator.scorers.reading import LLMPredictor

    tally: Counter[tuple[str, str]] = Counter()

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
        index_labels(store)
