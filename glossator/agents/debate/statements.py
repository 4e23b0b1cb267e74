"""The few words of a debate, and whether they are borne out: ids and numbers in a statement are checked against the evidence.

Offline the words are templates over the evidence (`remark`, `closing`, `verdict_sentence`). Whoever else speaks, a language
model that is asked for a statement for one, passes through the same `unsupported`: what it cites and quotes is checked,
marked and stored with the statement; nothing of what is said changes a likelihood. Pure: turns in, words out.

An experiment is cited by the first four or more digits of its id: `(experiment 3f2a)`, `(experiments 3f2a and 77b0)`.
A number is borne out if a figure of the cited experiments, or of the debate as a whole, rounds to it as it is written, or
is it in percent. Numbers inside quotation marks belong to the quoted text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

_IDS = re.compile(r"\bexperiments?\s+([0-9a-f]{3,16}\b(?:\s*(?:,|and|,\s*and)\s*[0-9a-f]{3,16}\b)*)", re.IGNORECASE)
_ID = re.compile(r"[0-9a-f]{3,16}", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?\s?%?")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”")
_SHORT = 4  # digits of an id in a statement
_CITED = 2  # experiments that a closing word cites
_HOLDS = {
    "A": "A holds",
    "B": "B holds",
    "both": "Both hold, each for a part: it fires where either says so",
    "overlap": "Only where both say so does it fire",
    "neither": "Neither holds: how often each kind of edit fires predicts it better than either does",
}


@dataclass(frozen=True)
class Said:
    """What one measured text has to show for itself."""

    experiment_id: str
    p_a: float
    p_b: float
    fired: bool
    share: float
    maximum: float
    leader: str = ""
    lead: float = 0.0
    carrier: int = 0  # the first that did what most did
    weak: bool = False  # most carriers are active, and most do not fire: no verdict, and nobody was right or wrong

    @property
    def figures(self) -> tuple[float, ...]:
        return self.p_a, self.p_b, self.share, self.maximum, self.lead

    def after(self, leader: str, lead: float) -> Said:
        """The same, with who leads now."""
        return replace(self, leader=leader, lead=lead)


def short(experiment_id: str) -> str:
    return experiment_id[:_SHORT]


def _foresaw(p: float, fired: bool) -> bool:
    return (p >= 0.5) == fired


def remark(turn: Said) -> tuple[str, str] | None:
    """(who speaks, what) where a measured text contradicts somebody; None where both foresaw it, or where it is weak."""
    if turn.weak:
        return None
    right_a, right_b = _foresaw(turn.p_a, turn.fired), _foresaw(turn.p_b, turn.fired)
    would, did = ("stay silent", "fired") if turn.fired else ("fire", "did not")
    if right_a and right_b:
        return None
    if not right_a and not right_b:
        return "editor", f"Both said that this would {would}; it {did} (experiment {short(turn.experiment_id)})."
    winner, loser, p = ("A", "B", turn.p_b) if right_a else ("B", "A", turn.p_a)
    return (
        winner,
        f"{loser} said that this would {would}, at {p:.0%}; it {did} (experiment {short(turn.experiment_id)}).",
    )


def closing(side: str, turns: Sequence[Said]) -> str:
    """The last word of A or B, written from what both foresaw."""
    mine: list[tuple[Said, bool, bool]] = []
    for t in turns:
        own, their = (t.p_a, t.p_b) if side == "A" else (t.p_b, t.p_a)
        mine.append((t, _foresaw(own, t.fired), _foresaw(their, t.fired)))
    won = [t for t, me, them in mine if me and not them]
    lost = [t for t, me, them in mine if them and not me]
    other = "B" if side == "A" else "A"
    if not won and not lost:
        return f"{other} and I never disagreed on a text that was measured; I foresaw {sum(me for _, me, _ in mine)} of {len(turns)}."
    said = f"Of the {len(won) + len(lost)} texts on which we disagreed I foresaw {len(won)}"
    said += f" ({_cited(won)})" if won else ""
    return f"{said}; {other} foresaw {len(lost)}" + (f" ({_cited(lost)})." if lost else ".")


def _cited(turns: Sequence[Said]) -> str:
    ids = [short(t.experiment_id) for t in turns[:_CITED]]
    return f"experiment{'s' * (len(ids) > 1)} {' and '.join(ids)}"


def verdict_sentence(verdict: str | None, leader: str, lead: float, experiments: int, needed: float) -> str:
    n = f"{experiments} experiment{'s' * (experiments != 1)}"
    if verdict is None:
        return f"Undecided after {n}: {_the(leader)} leads the others by {lead:.1f} nats, and {needed:g} are needed."
    return f"{_HOLDS[verdict]}. After {n} it leads all others by {lead:.1f} nats."


def refuted_sentence(turns: Sequence[Said]) -> str:
    """`neither`, because nobody else is left."""
    fired = [t for t in turns if t.fired]
    a, b = (sum(p >= 0.5 for p in ps) for ps in ([t.p_a for t in fired], [t.p_b for t in fired]))
    return f"Neither holds: of the {len(fired)} texts that fired A foresaw {a or 'none'} and B {b or 'none'}, in {len(turns)} experiments."


def _the(leader: str) -> str:
    return {"both": "both together", "overlap": "the overlap of both"}.get(leader, leader)


def figures_of(turns: Sequence[Said], more: Iterable[float] = ()) -> list[float]:
    """Numbers that may be quoted of the debate as a whole: counts of what each side foresaw, the lead, and `more`."""
    a = [_foresaw(t.p_a, t.fired) for t in turns]
    b = [_foresaw(t.p_b, t.fired) for t in turns]
    pairs = list(zip(a, b, strict=True))
    counts = [len(turns), sum(a), sum(b), sum(x != y for x, y in pairs), sum(x and not y for x, y in pairs)]
    counts += [sum(y and not x for x, y in pairs), sum(t.fired for t in turns), sum(not t.fired for t in turns)]
    return [*map(float, counts), *(t.lead for t in turns[-1:]), *more]


def unsupported(statement: str, figures: Mapping[str, Sequence[float]], whole: Sequence[float]) -> list[str]:
    """What a statement cites or quotes that the evidence does not bear out, as it is written there.

    figures: of every measured experiment, by id; whole: of the debate.
    """
    found: list[str] = []
    cited: list[str] = []
    for match in _IDS.finditer(statement):
        for name in _ID.findall(match[1]):
            meant = [identity for identity in figures if identity.startswith(name.casefold())]
            if len(meant) != 1 or len(name) < _SHORT:
                found.append(name)
            cited += meant[:1]
    known = [number for identity in cited for number in figures[identity]] + list(whole)
    rest = _QUOTED.sub(" ", _IDS.sub(" ", statement))
    for match in _NUMBER.finditer(rest):
        if not any(_rounds_to(figure, match[0]) for figure in known):
            found.append(match[0].strip())
    return found


def _rounds_to(figure: float, written: str) -> bool:
    plain = written.replace(",", "").replace("%", "").strip()
    decimals = len(plain.partition(".")[2])
    scaled = 100 * figure if "%" in written else figure
    return abs(scaled - float(plain)) <= 0.5 * 10.0**-decimals + 1e-9
