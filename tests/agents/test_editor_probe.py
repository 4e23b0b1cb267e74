"""The probe stage with models: what they see, what is stored, what a restart pays for, what scores come of it."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from glossator import pipeline
from glossator.agents.editor.probe_llm import ModelEditor, left_to_probe
from glossator.agents.editor.scores import outcomes_of
from glossator.agents.run import Run
from glossator.config import EditorConfig, LexicalConfig
from glossator.errors import BudgetSpent, ProviderError
from glossator.llm.base import RawReply
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import Said, ScriptedLLM
from glossator.planted import planted_features
from glossator.rows import ExplanationRow
from glossator.scorers.adversarial import METRICS, adversarial, base_rates
from glossator.store.labels import materialise_labels
from glossator.types import Request
from tests.agents.explained import logged, shown

FEATURES = planted_features()
NAMES = [f.name for f in FEATURES]
BEAR, FALCON, BANK, NIGHT = (NAMES.index(name) for name in ("bear", "falcon", "river-bank", "night-harbour"))
REFUSED = RawReply("I would rather not", "refusal", None, "m")
ROWS = {
    "experiment": "SELECT * EXCLUDE (run_id) FROM experiment ORDER BY ALL",
    "prediction": "SELECT * EXCLUDE (sealed_at) FROM prediction ORDER BY ALL",
    "measurement": "SELECT * EXCLUDE (measured_at) FROM measurement ORDER BY ALL",
    "score": "SELECT * EXCLUDE (run_id) FROM score ORDER BY ALL",
    "stage": "SELECT * EXCLUDE (run_id) FROM stage ORDER BY ALL",
    "failure": "SELECT * EXCLUDE (run_id, trace) FROM failure ORDER BY ALL",
}


def truth(feature: int) -> str:
    return f"Fires on {FEATURES[feature].description}."


def explained(run: Run, texts: dict[str, tuple[int, str]]) -> None:
    rows = [
        ExplanationRow(i, "planted", f, f"by {i}", "m", text, None, False, None, "") for i, (f, text) in texts.items()
    ]
    run.store.put_now(*rows)
    materialise_labels(run.store)


def probe(
    run: Run, writer: ScriptedLLM, reader: ScriptedLLM | None = None, features: Sequence[int] | None = None,
    config: EditorConfig | None = None, *, retry_failed: bool = False,
) -> Counter[str]:  # fmt: skip
    """The stage as the pipeline runs it, with doubles for the models."""
    tally: Counter[str] = Counter()
    config, reader = config or EditorConfig(), reader or writer
    try:
        with run.stage("probe:llm:x", config) as run_id:
            editor = ModelEditor(run, writer, reader, config, run_id, tally, retry_failed=retry_failed)
            asyncio.run(editor.probe(left_to_probe(run, reader.name, features), 4))
    finally:
        materialise_labels(run.store)
    return tally


def contents(run: Run) -> dict[str, list[tuple[Any, ...]]]:
    return {table: run.store.sql(query) for table, query in ROWS.items()}


def of(llm: ScriptedLLM, purpose: str) -> list[Request]:
    return [request for request in llm.requests if request.purpose == purpose]


def replies(answers: Callable[[Request], Said], log: Any = None, name: str = "m") -> ScriptedLLM:
    return ScriptedLLM(answers, log, name)


def oracle_but(purpose: str, said: Said, only: int | None = None) -> Callable[[Request], Said]:
    """The oracle's answers, but for questions of one kind, or those of one feature."""
    oracle = OracleLLM()

    def answer(request: Request) -> Said:
        mine = only is None or (request.about or "").endswith(f"/{only}")
        return said if request.purpose == purpose and mine else oracle._answer(request)

    return answer


@pytest.fixture
def labelled(run: Run) -> Run:
    explained(run, {f"right {f}": (f, truth(f)) for f in (BEAR, FALCON, BANK, NIGHT)})
    return run


