"""Scores by a model beside labels of others: what is asked, what it says, what is never asked twice, what failed; and repeats."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.agents.scoring.read_labels import Wanted, read_labels
from glossator.agents.scoring.scenes import difference, scene_of, seed_of, value_of
from glossator.agents.scoring.score_nulls import plan
from glossator.config import LexicalConfig, LLMConfig, LLMScoreConfig, ScoreConfig
from glossator.errors import BudgetSpent
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import ScriptedLLM
from glossator.rows import ExplanationRow
from glossator.scorers.reading import LLMPredictor
from glossator.scorers.simulation import Scene
from glossator.store.labels import materialise_labels
from glossator.types import Reply, Request
from tests.agents.test_score_llm import CONFIG, FEATURES, REFUSED, WHO, labelled, logged, truths

FULL = CONFIG.model_copy(update={"min_null": 49})  # of the 132 pairs that 12 features have
NULLS = "SELECT * EXCLUDE (run_id) FROM null_score ORDER BY ALL"
ROWS = (
    NULLS,
    "SELECT * FROM score ORDER BY ALL",
    "SELECT * FROM stage ORDER BY ALL",
    "SELECT * FROM failure ORDER BY ALL",
)


def read(
    run: Run, llm: ScriptedLLM, scorers: Sequence[str] = ("detection",), config: LLMScoreConfig = FULL, **more: Any
) -> Counter[tuple[str, str]]:
    tally: Counter[tuple[str, str]] = Counter()
    predictor = LLMPredictor(llm, run.lexicon.vocabulary, config)
    try:
        asyncio.run(read_labels(run, predictor, Wanted(scorers, **more), LLMConfig(), 4, tally))
    finally:
        materialise_labels(run.store)
    return tally


def lexical(run: Run, feature: int, program: str | None = None) -> None:
    """What the lexical explainer found: a rule without a sentence, or none."""
    row = ExplanationRow(
        f"l{feature}", run.dictionary, feature, "lexical", None, None, program, program is None, None, ""
    )
    run.store.put_now(row)


def contents(run: Run) -> list[list[tuple[Any, ...]]]:
    return [run.store.sql(query) for query in ROWS]


def alone(config: LLMScoreConfig = FULL, **update: Any) -> LLMScoreConfig:
    return config.model_copy(update={"nulls": False, **update})


# ------------------------------------------------------------------ what is compared


@pytest.mark.parametrize("scorer", ["simulation", "detection", "fuzzing"])
def test_right_labels_beat_labels_of_others_and_wrong_ones_do_not(run: Run, scorer: str) -> None:
    """Features 0 to 8 have their own labels; 9 to 11 those of one another: among the others, and nothing more."""
    wrong = {9: FEATURES[10].description, 10: FEATURES[11].description, 11: FEATURES[9].description}
    labelled(run, truths(*range(9)) | wrong)
    read(run, OracleLLM(), [scorer])
    rows = run.store.sql(
        "SELECT feature, comparison, metric, p_value, q_value, n FROM null_score WHERE predictor = ?", [WHO]
    )
    assert {metric for _, _, metric, *_ in rows} == {scorer}
    p = {(feature, comparison): (p, q, n) for feature, comparison, _, p, q, n in rows}
    for feature in {f for f, _ in p}:
        value, q, n = p[feature, "permuted"]
        assert n == 49 and q >= value and (value < 0.05 if feature < 9 else value > 0.05)
        if scorer != "fuzzing":  # 4 windows with right marks: too few documents for a p
            assert p[feature, "neighbour"][0] < 0.05 if feature < 9 else p[feature, "neighbour"][0] > 0.05


def test_a_difference_to_the_neighbour_and_to_the_lexical_rule_is_that_of_the_answers(run: Run) -> None:
    labelled(run, truths())
    lexical(run, 2, program='{"items": []}')
    read(run, OracleLLM(), ["simulation"], features=[2])
    (record,) = run.records([2])
    shown = scene_of(run, record, "simulation", "test", FULL)
    assert isinstance(shown, Scene)
    reader = LLMPredictor(OracleLLM(), run.lexicon.vocabulary, FULL)
    mine, theirs = (
        asyncio.run(reader.strengths(FEATURES[i].description, shown.windows)) for i in (2, record.neighbours[0])
    )
    found, p = difference(shown, mine, theirs, FULL.draws, seed_of(FULL, 2))
    rows = run.store.sql(
        "SELECT comparison, null_mean, difference, low, high, p_value FROM null_score WHERE comparison <> 'permuted' ORDER BY 1"
    )
    assert rows[1] == ("neighbour", pytest.approx(value_of(shown, theirs)), *map(pytest.approx, (found.value, found.low, found.high)), p)  # fmt: skip
    lift = rows[0]
    assert lift[:2] == ("lexical", 0.0) and lift[5] is None  # a rule without items says nothing
    assert lift[2] == pytest.approx(value_of(shown, mine)) and 0 < lift[3] <= lift[2] <= lift[4]


def test_where_the_lexical_explainer_found_no_rule_the_lift_is_over_nothing_and_where_it_never_ran_there_is_none(
    run: Run,
) -> None:
    labelled(run, truths(2, 3))
    lexical(run, 2)
    read(run, OracleLLM(), ["detection"])
    rows = run.store.sql("SELECT feature, null_mean, difference FROM null_score WHERE comparison = 'lexical'")
    assert rows == [(2, 0.5, pytest.approx(0.5))]


def test_a_reader_who_says_nothing_beats_nobody(run: Run) -> None:
    """The other labels' false alarms put them below chance; who says nothing is at chance."""
    said = '{"active": [], "silent": [%s]}'
    oracle = OracleLLM()

    def answer(request: Request) -> str:
        if "a label of nothing" not in request.messages[1].text:
            return str(oracle._answer(request))
        lines = request.messages[1].text.splitlines()
        return said % ", ".join(line[1:].split(",", 1)[0] for line in lines if line.startswith("["))

    labelled(run, truths(*range(11)) | {11: "a label of nothing"})
    read(run, ScriptedLLM(answer), ["simulation"])
    rows = dict(run.store.sql("SELECT comparison, p_value FROM null_score WHERE feature = 11"))
    assert rows == {"permuted": 1.0, "neighbour": 1.0}


