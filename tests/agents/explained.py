"""What the tests of explainers by a model share: the stage with doubles, what it wrote, and what a prompt shows."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from glossator.agents.explainers.explaining import ModelExplainer, stage_of
from glossator.agents.explainers.named import name_of
from glossator.agents.run import Run
from glossator.config import ExplainerConfig
from glossator.llm.scripted import Said, ScriptedLLM
from glossator.store.labels import materialise_labels
from glossator.store.replies import Replies
from glossator.types import Request

ROWS = {
    "explanation": "SELECT * EXCLUDE (run_id) FROM explanation ORDER BY ALL",
    "stage": "SELECT * EXCLUDE (run_id) FROM stage ORDER BY ALL",
    "failure": "SELECT * EXCLUDE (run_id, trace) FROM failure ORDER BY ALL",
    "score": "SELECT * EXCLUDE (run_id) FROM score ORDER BY ALL",
    "prompt": "FROM prompt ORDER BY ALL",
    "labels": "FROM labels",
}


def explain(
    run: Run,
    llm: ScriptedLLM,
    config: ExplainerConfig,
    features: Sequence[int] | None = None,
    reader: ScriptedLLM | None = None,
    in_hand: int = 4,
    *,
    retry_failed: bool = False,
) -> Counter[str]:
    """The stage as the pipeline runs it, with doubles for the models."""
    tally: Counter[str] = Counter()
    stage = stage_of(name_of(config))
    try:
        with run.stage(stage, config) as run_id:
            asking = ModelExplainer(run, llm, config, run_id, tally, reader=reader, retry_failed=retry_failed)
            asyncio.run(asking.explain(run.chosen(features, stage), in_hand))
    finally:
        materialise_labels(run.store)
    return tally


def contents(run: Run) -> dict[str, list[tuple[Any, ...]]]:
    return {table: run.store.sql(query) for table, query in ROWS.items()}


def logged(run: Run) -> Replies:
    return Replies(run.store, 0.0)


def claim(text: str) -> str:
    return json.dumps({"notes": "seen", "abstain": False, "scope": "token", "claim": text})


ABSTAINS = json.dumps({"notes": "nothing shared", "abstain": True, "scope": "none", "claim": ""})


def writer(answers: Callable[[Request], Said], log: Replies | None = None, name: str = "writer") -> ScriptedLLM:
    return ScriptedLLM(answers, log, name)


def asked(llm: ScriptedLLM) -> Counter[str]:
    return Counter(request.purpose for request in llm.requests)


def strings(value: Any) -> Iterator[str]:
    """All texts in a parsed line, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


def shown(messages: Sequence[str]) -> str:
    """All text that messages show, lines of JSON read, without spaces."""
    found = []
    for line in "\n".join(messages).splitlines():
        try:
            found.append("".join(strings(json.loads(line))))
        except ValueError:
            found.append(line)
    return "\n".join("".join(text.split()) for text in found)
