"""A debate: two rivals, texts on which they differ, and measurements that decide. No word of either side changes a likelihood.

Texts are proposed (proposals.py), what both rivals say of every one of them is stored, and only then is anything measured:
the text that is expected to tell most comes first (scorers/evidence.py). One hypothesis wins when it leads all others;
else the budget ends, undecided. Then the rivals are scored on `test`, which the debate never saw, and where the loser is
better there, the reversal is said.

Every second text is a window that is stored as firing, whatever anybody says of it: a hypothesis has to account for what
the feature does, and between two that know nothing of it the texts on which they differ are mostly silent.

A debate is named by its rivals, predictor and config. A stopped one goes on: what was measured is read from the store. A
finished one is not held again. Sides that speak for themselves, and amend what they say, need a language model that is asked
for it: `Debater.speak` is where it goes (templates so far), `evidence.standing` counts an amended side from zero.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from glossator.agents.debate.proposals import Proposal, Proposals, stored_windows
from glossator.agents.debate.rivals import Reads, Rival, RuleReader
from glossator.agents.debate.statements import Said, closing, figures_of, remark, unsupported, verdict_sentence
from glossator.agents.debate.verdict_on_test import on_test
from glossator.agents.editor.editor import Editor, Known, as_windows, p_majority
from glossator.agents.run import Run
from glossator.config import DebateConfig
from glossator.rows import DebateRow, DebateTurnRow, ExperimentRow, MeasurementRow, PredictionRow, Row, StatusRow
from glossator.scorers import evidence
from glossator.types import WINDOW, FeatureRecord, Floats, content_id

_BLIND = 2  # every second text is a stored window that fires, in the order of the pool
_NOTHING = "(nothing)"  # what a text turns on of which both say that it is silent, and that no word stands out of
NO_DEBATE = ("dead", "rare", "dense")
Speak = Callable[[Said], tuple[str, str] | None]


@dataclass(frozen=True)
class _Sealed:
    """Proposals with what both rivals say of them, stored before anything is measured."""

    ids: Sequence[str]
    proposals: Sequence[Proposal]
    p_a: Floats
    p_b: Floats

    @property
    def words(self) -> list[str]:
        """What each turns on. Texts on which nobody says a word are of one family: they are all silent for one reason."""
        quiet = (self.p_a < 0.5) & (self.p_b < 0.5)
        return [_NOTHING if q and p.own else p.word for p, q in zip(self.proposals, quiet, strict=True)]


@dataclass
class _State:
    """What was measured so far, in order: places among the proposals, and what came of each."""

    at: list[int]
    said: list[Said]
    gains: list[float]
    rates: list[float]
    standings: list[evidence.Standing]
    won: bool = False


def debate_id(record: FeatureRecord, rivals: tuple[Rival, Rival], predictor: str, config: DebateConfig) -> str:
    ids = [rival.explanation_id for rival in rivals]
    how = config.model_dump(mode="json", exclude={"in_flight"})
    return content_id("debate", str(record.feature), ids, predictor, how)


def not_to_be_debated(record: FeatureRecord) -> str | None:
    """Why a feature has no debate: too little of it is known to tell rivals apart, or it is on everywhere."""
    if record.status in NO_DEBATE:
        return f"{record.status}: {record.reason or 'no reason given'}"
    if "select" not in record.exemplars or not stored_windows(record).fires.any():
        return "no window of select or explain in which it fires"
    return None


class Debater:
    """`debate(...)` on one feature after another, or on many at once. `speak`: who says what of a measured text."""

    def __init__(self, run: Run, editor: Editor, config: DebateConfig, run_id: str, speak: Speak = remark) -> None:
        self.run, self.editor, self.config, self.run_id, self.speak = run, editor, config, run_id, speak

    async def debate(
        self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: Reads, known: Known
    ) -> DebateRow:
        """The outcome, which is stored with its turns. known: experiments of before a stop."""
        identity = debate_id(record, rivals, reader.predictor, self.config)
        error = await self._error(record, rivals, reader)
        sealed = await self._seal(record, rivals, reader, identity, known)
        misread = 0.0 if isinstance(reader, RuleReader) else error
        enough = self.config.budget, self.config.lead
        same = evidence.same_as(sealed.p_a, sealed.p_b, error, misread, enough)
        state = _State([], [], [], [], [])
        await self._measure(record, sealed, same, error, known, state)
        verdict, reason, sentence = self._verdict(sealed, same, state)
        tested = await on_test(record, rivals, reader, verdict, self.config)
        (a, b), f = rivals, record.feature
        programs = [None if rival.program is None else json.dumps(rival.program) for rival in rivals]
        row = DebateRow(
            identity, f.dictionary, f.index, reader.predictor, a.explanation_id, a.source, a.text, programs[0],
            b.explanation_id, b.source, b.text, programs[1], verdict, sentence, reason,
            state.standings[-1].lead if state.standings else None, len(state.at), self.config.budget, len(sealed.ids),
            float(error), json.dumps(same, sort_keys=True), tested.metric, tested.a, tested.b, tested.winner,
            tested.difference, tested.low, tested.high, tested.reversal, self.run_id,
        )  # fmt: skip
        scores = [score for score in (row.a_score, row.b_score) if score is not None]
        whole = figures_of(state.said, [self.config.budget, self.config.lead, *scores])
        await asyncio.to_thread(self._write, row, list(self._turns(identity, sealed, state, whole)))
        return row

    # ------------------------------------------------------------------ before anything is measured

    async def _error(self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: Reads) -> float:
        """On which share of texts whoever predicts is taken to err: as the better rival on `select`, within bounds."""
        low, high = self.config.floor, self.config.most_error
        if low >= high:
            return low  # nothing to fit, and nobody to pay for it
        return min([await reader.error(rival, record, (low, high)) for rival in rivals])

    async def _seal(
        self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: Reads, identity: str, known: Known
    ) -> _Sealed:
        """Propose, predict, store."""
        stored = stored_windows(record)
        size = self.config.pool_read
        if isinstance(reader, RuleReader):
            said = np.stack([reader.rule(rival).strengths(stored.windows) for rival in rivals])
            stored, size = replace(stored, said=said), self.config.pool
        names = (reader.words(rivals[0]), reader.words(rivals[1]))
        proposals = Proposals(record, stored, self.editor, names, self.config.seed).pool(size)
        tokens = self.editor.measurer.tokenize([text for p in proposals for text in p.edit.texts])
        told = [await reader.fires(rival, as_windows(tokens)) for rival in rivals]
        bounds = np.cumsum([0, *(len(p.edit.texts) for p in proposals)])
        ids: list[str] = []
        rows: list[Row] = []
        p_sides: tuple[list[float], list[float]] = ([], [])
        for n, proposal in enumerate(proposals):
            experiment_id = content_id("experiment", identity, proposal.edit.kind, proposal.edit.texts)
            ids.append(experiment_id)
            made = [p_majority(one[bounds[n] : bounds[n + 1]].tolist()) for one in told]
            for side, p in zip(p_sides, made, strict=True):
                side.append(p)
            if experiment_id not in known.sealed:
                rows += self._sealing(record, rivals, reader, identity, (experiment_id, proposal), made)
        if rows:
            await self.editor.store.put(*rows)
        return _Sealed(ids, proposals, np.asarray(p_sides[0]), np.asarray(p_sides[1]))

    def _sealing(
        self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: Reads, identity: str,
        proposed: tuple[str, Proposal], p: Sequence[float],
    ) -> list[Row]:  # fmt: skip
        (experiment_id, proposal), f, now = proposed, record.feature, time.time()
        edit = proposal.edit
        return [
            ExperimentRow(
                experiment_id, f.dictionary, f.index, f"debate:{identity}", proposal.split, edit.kind,
                json.dumps({**edit.what, "proposer": proposal.proposer, "word": proposal.word}), edit.source_window,
                list(edit.texts), self.run_id,
            ),
            *(
                PredictionRow(experiment_id, rival.explanation_id, reader.predictor, one, [], now)
                for rival, one in zip(rivals, p, strict=True)
            ),
        ]  # fmt: skip

    # ------------------------------------------------------------------ measuring

    async def _measure(
        self, record: FeatureRecord, sealed: _Sealed, same: Mapping[str, str], error: float, known: Known, state: _State
    ) -> None:
        """One text after the other, the most telling first, until somebody has won or the budget is spent."""
        p = evidence.softened(evidence.claims(sealed.p_a, sealed.p_b), error)
        kinds = [proposal.edit.kind for proposal in sealed.proposals]
        words = sealed.words
        left = list(range(len(sealed.ids)))
        totals = np.zeros(len(evidence.HYPOTHESES))
        while left and len(state.at) < self.config.budget:
            used, seen = [kinds[i] for i in state.at], [words[i] for i in state.at]
            fired = [one.fired for one in state.said]
            rates = np.asarray([evidence.running_rate(kinds[i], used, fired) for i in left])
            votes = np.asarray([evidence.vote(words[i], seen, self.config.same_word) for i in left])
            weights = evidence.posterior(totals, same)
            gain = votes * evidence.information_gain(np.column_stack([p[left], rates]), weights)
            best = evidence.choose(gain, [kinds[i] for i in left], used)
            if len(state.at) % _BLIND == _BLIND - 1:  # what it fires on, whatever anybody says of it
                best = next((n for n, i in enumerate(left) if sealed.proposals[i].fires), best)
            chosen = left.pop(best)
            state.gains.append(float(gain[best]))
            state.rates.append(float(rates[best]))
            maxima = await self._outcome(record, sealed, chosen, known)
            share = float(np.mean([m >= record.threshold for m in maxima]))
            state.at.append(chosen)
            measured = evidence.Measured(
                sealed.p_a[state.at], sealed.p_b[state.at], [*used, kinds[chosen]], [*seen, words[chosen]],
                np.asarray([*fired, share > 0.5]),
            )  # fmt: skip
            now = evidence.standing(evidence.log_likelihoods(measured, error, self.config.same_word), same)
            state.standings.append(now)
            p_a, p_b, middle = float(sealed.p_a[chosen]), float(sealed.p_b[chosen]), float(np.median(maxima))
            state.said.append(Said(sealed.ids[chosen], p_a, p_b, share > 0.5, share, middle, now.leader, now.lead))
            totals = now.totals
            enough = len(state.at) >= self.config.least and now.lead >= self.config.lead
            if enough and evidence.accounts_for(measured, now.leader):
                state.won = True
                return

    async def _outcome(self, record: FeatureRecord, sealed: _Sealed, at: int, known: Known) -> Sequence[float]:
        """The highest activation in each carrier; what is stored is not measured again."""
        experiment_id, texts = sealed.ids[at], sealed.proposals[at].edit.texts
        if experiment_id in known.outcomes:
            return known.outcomes[experiment_id]
        f = record.feature
        measured = await self.editor.measurer.measure([(text, f) for text in texts])
        maxima, now = [max(m.values[:WINDOW], default=0.0) for m in measured], time.time()
        await self.editor.store.put(
            *(
                MeasurementRow(
                    experiment_id, f.dictionary, f.index, number, text, list(m.tokens), list(m.values), top,
                    top >= record.threshold, now,
                )
                for number, (text, m, top) in enumerate(zip(texts, measured, maxima, strict=True))
            )
        )  # fmt: skip
        return maxima

    # ------------------------------------------------------------------ what came of it

    def _verdict(self, sealed: _Sealed, same: Mapping[str, str], state: _State) -> tuple[str | None, str | None, str]:
        """Who won, why nobody did, and a sentence for people."""
        last = state.standings[-1]
        won = state.won
        if same.get("B") == "A" and not (won and last.leader == "neither"):
            reason = f"the two say the same on the {len(sealed.ids)} texts that were proposed"
            beat = "they" if won else "it is open whether they"
            return None, reason, f"Nothing to decide: {reason}; {beat} predict it better than base rates."
        verdict = last.leader if won else None
        said = verdict_sentence(verdict, last.leader, last.lead, len(state.at), self.config.lead)
        if verdict in ("A", "B") and same.get("overlap") == verdict:
            said += f" {'B' if verdict == 'A' else 'A'} fires wherever it says so, and elsewhere."
        return verdict, None if won else "undecided", said

    def _turns(self, identity: str, sealed: _Sealed, state: _State, whole: Sequence[float]) -> Iterator[DebateTurnRow]:
        """One for each measured text, then a closing word of each side."""
        figures = {one.experiment_id: one.figures for one in state.said}
        words = [sealed.words[at] for at in state.at]
        for n, (at, said, now) in enumerate(zip(state.at, state.said, state.standings, strict=True)):
            proposal = sealed.proposals[at]
            p_a, p_b, p_both, p_overlap = evidence.claims(sealed.p_a[at], sealed.p_b[at]).tolist()
            log_a, log_b, log_both, log_overlap, log_neither = now.totals.tolist()
            speaker, statement = self.speak(said) or (None, None)
            yield DebateTurnRow(
                identity, n + 1, said.experiment_id, proposal.proposer, proposal.edit.kind, words[n],
                proposal.edit.texts[0], p_a, p_b, p_both, p_overlap, state.rates[n], said.fired, said.share,
                evidence.vote(words[n], words[:n], self.config.same_word), state.gains[n], log_a, log_b, log_both, log_overlap,
                log_neither, now.leader, now.lead, speaker, statement, unsupported(statement or "", figures, whole), self.run_id,
            )  # fmt: skip
        for n, side in enumerate(("A", "B") if state.said else (), len(state.said) + 1):
            word = closing(side, state.said)
            yield closing_row(identity, n, side, word, unsupported(word, figures, whole), self.run_id)

    def _write(self, row: DebateRow, turns: Sequence[DebateTurnRow]) -> None:
        """In one piece; what was written of this debate before is written over."""
        status = StatusRow(row.dictionary, row.feature, "debate", "done", row.verdict or row.reason, self.run_id)

        def forget(connection: Any) -> None:
            for table in ("debate", "debate_turn"):
                connection.execute(f"DELETE FROM {table} WHERE debate_id = ?", [row.debate_id])

        self.run.store.replace_now(forget, [row, *turns, status])


def closing_row(
    identity: str, number: int, side: str, statement: str, wrong: Sequence[str], run_id: str
) -> DebateTurnRow:
    """A turn without an experiment."""
    row: dict[str, Any] = dict.fromkeys((f.name for f in fields(DebateTurnRow)), None)
    row |= {"debate_id": identity, "number": number, "kind": "closing", "proposer": side, "speaker": side}
    return DebateTurnRow(**(row | {"statement": statement, "unsupported": list(wrong), "run_id": run_id}))