def test_a_label_is_trusted_by_the_nulls_of_the_model_that_read_it(run: Run) -> None:
    labelled(run, truths())
    for feature in range(12):
        lexical(run, feature)
    config = FULL.model_copy(
        update={"active": 15, "background": 15, "firing": 10, "silent": 10, "near": 0, "draws": 500}
    )
    read(run, OracleLLM(), ["detection"], config)
    rows = run.store.sql(
        "SELECT predictor, detection, simulation, p_vs_permuted < 0.1, p_vs_neighbour < 0.1, lift_over_lexical FROM labels WHERE feature = 2"
    )
    assert rows == [(WHO, 1.0, None, True, True, pytest.approx(0.5))]
    assert run.store.sql("SELECT count(*) FROM labels WHERE trusted") == [(12,)]
    read(run, OracleLLM(), ["simulation"], config)  # which goes before detection once it is there
    ((own, p, lift),) = run.store.sql(
        "SELECT simulation, p_vs_neighbour, lift_over_lexical FROM labels WHERE feature = 2"
    )
    assert (
        own == pytest.approx(lift)
        and (p,)
        == run.store.sql(
            "SELECT p_value FROM null_score WHERE feature = 2 AND metric = 'simulation' AND comparison = 'neighbour'"
        )[0]
    )


def test_rules_keep_their_comparisons_and_the_families_stay_apart(run: Run) -> None:
    pipeline.explain(run, LexicalConfig())
    pipeline.score(run, ScoreConfig(min_null=99))
    rules = run.store.sql("SELECT * FROM null_score WHERE predictor = 'rule' ORDER BY ALL")
    read(run, OracleLLM(), ["simulation"])
    assert run.store.sql("SELECT * FROM null_score WHERE predictor = 'rule' ORDER BY ALL") == rules
    mine = run.store.sql("SELECT * FROM null_score WHERE predictor = ? ORDER BY ALL", [WHO])
    assert mine and len({row[0] for row in mine} & {row[0] for row in rules}) > 9  # of the same explanations
    pipeline.score(run, ScoreConfig(min_null=99), [0, 1])
    assert run.store.sql("SELECT * FROM null_score WHERE predictor = ? ORDER BY ALL", [WHO]) == mine
    rest = (
        "SELECT * EXCLUDE (run_id) FROM null_score WHERE predictor = 'rule' AND comparison <> 'permuted' ORDER BY ALL"
    )
    assert run.store.sql(rest) == [row[:-2] + row[-1:] for row in rules if row[4] != "permuted"]


# ------------------------------------------------------------------ how much is asked


