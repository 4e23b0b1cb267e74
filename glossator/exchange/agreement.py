"""Features and activations that another tool exported, held against this run: is it the same dictionary at the same hook?

Numbers of another corpus are no scores of ours, so they are not mixed. What is said is how well they go together, which a
wrong hook, normalisation or dictionary spoils: the rank correlation of densities and of maxima over features, and how often
the token that was strongest there is among the feature's top tokens here.
"""

from __future__ import annotations

import numpy as np

from glossator.store.store import Store
from glossator.types import Floats

_LEAST = 10  # features without which a rank correlation says nothing
_DOUBTFUL = 0.5
_PAIRS = (
    "SELECT i.{theirs}, f.{ours} FROM imported_feature i JOIN feature f USING (dictionary, feature) "
    "WHERE i.source = ? AND i.{theirs} IS NOT NULL AND f.{ours} IS NOT NULL ORDER BY dictionary, feature"
)
_TOKENS = (
    "SELECT p.their_token, f.top_tokens FROM published p JOIN feature f USING (dictionary, feature) "
    "WHERE p.source = ? AND p.their_token IS NOT NULL AND len(f.top_tokens) > 0"
)


def features_agree(store: Store, source: str) -> str:
    """Densities and maxima that an import brought beside the run's, in words."""
    named = "SELECT count(*), count(f.density) FROM imported_feature i LEFT JOIN feature f USING (dictionary, feature) WHERE source = ?"
    n, here = store.sql(named, [source])[0]
    said = [f"  {n:,} features, {here:,} of them measured here"]
    for name, column in (("density", "density"), ("maximum", "max_activation")):
        pairs = store.sql(_PAIRS.format(theirs=column, ours=column), [source])
        said.append(f"  {name}: {_together(np.asarray(pairs, float).reshape(-1, 2))}")
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


def activations_agree(store: Store, source: str) -> str:
    """The strongest token of each feature that an import brought beside the run's top tokens, in words."""
    seen = [_bare(token) in {_bare(name) for name in top} for token, top in store.sql(_TOKENS, [source])]
    if len(seen) < _LEAST:
        return f"  strongest tokens: of {len(seen)} features, too few to compare (at least {_LEAST})"
    share = float(np.mean(seen))
    doubt = "; do they belong to this dictionary, hook and tokenizer?" if share < _DOUBTFUL else ""
    return f"  strongest token there is among the feature's top tokens here for {share:.0%} of {len(seen):,} features{doubt}"


def _bare(token: str) -> str:
    """A token without the marks that tokenizers put at the edges of words."""
    return token.strip().removeprefix("##").lstrip("▁Ġ").strip().lower()
