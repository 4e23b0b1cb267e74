"""How the oracle answers the explainers' questions: errors that hang on words, draws that differ in part, mistakes that are noticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest

from glossator.llm.oracle import OracleLLM
from glossator.llm.oracle_explains import read_groups, told
from glossator.planted import PlantedFeature, planted_features
from glossator.prompts.oneshot import Answer
from glossator.types import Message, Request

FEATURES = planted_features()
BEAR = next(f for f in FEATURES if f.name == "bear")
FALCON = next(f for f in FEATURES if f.name == "falcon")
POLAR = "the farmer saw a polar bear ."


def line(text: str, *marked: str, **more: object) -> str:
    pieces = [[f" {word}", 10] if word in marked else f" {word}" for word in text.split()]
    return json.dumps({**more, "before": None, "window": pieces, "after": None})


def ask(oracle: OracleLLM, task: str, *lines: str, about: int | None = None, sample: int = 0) -> str:
    text = "\n".join(("<data>", *lines, "</data>"))
    request = Request(
        f"explain:{task}", (Message("system", ""), Message("user", text)), Answer, 99, sample=sample,
        about=None if about is None else f"planted/{about}",
    )  # fmt: skip
    value = asyncio.run(oracle.complete(request)).value
    return "abstains" if value.abstain else str(value.claim)


def wrong_on(word: str, *right: str, bias: str = "broad") -> OracleLLM:
    """One that errs on a word and not on others."""
    for seed in range(500):
        oracle = OracleLLM(error_rate=0.5, bias=bias, seed=seed)  # type: ignore[arg-type]
        if oracle.errs_on(word) and not any(oracle.errs_on(other) for other in right):
            return oracle
    raise AssertionError("no such seed")


def says(feature: PlantedFeature, which: str = "description") -> str:
    return f"Fires on {feature.description if which == 'description' else getattr(feature, which).description}."


STRONGEST = ("strongest", line("the child saw a bear .", "bear"))


@pytest.mark.parametrize("task", ["oneshot", "contrastive", "logits"])
def test_errors_are_the_same_whatever_the_prompt(task: str) -> None:
    oracle = wrong_on("bear")
    assert ask(oracle, task, *STRONGEST) == says(BEAR, "broader")
    assert ask(OracleLLM(), task, *STRONGEST, about=FEATURES.index(BEAR)) == says(BEAR)


def test_a_silent_window_that_contradicts_a_mistake_corrects_it_unless_it_errs_there_too() -> None:
    falcon = wrong_on("falcon", "bear")
    shown = ("strongest", line("a falcon flew over the door .", "falcon"))
    about = FEATURES.index(FALCON)
    assert ask(falcon, "contrastive", *shown, "silent", line("the tide was near ."), about=about) == says(
        FALCON, "broader"
    )
    assert ask(falcon, "contrastive", *shown, "silent", line(POLAR), about=about) == says(FALCON)
    errs = next(o for s in range(500) if (o := OracleLLM(error_rate=0.5, bias="broad", seed=s)).errs_on("falcon") and o.errs_on("bear"))  # fmt: skip
    assert ask(errs, "contrastive", *shown, "silent", line(POLAR), about=about) == says(FALCON, "broader")


def revised(oracle: OracleLLM, draft: str, *lines: str) -> str:
    return ask(oracle, "refine", "draft", json.dumps(draft), *lines, about=FEATURES.index(FALCON))


def test_counterexamples_correct_a_draft_unless_it_errs_on_their_words() -> None:
    false = ("false alarms", line(POLAR, told=95))
    assert revised(wrong_on("falcon", "bear"), says(FALCON, "broader"), *false) == says(FALCON)
    assert revised(wrong_on("bear"), says(FALCON, "broader"), *false) == says(FALCON, "broader")
    missed = ("missed", line("a falcon flew over the door .", "falcon", told=5))
    assert revised(OracleLLM(), says(BEAR), *missed) == says(FALCON)
    assert revised(wrong_on("falcon"), says(BEAR), *missed) == says(BEAR)
    assert revised(OracleLLM(), "Something that nobody planted.", *missed) == says(FALCON)


def test_a_right_draft_that_only_its_reader_got_wrong_is_given_back() -> None:
    missed = ("missed", line("a falcon flew over the door .", "falcon", told=5))
    for seed in range(20):
        assert revised(OracleLLM(error_rate=0.5, seed=seed), says(FALCON), *missed) == says(FALCON)


def drawn(words: Sequence[str], sample: int, rate: float) -> list[bool]:
    oracle = OracleLLM(error_rate=rate, bias="broad", seed=1)
    about = FEATURES.index(BEAR)
    return [ask(oracle, "oneshot", "strongest", line(f"a {w} .", w), about=about, sample=sample) != says(BEAR) for w in words]  # fmt: skip


def test_draws_err_alike_on_half_of_the_words_and_each_for_itself_on_the_others() -> None:
    words = [f"word{k}" for k in range(600)]
    draws = [drawn(words, sample, 0.3) for sample in range(3)]
    for errs in draws:
        assert 0.24 < sum(errs) / len(words) < 0.36
    same = sum(a == b for a, b in zip(draws[0], draws[1], strict=True)) / len(words)
    assert 0.72 < same < 0.86  # 1/2 + 1/2 (0.3^2 + 0.7^2) = 0.79
    assert draws[1] != draws[2] and drawn(words, 1, 0.3) == draws[1]


def test_windows_are_read_under_their_headings_and_topics_by_whole_windows() -> None:
    groups = read_groups("\n".join(("<data>", *STRONGEST, "silent", line(POLAR), line("a lamp"), "</data>")))
    assert {heading: len(windows) for heading, windows in groups.items()} == {"strongest": 1, "silent": 2}
    sea = next(f for f in FEATURES if f.kind == "topic")
    assert any(told(sea.activation, (["ocean"], ["the", "tide"], [0, 0])))
    assert not any(told(sea.activation, (["ocean"], ["the", "lamp"], [0, 0])))  # the ocean is in another window
