"""Operating curves of the debate: how often is it right, wrong or undecided, and after how many experiments?

    .venv/bin/python benchmarks/debate.py --features 40 --errors 0 0.1 0.2 0.3

Planted features, whose truth is known, are debated by sentences that `OracleLLM` reads; it errs at a set rate on words, so
that its errors come together. Rivals: the truth against a broader, a narrower and a correlated description, two parts that
make up the truth together, and two descriptions of features that have nothing to do with it. Half of the features have the sides swapped.

Right: the verdict is the side (or `both`, or `neither`) that the truth is. Wrong: another verdict. Undecided: none, for
want of evidence or because the two say the same on every text proposed. With intervals (Wilson).
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glossator.agents.debate.debating import debate_all
from glossator.agents.debate.proposals import named_words
from glossator.agents.debate.rivals import TextReader
from glossator.agents.run import Run
from glossator.config import DebateConfig, LLMScoreConfig
from glossator.harness.planted_run import harvest_planted
from glossator.llm.oracle import OracleLLM
from glossator.planted import Activation, Nearly, PlantedFeature
from glossator.planted_family import planted_family, planted_family_documents, planted_family_vocabulary
from glossator.scorers.estimators import wilson
from glossator.scorers.reading import LLMPredictor
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

SORTS = ("broader", "narrower", "correlated", "parts", "wrong")


@dataclass(frozen=True)
class Case:
    """Two sentences, what they mean, and the verdict that is right."""

    feature: int
    sort: str
    a: str
    b: str
    right: str


def cases(features: Sequence[PlantedFeature], oracle: OracleLLM) -> list[Case]:
    """Every feature in every sort that it has; the oracle learns the parts."""
    by_name = {feature.name: feature for feature in features}
    found = []
    for index, feature in enumerate(features):
        pairs: dict[str, tuple[str, str, str]] = {}
        for sort in ("broader", "narrower"):
            nearly = getattr(feature, sort)
            if nearly is not None:
                pairs[sort] = (feature.description, nearly.description, "A")
        if feature.correlated:
            pairs["correlated"] = (feature.description, by_name[feature.correlated].description, "A")
        if parts := halves(feature):
            for part in parts:
                oracle.meanings[part.description.casefold()] = part.activation
            pairs["parts"] = (parts[0].description, parts[1].description, "both")
        related = {feature.name, feature.neighbour, feature.correlated}
        others = [features[(index + step) % len(features)] for step in range(len(features) // 3, len(features))]
        unlike = [other for other in others if not {other.name, other.neighbour, other.correlated} & related]
        pairs["wrong"] = (unlike[0].description, unlike[-1].description, "neither")
        for sort, (a, b, right) in pairs.items():
            swapped = index // 2 % 2 == 1
            right = {"A": "B"}.get(right, right) if swapped else right
            found.append(Case(index, sort, *((b, a) if swapped else (a, b)), right))
    return found


def halves(feature: PlantedFeature) -> tuple[Nearly, Nearly] | None:
    """Two descriptions that share the feature's triggers between them."""
    words = sorted(feature.triggers or ())
    if len(words) < 2 or feature.kind in (
        "topic",
        "graded",
    ):  # active on all tokens, or too weak on a part to fire there
        return None
    mine = frozenset(words[::2])

    def part(inside: bool) -> Activation:
        def activation(tokens: Sequence[str]) -> list[float]:
            whole = feature.activation(tokens)
            held = [bool(mine & set(tokens[max(0, i - 1) : i + 1])) for i in range(len(tokens))]
            return [value if h == inside else 0.0 for value, h in zip(whole, held, strict=True)]

        return activation

    named = ", ".join(sorted(mine)), ", ".join(words[1::2])
    return (
        Nearly(f"{feature.description}, where it has to do with {named[0]}", part(True)),
        Nearly(f"{feature.description}, where it has to do with {named[1]}", part(False)),
    )


