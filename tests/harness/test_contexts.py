"""Contexts, windows and splits: nothing is torn, nothing leaks, nothing depends on the order of reading."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glossator.config import CorpusConfig
from glossator.errors import CorpusError
from glossator.harness.contexts import Corpus, mix63, prepare
from glossator.types import MARGIN, PAD, SPLITS, WINDOW, Document

SIZE = 100  # content tokens of a context: no multiple of a window, so the last window of a context is short


def tokenize(texts: Sequence[str]) -> list[list[int]]:
    """Words are numbers here."""
    return [[int(word) for word in text.split()] for text in texts]


def passage(draw: random.Random, length: int) -> str:
    return " ".join(str(draw.randrange(5000)) for _ in range(length))


def documents(n: int, seed: int = 0) -> list[Document]:
    draw = random.Random(seed)
    return [
        Document(f"doc {i}", tuple(passage(draw, draw.randint(1, 350)) for _ in range(draw.randint(1, 3))))
        for i in range(n)
    ]


def prepared(found: Sequence[Document], **config: object) -> Corpus:
    return prepare(found, tokenize, SIZE, CorpusConfig(**config))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return prepared(documents(60))


def test_tokens_are_those_of_the_documents_in_order(corpus: Corpus) -> None:
    expected = [token for d in documents(60) for ids in tokenize(d.passages) for token in ids]
    assert corpus.tokens.tolist() == expected


def test_contexts_never_span_passages_and_never_exceed_their_size(corpus: Corpus) -> None:
    expected, owner = [], []
    for number, document in enumerate(documents(60)):
        for ids in tokenize(document.passages):
            expected += [ids[i : i + SIZE] for i in range(0, len(ids), SIZE)]
            owner += [number] * (-(-len(ids) // SIZE))
    found = [
        corpus.tokens[start : start + length].tolist()
        for start, length in zip(corpus.context_start, corpus.context_length, strict=True)
    ]
    assert found == expected
    assert corpus.context_document.tolist() == owner


def test_windows_lie_on_the_grid_of_their_context_and_cover_every_token_once(corpus: Corpus) -> None:
    covered = np.zeros(len(corpus.tokens), int)
    for context, start, length in zip(corpus.window_context, corpus.window_start, corpus.window_length, strict=True):
        offset = start - corpus.context_start[context]
        assert offset % WINDOW == 0
        assert length == min(WINDOW, corpus.context_length[context] - offset) > 0
        covered[start : start + length] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("both_sides", [True, False])
def test_margins_show_the_neighbouring_tokens_and_never_cross_a_context(corpus: Corpus, both_sides: bool) -> None:
    index = np.arange(len(corpus.window_start))[::-1]  # any order of windows may be asked for
    shown = corpus.windows(index, both_sides=both_sides)
    assert shown.ids.shape == (len(index), MARGIN + WINDOW + (MARGIN if both_sides else 0))
    assert shown.start == MARGIN
    assert shown.window_id.tolist() == corpus.window_id[index].tolist()
    for row, window in zip(shown.ids, index, strict=True):
        context = corpus.window_context[window]
        low, length = corpus.context_start[context], corpus.context_length[context]
        at = corpus.window_start[window] - MARGIN
        for column, token in enumerate(row):
            inside = low <= at + column < low + length
            assert token == (corpus.tokens[at + column] if inside else PAD)


def test_the_mask_of_shown_windows_counts_their_tokens(corpus: Corpus) -> None:
    shown = corpus.windows(np.arange(len(corpus.window_start)), both_sides=True)
    assert shown.mask.sum(1).tolist() == corpus.window_length.tolist()


# ------------------------------------------------------------------ identity and order


def test_window_ids_are_unique_and_63_bits(corpus: Corpus) -> None:
    assert len(np.unique(corpus.window_id)) == len(corpus.window_id)
    assert corpus.window_id.min() >= 0


def facts(corpus: Corpus) -> dict[tuple[str, int], tuple[int, str]]:
    """(document, window within it) -> (id, split)."""
    found: dict[tuple[str, int], tuple[int, str]] = {}
    first: dict[int, int] = {}
    for window, document in enumerate(corpus.window_document.tolist()):
        ordinal = window - first.setdefault(document, window)
        split = SPLITS[corpus.window_split[window]]
        found[corpus.names[document], ordinal] = (int(corpus.window_id[window]), split)
    return found


def test_window_ids_and_splits_do_not_depend_on_the_order_of_reading(corpus: Corpus) -> None:
    found = documents(60)
    copies = [Document(f"a copy of {d.name}", d.passages) for d in found if d.name < "doc 4"]  # one cluster with it
    shuffled = [*found, *copies]
    random.Random(9).shuffle(shuffled)
    assert facts(prepared(shuffled)) == facts(prepared([*found, *copies]))
    assert facts(prepared(documents(60)[::-1])) == facts(corpus)


def test_window_ids_and_splits_do_not_depend_on_the_other_documents(corpus: Corpus) -> None:
    fewer = facts(prepared(documents(60)[::2]))
    assert fewer.items() <= facts(corpus).items()


def test_documents_of_one_name_get_names_and_window_ids_of_their_own() -> None:
    draw = random.Random(1)
    names = ["a", "a", "a#2", "a", *(f"other {i}" for i in range(30))]
    corpus = prepared([Document(name, (passage(draw, 50),)) for name in names])
    assert len(set(corpus.names)) == len(names)
    assert len(np.unique(corpus.window_id)) == len(corpus.window_id)


def test_the_digest_tells_apart_what_a_harvest_would(corpus: Corpus) -> None:
    found = documents(60)
    joined = [Document(found[0].name, (" ".join(found[0].passages),)), *found[1:]]
    renamed = [Document("other", found[0].passages), *found[1:]]
    assert len(found[0].passages) > 1
    digests = {
        corpus.digest,
        prepared(joined).digest,
        prepared(renamed).digest,
        prepared(found, seed=5).digest,
        prepared(found[:-1]).digest,
    }
    assert len(digests) == 5
    assert prepared(found).digest == corpus.digest


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**63 - 1), min_size=2, max_size=50, unique=True))
def test_mix63_keeps_different_numbers_apart(numbers: list[int]) -> None:
    mixed = mix63(np.asarray(numbers, np.int64))
    assert len(set(mixed.tolist())) == len(numbers)
    assert (mixed >= 0).all()


# ------------------------------------------------------------------ splits


def test_no_document_is_in_two_splits_and_shares_are_about_those_asked_for() -> None:
    corpus = prepared([Document(str(i), (passage(random.Random(i), 40),)) for i in range(600)])
    assert len(corpus.split) == 600  # one number a document: a document cannot be in two
    share = np.bincount(corpus.split, minlength=3) / 600
    assert np.abs(share - [0.5, 0.2, 0.3]).max() < 0.07
    other = prepared([Document(str(i), (passage(random.Random(i), 40),)) for i in range(600)], seed=1)
    assert 0.2 < (other.split == corpus.split).mean() < 0.6  # 0.38 by chance


def edited(text: str, word: int, every: int) -> str:
    return " ".join(str(word) if i % every == every - 1 else t for i, t in enumerate(text.split()))


@pytest.mark.parametrize("seed", range(3))
def test_near_duplicates_share_a_split(seed: int) -> None:
    draw = random.Random(seed)
    originals = [passage(draw, 160) for _ in range(50)]
    copies = [edited(text, 7, 80) for text in originals]  # two words of 160 differ: 0.7 of the 13-grams are shared
    found = [Document(f"original {i}", (text,)) for i, text in enumerate(originals)]
    found += [Document(f"copy {i}", (text,)) for i, text in enumerate(copies)]
    corpus = prepared(found)
    assert (corpus.split[:50] == corpus.split[50:]).all()
    assert (corpus.cluster[:50] == corpus.cluster[50:]).all()
    assert len(np.unique(corpus.cluster)) == 50


def test_documents_that_share_few_13_grams_are_not_joined() -> None:
    draw = random.Random(0)
    originals = [passage(draw, 160) for _ in range(40)]
    found = [Document(f"original {i}", (text,)) for i, text in enumerate(originals)]
    found += [Document(f"edited {i}", (edited(t, 7, 16),)) for i, t in enumerate(originals)]  # 0.1 is shared
    assert len(np.unique(prepared(found).cluster)) == 80


def test_at_a_share_of_one_only_equal_documents_are_joined() -> None:
    draw = random.Random(0)
    originals = [passage(draw, 160) for _ in range(30)]
    found = [Document(f"original {i}", (text,)) for i, text in enumerate(originals)]
    found += [Document(f"equal {i}", (text,)) for i, text in enumerate(originals[:10])]
    found += [Document(f"edited {i}", (edited(text, 7, 80),)) for i, text in enumerate(originals[10:])]
    assert len(np.unique(prepared(found, near_duplicate=1.0).cluster)) == 50


def test_equal_texts_shorter_than_a_13_gram_share_a_split() -> None:
    draw = random.Random(0)
    texts = [passage(draw, 5) for _ in range(40)]
    corpus = prepared([Document(f"{copy} {i}", (t,)) for copy in "ab" for i, t in enumerate(texts)])
    assert (corpus.split[:40] == corpus.split[40:]).all()


def test_a_chain_of_near_duplicates_is_one_group() -> None:
    words = passage(random.Random(4), 400).split()
    chain = [Document(f"link {i}", (" ".join(words[i * 30 : i * 30 + 200]),)) for i in range(6)]
    corpus = prepared([*chain, *documents(40)])
    assert len(set(corpus.cluster[:6].tolist())) == 1
    assert len(set(corpus.split[:6].tolist())) == 1


# ------------------------------------------------------------------ limits and errors


@pytest.mark.parametrize("limit", [1500, 1501, 4000])
def test_the_token_limit_is_met_exactly(limit: int) -> None:
    whole = [token for d in documents(200) for ids in tokenize(d.passages) for token in ids]
    corpus = prepared(documents(200), tokens=limit, seed=2)
    assert corpus.tokens.tolist() == whole[:limit]


def test_reading_stops_at_the_token_limit() -> None:
    read = 0

    def source() -> Document:
        nonlocal read
        read += 1
        return Document(str(read), (passage(random.Random(read), 100),))

    prepared(list_until(source, 1000), tokens=2000)
    assert read < 30


def list_until(source: Callable[[], Document], n: int) -> Sequence[Document]:
    return (source() for _ in range(n))  # type: ignore[return-value]


def test_documents_without_tokens_are_left_out() -> None:
    found = [Document("empty", ("", "")), *documents(40), Document("blank", (" ",))]
    assert not {"empty", "blank"} & set(prepared(found).names)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_documents_for_three_splits_are_refused(n: int) -> None:
    with pytest.raises(CorpusError, match=rf"the corpus has {n} documents? .*too few to fill the split"):
        prepared(documents(n))


def test_copies_of_one_document_are_too_few_documents() -> None:
    text = passage(random.Random(0), 300)
    with pytest.raises(CorpusError, match="30 documents in 1 group: "):
        prepared([Document(str(i), (text,)) for i in range(30)])


def test_a_corpus_of_no_tokens_is_refused() -> None:
    with pytest.raises(CorpusError, match="no tokens"):
        prepared([Document("empty", ("",))])


def test_shares_that_leave_no_test_split_are_refused() -> None:
    with pytest.raises(CorpusError, match="explain_share"):
        prepared(documents(40), explain_share=0.7, select_share=0.3)