def test_too_few_features_are_told_and_asked_one_label_each(run: Run) -> None:
    labelled(run, truths())
    said: list[str] = []
    run.say = said.append
    llm = OracleLLM()
    read(run, llm, config=CONFIG)
    assert "up to 24 questions more, 12 with labels of other features and 12 with the neighbour's" in said[0]
    assert "p_vs_permuted will be NULL: it takes 999 pairs" in said[0]
    assert 24 + 12 < len(llm.requests) <= 24 + 24
    rows = run.store.sql(
        "SELECT count(*), count(null_mean), count(difference), count(p_value), max(n) FROM null_score WHERE comparison = 'permuted'"
    )
    assert rows == [(12, 12, 12, 0, 12)]
    assert run.store.sql(
        "SELECT count(p_vs_permuted), count(p_vs_neighbour), count(*) FILTER (trusted) FROM labels"
    ) == [(0, 12, 0)]


def test_one_feature_is_compared_with_few_others(run: Run) -> None:
    labelled(run, truths())
    llm = OracleLLM()
    read(run, llm, config=CONFIG, features=[2])
    assert len(llm.requests) <= 4 and {request.about for request in llm.requests} == {"planted/2"}


def test_of_a_large_dictionary_999_pairs_a_stratum_are_planned_with_labels_of_all() -> None:
    density = {f: f / 4_000 for f in range(4_000)}
    made = plan(density, range(4_000), range(4_000), LLMScoreConfig())
    assert made.pairs == 4 * 999 and made.short == -1 and len(set(made.strata.values())) == 4
    some = plan(density, range(0, 4_000, 20), range(4_000), LLMScoreConfig())  # asked for: 200 of them
    assert some.pairs == 999 and max(map(len, some.others.values())) == 5
    assert any(other % 20 for tried in some.others.values() for other in tried)


def test_no_nulls_asks_and_writes_none(run: Run) -> None:
    labelled(run, truths())
    llm = OracleLLM()
    read(run, llm, config=alone())
    assert len(llm.requests) == 24 and run.store.sql(NULLS) == []


# ------------------------------------------------------------------ never twice


def test_a_second_run_asks_nothing_and_changes_no_row(run: Run) -> None:
    labelled(run, truths(0, 2, 5, 7))
    read(run, OracleLLM(log=logged(run), error_rate=0.2), ("detection", "simulation"))
    before = contents(run)
    for features in (None, [0, 2], range(12)):
        again = OracleLLM(log=logged(run), error_rate=0.2)
        read(run, again, ("detection", "simulation"), features=features)
        assert again.requests == [] and contents(run) == before


def test_comparisons_that_were_left_out_are_all_that_is_asked_later(run: Run) -> None:
    labelled(run, truths())
    first = OracleLLM(log=logged(run))
    read(run, first, config=alone())
    second = OracleLLM(log=logged(run))
    read(run, second)
    own = {request.messages[1].text for request in first.requests}
    assert len(second.requests) <= 49 + 12 and not own & {request.messages[1].text for request in second.requests}
    whole = run.store.sql(NULLS)
    run.store.execute("DELETE FROM null_score")
    run.store.execute("DELETE FROM score")
    run.store.execute("DELETE FROM stage")
    read(run, OracleLLM(log=logged(run)))
    assert run.store.sql(NULLS) == whole


@pytest.mark.parametrize("at", [5, 40, 70])
def test_a_run_that_is_stopped_anywhere_is_gone_on_with_and_pays_for_nothing_twice(run: Run, at: int) -> None:
    class Ends(OracleLLM):
        async def complete(self, request: Request) -> Reply:
            if len(self.requests) >= at:
                raise BudgetSpent("all gone")
            return await super().complete(request)

    labelled(run, truths())
    stopped = Ends(log=logged(run), error_rate=0.1)
    with pytest.raises(BudgetSpent):
        read(run, stopped)
    assert run.store.sql("SELECT count(*) FROM null_score") == [(0,)]
    resumed = OracleLLM(log=logged(run), error_rate=0.1)
    read(run, resumed)
    asked = [(r.messages[1].text, r.sample) for r in (*stopped.requests, *resumed.requests)]
    assert len(asked) == len(set(asked))
    assert run.store.sql("SELECT count(*), count(DISTINCT call_id) FROM llm_call") == [(len(asked), len(asked))]
    gone_on_with = run.store.sql(NULLS)
    for table in ("null_score", "score", "stage", "llm_call"):
        run.store.execute(f"DELETE FROM {table}")
    at_once = OracleLLM(error_rate=0.1)
    read(run, at_once)
    assert run.store.sql(NULLS) == gone_on_with and len(at_once.requests) == len(asked)