def run_all(
    run: Run, features: Sequence[PlantedFeature], error: float, config: DebateConfig, seed: int
) -> list[tuple[Case, str, int]]:
    """(case, verdict or why there is none, experiments)."""
    oracle = OracleLLM(features, error_rate=error, seed=seed)
    predictor = LLMPredictor(oracle, run.lexicon.vocabulary, LLMScoreConfig())
    asked = cases(features, oracle)
    pieces = [piece for piece in run.lexicon.vocabulary.pieces if piece.isalnum()]
    meant: dict[str, list[str]] = {}

    def words_of(text: str) -> list[str]:
        """Words on which a description is active by themselves: a side that knows what it means puts them forward."""
        if text not in meant:
            meaning = oracle.meanings[text.casefold()]
            meant[text] = [piece for piece in pieces if any(meaning([piece]))] or named_words(text)
        return meant[text]

    out = []

    async def every() -> None:
        for case in asked:
            (held,) = await debate_all(
                run, [case.feature], [case.a, case.b], config, lambda record: TextReader(record, predictor, words_of)
            )
            rows = run.store.sql(
                "SELECT verdict, reason, experiments FROM debate WHERE debate_id = ?", [held.debate_id]
            )
            verdict, reason, experiments = rows[0] if rows else (None, held.reason, 0)
            out.append((case, verdict or ("same" if str(reason).startswith("the two") else str(reason)), experiments))

    asyncio.run(every())
    return out


def show(found: Sequence[tuple[Case, str, int]], error: float, seconds: float) -> None:
    for sort in (*SORTS, "all"):
        mine = [one for one in found if sort in (one[0].sort, "all")]
        if not mine:
            continue
        n = len(mine)
        right = sum(verdict == case.right for case, verdict, _ in mine)
        verdicts = ("A", "B", "both", "overlap", "neither")
        wrong = sum(verdict in verdicts and verdict != case.right for case, verdict, _ in mine)
        false = sum(verdict == "neither" != case.right for case, verdict, _ in mine)
        known = sum(case.right != "neither" for case, _, _ in mine)
        used = np.median([experiments for _, _, experiments in mine])
        r, w = wilson(right, n), wilson(wrong, n)
        others = Counter(v for c, v, _ in mine if v != c.right)
        print(
            f"error {error:.0%}  {sort:<11} n {n:4d}  right {right / n:5.1%} [{r.low:.0%}, {r.high:.0%}]  wrong {wrong / n:5.1%} "
            f"[{w.low:.1%}, {w.high:.1%}]  undecided {1 - (right + wrong) / n:5.1%}  false neither "
            f"{false / max(known, 1):5.1%}  median experiments {used:.0f}   else: {dict(others.most_common(4))}"
        )
    print(f"{seconds:.0f} s, {seconds / max(len(found), 1):.2f} s a debate\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=40, help="a multiple of 20, at most 200")
    parser.add_argument("--errors", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3])
    parser.add_argument("--most-error", type=float, default=DebateConfig().most_error)
    parser.add_argument("--lead", type=float, default=DebateConfig().lead)
    parser.add_argument("--same-word", type=float, default=DebateConfig().same_word)
    parser.add_argument("--pool", type=int, default=DebateConfig().pool_read)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    features = planted_family(args.features, args.seed)
    documents = planted_family_documents(args.features, args.seed)
    vocabulary = planted_family_vocabulary(args.features, args.seed)
    config = DebateConfig(most_error=args.most_error, lead=args.lead, same_word=args.same_word, pool_read=args.pool)
    print(config, flush=True)
    subject, dictionary, tables = harvest_planted(features, vocabulary, documents)
    stored = list(tables)
    for error in args.errors:
        store = Store(":memory:")
        store.put_tables(stored)
        materialise_labels(store)
        began = time.monotonic()
        found = run_all(Run(store, model=(subject, dictionary)), features, error, config, args.seed)
        show(found, error, time.monotonic() - began)
        store.close()


if __name__ == "__main__":
    main()
