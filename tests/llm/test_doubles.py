"""The doubles: a script is parsed as a provider's replies are, the oracle says what was planted and errs as it was told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from pydantic import BaseModel, Field

from glossator.errors import CutOffError, ProviderError, RefusedError, UnparsableError
from glossator.llm.base import RawReply
from glossator.llm.oracle import Bias, OracleLLM
from glossator.llm.oracle_explains import read_windows
from glossator.llm.scripted import ScriptedLLM
from glossator.planted import Nearly, PlantedFeature, planted_documents, planted_features, planted_tokens
from glossator.types import WINDOW, Message, Reply, Request

FEATURES = {feature.name: feature for feature in planted_features()}
PASSAGES = [planted_tokens(p) for d in planted_documents(120) for p in d.passages]


class Number(BaseModel):
    n: int = Field(ge=0, le=10)


class Said(BaseModel):
    notes: str
    abstain: bool
    scope: str
    claim: str


def question(text: str = "?", about: str | None = None) -> Request:
    return Request("count", (Message("user", text),), Number, 50, about=about)


def complete(llm: ScriptedLLM, *requests: Request) -> list[Reply]:
    async def work() -> list[Reply]:
        return list(await asyncio.gather(*(llm.complete(request) for request in requests)))

    return asyncio.run(work())


# ------------------------------------------------------------------ scripted


def test_answers_come_by_function_by_feature_or_in_order() -> None:
    one, two = question("1", "d/1"), question("2", "d/2")
    for answers in (lambda r: f'{{"n": {r.messages[0].text}}}', {"d/1": '{"n": 1}', "d/2": '{"n": 2}'}, ['{"n": 1}', '{"n": 2}']):  # fmt: skip
        llm = ScriptedLLM(answers)  # type: ignore[arg-type]
        assert [reply.value for reply in complete(llm, one, two)] == [Number(n=1), Number(n=2)]
        assert llm.requests == [one, two]


def test_a_reply_that_does_not_parse_is_asked_for_once_more() -> None:
    llm = ScriptedLLM(['{"n": 11}', 'Sure: ```json {"n": 7}```'])
    assert complete(llm, question())[0].value == Number(n=7)
    assert len(llm.requests) == 2 and "less than or equal to 10" in llm.requests[1].messages[-1].text


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("no number", UnparsableError),
        (RawReply("I would rather not", "refusal", None, "m"), RefusedError),
        (RawReply('{"n": ', "length", None, "m"), CutOffError),
        (ProviderError("no credit"), ProviderError),
    ],
)
def test_a_script_can_fail_in_every_way(said: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        complete(ScriptedLLM([said, said]), question())


def test_a_script_that_ends_too_early_says_so() -> None:
    for answers in ([], {}):
        with pytest.raises(ProviderError, match="no answer for question 1, about d/1"):
            complete(ScriptedLLM(answers), question(about="d/1"))


def test_equal_questions_are_asked_once() -> None:
    llm = ScriptedLLM(['{"n": 3}'])
    assert [reply.value.n for reply in complete(llm, question(), question())] == [3, 3]
    assert complete(llm, question())[0].value.n == 3 and len(llm.requests) == 1


# ------------------------------------------------------------------ broader and narrower truths


@pytest.mark.parametrize("feature", planted_features(), ids=lambda f: f.name)
def test_broader_and_narrower_truths_differ_from_the_truth_on_text(feature: PlantedFeature) -> None:
    def where(activation) -> set[tuple[int, int]]:  # type: ignore[no-untyped-def]
        return {(n, i) for n, words in enumerate(PASSAGES) for i, value in enumerate(activation(words)) if value > 0}

    assert isinstance(feature.broader, Nearly) and isinstance(feature.narrower, Nearly)
    assert where(feature.broader.activation) > where(feature.activation) > where(feature.narrower.activation) > set()
    assert len({feature.description, feature.broader.description, feature.narrower.description}) == 3


# ------------------------------------------------------------------ the oracle


def prompt(feature: PlantedFeature, about: str | None = None, passages: Sequence[Sequence[str]] = PASSAGES) -> Request:
    """Eight windows in which a feature is active, written as our prompts write them."""
    lines = ["<data>", "strongest"]
    for words in passages:
        values = feature.activation(words)[:WINDOW]
        if max(values) > 0 and len(lines) < 10:
            shown = [[f" {w}", 9] if v else f" {w}" for w, v in zip(words, values, strict=False)]
            lines.append(json.dumps({"before": None, "window": shown, "after": " so"}))
    return Request("explain:oneshot", (Message("system", "?"), Message("user", "\n".join([*lines, "</data>"]))), Said, 99, about=about)  # fmt: skip


def says(llm: OracleLLM, request: Request) -> Said:
    value = complete(llm, request)[0].value
    assert isinstance(value, Said)
    return value


@pytest.mark.parametrize("feature", planted_features(), ids=lambda f: f.name)
def test_without_errors_it_says_what_was_planted_named_or_not(feature: PlantedFeature) -> None:
    index = list(FEATURES).index(feature.name)
    for request in (prompt(feature, f"planted/{index}"), prompt(feature)):
        said = says(OracleLLM(), request)
        assert said.claim == f"Fires on {feature.description}." and not said.abstain
        assert said.scope in ("token", "phrase", "topic", "position")


@pytest.mark.parametrize(("bias", "which"), [("broad", "broader"), ("narrow", "narrower")])
def test_a_biased_oracle_errs_to_its_side(bias: Bias, which: str) -> None:
    for name, feature in FEATURES.items():
        said = says(OracleLLM(error_rate=1.0, bias=bias), prompt(feature))
        assert said.claim == f"Fires on {getattr(feature, which).description}.", name
    assert says(OracleLLM(bias=bias), prompt(FEATURES["falcon"])).claim == 'Fires on the word "falcon".'


def test_errors_without_a_bias_are_other_features_or_abstentions() -> None:
    said = [says(OracleLLM(error_rate=1.0, seed=s), prompt(f)) for f in FEATURES.values() for s in range(4)]
    truths = [f"Fires on {f.description}." for f in FEATURES.values() for _ in range(4)]
    assert all(one.claim != truth for one, truth in zip(said, truths, strict=True))
    assert 10 < sum(one.abstain for one in said) < 38
    assert all(one.notes and not one.claim and one.scope == "none" for one in said if one.abstain)


def test_it_errs_at_its_rate_and_always_on_the_same_words() -> None:
    words = [f"word{i}" for i in range(2000)]

    def erring(rate: float, seed: int) -> list[bool]:
        llm = OracleLLM(error_rate=rate, seed=seed)
        return [llm.errs_on(word) for word in words]

    for rate in (0.0, 0.1, 0.5, 1.0):
        assert erring(rate, 5) == erring(rate, 5)
        assert sum(erring(rate, 5)) / 2000 == pytest.approx(rate, abs=0.03)
    assert erring(0.5, 5) != erring(0.5, 6)


def test_questions_that_turn_on_one_word_are_answered_wrongly_together() -> None:
    """Different windows, the same strongest word: right for all of them or wrong for all of them."""
    falcon = FEATURES["falcon"]
    verdicts = set()
    for seed in range(20):
        llm = OracleLLM(error_rate=0.5, seed=seed)
        right = {
            says(llm, prompt(falcon, passages=PASSAGES[i:])).claim == 'Fires on the word "falcon".' for i in (0, 9, 30)
        }
        assert len(right) == 1
        verdicts |= right
    assert verdicts == {True, False}


def test_an_unknown_prompt_is_refused_in_words() -> None:
    with pytest.raises(ProviderError, match="knows no answer to count; it knows explain:oneshot"):
        complete(OracleLLM(), question())


def test_windows_are_read_from_a_prompt_as_they_were_written() -> None:
    line = json.dumps({"before": " by the", "window": [" River", [" bank .", 4], " so"], "after": None})
    assert read_windows(f"<data>\nstrongest\n{line}\n</data>") == [
        (["by", "the"], ["river", "bank", ".", "so"], [0, 4, 4, 0])
    ]
