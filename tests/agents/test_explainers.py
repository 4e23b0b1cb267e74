"""What holds for all explainers by a model: the rule of evidence, replays after a kill, the order of things, wrong input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from glossator.agents.explainers.named import explain_feature, explainer, name_of
from glossator.agents.run import Run
from glossator.agents.scoring.score_llm import LabelScorer
from glossator.config import (
    BestOfConfig,
    ContrastiveConfig,
    ExplainerConfig,
    LLMScoreConfig,
    LogitsConfig,
    OneshotConfig,
    RefineConfig,
)
from glossator.errors import ProviderError, UsageError
from glossator.llm.oracle import OracleLLM
from glossator.planted import planted_features
from glossator.prompts.texts import fixed_text
from glossator.scorers.reading import LLMPredictor
from glossator.types import Reply, Request
from tests.agents.explained import contents, explain, logged, shown

FEATURES = planted_features()
ALL: tuple[ExplainerConfig, ...] = (OneshotConfig(), ContrastiveConfig(), LogitsConfig(), BestOfConfig(), RefineConfig(rounds=2))  # fmt: skip
NAMES = [name_of(config) for config in ALL]
EDITS = ("bisect", "transplant", "swap", "delete", "cut_left", "cut_right", "random", "boundary", "minimal", "near_overlap", "exemplar")  # fmt: skip


@pytest.fixture
def ready(run: Run) -> Run:
    """The run, with logits for all features but the first two: as if the subject were causal."""
    run.store.execute(
        "UPDATE feature SET top_logits = ['raised', '##up'], bottom_logits = ['lowered'] WHERE feature > 1"
    )
    return run


def erring(run: Run, seed: int = 2) -> OracleLLM:
    return OracleLLM(error_rate=0.4, bias="broad", seed=seed, log=logged(run))


def own_windows(run: Run) -> dict[str, set[str]]:
    """The scored text of every window by split, without spaces, where no other split shows the same words in a row."""
    scored: dict[str, set[str]] = {"explain": set(), "select": set(), "test": set()}
    whole: dict[str, list[str]] = {split: [] for split in scored}
    vocabulary = run.lexicon.vocabulary
    for split, start, ids in run.store.sql("SELECT split, start, ids FROM text_window"):
        scored[split].add("".join(vocabulary.join(ids[start : start + 32]).split()))
        whole[split].append("".join(vocabulary.join(ids).split()))
    elsewhere = {split: "\n".join(t for other in whole if other != split for t in whole[other]) for split in whole}
    return {split: {text for text in scored[split] if text not in elsewhere[split]} for split in scored}


def prompts_of(run: Run, purpose: str = "%") -> list[str]:
    rows = run.store.sql("SELECT request FROM llm_call WHERE purpose LIKE ?", [purpose])
    return [shown([m["content"] for m in json.loads(request)["messages"]]) for (request,) in rows]


def seen(texts: set[str], prompts: Sequence[str]) -> set[str]:
    whole = "\n".join(prompts)
    return {text for text in texts if text in whole}


# ------------------------------------------------------------------ the rule of evidence


def test_no_text_of_test_is_in_any_prompt_before_the_label_is_frozen(ready: Run) -> None:
    """All prompts of a whole run, read from the log: of writers those of `explain` alone, of readers no `test`."""
    for config in ALL:
        explain(ready, erring(ready), config)
    only = own_windows(ready)
    prompts, writers = prompts_of(ready), prompts_of(ready, "explain:%")
    assert len({purpose for (purpose,) in ready.store.sql("SELECT purpose FROM llm_call")}) == 5
    assert len(prompts) > len(writers) + 30 and len(only["test"]) > 100
    assert seen(only["test"], prompts) == set()
    assert seen(only["select"], writers) == set()
    assert len(seen(only["explain"], writers)) > 100 and len(seen(only["select"], prompts)) > 50  # it can be seen
    reader = OracleLLM(log=logged(ready))
    with ready.stage("score:llm", LLMScoreConfig()) as run_id:  # the labels are frozen
        scorer = LabelScorer(ready, LLMPredictor(reader, ready.lexicon.vocabulary, LLMScoreConfig()), run_id)
        asyncio.run(scorer.score({"detection": [0, 1]}, 4))
    assert len(seen(only["test"], prompts_of(ready))) > 10


def test_readers_see_a_label_and_plain_text_and_nothing_else(ready: Run) -> None:
    for config in (BestOfConfig(), RefineConfig(rounds=2)):
        explain(ready, erring(ready), config)
    rows = ready.store.sql("SELECT request FROM llm_call WHERE purpose = 'score:detection'")
    labels = {text for (text,) in ready.store.sql("SELECT text FROM explanation")}
    assert len(rows) > 20
    for (request,) in rows:
        system, user = (m["content"] for m in json.loads(request)["messages"])
        assert system == fixed_text("detect")
        first, heading, label, second, *lines, last = user.splitlines()
        assert (first, heading, second, last) == ("<data>", "label", "windows", "</data>")
        assert json.loads(label) in labels
        for line in lines:
            number, *texts = json.loads(line)
            assert isinstance(number, int) and all(text is None or isinstance(text, str) for text in texts)
        assert not any(kind in user.removeprefix(label) for kind in EDITS)


# ------------------------------------------------------------------ contrastive and logits


def test_near_misses_in_the_prompt_are_silent_windows_of_explain(run: Run) -> None:
    llm = OracleLLM()
    explain(run, llm, ContrastiveConfig())
    near = {
        "".join(run.lexicon.vocabulary.join(ids[start : start + 32]).split())
        for start, ids in run.store.sql(
            "SELECT w.start, w.ids FROM near_miss n JOIN text_window w USING (window_id) WHERE n.split = 'explain'"
        )
    }
    found = 0
    for request in llm.requests:
        lines = request.messages[1].text.splitlines()
        for line in lines[lines.index("silent") + 1 : -1] if "silent" in lines else ():
            pieces = json.loads(line)["window"]
            assert all(isinstance(piece, str) for piece in pieces) and "".join("".join(pieces).split()) in near
            found += 1
    assert found > 50


def test_near_misses_correct_a_model_that_is_too_broad(run: Run) -> None:
    right = {}
    for config in (OneshotConfig(), ContrastiveConfig()):
        explain(run, OracleLLM(error_rate=0.5, bias="broad", seed=2), config)
        rows = run.store.sql("SELECT feature, text FROM explanation WHERE explainer = ?", [name_of(config)])
        right[name_of(config)] = {f for f, text in rows if text == f"Fires on {FEATURES[f].description}."}
    assert right["oneshot"] < right["contrastive"]


def test_logits_are_shown_where_a_feature_has_them(ready: Run) -> None:
    llm = OracleLLM()
    assert explain(ready, llm, LogitsConfig()) == {"labelled": 12}
    with_them = {str(r.about) for r in llm.requests if '["raised", "##up"]' in r.messages[1].text.splitlines()}
    assert with_them == {f"planted/{i}" for i in range(2, 12)}
    assert all(('["lowered"]' in r.messages[1].text) == (str(r.about) in with_them) for r in llm.requests)


@pytest.mark.parametrize(
    ("config", "missing", "parts"),
    [
        (LogitsConfig(), "SELECT 1", ["--explainer logits", "planted", "causal"]),
        (ContrastiveConfig(), "DELETE FROM near_miss", ["--explainer contrastive", "near misses"]),
        (ContrastiveConfig(), "DELETE FROM near_miss WHERE split = 'explain'", ["--explainer contrastive"]),
    ],
)
def test_what_the_run_file_lacks_is_said_before_anybody_is_asked(
    run: Run, config: ExplainerConfig, missing: str, parts: list[str]
) -> None:
    run.store.execute(missing)
    llm = OracleLLM()
    with pytest.raises(UsageError) as caught:
        explain(run, llm, config)
    assert all(part in str(caught.value) for part in parts) and not llm.requests
    assert run.store.sql("SELECT count(*) FROM stage") == [(0,)]


# ------------------------------------------------------------------ replays and order


class Dies(OracleLLM):
    """After so many questions there is nobody any more."""

    left = 0

    async def fetch(self, call_id: str, request: Request):  # type: ignore[no-untyped-def]
        if self.left <= 0:
            raise ProviderError("gone")
        self.left -= 1
        return await super().fetch(call_id, request)


@pytest.mark.parametrize("config", [ALL[1], *ALL[3:]], ids=[NAMES[1], *NAMES[3:]])
def test_a_run_that_was_stopped_again_and_again_pays_for_nothing_twice_and_ends_the_same(
    ready: Run, config: ExplainerConfig
) -> None:
    explain(ready, OracleLLM(error_rate=0.4, bias="broad", seed=2), config)
    undisturbed = contents(ready)
    for table in ("explanation", "stage", "score", "failure", "prompt"):
        ready.store.execute(f"DELETE FROM {table}")
    bought: list[Request] = []
    stops = 0
    for _ in range(30):
        llm = Dies(error_rate=0.4, bias="broad", seed=2, log=logged(ready))
        llm.left = 17
        try:
            explain(ready, llm, config)
        except ProviderError:
            bought += llm.requests
            stops += 1
            continue
        bought += llm.requests
        break
    else:
        raise AssertionError("it never ended")
    assert stops == (len(bought) - 1) // 17 and len(bought) == len(
        {(str(r.messages), r.sample, r.attempt, r.answer.__name__) for r in bought}
    )
    assert contents(ready) == undisturbed


@pytest.mark.parametrize("config", ALL[3:], ids=NAMES[3:])
def test_rows_do_not_depend_on_how_many_are_in_hand_nor_on_who_answers_first(
    ready: Run, config: ExplainerConfig
) -> None:
    class Slow(OracleLLM):
        async def complete(self, request: Request) -> Reply:
            await asyncio.sleep((int(str(request.about).split("/")[1]) * 7 + request.sample * 3) % 5 / 300)
            return await super().complete(request)

    found = []
    for kind, in_hand in ((OracleLLM, 1), (Slow, 100)):
        for table in ("explanation", "stage", "score", "failure", "prompt"):
            ready.store.execute(f"DELETE FROM {table}")
        explain(ready, kind(error_rate=0.4, seed=2), config, in_hand=in_hand)
        found.append(contents(ready))
    assert found[0] == found[1]


def test_one_feature_can_be_explained_alone_and_nothing_is_written(ready: Run) -> None:
    llm = OracleLLM(error_rate=0.4, bias="broad", seed=2)
    explain(ready, llm, RefineConfig(rounds=2), [8])
    ((text,),) = ready.store.sql("SELECT text FROM explanation WHERE explainer = 'refine'")
    ready.store.execute("DELETE FROM explanation")
    (record,) = ready.records([8])
    what = explainer(ready, RefineConfig(rounds=2), llm.name)
    found = asyncio.run(
        explain_feature(what, record, llm, LLMPredictor(llm, ready.lexicon.vocabulary, LLMScoreConfig()))
    )
    assert found.best.claim.text == text and found.candidates
    assert ready.store.sql("SELECT count(*) FROM explanation") == [(0,)]
