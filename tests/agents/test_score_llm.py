"""Labels scored by a model that reads them, with doubles for the model: which fault each score sees, rows, replays, failures."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.agents.scoring.scenes import METRICS, SCORERS, simulated, simulated_scene
from glossator.agents.scoring.score_llm import LabelScorer, left_to_read
from glossator.config import LexicalConfig, LLMScoreConfig, ScoreConfig
from glossator.errors import BudgetSpent, ProviderError
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM, read_question
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import planted_features
from glossator.prompts import detect
from glossator.rows import ExplanationRow
from glossator.scorers import detection, fuzzing
from glossator.scorers.reading import LLMPredictor
from glossator.scorers.simulation import Scene
from glossator.store.labels import materialise_labels
from glossator.store.replies import Replies
from glossator.types import WINDOW, FeatureRecord, Reply, Request

FEATURES = planted_features()
CONFIG = LLMScoreConfig(active=8, background=8, firing=6, silent=6, near=4, fuzzed=8, draws=100)
WHO = "llm:scripted:oracle"
REFUSED = RawReply("I would rather not", "refusal", None, "m")
EVERYTHING = {
    "score": "SELECT * FROM score ORDER BY ALL",
    "stage": "SELECT * FROM stage ORDER BY ALL",
    "failure": "SELECT * FROM failure ORDER BY ALL",
    "prompt": "FROM prompt ORDER BY ALL",
    "label": "FROM labels",
}


def labelled(run: Run, labels: dict[int, str], explainer: str = "typed") -> None:
    """Explanations as a file of labels would give them."""
    for feature, text in labels.items():
        run.store.put_now(
            ExplanationRow(
                f"{explainer}-{feature}", run.dictionary, feature, explainer, None, text, None, False, None, ""
            )
        )
    materialise_labels(run.store)


def truths(*features: int) -> dict[int, str]:
    return {i: f"Fires on {FEATURES[i].description}." for i in features or range(len(FEATURES))}


def score(
    run: Run, llm: ScriptedLLM, scorers: Sequence[str] = SCORERS, features: Sequence[int] | None = None, **more: bool
) -> Counter[tuple[str, str]]:
    """The stage as the pipeline runs it, with a double for the model."""
    tally: Counter[tuple[str, str]] = Counter()
    predictor = LLMPredictor(llm, run.lexicon.vocabulary, CONFIG)
    every = more.get("every", False)
    try:
        todo = left_to_read(run, predictor.predictor, scorers, features, every=every)
        with run.stage("score:llm", CONFIG) as run_id:
            asyncio.run(LabelScorer(run, predictor, run_id, tally, **more).score(todo, 8))
    finally:
        materialise_labels(run.store)
    return tally


def contents(run: Run) -> dict[str, list[tuple[Any, ...]]]:
    return {table: run.store.sql(query) for table, query in EVERYTHING.items()}


def logged(run: Run) -> Replies:
    return Replies(run.store, 0.0)


# ------------------------------------------------------------------ what each score sees


async def _values(run: Run, predictor: LLMPredictor, record: FeatureRecord, label: str) -> dict[str, float]:
    shown = simulated_scene(record, "test", CONFIG)
    assert isinstance(shown, Scene)
    found = simulated(shown, await predictor.strengths(label, shown.windows), record.threshold, 100, 0)
    seen = detection.detection_scene(record, "test", CONFIG)
    assert isinstance(seen, detection.DetectionScene)
    found |= detection.detection(seen, await predictor.fires(label, seen.windows), 100, 0)
    marked = fuzzing.fuzzing_scene(record, "test", run.lexicon.vocabulary, run.counts, CONFIG)
    if isinstance(marked, fuzzing.FuzzingScene):
        found |= fuzzing.fuzzing(marked, await predictor.marks_are_right(label, marked.windows, marked.marked), 100, 0)
    return {metric: one.estimate.value for metric, one in found.items() if not np.isnan(one.estimate.value)}


def test_the_right_label_is_ranked_above_wrong_ones_but_for_what_a_score_is_blind_to(run: Run) -> None:
    """Read by an oracle without errors: the right label is never below another one; ties are where a score cannot see."""
    predictor = LLMPredictor(OracleLLM(), run.lexicon.vocabulary, CONFIG)
    above: Counter[tuple[str, str]] = Counter()
    known: Counter[str] = Counter()
    for record in run.records(range(len(FEATURES))):
        index = record.feature.index
        feature, neighbour = FEATURES[index], FEATURES[record.neighbours[0]]
        assert feature.broader and feature.narrower
        labels = {
            "right": feature.description, "broader": feature.broader.description, "narrower": feature.narrower.description,
            "neighbour": neighbour.description, "unrelated": FEATURES[(index + 6) % 12].description, "empty": "",
        }  # fmt: skip
        values = {fault: asyncio.run(_values(run, predictor, record, text)) for fault, text in labels.items()}
        known.update(values["right"].keys())
        for fault in ("broader", "narrower", "neighbour", "unrelated", "empty"):
            for metric, value in values["right"].items():
                assert value >= values[fault][metric] - 1e-9, (feature.name, metric, fault)
                above[metric, fault] += value > values[fault][metric] + 1e-9
    for metric in ("simulation", "detection", "detection_near", "fuzzing"):
        for fault in ("neighbour", "unrelated", "empty"):
            assert above[metric, fault] == known[metric], (metric, fault)
    assert known["simulation"] == known["detection"] == 12 and known["fuzzing"] == 11  # `sea` is active everywhere
    assert above["simulation", "broader"] >= 11 and above["simulation", "narrower"] == 12
    assert above["detection", "broader"] >= 8 and above["detection", "narrower"] >= 10
    assert above["fuzzing", "broader"] <= 4  # blind to it


def test_an_anti_correlated_label_has_a_negative_simulation_score(run: Run) -> None:
    """A reader who says 10 on every token that the truth leaves out, and nothing where it fires."""

    def inverse(request: Request) -> str:
        active = []
        for window in read_question(request.messages[1].text)[1]:
            told = window.under(FEATURES[2].activation)
            active.append(
                {"id": window.name, "tokens": [[n, n, 10] for n, v in zip(window.numbers, told, strict=True) if not v]}
            )
        return json.dumps({"active": active, "silent": []})

    labelled(run, truths(2))
    score(run, ScriptedLLM(inverse), ["simulation"], [2])
    rows = run.store.sql("SELECT metric, split, value, high FROM score WHERE predictor LIKE 'llm:%'")
    assert len(rows) == 6 and all(value < 0 for _, _, value, _ in rows)
    assert all(high < 0 for metric, split, _, high in rows if (metric, split) == ("simulation", "test"))


def test_strengths_and_shares_come_back_to_their_windows_over_several_requests(run: Run) -> None:
    """The oracle's word for each window is the truth of that window, though windows are shuffled and packed."""
    config = CONFIG.model_copy(update={"request_windows": 3})
    llm = OracleLLM()
    predictor = LLMPredictor(llm, run.lexicon.vocabulary, config)
    (record,) = run.records([2])
    shown = simulated_scene(record, "test", config)
    assert isinstance(shown, Scene)
    told = asyncio.run(predictor.strengths(FEATURES[2].description, shown.windows))
    assert len(llm.requests) == 6 and told.shape == (16, WINDOW)
    assert ((told > 0) == (shown.activations > 0)).all() and told.any()
    p = asyncio.run(predictor.fires(FEATURES[2].description, shown.windows))
    assert ((p > 0.5) == (shown.activations > 0).any(1)).all()


