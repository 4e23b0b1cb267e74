"""The planted family: descriptions that hold, near misses that occur and are rare, and no feature that fires by accident."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest

from glossator.config import CorpusConfig, HarvestConfig
from glossator.harness.contexts import prepare
from glossator.harness.feature_table import statuses
from glossator.harness.planted_run import doubles
from glossator.planted import Activation, PlantedFeature, planted_tokens
from glossator.planted_family import (
    KINDS,
    MOST,
    Planted,
    filled,
    planted,
    planted_family,
    planted_family_documents,
    planted_family_vocabulary,
    sentence,
)
from glossator.planted_family.words import ENDINGS
from glossator.types import WINDOW
from tests.harness.brute import dense_windows
from tests.harness.planted_runs import planted_truth

FAMILY = planted(MOST, 0)
BY_NAME = {one.feature.name: one.feature for one in FAMILY}


@cache
def passages() -> list[list[str]]:
    return [planted_tokens(p) for d in planted_family_documents(MOST, 0) for p in d.passages]


@cache
def with_word() -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, tokens in enumerate(passages()):
        for word in set(tokens):
            found.setdefault(word, []).append(number)
    return found


def places(activation: Activation, words: Sequence[str]) -> set[tuple[int, int]]:
    """Where it is active, in the passages that hold one of these words."""
    chosen = sorted({number for word in words for number in with_word().get(word, ())})
    return {
        (number, i) for number in chosen for i, value in enumerate(activation(passages()[number])) if value > 0
    }  # fmt: skip


def words_about(one: Planted) -> list[str]:
    """All words that the phrases of a feature and of its neighbour hold; slots are left out."""
    beside = next(other for other in FAMILY if other.feature.name == one.feature.neighbour)
    phrases = (*one.fires, *one.misses, *beside.fires, *beside.misses)
    return sorted({word for phrase in phrases for word in phrase.split() if word.islower() or word.isdecimal()} - {"the", "by", "with", "of", "map"})  # fmt: skip


def test_it_is_a_pair_of_each_of_ten_kinds_in_every_block() -> None:
    assert len(planted_family()) == MOST >= 200 and len(KINDS) == 10
    assert Counter(f.kind for f in planted_family(40)) == dict.fromkeys(KINDS, 4)
    assert len({f.name for f in planted_family()}) == len({f.description for f in planted_family()}) == MOST


@pytest.mark.parametrize("n", [0, 10, 30, MOST + 20])
def test_other_numbers_are_refused_in_words(n: int) -> None:
    with pytest.raises(ValueError, match=f"{n} planted features: take a multiple of 20, at most {MOST}"):
        planted_family(n)


def test_features_and_text_depend_on_number_and_seed_alone() -> None:
    def described(n: int, seed: int) -> list[str]:
        return [one.feature.description for one in planted(n, seed)]

    assert described(40, 0) == described(40, 0) == described(60, 0)[:40] != described(40, 1)
    assert planted_family_documents(20, 1, 5) == planted_family_documents(20, 1, 9)[:5]
    assert planted_family_documents(20, 1, 5) != planted_family_documents(20, 2, 5)


def test_neighbours_are_mutual_and_correlated_features_are_of_another_kind() -> None:
    for feature in BY_NAME.values():
        beside, together = BY_NAME[str(feature.neighbour)], BY_NAME[str(feature.correlated)]
        assert beside.neighbour == feature.name != beside.name and beside.kind == feature.kind
        assert together.correlated == feature.name and together.kind != feature.kind


@pytest.mark.parametrize("one", FAMILY, ids=lambda one: one.feature.name)
def test_its_phrases_fire_and_its_near_misses_do_not(one: Planted) -> None:
    draw = random.Random(one.feature.name)
    begin = (
        []
        if "late" not in one.feature.name
        else planted_tokens("it was ADJ again . they waited near the PLACE . it . was .")
    )
    for phrases, fires in ((one.fires[:20], True), (one.misses, False)):
        for phrase in phrases:
            tokens = [*begin, *planted_tokens(sentence(draw, phrase))]
            assert any(one.feature.activation(tokens)) is fires, tokens


@pytest.mark.parametrize("one", FAMILY, ids=lambda one: one.feature.name)
def test_almost_right_descriptions_err_to_their_side_in_the_text(one: Planted) -> None:
    feature, words = one.feature, words_about(one)
    right = places(feature.activation, words)
    about = {name: places(nearly.activation, words) for name, nearly in feature.almost.items()}
    assert about["narrower"] and about["narrower"] < right < about["broader"]
    assert ("missing" in about) == ("extra" in about) == (feature.kind in ("and", "or", "except"))
    if feature.kind == "or":
        assert about["missing"] < right < about["extra"]
    elif about.keys() >= {"missing", "extra"}:
        assert about["extra"] < right < about["missing"]
    texts = [
        feature.description,
        *(n.description for n in feature.almost.values()),
        BY_NAME[str(feature.neighbour)].description,
    ]
    assert len(set(texts)) == len(texts)


def test_false_alarms_of_broader_labels_are_rare_and_for_some_very_rare() -> None:
    windows = sum(-(-len(tokens) // WINDOW) for tokens in passages())
    shares = {}
    for one in FAMILY:
        words = words_about(one)
        assert one.feature.broader
        false = places(one.feature.broader.activation, words) - places(one.feature.activation, words)
        shares[one.feature.name] = len({(number, i // WINDOW) for number, i in false}) / windows
    assert min(shares.values()) > 0 and max(shares.values()) < 0.06
    assert sum(share < 0.004 for share in shares.values()) >= MOST // 20


def test_no_word_moves_a_feature_that_it_does_not_belong_to() -> None:
    for word in planted_family_vocabulary(MOST, 0):
        moved = {f.name for f in BY_NAME.values() if f.activation([word])[0] > 0}
        assert moved <= {f.name for f in BY_NAME.values() if f.triggers and word in f.triggers}, word
    endings = {ending: set(words.split()) for row in ENDINGS for ending, words in ((row[0], row[2]), (row[3], row[5]))}
    for word in planted_family_vocabulary(MOST, 0):
        assert {ending for ending in endings if word.endswith(ending)} <= {
            e for e, words in endings.items() if word in words
        }, word


def test_without_a_trigger_a_feature_is_silent() -> None:
    for tokens in passages()[:60]:
        for feature in BY_NAME.values():
            assert feature.triggers
            if feature.triggers.isdisjoint(tokens):
                assert not any(feature.activation(tokens)), feature.name


def test_documents_hold_words_of_the_vocabulary_only() -> None:
    known = set(planted_family_vocabulary(MOST, 0))
    assert {word for tokens in passages() for word in tokens} <= known
    assert not {word for word in known if word.isupper()}
    assert filled(random.Random(0), "DET falcon").split()[0] in known


def test_every_feature_has_windows_enough_and_its_companion_in_many_of_them() -> None:
    features = planted_family(60)
    subject, _ = doubles(features, planted_family_vocabulary(60, 0))
    corpus = prepare(planted_family_documents(60, 0), subject.tokenize, 126, CorpusConfig())
    active = dense_windows(corpus, planted_truth(subject, corpus)).max(1) > 0
    windows = np.stack([active[corpus.window_split == split].sum(0) for split in range(3)], 1)
    status, reason = statuses(windows, len(corpus.window_id), HarvestConfig())
    assert set(status) == {"waiting"}, reason
    place = {feature.name: i for i, feature in enumerate(features)}
    for i, feature in enumerate(features):
        together = active[active[:, i], place[str(feature.correlated)]].mean()
        assert together > 2.5 * active[:, place[str(feature.correlated)]].mean(), feature.name


def test_the_subject_asks_only_features_that_may_fire_and_finds_the_same() -> None:
    features = planted_family(20)
    blind = tuple(PlantedFeature(f.name, f.kind, f.description, f.activation) for f in features)
    words = planted_family_vocabulary(20, 0)
    (one, _), (other, _) = doubles(features, words), doubles(blind, words)
    corpus = prepare(planted_family_documents(20, 0, 30), one.tokenize, 126, CorpusConfig())
    from glossator.harness.subject import batches

    for batch in batches([corpus.tokens[:120].tolist()], one, batch_tokens=512):
        assert (one.activations(batch) == other.activations(batch)).all() and one.activations(batch).any()
    assert (one.embeddings() == other.embeddings()).all()


def test_the_nearest_direction_is_that_of_the_neighbour() -> None:
    features = planted_family(60)
    _, dictionary = doubles(features, planted_family_vocabulary(60, 0))
    rows = dictionary.directions() / dictionary.directions().norm(dim=1, keepdim=True)
    nearest = (rows @ rows.T).fill_diagonal_(-1).argmax(1)
    assert [features[i].name for i in nearest.tolist()] == [feature.neighbour for feature in features]
