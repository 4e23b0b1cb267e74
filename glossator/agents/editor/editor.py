"""The adversarial editor: one pool of experiments about one feature, shared by all explanations of it that are tried.

Mechanical edits of firing windows, which know no label (edits.py), and, where a language model writes, texts that the labels
themselves suggest (written.py). All are predicted first, then measured (experiments.py). The texts budget is spent on the
bisection, the transplant of what it found, and the other kinds in their order; written texts come on top of it.

A pool of `test` is the one that is reported: it is to be made when the label is frozen. Pools of `explain` and `select`,
whose counterexamples may be used to write a better label, are other texts, drawn with other seeds.

An edit counts as firing if most of its carriers do. Bisection, random text and small changes of a window have one carrier:
they are a search, a draw, and about that very window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from glossator.agents.editor.edits import Base as Base
from glossator.agents.editor.edits import Edit as Edit
from glossator.agents.editor.edits import Mechanical, Plan
from glossator.agents.editor.edits import firing_windows as firing_windows
from glossator.agents.editor.experiments import Experimented as Experimented
from glossator.agents.editor.experiments import Known as Known
from glossator.agents.editor.experiments import Measures as Measures
from glossator.agents.editor.experiments import Pool
from glossator.agents.editor.experiments import Predicts as Predicts
from glossator.agents.editor.experiments import Writes as Writes
from glossator.agents.editor.experiments import as_windows as as_windows
from glossator.agents.editor.experiments import p_majority as p_majority
from glossator.agents.editor.written import Written, write
from glossator.config import EditorConfig
from glossator.errors import ReplyError
from glossator.llm.base import LLM
from glossator.types import FeatureRecord, Ints, Split, Vocabulary

UNTRIED = ("dead", "rare", "dense")  # statuses whose labels are not put to the test


@dataclass(frozen=True)
class Probed:
    """measured: texts, those of earlier runs included. note: what a person should know, such as what was dropped.

    failure: what went wrong with the reply of the model that writes; the mechanical edits were run all the same.
    """

    measured: int
    experiments: tuple[Experimented, ...]
    note: str | None
    failure: ReplyError | None = None


def not_to_be_probed(record: FeatureRecord, split: Split = "test") -> str | None:
    """Why a feature has no pool, in words; None if it may have one."""
    if record.status in UNTRIED:
        return f"{record.status}: {record.reason or 'no reason given'}"
    if split not in record.exemplars or not firing_windows(record, split, 1):
        return f"no window of {split} in which it fires"
    return None


class Editor:
    """Probes one feature. Everything it does is a function of the record, the config, the subject and logged replies."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        neighbours: Ints,
        measurer: Measures,
        store: Writes,
        config: EditorConfig,
        *,
        causal: bool,
        run_id: str,
    ) -> None:
        self.measurer, self.store, self.config, self.run_id = measurer, store, config, run_id
        self.vocabulary = vocabulary
        self.mechanical = Mechanical(vocabulary, neighbours, measurer.tokenize, config, causal=causal)

    async def probe(
        self,
        record: FeatureRecord,
        predictors: Sequence[Predicts],
        known: Known,
        split: Split = "test",
        *,
        writer: LLM | None = None,
        claims: Sequence[str] = (),
    ) -> Probed:
        """Run the pool of one feature. known: what earlier runs stored; claims: texts that the writer is shown.

        Raises what predictors raise, ReplyError among it, before anything is measured; and what ends the run.
        """
        if (reason := not_to_be_probed(record, split)) is not None:
            return Probed(0, (), reason)
        plan = self.mechanical.plan(record, firing_windows(record, split, self.config.carriers), split)
        steps = [edit for _, edit in plan.steps]
        mechanical = [*steps, *plan.transplants.values(), *plan.others]
        written = Written()
        if writer is not None and claims:
            written = await write(record, split, claims, writer, self.mechanical, mechanical)
        by = (self.run_id, writer.name if writer is not None and claims else None)
        pool = Pool(record, predictors, known, split, self.measurer, self.store, self.config, by)
        await pool.predict([*steps, *self._affordable(plan), *written.edits])
        both = await asyncio.gather(self._mechanical(pool, plan), pool.run(written.edits), return_exceptions=True)
        for ended in both:  # when neither is at work any more
            if isinstance(ended, BaseException):
                raise ended
        found = pool.measured([*mechanical, *written.edits])
        return Probed(sum(len(one.texts) for one in found), found, written.note, written.failure)

    def _affordable(self, plan: Plan) -> list[Edit]:
        """All that may be measured beside the steps, whatever the bisection ends with; nobody is paid to predict the rest."""
        ends = [(span, used) for used, (span, _) in enumerate(plan.steps, 1)]
        chosen = [self._chosen(plan, span, self.config.texts - used) for span, used in [*ends, (None, len(ends))]]
        return list(dict.fromkeys(edit for edits in chosen for edit in edits))

    def _chosen(self, plan: Plan, span: tuple[int, int] | None, left: int) -> list[Edit]:
        """The transplant of this span, and of the others those for which there are texts left."""
        moved = plan.transplants.get(span) if span is not None else None
        chosen = []
        for edit in ([moved] if moved is not None else []) + list(plan.others):
            if len(edit.texts) <= left:
                left -= len(edit.texts)
                chosen.append(edit)
        return chosen

    async def _mechanical(self, pool: Pool, plan: Plan) -> None:
        """The bisection, one step after the other until one fires; then what is left, at once."""
        span, left = None, self.config.texts
        for tried, edit in plan.steps:
            left -= 1
            (one,) = await pool.run([edit])
            if one.fires:
                span = tried
                break
        await pool.run(self._chosen(plan, span, left))

    def edits(self, record: FeatureRecord, bases: Sequence[Base], split: Split) -> list[Edit]:
        """Every label-blind edit of some windows, each in as many carriers; nothing is measured."""
        return self.mechanical.edits(record, bases, split)
