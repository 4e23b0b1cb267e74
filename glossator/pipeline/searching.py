"""Labels by meaning: vectors of labels are made by `embed` (and by the scorer `embedding`), and searched here.

What is searched is what is stored. A label without a vector is not seen, and that is said; nothing is embedded on the way
but the words that are looked for, so that a run that is being written can be searched as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glossator.agents.run import Progress, Run, silent
from glossator.errors import UsageError
from glossator.store import similar
from glossator.store.records import check_features
from glossator.store.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

    from glossator.agents.scoring.label_vectors import LabelEncoder


def embed(store: Store, folder: Path | None = None, progress: Progress = silent) -> str:
    """Vectors of the labels of a run file that have none. Raises UsageError for an encoder that cannot be used."""
    from glossator.agents.scoring.label_vectors import embed_labels

    return embed_labels(store, _encoder(folder), progress)


def search_similar(
    store: Store, text: str, limit: int = 20, folder: Path | None = None, encoder: LabelEncoder | None = None
) -> tuple[pa.Table, str | None]:
    """The labels that mean something like the text, nearest first, and what to say where labels could not be seen.

    folder: of the encoder, the extra demo's if not given; encoder: one that is at hand. Raises UsageError where it has made no vectors.
    """
    if not text.strip():
        raise UsageError('--similar: say what labels should be about, such as "capital cities"')
    similar.chosen(store)  # before an encoder is loaded for nothing
    reader = encoder or _encoder(folder)
    which = similar.chosen(store, reader.identity, reader.name)
    return similar.similar(store, reader([text])[0], which.digest, limit), which.lacking(store.path)


def search_similar_to(
    run: Run, feature: int, limit: int = 20, folder: Path | None = None
) -> tuple[pa.Table, str | None]:
    """The labels of all dictionaries that mean something like that of a feature of this one; else as `search_similar`.

    folder: of the encoder; if not given, the vectors of the one that has read most labels. Raises UsageError, FeatureError.
    """
    check_features(run.store, run.dictionary, [feature])
    reader = _encoder(folder) if folder is not None else None
    which = similar.chosen(run.store, reader.identity, reader.name) if reader else similar.chosen(run.store)
    found = similar.similar_to(run.store, run.dictionary, feature, run.name(feature), which.digest, limit)
    return found, which.lacking(run.store.path)


def _encoder(folder: Path | None) -> LabelEncoder:
    from glossator.harness.embedder import Embedder

    return Embedder(folder)
