"""Debates as readable transcripts: the two claims, each text with what both said of it before it was measured, the verdict.

The page draws a transcript when it is opened. Chances of the five hypotheses after a turn are their log-likelihoods made
to sum to one, as if all had been equally likely at first. A run with very many debates shows the ones that moved most.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from glossator.report.cards import levels_of
from glossator.report.values import short

if TYPE_CHECKING:
    from glossator.agents.run import Run

MOST = 500
HYPOTHESES = ("a", "b", "both", "overlap", "neither")
_SAME_AS = {"both": "A or B", "overlap": "A and B", "neither": "neither"}


def debates(run: Run, maximum: dict[int, float | None]) -> dict[str, Any]:
    """{all: how many there are, shown: [...]}: the latest debate of each pair first where something was decided, then by lead."""
    n = run.store.sql("SELECT count(*) FROM debate WHERE dictionary = ?", [run.dictionary])[0][0]
    if not n:
        return {"all": 0, "shown": []}
    rows = run.store.arrow(
        "SELECT * FROM debate WHERE dictionary = ? ORDER BY verdict IS NULL, lead DESC NULLS LAST, feature, debate_id LIMIT ?",
        [run.dictionary, MOST],
    ).to_pylist()
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in run.store.arrow(_TURNS, [[row["debate_id"] for row in rows]]).to_pylist():
        found.setdefault(turn["debate_id"], []).append(turn)
    shown = [_debate(run, row, found.get(row["debate_id"], []), maximum.get(row["feature"])) for row in rows]
    return {"all": n, "shown": shown}


def _debate(run: Run, row: dict[str, Any], turns: list[dict[str, Any]], maximum: float | None) -> dict[str, Any]:
    same = json.loads(row["same"] or "{}")
    alive = [name not in {other.lower() for other in same} for name in HYPOTHESES]
    told = [f"{_SAME_AS.get(k, k)} is the same as {v}" if v else f"{_SAME_AS.get(k, k)} would never fire" for k, v in sorted(same.items())]  # fmt: skip
    test = [short(row[name]) for name in ("a_score", "b_score", "winner_score", "difference", "low", "high")]
    return {
        "feature": row["feature"], "name": run.name(row["feature"]),
        "a": [row["a_text"], row["a_source"]], "b": [row["b_text"], row["b_source"]],
        "verdict": row["verdict"], "sentence": row["sentence"], "reason": row["reason"], "lead": short(row["lead"]),
        "experiments": row["experiments"], "proposed": row["proposed"], "predictor": row["predictor"], "error": row["error"],
        "same": told, "metric": row["metric"], "test": test, "reversal": row["reversal"], "alive": alive,
        "turns": [_turn(turn, alive, maximum) for turn in turns],
    }  # fmt: skip


# The tokens are those of the carrier that fired most.
_TURNS = """
WITH peak AS (SELECT experiment_id, arg_max(tokens, (max_activation, -carrier)) AS tokens,
                     arg_max(activations, (max_activation, -carrier)) AS activations
              FROM measurement WHERE experiment_id IN (SELECT experiment_id FROM debate_turn WHERE debate_id IN (SELECT unnest($1::VARCHAR[])))
              GROUP BY experiment_id)
SELECT t.*, peak.tokens, peak.activations FROM debate_turn t LEFT JOIN peak USING (experiment_id)
WHERE t.debate_id IN (SELECT unnest($1::VARCHAR[])) ORDER BY t.debate_id, t.number
"""


def _turn(turn: dict[str, Any], alive: list[bool], maximum: float | None) -> list[Any]:
    """[kind, proposer, text, pieces, levels, p of each, fired, share, gain, chances, leader, lead, speaker, statement, unsupported].

    A closing word has no experiment: [None, speaker, statement, unsupported]. text is None where the tokens say it.
    """
    said = [turn["speaker"], turn["statement"], turn["unsupported"] or []]
    if turn["experiment_id"] is None:
        return [None, *said]
    tokens, values = turn["tokens"] or [], np.asarray(turn["activations"] or [], float)
    predicted = [short(turn[f"p_{name}"], 3) for name in HYPOTHESES]
    text, levels = None if tokens else turn["text"], levels_of(values, maximum)
    outcome = [turn["fired"], short(turn["fired_share"], 2), short(turn["gain"], 2), _chances(turn, alive)]
    after = [turn["leader"], short(turn["lead"], 3)]
    return [turn["kind"], turn["proposer"], text, tokens, levels, predicted, *outcome, *after, *said]


def _chances(turn: dict[str, Any], alive: list[bool]) -> list[float | None] | None:
    logs = np.asarray(
        [turn[f"log_{name}"] if there else None for name, there in zip(HYPOTHESES, alive, strict=True)], float
    )
    if np.isnan(logs).all():
        return None
    share = np.exp(logs - np.nanmax(logs))
    return [short(float(x), 3) for x in share / np.nansum(share)]
