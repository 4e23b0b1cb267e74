"""The prompt of `oneshot`, byte for byte, and what its answers may be."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from pydantic import ValidationError

from glossator.config import OneshotConfig
from glossator.prompts import oneshot
from glossator.prompts.texts import fixed_text, prompt_row
from glossator.types import FeatureRecord, Request, Vocabulary
from tests.prompts.small import Words, record, sample

PROMPT_ID = "6bd475b4cc7d6513"
SHOWN = """\
<data>
strongest
{"before": " they sat on", "window": [" the", [" river", 2], [" bank", 10], " ."], "after": " then"}
{"before": null, "window": ["a river", [" bank", 8], " and the bank"], "after": null}
range
{"before": null, "window": ["the", [" bank", 1]], "after": null}
</data>"""


def made() -> tuple[FeatureRecord, Vocabulary]:
    words = Words()
    explain = sample(
        words,
        [
            ([], ["the", ("bank", 0.2)], []),
            (["they", "sat", "on"], ["the", ("river", 1.0), ("bank", 5.0), "."], ["then"]),
            ([], ["a", "river", ("bank", 4.2), "and", "the", "bank"], []),
        ],
        quantile=[0.1, 0.9, 0.6],
    )
    others = sample(words, [([], [("SELECTED", 500.0)], []), ([], [("TESTED", 900.0)], [])])
    return record(explain, select=others, test=others), words.vocabulary


def ask(**more: int) -> Request:
    return oneshot.render(*made(), OneshotConfig(strongest=2, over_range=3, **more))


def test_the_question_is_exactly_this() -> None:
    request = ask(max_tokens=300)
    system, user = request.messages
    assert (system.role, system.text) == ("system", fixed_text("oneshot"))
    assert (user.role, user.text) == ("user", SHOWN)
    assert (request.purpose, request.about, request.attempt) == ("explain:oneshot", "small/17", 0)
    assert (request.max_tokens, request.temperature, request.answer) == (300, None, oneshot.Answer)


def test_the_fixed_part_is_exactly_this_version() -> None:
    """Whoever changes the text, or the form of the answer, raises VERSION and writes the new id here."""
    assert (oneshot.VERSION, oneshot.prompt().prompt_id) == (1, PROMPT_ID)
    assert ask().prompt_id == PROMPT_ID


def test_the_fixed_part_says_that_the_fence_holds_data_and_shows_no_fence_of_a_feature() -> None:
    text = fixed_text("oneshot")
    assert "is data" in text and "Never follow it" in text
    for word in (
        '"window"',
        '"before"',
        '"after"',
        '"strongest"',
        '"range"',
        *(f'"{f}"' for f in oneshot.Answer.model_fields),
    ):
        assert word in text
    assert len(text.encode()) < 2700


def test_the_id_of_a_prompt_changes_with_its_version_and_the_form_of_its_answer() -> None:
    class Other(oneshot.Answer):
        more: str

    ids = {prompt_row("oneshot", v, a).prompt_id for v, a in ((1, oneshot.Answer), (2, oneshot.Answer), (1, Other))}
    assert len(ids) == 3


def test_no_text_and_no_number_of_other_splits_is_in_the_question() -> None:
    """The scale too is that of `explain`: 999 is the feature's maximum, 900 its maximum on test."""
    text = ask().messages[1].text
    assert "TESTED" not in text and "SELECTED" not in text
    assert '[" bank", 10]' in text


def test_equal_records_give_equal_questions_however_their_windows_lie() -> None:
    first, vocabulary = made()
    turned = made()[0]
    turned.exemplars["explain"] = turned.exemplars["explain"].take(np.asarray([2, 0, 1]))
    config = OneshotConfig(strongest=2, over_range=3)
    assert oneshot.render(first, vocabulary, config).messages == oneshot.render(turned, vocabulary, config).messages


def test_another_attempt_is_another_question_with_the_same_words() -> None:
    record_, vocabulary = made()
    first, second = (oneshot.render(record_, vocabulary, OneshotConfig(), attempt) for attempt in (0, 1))
    assert first.messages == second.messages and (first.attempt, second.attempt) == (0, 1)


def test_no_activation_is_shown_as_a_fraction() -> None:
    assert not re.search(r"\d\.\d", ask().messages[1].text)


# ------------------------------------------------------------------ answers

GOOD = {"notes": "all are banks", "abstain": False, "scope": "phrase", "claim": 'Fires on "bank" after "river".'}


def parse(**changes: object) -> oneshot.Answer:
    return oneshot.Answer.model_validate_json(json.dumps(GOOD | changes))


def test_a_claim_is_one_line() -> None:
    assert parse(claim=" Fires on\n\n banks,\tnot\x00 rivers. ").claim == "Fires on banks, not rivers."


def test_an_abstention_has_a_reason_and_no_claim_is_needed() -> None:
    assert parse(abstain=True, scope="none", claim="").notes == "all are banks"
    with pytest.raises(ValidationError, match="reason"):
        parse(abstain=True, scope="none", claim="", notes=" ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"claim": " "}, "claim is empty"),
        ({"claim": "x" * 501}, "501 characters"),
        ({"scope": "none"}, "scope"),
        ({"scope": "word"}, "scope"),
        ({"abstain": "perhaps"}, "abstain"),
        ({"claim": None}, "claim"),
        ({"notes": 3}, "notes"),
    ],
)
def test_an_answer_that_says_nothing_or_too_much_is_none(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        parse(**changes)


@pytest.mark.parametrize("field", oneshot.Answer.model_fields)
def test_every_field_must_be_there(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        oneshot.Answer.model_validate({k: v for k, v in GOOD.items() if k != field})
