"""What people type as a hypothesis: the short form of rules, JSON, sentences; and what is refused, with the way out."""

from __future__ import annotations

import pytest

from glossator.agents.debate.hypothesis import known_tokens, parse_hypothesis, short_form
from glossator.errors import UsageError
from glossator.types import Vocabulary

FORMS = [
    ("token:right", [{"kind": "token", "token": "right", "strength": 10}]),
    (
        "words: cause, causes",
        [{"kind": "words", "relation": "listed", "tokens": ["cause", "causes"], "strength": 10}],
    ),
    ("after:on the -> right", [{"kind": "after", "previous": ["on", "the"], "token": "right", "strength": 10}]),
    ("after:very", [{"kind": "after", "previous": ["very"], "strength": 10}]),
    ("before:bank -> river", [{"kind": "before", "next": ["bank"], "token": "river", "strength": 10}]),
    ("class:year", [{"kind": "class", "class": "year", "strength": 10}]),
    ("number:1900-1999", [{"kind": "number", "low": 1900, "high": 1999, "strength": 10}]),
    ("topic:butter,oven>=2", [{"kind": "topic", "words": ["butter", "oven"], "least": 2, "strength": 10}]),
    ("position:first", [{"kind": "position", "place": "first", "strength": 10}]),
    ("token:rain @3", [{"kind": "token", "token": "rain", "strength": 3}]),
    ("token:or or token:and", [{"kind": "token", "token": w, "strength": 10} for w in ("or", "and")]),
    (
        "token:bear; not after:polar -> bear",
        [
            {"kind": "token", "token": "bear", "strength": 10},
            {"kind": "after", "previous": ["polar"], "token": "bear", "strength": 0},
        ],
    ),
    ('{"items": [{"kind": "token", "token": "a"}]}', [{"kind": "token", "token": "a", "strength": 10}]),
]


@pytest.mark.parametrize(("text", "items"), FORMS)
def test_the_short_form_is_a_rule_and_can_be_written_again(text: str, items: list[object]) -> None:
    program = parse_hypothesis(text)
    assert program == {"items": items}
    assert parse_hypothesis(short_form(program)) == program


@pytest.mark.parametrize("text", ["the word bank", "Fires on tokens: all of them", "years or colours"])
def test_a_sentence_is_no_rule(text: str) -> None:
    assert parse_hypothesis(text) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("x" * 2001, "2,001 characters"),
        ("token:", "nothing after the colon"),
        ("after: -> right", "write after:"),
        ("number:old", "number:1900-1999"),
        ("position:middle", "position:first"),
        ("token:a @11", "0 to 10"),
        ("not token:a", "where it fires"),
        ("{nonsense", "no JSON"),
        ('{"items": []}', "a rule in JSON"),
        ('{"items": [{"kind": "after", "previous": "on"}]}', "previous has to be a list"),
        ('{"items": [{"kind": "number", "low": "1", "high": 2}]}', "low has to be a whole number"),
    ],
)
def test_what_is_nearly_a_rule_is_refused_with_the_way_out(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_hypothesis(text)


def test_tokens_have_to_be_the_subjects_own() -> None:
    vocabulary = Vocabulary.build(("bank", "s"), (True, False), (False, False))
    found = known_tokens({"items": [{"kind": "words", "tokens": ["Bank", "##s"], "strength": 10}]}, vocabulary)
    assert found["items"][0]["tokens"] == ["bank", "##s"]
    for item in ({"kind": "token", "token": "river"}, {"kind": "after", "previous": ["river"]}):
        with pytest.raises(UsageError, match='no token "river"'):
            known_tokens({"items": [item]}, vocabulary)
