"""The cascade as a stage over many features: rows, labels, kills, stops, and what its prompts show."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from glossator import pipeline
from glossator.agents.explainers.explaining import account
from glossator.agents.explainers.named import explainer
from glossator.agents.run import Run
from glossator.agents.scoring.score_llm import LabelScorer
from glossator.config import (
    BestOfConfig,
    CascadeConfig,
    DebateConfig,
    EditorConfig,
    HarvestConfig,
    LabelConfig,
    LexicalConfig,
    LLMScoreConfig,
    RefineConfig,
)
from glossator.errors import BudgetSpent, ProviderError, UsageError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.llm.base import ReplyLog, call_id
from glossator.llm.oracle import OracleLLM
from glossator.planted import planted_features
from glossator.prompts.texts import fixed_text
from glossator.rows import CallRow
from glossator.scorers.reading import LLMPredictor
from glossator.types import Reply, Request
from tests.agents.explained import contents, explain, logged
from tests.agents.planted_run import planted_run
from tests.agents.test_explainers import EDITS, own_windows, prompts_of, seen

N = len(planted_features())
ALL = CascadeConfig(escalate="all")
EVERY_NODE = CascadeConfig(
    escalate="all", good=1.0, doubt=1.0, margin=1.0, best_of=BestOfConfig(n=2), debate=DebateConfig(budget=6, pool_read=12),
    label=LabelConfig(refine=RefineConfig(rounds=2), editor=EditorConfig(texts=6, seed=1)),
)  # fmt: skip
STAGE = "explain:cascade"
MORE = {
    "step": "SELECT * EXCLUDE (run_id) FROM step ORDER BY ALL",
    "experiment": "SELECT * EXCLUDE (run_id) FROM experiment ORDER BY ALL",
    "prediction": "SELECT * EXCLUDE (sealed_at) FROM prediction ORDER BY ALL",
    "measurement": "SELECT * EXCLUDE (measured_at) FROM measurement ORDER BY ALL",
    "debate": "SELECT * EXCLUDE (run_id) FROM debate ORDER BY ALL",
    "debate_turn": "SELECT * EXCLUDE (run_id) FROM debate_turn ORDER BY ALL",
}


class Oracle(OracleLLM):
    """Errs on some words, broadly, and writes texts for the editor."""

    def __init__(self, log: ReplyLog | None = None, rate: float = 0.5) -> None:
        super().__init__(error_rate=rate, bias="broad", seed=2, log=log)


@pytest.fixture
def ready(run: Run) -> Iterator[Run]:
    pipeline.explain(run, LexicalConfig())
    yield run


@pytest.fixture(scope="module")
def done(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    """All features through every node. Not to be changed, but for what `test_no_text_of_test...` reads at its end."""
    made = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    pipeline.explain(made, LexicalConfig())
    explain(made, Oracle(logged(made)), EVERY_NODE, in_hand=N)
    yield made
    made.store.close()


def all_rows(run: Run) -> dict[str, list[tuple[Any, ...]]]:
    return contents(run) | {table: run.store.sql(query) for table, query in MORE.items()}


def forget(run: Run) -> None:
    """All that came after the lexical explainer, but for the log of replies."""
    for table in ("step", "experiment", "prediction", "measurement", "debate", "debate_turn", "failure", "prompt"):
        run.store.execute(f"DELETE FROM {table}")
    run.store.execute("DELETE FROM explanation WHERE explainer <> 'lexical'")
    run.store.execute("DELETE FROM score WHERE predictor <> 'rule'")
    run.store.execute("DELETE FROM stage WHERE stage <> 'explain'")


# ------------------------------------------------------------------ rows


def test_rules_that_stand_stay_and_the_others_get_a_sentence(ready: Run) -> None:
    llm = OracleLLM(log=logged(ready))
    before = dict(ready.store.sql("SELECT feature, label FROM labels"))
    tally = explain(ready, llm, CascadeConfig())
    routes = dict(ready.store.sql("SELECT feature, outcome FROM step WHERE node = 'route'"))
    stand = {f for f, outcome in routes.items() if outcome == "lexical stands"}
    assert (
        len(routes) == N and 3 <= len(stand) < N and tally == {"left as it is": len(stand), "labelled": N - len(stand)}
    )
    for feature, text, by, status in ready.store.sql("SELECT feature, label, explainer, status FROM labels"):
        assert (by, status) == ("lexical" if feature in stand else "cascade", "labelled")
        assert text == (before[feature] if feature in stand else f"Fires on {planted_features()[feature].description}.")
    assert {str(r.about) for r in llm.requests} == {f"planted/{f}" for f in routes if f not in stand}
    reasons = dict(ready.store.sql(f"SELECT feature, reason FROM stage WHERE stage = '{STAGE}' AND status = 'done'"))
    assert {f for f, why in reasons.items() if why.startswith("lexical stands: simulation")} == stand
    assert ready.store.pending(STAGE, "planted") == []


def test_every_node_on_the_way_is_a_row_and_the_flow_adds_up(done: Run) -> None:
    flow = done.store.sql("SELECT node, outcome, features, visits, share, value FROM flow WHERE graph = 'cascade'")
    assert {node for node, *_ in flow} == {"route", "draft", "read", "probe", "refine", "best_of", "debate", "freeze"}
    for node in ("route", "draft", "freeze"):
        assert sum(features for name, _, features, *_ in flow if name == node) == N
    assert all(share == features / N and visits >= features for _, _, features, visits, share, _ in flow)
    assert flow[0][:2] == ("route", "all are escalated") and flow[-1][0] == "freeze"
    broken = (
        "SELECT feature FROM step GROUP BY feature HAVING max(number) <> count(*) OR count(DISTINCT number) <> count(*)"
    )
    assert done.store.sql(broken) == []
    ends = (
        "SELECT count(*) FROM step s JOIN label l USING (feature) JOIN score c ON c.explanation_id = l.explanation_id "
    )
    ends += "WHERE s.node = 'freeze' AND c.metric = 'detection' AND c.split = 'select'"
    assert done.store.sql(ends) == [(N,)]


def test_experiments_before_the_label_is_frozen_are_of_select_and_not_the_reported_ones(done: Run) -> None:
    pools = done.store.sql(
        "SELECT DISTINCT starts_with(pool, 'debate:'), CASE WHEN starts_with(pool, 'select:1:') THEN 'own' END, split FROM experiment ORDER BY ALL"
    )
    assert pools == [(False, "own", "select"), (True, None, "explain"), (True, None, "select")]
    sealed = "SELECT count(*) FROM prediction p JOIN explanation e USING (explanation_id) WHERE e.explainer = 'cascade:candidate'"
    assert done.store.sql(sealed) == done.store.sql("SELECT count(*) FROM prediction") != [(0,)]


def test_a_second_run_asks_nothing_measures_nothing_and_changes_nothing(done: Run) -> None:
    llm = Oracle(logged(done))
    before = all_rows(done)
    assert before["debate"] and before["experiment"]
    explain(done, llm, EVERY_NODE)  # nothing is pending
    explain(done, llm, EVERY_NODE, range(N), in_hand=3)
    assert not llm.requests and all_rows(done) == before


def test_another_way_takes_the_place_of_the_old_one(ready: Run) -> None:
    llm = Oracle(logged(ready))
    explain(ready, llm, EVERY_NODE, [0])
    explain(ready, llm, CascadeConfig(stands=-1.0, list_items=12), [0])
    assert ready.store.sql("SELECT number, node, outcome FROM step") == [(1, "route", "lexical stands")]


# ------------------------------------------------------------------ kills and stops


class Dies(Oracle):
    """Answers some questions, and then is not there any more."""

    def __init__(self, log: ReplyLog, left: int, how: type[BaseException]) -> None:
        super().__init__(log)
        self.left, self.how = left, how

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        if self.left <= 0:
            raise self.how("gone")
        self.left -= 1
        return await super().fetch(call_id, request)


@pytest.mark.parametrize("how", [ProviderError, asyncio.CancelledError, BudgetSpent])
def test_a_run_that_was_killed_again_and_again_ends_the_same_and_pays_for_nothing_twice(
    ready: Run, how: type[BaseException]
) -> None:
    features = [2, 6, 8]
    explain(ready, Oracle(), EVERY_NODE, features)
    undisturbed = all_rows(ready)
    forget(ready)
    kills = 0
    for _ in range(60):
        known = {identity for (identity,) in ready.store.sql("SELECT call_id FROM llm_call")}
        llm = Dies(logged(ready), 13, how)
        try:
            explain(ready, llm, EVERY_NODE, features)
            break
        except how:
            kills += 1
            final = {f for (f,) in ready.store.sql(f"SELECT feature FROM stage WHERE stage = '{STAGE}'")}
            assert {f for (f,) in ready.store.sql("SELECT DISTINCT feature FROM step")} == final  # abandoned: no row
        finally:
            assert not known & {call_id(llm.address, request) for request in llm.requests}
    else:
        raise AssertionError("it never ended")
    assert kills >= 2
    assert all_rows(ready) == undisturbed


def test_rows_do_not_depend_on_how_many_are_in_hand(ready: Run) -> None:
    class Slow(Oracle):
        async def complete(self, request: Request) -> Reply:
            await asyncio.sleep((int(str(request.about).split("/")[1]) * 7 + request.sample * 3) % 5 / 300)
            return await super().complete(request)

    found = []
    for kind, in_hand in ((Oracle, 1), (Slow, 100)):
        forget(ready)
        explain(ready, kind(), EVERY_NODE, [1, 3, 5, 7], in_hand=in_hand)
        found.append(all_rows(ready))
    assert found[0] == found[1]


# ------------------------------------------------------------------ the rule of evidence


def test_no_text_of_test_is_in_any_prompt_before_the_label_is_frozen(done: Run) -> None:
    """Labels, probes on `select` and debates, read from the log. Then the labels are frozen, and `test` is read."""
    only = own_windows(done)
    purposes = {purpose for (purpose,) in done.store.sql("SELECT purpose FROM llm_call")}
    assert purposes >= {"explain:oneshot", "explain:contrastive", "explain:refine", "probe:edit", "score:detection"}
    assert len(done.store.sql("FROM debate")) > 3 and len(only["test"]) > 100
    assert seen(only["test"], prompts_of(done)) == set()
    assert len(seen(only["explain"], prompts_of(done))) > 100 and len(seen(only["select"], prompts_of(done))) > 50
    reader = OracleLLM(log=logged(done))
    with done.stage("score:llm", LLMScoreConfig()) as run_id:
        scorer = LabelScorer(done, LLMPredictor(reader, done.lexicon.vocabulary, LLMScoreConfig()), run_id)
        asyncio.run(scorer.score({"detection": [0, 1]}, 4))
    assert len(seen(only["test"], prompts_of(done))) > 10


def test_who_predicts_knows_a_sentence_and_plain_text_and_nothing_else(done: Run) -> None:
    rows = done.store.sql("SELECT request FROM llm_call WHERE purpose = 'score:detection'")
    known = {text for (text,) in done.store.sql("SELECT text FROM explanation")}
    assert len(rows) > 20
    for (request,) in rows:
        system, user = (m["content"] for m in json.loads(request)["messages"])
        assert system == fixed_text("detect")
        first, heading, label, second, *lines, last = user.splitlines()
        assert (first, heading, second, last) == ("<data>", "label", "windows", "</data>")
        assert json.loads(label) in known
        for line in lines:
            number, *texts = json.loads(line)  # marks of exemplars would be lists
            assert isinstance(number, int) and all(text is None or isinstance(text, str) for text in texts)
        assert not any(
            kind in user.replace(label, "") for kind in (*EDITS, "minimal_on", "minimal_off", "boundary", "positive")
        )


# ------------------------------------------------------------------ features that cannot be labelled


def test_features_that_cannot_be_labelled_get_a_status_and_a_reason_and_nobody_is_asked(ready: Run) -> None:
    for feature, status in ((1, "dead"), (2, "rare"), (3, "dense")):
        ready.store.execute(f"UPDATE feature SET status = '{status}', reason = 'as told' WHERE feature = {feature}")
    ready.store.execute("UPDATE feature SET active_windows = [0, 0, 0] WHERE feature IN (1, 4)")
    llm = Oracle(logged(ready))
    explain(ready, llm, ALL, [1, 2, 3, 4])
    assert not llm.requests
    rows = ready.store.sql(
        "SELECT feature, text, abstained, reason FROM explanation WHERE explainer = 'cascade' ORDER BY 1"
    )
    assert [row[:3] for row in rows] == [(f, None, True) for f in (1, 2, 3, 4)]
    assert [row[3] for row in rows] == [
        "never active in the split explain", "no sentence could be chosen: rare: as told",
        "no sentence could be chosen: dense: as told", "never active in the split explain",
    ]  # fmt: skip
    shown = dict(ready.store.sql("SELECT feature, status FROM labels WHERE feature IN (1, 2, 3)"))
    assert shown == {1: "dead", 2: "rare", 3: "dense"}


def test_a_feature_without_a_draft_has_failed_with_its_way_told_and_can_be_retried(ready: Run) -> None:
    class Refuses(Oracle):
        def _answer(self, request: Request) -> str:
            return "no JSON" if request.purpose == "explain:oneshot" else super()._answer(request)

    log = logged(ready)
    assert explain(ready, Refuses(log), ALL, [5]) == {"UnparsableError": 1}
    assert ready.store.sql("SELECT node, outcome FROM step ORDER BY number") == [
        ("route", "all are escalated"), ("draft", "failed"), ("freeze", "failed")
    ]  # fmt: skip
    ((stage, message),) = ready.store.sql("SELECT stage, message FROM failure")
    assert stage == STAGE and message.startswith("draft: ") and 5 in ready.store.pending(STAGE, "planted")
    assert explain(ready, Oracle(log, rate=0.0), ALL, [5], retry_failed=True) == {"labelled": 1}
    assert ("freeze", "labelled") in ready.store.sql("SELECT node, outcome FROM step")
    assert ready.store.sql("SELECT explainer FROM labels WHERE feature = 5") == [("cascade",)]


# ------------------------------------------------------------------ words


def test_the_account_says_how_far_features_went(ready: Run) -> None:
    log = logged(ready)
    tally = explain(ready, Oracle(log), CascadeConfig())
    said = account(ready, tally, log.session_id, "cascade")
    stood, asked = tally["left as it is"], tally["labelled"]
    assert f"cascade: {stood} keep their lexical label, {asked} labelled, 0 abstained, 0 failed" in said
    assert f"the way of {N} features (FROM flow): {stood} stood by their lexical rule, {asked} escalated" in said
    assert "tokens about each of those asked about" in said


def test_the_graph_label_is_an_explainer_too(ready: Run) -> None:
    config = LabelConfig(refine=RefineConfig(rounds=1))
    assert sum(explain(ready, Oracle(logged(ready)), config, range(6)).values()) == 6
    nodes = {node for (node,) in ready.store.sql("SELECT DISTINCT node FROM flow WHERE graph = 'label'")}
    assert nodes == {"draft", "read", "probe", "refine", "freeze"}
    assert ready.store.sql("SELECT DISTINCT explainer FROM explanation WHERE explainer LIKE 'label%' ORDER BY 1") == [
        ("label",), ("label:candidate",)
    ]  # fmt: skip


# ------------------------------------------------------------------ what it stands on


def test_a_subject_that_is_not_there_ends_the_run_with_its_line_and_without_a_row(ready: Run) -> None:
    class Alone(Run):
        def model(self) -> Any:
            raise UsageError("the model on disk is not the one that was harvested")

    alone = Alone(ready.store)
    with pytest.raises(UsageError):
        explain(alone, Oracle(logged(ready)), EVERY_NODE, [2])
    assert ready.store.sql(f"SELECT * FROM stage WHERE stage = '{STAGE}'") == ready.store.sql("FROM step") == []
    explain(alone, OracleLLM(log=logged(ready)), ALL, [3])  # a draft that reads well needs no subject
    assert ready.store.sql("SELECT explainer FROM labels WHERE feature = 3") == [("cascade",)]


def test_graphs_post_nothing_to_tracing_services(ready: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOSSATOR_TRACING", raising=False)
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    explain(ready, OracleLLM(log=logged(ready)), ALL, [3])
    assert os.environ["LANGSMITH_TRACING"] == "false"


def test_questions_that_wait_for_one_another_are_counted(ready: Run) -> None:
    one, two = (explainer(ready, LabelConfig(refine=RefineConfig(rounds=n)), "").depth for n in (1, 2))
    assert (one, two) == (7, 12)
    depths = [explainer(ready, CascadeConfig(best_of=BestOfConfig(n=4, together=t)), "").depth for t in (True, False)]
    assert depths == [two + 2 + 5, two + 8 + 5]