def test_a_right_label_foresees_what_is_written_and_gets_every_score(labelled: Run) -> None:
    llm = OracleLLM()
    assert probe(labelled, llm, features=[BEAR, FALCON, BANK, NIGHT]) == {"probed": 4}
    assert len(of(llm, "probe:edit")) == len(of(llm, "score:detection")) == 4  # a whole pool in one question
    kinds = {kind for (kind,) in labelled.store.sql("SELECT DISTINCT kind FROM experiment")}
    assert {"positive", "boundary", "minimal_off", "bisect", "swap", "random"} <= kinds
    rows = labelled.store.sql(
        "SELECT feature, metric, value, note, model FROM score WHERE predictor = 'llm:scripted:oracle'"
    )
    assert {(f, m) for f, m, *_ in rows} == {(f, m) for f in (BEAR, FALCON, BANK, NIGHT) for m in METRICS}
    assert all(value is not None or note for *_, value, note, _ in rows) and {row[-1] for row in rows} == {llm.name}
    assert min(value for _, metric, value, *_ in rows if metric == "adversarial") > 0.8
    assert labelled.store.sql("SELECT count(*) FROM labels WHERE adversarial > 0.8") == [(4,)]
    ((status, reason),) = labelled.store.sql("SELECT status, reason FROM stage WHERE feature = ?", [BEAR])
    assert status == "done" and reason.split(" texts")[0].isdigit()
    covered = "SELECT done, waiting FROM coverage WHERE stage = 'probe:llm:scripted:oracle'"
    assert labelled.store.sql(covered) == [(4, 8)]


def test_whoever_predicts_sees_the_label_and_texts_alone(labelled: Run) -> None:
    writer, reader = OracleLLM(), OracleLLM()
    probe(labelled, writer, reader, [BEAR, FALCON, BANK])
    asked = of(reader, "score:detection")
    assert len(asked) == 3 and not of(writer, "score:detection")
    pools = labelled.store.sql("SELECT feature, kind, texts FROM experiment")
    for request in asked:
        feature = int((request.about or "").rpartition("/")[2])
        text = shown([message.text for message in request.messages[1:]])
        mine = {t for f, _, texts in pools if f == feature for t in texts}
        unmeasured = 0
        for line in request.messages[1].text.splitlines()[4:-1]:
            _, before, window, after = json.loads(line)
            assert before is None and after is None
            unmeasured += window.strip() not in mine
        assert unmeasured <= 4  # steps of the bisection that it did not come to, and their transplants
        for kind in {kind for _, kind, _ in pools} - {"random", "case", "delete", "swap", "positive"}:
            assert kind not in text
        windows = labelled.store.sql(
            "SELECT w.text FROM exemplar x JOIN text_window w USING (window_id) WHERE x.feature = ? AND x.split <> 'test'", [feature]
        )  # fmt: skip
        assert not any("".join(whole.split()) in text for (whole,) in windows if len(whole.split()) > 12)


def test_texts_of_a_pool_come_in_an_order_that_says_nothing_of_their_kinds(labelled: Run) -> None:
    reader = OracleLLM()
    probe(labelled, OracleLLM(), reader, [BEAR])
    (request,) = of(reader, "score:detection")
    kind_of = {t: kind for kind, texts in labelled.store.sql("SELECT kind, texts FROM experiment") for t in texts}
    windows = [json.loads(line)[2].strip() for line in request.messages[1].text.splitlines()[4:-1]]
    kinds = [kind_of[text] for text in windows if text in kind_of]
    changes = sum(a != b for a, b in pairwise(kinds))
    shuffled = []
    for seed in range(200):
        other = random.Random(seed).sample(kinds, len(kinds))
        shuffled.append(sum(a != b for a, b in pairwise(other)))
    assert changes >= np.quantile(shuffled, 0.02)


def test_no_text_of_test_reaches_a_prompt_before_there_is_a_label(run: Run) -> None:
    llm = OracleLLM()
    assert probe(run, llm) == {"skipped": 12} and not llm.requests
    reasons = {reason for (reason,) in run.store.sql("SELECT DISTINCT reason FROM stage")}
    assert "nothing to probe: no label" in reasons


def test_running_again_asks_and_measures_nothing_and_changes_no_row(labelled: Run) -> None:
    probe(labelled, OracleLLM(log=logged(labelled)), features=[BEAR, FALCON])
    before = contents(labelled)
    again = OracleLLM(log=logged(labelled))
    probe(labelled, again, features=[BEAR, FALCON])
    assert not again.requests and contents(labelled) == before


@pytest.mark.parametrize("lost", ["measurement", "all that was sealed"])
def test_a_killed_run_goes_on_without_paying_or_measuring_twice(labelled: Run, lost: str) -> None:
    probe(labelled, OracleLLM(log=logged(labelled)), features=[BEAR, FALCON])
    before = contents(labelled)
    for table in ("stage", "score"):
        labelled.store.execute(f"DELETE FROM {table}")
    labelled.store.execute(f"DELETE FROM measurement WHERE feature = {FALCON}")
    if lost != "measurement":
        labelled.store.execute(f"DELETE FROM prediction WHERE experiment_id IN (SELECT experiment_id FROM experiment WHERE feature = {FALCON})")  # fmt: skip
        labelled.store.execute(f"DELETE FROM experiment WHERE feature = {FALCON}")
    again = OracleLLM(log=logged(labelled))
    probe(labelled, again, features=[BEAR, FALCON])
    assert not again.requests and contents(labelled) == before


