"""A debate: two rivals, texts on which they differ, and measurements that decide. No word of either side changes a likelihood.

Texts are proposed (proposals.py), what both rivals say of every one of them is stored, and only then is anything measured:
the text that is expected to tell most comes first (scorers/evidence.py). One hypothesis wins when it leads all others that
are not refuted; else the budget ends, undecided. Then the rivals are scored on `test`, which the debate never saw, and where
the loser is better there, the reversal is said. The order of all this is a graph (graph.py).

A debate is named by its rivals, predictor and config. A stopped one goes on: what was measured is read from the store. A
finished one is not held again.
"""

from __future__ import annotations

from glossator.agents.debate.graph import begun, compiled, steps
from glossator.agents.debate.proposals import stored_windows
from glossator.agents.debate.rivals import Reads, Rival
from glossator.agents.debate.sides import Sides
from glossator.agents.debate.state import Bout, Speak
from glossator.agents.debate.statements import remark
from glossator.agents.editor.editor import UNTRIED, Editor, Known
from glossator.agents.run import Run
from glossator.agents.walking import walked
from glossator.config import DebateConfig, quiet_tracing
from glossator.rows import DebateRow
from glossator.types import FeatureRecord, content_id


def debate_id(record: FeatureRecord, rivals: tuple[Rival, Rival], predictor: str, config: DebateConfig) -> str:
    ids = [rival.explanation_id for rival in rivals]
    how = config.model_dump(mode="json", exclude={"in_flight"})
    return content_id("debate", str(record.feature), ids, predictor, how)


def not_to_be_debated(record: FeatureRecord) -> str | None:
    """Why a feature has no debate: too little of it is known to tell rivals apart, or it is on everywhere."""
    if record.status in UNTRIED:
        return f"{record.status}: {record.reason or 'no reason given'}"
    if "select" not in record.exemplars or not stored_windows(record).fires.any():
        return "no window of select or explain in which it fires"
    return None


class Debater:
    """`debate(...)` on one feature after another, or on many at once; the graph is compiled once.

    speak: what is said of a measured text where nobody speaks for the sides; sides: a model that does.
    """

    def __init__(
        self,
        run: Run,
        editor: Editor,
        config: DebateConfig,
        run_id: str,
        speak: Speak = remark,
        sides: Sides | None = None,
    ) -> None:
        quiet_tracing()
        self.run, self.editor, self.config, self.run_id = run, editor, config, run_id
        self.speak, self.sides, self.graph = speak, sides, compiled()

    async def debate(
        self, record: FeatureRecord, rivals: tuple[Rival, Rival], reader: Reads, known: Known
    ) -> DebateRow:
        """The outcome, which is stored with its turns. known: experiments of before a stop. Raises what ends the run, or the debate."""
        identity = debate_id(record, rivals, reader.predictor, self.config)
        bout = Bout(
            identity, record, rivals, reader, known, self.run.store, self.editor, self.config, self.run_id, self.speak,
            self.sides,
        )  # fmt: skip
        found = await walked(self.graph, begun(bout), steps(self.config.budget))
        row: DebateRow = found["row"]
        return row
