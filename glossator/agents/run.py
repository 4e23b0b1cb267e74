"""An open run file with one dictionary in hand, and what the stages share, each thing made when it is first needed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import glossator
from glossator.config import DEMO_MODEL, SubjectConfig, demo_model
from glossator.errors import UsageError
from glossator.scorers.rule import Lexicon
from glossator.store import records as reading
from glossator.store.store import Store
from glossator.types import FeatureRecord, Floats, Ints, Split, content_id, feature_name

if TYPE_CHECKING:
    from glossator.harness.dictionary import Dictionary
    from glossator.harness.subject import Subject
    from glossator.llm.base import LLM

Progress = Callable[[str, int, int], None]  # what, done, total
Say = Callable[[str], None]


def silent(*_: object) -> None:
    """Neither progress nor words."""


class Run:
    """`Run(store)`: raises StoreError where there is no harvest yet, FeatureError for a dictionary that it lacks."""

    def __init__(
        self,
        store: Store,
        dictionary: str | None = None,
        progress: Progress = silent,
        say: Say = silent,
        model: tuple[Subject, Dictionary] | None = None,
    ) -> None:
        """`model`: subject and dictionary that are at hand already, or doubles; loaded when needed otherwise."""
        self._model = model
        self._keeps = False
        self.store, self.progress, self.say = store, progress, say
        self.asking: Sequence[LLM] = ()  # whom questions are sent to at this moment
        self.dictionary = reading.the_dictionary(store, dictionary)

    @cached_property
    def lexicon(self) -> Lexicon:
        return Lexicon(reading.vocabulary(self.store))

    @cached_property
    def counts(self) -> Ints:
        """[V] how often each token stands in the split explain; estimated where only a draw of windows was counted."""
        counted = self.store.arrow("SELECT n_explain FROM token ORDER BY token_id")["n_explain"].to_numpy()
        return np.asarray(counted * reading.token_scale(self.store))

    @cached_property
    def neighbours(self) -> Ints:
        """[V, 8] nearest tokens in the subject's embedding, -1 where the corpus lacks the token."""
        out = np.full((len(self.counts), 8), -1)
        for token, near in self.store.sql("SELECT token_id, neighbours FROM token_neighbour"):
            out[token, : len(near)] = near
        return out

    @cached_property
    def poles(self) -> int | None:
        """How many signed features the dictionary has, each with a pole + and a pole -; None where features are not signed."""
        signed, n = self.store.sql("SELECT signed, n_features FROM dictionary WHERE dictionary = ?", [self.dictionary])[
            0
        ]
        return int(n) // 2 if signed else None

    def name(self, feature: int) -> str:
        """A feature as people write it: 17, or 17+ and 17- for the poles of a signed one."""
        return feature_name(self.poles is not None, 2 * (self.poles or 0), feature)

    @cached_property
    def behind(self) -> dict[Split, reading.Background]:
        return reading.background(self.store, self.dictionary)

    def records(self, features: Sequence[int]) -> Iterator[FeatureRecord]:
        return reading.records(self.store, self.dictionary, features, self.behind)

    @cached_property
    def thresholds(self) -> Floats:
        """[n_features] from which activation on each fires."""
        rows = self.store.sql("SELECT feature, threshold FROM feature WHERE dictionary = ?", [self.dictionary])
        out = np.full(max((feature for feature, _ in rows), default=-1) + 1, np.inf)
        for feature, threshold in rows:
            out[feature] = np.inf if threshold is None else threshold
        return out

    def neighbours_fire(self, record: FeatureRecord, split: Split) -> Ints:
        """[background windows of the split]: 2 where the nearest decoder direction fires, 1 where another near one does, else 0."""
        nearest, some = (
            self.behind[split].fires(chosen, self.thresholds) for chosen in (record.neighbours[:1], record.neighbours)
        )
        return np.where(nearest, 2, some.astype(np.int8))

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Subject and dictionary, as the harvest stored them."""
        found: dict[str, Any] = json.loads(
            self.store.sql("SELECT identity FROM dictionary WHERE dictionary = ?", [self.dictionary])[0][0]
        )
        return found

    def model(self) -> tuple[Subject, Dictionary]:
        """Load subject and dictionary again; they must be the ones that were harvested."""
        from glossator.harness.controls import beside
        from glossator.harness.loading import load_model
        from glossator.harness.reinitialised import read_by

        if self._model is not None:
            return self._model
        stored, source = self.identity["subject"], self.identity["dictionary"]["source"]
        hook, control = self.store.sql("SELECT hook, control FROM dictionary WHERE dictionary = ?", [self.dictionary])[
            0
        ]
        if control is not None:
            source = beside(self.store.path, source)
        what = SubjectConfig(
            model=_found(stored["path"], stored["model"]),
            model_name=stored["model"],
            dictionaries=(source,),
            hooks=(hook,),
            corpus=(),
        )
        subject, (dictionary,) = load_model(what, stored["context_size"], "cpu")
        if (
            not read_by(subject, hook).has_weights(stored["weights"])
            or dictionary.identity()["weights"] != self.identity["dictionary"]["weights"]
        ):
            raise UsageError(
                f"{self.store.path}: the model or dictionary on disk is not the one that was harvested; harvest again"
            )
        if self._keeps:
            self._model = subject, dictionary
        return subject, dictionary

    @property
    def at_hand(self) -> bool:
        """Whether subject and dictionary are there already."""
        return self._model is not None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Within, subject and dictionary are loaded once at most, for stages that come again and again; then they are let go."""
        given, self._keeps = self._model, True
        try:
            yield
        finally:
            self._model, self._keeps = given, False

    @contextmanager
    def stage(self, name: str, *configs: Any) -> Iterator[str]:
        """A row in `run` around a stage; yields the run id."""
        config = json.dumps([c.model_dump(mode="json") for c in configs], sort_keys=True)
        started = datetime.datetime.now(datetime.UTC)
        run_id = content_id(name, config, started.isoformat())
        insert = "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, NULL)"
        self.store.execute(insert, [run_id, name, config, content_id(config), glossator.__version__, started])
        yield run_id
        self.store.execute(
            "UPDATE run SET finished = ? WHERE run_id = ?", [datetime.datetime.now(datetime.UTC), run_id]
        )

    def chosen(self, features: Sequence[int] | None, stage: str) -> list[int]:
        """What this stage has to do: all that is pending, or the asked-for features whatever was done before."""
        if features is None:
            return self.store.pending(stage, self.dictionary)
        reading.check_features(self.store, self.dictionary, features)
        return list(features)


def _found(path: str, name: str) -> str:
    """The folder of a model; the built-in one lies elsewhere where another environment harvested. Weights are checked after."""
    return str(demo_model()) if name == DEMO_MODEL and not Path(path).exists() else path
