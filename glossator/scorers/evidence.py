"""Evidence between two rival explanations: what measured texts say for A, B, both of them, their overlap, or neither.

Each rival states p(fires) for a text before it is measured. From p_A and p_B five hypotheses follow:

    A         p = p_A                          both      p = 1 - (1 - p_A)(1 - p_B)    fires where either says so
    B         p = p_B                          overlap   p = p_A p_B                   fires where both say so
    neither   p = (k + r) / (n + 1)            how often earlier texts of the same kind of edit fired (k of n)

`neither` knows nothing but base rates: r is Krichevsky and Trofimov's estimator over all kinds, (K + 1/2) / (N + 1), to which
a kind is drawn of which little was seen; prequential (Dawid 1984), so no outcome is predicted from itself. Were every kind
to begin at 1/2, a rival that says `silent` of everything would gain half a nat from the first text of each.

Whoever predicts errs, so a probability is softened, p' = e + (1 - 2e) p, with e as the better rival erred on `select`, within
bounds. One text is one vote, log p' or log(1 - p'), however many carriers it was measured in. Errors come in families: who
misreads a word misreads it in every text. The j-th text that turns on a word therefore counts j to the power -`same_word`: a
product of likelihoods, each to the power of a weight (a composite likelihood, Varin, Reid and Firth 2011).

Texts that came out weak, active under the threshold, are neither outcome: they are not handed in here.

What is measured next is the text with the highest expected information about which hypothesis holds, H(mean p) - mean H(p)
under the present posterior (Lindley 1956; BALD, Houlsby et al. 2011), times its weight.

Who wins has to lead, and to have foreseen at least half of the texts that fired (`accounts_for`). A rule or sentence about
something else is right wherever the feature is silent, which is nearly everywhere. By that alone it would hold its ground against
`neither` for ever, so what foresaw less than a quarter of eight that fired is out of the race (`refuted`), and need not be led.

Chance level: two rivals that know nothing lose to `neither`, or it stays undecided. Blind spots: hypotheses that no text at
hand tells apart (`same_as` says which), what was never put to the test, errors that two words share, and a rival that names
what stands in the same passages as the cause. Operating curves: benchmarks/debate.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glossator.types import Bools, Floats

HYPOTHESES = ("A", "B", "both", "overlap", "neither")
A, B, BOTH, OVERLAP, NEITHER = range(5)
_CERTAIN = 1e-9
_ERRORS = np.linspace(0.0, 0.45, 91)
_ALIKE, _ALIKE_BY_ERROR = 0.05, 1.5
_FIRES_ON = 3  # texts, under which a hypothesis does as good as never fire
_TRIED, _FORESEEN = 8, 0.25  # texts that fired, and the share of them that keeps a hypothesis in the race


@dataclass(frozen=True)
class Measured:
    """Texts in the order in which they were measured. p_a, p_b [n]: what was sealed; fired [n].

    kinds [n]: kinds of edits; words [n]: the word that each text turns on, or whatever else is its own.
    """

    p_a: Floats
    p_b: Floats
    kinds: Sequence[str]
    words: Sequence[str]
    fired: Bools

    def __len__(self) -> int:
        return len(self.fired)


@dataclass(frozen=True)
class Standing:
    """Who leads: log-likelihoods [5] up to the same constant, the leader, and by how many nats it leads all others."""

    totals: Floats
    leader: str
    lead: float  # infinite where nobody else is left
    counted: int  # experiments that the leader has behind it


def claims(p_a: Floats, p_b: Floats) -> Floats:
    """[n, 4]: p(fires) under A, B, both and overlap."""
    a, b = np.asarray(p_a, float), np.asarray(p_b, float)
    return np.stack([a, b, 1 - (1 - a) * (1 - b), a * b], axis=-1)


def softened(p: Floats, error: float) -> Floats:
    """p' = e + (1 - 2e) p: what a statement is worth of one who errs on a share `error` of texts."""
    return np.asarray(error + (1 - 2 * error) * np.asarray(p, float))


