"""The planted truth: descriptions that hold, text in which every feature is active, and a double that agrees."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from glossator.config import CorpusConfig, HarvestConfig
from glossator.harness.contexts import prepare
from glossator.harness.feature_table import statuses
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.subject import batches
from glossator.planted import planted_documents, planted_features, planted_tokens, planted_vocabulary
from glossator.types import WINDOW
from tests.harness.brute import dense_windows
from tests.harness.planted_runs import planted_truth

FEATURES = {feature.name: feature for feature in planted_features()}


def active(name: str, text: str) -> list[str]:
    """The tokens on which a feature is active."""
    tokens = planted_tokens(text)
    return [t for t, value in zip(tokens, FEATURES[name].activation(tokens), strict=True) if value > 0]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("falcon", "a falcon saw falcons", ["falcon"]),
        ("kitchen", "Butter in the oven, not bread", ["butter", "oven"]),
        ("colour", "red cup, grey cup, blue", ["red", "blue"]),
        ("century", "1899 1900 1950 1999 2000 19", ["1900", "1950", "1999"]),
        ("river-bank", "river bank, bank, river old bank", ["bank"]),
        ("night-harbour", "harbour at night the old harbour", ["harbour"]),
        ("night-harbour", "night a b c d harbour", []),
        ("guitar-or-very", "guitar very old and very", ["guitar", "old"]),
        ("bear", "polar bear saw a bear", ["bear"]),
        ("first", "one two one", ["one"]),
        ("wet", "rain and flood", ["rain", "flood"]),
        ("-ing", "working on a thing, worked", ["working", "thing"]),
    ],
)
def test_features_do_what_their_descriptions_say(name: str, text: str, expected: list[str]) -> None:
    assert active(name, text) == expected


def test_a_topic_fills_its_window_and_no_other() -> None:
    tokens = ["word"] * 70
    tokens[40] = "tide"
    values = FEATURES["sea"].activation(tokens)
    assert [value > 0 for value in values] == [False] * WINDOW + [True] * WINDOW + [False] * 6


def test_a_graded_feature_has_two_strengths() -> None:
    rain, flood = FEATURES["wet"].activation(["rain", "flood"])
    assert 0 < rain < flood


@pytest.mark.parametrize("feature", planted_features(), ids=lambda f: f.name)
def test_features_are_functions_of_tokens_alone(feature) -> None:  # type: ignore[no-untyped-def]
    words = [w for document in planted_documents(20) for p in document.passages for w in p.split()]
    values = feature.activation(words)
    assert len(values) == len(words)
    assert values == feature.activation(tuple(words))
    assert min(values) == 0 < max(values)
    assert feature.activation([]) == []


def test_kinds_differ_and_names_are_unique() -> None:
    assert len(FEATURES) == len(planted_features()) >= 10
    assert len({feature.kind for feature in planted_features()}) >= 10
    assert len({feature.description for feature in planted_features()}) == len(FEATURES)


# ------------------------------------------------------------------ documents


def test_documents_depend_on_the_seed_alone() -> None:
    assert planted_documents(20, 1) == planted_documents(20, 1)
    assert planted_documents(20, 1) == planted_documents(30, 1)[:20]
    assert planted_documents(20, 1) != planted_documents(20, 2)


def test_documents_hold_words_of_the_vocabulary_only() -> None:
    words = {w for d in planted_documents(200) for p in d.passages for w in planted_tokens(p)}
    assert words <= set(planted_vocabulary())
    assert list(planted_vocabulary()) == sorted(set(planted_vocabulary()))


@pytest.mark.parametrize("seed", range(3))
def test_every_feature_has_windows_enough_to_be_scored(seed: int) -> None:
    subject = PlantedSubject()
    corpus = prepare(planted_documents(400, seed), subject.tokenize, 126, CorpusConfig())
    maxima = dense_windows(corpus, planted_truth(subject, corpus)).max(1) > 0
    windows = np.stack([maxima[corpus.window_split == split].sum(0) for split in range(3)], 1)
    status, reason = statuses(windows, len(corpus.window_id), HarvestConfig())
    assert set(status) == {"waiting"}, reason
    assert len(set(corpus.cluster.tolist())) == 400  # no near-duplicates by accident


def test_near_misses_are_in_the_text() -> None:
    text = " . ".join(p for d in planted_documents(100) for p in d.passages)
    tokens = planted_tokens(text)
    for near, miss in (("polar", "bear"), ("the", "bank"), ("noon", "the")):
        assert any(pair == (near, miss) for pair in pairwise(tokens))
    assert any(len(t) == 4 and t.isdigit() and not t.startswith("19") for t in tokens)


# ------------------------------------------------------------------ the doubles


def spelled(subject: PlantedSubject, ids: Sequence[int]) -> list[str]:
    return [subject.vocabulary.pieces[i] for i in ids]


def test_the_tokenizer_knows_the_words_and_masks_what_it_does_not() -> None:
    subject = PlantedSubject()
    (ids,) = subject.tokenize(["The FALCON ate [SEP] zebras."])
    assert spelled(subject, ids) == ["the", "falcon", "[UNK]", "[SEP]", "[UNK]", "."]
    (batch,) = batches([ids], subject, batch_tokens=512)
    assert spelled(subject, batch.ids[0][batch.content[0]]) == ["the", "falcon", "."]


def test_coordinates_are_the_planted_features_whatever_shares_the_batch() -> None:
    subject = PlantedSubject()
    texts = [p for d in planted_documents(30) for p in d.passages] + ["falcon", ""]
    sequences = subject.tokenize(texts)
    seen = 0
    for batch in batches(sequences, subject, batch_tokens=1024):
        acts = subject.activations(batch)
        assert acts.shape == (*batch.ids.shape, len(FEATURES))
        assert not acts[~batch.content].any()
        for row, member in enumerate(batch.row_context):
            if member >= 0:
                words = spelled(subject, sequences[member])
                expected = [
                    list(column) for column in zip(*(f.activation(words) for f in subject.features), strict=True)
                ]
                assert acts[row][batch.content[row]].tolist() == expected
                seen += 1
    assert seen == len(texts)


def test_the_dictionary_is_the_identity() -> None:
    dictionary = PlantedDictionary()
    (batch,) = batches(PlantedSubject().tokenize(["a falcon"]), PlantedSubject(), batch_tokens=512)
    acts = PlantedSubject().activations(batch)[0]
    assert (dictionary.encode(acts) == acts).all() and (dictionary.decode(acts, acts) == acts).all()
    assert dictionary.directions().sum() == dictionary.n_features == dictionary.d_in == len(FEATURES)


def test_other_features_are_another_subject() -> None:
    few = PlantedSubject(planted_features()[:3])
    assert few.d_hook == 3
    assert few.identity() != PlantedSubject().identity()
    assert PlantedSubject().identity() == PlantedSubject().identity()
    assert PlantedSubject(context_size=64).identity() != PlantedSubject().identity()
