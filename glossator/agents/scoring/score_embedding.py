"""Scores of labels by a sentence encoder: `embedding` and `embedding_near`, on `select` and `test`, with their comparisons.

Every text is embedded once (agents/scoring/vectors.py). What is written is written in one piece, when all is known; a run that is
stopped is begun again.

One encoder at a time: its scores take the place of those of another one, for all features or not at all, so that a mean is
never over two encoders. If the encoder is the subject itself, the notes begin with `dependent`, and headlines leave them out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from glossator.agents.lexical.explain import failure_rows
from glossator.agents.run import Run
from glossator.agents.scoring.families import correct
from glossator.agents.scoring.read_before import Label, labels_of
from glossator.agents.scoring.score_rules import lenders, split_draws
from glossator.agents.scoring.vectors import SPLITS_READ, Encoder, Vectors
from glossator.config import EmbeddingConfig
from glossator.errors import UsageError
from glossator.rows import NullScoreRow, Row, ScoreRow, StatusRow
from glossator.scorers import embedding as scorer
from glossator.scorers.bounds import Measured, missing
from glossator.scorers.comparisons import density_strata, partners, permutation_p
from glossator.scorers.embedding import METRICS, EmbeddingScene
from glossator.scorers.predictor import corpus_predictor
from glossator.scorers.rates import Draws
from glossator.scorers.rule import Rule
from glossator.types import Estimate, FeatureRecord, Floats, Split

PREDICTOR = "embedding"
STAGE = "score:embedding"
DEPENDENT = "dependent: the encoder is the subject"
_FEATURES = 256  # whose windows are looked up, and embedded where they are new, at once
_Cosines = Mapping[str, Floats]  # of a label, by its text, with the windows of a scene
_Scenes = Mapping[Split, EmbeddingScene | str]


def check_encoder(run: Run, encoder: str) -> None:
    """Before labels of others are read: raises UsageError where scores of this dictionary are another encoder's."""
    others = run.store.sql(
        "SELECT DISTINCT model FROM score WHERE dictionary = ? AND predictor = ? AND model <> ?",
        [run.dictionary, PREDICTOR, encoder],
    )
    if others:
        raise UsageError(
            f"--embedder: labels of this run have scores by the encoder {others[0][0]}; have {encoder} read those first, without --labels"
        )


def left_to_embed(
    run: Run, encoder: str, features: Sequence[int] | None, *, every: bool = False, explainer: str | None = None
) -> list[int]:
    """Features to score: those asked for; else those with labels that this encoder has not read, and those not dealt with.

    Of one `explainer`: no others than those that it has labelled. Raises UsageError where scores by another encoder would
    be left beside.
    """
    others = run.store.sql(
        "SELECT DISTINCT feature, model FROM score WHERE dictionary = ? AND predictor = ? AND model <> ?",
        [run.dictionary, PREDICTOR, encoder],
    )
    if explainer is not None:
        pending = set(run.chosen(features, f"{STAGE}:{explainer}")) & labels_of(run, explainer=explainer).keys()
        fresh = labels_of(run, unread=(PREDICTOR, METRICS), explainer=explainer).keys() if features is None else ()
        return sorted(pending.union(fresh))
    if features is None:
        if others:
            run.say(f"scores by the encoder {others[0][1]} give way to those by {encoder}")
        unread = {feature for feature, _ in others}
        unread |= labels_of(run, every=every, unread=(PREDICTOR, METRICS)).keys()
        return sorted(unread | set(run.chosen(None, STAGE)))
    if left := {feature for feature, _ in others} - set(features):
        raise UsageError(
            f"--embedder: {len(left)} other features have scores by the encoder {others[0][1]}; leave --features out, so that "
            f"{encoder} reads all of them"
        )
    return run.chosen(features, STAGE)


@dataclass(frozen=True)
class _Stock:
    """Labels that are scored, `own`, and what they are compared with.

    texts: the label of each feature that can be scored; tried: on which feature the labels of which others are tried.
    """

    own: Mapping[int, Sequence[Label]]
    texts: Mapping[int, str]
    stratum: Mapping[int, int]
    tried: Mapping[int, Sequence[int]]
    rules: Mapping[int, Rule]


@dataclass
class _Found:
    """Of one feature: rows, and of each label its value on `test`; the values of mismatched labels."""

    rows: list[Row] = field(default_factory=list)
    nulls: list[NullScoreRow] = field(default_factory=list)
    value: list[tuple[Label, float]] = field(default_factory=list)
    permuted: Floats = field(default_factory=lambda: np.empty(0))