def test_an_oracle_errs_on_windows_together_whatever_the_scorer(run: Run) -> None:
    llm = OracleLLM(error_rate=0.3, seed=5)
    predictor = LLMPredictor(llm, run.lexicon.vocabulary, CONFIG)
    wrong: list[float] = []
    for record in run.records(range(12)):
        windows = record.background["test"].windows.take(slice(0, 30))
        label = FEATURES[record.feature.index].description
        truth = (record.background["test"].activations[:30] > 0).any(1)
        p = asyncio.run(predictor.fires(label, windows))
        told = asyncio.run(predictor.strengths(label, windows))
        assert ((p > 0.5) == (told > 0).any(1)).all()
        wrong += ((p > 0.5) != truth).tolist()
    assert 0.15 < np.mean(wrong) < 0.45


# ------------------------------------------------------------------ rows


def test_every_scorer_writes_its_metrics_on_both_splits_under_its_predictor(run: Run) -> None:
    labelled(run, truths())
    tally = score(run, OracleLLM(log=logged(run)))
    assert tally == {("simulation", "scored"): 12, ("detection", "scored"): 12, ("discrimination", "scored"): 12, ("fuzzing", "scored"): 11, ("fuzzing", "without a value"): 1}  # fmt: skip
    rows = run.store.sql("SELECT metric, split, count(*) FROM score WHERE predictor = ? AND model = 'scripted:oracle' AND explainer = 'typed' GROUP BY ALL", [WHO])  # fmt: skip
    wanted = {(metric, split): 12 for metrics in METRICS.values() for metric in metrics for split in ("select", "test")}
    assert {(metric, split): n for metric, split, n in rows} == wanted
    odd = run.store.sql(
        "SELECT metric, note FROM score WHERE value IS NULL AND note IS NULL OR isnan(value) OR isnan(low)"
    )
    assert odd == []
    assert run.store.sql(
        "SELECT DISTINCT note FROM score WHERE feature = 5 AND metric = 'fuzzing' AND split = 'test'"
    ) == [("fewer than two windows of the split test in which some tokens fire and others are off",)]
    stages = run.store.sql("SELECT stage, done, failed, abstained, waiting FROM coverage WHERE stage LIKE 'score:%'")
    assert stages == [(f"score:{scorer}:{WHO}", 12, 0, 0, 0) for scorer in sorted(SCORERS)]
    board = run.store.sql("SELECT n, mean, mean_with_failures, coverage FROM scoreboard WHERE metric = 'detection'")
    assert board == [(12, 1.0, 1.0, 1.0)]
    asked = run.store.sql("SELECT purpose FROM spend ORDER BY purpose")
    assert asked == [("score:detection",), ("score:fuzzing",), ("score:simulation",)]
    assert run.store.sql("SELECT count(*) FROM llm_call JOIN prompt USING (prompt_id)") == run.store.sql("SELECT count(*) FROM llm_call")  # fmt: skip


