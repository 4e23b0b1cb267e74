"""A tiny run file of hand-made rows, with hostile text in every place that text can come from, and a reader of its page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa

from glossator import rows as row_types
from glossator import types
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

BREAKOUT = '</script><script>document.title="broken"</script>]]>'
IMAGE = '<img src="http://example.com/x" onerror="document.title=\'broken\'">'
PIECES = ["[PAD]", "[SEP]", "dog", "gy", "cat", BREAKOUT, IMAGE, "<!-- <script>\u2028"]
STATUSES = {0: "labelled", 1: "abstained", 2: "dead", 3: "rare", 4: "failed", 5: "labelled"}
NAME = "tiny"


# --------------------------------------------------------------------------- a run file


def feature_row(index: int, status: str) -> dict[str, Any]:
    histogram = [0] * 256
    if status != "dead":
        histogram[128], histogram[136], histogram[144] = 5, 3, 2  # 1 to 2, 2 to 4, 4 to 8
    return {
        "dictionary": NAME, "feature": index, "status": status if status in ("dead", "rare") else "waiting",
        "reason": f"because {IMAGE}" if status in ("dead", "rare") else None, "density": 0.0 if status == "dead" else 0.001 * (index + 1),
        "max_activation": 0.0 if status == "dead" else 4.0, "threshold": 2.0, "top_tokens": ["dog", "##gy", BREAKOUT, IMAGE],
        "neighbours": [5 - index], "neighbour_cosines": [0.25], "histogram": histogram,
    }  # fmt: skip


def harvested() -> dict[str, pa.Table]:
    stated = json.dumps({"model_name": f"stated {IMAGE}", "l0": 20.0})
    dictionary = {"dictionary": NAME, "architecture": "topk", "model": f"model {BREAKOUT}", "hook": "layer.1",
                  "n_features": 6, "d_in": 8, "l0": 21.5, "variance_explained": 0.9, "stated": stated, "identity": "{}"}  # fmt: skip
    corpus = {"corpus": f"corpus {IMAGE}", "documents": 3, "tokens": 96, "windows": 3}
    corpus |= {"n_explain": 1, "n_select": 1, "n_test": 1}
    tokens = [
        {"token_id": i, "piece": p, "starts_word": p != "gy", "special": i < 2, "n_explain": 1}
        for i, p in enumerate(PIECES)
    ]
    ids = [-1] * 32 + [2, 3, 5, 6, 7, 4] + [4] * 25 + [1] + [-1] * 32
    windows = [{"window_id": w, "document": 0, "split": "test", "start": 32, "ids": ids, "text": ""} for w in range(8)]
    levels = [4.0, 2.0, 0.001] + [0.0] * (types.WINDOW - 3)
    exemplars = [
        {"dictionary": NAME, "feature": f, "split": split, "stratum": stratum, "rank": rank, "window_id": rank, "max_activation": 4.0,
         "activations": levels}
        for f in (0, 1, 5) for split in ("select", "test") for stratum in ("top", "sample") for rank in range(5)
    ]  # fmt: skip
    features = [feature_row(index, status) for index, status in STATUSES.items()]
    tables = {"dictionary": [dictionary], "corpus": [corpus], "token": tokens, "text_window": windows, "exemplar": exemplars,
              "feature": features}  # fmt: skip
    return {name: pa.Table.from_pylist(rows) for name, rows in tables.items()}


def labelled(feature: int, text: str, value: float) -> list[Any]:
    """An explanation with its scores, nulls, and one experiment of each outcome."""
    me = f"explanation-{feature}"
    rows: list[Any] = [row_types.ExplanationRow(me, NAME, feature, "lexical", None, text, "{}", False, None, "r")]
    for explainer, metric, split, x in (("lexical", "simulation", "select", value), ("lexical", "simulation", "test", value),
                                        ("lexical", "adversarial", "test", -value), ("lookup-1", "simulation", "test", value / 2)):  # fmt: skip
        owner = me if explainer == "lexical" else f"{explainer}-{feature}"
        rows.append(
            row_types.ScoreRow(
                owner, NAME, feature, explainer, "rule", None, metric, split, x, x - 0.1, None, 9, None, "r"
            )
        )
    for comparison, p, low in (("permuted", 0.001, None), ("neighbour", 0.002, 0.1), ("lexical", None, 0.1)):
        rows.append(
            row_types.NullScoreRow(me, NAME, feature, "simulation", comparison, 0.01, p, p, 0.5, low, 0.9, 99, "r")
        )
    for k, (p, fires) in enumerate([(0.98, False), (0.02, True), (0.6, False), (0.55, False), (0.9, True)]):
        this = f"experiment-{feature}-{k}"
        edited = [f"edit {k} {IMAGE}"]
        rows.append(row_types.ExperimentRow(this, NAME, feature, "test:0", "test", "swap", "{}", None, edited, "r"))
        rows.append(row_types.PredictionRow(this, me, "rule", p, [1], 0.0))
        rows.append(
            row_types.MeasurementRow(this, NAME, feature, 0, "t", ["t"], [3.0], 3.0 if fires else 0.0, fires, 1.0)
        )
    return rows


def fill(store: Store) -> None:
    """The rows of a small run: two labels with evidence, an abstention, a failure."""
    store.put_tables(harvested())
    rows = labelled(0, f"dogs {BREAKOUT}", 0.75) + labelled(5, "cats\u2028and dogs", 0.5)
    rows.append(row_types.ExplanationRow("x", NAME, 1, "lexical", None, None, "{}", True, "no pattern", "r"))
    # an experiment's prediction is sealed in an earlier transaction than its outcome
    store.put_now(*(row for row in rows if not isinstance(row, row_types.MeasurementRow)))
    store.put_now(*(row for row in rows if isinstance(row, row_types.MeasurementRow)))
    store.put_now(row_types.FailureRow(NAME, 4, "explain", "ValueError", f"broke at {IMAGE}", "", "r"))
    materialise_labels(store)


def debate(number: int = 0, verdict: str | None = "A", lead: float | None = 3.5) -> list[Any]:
    """A debate about feature 0: two experiments of `labelled`, a closing word that claims too much."""
    me = f"debate-{number}"
    head = row_types.DebateRow(
        me, NAME, 0, "rule", "explanation-0", f"lexical {IMAGE}", f"dogs {BREAKOUT}", None, "b", "typed", f"cats {IMAGE}", None, verdict,
        f"A holds {IMAGE}", f"because {BREAKOUT}", lead, 2, 30, 12, 0.1, json.dumps({"both": "A"}), "simulation", 0.75, None, None, None,
        None, None, None, "r",
    )  # fmt: skip
    turns: list[Any] = []
    for k, fired in ((0, False), (1, True)):
        turns.append(row_types.DebateTurnRow(
            me, k + 1, f"experiment-0-{k}", "editor", "swap", None, f"edit {k} {IMAGE}", 0.98, 0.02, 0.98, 0.0, 0.5, fired, 1.0, 1.0, 0.25,
            -0.1, -1.1, -0.1, -2.1, -3.1, "A", 1.0, "A", f"it said {BREAKOUT}", [], "r",
        ))  # fmt: skip
    nothing: list[Any] = [None] * 18
    turns.append(row_types.DebateTurnRow(me, 3, None, None, "closing", *nothing, "B", f"I won 9 of 9 {IMAGE}", ["9", IMAGE], "r"))  # fmt: skip
    return [head, *turns]


def call(purpose: str, model: str, usd: float | None, tokens: int) -> row_types.CallRow:
    return row_types.CallRow(
        f"{purpose}-{model}-{tokens}", "s", purpose, f"{NAME}/0", None, "openai", "h", model, "{}", "yes", model, "stop", tokens, 10, 0, 0,
        usd, None, 1.0, 1.0,
    )  # fmt: skip


def step(feature: int, number: int, node: str, outcome: str, value: float | None = None) -> row_types.StepRow:
    return row_types.StepRow(NAME, feature, "cascade", number, node, outcome, value, None, "r")


class Page(HTMLParser):
    """Tags with their attributes, what stands in scripts and styles, and the other text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.text = ""
        self._raw: str | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in self.inside:
            self._raw = tag
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._raw:
            self._raw = None

    def handle_data(self, data: str) -> None:
        if self._raw:
            self.inside[self._raw][-1] += data
        else:
            self.text += data

    def block(self, identity: str) -> Any:
        """A JSON block of the page by its id."""
        scripts = [attributes.get("id") for tag, attributes in self.tags if tag == "script"]
        return json.loads(self.inside["script"][scripts.index(identity)])

    @property
    def code(self) -> str:
        return self.inside["script"][-1]

    @property
    def index(self) -> dict[str, Any]:
        found: dict[str, Any] = self.block("index")
        return found

    def texts(self, name: str) -> list[str | None]:
        """A column of few different texts, as the script reads it."""
        column = self.index[name]
        return [column["texts"][code] if code >= 0 else None for code in column["codes"]]