def score_embedding(
    run: Run, encoder: Encoder, todo: Sequence[int], config: EmbeddingConfig, run_id: str, *, every: bool = False,
    explainer: str | None = None,
) -> str:  # fmt: skip
    """Score `todo`; `every`: all explanations of the run with a text. Returns what came of it, in words.

    `explainer`: its labels alone, in a stage of their own, and without comparisons, which are of the run's labels.
    """
    mine = labels_of(run, todo, every=every, explainer=explainer)
    stock = _stock(run, mine, config) if explainer is None else _Stock(mine, {}, {}, {}, {})
    stage = _Stage(run, encoder, stock, config, run_id, STAGE if explainer is None else f"{STAGE}:{explainer}")
    found, failed = stage.score(todo)
    rows = [row for one in found.values() for row in (*one.rows, *one.nulls)]
    _replace(run, encoder.name, todo, [*rows, *failed, *stage.permuted(found)], explainer)
    scored = sum(bool(one.value) for one in found.values())
    broken = sum(isinstance(row, StatusRow) for row in failed)
    return (
        f"{run.dictionary}  embedding{f' of {explainer}' if explainer else ''} by {encoder.name}{' (dependent: it is the subject)' if stage.dependent else ''}: "
        f"{scored:,} scored, {len(found) - scored:,} without a value or skipped" + f", {broken:,} failed" * bool(broken)
    )


def _stock(run: Run, own: Mapping[int, Sequence[Label]], config: EmbeddingConfig) -> _Stock:
    """Labels of features that can be scored, and the rules among all explanations."""
    about = dict(
        run.store.sql(
            "SELECT feature, density FROM feature WHERE dictionary = ? AND status NOT IN ('dead', 'rare', 'dense')",
            [run.dictionary],
        )
    )
    texts = {f: labels[0].text for f, labels in labels_of(run).items() if f in about and labels[0].text.strip()}
    order = sorted(texts)
    strata = density_strata(np.asarray([about[f] for f in order]))
    tried = partners(strata, config.permutations, config.min_null, config.seed)
    programs = run.store.sql(
        "SELECT feature, program FROM explanation WHERE dictionary = ? AND explainer = 'lexical' AND program IS NOT NULL ORDER BY rowid",
        [run.dictionary],
    )
    return _Stock(
        own,
        texts,
        dict(zip(order, strata.tolist(), strict=True)),
        {f: [order[j] for j in others] for f, others in zip(order, tried, strict=True)},
        {feature: Rule(json.loads(program), run.lexicon) for feature, program in programs},
    )


