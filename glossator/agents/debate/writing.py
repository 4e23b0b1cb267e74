"""What the store keeps of a debate: its outcome, one turn for each measured text, what was said, and amended explanations.

A turn's figures are those after it. Words of a model and of the templates go through the same check (statements.py).
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from glossator.agents.debate.state import State, Turn, Word, clear
from glossator.agents.debate.statements import closing, figures_of, unsupported
from glossator.llm.secrets import redact
from glossator.rows import DebateRow, DebateTurnRow, ExplanationRow, FailureRow, StatusRow
from glossator.scorers import evidence

CANDIDATE = "debate:candidate"  # explainer of amended explanations: kept beside, never a label by that name
STAGE = "debate"


def write(state: State, row: DebateRow) -> None:
    """In one piece; what was written of this debate before is written over."""
    explanations = explanation_rows(state)

    def forget(connection: Any) -> None:
        for table in ("debate", "debate_turn"):
            connection.execute(f"DELETE FROM {table} WHERE debate_id = ?", [row.debate_id])
        for one in explanations:
            connection.execute(
                "DELETE FROM explanation WHERE explanation_id = ? AND explainer = ?", [one.explanation_id, CANDIDATE]
            )

    rows = [row, *turn_rows(state, row), *explanations, *other_rows(state, row)]
    state["bout"].store.replace_now(forget, rows)


def debate_row(state: State, sentence: str) -> DebateRow:
    bout, tested = state["bout"], state["tested"]
    (a, b), f = state["rivals"], bout.record.feature
    programs = [None if rival.program is None else json.dumps(rival.program) for rival in (a, b)]
    turns = state["turns"]
    return DebateRow(
        bout.identity, f.dictionary, f.index, bout.reader.predictor, a.explanation_id, a.source, a.text, programs[0],
        b.explanation_id, b.source, b.text, programs[1], state["verdict"], sentence, state["reason"],
        _finite(turns[-1].standing.lead) if turns else None, len(turns), bout.config.budget, len(state["sealed"].ids),
        float(state["error"]), json.dumps(dict(state["same"]), sort_keys=True), tested.metric, tested.a, tested.b,
        tested.winner, tested.difference, tested.low, tested.high, tested.reversal, bout.run_id,
    )  # fmt: skip


def closings(state: State) -> list[Word]:
    said = [turn.said for turn in clear(state)]
    return [Word(None, side, closing(side, said)) for side in "AB"]


def turn_rows(state: State, row: DebateRow) -> Iterator[DebateTurnRow]:
    """One for each measured text, each followed by what was amended after it, then the closing words; numbered in that order."""
    said = [turn.said for turn in state["turns"]]
    figures = {one.experiment_id: one.figures for one in said}
    scores = [score for score in (row.a_score, row.b_score) if score is not None]
    counted = [one for one in said if not one.weak]
    whole = figures_of(counted, [row.experiments, row.budget, state["bout"].config.lead, *scores])
    number = 0
    for n, turn in enumerate(state["turns"]):
        number += 1
        yield _measured(state, turn, number, _word(state, n), (figures, whole))
        for one in state["amendments"]:
            if one.after == n + 1:
                number += 1
                yield _spoken(state, number, "amended", Word(n, one.side, one.rival.text), (), one.before.text)
    for word in state["words"]:
        if word.after is None:
            number += 1
            yield _spoken(state, number, "closing", word, unsupported(word.statement, figures, whole))


def _word(state: State, n: int) -> Word | None:
    """What a side said of the n-th text; where no model speaks for the sides, what the template makes of a turn of the tide."""
    if said := next((word for word in state["words"] if word.after == n), None):
        return said
    bout, turns = state["bout"], state["turns"]
    if bout.sides is not None or not _turns_the_tide(turns, n):
        return None
    template = bout.speak(turns[n].said)
    return Word(n, *template) if template else None


def _turns_the_tide(turns: Sequence[Turn], n: int) -> bool:
    """Whether another hypothesis leads from here on than did before; or the first text that both got wrong."""
    wrong = [(t.said.p_a >= 0.5) == (t.said.p_b >= 0.5) != t.said.fired and not t.said.weak for t in turns[: n + 1]]
    return (n > 0 and turns[n].said.leader != turns[n - 1].said.leader) or (wrong[n] and not any(wrong[:n]))


def _measured(state: State, turn: Turn, number: int, word: Word | None, known: Any) -> DebateTurnRow:
    proposal, said = state["sealed"].proposals[turn.at], turn.said
    p_a, p_b, p_both, p_overlap = evidence.claims(np.asarray(said.p_a), np.asarray(said.p_b)).tolist()
    log_a, log_b, log_both, log_overlap, log_neither = turn.standing.totals.tolist()
    statement = word.statement if word else None
    return DebateTurnRow(
        state["bout"].identity, number, said.experiment_id, proposal.proposer, proposal.edit.kind, turn.word,
        proposal.edit.texts[0], p_a, p_b, p_both, p_overlap, turn.rate, None if said.weak else said.fired, said.share, turn.vote, turn.gain, log_a,
        log_b, log_both, log_overlap, log_neither, said.leader, _finite(said.lead), word.speaker if word else None, statement,
        unsupported(statement or "", *known), state["bout"].run_id,
    )  # fmt: skip


def _spoken(
    state: State, number: int, kind: str, word: Word, wrong: Sequence[str], text: str | None = None
) -> DebateTurnRow:
    """A turn without an experiment."""
    row: dict[str, Any] = dict.fromkeys((f.name for f in fields(DebateTurnRow)), None)
    row |= {"debate_id": state["bout"].identity, "number": number, "kind": kind, "proposer": word.speaker, "text": text}
    row |= {"speaker": word.speaker, "statement": word.statement, "unsupported": list(wrong)}
    return DebateTurnRow(**row | {"run_id": state["bout"].run_id})


def explanation_rows(state: State) -> list[ExplanationRow]:
    """What was amended, an explanation of its own. Its writer saw texts of `select`, and it is no label: nobody has scored it."""
    f, run_id = state["bout"].record.feature, state["bout"].run_id
    return [
        ExplanationRow(
            one.rival.explanation_id, f.dictionary, f.index, CANDIDATE, one.model, one.rival.text, None, False,
            f"{one.side} of a debate, after {one.after} experiments", run_id, exposure="explain, select",
        )
        for one in state["amendments"]
    ]  # fmt: skip


def other_rows(state: State, row: DebateRow) -> list[FailureRow | StatusRow]:
    """The stage's last word on the feature, and the questions to the sides that came to nothing."""
    failed = [
        FailureRow(
            row.dictionary, row.feature, STAGE, type(one.error).__name__, redact(f"{one.what}: {one.error}")[:500],
            redact("".join(traceback.format_exception(one.error)))[-4000:], row.run_id,
        )
        for one in state["failures"]
    ]  # fmt: skip
    return [*failed, StatusRow(row.dictionary, row.feature, STAGE, "done", row.verdict or row.reason, row.run_id)]


def _finite(lead: float) -> float | None:
    return lead if math.isfinite(lead) else None
