"""The tiny run of tiny.py, bare and with all that a night may leave in it, and their pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from glossator.agents.run import Run
from glossator.report import write_report
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from tests.report import tiny


@pytest.fixture
def run() -> Iterator[Run]:
    with Store(":memory:") as store:
        tiny.fill(store)
        yield Run(store)


@pytest.fixture
def page(run: Run, tmp_path: Path) -> Path:
    to = tmp_path / "report.html"
    assert write_report(run, to) == len(tiny.STATUSES)
    return to


@pytest.fixture
def full(run: Run) -> Run:
    """With a debate, questions that cost, a way through a graph, another explanation, and logits."""
    run.store.put_now(*tiny.debate())
    run.store.put_now(
        tiny.call("explain", "small", 0.25, 100), tiny.call("score", "small", 0.5, 300), tiny.call("score", "small", 0.25, 200),
        tiny.step(0, 1, "start", "explained"), tiny.step(5, 1, "start", "explained"), tiny.step(1, 1, "start", f"abstained {tiny.IMAGE}"),
        tiny.step(0, 2, "gate", "kept", 0.75), tiny.step(5, 2, "gate", "sent on", 0.25),
        tiny.row_types.ExplanationRow("other", tiny.NAME, 0, "oneshot", "small", f"hounds {tiny.BREAKOUT}", None, False, None, "r"),
        tiny.row_types.ScoreRow("other", tiny.NAME, 0, "oneshot", "llm:small", "small", "detection", "test", 0.625, None, None, 9, None, "r"),
    )  # fmt: skip
    run.store.execute(
        "UPDATE feature SET top_logits = [?, 'dog'], top_logit_values = [2.5, 1.5], bottom_logits = ['cat'], bottom_logit_values = [-3.5] WHERE feature = 0",
        [tiny.IMAGE],
    )
    return run


@pytest.fixture
def full_page(full: Run, tmp_path: Path) -> Path:
    to = tmp_path / "full.html"
    write_report(full, to)
    return to


@pytest.fixture
def hostile(full: Run) -> Run:
    """With hostile names where our own words are expected: of explainers, predictors, metrics, edits, nodes, purposes, statuses."""
    changes = {
        "explanation": "explainer", "score": "explainer", "experiment": "kind", "debate_turn": "kind", "step": "node", "llm_call": "purpose",
        "failure": "stage", "debate": "verdict",
    }  # fmt: skip
    for table, column in changes.items():
        full.store.execute(f"UPDATE {table} SET {column} = {column} || ?", [tiny.BREAKOUT + tiny.IMAGE])
    full.store.execute("UPDATE step SET graph = ?, outcome = ?", [tiny.BREAKOUT, tiny.IMAGE])
    full.store.execute("UPDATE llm_call SET model = ?", [tiny.IMAGE])
    for table in ("score", "prediction", "null_score"):
        full.store.execute(f"UPDATE {table} SET predictor = ? WHERE predictor = 'rule'", ["llm:" + tiny.BREAKOUT])
    full.store.execute("UPDATE score SET metric = ? WHERE metric = 'adversarial'", [tiny.IMAGE])
    materialise_labels(full.store)
    return full