class _Stage:
    """What the features of one run of this stage share."""

    def __init__(
        self, run: Run, encoder: Encoder, stock: _Stock, config: EmbeddingConfig, run_id: str, name: str
    ) -> None:
        self.run, self.stock, self.config, self.run_id, self.name = run, stock, config, run_id, name
        self.model, self.vectors = encoder.name, Vectors(run, encoder, config)
        stored = run.identity["subject"].get("weights")  # a subject without any is no encoder
        self.dependent = stored is not None and encoder.has_weights(stored)
        self.draws: dict[Split, Draws] = {s: split_draws(run, s, config.draws, config.seed) for s in SPLITS_READ}

    def score(self, todo: Sequence[int]) -> tuple[dict[int, _Found], list[Row]]:
        """What was found of each feature, and the rows of those that failed."""
        found: dict[int, _Found] = {}
        failed: list[Row] = []
        self.run.progress("score embeddings", 0, len(todo))
        for done, (record, scenes) in enumerate(self._scenes(todo, SPLITS_READ), 1):
            labels = self.stock.own.get(record.feature.index, ())
            try:
                if isinstance(scenes, Exception):
                    raise scenes
                found[record.feature.index] = self._one(record, labels, scenes)
            except Exception as error:  # noqa: BLE001  one feature's failure is a row
                failed += failure_rows(record, self.name, error, self.run_id)
                none = dict.fromkeys(METRICS, missing(""))
                failed += [row for label in labels for s in SPLITS_READ for row in self._rows(record, label, s, none)]
            if done % 16 == 0 or done == len(todo):
                self.run.progress("score embeddings", done, len(todo))
        return found, failed

    def _scenes(
        self, features: Sequence[int], splits: Sequence[Split]
    ) -> Iterator[tuple[FeatureRecord, _Scenes | Exception]]:
        """Records with their windows, a few hundred at a time, so that what they need is embedded together."""
        records = self.run.records(features)
        while batch := list(islice(records, _FEATURES)):
            found = [self._scenes_of(record, splits) for record in batch]
            good = [one for scenes in found if not isinstance(scenes, Exception) for one in scenes.values()]
            self.vectors.read([one for one in good if isinstance(one, EmbeddingScene)])
            self.vectors.know(text for record in batch for text in self._needed(record))
            yield from zip(batch, found, strict=True)

    def _scenes_of(self, record: FeatureRecord, splits: Sequence[Split]) -> _Scenes | Exception:
        try:
            return {s: scorer.embedding_scene(record, s, self.vectors.pools[s], self.config) for s in splits}
        except Exception as error:  # noqa: BLE001  raised where it becomes that feature's failure
            return error

    def _needed(self, record: FeatureRecord) -> Iterator[str]:
        """The labels that are read on a feature's windows."""
        index, texts = record.feature.index, self.stock.texts
        yield from (label.text for label in self.stock.own.get(index, ()) if label.text.strip())
        yield from (texts[other] for other in self.stock.tried.get(index, ()))
        yield from (texts[n] for n in self._nearest(record))

    def _nearest(self, record: FeatureRecord) -> list[int]:
        """The nearest feature that has a label, if any has."""
        return [n for n in record.neighbours if n in self.stock.texts][:1]

    def _one(self, record: FeatureRecord, labels: Sequence[Label], scenes: _Scenes) -> _Found:
        f, out = record.feature, _Found()
        skipped = "rare: too few active windows for a score" if record.status in ("rare", "dead") else None
        skipped = skipped or (None if labels else "nothing to read: no label")
        if skipped:
            out.rows.append(StatusRow(f.dictionary, f.index, self.name, "abstained", skipped, self.run_id))
            return out
        cosines: _Cosines = {}
        for split, scene in scenes.items():
            cosines = {} if isinstance(scene, str) else self._cosines(scene, split, labels)
            for label in labels:
                out.rows += self._rows(record, label, split, self._measured(label, split, scene, cosines))
        if not isinstance(test := scenes["test"], str):  # the last of the splits: these are its cosines
            self._compare(record, [label for label in labels if label.text in cosines], test, cosines, out)
            out.permuted = self.mismatched(f.index, test)
        out.rows.append(StatusRow(f.dictionary, f.index, self.name, "done", None, self.run_id))
        return out

    def _cosines(self, scene: EmbeddingScene, split: Split, labels: Sequence[Label]) -> _Cosines:
        texts = [label.text for label in labels if label.text.strip()]
        return dict(zip(texts, self.vectors.cosines(scene, split, texts), strict=True))

    def _measured(
        self, label: Label, split: Split, scene: EmbeddingScene | str, cosines: _Cosines
    ) -> dict[str, Measured]:
        if isinstance(scene, str) or label.text not in cosines:
            return dict.fromkeys(METRICS, missing(scene if isinstance(scene, str) else "the label is empty"))
        return scorer.embedding(scene, cosines[label.text], self.draws[split])

    def mismatched(self, feature: int, scene: EmbeddingScene) -> Floats:
        """`embedding` of other features' labels on this feature's windows."""
        texts = [self.stock.texts[other] for other in self.stock.tried.get(feature, ())]
        return scorer.values(scene, self.vectors.cosines(scene, "test", texts)) if texts else np.empty(0)

    def _compare(
        self,
        record: FeatureRecord,
        labels: Sequence[Label],
        scene: EmbeddingScene,
        cosines: _Cosines,
        out: _Found,
    ) -> None:
        """Against the label of the nearest feature that has one, and against the feature's own lexical rule, executed."""
        draws = self.draws["test"]
        rivals: dict[str, Floats] = {}
        for near in self._nearest(record):
            rivals["neighbour"] = self.vectors.cosines(scene, "test", [self.stock.texts[near]])[0]
        if (rule := self.stock.rules.get(record.feature.index)) is not None:
            told = corpus_predictor(record, rule)
            windows = (self.vectors.pools["test"].windows, scene.extra.windows)
            rivals["lexical"] = np.concatenate([told.fires(rule.strengths(w)) for w in windows])[scene.place]
        other = {
            name: (float(scorer.values(scene, told[None])[0]), scorer.drawn(scene, told, draws))
            for name, told in rivals.items()
        }
        for label in labels:
            cosine = cosines[label.text]
            mine = float(scorer.values(scene, cosine[None])[0]), scorer.drawn(scene, cosine, draws)
            out.value.append((label, mine[0]))
            for name, theirs in other.items():
                apart, p = scorer.difference(scene, mine, theirs)
                p = math.nan if name == "lexical" else p  # a lift has an interval and no p
                out.nulls.append(self._null(record.feature.index, label, name, theirs[0], p, apart))

    def _null(self, feature: int, label: Label, name: str, mean: float, p: float, apart: Estimate) -> NullScoreRow:
        mean_, p_, value, low, high = (_finite(x) for x in (mean, p, apart.value, apart.low, apart.high))
        return NullScoreRow(
            label.explanation_id, self.run.dictionary, feature, METRICS[0], name, mean_, p_, None,
            value, low, high, apart.n, self.run_id, PREDICTOR,
        )  # fmt: skip

    def _rows(self, record: FeatureRecord, label: Label, split: Split, found: Mapping[str, Measured]) -> list[ScoreRow]:
        f, rows = record.feature, []
        for metric in METRICS:
            e, note = found[metric].estimate, found[metric].note or None
            if self.dependent and (note is not None or not math.isnan(e.value)):  # a failure has no note
                note = DEPENDENT if note is None else f"{DEPENDENT}; {note}"
            value, low, high = (_finite(x) for x in (e.value, e.low, e.high))
            rows.append(
                ScoreRow(
                    label.explanation_id, f.dictionary, f.index, label.explainer, PREDICTOR, self.model, metric, split,
                    value, low, high, e.n, note, self.run_id,
                )
            )  # fmt: skip
        return rows

    def permuted(self, found: Mapping[int, _Found]) -> list[Row]:
        """p of every label against the pool of its stratum, to which other features lend pairs where few were scored."""
        order = sorted(f for f, one in found.items() if one.value and f in self.stock.stratum)
        stratum, tried = dict(self.stock.stratum), dict(self.stock.tried)
        lent = {}
        for record, scenes in self._scenes(lenders(order, stratum, tried, self.config.min_null), ("test",)):
            scene = "no windows" if isinstance(scenes, Exception) else scenes["test"]
            if isinstance(scene, EmbeddingScene):
                lent[record.feature.index] = self.mismatched(record.feature.index, scene)
        pooled = order + sorted(lent)
        drawn = [found[f].permuted if f in found else lent[f] for f in pooled]
        strata = np.asarray([stratum[f] for f in pooled])
        rows: list[Row] = []
        for number in range(
            max((len(found[f].value) for f in order), default=0)
        ):  # the first label of each, the second
            has = [f in found and len(found[f].value) > number for f in pooled]
            value = np.asarray(
                [found[f].value[number][1] if is_ else np.nan for f, is_ in zip(pooled, has, strict=True)]
            )
            p, mean, size = permutation_p(value, strata, drawn, self.config.min_null)
            for i in np.flatnonzero(has):
                label, of = found[pooled[i]].value[number][0], float(value[i])
                apart = Estimate(of - float(mean[i]), math.nan, math.nan, int(size[i]))
                rows.append(self._null(pooled[i], label, "permuted", float(mean[i]), float(p[i]), apart))
        return rows


