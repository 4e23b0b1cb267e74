"""What questions cost, in words, from the log."""

from __future__ import annotations

from glossator.agents.run import Run


def spent(run: Run, where: str, given: list[str]) -> str:
    """Dollars and tokens of the calls in the log, or of some, in words."""
    ((usd, unknown, tokens),) = run.store.sql(
        "SELECT sum(usd), count(*) FILTER (usd IS NULL), coalesce(sum(coalesce(input_tokens, 0) + coalesce(output_tokens, 0)), 0)::BIGINT "
        f"FROM llm_call {where}",
        given,
    )
    dollars = "dollars unknown" if unknown else f"${usd or 0:.4f}"
    return f"{dollars} for {tokens:,} tokens"


def set_aside(run: Run) -> str:
    """What counts as spent beside the calls in the log, in words; empty where there is nothing of it."""
    rows = run.store.sql(
        "SELECT purpose, sum(dollars), sum(tokens)::BIGINT FROM spend "
        "WHERE purpose IN ('in flight when stopped', 'out in batches') GROUP BY ALL ORDER BY ALL"
    )
    of = {
        "in flight when stopped": "booked for what was in flight when runs were stopped",
        "out in batches": "out in batches",
    }
    parts = [f"{f'${usd:.4f} for ' if usd else ''}{tokens:,} tokens {of[purpose]}" for purpose, usd, tokens in rows]
    return f", and {', '.join(parts)}" if parts else ""
