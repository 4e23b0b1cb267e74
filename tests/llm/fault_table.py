"""What each kind of fault ends as: when it happens once, and when it happens every time. Both protocols, the real SDKs.

python -m tests.llm.fault_table        prints the table as Markdown
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from glossator.store.store import Store
from glossator.types import Reply
from tests.llm.asking import PROTOCOLS, ask_all, config, opened, question
from tests.llm.server import KINDS, Plan, Server

_ATTEMPTS = 3
_SLOW = ("time-out", "slow drip")
_AT_ONCE = 8  # servers that stand at the same time


@dataclass(frozen=True)
class Outcome:
    """ended: `reply`, or the error's name. way: what it took. rows: in the log, with and without a reply. full: booked at the most."""

    ended: str
    way: str
    rows: tuple[int, int]
    full: int

    def __str__(self) -> str:
        booked = f"; {self.full} booked in full" if self.full else ""
        return f"{self.ended}, {self.way}{booked}"


async def outcome(protocol: str, kind: str, *, always: bool) -> Outcome:
    """What one question ends as, at a server that does this and nothing else."""
    server = Server(plan=Plan(1.0, 0, (kind,), None if always else 1), retry_after=0.1)
    settings = config(timeout=2.0 if kind in _SLOW else 30.0, attempts=_ATTEMPTS, patience=0.5)
    listening = await server.serve()
    with Store(":memory:") as store:
        async with opened(server, protocol, store, settings) as llm:
            (ended,) = await ask_all(llm, [question(7)])
        rows = store.sql("SELECT reply IS NOT NULL, error IS NOT NULL FROM llm_call")
    listening.close()
    bodies = list(dict.fromkeys(one.body for one in server.seen))
    retried = any(sum(one.body == body for one in server.seen) > 1 for body in bodies)
    steps = ["after retries" if retried else "", "asked again" if len(bodies) > 1 else ""]
    name = "reply" if isinstance(ended, Reply) else type(ended).__name__
    if name == "ProviderError":
        steps = ["patience at an end"]
    answered = sum(has_reply for has_reply, _ in rows)
    way = " and ".join(step for step in steps if step) or "at once"
    return Outcome(name, way, (answered, len(rows) - answered), sum(noted for _, noted in rows))


async def outcomes(protocol: str) -> dict[str, tuple[Outcome, Outcome]]:
    """For each kind: once, every time."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(kind: str) -> tuple[Outcome, Outcome]:
        async with places:
            return await outcome(protocol, kind, always=False), await outcome(protocol, kind, always=True)

    return dict(zip(KINDS, await asyncio.gather(*(one(kind) for kind in KINDS)), strict=True))


def main() -> None:
    found = {protocol: asyncio.run(outcomes(protocol)) for protocol in PROTOCOLS}
    print(
        f"| fault | once | every time ({_ATTEMPTS} attempts allowed) | differs by protocol |\n| --- | --- | --- | --- |"
    )
    for kind in KINDS:
        first, *others = (found[protocol][kind] for protocol in PROTOCOLS)
        differs = (
            "no" if all(other == first for other in others) else f"{PROTOCOLS[1]}: {others[0][0]} / {others[0][1]}"
        )
        print(f"| {kind} | {first[0]} | {first[1]} | {differs} |")


if __name__ == "__main__":
    main()