def _finite(x: float) -> float | None:
    return None if math.isnan(x) else float(x)


def _replace(run: Run, encoder: str, features: Sequence[int], rows: Sequence[Row], explainer: str | None) -> None:
    """New scores in the place of old ones of these features, and of all that another encoder has left.

    Those of the run's explanations, or of one `explainer` of others, leave each other alone.
    """

    def forget(connection: Any) -> None:
        whose = "explainer = ?" if explainer else "NOT starts_with(explainer, ?)"
        old = f"dictionary = ? AND predictor = ? AND (feature IN (SELECT unnest(?::INTEGER[])) AND explanation_id IN (SELECT explanation_id FROM explanation WHERE {whose}) "
        old += "OR explanation_id IN (SELECT explanation_id FROM score WHERE dictionary = ? AND predictor = ? AND model <> ?))"
        given = [
            run.dictionary,
            PREDICTOR,
            list(features),
            explainer or "imported:",
            run.dictionary,
            PREDICTOR,
            encoder,
        ]
        for table in ("null_score", "score"):  # scores last: they say whose they are
            connection.execute(f"DELETE FROM {table} WHERE {old}", given)

    run.store.replace_now(forget, rows, lambda connection: correct(connection, run.dictionary, PREDICTOR, METRICS[0]))
