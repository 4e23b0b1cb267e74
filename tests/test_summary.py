"""What `demo` prints at its end comes from the run file and names every comparison."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from glossator.store.query import query
from glossator.summary import compared, demo_figures

pytestmark = pytest.mark.real


def test_the_figures_of_a_run_name_rule_lookups_and_null(mini_run: Path) -> None:
    console = Console(width=150, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(demo_figures(mini_run))
    said = console.export_text()
    for part in (
        "rule, at most 12 items",
        "lookup of 1 token",
        "lookup of all tokens",
        "rules of other features (null)",
        "trusted",
    ):
        assert part in said


def test_medians_are_those_of_the_score_table(mini_run: Path) -> None:
    own = query(
        mini_run,
        "SELECT median(value) AS m FROM score s JOIN feature f USING (dictionary, feature) WHERE s.metric = 'simulation' AND s.explainer = 'lexical' "
        "AND s.split = 'test' AND f.density BETWEEN 0.001 AND 0.03 AND f.active_windows[3] >= 50 AND f.status NOT IN ('dead', 'rare', 'dense')",
    ).to_pylist()[0]["m"]
    assert own is not None
    assert compared(mini_run)[0]["median"] == pytest.approx(own)
