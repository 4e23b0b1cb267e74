"""Before anything is measured: texts are proposed, both rivals predict every one of them, and the store has it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from glossator.agents.debate.proposals import Proposal, Proposals, stored_windows
from glossator.agents.debate.rivals import Rival, RuleReader
from glossator.agents.debate.state import Bout, Sealed
from glossator.agents.editor.editor import as_windows, p_majority
from glossator.rows import ExperimentRow, PredictionRow, Row
from glossator.types import content_id


async def error_of(bout: Bout) -> float:
    """On which share of texts whoever predicts is taken to err: as the better rival on `select`, within bounds."""
    low, high = bout.config.floor, bout.config.most_error
    if low >= high:
        return low  # nothing to fit, and nobody to pay for it
    return min([await bout.reader.error(rival, bout.record, (low, high)) for rival in bout.rivals])


async def sealed(bout: Bout) -> Sealed:
    """Propose, predict, store; what was stored before a stop is not stored again."""
    proposals = proposed(bout)
    told = [await told_of(bout, rival, proposals) for rival in bout.rivals]
    ids = [content_id("experiment", bout.identity, p.edit.kind, p.edit.texts) for p in proposals]
    rows: list[Row] = []
    for experiment_id, proposal, *p in zip(ids, proposals, *told, strict=True):
        if experiment_id not in bout.known.sealed:
            rows += _sealing(bout, experiment_id, proposal, p)
    if rows:
        await bout.editor.store.put(*rows)
    return Sealed(ids, proposals, np.asarray(told[0]), np.asarray(told[1]))


def proposed(bout: Bout) -> list[Proposal]:
    stored, size = stored_windows(bout.record), bout.config.pool_read
    if isinstance(bout.reader, RuleReader):
        rules = bout.reader
        said = np.stack([rules.rule(rival).strengths(stored.windows) for rival in bout.rivals])
        stored, size = replace(stored, said=said), bout.config.pool
    names = (bout.reader.words(bout.rivals[0]), bout.reader.words(bout.rivals[1]))
    return Proposals(bout.record, stored, bout.editor, names, bout.config.seed).pool(size)


async def told_of(bout: Bout, rival: Rival, proposals: Sequence[Proposal]) -> list[float]:
    """[n] p(fires) of each proposal: that most of its carriers do."""
    tokens = bout.editor.measurer.tokenize([text for p in proposals for text in p.edit.texts])
    each = (await bout.reader.fires(rival, as_windows(tokens))).tolist()
    bounds = np.cumsum([0, *(len(p.edit.texts) for p in proposals)]).tolist()
    return [p_majority(each[begin:end]) for begin, end in itertools.pairwise(bounds)]


def _sealing(bout: Bout, experiment_id: str, proposal: Proposal, p: Sequence[float]) -> list[Row]:
    f, edit, now = bout.record.feature, proposal.edit, time.time()
    return [
        ExperimentRow(
            experiment_id, f.dictionary, f.index, f"debate:{bout.identity}", proposal.split, edit.kind,
            json.dumps({**edit.what, "proposer": proposal.proposer, "word": proposal.word}), edit.source_window,
            list(edit.texts), bout.run_id,
        ),
        *(
            PredictionRow(experiment_id, rival.explanation_id, bout.reader.predictor, one, [], now)
            for rival, one in zip(bout.rivals, p, strict=True)
        ),
    ]  # fmt: skip