def test_what_ends_the_run_leaves_no_row_for_the_feature_and_the_next_run_goes_on(labelled: Run) -> None:
    for stop in (BudgetSpent("no more"), ProviderError("no credit")):
        with pytest.raises(type(stop)):
            probe(labelled, replies(oracle_but("score:detection", stop)), features=[BEAR])
        for table in ROWS:
            assert not contents(labelled)[table], table
    llm = OracleLLM(log=logged(labelled))
    probe(labelled, llm, features=[BEAR])
    assert contents(labelled)["score"]


def test_a_run_that_ends_early_scores_what_it_has(labelled: Run) -> None:
    llm = replies(oracle_but("score:detection", BudgetSpent("no more"), only=FALCON))
    with pytest.raises(BudgetSpent):
        probe(labelled, llm, features=[BEAR, FALCON])
    assert {f for (f,) in labelled.store.sql("SELECT feature FROM score")} == {BEAR}


def test_a_reader_without_a_usable_reply_is_the_feature_s_failure(labelled: Run) -> None:
    llm = replies(oracle_but("score:detection", REFUSED, only=BEAR))
    assert probe(labelled, llm, features=[BEAR, FALCON]) == {"probed": 1, "RefusedError": 1}
    assert labelled.store.sql("SELECT feature, stage, error FROM failure") == [
        (BEAR, "probe:llm:scripted:m", "RefusedError")
    ]
    assert labelled.store.sql("SELECT status FROM stage WHERE feature = ?", [BEAR]) == [("failed",)]
    assert labelled.store.sql("SELECT count(*) FROM measurement WHERE feature = ?", [BEAR]) == [(0,)]
    assert BEAR in left_to_probe(labelled, "scripted:m", None)


def test_a_writer_without_a_usable_reply_is_a_row_and_the_mechanical_edits_are_run(labelled: Run) -> None:
    log = logged(labelled)
    llm = replies(oracle_but("probe:edit", REFUSED), log)
    assert probe(labelled, llm, features=[BEAR]) == {"probed": 1, "without written texts": 1}
    ((status, reason),) = labelled.store.sql("SELECT status, reason FROM stage")
    assert status == "done" and "gave nothing usable (RefusedError)" in reason
    ((message, error),) = labelled.store.sql("SELECT message, error FROM failure")
    assert error == "RefusedError" and message.startswith("writing experiments: ")
    rows = dict(labelled.store.sql("SELECT metric, note FROM score"))
    assert rows["adversarial"] is None and "was written" in rows["activation_rate"]
    llm = replies(oracle_but("probe:edit", REFUSED), log)
    probe(labelled, llm, features=[BEAR])
    assert not llm.requests and len(labelled.store.sql("FROM failure")) == 1  # the same one, read from the log
    better = replies(oracle_but("none", ""), log)
    assert probe(labelled, better, features=[BEAR], retry_failed=True) == {"probed": 1}
    assert ("positive",) in labelled.store.sql("SELECT DISTINCT kind FROM experiment")


def test_a_label_that_has_come_since_is_probed_by_the_next_run_in_a_pool_of_its_own(labelled: Run) -> None:
    probe(labelled, OracleLLM(), features=[FALCON, BANK, NIGHT])
    assert BEAR in left_to_probe(labelled, "scripted:oracle", None)
    probe(labelled, OracleLLM(), features=None)
    assert left_to_probe(labelled, "scripted:oracle", None) == []
    labelled.store.execute("DELETE FROM explanation WHERE explanation_id = ?", [f"right {BEAR}"])
    explained(labelled, {"new": (BEAR, "Fires on polar bears.")})
    assert left_to_probe(labelled, "scripted:oracle", None) == [BEAR]
    probe(labelled, OracleLLM())
    rows = labelled.store.sql("SELECT count(DISTINCT pool), count(DISTINCT experiment_id) - count(*) FROM experiment WHERE feature = ?", [BEAR])  # fmt: skip
    assert rows == [(2, 0)]