def test_a_label_that_comes_later_is_compared_and_few_others_anew(run: Run) -> None:
    labelled(run, truths(*range(11)))
    read(run, OracleLLM(log=logged(run)), config=CONFIG)
    labelled(run, truths(11))
    later = OracleLLM(log=logged(run))
    read(run, later, config=CONFIG)
    assert "planted/11" in {r.about for r in later.requests} and len(later.requests) <= 2 + 1 + 1 + 6
    assert run.store.sql("SELECT count(*) FROM null_score WHERE comparison = 'permuted'") == [(12,)]
    assert (
        run.store.sql("SELECT count(*) FROM null_score GROUP BY explanation_id, comparison HAVING count(*) > 1") == []
    )


# ------------------------------------------------------------------ failures


def refusing(run: Run, about: str, but: str) -> ScriptedLLM:
    """An oracle that refuses all questions about one feature but those under one label."""
    oracle = OracleLLM()

    def answer(request: Request) -> Any:
        return oracle._answer(request) if request.about != about or but in request.messages[1].text else REFUSED

    return ScriptedLLM(answer, logged(run), "oracle")


def test_failed_comparisons_are_counted_against_the_label_and_shown(run: Run) -> None:
    labelled(run, truths())
    tally = read(run, refusing(run, "planted/2", FEATURES[2].description))
    assert tally["detection", "scored"] == 12 and tally["detection beside other labels", "compared"] == 11
    assert tally["detection beside other labels", "RefusedError"] == 1
    ((stage, error, message),) = run.store.sql("SELECT stage, error, message FROM failure")
    assert (stage, error) == (f"score:detection:{WHO}:nulls", "RefusedError")
    assert "labels of other features" in message and "the neighbour's label" in message
    ((p, _, n),) = run.store.sql(
        "SELECT p_value, q_value, n FROM null_score WHERE feature = 3 AND comparison = 'permuted'"
    )
    assert n == 49 and p >= (1 + 4) / 50  # the refused ones are in the pool, as labels that did as well
    assert run.store.sql(
        "SELECT null_mean, p_value, q_value FROM null_score WHERE feature = 2 AND comparison = 'neighbour'"
    ) == [(None, None, None)]
    assert run.store.sql("SELECT detection, p_vs_neighbour, trusted IS TRUE FROM labels WHERE feature = 2") == [
        (1.0, None, False)
    ]
    before = contents(run)
    again = refusing(run, "planted/2", FEATURES[2].description)
    read(run, again)
    assert again.requests == [] and contents(run) == before


def test_failed_comparisons_are_drawn_anew_on_request_and_only_they(run: Run) -> None:
    labelled(run, truths())
    read(run, refusing(run, "planted/2", FEATURES[2].description))
    better = OracleLLM(log=logged(run))
    read(run, better, retry_failed=True)
    assert {(r.about, r.attempt) for r in better.requests} == {("planted/2", 1)}
    assert run.store.sql("SELECT arg_max(status, rowid) FROM stage WHERE stage LIKE '%:nulls' AND feature = 2") == [
        ("done",)
    ]
    assert run.store.sql("SELECT count(*) FROM null_score WHERE null_mean IS NULL") == [(0,)]
    before = contents(run)
    again = OracleLLM(log=logged(run))
    read(run, again, features=range(12))
    assert again.requests == [] and contents(run) == before


# ------------------------------------------------------------------ labels of one explainer


def test_labels_of_one_explainer_are_compared_with_one_another_and_not_with_those_of_the_run(run: Run) -> None:
    labelled(run, truths())
    labelled(run, truths(0, 1, 2), "imported:theirs")
    llm = OracleLLM(log=logged(run))
    read(run, llm, explainer="imported:theirs")
    rows = run.store.sql("SELECT DISTINCT explanation_id FROM null_score ORDER BY 1")
    assert rows == [(f"imported:theirs-{i}",) for i in range(3)]
    tried = {
        i
        for i in range(12)
        for r in llm.requests
        if FEATURES[i].description in json.loads(r.messages[1].text.splitlines()[2])
    }
    assert tried == {0, 1, 2}
    stages = run.store.sql("SELECT DISTINCT stage FROM stage ORDER BY 1")
    assert stages == [(f"score:detection:{WHO}:imported:theirs",), (f"score:detection:{WHO}:nulls:imported:theirs",)]
    own = OracleLLM(log=logged(run))
    read(run, own)  # which does not know of them
    assert run.store.sql("SELECT count(*) FROM null_score WHERE comparison = 'permuted'") == [(3 + 12,)]
    assert run.store.sql(
        "SELECT min(n), max(n) FROM null_score WHERE comparison = 'permuted' AND starts_with(explanation_id, 'typed')"
    ) == [(49, 49)]
