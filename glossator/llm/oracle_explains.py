"""How the oracle answers the explainers' questions: `oneshot`, `contrastive`, `logits` and `refine`.

Whether it errs hangs on the word that the windows turn on, as everywhere. Draws of one question differ in part: on half of
the words every draw errs alike, on the others each for itself. A mistake is noticed where a prompt shows a window that it is
wrong about, a silent one in `contrastive`, a counterexample in `refine`, unless the oracle errs on that window's word too.
`refine` gives back a draft that it sees nothing wrong with.

Prompts are read as text, as a model reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from glossator.planted import Activation, PlantedFeature, planted_tokens
from glossator.types import WINDOW, Request, content_id

UNKNOWN = "[TEXT]"  # stands for what a prompt does not show
_SCOPES = {"topic": "topic", "position": "position"} | dict.fromkeys(("phrase", "and", "or", "except"), "phrase")
_SAYS = "Fires on {}."
_ALIKE = 0.5  # of words: all draws err on them, or none does

Window = tuple[list[str], list[str], list[int]]  # tokens before, tokens, their strengths
_Answer = dict[str, Any]


class Knows(Protocol):
    """The oracle."""

    features: tuple[PlantedFeature, ...]
    meanings: Mapping[str, Activation]
    error_rate: float

    @property
    def bias(self) -> str: ...

    def errs_on(self, word: str) -> bool: ...

    def draw(self, what: str, word: str) -> float:
        """Between 0 and 1, the same for the same word."""
        ...


def explaining(oracle: Knows) -> dict[str, Callable[[Request], _Answer]]:
    """Its answers by the purpose of the question."""
    return {
        "explain:oneshot": lambda request: _explains(oracle, request),
        "explain:contrastive": lambda request: _contrasts(oracle, request),
        "explain:logits": lambda request: _explains(oracle, request),
        "explain:refine": lambda request: _refines(oracle, request),
    }


def _explains(oracle: Knows, request: Request) -> _Answer:
    windows = read_windows(request.messages[1].text)
    return _first_thought(oracle, _meant(oracle, request, windows), windows, request.sample)


def _contrasts(oracle: Knows, request: Request) -> _Answer:
    groups = read_groups(request.messages[1].text)
    silent = groups.pop("silent", [])
    windows = [window for members in groups.values() for window in members]
    feature = _meant(oracle, request, windows)
    answer = _first_thought(oracle, feature, windows, request.sample)
    meaning = oracle.meanings.get(plain(answer["claim"]))
    if meaning is None or plain(answer["claim"]) == plain(feature.description):
        return answer
    wrong = [window for window in silent if any(told(meaning, window))]
    if any(not _errs(oracle, _word_of(window, meaning), request.sample) for window in wrong):
        return _claim(feature, feature.description, "the silent windows rule out the first idea")
    return answer


def _refines(oracle: Knows, request: Request) -> _Answer:
    text = request.messages[1].text
    lines = text.splitlines()
    draft: str = json.loads(lines[lines.index("draft") + 1])
    windows = read_windows(text)
    feature = _meant(oracle, request, windows)
    meaning = oracle.meanings.get(plain(draft))
    if meaning is None:  # nothing is known of it but that it was wrong here
        wrong = windows
    else:
        wrong = [window for window in windows if any(told(meaning, window)) != any(window[2])]
    if any(not _errs(oracle, _word_of(window, meaning), request.sample) for window in wrong):
        return _claim(feature, feature.description, "the draft is wrong about these windows")
    return {"notes": "nothing wrong with it", "abstain": False, "scope": _scope(feature), "claim": draft}


def _first_thought(oracle: Knows, feature: PlantedFeature, windows: Sequence[Window], sample: int) -> _Answer:
    """The truth, or the mistake that goes with the word that the windows turn on."""
    word = _turns_on(windows)
    notes = f"most of it is on {word}"
    if not _errs(oracle, word, sample):
        return _claim(feature, feature.description, notes)
    if oracle.bias == "broad" and feature.broader:
        return _claim(feature, feature.broader.description, notes)
    if oracle.bias == "narrow" and feature.narrower:
        return _claim(feature, feature.narrower.description, notes)
    if oracle.draw(f"abstains {sample}" if sample else "abstains", word) < 0.5:
        return {"notes": "nothing that these windows share", "abstain": True, "scope": "none", "claim": ""}
    others = [other for other in oracle.features if other.name != feature.name] or [feature]
    other = others[int(oracle.draw(f"mistakes {sample}" if sample else "mistakes", word) * len(others))]
    return _claim(other, other.description, notes)


def _errs(oracle: Knows, word: str, sample: int) -> bool:
    if sample == 0 or oracle.draw("alike", word) < _ALIKE:
        return oracle.errs_on(word)
    return oracle.draw(f"errs {sample}", word) < oracle.error_rate


def _meant(oracle: Knows, request: Request, windows: Sequence[Window]) -> PlantedFeature:
    """The feature that the question is about; if it does not say so, the one whose truth agrees best with the marks."""
    index = (request.about or "").rpartition("/")[2]
    if index.isdecimal() and int(index) < len(oracle.features):
        return oracle.features[int(index)]
    return max(oracle.features, key=lambda feature: _agreement(feature.activation, windows))


def read_windows(text: str) -> list[Window]:
    """What a prompt shows, from its lines of JSON."""
    return [window for members in read_groups(text).values() for window in members]


def read_groups(text: str) -> dict[str, list[Window]]:
    """Windows under their headings."""
    found: dict[str, list[Window]] = {}
    heading = ""
    for line in text.splitlines():
        if not line.startswith('{"'):
            heading = line
            continue
        shown = json.loads(line)
        tokens: list[str] = []
        strengths: list[int] = []
        for piece in shown["window"]:
            words, strength = (piece, 0) if isinstance(piece, str) else piece
            tokens += (new := planted_tokens(words))
            strengths += [strength] * len(new)
        found.setdefault(heading, []).append((planted_tokens(shown.get("before") or ""), tokens, strengths))
    return found


def told(activation: Activation, window: Window) -> list[float]:
    """What a feature would do in a window. Windows lie on a grid, so where anything stands before, a whole window does."""
    before, tokens, _ = window
    filled = [UNKNOWN] * (WINDOW - len(before)) + before[-WINDOW:] if before else []
    return activation([*filled, *tokens])[len(filled) :]


def plain(label: str) -> str:
    """A label without what frames a description in it."""
    return label.strip().removeprefix(_SAYS.split("{}")[0]).removesuffix(".").casefold()


def _word_of(window: Window, meaning: Activation | None) -> str:
    """The word that a window turns on: the strongest by its marks; of a silent one by what the label says, else by its text."""
    _, tokens, strengths = window
    if not any(strengths) and meaning is not None:
        strengths = [round(100 * value) for value in told(meaning, window)]
    if any(strengths):
        return tokens[strengths.index(max(strengths))]
    return tokens[int(content_id("turns", *tokens), 16) % len(tokens)] if tokens else ""


def _turns_on(windows: Sequence[Window]) -> str:
    """The most strongly marked word of the first window that has one."""
    return next((_word_of(window, None) for window in windows if any(window[2])), "")


def _scope(feature: PlantedFeature) -> str:
    return _SCOPES.get(feature.kind, "token")


def _claim(feature: PlantedFeature, description: str, notes: str) -> _Answer:
    return {"notes": notes, "abstain": False, "scope": _scope(feature), "claim": _SAYS.format(description)}


def _agreement(activation: Activation, windows: Sequence[Window]) -> float:
    """F1 of where it fires and where there are marks, over all windows."""
    both = either = 0
    for window in windows:
        fires = [value > 0 for value in told(activation, window)]
        marked = [strength > 0 for strength in window[2]]
        both += sum(a and b for a, b in zip(fires, marked, strict=True))
        either += sum(fires) + sum(marked)
    return 2 * both / max(either, 1)