def test_the_model_is_shown_the_label_and_text_alone(run: Run) -> None:
    """Every line but the label's is an id and text, which stands in a window of the split; marks are those of fuzzing."""
    labelled(run, {2: "a label of mine"})
    llm = OracleLLM()
    score(run, llm, features=[2])
    assert len(llm.requests) == 8
    texts = [
        {
            " " + run.lexicon.vocabulary.join(ids)
            for (ids,) in run.store.sql("SELECT ids FROM text_window WHERE split = ?", [s])
        }
        for s in ("select", "test")
    ]
    for request in llm.requests:
        lines = request.messages[1].text.splitlines()
        assert lines[:4] == ["<data>", "label", '"a label of mine"', "windows"] and lines[-1] == "</data>"
        found = []
        for name, before, window, *after in map(json.loads, lines[4:-1]):
            pieces = (
                [piece if isinstance(piece, str) else piece[0] for piece in window]
                if isinstance(window, list)
                else [window]
            )
            if request.purpose == "score:simulation":
                pieces = [" " + piece.split(" ", 1)[1] for piece in pieces]
            assert isinstance(name, int)
            found.append((before or "") + "".join(pieces) + "".join(text or "" for text in after))
        assert any(all(any(text in whole for whole in split) for text in found) for split in texts)


def test_the_place_of_a_window_says_nothing_about_it(run: Run) -> None:
    places: list[float] = []
    ranks: list[float] = []
    predictor = LLMPredictor(OracleLLM(), run.lexicon.vocabulary, CONFIG)
    for record in run.records(range(12)):
        shown = detection.detection_scene(record, "test", CONFIG)
        assert isinstance(shown, detection.DetectionScene)
        (question,) = detect.render("a label", shown.windows, run.lexicon.vocabulary, predictor.config)
        fires = [bool(shown.fires[row]) for row in question.rows.values()]
        places += [place / len(fires) for place, one in enumerate(fires) if one]
        order = sorted(question.rows)
        ranks += [order.index(name) / len(order) for name, row in question.rows.items() if shown.fires[row]]
    assert 0.4 < np.mean(places) < 0.6 and 0.4 < np.mean(ranks) < 0.6


