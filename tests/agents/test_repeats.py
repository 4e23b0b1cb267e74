"""Scores by a model drawn again with other windows: how far a mean over features moves by what was drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from glossator.agents.run import Run
from glossator.llm.oracle import OracleLLM
from glossator.llm.scripted import ScriptedLLM
from tests.agents.test_score_llm import REFUSED, WHO, labelled, logged, truths
from tests.agents.test_score_nulls import alone, read


def test_repeats_are_other_draws_on_other_windows_and_leave_the_first_alone(run: Run) -> None:
    labelled(run, truths())
    first = OracleLLM(log=logged(run), error_rate=0.2)
    read(run, first, config=alone())
    before = run.store.sql("SELECT * FROM score ORDER BY ALL"), run.store.sql("SELECT * FROM labels")
    llm = OracleLLM(log=logged(run), error_rate=0.2)
    tally = read(run, llm, config=alone(repeats=2))
    assert tally == {("detection, repeat 1", "scored"): 12, ("detection, repeat 2", "scored"): 12}
    assert Counter(r.sample for r in llm.requests) == {1: 12, 2: 12}
    shown = [{r.messages[1].text for r in one} for one in (first.requests, [r for r in llm.requests if r.sample == 1])]
    assert len(shown[1] - shown[0]) > 6  # other windows
    assert (run.store.sql("SELECT * FROM score ORDER BY ALL"), run.store.sql("SELECT * FROM labels")) == before
    rows = run.store.sql("SELECT repeat, metric, split, count(value) FROM repeat_score GROUP BY ALL ORDER BY 1")
    assert rows == [(1, "detection", "test", 12), (2, "detection", "test", 12)]
    means = [
        run.store.sql(f"SELECT avg(value) FROM {t}")[0][0]
        for t in (
            "score WHERE metric = 'detection' AND split = 'test'",
            "repeat_score WHERE repeat = 1",
            "repeat_score WHERE repeat = 2",
        )
    ]
    board = run.store.sql("SELECT metric, repeat_sd FROM scoreboard ORDER BY metric")
    assert (
        board == [("detection", pytest.approx(np.std(means, ddof=1))), ("detection_near", None)] and np.std(means) > 0
    )
    again = OracleLLM(log=logged(run), error_rate=0.2)
    read(run, again, config=alone(repeats=2))
    assert again.requests == []
    more = OracleLLM(log=logged(run), error_rate=0.2)
    read(run, more, config=alone(repeats=3))
    assert Counter(r.sample for r in more.requests) == {3: 12}


def test_a_repeat_that_failed_is_a_row_without_a_value_and_can_be_drawn_anew(run: Run) -> None:
    labelled(run, truths(2, 3))
    oracle = OracleLLM()
    failing = ScriptedLLM(
        lambda r: REFUSED if r.sample and r.about == "planted/2" else oracle._answer(r), logged(run), "oracle"
    )
    tally = read(run, failing, config=alone(repeats=1))
    assert tally["detection, repeat 1", "RefusedError"] == 1 == tally["detection, repeat 1", "scored"]
    assert run.store.sql("SELECT feature, value, note FROM repeat_score ORDER BY ALL") == [
        (2, None, None),
        (3, 1.0, "balanced accuracy at 50%: 1.00"),
    ]
    assert run.store.sql("SELECT feature, stage FROM failure") == [(2, f"score:detection:{WHO}:repeat-1")]
    again = OracleLLM(log=logged(run))
    read(run, again, config=alone(repeats=1))
    assert again.requests == []
    read(run, again, config=alone(repeats=1), retry_failed=True)
    assert [(r.about, r.sample, r.attempt) for r in again.requests] == [("planted/2", 1, 1)]
    assert run.store.sql("SELECT count(*), count(value) FROM repeat_score") == [(2, 2)]
