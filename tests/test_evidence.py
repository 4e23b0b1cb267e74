"""The rule of evidence, shown on the run file itself: splits are apart, and what was tested on was never seen before."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glossator.agents.run import Run
from glossator.config import LexicalConfig
from glossator.pipeline import explain
from glossator.store.store import Store
from tests import mini

pytestmark = pytest.mark.real


def test_no_document_and_no_near_duplicate_stands_in_two_splits(mini_run: Path, tmp_path: Path) -> None:
    with Store(mini.copy(mini_run, tmp_path)) as store:
        assert store.sql("SELECT cluster FROM document GROUP BY cluster HAVING count(DISTINCT split) > 1") == []
        assert (
            store.sql("SELECT w.window_id FROM text_window w JOIN document d USING (document) WHERE w.split <> d.split")
            == []
        )
        assert (
            store.sql(
                "SELECT e.window_id FROM exemplar e JOIN text_window w USING (window_id) WHERE e.split <> w.split"
            )
            == []
        )
        assert store.sql("SELECT window_id FROM text_window GROUP BY window_id HAVING count(*) > 1") == []


def test_labels_are_the_same_when_the_test_split_does_not_exist(mini_run: Path, tmp_path: Path) -> None:
    """An explainer that saw a test window would change its mind when they are all replaced by other text."""
    features = list(range(40))
    with Store(mini.copy(mini_run, tmp_path)) as store:
        before = store.sql("SELECT feature, text, program FROM explanation WHERE feature < 40 ORDER BY feature")
        store.execute("UPDATE exemplar SET activations = list_reverse(activations) WHERE split = 'test'")
        store.execute("UPDATE background SET activations = list_transform(activations, x -> 9.0) WHERE split = 'test'")
        store.execute("UPDATE text_window SET ids = list_transform(ids, x -> 1997) WHERE split = 'test'")
        store.execute("DELETE FROM explanation; DELETE FROM stage; DELETE FROM score; DELETE FROM label;")
        explain(Run(store), LexicalConfig(), features)
        after = store.sql("SELECT feature, text, program FROM explanation WHERE feature < 40 ORDER BY feature")
    assert len(before) == 40
    assert after == before


def test_weights_of_active_windows_add_up_to_the_corpus(mini_run: Path, tmp_path: Path) -> None:
    with Store(mini.copy(mini_run, tmp_path)) as store:
        for record in Run(store).records(list(range(30))):
            for split, sample in record.exemplars.items():
                if len(sample.windows):
                    np.testing.assert_allclose(sample.weight.sum(), record.active(split))


def test_stored_programs_hold_at_most_twelve_items_of_strength_0_to_10(mini_run: Path, tmp_path: Path) -> None:
    with Store(mini.copy(mini_run, tmp_path)) as store:
        programs = [json.loads(p) for (p,) in store.sql("SELECT program FROM explanation WHERE program IS NOT NULL")]
    assert programs
    for program in programs:
        assert 1 <= len(program["items"]) <= 12
        assert all(isinstance(i["strength"], int) and 0 <= i["strength"] <= 10 for i in program["items"])
        assert all(len(i.get("tokens", ())) <= 10 for i in program["items"])
