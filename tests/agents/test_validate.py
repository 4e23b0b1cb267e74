"""The validity suite: what is tried, on what, and that a score which cannot see a fault is found out."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from glossator import validation
from glossator.agents.run import Run, silent
from glossator.agents.validity.ground import Ground, planted_run, prepare
from glossator.agents.validity.run_validity import Asked, Validation, cost_in_words, validate_scores
from glossator.agents.validity.table import METRICS, SCORERS, Found, embedded, executed, read, size
from glossator.agents.validity.wrong_labels import Executed
from glossator.arguments import validity_asked
from glossator.config import LLMConfig, LLMScoreConfig
from glossator.errors import UsageError
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import planted_tokens
from glossator.scorers.reading import LLMPredictor
from glossator.scorers.validity import FAULTS, RIGHT, RIVALS, first, ranked
from glossator.store.store import Store
from glossator.types import Floats, Request

N = 20
CONFIG = LLMScoreConfig()


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with Store(":memory:") as store:
        yield asyncio.run(prepare(planted_run(store, N, 0), N, 0, CONFIG))


def by(ground: Ground, llm: ScriptedLLM, scorers: Sequence[str] = SCORERS) -> Found:
    predictor = LLMPredictor(llm, ground.run.lexicon.vocabulary, ground.config)
    return asyncio.run(read(ground, predictor, scorers, 8))


def few(ground: Ground) -> Ground:
    return replace(ground, tried=ground.tried[:4])


@pytest.fixture(scope="module")
def sure(ground: Ground) -> Found:
    """Read without errors."""
    return by(ground, OracleLLM(ground.features))


# ------------------------------------------------------------------ what is tried


def test_every_feature_has_a_label_for_each_fault_and_no_two_alike(ground: Ground) -> None:
    for at, tried in enumerate(ground.tried):
        clauses = {"missing clause", "extra clause"}
        wanted = {RIGHT, *FAULTS} - {"constant"} - (set() if tried.kind in ("and", "or", "except") else clauses)
        assert tried.labels.keys() == wanted and tried.record.feature.index == at
        assert len({label.text for label in tried.labels.values()}) == len(wanted)
        unrelated = ground.features[tried.labels["unrelated"].of or 0]
        assert unrelated.kind != tried.kind and ground.features[at].name not in (
            unrelated.neighbour,
            unrelated.correlated,
        )


def test_the_oracle_knows_what_every_label_says_but_the_empty_one(ground: Ground) -> None:
    from glossator.llm.oracle_explains import plain

    llm = OracleLLM(ground.features)
    for tried in ground.tried:
        for fault, label in tried.labels.items():
            known = llm.meanings.get(plain(label.text))
            assert (known is None) == (fault == "empty")
            if known and label.meaning:
                tokens = [token for trial in tried.pool for token in planted_tokens(trial.texts[0])][:300]
                assert known(tokens) == label.meaning(tokens)


def test_all_labels_share_one_pool_that_rivals_and_the_editor_made(ground: Ground) -> None:
    for tried in ground.tried:
        kinds = {trial.kind for trial in tried.pool}
        assert {"positive", "boundary", "minimal_on", "bisect", "random"} <= kinds
        assert {True, False} == {trial.fires for trial in tried.pool}
        assert len(tried.texts) == sum(len(trial.texts) for trial in tried.pool) < 90
        truth = ground.features[tried.record.feature.index].activation
        for trial in tried.pool:
            peaks = [max(truth(planted_tokens(text)[:32]), default=0.0) for text in trial.texts]
            assert not any(0 < peak < tried.record.threshold for peak in peaks)
            assert (np.mean([peak >= tried.record.threshold for peak in peaks]) > 0.5) == trial.fires, trial


def test_some_texts_of_the_pool_tell_each_wrong_label_from_the_right_one(ground: Ground) -> None:
    vocabulary = ground.run.lexicon.vocabulary
    reader = Executed(vocabulary, ground.run.behind["test"].windows)
    for tried in ground.tried:
        told = {fault: reader.fires(label, tried.texts) for fault, label in tried.labels.items()}
        for fault in tried.labels.keys() - {RIGHT}:
            assert (told[fault] != told[RIGHT]).sum() >= 3, (tried.kind, fault)


def test_executed_labels_do_to_windows_what_the_subject_did(ground: Ground) -> None:
    reader = Executed(ground.run.lexicon.vocabulary, ground.run.behind["test"].windows)
    for tried in ground.tried:
        sample, right = tried.record.exemplars["test"], tried.labels[RIGHT]
        assert ((reader.strengths(right, sample.windows) > 0) == (sample.activations > 0)).all(), tried.kind
        silent_ = ~(tried.record.background["test"].activations > 0).any(1)
        assert ((reader.fires_in_background(right) == 0) == silent_).all(), tried.kind


# ------------------------------------------------------------------ what scores see


def test_no_wrong_label_beats_the_right_one_where_nobody_errs(ground: Ground, sure: Found) -> None:
    for found in (executed(ground), sure):
        for metric, values in found.values.items():
            for tried, one in zip(ground.tried, values, strict=True):
                for fault in one.keys() - {RIGHT}:
                    if math.isfinite(one[RIGHT]) and math.isfinite(one[fault]):
                        assert one[RIGHT] >= one[fault] - 0.02, (found.reader, metric, tried.kind, fault)


def test_a_score_that_cannot_see_a_fault_is_found_out(sure: Found) -> None:
    """Fuzzing shows windows that fire, and so never what a broader label would wrongly accept; edits of rivals do."""
    assert not ranked(sure.values["fuzzing"], "broader").seen
    assert ranked(sure.values["fuzzing"], "broader").ties > 10
    assert ranked(sure.values["adversarial"], "broader").share.value == 1.0
    assert first(sure.values["adversarial"]).value >= 0.95
    assert all(ranked(sure.values[m], "unrelated").share.value > 0.9 for m in sure.values)


def test_a_constant_answer_and_an_empty_label_are_at_chance(ground: Ground, sure: Found) -> None:
    for metric, chance in (
        ("detection", 0.5),
        ("detection_near", 0.5),
        ("fuzzing", 0.5),
        ("discrimination", 0.5),
        ("simulation", 0.0),
    ):
        for one in sure.values[metric]:
            for fault in ("constant", "empty"):
                assert math.isnan(one.get(fault, math.nan)) or one[fault] == pytest.approx(chance), (metric, fault)


def test_errors_cost_agreement(ground: Ground, sure: Found) -> None:
    erring = by(few(ground), OracleLLM(ground.features, 0.4), ["adversarial"])
    for one, other in zip(erring.values["adversarial"], sure.values["adversarial"], strict=False):
        assert one[RIGHT] < other[RIGHT]


def test_reading_twice_gives_the_same(ground: Ground) -> None:
    one, other = (by(few(ground), OracleLLM(ground.features, 0.1), ["detection"]).values for _ in range(2))
    assert repr(one) == repr(other)


def test_an_embedding_reads_words_alone(ground: Ground) -> None:
    def bag(texts: Sequence[str]) -> Floats:
        rows = np.zeros((len(texts), 4096))
        for row, text in enumerate(texts):
            for word in planted_tokens(text):
                rows[row, int.from_bytes(word.encode(), "big") % 4093] += len(word) > 4
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)

    found = embedded(ground, bag)
    assert ranked(found.values["embedding"], "unrelated").share.value > 0.7
    assert all(one["constant"] == 0.5 and "empty" not in one for one in found.values["embedding"])


# ------------------------------------------------------------------ what goes wrong, and what it costs


def test_a_reading_that_failed_has_no_value_and_is_counted(ground: Ground) -> None:
    oracle = OracleLLM(ground.features)

    def sometimes(request: Request) -> str | RawReply:
        if request.about == "planted/3":
            return RawReply("I would rather not", "refusal", None, "m")
        return json.dumps(oracle.tasks[request.purpose](request))

    found = by(few(ground), ScriptedLLM(sometimes), ["detection"])
    assert found.failed == {"RefusedError": len(ground.tried[3].labels)}
    assert found.values["detection"][3].keys() == {"constant"}
    assert ranked(found.values["detection"], "broader").share.n == 3


def test_as_many_questions_are_asked_as_were_announced(ground: Ground, tmp_path: Path) -> None:
    llm = OracleLLM(ground.features)
    by(few(ground), llm)
    assert size(few(ground), SCORERS).questions == len(llm.requests)
    prices = tmp_path / "prices.toml"
    prices.write_text('[openai."cheap"]\ninput = 1.0\noutput = 4.0\n')
    said = cost_in_words(few(ground), Asked(N, llm="openai:cheap"), LLMConfig(prices=str(prices)))
    assert f"{len(llm.requests):,} questions" in said and "about $" in said
    assert "dollars unknown" in cost_in_words(few(ground), Asked(N, llm="openai:nobody-knows-it"), LLMConfig())


def test_another_run_file_is_not_taken_for_the_planted_one(run: Run) -> None:
    with pytest.raises(UsageError, match="holds another harvest than these 20 planted features; name another file"):
        planted_run(run.store, N, 0)


def test_a_kept_run_is_gone_on_with(tmp_path: Path) -> None:
    said: list[str] = []
    with Store(tmp_path / "kept.duckdb") as store:
        planted_run(store, N, 0, said.append)
        identity = planted_run(store, N, 0, said.append).identity
    assert len(said) == 1 and identity["subject"]["features"]
    with Store(tmp_path / "kept.duckdb") as store, pytest.raises(UsageError, match="another harvest"):
        planted_run(store, N, 1)


# ------------------------------------------------------------------ the page


def no_encoder() -> None:
    raise UsageError("the built-in encoder is not installed")


@pytest.fixture(scope="module")
def done() -> Validation:
    return validate_scores(Asked(N, ("detection",)), LLMConfig(), no_encoder, silent, silent)  # type: ignore[arg-type]


def test_the_page_says_who_read_and_what_is_not_seen(done: Validation) -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(validation.page(done))
    text = console.export_text()
    assert "read by an oracle that errs in 10%: this shows what the score can see, not what a model can" in text
    assert "embedding is left out: the built-in encoder is not installed" in text
    for found in done.found:
        for line in validation.words(found):
            assert line.split("(")[0].strip() in text


def test_markdown_and_json_hold_the_same_figures(done: Validation) -> None:
    page, data = validation.markdown(done), json.loads(validation.as_json(done))
    assert [one["reader"] for one in data["readers"]] == ["rule", "llm:scripted:oracle"]
    for found, one in zip(done.found, data["readers"], strict=True):
        for metric, values in found.values.items():
            assert one["scores"][metric]["first"]["n"] == first(values).n
            share = ranked(values, "broader").share.value
            assert one["scores"][metric]["against"]["broader"]["value"] == (share if math.isfinite(share) else None)
    assert page.count("| detection |") == 2 and all(fault in page for fault in (*RIVALS, "missing clause"))
    assert list(METRICS) == list(SCORERS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"features": 30}, "--features 30: write a multiple of 20, at most 200"),
        ({"features": 0}, "--features 0"),
        ({"scorers": ["clarity"]}, "--scorer clarity: a model reads for the scorers simulation"),
        ({"flags": {"budget_usd": 1.0}}, "--budget-usd: without --llm an oracle reads, which costs nothing"),
        ({"llm": "openai:x", "flags": {"effort": "huge"}}, "--effort huge"),
    ],
)
def test_wrong_flags_are_refused_in_words(given: dict[str, object], said: str) -> None:
    flags = {"features": None, "scorers": [], "llm": None, "flags": {}} | given
    with pytest.raises(UsageError, match=said):
        validity_asked(**flags, keep=None, seed=0)  # type: ignore[arg-type]


def test_a_page_that_could_not_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "is a folder"), (tmp_path / "no" / "v.md", "there is no folder")):
        with pytest.raises(UsageError, match=said):
            validation.check_out(path)
    validation.check_out(tmp_path / "v.md")
