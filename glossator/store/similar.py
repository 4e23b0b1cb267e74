"""Labels by meaning: vectors of labels in the table `label_vector`, and the labels whose vectors lie nearest to one.

A vector belongs to a text, not to a feature: equal labels share one, and a label that changed has none until it is
embedded. It also belongs to an encoder, weights and pooling included: cosines of two encoders are never compared.

The search looks at every vector (0.3 s for 200,000 of width 384 on two cores): exact, and without an index that would have
to be kept fresh. Who makes vectors is not known here; see agents/scoring/label_vectors.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from glossator.errors import UsageError
from glossator.store.store import Store
from glossator.types import Floats

_LABELS = "SELECT DISTINCT label FROM label WHERE trim(label) <> ''"
_HELD = f"""
SELECT encoder, encoder_digest, count(DISTINCT text) AS n, (SELECT count(*) FROM ({_LABELS})) AS texts
FROM label_vector WHERE text IN ({_LABELS}) GROUP BY ALL ORDER BY n DESC, encoder, encoder_digest
"""
_NEAR = """
WITH near AS (SELECT text, list_cosine_similarity(vector, ?::FLOAT[]) AS cosine FROM label_vector WHERE encoder_digest = ?)
SELECT l.dictionary, l.feature, l.label, round(n.cosine, 2) AS cosine, round(l.simulation, 2) AS simulation,
       round(l.adversarial, 2) AS adversarial, l.density, l.status
FROM label l JOIN near n ON n.text = l.label WHERE NOT (l.dictionary = ? AND l.feature = ?)
ORDER BY n.cosine DESC, l.simulation DESC NULLS LAST, l.dictionary, l.feature LIMIT {limit}
"""
_OWN = """
SELECT l.label, v.vector FROM label l LEFT JOIN label_vector v ON v.text = l.label AND v.encoder_digest = ?
WHERE l.dictionary = ? AND l.feature = ?
"""
_BATCH = 10_000  # rows of an insertion


@dataclass(frozen=True)
class Held:
    """How many of the run's different labels an encoder has vectors of. digest: of its weights and pooling."""

    encoder: str
    digest: str
    n: int
    texts: int

    def lacking(self, path: str) -> str | None:
        """What to say where labels have none."""
        if self.n == self.texts:
            return None
        return f"{self.texts - self.n:,} of {self.texts:,} labels have no vector by {self.encoder} and are not seen; run: glossator embed {path}"


def held(store: Store) -> list[Held]:
    """Of which encoders there are vectors, that of most labels first."""
    return [Held(str(name), str(digest), int(n), int(texts)) for name, digest, n, texts in store.sql(_HELD)]


def chosen(store: Store, digest: str | None = None, encoder: str = "") -> Held:
    """Whose vectors are to be searched: those of most labels, or of the encoder that is named. Raises UsageError."""
    found = held(store)
    if not found:
        raise UsageError(f"{store.path}: no label has a vector yet; run: glossator embed {store.path}")
    for one in found:
        if digest in (None, one.digest):
            return one
    names = ", ".join(sorted({one.encoder for one in found}))
    raise UsageError(
        f"{store.path}: its labels have vectors by {names}, and none by this {encoder}; name that encoder with --embedder, or run "
        f"`glossator embed {store.path}` with this one"
    )


def similar(store: Store, vector: Floats, digest: str, limit: int) -> pa.Table:
    """The labels nearest to a vector of that encoder, nearest first; of equal ones best simulation first."""
    return _near(store, vector.tolist(), digest, limit, ("", -1))


def similar_to(store: Store, dictionary: str, feature: int, name: str, digest: str, limit: int) -> pa.Table:
    """The labels nearest to that of a feature, of all dictionaries and without itself. Raises UsageError where it has no vector."""
    label, vector = next(iter(store.sql(_OWN, [digest, dictionary, feature])), (None, None))
    if label is None or not str(label).strip():
        raise UsageError(f"--similar-to {name}: this feature of {dictionary} has no label; glossator show says why")
    if vector is None:
        raise UsageError(
            f"--similar-to {name}: its label was written after labels were embedded; run: glossator embed {store.path}"
        )
    return _near(store, vector, digest, limit, (dictionary, feature))


def _near(store: Store, vector: Sequence[float], digest: str, limit: int, left_out: tuple[str, int]) -> pa.Table:
    written = str([float(x) for x in vector])
    return store.arrow(_NEAR.format(limit=int(limit)), [written, digest, *left_out])


def lacking(store: Store, digest: str) -> list[str]:
    """The different labels that this encoder has no vector of, short ones first: an encoder's batches are of like length."""
    query = f"FROM ({_LABELS}) l ANTI JOIN label_vector v ON v.text = l.label AND v.encoder_digest = ? ORDER BY len(label), label"
    return [str(text) for (text,) in store.sql(query, [digest])]


def keep(store: Store, encoder: str, digest: str, texts: Sequence[str], vectors: Floats) -> None:
    """Store vectors [n, width] of these texts, and forget those of texts that are no label any more: one transaction."""

    def forget(connection: Any) -> None:
        connection.execute(f"DELETE FROM label_vector WHERE encoder_digest = ? AND text NOT IN ({_LABELS})", [digest])

    def tables() -> Any:
        for begin in range(0, len(texts), _BATCH):
            some = np.asarray(vectors[begin : begin + _BATCH], np.float32)
            rows = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), some.shape[1])
            n = len(some)
            yield (
                "label_vector",
                pa.table(
                    {
                        "text": list(texts[begin : begin + _BATCH]),
                        "encoder": [encoder] * n,
                        "encoder_digest": [digest] * n,
                        "vector": rows.cast(pa.list_(pa.float32())),
                    }
                ),
            )

    store.put_tables(tables(), forget)
