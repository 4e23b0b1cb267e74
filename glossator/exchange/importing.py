"""Files of other tools taken into a run file: labels as sets of their own, scores marked as theirs, what was published of features.

All labels and scores are read before anything is stored. Labels take the place of an earlier import under the same name,
and are stored unscored: `glossator score --labels` scores them on this run's windows. Neuronpedia's files are kept as they
are besides, file by file (published.py), and compared with this run (agreement.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glossator.agents.others.imported import Extent, Imported, extents, read_labels
from glossator.agents.others.score_imported import LabelFiles, store_labels
from glossator.agents.run import Run
from glossator.config import ImportConfig
from glossator.errors import UsageError
from glossator.exchange import agreement, neuronpedia, published, theirs
from glossator.exchange.theirs import Theirs
from glossator.rows import ScoreRow

_PARTS = ("features", "activations", "explanations", "scores")


@dataclass
class _Found:
    """What one argument holds."""

    path: Path
    labels: Path | None = None
    scores: Path | None = None  # Delphi's folder
    features: Path | None = None
    activations: Path | None = None
    explanations: Path | None = None  # Neuronpedia's, which are labels too
    beside: tuple[str, ...] = ()  # files of the folder that are none of these


def import_files(run: Run, paths: Sequence[Path], only: str | None = None, name: str | None = None) -> str:
    """Take files in; returns what came of them, in words. only: the one dictionary that they may be about; name: of the set.

    Raises UsageError, which names file and row, and has stored nothing then.
    """
    known = extents(run.store, only)
    found = [_look(path) for path in paths]
    if name is not None and sum(one.labels is not None for one in found) > 1:
        raise UsageError("--name: names one set of labels; import the other files by themselves")
    labels: list[Imported] = []
    scores: list[Theirs] = []
    for one in found:
        if one.labels is None:
            continue
        labels.append(read_labels(one.labels, known, name))
        one.explanations = one.labels if labels[-1].form == "Neuronpedia" else None
        scores.append(theirs.of_labels(labels[-1]))
        if one.scores is not None:
            scores.append(theirs.of_delphi(one.scores, labels[-1], known))
    _check_names(labels)
    said = [line for one in found for line in _published(run, one, known, name)]
    if labels:
        said.append(store_labels(run, LabelFiles(tuple(labels), tuple(known))))
        said += _store_scores(run, labels, scores)
    return "\n".join(said)


def _look(path: Path) -> _Found:
    """Which parts a folder has, or what a file is. Anything that is no features or activations file is read as labels."""
    found = _Found(path)
    inside = {part: path / part for part in _PARTS if (path / part).is_dir()}
    if path.name == "scores" and path.is_dir() and not inside:
        raise UsageError(
            f"{path}: scores need the labels that they are about; name the folder above, with explanations/"
        )
    if not inside:
        kind = neuronpedia.kind_of(path)
        setattr(found, "labels" if kind in (None, "explanations") else kind, path)
        return found
    found.features, found.activations = inside.get("features"), inside.get("activations")
    found.beside = tuple(sorted(file.name for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz"))))
    if "explanations" in inside:
        found.labels, found.scores = path, inside.get("scores")
    elif "scores" in inside:
        raise UsageError(f"{path}: has scores/ and no explanations/ that they are about; name a folder with both")
    return found


def _published(run: Run, one: _Found, known: dict[str, Extent], name: str | None) -> list[str]:
    """Keep Neuronpedia's files as they are, and say how they go with this run."""
    parts = {kind: path for kind in published.KINDS if (path := getattr(one, kind)) is not None}
    if not parts:
        return []
    source, said = published.source_of(one.path, name), []
    with run.stage("import published", ImportConfig(files=(one.path.name,))) as run_id:
        for kind, path in parts.items():
            inner = path / kind if (path / kind).is_dir() else path
            said.append(published.store_files(run, published.KINDS[kind], inner, source, known, run_id))
            if kind == "features":
                said.append(agreement.features_agree(run.store, source))
            elif kind == "activations":
                said.append(agreement.activations_agree(run.store, source))
    if one.beside:
        said.append(f"{one.path}: {', '.join(one.beside)}: left out; they say nothing of features")
    return said


def _check_names(labels: Sequence[Imported]) -> None:
    of: dict[str, Path] = {}
    for file in labels:
        for name in {one.explainer for one in file.sets}:
            if name in of:
                raise UsageError(
                    f"{file.path}: its labels are called {name}, as those of {of[name]}; rename one of the two"
                )
            of[name] = file.path


def _store_scores(run: Run, labels: Sequence[Imported], scores: Sequence[Theirs]) -> list[str]:
    """In place of what an earlier import of these sets brought."""
    rows: list[ScoreRow] = [row for one in scores for row in one.rows]
    names = sorted({one.explainer for file in labels for one in file.sets})
    said = [f"scores/{name}: no predictions about windows; left out" for one in scores for name in one.left_out]
    if missing := sum(one.unlabelled for one in scores):
        said.append(f"{missing:,} score files are about features without a label; left out")

    def forget(connection: Any) -> None:
        connection.execute(
            "DELETE FROM score WHERE split = ? AND explainer IN (SELECT unnest(?::VARCHAR[]))", [theirs.SPLIT, names]
        )

    stored = run.store.sql(
        "SELECT count(*) FROM score WHERE split = ? AND explainer IN (SELECT unnest(?::VARCHAR[]))",
        [theirs.SPLIT, names],
    )[0][0]
    if not rows and not stored:
        return said
    config = ImportConfig(files=tuple(file.path.name for file in labels))
    with run.stage("import scores", config) as run_id:
        run.store.replace_now(forget, [dataclasses.replace(row, run_id=run_id) for row in rows])
    if rows:
        tools = ", ".join(sorted({row.predictor for row in rows}))
        said.append(
            f"{len(rows):,} scores of others, by {tools}: stored with split {theirs.SPLIT!r}, in no view of ours"
        )
    return said
