"""In which pieces a night goes through its features: a wave is explained, probed and read wholly before the next one is begun.

So a deadline, a budget or a person who ends a night leaves the features that were wanted most done, and at most one wave half done.
The size of a wave changes how soon features are done, and no row: what is said of a feature follows from that feature alone.

A wave costs its tail: when its last feature has been begun, questions that wait for one another (two dozen at most in the cascade,
a dozen on the average) keep fewer and fewer places busy. With `concurrency` C, W features in a wave that a model is asked about, c
questions about each and d in its longest chain, a wave takes W c / C answers' time and wastes up to about d / 2: a share of
d C / (2 c W), which for d = 2 c is C / W. Sixteen features for each place make that at most 6%; features whose rule stands take
no place, and are not counted. It costs what is done once a wave, too (labels are settled over all features three times), which
grows with the dictionary: so there are never more than 32 waves.

A provider of batches takes hours for each round of questions, whatever their number: there all features are one wave.
"""

from __future__ import annotations

from collections.abc import Sequence

from glossator.agents.editor.editor import UNTRIED
from glossator.agents.run import Run
from glossator.arguments import explainer_config
from glossator.config import CascadeConfig, Night
from glossator.llm.opening import in_batches
from glossator.llm.spec import parse_spec

_EACH_PLACE = 16  # features that are asked about, for each question that may be in flight
_MOST_WAVES = 32


def waves(night: Night, features: Sequence[int], asked: int | None = None) -> list[tuple[int, ...]]:
    """The same features in the same order, in waves. asked: how many of them a model is asked about; all if not known."""
    size = wave_size(night, len(features), len(features) if asked is None else asked)
    return [tuple(features[at : at + size]) for at in range(0, len(features), size)]


def wave_size(night: Night, features: int, asked: int) -> int:
    """What the file says, or the size that the above comes to."""
    said = night.features.wave
    if isinstance(said, int):
        return said
    batched = any(in_batches(parse_spec(one)) for one in (night.llm.writer, night.llm.reader) if one)
    if said == "all" or batched or not asked:
        return max(features, 1)
    places = _EACH_PLACE * night.llm.concurrency
    return max(-(-places * features // asked), -(-features // _MOST_WAVES), 1)


def about_to_be_asked(night: Night, run: Run, features: Sequence[int]) -> int:
    """Of how many features an explainer asks a model at all: of those that it has no reason to leave alone."""
    config = explainer_config(night.explain.explainer)
    return len(features) - (standing(run, features, config) if isinstance(config, CascadeConfig) else 0)


def standing(run: Run, features: Sequence[int], config: CascadeConfig) -> int:
    """Features that a cascade asks nothing about, as far as rules were fitted already: the rule will do, or nothing can be chosen by."""
    if config.escalate == "all":
        return 0
    ((n,),) = run.store.sql(
        "SELECT count(*) FROM feature f WHERE f.dictionary = ? AND f.feature IN (SELECT unnest(?::INTEGER[])) AND (f.status IN (SELECT unnest(?::VARCHAR[])) "
        "OR EXISTS (SELECT 1 FROM score s WHERE s.dictionary = f.dictionary AND s.feature = f.feature AND s.explainer = 'lexical' AND s.predictor = 'rule' "
        "AND s.metric = 'simulation' AND s.split = 'select' AND s.value >= ?))",
        [run.dictionary, list(features), list(UNTRIED), config.stands],
    )
    return int(n)
