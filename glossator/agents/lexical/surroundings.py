"""What the fits of all features share: how often tokens, classes and contexts stand in `explain`, and its background."""

from __future__ import annotations

import numpy as np

from glossator.scorers.patterns import SPAN_CLASSES
from glossator.scorers.rule import Lexicon, shifted
from glossator.types import PAD, Ints, Vocabulary, Windows


class Surroundings:
    """What all features of a run share: how often each token and class stands in `explain`, and its background."""

    def __init__(self, lexicon: Lexicon, counts: Ints, neighbours: Ints, background: Windows, n_corpus: int) -> None:
        self.lexicon, self.counts, self.windows = lexicon, counts.astype(np.float64), background
        self.neighbours = np.concatenate(
            [np.arange(len(counts))[:, None], neighbours], 1
        )  # [V, 1 + k], PAD where fewer
        self.stem = stems(lexicon.vocabulary)
        self.weight = n_corpus / max(len(background), 1)
        scored = background.ids[:, background.scored]
        self.previous, self.next = (
            shifted(background.ids, background, -1),
            shifted(background.ids, background, 1),
        )
        self.flat_previous, self.flat_next = np.ravel(self.previous), np.ravel(self.next)
        self.class_counts = lexicon.table @ self.counts
        flat = scored.ravel()
        self.order = np.argsort(flat, kind="stable")
        self.sorted_tokens = flat[self.order]
        bits = lexicon.spans.bits(background)[:, background.scored]
        self.span_counts = np.stack([((bits >> np.uint32(i)) & 1).sum(1) for i in range(len(SPAN_CLASSES))], 1)
        self.lengths = background.mask.sum(1)
        self.starts = ((self.previous == PAD) & background.mask).sum(1)
        shown = background.ids
        row = np.repeat(np.arange(len(shown)), shown.shape[1])
        pairs = np.unique(np.stack([shown.ravel(), row], 1), axis=0)
        self.present_token, self.present_row = pairs[:, 0], pairs[:, 1]

    def occurrences(self, token: int) -> Ints:
        """Flat positions of a token in the scored parts of the background."""
        a, b = np.searchsorted(self.sorted_tokens, [token, token + 1])
        return np.asarray(self.order[a:b])

    def holding(self, token: int) -> Ints:
        """Background windows that show the token."""
        a, b = np.searchsorted(self.present_token, [token, token + 1])
        return np.asarray(self.present_row[a:b])


def stems(vocabulary: Vocabulary) -> Ints:
    """[V]: a number for the Snowball stem of each whole word of three letters and more, -1 for other tokens."""
    import snowballstemmer

    stemmer = snowballstemmer.stemmer("english")
    numbers: dict[str, int] = {}
    out = np.full(len(vocabulary), -1, np.int64)
    for token, piece in enumerate(vocabulary.pieces):
        if vocabulary.starts_word[token] and not vocabulary.special[token] and piece.isalpha() and len(piece) > 2:
            out[token] = numbers.setdefault(stemmer.stemWord(piece.lower()), len(numbers))
    return out