def test_a_sentence_of_a_rule_is_scored_as_a_label_beside_the_rule(run: Run) -> None:
    pipeline.explain(run, LexicalConfig(), [0, 2])
    pipeline.score(run, ScoreConfig(min_null=99), [0, 2])
    before = run.store.sql("SELECT * FROM score WHERE predictor = 'rule' ORDER BY ALL")
    trusted = run.store.sql("SELECT predictor, simulation, p_vs_permuted FROM label WHERE feature = 2")
    silent = ScriptedLLM(lambda r: json.dumps({"active": [], "silent": [w.name for w in read_question(r.messages[1].text)[1]]}))  # fmt: skip
    score(run, silent, ["simulation"], [0, 2])
    assert run.store.sql("SELECT * FROM score WHERE predictor = 'rule' ORDER BY ALL") == before
    ((predictor, value, p),) = run.store.sql("SELECT predictor, simulation, p_vs_permuted FROM label WHERE feature = 2")
    assert (predictor, value, p) == ("llm:scripted:llm", 0.0, None)  # no number of the rule beside the model's
    assert trusted[0][0] == "rule" and trusted[0][1] > 0.5
    pipeline.score(
        run, ScoreConfig(min_null=99), [0, 2]
    )  # and rules scored again leave the model's scores where they are
    assert run.store.sql("SELECT count(*) FROM score WHERE predictor LIKE 'llm:%'") == [(12,)]
    assert run.store.sql("SELECT count(*) FROM score WHERE predictor = 'rule'") == [(len(before),)]


def test_of_two_explanations_the_one_that_reads_better_on_select_becomes_the_label(run: Run) -> None:
    labelled(run, {2: FEATURES[3].description}, "first")
    labelled(run, {2: FEATURES[2].description}, "second")
    score(run, OracleLLM(), ["simulation"], [2])
    assert run.store.sql("SELECT count(DISTINCT explanation_id) FROM score") == [(1,)]
    score(run, OracleLLM(), ["simulation"], [2], every=True)
    assert run.store.sql("SELECT count(DISTINCT explanation_id) FROM score") == [(2,)]
    rows = run.store.sql("SELECT explainer, predictor, simulation FROM labels WHERE feature = 2")
    assert rows == [("second", WHO, pytest.approx(1.0))]


def test_features_that_cannot_be_scored_are_told_apart(run: Run) -> None:
    labelled(run, {0: " ", 2: FEATURES[2].description, 3: FEATURES[3].description, 4: FEATURES[4].description})
    run.store.execute("UPDATE feature SET status = 'rare' WHERE feature = 2")
    run.store.execute("UPDATE feature SET status = 'dense' WHERE feature = 3")
    run.store.execute("UPDATE feature SET threshold = 1e9 WHERE feature = 4")
    llm = OracleLLM()
    tally = score(run, llm, ["detection"])
    assert tally == {("detection", "skipped"): 9, ("detection", "without a value"): 3} and llm.requests == []
    rows = run.store.sql(
        "SELECT feature, value, note FROM score WHERE metric = 'detection' AND split = 'test' ORDER BY ALL"
    )
    assert rows == [
        (0, None, "the label is empty"),
        (3, None, "dense: it fires in too many windows to be detected"),
        (4, None, "no firing window in the split test"),
    ]
    reasons = dict(run.store.sql("SELECT feature, reason FROM stage WHERE status = 'abstained'"))
    assert reasons[2].startswith("rare") and reasons[1] == "nothing to read: no label"
    assert run.store.sql("SELECT n, mean_with_failures FROM scoreboard WHERE metric = 'detection'") == [(0, None)]


# ------------------------------------------------------------------ again


def test_a_second_run_asks_nothing_and_changes_no_row(run: Run) -> None:
    labelled(run, truths(0, 2, 5))
    log = logged(run)
    score(run, OracleLLM(log=log, error_rate=0.2))
    before = contents(run)
    for features in (None, [0, 2, 5], range(12)):
        again = OracleLLM(log=log, error_rate=0.2)
        score(run, again, features=features)
        assert again.requests == [] and contents(run) == before


def test_a_label_that_came_since_is_read_by_the_next_run_and_no_other(run: Run) -> None:
    labelled(run, truths(0))
    llm = OracleLLM()
    score(run, llm, ["detection"])
    assert left_to_read(run, WHO, SCORERS, None) == {
        scorer: [*range(12)] for scorer in SCORERS if scorer != "detection"
    }
    labelled(run, truths(7))
    assert left_to_read(run, WHO, ["detection"], None) == {"detection": [7]}
    n = len(llm.requests)
    score(run, llm, ["detection"])
    assert {request.about for request in llm.requests[n:]} == {"planted/7"}
    assert left_to_read(run, WHO, ["detection"], None) == {}


# ------------------------------------------------------------------ failures


