"""What the validity suite tries labels on: the planted family harvested like any model, and its windows and texts drawn once.

So windows, weights, near misses and neighbours are what features of a real dictionary get. All labels of one feature share
them, which is what makes their scores comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

from glossator.agents.editor.editor import as_windows
from glossator.agents.run import Run, Say, silent
from glossator.agents.scoring.scenes import SCORERS, AnyScene, scene_of
from glossator.agents.validity.experiments import Trial, mechanical_pools, rivals_pool
from glossator.agents.validity.wrong_labels import TriedLabel, labels_tried
from glossator.config import EditorConfig, LLMScoreConfig
from glossator.errors import UsageError
from glossator.harness.planted_run import doubles, harvest_planted
from glossator.planted import PlantedFeature
from glossator.planted_family import planted, planted_family, planted_family_documents, planted_family_vocabulary
from glossator.prompts import detect, fuzz, simulate
from glossator.scorers.adversarial import Outcome, base_rates
from glossator.store import records as reading
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import FeatureRecord, Split, Windows

SPLIT: Split = "test"
_MECHANICAL = 16  # texts of label-blind edits and random windows a feature


@dataclass(frozen=True)
class Tried:
    """One planted feature and what its labels are scored on. scenes: by scorer; one that is a text says why there is none.

    texts: those of all experiments of the pool, in order, as windows.
    """

    record: FeatureRecord
    kind: str
    labels: dict[str, TriedLabel]
    scenes: dict[str, AnyScene | str]
    pool: tuple[Trial, ...]
    texts: Windows


@dataclass(frozen=True)
class Ground:
    """base: of all experiments (fired, all) by kind."""

    run: Run
    features: tuple[PlantedFeature, ...]
    tried: tuple[Tried, ...]
    base: dict[str, tuple[int, int]]
    config: LLMScoreConfig


def planted_run(store: Store, n: int, seed: int, say: Say = silent) -> Run:
    """The planted family in a store: harvested, or found there. Raises UsageError for a store that holds something else."""
    features, words = planted_family(n, seed), planted_family_vocabulary(n, seed)
    names = [f"{feature.name}: {feature.description}" for feature in features]
    there = reading.dictionaries(store)
    if not there:
        say(f"planting {n} features and harvesting them")
        texts = planted_family_documents(n, seed)
        subject, dictionary, tables = harvest_planted(features, words, texts)
        store.put_tables(tables)
        store.put_now(simulate.prompt(), detect.prompt(), fuzz.prompt())  # what replies in the log are to
        materialise_labels(store)
        return Run(store, model=(subject, dictionary), say=say)
    run = Run(store, there[0], say=say)
    if run.identity["subject"].get("features") != names:
        raise UsageError(f"{store.path}: holds another harvest than these {n} planted features; name another file")
    return Run(store, model=doubles(features, words), say=say)


async def prepare(run: Run, n: int, seed: int, config: LLMScoreConfig) -> Ground:
    made = planted(n, seed)
    features = planted_family(n, seed)
    records = list(run.records(range(n)))
    mechanical = await mechanical_pools(run, records, EditorConfig(texts=_MECHANICAL, seed=seed))
    subject, _ = run.model()
    vocabulary = run.lexicon.vocabulary
    tried = []
    for record, edits in zip(records, mechanical, strict=True):
        labels = labels_tried(features, record.feature.index)
        pool = (*rivals_pool(made, record, labels, vocabulary, seed), *edits)
        texts = as_windows(subject.tokenize([text for trial in pool for text in trial.texts]))
        tried.append(
            Tried(
                record,
                features[record.feature.index].kind,
                labels,
                {scorer: scene_of(run, record, scorer, SPLIT, config) for scorer in SCORERS},
                pool,
                texts,
            )
        )
    outcomes = [Outcome(one.record.feature.index, t.kind, 0.5, t.fires) for one in tried for t in one.pool]
    return Ground(run, features, tuple(tried), base_rates(outcomes), config)