def running_rate(kind: str, kinds: Sequence[str], fired: Sequence[bool] | Bools) -> float:
    """(k + r) / (n + 1): k of n texts of this kind fired so far; r = (K + 1/2) / (N + 1), of the texts of all kinds."""
    every = [bool(f) for f in fired]
    mine = [f for k, f in zip(kinds, every, strict=True) if k == kind]
    return (sum(mine) + (sum(every) + 0.5) / (len(every) + 1)) / (len(mine) + 1)


def vote(word: str, words: Sequence[str], power: float = 1.0) -> float:
    """What the next text that turns on `word` counts after those measured: 1 for the first, j^-power for the j-th."""
    return float((1 + Counter(words)[word]) ** -power)


def log_likelihoods(seen: Measured, error: float, power: float = 1.0) -> Floats:
    """[n, 5]: what each text adds to each hypothesis, in nats. Depends on earlier texts alone."""
    out = np.zeros((len(seen), len(HYPOTHESES)))
    p = softened(claims(seen.p_a, seen.p_b), error)
    for i, fired in enumerate(seen.fired):
        rate = running_rate(seen.kinds[i], seen.kinds[:i], seen.fired[:i])
        each = np.append(p[i], rate)
        each = np.clip(each if fired else 1 - each, _CERTAIN, None)
        out[i] = vote(seen.words[i], seen.words[:i], power) * np.log(each)
    return out


def standing(per_text: Floats, same: Mapping[str, str], since: Mapping[str, int] | None = None) -> Standing:
    """The leader among the hypotheses that are not the `same` as another one.

    since: from which text on an amended explanation counts; what is made of it, too. Two hypotheses are compared on the
    texts that both have behind them, so that starting from zero is neither a penalty nor a pardon.
    """
    begin = _begins(since or {})
    standing_for = [i for i, name in enumerate(HYPOTHESES) if name not in same]
    totals = per_text[max(begin) :].sum(0)

    def lead(i: int) -> float:
        return min(
            (
                float((per_text[max(begin[i], begin[j]) :, i] - per_text[max(begin[i], begin[j]) :, j]).sum())
                for j in standing_for
                if j != i
            ),
            default=np.inf,
        )

    best = max(standing_for, key=lambda i: (lead(i), -i))
    return Standing(totals, HYPOTHESES[best], lead(best), len(per_text) - begin[best])


def _begins(since: Mapping[str, int]) -> list[int]:
    a, b = since.get("A", 0), since.get("B", 0)
    return [a, b, max(a, b), max(a, b), 0]


def accounts_for(seen: Measured, name: str, since: Mapping[str, int] | None = None) -> bool:
    """Whether a hypothesis foresaw at least half of the texts that fired, and two: what it takes to win beside the lead.

    Most texts are silent, and a hypothesis about something else foresees that, too. `neither` states nothing to be shown.
    """
    if name == "neither":
        return True
    i = HYPOTHESES.index(name)
    begin = _begins(since or {})[i]
    p = claims(seen.p_a, seen.p_b)[begin:][np.asarray(seen.fired, bool)[begin:], i]
    return bool(len(p) and (p >= 0.5).mean() >= 0.5 and (p >= 0.5).sum() >= 2)


def refuted(seen: Measured, since: Mapping[str, int] | None = None) -> dict[str, str]:
    """{name: ""} of hypotheses that foresaw less than a quarter of the texts that fired, once there are eight. `since` as in `standing`.

    A misread word costs a right one a text or two; who misreads the only word of a feature cannot tell right from wrong.
    """
    found: dict[str, str] = {}
    for i, begin in enumerate(_begins(since or {})[:NEITHER]):
        fired = np.asarray(seen.fired, bool)[begin:]
        told = claims(seen.p_a, seen.p_b)[begin:][fired, i]
        if len(told) >= _TRIED and (told >= 0.5).mean() < _FORESEEN:
            found[HYPOTHESES[i]] = ""
    return found


def posterior(totals: Floats, same: Mapping[str, str]) -> Floats:
    """[5] weights from equal priors; 0 for a hypothesis that is the same as another one."""
    alive = np.asarray([name not in same for name in HYPOTHESES])
    weights = np.where(alive, np.exp(totals - totals[alive].max()), 0.0)
    return np.asarray(weights / weights.sum())


