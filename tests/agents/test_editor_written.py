"""Texts that a model writes: what is taken, what is dropped and said, where they are put, and what a bad reply costs."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from glossator.agents.editor.editor import Editor, Known, Probed
from glossator.agents.run import Run
from glossator.config import EditorConfig, WritingConfig
from glossator.errors import ProviderError
from glossator.harness.measurer import Measurer
from glossator.llm.base import RawReply
from glossator.llm.scripted import Said, ScriptedLLM
from glossator.planted import planted_features
from tests.agents.test_editor import BEAR, Says, record_of

LABEL = f"Fires on {planted_features()[BEAR].description}."
EMPTY: dict[str, list[Any]] = {"positive": [], "boundary": [], "minimal_off": [], "minimal_on": []}
NEW = "the judge hid a bear in the garden"


def probe(run: Run, said: Said | dict[str, Any], **config: Any) -> tuple[Probed, ScriptedLLM]:
    llm = ScriptedLLM(lambda _: json.dumps({**EMPTY, **said}) if isinstance(said, dict) else said)

    async def work() -> Probed:
        subject, dictionary = run.model()
        async with Measurer(subject, dictionary) as measurer:
            made = EditorConfig(writing=WritingConfig(**config))
            editor = Editor(run.lexicon.vocabulary, run.neighbours, measurer, run.store, made, causal=False, run_id="r")
            return await editor.probe(
                record_of(run, BEAR), [Says("a")], Known(), "test", writer=llm, claims=[LABEL, "Something else."]
            )

    return asyncio.run(work()), llm


def written(found: Probed) -> dict[str, list[tuple[str, ...]]]:
    kinds: dict[str, list[tuple[str, ...]]] = {}
    for one in found.experiments:
        if one.kind in EMPTY:
            kinds.setdefault(one.kind, []).append(one.texts)
    return kinds


def shown(llm: ScriptedLLM, heading: str) -> list[dict[str, Any]]:
    lines = llm.requests[0].messages[1].text.splitlines()
    begin = lines.index(heading) + 1
    found = []
    for line in lines[begin:]:
        if not line.startswith('{"id"'):
            break
        found.append(json.loads(line))
    return found


def test_the_writer_sees_the_labels_and_windows_of_the_split(run: Run) -> None:
    _, llm = probe(run, {})
    (request,) = llm.requests
    lines = request.messages[1].text.splitlines()
    assert [json.loads(line) for line in lines[2:4]] == [LABEL, "Something else."]
    of_test = {text for (text,) in run.store.sql("SELECT text FROM text_window WHERE split = 'test'")}
    for heading, active in (("firing", True), ("silent", False)):
        windows = shown(llm, heading)
        assert len(windows) == 2
        for window in windows:
            pieces = window["window"]
            assert any(isinstance(piece, list) for piece in pieces) == active
            text = "".join(piece if isinstance(piece, str) else piece[0] for piece in pieces).strip()
            assert any(text in whole for whole in of_test), text


def test_a_new_text_is_put_into_three_silent_windows_at_one_place(run: Run) -> None:
    found, _ = probe(run, {"positive": [NEW], "boundary": ["the judge hid a polar bear at night"]})
    assert set(written(found)) == {"positive", "boundary"}
    for (texts,) in written(found).values():
        assert len(texts) == 3
    (texts,) = written(found)["positive"]
    places = {text.split().index("judge") for text in texts}
    assert all(NEW in text and len(text.split()) == 32 for text in texts) and len(places) == 1
    rest = [text.replace(NEW, "") for text in texts]
    assert len(set(rest)) == 3 and not any("bear" in text for text in rest)
    (edit,) = run.store.sql("SELECT edit FROM experiment WHERE kind = 'positive'")
    assert json.loads(edit[0]) == {"text": NEW}
    (one,) = [one for one in found.experiments if one.kind == "positive"]
    assert one.fires


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "1 without a token"),
        ("  \n\t ", "1 without a token"),
        ("a zyzzyva and a bear", "1 with special or unknown tokens"),
        ("[SEP] a bear", "1 with special or unknown tokens"),
        ("a bear and " * 9, "1 too long"),
    ],
)
def test_what_cannot_be_measured_is_dropped_and_said(run: Run, text: str, why: str) -> None:
    found, _ = probe(run, {"positive": [text]})
    assert not written(found)
    assert found.note == f"the editor's model wrote nothing usable: dropped {why}"
    assert found.measured and found.failure is None  # the mechanical edits were run


def test_a_copy_of_an_exemplar_is_dropped_and_so_is_half_of_one(run: Run) -> None:
    sample = record_of(run, BEAR).exemplars["explain"]
    ids = sample.windows.ids[0, sample.windows.scored].tolist()
    copied = run.lexicon.vocabulary.join(ids[4:20])
    half = run.lexicon.vocabulary.join(ids[4:18]) + " the judge hid it"
    little = run.lexicon.vocabulary.join(ids[4:9]) + " the judge hid it near the garden at night"
    for text, kept in ((copied, False), (half, False), (little, True)):
        found, _ = probe(run, {"positive": [text]})
        assert ("positive" in written(found)) == kept, text
        assert kept or "copied from an exemplar" in str(found.note)


def test_a_text_that_is_there_already_is_dropped_and_more_than_was_asked_for_is_not_taken(run: Run) -> None:
    texts = [NEW, f" {NEW.upper()} ", "one red bear", "this pilot saw a bear at night"]
    found, _ = probe(run, {"positive": texts, "boundary": [NEW]})
    assert {kind: len(all_) for kind, all_ in written(found).items()} == {"positive": 2}
    assert found.note == "2 written texts kept, dropped 1 more than asked for, 2 there already"


def test_a_small_change_of_a_real_window_is_measured_in_that_window_alone(run: Run) -> None:
    off = {"window": 1, "old": "bear", "new": "pilot\u202e\x1b "}
    on = {"window": 3, "old": "THE", "new": "a bear and the"}
    found, llm = probe(run, {"minimal_off": [off], "minimal_on": [on]})
    kinds = {one.kind: one for one in found.experiments if one.kind in EMPTY}
    assert {kind: (len(one.texts), one.fires) for kind, one in kinds.items()} == {
        "minimal_off": (1, False), "minimal_on": (1, True),
    }  # fmt: skip
    pieces = shown(llm, "firing")[0]["window"]
    before = "".join(piece if isinstance(piece, str) else piece[0] for piece in pieces).strip()
    assert kinds["minimal_off"].texts[0] == before.replace("bear", "pilot")
    edits = dict(run.store.sql("SELECT kind, edit FROM experiment"))
    assert json.loads(edits["minimal_off"]) == {"old": "bear", "new": "pilot"}  # as it was put in, on one line
    assert all(len(one.texts[0].split()) <= 32 for one in kinds.values())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"window": 3, "old": "bear", "new": ""}, "of no such window"),
        ({"window": -1, "old": "bear", "new": ""}, "of no such window"),
        ({"window": 1, "old": "zebra", "new": "x"}, "whose old words are not in the window"),
        ({"window": 1, "old": "ear", "new": "x"}, "whose old words are not in the window"),
        ({"window": 1, "old": "", "new": "bear"}, "whose old words are not in the window"),
        ({"window": 1, "old": "bear", "new": "one two three four five six seven"}, "that change too much"),
        ({"window": 1, "old": "bear", "new": "BEAR"}, "that change nothing"),
        ({"window": 1, "old": "bear", "new": "zyzzyva"}, "with special or unknown tokens"),
    ],
)
def test_a_change_that_is_none_is_dropped(run: Run, change: dict[str, Any], why: str) -> None:
    found, _ = probe(run, {"minimal_off": [change]})
    assert not written(found) and f"1 {why}" in str(found.note)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("no JSON", "UnparsableError"),
        ('{"positive": ["a"]}', "UnparsableError"),
        (RawReply("I would rather not", "refusal", None, "m"), "RefusedError"),
    ],
)
def test_a_reply_that_cannot_be_used_costs_no_mechanical_edit(run: Run, said: Said, kind: str) -> None:
    plain, _ = probe(run, {})
    found, _ = probe(run, said)
    assert [one.texts for one in found.experiments] == [one.texts for one in plain.experiments]
    assert found.note == f"the editor's model gave nothing usable ({kind})" and type(found.failure).__name__ == kind


def test_what_ends_the_run_ends_it_before_anything_is_measured(run: Run) -> None:
    with pytest.raises(ProviderError):
        probe(run, ProviderError("no credit"))
    assert run.store.sql("SELECT count(*) FROM experiment") == [(0,)]


def test_a_model_that_is_asked_for_fewer_texts_is_told_so(run: Run) -> None:
    _, llm = probe(run, {}, positive=1, boundary=0, minimal_on=0)
    assert llm.requests[0].messages[1].text.endswith("Write: 1 positive, 0 boundary, 2 minimal_off, 0 minimal_on.")
