"""On features whose truth is known: the explainer finds it, the sentence says it, scores and edits agree with it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from glossator import pipeline
from glossator.agents.run import Run
from glossator.config import EditorConfig, HarvestConfig, LexicalConfig, ScoreConfig
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.store.labels import materialise_labels
from tests.agents.planted_run import planted_run


@pytest.fixture(scope="module")
def run(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    made = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    pipeline.label(made, LexicalConfig(), EditorConfig(), ScoreConfig(min_null=99))
    yield made
    made.store.close()


@pytest.fixture
def names(planted_subject: PlantedSubject) -> dict[str, int]:
    return {feature.name: i for i, feature in enumerate(planted_subject.features)}


def label(run: Run, feature: int) -> dict[str, object]:
    return dict(run.store.arrow("SELECT * FROM label WHERE feature = ?", [feature]).to_pylist()[0])


@pytest.mark.parametrize(
    ("name", "words", "least"),
    [
        ("falcon", ['"falcon"'], 0.99),
        ("kitchen", ["butter", "oven", "flour", "kettle"], 0.99),
        ("colour", ["colours"], 0.99),
        ("century", ["years from 19"], 0.95),
        ("river-bank", ['"bank" after "river"'], 0.99),
        ("bear", ['"bear"'], 0.95),
        ("first", ["first token of a context"], 0.95),
        ("wet", ['"flood"', '"rain"'], 0.99),
        ("-ing", ["ing"], 0.95),
        ("guitar-or-very", ['"guitar"'], 0.9),
    ],
)
def test_the_label_says_what_was_planted(
    run: Run, names: dict[str, int], name: str, words: list[str], least: float
) -> None:
    found = label(run, names[name])
    assert all(word in str(found["label"]) for word in words), found["label"]
    assert float(str(found["simulation"])) >= least, (found["label"], found["simulation"])


def test_what_the_rules_cannot_say_scores_lower_than_what_they_can(run: Run, names: dict[str, int]) -> None:
    """AND over a distance is beyond the items: the rule must fall short, and the score must show it."""
    assert float(str(label(run, names["night-harbour"])["simulation"])) < 0.95


def test_graded_features_get_graded_strengths(run: Run, names: dict[str, int]) -> None:
    program = json.loads(run.store.sql("SELECT program FROM explanation WHERE feature = ?", [names["wet"]])[0][0])
    assert {i["token"]: i["strength"] for i in program["items"] if i["kind"] == "token"} == {"flood": 10, "rain": 3}


def test_true_labels_foresee_the_edits_and_beat_their_nulls(run: Run, names: dict[str, int]) -> None:
    for name in ("falcon", "colour", "century", "river-bank"):
        found = label(run, names[name])
        assert float(str(found["adversarial"])) > 0.5, (name, found["adversarial"])
    assert run.store.sql("SELECT count(*) FROM null_score WHERE comparison = 'permuted' AND abs(null_mean) > 0.3") == [
        (0,)
    ]


def test_edits_are_what_they_say(run: Run, names: dict[str, int]) -> None:
    """A single word: the minimal span is one token, deletion silences it, transplanting wakes it."""
    rows = run.store.sql(
        "SELECT e.kind, o.fires, e.edit FROM experiment e JOIN outcome o USING (experiment_id) WHERE e.feature = ?",
        [names["falcon"]],
    )
    outcomes = {kind: fires for kind, fires, _ in rows}
    spans = [json.loads(edit)["tokens"] for kind, fires, edit in rows if kind == "bisect" and fires]
    assert spans == [1]
    assert outcomes["transplant"] and not outcomes["delete"]
    assert {"swap", "random"} <= set(outcomes)


def test_a_phrase_needs_more_than_its_last_word(run: Run, names: dict[str, int]) -> None:
    rows = run.store.sql(
        "SELECT e.edit, o.fires FROM experiment e JOIN outcome o USING (experiment_id) WHERE e.feature = ? AND e.kind = 'bisect'",
        [names["river-bank"]],
    )
    by_radius = {json.loads(edit)["radius"]: fires for edit, fires in rows}
    assert by_radius[0] is False and by_radius[1] is True


def test_carriers_are_three_and_the_outcome_is_their_majority(run: Run) -> None:
    rows = run.store.sql(
        "SELECT e.kind, o.carriers, o.fires, o.fired_share FROM experiment e JOIN outcome o USING (experiment_id)"
    )
    for kind, carriers, fires, share in rows:
        assert carriers == (1 if kind in ("bisect", "random") else 3)
        assert fires == (share > 0.5)


def test_features_without_a_pattern_are_abstained_from(run: Run) -> None:
    """Held to an impossible standard, the explainer abstains with a reason instead of labelling."""
    pipeline.explain(run, LexicalConfig(min_select=0.999, min_fit=0.9), [6])
    run.store.execute("DELETE FROM explanation WHERE feature = 6 AND NOT abstained")
    materialise_labels(run.store)
    found = label(run, 6)
    assert found["status"] == "abstained" and found["label"] is None and found["reason"]


def test_a_failing_feature_is_a_row_and_the_others_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from glossator.agents.lexical import explainer as lexical

    honest = lexical.LexicalExplainer.explain

    def breaks(self: lexical.LexicalExplainer, record: object) -> object:
        if record.feature.index == 0:  # type: ignore[attr-defined]
            raise ZeroDivisionError("on purpose")
        return honest(self, record)  # type: ignore[arg-type]

    monkeypatch.setattr(lexical.LexicalExplainer, "explain", breaks)
    pipeline.explain(run, LexicalConfig(), [0, 1])
    assert run.store.sql("SELECT feature, stage, error FROM failure") == [(0, "explain", "ZeroDivisionError")]
    assert run.store.pending("explain", "planted") == [0]
    assert run.store.sql("SELECT arg_max(status, rowid) FROM stage WHERE feature = 1 AND stage = 'explain'") == [
        ("done",)
    ]
