"""How the oracle answers for the sides of a debate: a few words on measured texts, and an amended explanation.

A statement cites texts that were shown and what was said of them. On a share `error_rate` of texts it misquotes the number or
cites what is not there, as language models do: that is what the check of statements must catch. An amendment is the oracle's
answer to `refine`, whose prompt it is.

Prompts are read as text, as a model reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from glossator.types import Request

_Answer = dict[str, Any]


class Errs(Protocol):
    """The oracle."""

    error_rate: float

    def draw(self, what: str, word: str) -> float: ...


def debating(oracle: Errs, refines: Callable[[Request], _Answer]) -> dict[str, Callable[[Request], _Answer]]:
    """Its answers by the purpose of the question. refines: how it answers the prompt `refine`."""
    return {"debate:statement": lambda request: _speaks(oracle, request), "debate:amend": refines}


def _speaks(oracle: Errs, request: Request) -> _Answer:
    lines = request.messages[1].text.splitlines()
    side = json.loads(lines[lines.index("side") + 1])
    texts = [json.loads(line) for line in lines if line.startswith('{"experiment"')]
    against = [text for text in texts if (text[side] >= 50) != (text["outcome"] == "fired")]
    for_it = [text for text in texts if text not in against]
    if against and len(against) >= len(for_it):
        said = [
            f"I did not expect this one to be {_called(text)}, at {_quoted(oracle, text, side)}" for text in against[:2]
        ]
        return {"statement": f"{'; '.join(said)}."}
    said = [f"{_called(text)}, where I gave it {_quoted(oracle, text, side)}" for text in for_it[:2]]
    return {"statement": f"It {'; it '.join(said)}." if said else ""}


def _called(text: _Answer) -> str:
    return f"{text['outcome']} (experiment {text['experiment']})"


def _quoted(oracle: Errs, text: _Answer, side: str) -> str:
    """The number as it stands there, or where it errs another one."""
    number = text[side]
    return f"{(number + 37) % 100 if oracle.draw('misquotes', text['text']) < oracle.error_rate else number}%"
