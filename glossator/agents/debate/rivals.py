"""Who debates: two explanations of one feature, and how each is turned into p(fires) of a text.

Typed hypotheses, stored explanations named by their ids, or found: the label against the runner-up on `select`. Offline
both are programs, found among stored rules, lookups of one and of five tokens, and the rule of the nearest feature;
with a language model both are texts that it reads. The two are never mixed: predictors are not compared.

A rule is taken at its word: what it gives its full strength fires, what it gives nothing is silent, and only what it
calls weak has the rate at which such windows of `select` fire. Calibrating all of it, as scoring does, would let a
wrong rule hedge: it would call its own false alarms improbable. What its word is worth on the whole is `error`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from glossator.agents.debate.hypothesis import Program, known_tokens, parse_hypothesis
from glossator.agents.debate.proposals import named_words, stored_windows
from glossator.agents.editor.probe import labelled_programs
from glossator.agents.lexical.explainer import lookup
from glossator.agents.lexical.wording import sentence
from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.scorers.estimators import pearson_of
from glossator.scorers.evidence import fitted_error
from glossator.scorers.reading import LLMPredictor, few
from glossator.scorers.rule import Lexicon, Rule
from glossator.scorers.simulation import scene, sums_of
from glossator.types import MAX_STRENGTH, FeatureRecord, Floats, Ints, Windows, content_id, visible

_SURE = 0.98
_BANDS = (0.05, 0.35, 0.65)  # of a rule's own full strength, as the bands of scorers/predictor.py
_FITTED_ON = 20  # windows of `select` that a language model reads to tell how often it errs
_DIFFERENT = 3  # windows on which a found rival must say something else


@dataclass(frozen=True)
class Rival:
    """One side. text is what people read; with a program that is executed, else a model reads the text."""

    explanation_id: str
    source: str  # typed, an explainer, lookup-1, lookup-5, neighbour
    text: str
    program: Program | None = None


class Reads(Protocol):
    """Turns a rival into p(fires); sees the rival and token ids alone."""

    predictor: str

    def words(self, rival: Rival) -> Sequence[str]: ...

    async def fires(self, rival: Rival, windows: Windows) -> Floats: ...

    async def strengths(self, rival: Rival, windows: Windows) -> Ints: ...

    async def error(self, rival: Rival, record: FeatureRecord, bounds: tuple[float, float]) -> float: ...


class RuleReader:
    """Executes programs, for one feature."""

    predictor = "rule"

    def __init__(self, record: FeatureRecord, lexicon: Lexicon) -> None:
        self.record, self.lexicon = record, lexicon
        self._rules: dict[str, Rule] = {}
        self._rates: dict[str, Floats] = {}

    def words(self, rival: Rival) -> Sequence[str]:
        """None: where a rule fires is found by running it."""
        return ()

    def rule(self, rival: Rival) -> Rule:
        if rival.explanation_id not in self._rules:
            self._rules[rival.explanation_id] = Rule(rival.program or {}, self.lexicon)
        return self._rules[rival.explanation_id]

    def bands(self, rival: Rival, windows: Windows) -> Ints:
        """[n] 0: nothing, 1-2: weak, 3: full strength."""
        rule = self.rule(rival)
        full = max((int(item["strength"]) for item in rule.items), default=MAX_STRENGTH) or MAX_STRENGTH
        return np.asarray(np.digitize(rule.strengths(windows).max(1, initial=0) / full, _BANDS))

    async def fires(self, rival: Rival, windows: Windows) -> Floats:
        if rival.explanation_id not in self._rates:
            windows_of_select, fired = _judged(self.record)
            self._rates[rival.explanation_id] = at_its_word(self.bands(rival, windows_of_select), fired)
        return np.asarray(self._rates[rival.explanation_id][self.bands(rival, windows)])

    async def strengths(self, rival: Rival, windows: Windows) -> Ints:
        return self.rule(rival).strengths(windows)

    async def error(self, rival: Rival, record: FeatureRecord, bounds: tuple[float, float]) -> float:
        windows, fired = _judged(record)
        return fitted_error(await self.fires(rival, windows), fired, *bounds)


class TextReader:
    """A language model that reads the text alone; `about` names the feature in its books, not in its prompt.

    words_of: words that a side puts forward, in windows of which it would be tried: those of its own sentence so far. A
    model that is asked for words that its sentence means would come in here.
    """

    def __init__(
        self, record: FeatureRecord, predictor: LLMPredictor, words_of: Callable[[str], Sequence[str]] = named_words
    ) -> None:
        self.about, self._ask, self._words_of = str(record.feature), predictor, words_of
        self.predictor = predictor.predictor

    def words(self, rival: Rival) -> Sequence[str]:
        return self._words_of(rival.text)

    async def fires(self, rival: Rival, windows: Windows) -> Floats:
        return await self._ask.fires(rival.text, windows, self.about)

    async def strengths(self, rival: Rival, windows: Windows) -> Ints:
        return await self._ask.strengths(rival.text, windows, self.about)

    async def error(self, rival: Rival, record: FeatureRecord, bounds: tuple[float, float]) -> float:
        windows, fired = _judged(record, _FITTED_ON)
        return fitted_error(await self.fires(rival, windows), fired, *bounds)


def at_its_word(bands: Ints, fired: Any) -> Floats:
    """[4] p(fires) by band: sure of nothing and of full strength; between them as often as `select` has it."""
    rates = np.asarray([1 - _SURE, 0.0, 0.0, _SURE])
    for band in (1, 2):
        mine = np.asarray(fired)[bands == band]
        rates[band] = (mine.sum() + 0.5) / (len(mine) + 1)
    return np.clip(np.maximum.accumulate(rates), 1 - _SURE, _SURE)


def _judged(record: FeatureRecord, most: int | None = None) -> tuple[Windows, Any]:
    """Windows of `select` that fire or are silent, as many of the one as of the other; weak ones are left out."""
    shown = scene(record, "select")
    active, behind = shown.active, shown.background
    if most is not None:
        active, behind = few(active, most // 2, 0), few(behind, most // 2, 0)
    top = np.concatenate([active.activations.max(1, initial=0), behind.activations.max(1, initial=0)])
    ids = np.concatenate([active.windows.ids, behind.windows.ids])
    document = np.concatenate([active.windows.document, behind.windows.document])
    window_id = np.concatenate([active.windows.window_id, behind.windows.window_id])
    clear = np.flatnonzero((top == 0) | (top >= record.threshold))
    return Windows(ids, document, active.windows.start, window_id).take(clear), top[clear] >= record.threshold


def find_rivals(run: Run, record: FeatureRecord, hypotheses: Sequence[str], *, by_text: bool) -> tuple[Rival, Rival]:
    """The two that are to debate. Raises UsageError where there are not two, or they are the same.

    by_text: a language model reads them; else they have to be programs.
    """
    if len(hypotheses) == 1 or len(hypotheses) > 2:
        raise UsageError(
            f"--hypothesis: {len(hypotheses)} given; give two that differ, or none: then the label and its best rival debate"
        )
    stored = _stored(run, record)
    if hypotheses:
        a, b = (_typed(run, record, text, stored, by_text=by_text) for text in hypotheses)
    else:
        a, b = _texts(run, record, stored) if by_text else _programs(run, record, stored)
    if a.explanation_id == b.explanation_id or (plain(a.text) == plain(b.text) and a.program == b.program):
        raise UsageError(f"--hypothesis: both say the same, {a.text[:80]}; give two that differ")
    return a, b


def plain(text: str) -> str:
    """What two sentences have alike that say the same."""
    return " ".join(text.split()).casefold().rstrip(".")


def _stored(run: Run, record: FeatureRecord) -> list[Rival]:
    """Every explanation of the feature that says something, the label first, then the best on `select`."""
    rows = run.store.sql(
        "SELECT e.explanation_id, e.explainer, e.text, e.program FROM explanation e "
        "LEFT JOIN (SELECT explanation_id, max(value) AS value FROM score WHERE split = 'select' AND metric = 'simulation' GROUP BY ALL) s "
        "USING (explanation_id) LEFT JOIN label l ON l.explanation_id = e.explanation_id AND l.dictionary = e.dictionary AND l.feature = e.feature "
        "WHERE e.dictionary = ? AND e.feature = ? AND NOT e.abstained AND e.text IS NOT NULL "
        "QUALIFY row_number() OVER (PARTITION BY e.explanation_id ORDER BY e.rowid) = 1 "
        "ORDER BY l.explanation_id IS NULL, s.value DESC NULLS LAST, e.explanation_id",
        [run.dictionary, record.feature.index],
    )
    return [Rival(i, explainer, text, json.loads(p) if p else None) for i, explainer, text, p in rows]


def _typed(run: Run, record: FeatureRecord, text: str, stored: Sequence[Rival], *, by_text: bool) -> Rival:
    program = parse_hypothesis(text)
    named = next((rival for rival in stored if rival.explanation_id == text.strip()), None)
    if named is not None and (by_text or named.program is not None):
        return named
    f = record.feature
    if program is not None:
        program = known_tokens(program, run.lexicon.vocabulary)
        try:
            Rule(program, run.lexicon)  # says what is wrong with it
        except UsageError as error:
            raise UsageError(f"--hypothesis {visible(text.strip()[:60])}: {error}") from error
        said = sentence(program, record, run.lexicon.vocabulary)
        return Rival(content_id("hypothesis", f.dictionary, f.index, said, program), "typed", said, program)
    if not by_text:
        raise UsageError(
            f'--hypothesis "{text.strip()[:60]}": a sentence has to be read by a language model; name one with --llm, or write '
            "a rule such as token:right, after:on the -> right, class:year, topic:butter,oven>=2"
        )
    return Rival(content_id("hypothesis", f.dictionary, f.index, text.strip()), "typed", text.strip())


def _texts(run: Run, record: FeatureRecord, stored: Sequence[Rival]) -> tuple[Rival, Rival]:
    texts = {plain(rival.text): rival for rival in reversed(stored)}
    best = [rival for rival in stored if texts.get(plain(rival.text)) is rival]
    if len(best) < 2:
        raise UsageError(
            f"feature {run.name(record.feature.index)}: has {len(best)} explanation{'s' * (len(best) != 1)} with a text; "
            "label it by another explainer too, or type two with --hypothesis"
        )
    return best[0], best[1]


def _programs(run: Run, record: FeatureRecord, stored: Sequence[Rival]) -> tuple[Rival, Rival]:
    """The label's rule, else the best one; against the best of the others that says something else."""
    mine = [rival for rival in stored if rival.program is not None]
    found = [*mine, *_lookups(run, record), *_neighbours(run, record)]
    if not found:
        raise UsageError(f"feature {run.name(record.feature.index)}: has no rule; type two with --hypothesis")
    shown = scene(record, "select")
    reader, windows = RuleReader(record, run.lexicon), stored_windows(record).windows
    fit: dict[str, float] = {}
    claims: dict[str, Any] = {}
    for rival in found:
        sums = sums_of(shown, reader.rule(rival).strengths(shown.windows)).sum(0)
        fit[rival.explanation_id] = float(np.nan_to_num(pearson_of(sums), nan=-1.0))
        claims[rival.explanation_id] = reader.bands(rival, windows) > 1
    a = mine[0] if mine else max(found, key=lambda r: fit[r.explanation_id])
    others = [r for r in found if (claims[r.explanation_id] != claims[a.explanation_id]).sum() >= _DIFFERENT]
    if not others:
        raise UsageError(
            f"feature {run.name(record.feature.index)}: no other rule says anything else than {a.text[:60]}; type two with --hypothesis"
        )
    return a, max(others, key=lambda r: fit[r.explanation_id])


def _lookups(run: Run, record: FeatureRecord) -> list[Rival]:
    found = []
    for size in (5, 1):
        program = lookup(record, run.lexicon, run.counts, size)
        if any(item["strength"] for item in program["items"]):
            text = sentence(program, record, run.lexicon.vocabulary)
            identity = content_id("lookup", record.feature.dictionary, record.feature.index, f"lookup-{size}")
            found.append(Rival(identity, f"lookup-{size}", text, program))
    return found


def _neighbours(run: Run, record: FeatureRecord) -> list[Rival]:
    rules = labelled_programs(run, list(record.neighbours))
    for neighbour in record.neighbours:
        if neighbour in rules:
            identity, program = rules[neighbour]
            return [Rival(identity, "neighbour", sentence(program, record, run.lexicon.vocabulary), program)]
    return []