def test_a_run_that_was_stopped_before_the_scores_is_gone_on_with_and_nobody_is_asked(labelled: Run) -> None:
    probe(labelled, OracleLLM(log=logged(labelled)), features=[BEAR, FALCON, BANK, NIGHT])
    probe(labelled, OracleLLM(log=logged(labelled)))
    before = contents(labelled)
    assert before["score"] and left_to_probe(labelled, "scripted:oracle", None) == []
    labelled.store.execute("DELETE FROM score")
    materialise_labels(labelled.store)
    assert left_to_probe(labelled, "scripted:oracle", None) == sorted([BEAR, FALCON, BANK, NIGHT])
    again = OracleLLM(log=logged(labelled))
    probe(labelled, again)
    assert not again.requests and contents(labelled) == before


def test_a_pool_of_an_older_label_is_no_other_feature(labelled: Run) -> None:
    probe(labelled, OracleLLM(), features=[BEAR])
    alone = dict(labelled.store.sql("SELECT metric, value FROM score WHERE explanation_id = ?", [f"right {BEAR}"]))
    labelled.store.execute("DELETE FROM explanation WHERE explanation_id = ?", [f"right {BEAR}"])
    explained(labelled, {"new": (BEAR, truth(BEAR) + " ")})  # the same to a reader
    probe(labelled, OracleLLM(), features=[BEAR])
    assert labelled.store.sql("SELECT count(DISTINCT pool) FROM experiment") == [(2,)]
    again = dict(labelled.store.sql("SELECT metric, value FROM score WHERE explanation_id = 'new'"))
    outcomes = outcomes_of(labelled, "llm:scripted:oracle")["new"].values()
    assert again["adversarial"] == pytest.approx(adversarial(list(outcomes), base_rates(list(outcomes))).value)
    assert alone["adversarial"] is not None


@pytest.mark.parametrize("status", ["dead", "rare", "dense"])
def test_features_that_are_not_to_be_probed_get_a_status_and_nobody_is_asked(labelled: Run, status: str) -> None:
    labelled.store.execute("UPDATE feature SET status = ?, reason = 'so it is' WHERE feature = ?", [status, BEAR])
    materialise_labels(labelled.store)
    llm = OracleLLM()
    assert probe(labelled, llm, features=[BEAR]) == {"skipped": 1} and not llm.requests
    assert labelled.store.sql("SELECT status, reason FROM stage") == [("abstained", f"{status}: so it is")]


def test_a_dense_feature_with_a_rule_is_not_probed_offline_either(run: Run) -> None:
    pipeline.explain(run, LexicalConfig())
    run.store.execute("UPDATE feature SET status = 'dense', reason = 'everywhere' WHERE feature = ?", [BEAR])
    materialise_labels(run.store)
    pipeline.probe(run, EditorConfig(), [BEAR])
    assert run.store.sql("SELECT status, reason FROM stage WHERE stage = 'probe'") == [
        ("abstained", "dense: everywhere")
    ]


def auroc(better: Sequence[float], worse: Sequence[float]) -> float:
    a, b = np.asarray(better)[:, None], np.asarray(worse)[None, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def test_the_score_tells_right_labels_from_broader_and_narrower_ones_when_one_reading_in_ten_is_wrong(run: Run) -> None:
    """All labels of a feature are read on one pool, which was written with all at hand. Small: see the benchmarks."""
    # what turns on a place or a whole window is not to be told in carriers, such as the first tokens of a context
    chosen = [i for i, name in enumerate(NAMES) if name not in ("first", "sea")]
    for i in chosen:
        almost = {k: FEATURES[i].almost[k].description for k in ("broader", "narrower")}
        said = {"right": FEATURES[i].description} | {k: t for k, t in almost.items() if "first" not in t}
        explained(run, {f"{kind} {i}": (i, f"Fires on {text}.") for kind, text in said.items()})
    config = EditorConfig(every=True, carriers_read=3)
    values: dict[str, dict[tuple[int, str], float]] = {"right": {}, "broader": {}, "narrower": {}}
    for seed in range(2):
        llm = OracleLLM(error_rate=0.1, seed=seed)
        probe(run, llm, features=chosen, config=config.model_copy(update={"seed": seed}))
        for identity, value in run.store.sql("SELECT explanation_id, value FROM score WHERE metric = 'adversarial'"):
            kind, feature = identity.split()
            values[kind][seed, feature] = value
    right = values.pop("right")
    assert len(right) == 20 and len(values["narrower"]) == 12
    for found in values.values():
        assert auroc(list(right.values()), list(found.values())) > 0.85
        assert np.mean([right[which] > value for which, value in found.items()]) > 0.8
