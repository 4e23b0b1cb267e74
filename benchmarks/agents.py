"""Which agents are worth their tokens, and does the editor tell a right label from nearly right ones?

    .venv/bin/python benchmarks/agents.py [--features 200] [--rates 0,0.1,0.2,0.3] [--parts editor,explainers,cascade]

Planted features of ten kinds, harvested like any model; an oracle writes, reads and edits, and errs at a set rate on words,
so that its errors come together. Tokens are counted by MiniLM's WordPiece, messages and replies.

- editor: of each feature the right, a broader and a narrower label share one pool on `test`, mechanical edits and those that
  the oracle writes. AUROC over features of `adversarial`, right against each, with a bootstrap interval; and of the texts
  that it writes how many do what they should.
- explainers: the share of features whose label is the planted truth, and `detection` of the label on `test`, read without
  errors (an abstention counts as chance), beside the tokens that were spent. Differences to `oneshot` are paired. Mistakes
  are of any kind (`none`) or broad ones (`broad`).
- cascade: the cascade against the same one with no rule left standing, on the features that it escalates.

What this can't show: an oracle that knows the truth corrects itself whenever it notices a mistake; a model may not.
Operating curves of the debate are benchmarks/debate.py's.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from transformers import AutoTokenizer

from glossator import pipeline
from glossator.agents.editor.editor import Editor, Known, Probed
from glossator.agents.editor.predictors import TextPredictor
from glossator.agents.explainers.explaining import ModelExplainer
from glossator.agents.run import Run
from glossator.agents.scoring.scenes import answer, scene_of, value_of
from glossator.config import (
    BestOfConfig,
    CascadeConfig,
    ContrastiveConfig,
    EditorConfig,
    ExplainerConfig,
    LabelConfig,
    LexicalConfig,
    LLMScoreConfig,
    OneshotConfig,
    RefineConfig,
    demo_model,
    wide_editor,
)
from glossator.harness.measurer import Measurer
from glossator.harness.planted_run import harvest_planted
from glossator.llm.oracle import OracleLLM
from glossator.llm.oracle_explains import plain
from glossator.planted import PlantedFeature
from glossator.planted_family import planted_family, planted_family_documents, planted_family_vocabulary
from glossator.rows import CallRow
from glossator.scorers.adversarial import Outcome, adversarial, base_rates
from glossator.scorers.estimators import wilson
from glossator.scorers.reading import LLMPredictor
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import Request

_RESAMPLES = 2000
EXPLAINERS: dict[str, ExplainerConfig] = {
    "oneshot": OneshotConfig(),
    "oneshot, 3x windows": OneshotConfig(strongest=30, over_range=30),
    "contrastive": ContrastiveConfig(),
    "best_of:2": BestOfConfig(n=2),
    "best_of:4": BestOfConfig(n=4),
    "refine:1": RefineConfig(rounds=1),
    "refine:2": RefineConfig(rounds=2),
    "label (refine + editor), 1 round": LabelConfig(refine=RefineConfig(rounds=1)),
    "cascade, all escalated": CascadeConfig(escalate="all"),
}


LIKE = (
    ("best_of:2", "oneshot, 3x windows"),
    ("best_of:2", "refine:1"),
    ("best_of:2", "label (refine + editor), 1 round"),
    ("best_of:4", "refine:2"),
    ("best_of:4", "cascade, all escalated"),
)


class Counted(OracleLLM):
    """Remembers what was asked and said. said: feature, purpose, text."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.said: list[tuple[str, str, str]] = []

    async def fetch(self, call_id: str, request: Request) -> CallRow:
        row = await super().fetch(call_id, request)
        whole = "\n".join([*(message.text for message in request.messages), row.reply or ""])
        self.said.append((request.about or "", request.purpose, whole))
        return row


@dataclass
class Ground:
    features: tuple[PlantedFeature, ...]
    subject: Any
    dictionary: Any
    tables: list[Any]
    tokenizer: Any = field(default_factory=lambda: AutoTokenizer.from_pretrained(str(demo_model())))

    def run(self) -> Run:
        """A store of its own: explainers of one name must not meet."""
        store = Store(":memory:")
        store.put_tables(self.tables)
        materialise_labels(store)
        return Run(store, model=(self.subject, self.dictionary))

    def tokens(self, said: Sequence[tuple[str, str, str]]) -> Counter[str]:
        """By feature."""
        found: Counter[str] = Counter()
        ids = self.tokenizer([text for _, _, text in said], add_special_tokens=False, verbose=False)["input_ids"]
        for (about, _, _), one in zip(said, ids, strict=True):
            found[about] += len(one)
        return found


def ground(n: int, seed: int) -> Ground:
    features = planted_family(n, seed)
    subject, dictionary, tables = harvest_planted(
        features, planted_family_vocabulary(n, seed), planted_family_documents(n, seed)
    )
    return Ground(features, subject, dictionary, list(tables))


