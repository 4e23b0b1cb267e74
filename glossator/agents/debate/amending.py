"""Amended explanations: a side that has lost ground may say something else, and starts from zero.

One amendment a debate: each side is asked at most once, and not any more when one of them has amended.

Whoever speaks for it is shown what its explanation said of the measured texts and what they did, with the prompt of the
explainer `refine`. What comes back is taken if it is another sentence, would have foreseen more of the measured texts than the
old one did and half of those that fired, and is told apart from the other side by the texts that are left; else all stays
as it was. Nothing that was measured before counts for it or against it (`evidence.standing`): it has seen those texts. Its
predictions of what is left, of at most `amend_read` texts, are stored before any of those is measured.

Rules are not amended: the lexical explainer has one rule for the same windows, and gives it again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from glossator.agents.debate.rivals import Rival
from glossator.agents.debate.sealing import told_of
from glossator.agents.debate.state import Amendment, Bout, Failed, Sealed, State, clear
from glossator.agents.editor.editor import as_windows
from glossator.config import OneshotConfig, RefineConfig
from glossator.errors import ReplyError
from glossator.prompts import refine as prompt
from glossator.rows import PredictionRow
from glossator.scorers import evidence
from glossator.types import WINDOW, Bools, Floats, Sample, content_id

PURPOSE = "debate:amend"
_SHOWN = RefineConfig(missed=5, false_alarms=5, right=3, draft=OneshotConfig(max_tokens=1024))


def may_amend(state: State) -> bool:
    return _who(state) is not None


def _who(state: State) -> str | None:
    """The side that has lost ground and has not had its chance yet; nobody where one has amended."""
    bout, turns = state["bout"], clear(state)
    if bout.sides is None or not bout.config.amend or len(turns) < bout.config.amend_after:
        return None
    now = turns[-1].standing
    behind = {
        side: float(now.totals.max() - now.totals[evidence.HYPOTHESES.index(side)])
        for side in "AB"
        if side not in state["tried"] and not state["amendments"]
    }
    worst = max(behind, key=behind.__getitem__, default=None)
    return worst if worst is not None and behind[worst] >= bout.config.amend_behind else None


async def amended(state: State) -> State:
    """What changes where a side amends what it says; where it does not, that it had its chance."""
    side, bout = _who(state), state["bout"]
    assert side is not None and bout.sides is not None  # else no edge leads here
    had = State(tried=(*state["tried"], side))
    try:
        new = await _written(state, side)
        if new is None:
            return had
        return had | await _taken(state, side, new)
    except ReplyError as error:
        return had | State(failures=(*state["failures"], Failed(f"{side} amends", error)))


async def _written(state: State, side: str) -> Rival | None:
    """Another sentence that would have foreseen more of what was measured, or None."""
    bout, mine = state["bout"], state["rivals"]["AB".index(side)]
    assert bout.sides is not None
    turns = clear(state)
    sample, fires = _looked(bout, [turn.said.experiment_id for turn in turns])
    told = np.asarray([turn.said.p_a if side == "A" else turn.said.p_b for turn in turns])
    vocabulary, about = bout.editor.vocabulary, str(bout.record.feature)
    scale = max(float(sample.activations.max(initial=0)), bout.record.threshold)
    question = prompt.render(mine.text, (sample, fires, told), scale, vocabulary, _SHOWN, about)
    if question is None:
        return None
    said = (await bout.sides.llm.complete(replace(question, purpose=PURPOSE))).value
    texts = {" ".join(rival.text.split()).casefold() for rival in state["rivals"]}
    if said.abstain or " ".join(said.claim.split()).casefold() in texts:
        return None
    f = bout.record.feature
    new = Rival(content_id("hypothesis", f.dictionary, f.index, said.claim), f"{mine.source}, amended", said.claim)
    would = np.asarray(await bout.reader.fires(new, sample.windows))
    return new if _better(would, told, fires) else None


def _better(new: Floats, old: Floats, fires: Bools) -> bool:
    """Whether it would have foreseen more of the texts, and at least half of those that fired. An even chance foresees nothing."""
    would, did = (np.where(fires, told > 0.5, told < 0.5) for told in (new, old))
    return bool(would.sum() > did.sum() and 2 * would[fires].sum() >= fires.sum())


async def _taken(state: State, side: str, new: Rival) -> State:
    """The state with the new explanation in it, if the texts that are left tell it from the other side."""
    bout, sealed = state["bout"], state["sealed"]
    kept = _kept(state)
    told = np.asarray(await told_of(bout, new, [sealed.proposals[i] for i in kept]))
    p_a, p_b = sealed.p_a.copy(), sealed.p_b.copy()
    (p_a if side == "A" else p_b)[list(kept)] = told
    left = list(kept)
    enough = min(bout.config.budget - len(state["turns"]), len(left)), bout.config.lead
    same = evidence.same_as(p_a[left], p_b[left], state["error"], state["error"], enough)
    if same.get("B") == "A":
        return State()
    rivals = (new, state["rivals"][1]) if side == "A" else (state["rivals"][0], new)
    await _seal(bout, new, [sealed.ids[i] for i in kept], told)
    one = Amendment(side, len(state["turns"]), new, state["rivals"]["AB".index(side)], bout.sides.llm.name)  # type: ignore[union-attr]
    return State(
        rivals=rivals, sealed=Sealed(sealed.ids, sealed.proposals, p_a, p_b), left=kept, same=same,
        amendments=(*state["amendments"], one),
    )  # fmt: skip


def _kept(state: State) -> tuple[int, ...]:
    """Texts to go on with: as many windows that fire as others, of those windows first, in the order of the pool.

    Were all windows firing ones and all edits silent, the base rate of each kind would be as good as any explanation.
    """
    proposals, left, most = state["sealed"].proposals, state["left"], state["bout"].config.amend_read
    firing = [i for i in left if proposals[i].fires][: most // 2]
    others = [i for i in left if not proposals[i].fires]
    others.sort(key=lambda i: (proposals[i].edit.kind != "window", i))
    return tuple(sorted([*firing, *others[: most - len(firing)]]))


async def _seal(bout: Bout, new: Rival, ids: Sequence[str], told: Floats) -> None:
    """Before anything of it is measured; what was stored before a stop is not stored again."""
    known = bout.store.sql("SELECT experiment_id FROM prediction WHERE explanation_id = ?", [new.explanation_id])
    stored, now = {identity for (identity,) in known}, time.time()
    rows = [
        PredictionRow(identity, new.explanation_id, bout.reader.predictor, float(p), [], now)
        for identity, p in zip(ids, told, strict=True)
        if identity not in stored
    ]
    if rows:
        await bout.store.put(*rows)


def _looked(bout: Bout, experiments: Sequence[str]) -> tuple[Sample, Bools]:
    """Of each measured text the first carrier that did what most did, as a window; and what most did [n]."""
    rows = bout.store.sql(
        "WITH each AS (SELECT *, avg(fires::INT) OVER (PARTITION BY experiment_id) > 0.5 AS most FROM measurement "
        "WHERE experiment_id IN (SELECT unnest(?::VARCHAR[]))) "
        "SELECT experiment_id, arg_min(text, carrier), arg_min(activations, carrier), any_value(most) FROM each "
        "WHERE fires = most GROUP BY experiment_id",
        [list(experiments)],
    )
    found = {identity: (text, values, most) for identity, text, values, most in rows}
    texts = [found[identity][0] for identity in experiments]
    windows = as_windows(bout.editor.measurer.tokenize(texts))
    activations = np.zeros((len(texts), WINDOW), np.float32)
    for row, identity in enumerate(experiments):
        values = np.asarray(found[identity][1][:WINDOW], np.float32)
        activations[row, : len(values)] = values
    n = len(texts)
    fires = np.asarray([found[identity][2] for identity in experiments], bool)
    return Sample(windows, activations, np.full(n, "experiment"), np.zeros(n)), fires
