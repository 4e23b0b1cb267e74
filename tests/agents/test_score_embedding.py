"""Labels scored by a sentence encoder, with a bag of words for the encoder: rows, comparisons, what is embedded, who is replaced."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.agents.scoring.score_embedding import PREDICTOR, STAGE, left_to_embed, score_embedding
from glossator.config import EmbeddingConfig, LexicalConfig
from glossator.errors import UsageError
from glossator.planted import planted_features
from glossator.rows import ExplanationRow, NullScoreRow, ScoreRow
from glossator.store.labels import materialise_labels
from glossator.types import Floats, content_id

FEATURES = planted_features()
CONFIG = EmbeddingConfig(draws=100, min_null=99, firing=5)
EVERYTHING = "SELECT * EXCLUDE (run_id) FROM {} ORDER BY ALL"


class Bag:
    """A sentence is the sum of its words, each a direction of its own. Keeps what it was given."""

    def __init__(self, name: str = "bag", *, is_subject: bool = False) -> None:
        self.name, self.is_subject = name, is_subject
        self.seen: Counter[str] = Counter()

    def has_weights(self, stored: str) -> bool:
        return self.is_subject and stored == "all:of the planted subject"

    def __call__(self, texts: Sequence[str]) -> Floats:
        self.seen.update(texts)
        out = np.zeros((len(texts), 64), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                out[row] += np.random.default_rng(int(content_id(word), 16)).normal(size=64)
        return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def label(run: Run, texts: dict[int, str], explainer: str = "typed") -> None:
    for feature, text in texts.items():
        run.store.put_now(
            ExplanationRow(
                f"{explainer}-{feature}", run.dictionary, feature, explainer, None, text, None, False, None, ""
            )
        )
    materialise_labels(run.store)


def truths(*features: int) -> dict[int, str]:
    return {i: FEATURES[i].description for i in features or range(len(FEATURES))}


def score(run: Run, encoder: Bag, features: Sequence[int] | None = None, *, every: bool = False) -> str:
    """The stage as the pipeline runs it, with a double for the encoder."""
    todo = left_to_embed(run, encoder.name, features, every=every)
    said = ""
    if todo:
        with run.stage(STAGE, CONFIG) as run_id:
            said = score_embedding(run, encoder, todo, CONFIG, run_id, every=every)
    materialise_labels(run.store)
    return said


def values(run: Run, metric: str = "embedding", split: str = "test") -> dict[str, float | None]:
    query = "SELECT explanation_id, value FROM score WHERE predictor = ? AND metric = ? AND split = ?"
    return dict(run.store.sql(query, [PREDICTOR, metric, split]))


def test_labels_that_share_words_with_their_windows_score_high_and_have_every_row(run: Run) -> None:
    label(run, truths())
    said = score(run, Bag())
    found = values(run)
    known = [value for value in found.values() if value is not None]
    assert np.mean(known) > 0.6  # labels about years or places in a text share no word with it
    words = [found["typed-0"], found["typed-1"]]  # "falcon"; "butter", "oven", ...
    assert all(value is not None and value > 0.8 for value in words)
    assert f"{len(known)} scored" in said and "dependent" not in said
    rows = run.store.sql(
        "SELECT metric, split, model, count(*) FROM score WHERE predictor = ? GROUP BY ALL", [PREDICTOR]
    )
    assert {(m, s) for m, s, *_ in rows} == {
        (m, s) for m in ("embedding", "embedding_near") for s in ("select", "test")
    }
    assert {(model, n) for *_, model, n in rows} == {("bag", rows[0][3])}
    bare = "SELECT count(*) FROM score WHERE predictor = ? AND value IS NULL AND note IS NULL"
    assert run.store.sql(bare, [PREDICTOR]) == [(0,)]
    assert run.store.sql("SELECT count(*) FROM score WHERE note LIKE 'dependent%'") == [(0,)]


def test_every_text_is_embedded_once_whatever_the_number_of_features(run: Run) -> None:
    label(run, truths())
    encoder = Bag()
    score(run, encoder)
    texts = {text for (text,) in run.store.sql("SELECT DISTINCT text FROM text_window")}
    assert len(encoder.seen.keys() & texts) > 100
    windows = Counter({text: n for text, n in encoder.seen.items() if text not in truths().values()})
    stored = Counter(text for (text,) in run.store.sql("SELECT text FROM text_window"))
    assert all(n <= 2 * stored[text] for text, n in windows.items())  # in the pool, and as an exemplar
    assert all(encoder.seen[text] == 1 for text in truths().values())


def test_the_right_label_beats_another_s_and_the_comparisons_say_so(run: Run) -> None:
    pipeline.explain(run, LexicalConfig())  # the rules that a lift is over
    label(run, truths(), "typed")
    score(run, Bag(), every=True)
    rows = run.store.sql(
        "SELECT n.comparison, count(*), count(p_value), count(q_value), avg(difference), avg(null_mean) FROM null_score n "
        "JOIN explanation e USING (explanation_id) WHERE n.predictor = ? AND n.metric = 'embedding' AND e.explainer = 'typed' GROUP BY ALL",
        [PREDICTOR],
    )
    found = {comparison: rest for comparison, *rest in rows}
    assert set(found) == {"permuted", "neighbour", "lexical"}
    n = found["permuted"][0]
    assert found["permuted"][1:3] == [n, n] and found["permuted"][3] > 0.1 and 0.3 < found["permuted"][4] < 0.7
    assert found["neighbour"][1] > 0 and found["neighbour"][2] == found["neighbour"][1] and found["neighbour"][3] > 0
    assert found["lexical"][1] == 0  # a lift has an interval and no p
    best = (
        "SELECT p_value FROM null_score WHERE explanation_id = 'typed-0' AND predictor = ? AND comparison = 'permuted'"
    )
    assert run.store.sql(best, [PREDICTOR])[0][0] < 0.05


def test_a_few_features_have_the_p_values_that_they_have_among_all(run: Run) -> None:
    label(run, truths())
    score(run, Bag())
    query = "SELECT feature, comparison, round(p_value, 9), n FROM null_score WHERE feature IN (0, 3) ORDER BY ALL"
    before = run.store.sql(query)
    assert any(p is not None for _, comparison, p, _ in before if comparison == "permuted")
    run.store.execute("DELETE FROM null_score")
    score(run, Bag(), [0, 3])
    again = run.store.sql(query)
    assert [(f, c) for f, c, *_ in again] == [(f, c) for f, c, *_ in before]
    for (_, comparison, p, _), (_, _, q, _) in zip(before, again, strict=True):
        assert (p is None) == (q is None), comparison


def test_scores_by_the_subject_itself_are_marked(run: Run) -> None:
    run.identity["subject"]["weights"] = "all:of the planted subject"
    label(run, truths(0, 1) | {2: " "})
    said = score(run, Bag(is_subject=True))
    notes = [note for (note,) in run.store.sql("SELECT note FROM score WHERE predictor = ?", [PREDICTOR])]
    assert notes and all(note.startswith("dependent: the encoder is the subject") for note in notes)
    assert any(note.endswith("; the label is empty") for note in notes)
    assert "dependent" in said


def test_an_empty_label_and_a_feature_without_one_have_reasons(run: Run) -> None:
    label(run, truths(0) | {1: "  "})
    score(run, Bag())
    query = "SELECT DISTINCT value, note FROM score WHERE explanation_id = 'typed-1' AND predictor = ?"
    assert run.store.sql(query, [PREDICTOR]) == [(None, "the label is empty")]
    rows = run.store.sql("SELECT feature, status, reason FROM stage WHERE stage = ?", [STAGE])
    status = {feature: (word, reason) for feature, word, reason in rows}
    assert status[0] == ("done", None) and status[2] == ("abstained", "nothing to read: no label")


def test_running_again_reads_only_labels_that_have_come_since(run: Run) -> None:
    label(run, truths(0, 1))
    score(run, Bag())
    assert left_to_embed(run, "bag", None, every=False) == []
    label(run, truths(4))
    assert left_to_embed(run, "bag", None, every=False) == [4]
    before = values(run)
    score(run, Bag())
    assert before.items() <= values(run).items() and "typed-4" in values(run)
    label(run, truths(0), "zz other")
    assert left_to_embed(run, "bag", None, every=False) == []  # it is not the label
    assert left_to_embed(run, "bag", None, every=True) == [0]


def test_doing_it_again_doubles_no_row_and_leaves_other_predictors_alone(run: Run) -> None:
    label(run, truths(0, 1, 3))
    who = ("typed-0", run.dictionary, 0)
    run.store.put_now(
        ScoreRow(*who, "typed", "llm:m", "m", "detection", "test", 0.7, 0.6, 0.8, 20, None, "before"),
        NullScoreRow(*who, "embedding", "permuted", 0.5, 0.04, 0.04, 0.2, 0.1, 0.3, 20, "before", "llm:m"),
    )
    score(run, Bag())
    before = {table: run.store.sql(EVERYTHING.format(table)) for table in ("score", "null_score")}
    score(run, Bag(), [0, 1, 3])
    assert {table: run.store.sql(EVERYTHING.format(table)) for table in before} == before
    assert run.store.sql("SELECT count(*) FROM null_score WHERE predictor = 'llm:m'") == [(1,)]


def test_another_encoder_replaces_all_scores_of_the_first_or_none(run: Run) -> None:
    label(run, truths(0, 1, 3))
    label(run, truths(0), "zz other")
    score(run, Bag(), every=True)
    with pytest.raises(UsageError, match="2 other features have scores by the encoder bag; leave --features out"):
        left_to_embed(run, "sack", [1], every=False)
    score(run, Bag("sack"))
    models = run.store.sql("SELECT DISTINCT model FROM score WHERE predictor = ?", [PREDICTOR])
    assert models == [("sack",)]
    assert "zz other-0" not in values(run)  # of the first encoder, and not asked for now
    assert run.store.sql("SELECT count(*) FROM null_score WHERE explanation_id = 'zz other-0'") == [(0,)]


def test_a_feature_that_fails_is_a_failure_row_and_a_score_without_value_and_note(run: Run) -> None:
    label(run, truths(0, 1))

    class Broken(Bag):
        def __call__(self, texts: Sequence[str]) -> Floats:
            out = super().__call__(texts)
            out[[text == truths()[1] for text in texts]] = np.nan
            return out

    said = score(run, Broken())
    assert "1 failed" in said
    failed = run.store.sql("SELECT feature, error FROM failure WHERE stage = ?", [STAGE])
    assert failed == [(1, "ValueError")]
    bare = run.store.sql("SELECT DISTINCT feature, value, note FROM score WHERE explanation_id = 'typed-1'")
    assert bare == [(1, None, None)]
    assert values(run)["typed-0"] is not None
    assert left_to_embed(run, "bag", None, every=False) == [1]


def test_the_exemplars_in_memory_are_bounded_and_the_bound_changes_no_value(run: Run) -> None:
    label(run, truths())
    score(run, Bag())
    before: dict[str, Any] = values(run)
    tight = CONFIG.model_copy(update={"cached": 1})
    with run.stage(STAGE, tight) as run_id:
        score_embedding(run, Bag(), list(range(12)), tight, run_id)
    assert values(run) == before
