"""What a debate of sentences proposes: words that one side names, those that both do, and words put where the corpus has none."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from glossator.agents.debate.proposals import Proposal, Proposals, stored_windows
from glossator.agents.editor.editor import Editor
from glossator.agents.run import Run
from glossator.config import EditorConfig
from glossator.harness.measurer import Measurer
from tests.agents.test_debate import INDEX


def pool(run: Run, feature: str, a: list[str], b: list[str], drawn: int | None = None) -> list[Proposal]:
    """drawn: windows of the background of each split, those that hold no word of the feature first; all if not given."""

    async def proposed() -> list[Proposal]:
        (record,) = run.records([INDEX[feature]])
        if drawn is not None:
            order = {s: np.argsort(b.activations.max(1), kind="stable") for s, b in record.background.items()}
            background = {s: b.take(order[s][:drawn]) for s, b in record.background.items()}
            record = replace(record, background=background, near_misses={})
        async with Measurer(*run.model()) as measurer:
            editor = Editor(
                run.lexicon.vocabulary, run.neighbours, measurer, run.store, EditorConfig(), causal=True, run_id="r"
            )
            return Proposals(record, stored_windows(record), editor, (a, b), 0).pool(36)

    return asyncio.run(proposed())


def test_words_are_put_into_silent_windows_early_and_late(run: Run) -> None:
    inserted = [p for p in pool(run, "river-bank", ["cup"], ["cup", "table"]) if p.edit.kind == "insert"]
    assert {(p.word, p.proposer) for p in inserted} == {("cup", "editor"), ("table", "B")}
    assert {p.edit.what["place"] for p in inserted if p.word == "cup"} == {3, 24}
    for proposal in inserted:
        place = proposal.edit.what["place"]
        assert all(text.split()[place] == proposal.word for text in proposal.edit.texts)
        assert len(proposal.edit.texts) == 3 and proposal.split == "select" and not proposal.fires


def test_windows_with_a_word_that_both_name_are_a_sort_of_their_own(run: Run) -> None:
    def with_cups(a: list[str], b: list[str]) -> list[Proposal]:
        found = pool(run, "river-bank", a, b)
        return [p for p in found if p.edit.kind == "window" and p.word == "cup" and p.proposer == "editor"]

    both = with_cups(["cup"], ["cup"])
    assert both and not any(p.fires for p in both)
    assert all("cup" in text.split() for p in both for text in p.edit.texts)
    assert not with_cups(["lamp"], ["table"])


def test_no_two_proposals_are_of_the_same_texts_and_none_is_too_many(run: Run) -> None:
    found = pool(run, "kitchen", ["butter", "oven"], ["oven", "table", "cup"])
    assert len(found) == len({p.edit.texts for p in found}) == 36


def test_a_word_is_frequent_by_the_corpus_and_not_by_the_windows_that_were_kept_for_it(run: Run) -> None:
    (record,) = run.records([INDEX["bear"]])
    kept = sum(len(record.exemplars[split].windows) for split in ("select", "explain"))
    assert kept > 30  # of which all hold a bear; of the draw none does
    found = pool(run, "bear", ["bear"], ["cup"], drawn=40)
    assert "bear" in {p.word for p in found if p.edit.kind == "insert"}
    frequent = pool(run, "bear", ["the"], ["cup"])
    assert {p.word for p in frequent if p.edit.kind == "insert"} == {"cup"}
