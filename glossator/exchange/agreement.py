"""Features and activations that another tool exported, held against this run: is it the same dictionary at the same hook?

Nothing of them is stored: numbers of another corpus would stand beside ours as if they were comparable. What is said is how
well they go together, which a wrong hook, normalisation or dictionary spoils: the rank correlation of densities and of
maxima over features, and how often the token that was strongest there is among the feature's top tokens here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glossator.agents.others.imported import Extent, places
from glossator.agents.others.label_files import LabelFile, LabelRow
from glossator.exchange.neuronpedia import read_activations, read_features
from glossator.store.store import Store
from glossator.types import Floats

_LEAST = 10  # features without which a rank correlation says nothing
_DOUBTFUL = 0.5


def features_agree(store: Store, path: Path, known: Mapping[str, Extent]) -> str:
    """Densities and maxima of a features file beside the run's. Raises UsageError with file and row."""
    rows = list(read_features(path))
    ours = _ours(store, "density, max_activation", known)
    pairs: dict[str, list[tuple[float, float]]] = {"density": [], "maximum": []}
    named = [LabelRow(where, row.index, None, row.layer) for where, row in rows]
    found, _ = places(LabelFile(path, "Neuronpedia", named), known)
    n_known = 0
    for (_, row), (_, dictionary, index) in zip(rows, found, strict=True):
        density, maximum = ours.get((dictionary, index), (None, None))
        n_known += density is not None
        for name, a, b in (("density", row.frac_nonzero, density), ("maximum", row.maxActApprox, maximum)):
            if a is not None and b is not None:
                pairs[name].append((a, b))
    said = [f"{path}: {len(rows):,} features, {n_known:,} of them measured here; nothing of them is stored"]
    for name, values in pairs.items():
        said.append(f"  {name}: {_together(np.asarray(values, float).reshape(-1, 2))}")
    return "\n".join(said)


def _together(values: Floats) -> str:
    """values [n, 2]: theirs, ours."""
    from scipy.stats import spearmanr

    n = len(values)
    if n < _LEAST:
        return f"of {n} features, too few to compare (at least {_LEAST})"
    if len(np.unique(values[:, 0])) < 2 or len(np.unique(values[:, 1])) < 2:
        return f"of {n:,} features, all alike: nothing to compare"
    rank = float(spearmanr(values[:, 0], values[:, 1]).statistic)
    both = values[(values > 0).all(1)]
    ratio = f", the median feature's {np.median(both[:, 0] / both[:, 1]):.3g} times ours" if len(both) else ""
    doubt = "; do they belong to this dictionary, hook and normalisation?" if rank < _DOUBTFUL else ""
    return f"rank correlation {rank:.2f} over {n:,} features{ratio}{doubt}"


def activations_agree(store: Store, path: Path, known: Mapping[str, Extent]) -> str:
    """The strongest token of each feature in an activations file beside the run's top tokens. Raises UsageError."""
    best: dict[tuple[str, str], tuple[float, str, str]] = {}
    n = 0
    for n, (where, row) in enumerate(read_activations(path), 1):  # noqa: B007
        if row.values:
            at = int(np.argmax(row.values))
            key = (row.layer, row.index)
            if key not in best or row.values[at] > best[key][0]:
                best[key] = (row.values[at], row.tokens[at], where)
    named = [LabelRow(where, index, None, layer) for (layer, index), (_, _, where) in best.items()]
    found, _ = places(LabelFile(path, "Neuronpedia", named), known)
    ours = _ours(store, "top_tokens", known)
    seen = []
    for (_, token, _), (_, dictionary, index) in zip(best.values(), found, strict=True):
        top = ours.get((dictionary, index), (None,))[0]
        if top:
            seen.append(_bare(token) in {_bare(name) for name in top})
    said = f"{path}: {n:,} activations of {len(best):,} features; nothing of them is stored"
    if len(seen) < _LEAST:
        return f"{said}\n  strongest tokens: of {len(seen)} features, too few to compare (at least {_LEAST})"
    share = float(np.mean(seen))
    doubt = "; do they belong to this dictionary, hook and tokenizer?" if share < _DOUBTFUL else ""
    return f"{said}\n  strongest token there is among the feature's top tokens here for {share:.0%} of {len(seen):,} features{doubt}"


def _bare(token: str) -> str:
    """A token without the marks that tokenizers put at the edges of words."""
    return token.strip().removeprefix("##").lstrip("▁Ġ").strip().lower()


def _ours(store: Store, columns: str, known: Mapping[str, Extent]) -> dict[tuple[str, int], tuple[Any, ...]]:
    rows = store.sql(f"SELECT dictionary, feature, {columns} FROM feature")
    return {(name, feature): tuple(rest) for name, feature, *rest in rows if name in known}