def entropy(p: Floats) -> Floats:
    """Of a coin, in nats."""
    q = np.clip(p, _CERTAIN, 1 - _CERTAIN)
    return np.asarray(-(q * np.log(q) + (1 - q) * np.log(1 - q)))


def information_gain(p: Floats, weights: Floats) -> Floats:
    """[m] nats that measuring each of m texts is expected to tell about the hypotheses: H(mean p) - mean H(p). p [m, 5]."""
    return np.asarray(np.maximum(entropy(p @ weights) - entropy(p) @ weights, 0.0))


def choose(gain: Floats, kinds: Sequence[str], used: Sequence[str], near: float = 0.5) -> int:
    """The text to measure next: of the kinds that offer `near` the best gain, the one used least; in it the best text."""
    count, best = Counter(used), float(np.max(gain))
    offer: dict[str, int] = {}
    for i, kind in enumerate(kinds):
        if gain[i] >= near * best and (kind not in offer or gain[i] > gain[offer[kind]]):
            offer[kind] = i
    return min(offer.values(), key=lambda i: (count[kinds[i]], -gain[i], i))


def same_as(p_a: Floats, p_b: Floats, error: float, misread: float, enough: tuple[int, float]) -> dict[str, str]:
    """Hypotheses that are no others on the texts at hand: {"overlap": "A"} where B fires wherever A does.

    enough: texts and nats. {"B": "A"}: the texts that tell the rivals apart best are not expected to tell the nats (Kullback
    and Leibler's divergence, summed): between them there is nothing to decide, but `neither` may still win. `both` and `overlap` are the same as the nearest other hypothesis if the
    texts on which they differ are no more, beside those on which either fires, than a reader makes up who misreads a share
    `misread` of texts, 0 for rules: a Tanimoto distance, sum |p - q| / sum max(p, q), of at most 0.05 + 1.5 misread.
    {"overlap": ""}: it as good as never fires, and a feature does.
    """
    p, alike = claims(p_a, p_b), _ALIKE + _ALIKE_BY_ERROR * misread
    if _told_apart(softened(p[:, A], error), softened(p[:, B], error), enough[0]) < enough[1]:
        return {"B": "A", "both": "A", "overlap": "A"}
    found: dict[str, str] = {}
    for i in (BOTH, OVERLAP):
        apart = {j: _distance(p[:, i], p[:, j]) for j in range(i) if HYPOTHESES[j] not in found}
        nearest = min(apart, key=apart.__getitem__)
        if apart[nearest] <= alike:
            found[HYPOTHESES[i]] = HYPOTHESES[nearest]
    if "overlap" not in found and (p[:, OVERLAP] > 0.5).sum() < _FIRES_ON:
        found["overlap"] = ""
    return found


def _distance(p: Floats, q: Floats) -> float:
    return float(np.abs(p - q).sum() / max(np.maximum(p, q).sum(), _CERTAIN))


def _told_apart(p: Floats, q: Floats, texts: int) -> float:
    """Nats that the best `texts` are expected to tell whichever of the two holds, at the least."""
    each = np.minimum(_divergence(p, q), _divergence(q, p))
    return float(np.sort(each)[::-1][:texts].sum())


def _divergence(p: Floats, q: Floats) -> Floats:
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def fitted_error(p: Floats, fired: Bools, floor: float, most: float) -> float:
    """The e under which p' makes the outcomes [n] likeliest, between `floor` and `most`. No outcomes: the floor.

    A rival that is wrong looks like a predictor that errs, and an error without a bound would excuse it of everything.
    """
    if not len(fired):
        return floor
    q = softened(np.asarray(p, float)[:, None], 0.0) * (1 - 2 * _ERRORS) + _ERRORS
    q = np.clip(np.where(np.asarray(fired, bool)[:, None], q, 1 - q), _CERTAIN, None)
    return float(np.clip(_ERRORS[int(np.log(q).sum(0).argmax())], floor, max(floor, most)))