def failing(run: Run, said: Any, first: int = 0) -> ScriptedLLM:
    """An oracle, but for feature 2 from its question `first` on."""
    oracle, seen = OracleLLM(), Counter[str]()

    def answer(request: Request) -> Any:
        seen[str(request.about)] += 1
        return said if request.about == "planted/2" and seen["planted/2"] > first else oracle._answer(request)

    return ScriptedLLM(answer, logged(run), "oracle")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (REFUSED, "RefusedError"),
        ("no object", "UnparsableError"),
        (json.dumps({"windows": [[101, 50]]}), "UnparsableError"),
        (RawReply('{"windows": [[', "length", None, "m"), "CutOffError"),
        (ValueError("odd"), "ValueError"),
    ],
)
def test_a_failed_question_is_a_failure_row_and_stays_in_the_denominator(run: Run, said: Any, kind: str) -> None:
    labelled(run, truths(0, 2, 3))
    tally = score(run, failing(run, said), ["detection"], [0, 2, 3])
    assert tally == {("detection", "scored"): 2, ("detection", kind): 1}
    rows = run.store.sql("SELECT feature, stage, error, attempt FROM failure")
    assert rows == [(2, f"score:detection:{WHO}", kind, 0)]
    assert run.store.sql("SELECT DISTINCT value, note, n FROM score WHERE feature = 2") == [(None, None, 0)]
    board = run.store.sql("SELECT n, mean, mean_with_failures FROM scoreboard WHERE metric = 'detection'")
    assert board == [(2, 1.0, pytest.approx(2 / 3))]
    assert left_to_read(run, WHO, ["detection"], None)["detection"][:3] == [1, 2, 4]
    before = contents(run)
    if not isinstance(said, Exception):  # its reply stands in the log: the same failure, not a second one
        again = failing(run, said)
        score(run, again, ["detection"], [2])
        assert again.requests == [] and contents(run) == before


def test_a_failure_on_one_split_keeps_the_scores_of_the_other(run: Run) -> None:
    labelled(run, truths(2))
    score(run, failing(run, REFUSED, first=1), ["detection"], [2])
    rows = dict(run.store.sql("SELECT split, value FROM score WHERE metric = 'detection'"))
    assert sorted(rows.values(), key=str) == [1.0, None]
    assert run.store.sql("SELECT status FROM stage") == [("failed",)]


def test_a_failure_is_drawn_anew_on_request_and_its_rows_give_way(run: Run) -> None:
    labelled(run, truths(0, 2))
    score(run, failing(run, REFUSED, first=1), ["detection"], [0, 2])
    better = OracleLLM(log=logged(run))
    score(run, better, ["detection"], [0, 2], retry_failed=True)
    assert {(r.about, r.attempt) for r in better.requests} == {("planted/2", 1)} and len(better.requests) == 1
    assert run.store.sql("SELECT count(*), count(value) FROM score WHERE metric = 'detection'") == [(4, 4)]
    assert run.store.sql("SELECT arg_max(status, rowid) FROM stage WHERE feature = 2") == [("done",)]
    before = contents(run)
    again = OracleLLM(log=logged(run))
    score(run, again, ["detection"], [0, 2])
    assert again.requests == [] and contents(run) == before


def test_a_label_that_no_question_can_hold_fails_alone(run: Run) -> None:
    labelled(run, truths(0) | {2: "x" * 100_000})
    tally = score(run, OracleLLM(), ["detection"], [0, 2])
    assert tally == {("detection", "scored"): 1, ("detection", "ValueError"): 1}
    ((message,),) = run.store.sql("SELECT message FROM failure")
    assert "100,000 characters" in message


@pytest.mark.parametrize("error", [ProviderError("bad key"), BudgetSpent("all gone")])
def test_what_ends_the_run_is_raised_and_leaves_no_row_for_what_was_not_read(run: Run, error: Exception) -> None:
    class Ends(OracleLLM):
        async def complete(self, request: Request) -> Reply:
            if request.about == "planted/6":
                raise error
            return await super().complete(request)

    labelled(run, truths())
    log = logged(run)
    with pytest.raises(type(error)):
        score(run, Ends(log=log), ["detection"])
    assert run.store.sql("SELECT count(*) FROM failure") == [(0,)]
    assert (6,) not in run.store.sql("SELECT feature FROM score")
    score(run, OracleLLM(log=log), ["detection"])
    assert run.store.sql("SELECT count(*), count(DISTINCT feature) FROM score WHERE metric = 'detection' AND split = 'test'") == [(12, 12)]  # fmt: skip
