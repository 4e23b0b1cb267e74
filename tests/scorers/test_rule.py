"""A program does what its items say: each kind, which of two speaks, and what is never matched."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from glossator.errors import UsageError
from glossator.harness.contexts import Corpus
from glossator.scorers.rule import Lexicon, Rule, resolve, shifted
from glossator.types import MARGIN, PAD, WINDOW, Vocabulary, Windows

TEXT = (
    "the cat sat on the mat and ran . it will turn right on the right side ! in 1912 and 2015 , 7 or 3 . 75 "
    "red blue jump ##ing run ##s butter oven flour ( foo_bar ) London PARIS _ foo bar 0 100 12 cause causes caused [MASK]"
)
NAMES = ["[PAD]", *dict.fromkeys(TEXT.split())]
VOCABULARY = Vocabulary.build(
    [n.removeprefix("##") for n in NAMES], [not n.startswith("##") for n in NAMES], [n[0] == "[" for n in NAMES]
)
LEXICON = Lexicon(VOCABULARY)
IDS = {name: i for i, name in enumerate(NAMES)}


def windows(*texts: str, left: str = "", right: str = "") -> Windows:
    """Windows that hold `texts`, with the same margins; what no text fills is PAD."""
    ids = np.full((len(texts), MARGIN + WINDOW + MARGIN), PAD, np.int32)
    for row, text in enumerate(texts):
        before, here, after = ([IDS[name] for name in part.split()] for part in (left, text, right))
        ids[row, MARGIN - len(before) : MARGIN] = before
        ids[row, MARGIN : MARGIN + len(here)] = here
        ids[row, MARGIN + len(here) : MARGIN + len(here) + len(after)] = after
    return Windows(ids, np.arange(len(texts), dtype=np.int32), MARGIN, np.arange(len(texts), dtype=np.int64) - 100)


def strengths(text: str, *items: dict[str, Any], left: str = "", right: str = "") -> list[int]:
    """What a program gives the tokens of a text."""
    n = len(text.split())
    found = Rule({"items": list(items)}, LEXICON).strengths(windows(text, left=left, right=right))
    assert found.shape == (1, WINDOW)
    if not right:
        assert not found[0, n:].any()
    return [int(x) for x in found[0, :n]]


def item(kind: str, strength: int = 5, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "strength": strength, **fields}


# ------------------------------------------------------------------ each kind


@pytest.mark.parametrize(
    ("what", "text", "expected"),
    [
        (item("token", token="the"), "the cat on the mat", [5, 0, 0, 5, 0]),
        (item("token", token="##ing"), "jump ##ing", [0, 5]),
        (item("token", token="zebra"), "the cat", [0, 0]),
        (item("words", relation="forms", tokens=["cause", "caused", "zebra"]), "cause causes caused", [5, 0, 5]),
        (item("after", previous=["on"]), "sat on the mat", [0, 0, 5, 0]),
        (item("after", previous=["on", "the"], token="right"), "right on the right on right", [0, 0, 0, 5, 0, 0]),
        (item("before", next=["mat"]), "the mat on the mat", [5, 0, 0, 5, 0]),
        (item("before", next=["the", "mat"], token="on"), "on the mat on mat and", [5, 0, 0, 0, 0, 0]),
        (item("class", **{"class": "year"}), "in 1912 , 7 or 2015", [0, 5, 0, 0, 0, 5]),
        (item("class", **{"class": "colour"}), "red the blue", [5, 0, 5]),
        (item("class", **{"class": "-ing"}), "jump ##ing", [0, 0]),
        (item("class", **{"class": "continuation"}), "jump ##ing run ##s", [0, 5, 0, 5]),
        (item("class", **{"class": "capitalised"}), "London PARIS cat", [5, 0, 0]),
        (item("class", **{"class": "upper-case"}), "London PARIS cat", [0, 5, 0]),
        (item("class", **{"class": "decimal"}), "7 , 3 . 75 and .", [0, 0, 5, 5, 5, 0, 0]),
        (item("class", **{"class": "sentence-start"}), "the cat ran . it sat ! the mat", [0, 0, 0, 0, 5, 0, 0, 5, 0]),
        (item("class", **{"class": "in-brackets"}), "the ( red cat ) sat", [0, 0, 5, 5, 0, 0]),
        (item("class", **{"class": "underscored"}), "the foo _ bar sat", [0, 5, 5, 5, 0]),
        (item("number", low=7, high=100), "7 0 100 12 1912 cat", [5, 0, 5, 5, 0, 0]),
        (item("number", low=0, high=0), "0 7 cat", [5, 0, 0]),
        (item("topic", words=["butter", "oven", "flour"], least=2), "the oven and flour", [5, 5, 5, 5]),
        (item("topic", words=["butter", "oven", "flour"], least=2), "the oven and oven", [0, 0, 0, 0]),
        (item("position", place="first"), "the cat the", [5, 0, 0]),
        (item("position", place="last"), "the cat the", [0, 0, 5]),
    ],
)
def test_each_kind_of_item_matches_what_it_says(what: dict[str, Any], text: str, expected: list[int]) -> None:
    assert strengths(text, what) == expected


def test_an_empty_program_says_nothing() -> None:
    assert strengths("the cat") == [0, 0]
    assert not Rule({}, LEXICON).strengths(windows("the cat")).any()


def test_margins_are_read_but_not_scored() -> None:
    after, before = item("after", previous=["on", "the"]), item("before", next=["right", "side"])
    topic = item("topic", words=["butter", "oven"], least=2)
    assert strengths("mat and", after, left="sat on the") == [5, 0]
    assert strengths("the cat", before, right="right side") == [0, 5]
    assert strengths("the cat", topic, left="butter", right="oven") == [5, 5]
    assert strengths("the cat", item("position", place="first"), left="and") == [0, 0]
    assert strengths("the cat", item("position", place="last"), right="and") == [0, 0]
    assert strengths("cat sat", item("token", token="the"), left="the the") == [0, 0]


def test_rows_do_not_see_each_other() -> None:
    rule = Rule({"items": [item("topic", words=["butter"], least=1), item("after", previous=["on"])]}, LEXICON)
    found = rule.strengths(windows("butter on", "the mat", "on the"))
    assert [row[:2].tolist() for row in found] == [[5, 5], [0, 0], [0, 5]]


# ------------------------------------------------------------------ precedence

RANKED = [  # the least specific first
    [item("topic", words=["the"], least=1), item("position", place="first")],
    [item("class", **{"class": "digits"}), item("number", low=0, high=2000)],
    [item("after", previous=["the"]), item("before", next=["cat"])],
    [item("token", token="12"), item("words", relation="forms", tokens=["12", "7"])],
    [item("after", previous=["the"], token="12"), item("before", next=["cat"], token="12")],
]


@pytest.mark.parametrize(("low", "high"), combinations(range(len(RANKED)), 2))
def test_the_more_specific_item_speaks_whatever_its_strength_and_place(low: int, high: int) -> None:
    for loud in RANKED[low]:
        for quiet in RANKED[high]:
            loud, quiet = loud | {"strength": 9}, quiet | {"strength": 2}
            if loud["kind"] == "position":  # the token must stand first, and what precedes it is another context
                if "previous" in quiet:
                    continue
                text, at = "12 cat", 0
            else:
                text, at = "the 12 cat", 1
            assert strengths(text, loud)[at] == 9
            assert strengths(text, quiet)[at] == 2
            assert strengths(text, loud, quiet)[at] == strengths(text, quiet, loud)[at] == 2


@pytest.mark.parametrize("rank", RANKED, ids=lambda pair: pair[0]["kind"])
def test_between_equally_specific_items_the_stronger_speaks(rank: list[dict[str, Any]]) -> None:
    one, other = rank[0] | {"strength": 3}, rank[1] | {"strength": 7}
    text = "12 the cat" if one["kind"] == "topic" else "the 12 cat"
    at = text.split().index("12")
    assert strengths(text, one, other)[at] == strengths(text, other, one)[at] == 7


def test_a_specific_item_of_strength_zero_silences() -> None:
    bear = [item("token", token="cat", strength=8), item("after", previous=["red"], token="cat", strength=0)]
    assert strengths("the cat red cat", *bear) == [0, 8, 0, 0]


# ------------------------------------------------------------------ what is never matched

EVERYTHING = [
    item("topic", words=["the"], least=0),
    item("position", place="first"),
    item("position", place="last"),
    item("number", low=-10, high=10**9),
    item("after", previous=[]),
    item("words", relation="near", tokens=["zebra", "unicorn"]),
    item("token", token="zebra"),
    *(item("class", **{"class": name}) for name in ("digits", "continuation", "decimal", "punctuation")),
]


@pytest.mark.parametrize("what", EVERYTHING, ids=lambda i: i["kind"])
def test_padding_never_matches(what: dict[str, Any]) -> None:
    rule = Rule({"items": [what]}, LEXICON)
    shown = windows("", "", left="the red")
    shown.ids[:, MARGIN + WINDOW] = IDS["12"]
    assert not rule.strengths(shown).any()
    found = rule.strengths(windows("the 12 . 7"))
    assert not found[0, 4:].any()


def test_special_tokens_are_in_no_class_and_have_no_name() -> None:
    assert VOCABULARY.find("[MASK]") is None
    assert strengths("the [MASK] cat", item("token", token="[MASK]")) == [0, 0, 0]
    assert not LEXICON.table[:, VOCABULARY.special].any()


def test_shifting_shows_padding_outside_of_what_is_shown() -> None:
    shown = windows("the cat", left="on")
    assert shifted(shown.ids, shown, -1)[0, :3].tolist() == [IDS["on"], IDS["the"], IDS["cat"]]
    assert (shifted(shown.ids, shown, -MARGIN - WINDOW) == PAD).all()
    assert (shifted(shown.ids, shown, MARGIN + WINDOW) == PAD).all()


def test_a_rule_on_a_corpus_finds_a_planted_feature(planted_corpus: Corpus, planted_subject: Any) -> None:
    lexicon = Lexicon(planted_subject.vocabulary)
    program = {
        "items": [
            item("after", previous=["river"], token="bank", strength=7),
            item("number", low=1900, high=1999, strength=6),
        ]
    }
    shown = planted_corpus.windows(np.arange(len(planted_corpus.window_id)), both_sides=True)
    found = Rule(program, lexicon).strengths(shown)
    pieces = [*planted_subject.vocabulary.pieces, ""]
    for row, ids in zip(found[:300], shown.ids[:300], strict=True):
        words = [pieces[t] for t in ids]
        expected = [
            7 if words[i - 1 : i + 1] == ["river", "bank"] else 6 if words[i] in map(str, range(1900, 2000)) else 0
            for i in range(MARGIN, MARGIN + WINDOW)
        ]
        assert row.tolist() == expected


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"kind": "regex", "strength": 3}, r"unknown kind of item 'regex'; known: token, "),
        ({"strength": 3}, "unknown kind of item None"),
        (item("class", **{"class": "adverb"}), "unknown class 'adverb'; known: .*year"),
        (item("number", low=3), "an item of kind 'number' lacks high"),
        (item("words"), "an item of kind 'words' lacks relation, tokens"),
        (item("token", 11, token="the"), "strength must be a whole number from 0 to 10, not 11"),
        (item("token", -1, token="the"), "not -1"),
        ({"kind": "token", "token": "the"}, "strength .*not None"),
        ({"kind": "token", "token": "the", "strength": 2.5}, r"not 2\.5"),
    ],
)
def test_a_program_that_cannot_run_is_refused_with_the_reason(bad: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Rule({"items": [item("token", token="the"), bad]}, LEXICON)


def test_a_decimal_is_one_after_a_word_as_well() -> None:
    import re

    from glossator.scorers.patterns import _SPANS

    pattern = re.compile(_SPANS["decimal"][1])
    assert [m.group() for m in pattern.finditer("or 3 . 75 , 2.5 but version 2 . 13 . 0")] == ["3 . 75", "2.5"]


# ------------------------------------------------------------------ one pass and item by item


def test_strengths_are_those_of_items_resolved_one_by_one() -> None:
    """Random programs on random windows: looking up and comparing says what `resolve(matches)` says."""
    rng = np.random.default_rng(5)
    names = [name for name in NAMES if not name.startswith("[")]

    def some(n: int) -> list[str]:
        return [str(name) for name in rng.choice([*names, "zebra"], n)]

    def any_item() -> dict[str, Any]:
        kind = rng.choice(["token", "words", "after", "before", "class", "number", "topic", "position"])
        fields: dict[str, Any] = {
            "token": lambda: {"token": some(1)[0]},
            "words": lambda: {"relation": "forms", "tokens": some(3)},
            "after": lambda: {"previous": some(int(rng.integers(1, 3)))} | _maybe_token(),
            "before": lambda: {"next": some(int(rng.integers(1, 3)))} | _maybe_token(),
            "class": lambda: {"class": str(rng.choice(["digits", "year", "continuation", "decimal", "in-brackets"]))},
            "number": lambda: {"low": 2, "high": 2000},
            "topic": lambda: {"words": some(3), "least": 2},
            "position": lambda: {"place": str(rng.choice(["first", "last"]))},
        }[str(kind)]()
        return {"kind": str(kind), "strength": int(rng.integers(0, 11)), **fields}

    def _maybe_token() -> dict[str, Any]:
        return [{}, {"token": None}, {"token": some(1)[0]}][int(rng.integers(0, 3))]

    spoken = 0
    for _ in range(150):
        ids = rng.integers(0, len(NAMES), (6, MARGIN + WINDOW + MARGIN)).astype(np.int32)
        ids[rng.random(ids.shape) < 0.1] = PAD
        shown = Windows(ids, np.arange(6, dtype=np.int32), MARGIN, np.arange(6, dtype=np.int64) - 100)
        rule = Rule({"items": [any_item() for _ in range(int(rng.integers(1, 9)))]}, LEXICON)
        found = rule.strengths(shown)
        assert np.array_equal(found, resolve(rule.matches(shown), (6, WINDOW)))
        spoken += int((found > 0).sum())
    assert spoken > 1000
