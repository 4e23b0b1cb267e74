"""Which features a night is about, and in which order, settled once and written down in the run file.

A condition may be about what the night itself changes (labels, scores), and prompts are read by the subject; so what was found
is kept as a row of `run` with the section that asked for it. A night that is gone on with has the same features; another
section means another choice, and says so. Features that were never active are not among them: nothing can be done about them.
"""

from __future__ import annotations

import datetime
import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import glossator
from glossator.agents.run import Run
from glossator.arguments import parse_features
from glossator.config import FeaturesSection
from glossator.errors import UsageError
from glossator.night.conditions import bound, check_condition, matching
from glossator.store.store import Store
from glossator.types import content_id

STAGE = "night:features"  # with the name of the dictionary after it
_INDICES = re.compile(r"[0-9][0-9,+\- ]*")
_BY = {
    "index": "feature", "density": "density, feature", "density desc": "density DESC, feature", "max_activation": "max_activation, feature",
    "max_activation desc": "max_activation DESC, feature", "random": "feature",
}  # fmt: skip
_MOST_PROMPTS = 10_000
_MOST_BYTES = 1 << 26


def is_condition(which: str) -> bool:
    return which.strip() != "all" and not _INDICES.fullmatch(which.strip())


def check_which(which: str) -> None:
    """Raise UsageError for what is neither `all`, indices, nor a condition on features."""
    if is_condition(which):
        check_condition(which)
        bound(which)
    elif which.strip() != "all":
        try:
            parse_features(which, 10**9)  # poles or not is for the dictionary to say
        except UsageError as error:
            raise UsageError(str(error).partition(": ")[2]) from None


def prompts_in(path: Path) -> list[str]:
    """The prompts of a file, each a line; what else Unicode calls a line break may stand in a prompt. Raises UsageError."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise UsageError(f"{path}: holds {size >> 20:,} MB, at most {_MOST_BYTES >> 20} MB of prompts are measured")
        found = [line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except ValueError as error:  # NUL in its name
        raise UsageError(f"{path}: cannot be read ({error})") from error
    if not found:
        raise UsageError(f"{path}: holds no prompt; write one on each line")
    if len(found) > _MOST_PROMPTS:
        raise UsageError(f"{path}: holds {len(found):,} prompts, at most {_MOST_PROMPTS:,} are measured")
    return found


def candidates(store: Store, dictionary: str, which: str, poles: int | None) -> set[int]:
    """The features of a dictionary that `which` names and that were ever active. Raises UsageError for indices beyond the last."""
    alive = {
        f for (f,) in store.sql("SELECT feature FROM feature WHERE dictionary = ? AND status <> 'dead'", [dictionary])
    }
    if is_condition(which):
        return alive & set(matching(store, dictionary, which))
    if which.strip() == "all":
        return alive
    try:
        asked = parse_features(which, poles) or []
    except UsageError as error:
        raise UsageError(str(error).partition(": ")[2]) from None
    ((n,),) = store.sql("SELECT n_features FROM dictionary WHERE dictionary = ?", [dictionary])
    if asked[-1] >= n:
        raise UsageError(f"{dictionary} has features 0 to {n - 1}, not {asked[-1]}")
    return alive & set(asked)


def ordered(store: Store, dictionary: str, features: Iterable[int], order: str, seed: int) -> list[int]:
    """The same features, those that are wanted most first."""
    wanted = list(features)
    rows = store.sql(
        f"SELECT feature FROM feature WHERE dictionary = ? AND feature IN (SELECT unnest(?::INTEGER[])) ORDER BY {_BY[order]}",
        [dictionary, wanted],
    )
    found = [feature for (feature,) in rows]
    if order == "random":
        random.Random(seed).shuffle(found)
    return found


def active_on(run: Run, prompts: Sequence[str]) -> set[int]:
    """The features that fire on one of the prompts, measured on the subject. Raises UsageError for a prompt longer than its context."""
    from glossator.harness.measurer import Measurer

    measurer = Measurer(*run.model())
    rows = run.store.sql(
        "SELECT feature, threshold FROM feature WHERE dictionary = ? AND status <> 'dead'", [run.dictionary]
    )
    found: set[int] = set()
    for number, prompt in enumerate(prompts, 1):
        run.progress("prompts", number - 1, len(prompts))
        try:
            _, values = measurer.measure_all(prompt)
        except UsageError as error:
            raise UsageError(str(error).replace("--text", f"prompt {number}", 1)) from None
        peak = values.amax(0).tolist()
        found |= {f for f, threshold in rows if threshold is not None and peak[f] > 0 and peak[f] >= threshold}
    run.progress("prompts", len(prompts), len(prompts))
    return found


def chosen(run: Run, section: FeaturesSection, *, write: bool = True) -> list[int]:
    """The features of this dictionary, the most wanted first; what was chosen before where the section has not changed.

    Controls are labelled on a random draw: their features are nobody's in particular. Raises UsageError where none is left.
    """
    ((control,),) = run.store.sql("SELECT control FROM dictionary WHERE dictionary = ?", [run.dictionary])
    prompts = prompts_in(Path(section.active_on)) if section.active_on else []
    which = section.model_dump(mode="json", exclude={"wave"})  # how many are asked about together chooses nothing
    asked = which | {"active_on": prompts, "dictionary": run.dictionary}
    if (before := chosen_before(run, asked)) is not None:
        return before
    if control is not None:
        alive = candidates(run.store, run.dictionary, "all", run.poles)
        found = ordered(run.store, run.dictionary, alive, "random", section.seed)[: section.controls]
    else:
        left = candidates(run.store, run.dictionary, section.which, run.poles)
        if prompts:
            left &= active_on(run, prompts)
        found = ordered(run.store, run.dictionary, left, section.order, section.seed)[: section.first]
    if write and found:
        _keep(run, asked, found)
    return found


def chosen_before(run: Run, asked: object) -> list[int] | None:
    """What was chosen for the same section; None where it was not asked before, or something else was since."""
    rows = run.store.sql(
        "SELECT config FROM run WHERE stage = ? ORDER BY started DESC, rowid DESC LIMIT 1",
        [f"{STAGE}:{run.dictionary}"],
    )
    if not rows:
        return None
    kept = json.loads(rows[0][0])
    return list(kept["features"]) if kept["asked"] == json.loads(json.dumps(asked)) else None


def _keep(run: Run, asked: object, features: Sequence[int]) -> None:
    now = datetime.datetime.now(datetime.UTC)
    config = json.dumps({"asked": asked, "features": list(features)}, sort_keys=True)
    run.store.execute(
        "INSERT INTO run (run_id, stage, config, config_digest, version, started, finished) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            content_id(STAGE, config, now.isoformat()),
            f"{STAGE}:{run.dictionary}",
            config,
            content_id(asked),
            glossator.__version__,
            now,
            now,
        ],
    )