def between(values: np.ndarray[Any, Any], of: Any) -> str:
    """of(rows) with a 95% bootstrap interval over the rows of `values`."""
    rng = np.random.default_rng(0)
    drawn = [of(values[rng.integers(0, len(values), len(values))]) for _ in range(_RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{of(values):.3f} [{low:.3f}, {high:.3f}]"


# --------------------------------------------------------------------------- the editor


EDITORS = {
    "as it is": EditorConfig(),
    "all carriers read": EditorConfig(carriers_read=3),
    "wide": wide_editor(),
}


def editor_part(what: Ground, rate: float, seed: int, name: str) -> None:
    run, oracle = what.run(), Counted(what.features, rate, seed)
    probed = asyncio.run(_probe(run, oracle, what.features, EDITORS[name]))
    rates = base_rates(
        [Outcome(i, e.kind, 0.5, e.fires) for i, one in probed.items() for e in one.experiments if not e.weak]
    )
    found: dict[str, list[float]] = {"right": [], "broader": [], "narrower": []}
    for index, one in probed.items():
        for sort, values in found.items():
            mine = [
                Outcome(index, e.kind, e.predicted[sort], e.fires)
                for e in one.experiments
                if not e.weak and sort in e.predicted
            ]
            values.append(adversarial(mine, rates).value if mine else np.nan)
    spent = what.tokens(oracle.said)
    print(
        f"\neditor {name}, errors {rate:.0%}: {len(probed)} features, {np.median(list(spent.values())):,.0f} tokens a feature (median)"
    )
    for sort in ("broader", "narrower"):
        pairs = np.column_stack([found["right"], found[sort]])
        pairs = pairs[np.isfinite(pairs).all(1)]
        labels = np.repeat([1, 0], len(pairs))
        auc = between(pairs, lambda rows, labels=labels: roc_auc_score(labels, rows.T.ravel()))
        ahead = between(pairs, lambda rows: float((rows[:, 0] > rows[:, 1]).mean()))
        print(f"  right against {sort:<9} n {len(pairs):4d}  AUROC {auc}  right ahead in {ahead}")
    fired = Counter((e.kind, e.fires) for one in probed.values() for e in one.experiments if not e.weak)
    kinds = sorted({kind for kind, _ in fired})
    print(
        "  share that fires: "
        + ", ".join(
            f"{k} {fired[k, True] / (fired[k, True] + fired[k, False]):.2f} of {fired[k, True] + fired[k, False]}"
            for k in kinds
        )
    )


async def _probe(
    run: Run, oracle: OracleLLM, features: Sequence[PlantedFeature], config: EditorConfig
) -> dict[int, Probed]:
    found: dict[int, Probed] = {}
    reader = LLMPredictor(oracle, run.lexicon.vocabulary, config.reading)
    subject, dictionary = run.model()
    async with Measurer(subject, dictionary) as measurer:
        editor = Editor(
            run.lexicon.vocabulary, run.neighbours, measurer, run.store, config, causal=subject.causal, run_id="benchmark"
        )  # fmt: skip

        async def one(record: Any) -> None:
            feature = features[record.feature.index]
            texts = {"right": feature.description}
            texts |= {
                sort: near.description for sort, near in feature.almost.items() if sort in ("broader", "narrower")
            }
            mine = [TextPredictor(sort, text, reader, str(record.feature)) for sort, text in texts.items()]
            # the store names explanations, which these are not: predictions are kept for this feature alone
            found[record.feature.index] = await editor.probe(
                record, mine, Known(), writer=oracle, claims=list(texts.values())
            )

        await asyncio.gather(*(one(record) for record in run.records(range(len(features)))))
    return found


# --------------------------------------------------------------------------- explainers


@dataclass
class Came:
    """What came of an explainer, by feature. right: the label is the truth; reads: detection on test; tokens."""

    right: np.ndarray[Any, Any]
    reads: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]
    escalated: np.ndarray[Any, Any]


def explained(what: Ground, config: ExplainerConfig, rate: float, seed: int, bias: str) -> Came:
    run = what.run()
    if isinstance(config, CascadeConfig):
        pipeline.explain(run, LexicalConfig())
    oracle = Counted(what.features, rate, seed, bias)
    chosen = list(range(len(what.features)))
    with run.stage("benchmark", config) as run_id:
        maker = ModelExplainer(run, oracle, config, run_id, reader=oracle)
        asyncio.run(maker.explain(chosen, 64))
    texts = dict(
        run.store.sql(
            "SELECT feature, arg_max(text, rowid) FROM explanation WHERE explainer = ? GROUP BY ALL", [maker.name]
        )
    )
    spent = what.tokens(oracle.said)
    labels = {i: texts.get(i) for i in chosen}
    reads = asyncio.run(_read(run, what, labels))
    right = [
        labels[i] is not None and plain(labels[i]) == plain(f"Fires on {what.features[i].description}.") for i in chosen
    ]
    tokens = [spent.get(f"{run.dictionary}/{i}", 0) for i in chosen]
    assert sum(tokens) == sum(spent.values()), "tokens of no feature"
    escalated = [i in texts for i in chosen]
    run.store.close()
    return Came(np.asarray(right), np.asarray(reads), np.asarray(tokens), np.asarray(escalated))


async def _read(run: Run, what: Ground, labels: dict[int, str | None]) -> list[float]:
    """`detection` on `test` by a reader that does not err."""
    config = LLMScoreConfig()
    reader = LLMPredictor(OracleLLM(what.features), run.lexicon.vocabulary, config)

    async def one(record: Any) -> float:
        text, scene = labels[record.feature.index], scene_of(run, record, "detection", "test", config)
        if isinstance(scene, str):
            return float("nan")
        return 0.5 if text is None else value_of(scene, await answer(reader, scene, text, str(record.feature), 1))

    return list(await asyncio.gather(*(one(record) for record in run.records(sorted(labels)))))


def explainers_part(what: Ground, rate: float, seed: int, bias: str) -> None:
    print(f"\nexplainers, errors {rate:.0%}, mistakes {bias}: {len(what.features)} features")
    print(
        f"  {'explainer':<34}{'right [Wilson]':<24}{'detection on test':<26}{'tokens: mean, median':<24}{'right less oneshot':<28}detection less oneshot"
    )
    base, all_came = None, {}
    for name, config in EXPLAINERS.items():
        began = time.process_time()
        came = all_came[name] = explained(what, config, rate, seed, bias)
        base = base or came
        share = wilson(int(came.right.sum()), len(came.right))
        more = between(came.right * 1.0 - base.right, lambda rows: float(rows.mean()))
        better = between(came.reads - base.reads, lambda rows: float(np.nanmean(rows)))
        detected = between(came.reads, lambda rows: float(np.nanmean(rows)))
        print(
            f"  {name:<34}{f'{share.value:.3f} [{share.low:.2f}, {share.high:.2f}]':<24}{detected:<26}"
            f"{f'{came.tokens.mean():,.0f}, {np.median(came.tokens):,.0f}':<24}{more:<28}{better}   {time.process_time() - began:.0f} s",
            flush=True,
        )
    for one, other in LIKE:  # at about equal tokens
        a, b = all_came[one], all_came[other]
        print(
            f"  {one} less {other}: right {between(a.right * 1.0 - b.right, lambda rows: float(rows.mean()))}, detection "
            f"{between(a.reads - b.reads, lambda rows: float(np.nanmean(rows)))}, tokens {a.tokens.mean() - b.tokens.mean():+,.0f}"
        )


def cascade_part(what: Ground, rate: float, seed: int) -> None:
    """On the features that it escalates, and in all."""
    mine = explained(what, CascadeConfig(), rate, seed, "none")
    every = explained(what, CascadeConfig(escalate="all"), rate, seed, "none")
    kept = mine.escalated
    print(f"\ncascade, errors {rate:.0%}: {kept.sum()} of {len(kept)} features escalated")
    if kept.any():
        print(
            f"  escalated: right less all-LLM {between(mine.right[kept] * 1.0 - every.right[kept], lambda rows: float(rows.mean()))}"
        )
        print(
            f"  escalated: detection less all-LLM {between((mine.reads - every.reads)[kept], lambda rows: float(np.nanmean(rows)))}"
        )
        print(
            f"  tokens a feature that is escalated: {mine.tokens[kept].mean():,.0f} (mean), {np.percentile(mine.tokens[kept], 95):,.0f} (95%)"
        )
    print(
        f"  tokens: {mine.tokens.sum():,} against {every.tokens.sum():,}: {1 - mine.tokens.sum() / every.tokens.sum():.1%} saved"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=200, help="a multiple of 20, at most 200")
    parser.add_argument("--rates", default="0,0.1,0.2,0.3")
    parser.add_argument("--parts", default="editor,explainers,cascade")
    parser.add_argument("--bias", default="none,broad")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.process_time()
    what, parts = ground(args.features, args.seed), args.parts.split(",")
    for rate in (float(text) for text in args.rates.split(",")):
        if "editor" in parts:
            for name in EDITORS:
                editor_part(what, rate, args.seed, name)
        if "explainers" in parts:
            for bias in args.bias.split(","):
                explainers_part(what, rate, args.seed, bias)
        if "cascade" in parts:
            cascade_part(what, rate, args.seed)
    print(f"\n{time.process_time() - began:.0f} s CPU")


if __name__ == "__main__":
    main()
