"""The HTML report, made from a tiny run file of hand-made rows with hostile text in every place that text can come from.

What a browser does with the page is tested in a headless Chromium over the WebDriver protocol, which is JSON over HTTP,
so it needs no package; where there is no Chromium, those tests say so and are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from glossator import report, types
from glossator import rows as row_types
from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.report import write_report
from glossator.store.labels import materialise_labels
from glossator.store.store import Store

BREAKOUT = '</script><script>document.title="broken"</script>'
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


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Store(tmp_path / "tiny.duckdb") as store:
        store.put_tables(harvested())
        rows = labelled(0, f"dogs {BREAKOUT}", 0.75) + labelled(5, "cats\u2028and dogs", 0.5)
        rows.append(row_types.ExplanationRow("x", NAME, 1, "lexical", None, None, "{}", True, "no pattern", "r"))
        # an experiment's prediction is sealed in an earlier transaction than its outcome
        store.put_now(*(row for row in rows if not isinstance(row, row_types.MeasurementRow)))
        store.put_now(*(row for row in rows if isinstance(row, row_types.MeasurementRow)))
        store.put_now(row_types.FailureRow(NAME, 4, "explain", "ValueError", f"broke at {IMAGE}", "", "r"))
        materialise_labels(store)
        yield Run(store)


@pytest.fixture
def page(run: Run, tmp_path: Path) -> Path:
    to = tmp_path / "report.html"
    assert write_report(run, to) == len(STATUSES)
    return to


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

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.inside["script"][0])
        return found


# --------------------------------------------------------------------------- the page


def test_hostile_text_is_inert(page: Path) -> None:
    seen = Page(page)
    scripts = [attributes for tag, attributes in seen.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {}]
    assert "JSON.parse" in seen.inside["script"][1]
    assert not {tag for tag, _ in seen.tags} & {"img", "iframe", "object", "embed", "link", "base"}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert f"model {BREAKOUT}" in seen.text and f"corpus {IMAGE}" in seen.text  # shown as they are, as text
    assert not set("<>&\u2028\u2029") & set(seen.inside["script"][0])
    assert "innerHTML" not in seen.inside["script"][1] and "insertAdjacent" not in seen.inside["script"][1]


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    seen = Page(page)
    for tag, attributes in seen.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), f"<{tag} {name}={value}>"
    assert not re.search(r"url\(|@import", "".join(seen.inside["style"]))
    assert not re.search(r"fetch|XMLHttpRequest|import\(|\.src\b", seen.inside["script"][1])
    policy = next(
        a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_the_data_hold_every_feature_with_its_status_and_evidence(page: Path) -> None:
    data = Page(page).data
    columns = data["columns"]
    assert columns["feature"] == list(STATUSES)
    assert columns["status"] == list(STATUSES.values())
    assert {len(column) for column in columns.values()} == {len(STATUSES)}
    assert columns["label"][0] == f"dogs {BREAKOUT}" and columns["label"][5] == "cats\u2028and dogs"
    assert columns["trusted"] == [True, None, None, None, None, True]
    assert IMAGE in columns["reason"][4] and columns["reason"][1] == "no pattern"
    assert data["metrics"] == ["simulation", "adversarial"]
    assert columns["scores"][0] == [[0.75, 0.65, None, 9], [-0.75, -0.85, None, 9]]
    assert columns["baselines"][0] == [["lookup-1", 0.375, 0.275, None, 9]]
    assert [row[0] for row in columns["nulls"][0]] == ["permuted", "neighbour", "lexical"]
    assert columns["tested"][0] == [4, 5] and columns["tested"][2] == [0, 0]
    assert [row[2:4] for row in columns["counterexamples"][0]] == [[0.98, False], [0.02, True], [0.6, False]]


def test_an_experiment_that_was_stored_twice_counts_once(run: Run, page: Path) -> None:
    before = Page(page).data["columns"]
    for table in ("experiment", "prediction"):
        run.store.execute(f"INSERT INTO {table} FROM {table}")
    write_report(run, page)
    after = Page(page).data["columns"]
    assert all(after[name] == before[name] for name in ("tested", "counterexamples"))


def test_windows_are_three_of_each_stratum_without_special_tokens(page: Path) -> None:
    data = Page(page).data
    mine = data["columns"]["exemplars"][0]
    assert [stratum for stratum, _, _ in mine] == ["top"] * 3 + ["sample"] * 3
    _, window, levels = mine[0]
    pieces = [data["pieces"][piece] for piece in data["windows"][window]]
    assert len(pieces) == len(levels) == types.WINDOW - 1  # the last one is special
    assert "".join(pieces[:3]) == f" doggy {BREAKOUT}"
    assert levels.startswith("a510")  # 10, 5, at least 1 where active, 0
    assert data["columns"]["exemplars"][2] == []


def test_bars_agree_with_the_bins_of_the_harvest_and_never_cross_the_threshold() -> None:
    from glossator.harness.statistics import BINS, bin_edges

    edges = bin_edges()
    rng = np.random.default_rng(0)
    for _ in range(200):
        low, high = sorted(rng.integers(0, BINS, 2).tolist())
        counts = np.zeros(BINS, int)
        counts[low : high + 1] = rng.integers(0, 9, high - low + 1)
        counts[[low, high]] += 1
        threshold = edges[rng.integers(low, high + 1)]
        first, step, bars = report._bars(counts.tolist(), float(threshold))
        assert sum(bars) == counts.sum() and len(bars) <= 33
        starts = 2.0 ** ((first + step * np.arange(len(bars))) / 8 - 16)  # as the page's script places them
        assert np.isclose(starts, threshold).any()
        assert (
            sum(b for b, s in zip(bars, starts, strict=True) if s >= threshold * 0.999)
            == counts[edges >= threshold].sum()
        )
    assert report._bars([0] * BINS, 0.0)[2] == []


def test_the_summary_says_what_was_measured(page: Path) -> None:
    seen = Page(page)
    assert "21.5 (stated: 20.0)" in seen.text and "0.900 (none stated)" in seen.text
    assert sum(tag == "figure" for tag, _ in seen.tags) == 2
    for status in STATUSES.values():
        assert status in seen.text
    assert "The score is the rule's" in seen.text
    assert "a model that read only the label" not in seen.text  # no such predictor here


def test_a_harvest_without_labels_can_be_reported(tmp_path: Path) -> None:
    with Store(tmp_path / "fresh.duckdb") as store:
        store.put_tables(harvested())
        materialise_labels(store)
        write_report(Run(store), tmp_path / "fresh.html")
    seen = Page(tmp_path / "fresh.html")
    assert seen.data["columns"]["label"] == [None] * len(STATUSES)
    assert not [tag for tag, _ in seen.tags if tag == "figure"]


def test_what_cannot_be_written_is_a_usage_error_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        write_report(run, tmp_path / "missing" / "report.html")
    with pytest.raises(UsageError, match="is a folder"):
        write_report(run, tmp_path)
    run.store.execute("DELETE FROM label")
    with pytest.raises(UsageError, match="no labels"):
        write_report(run, tmp_path / "report.html")
    assert not [path for path in tmp_path.iterdir() if ".html" in path.name or ".tmp" in path.name]


# --------------------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")


class Browser:
    """A headless Chromium, driven over WebDriver."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/session"
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu"]
        options = {"binary": CHROMIUM, "args": arguments}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._url += "/" + self._post("", wanted)["sessionId"]

    def _post(self, path: str, body: dict[str, Any], method: str = "POST") -> Any:
        sent, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, sent, kind, method=method)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, path: Path) -> None:
        size = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self._post("/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size})
        self._post("/url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        return self._post("/execute/sync", {"script": script, "args": []})

    def _do(self, css: str, what: str, **how: str) -> None:
        found = self._post("/element", {"using": "css selector", "value": css})
        self._post(f"/element/{next(iter(found.values()))}/{what}", how)

    def click(self, css: str) -> None:
        self._do(css, "click")

    def write(self, css: str, text: str) -> None:
        self._do(css, "value", text=text)

    def cards(self, expected: list[str]) -> None:
        """Wait until these cards are shown, in this order."""
        shown, until = None, time.monotonic() + 5
        while shown != expected and time.monotonic() < until:
            shown = self.run("return [...document.querySelectorAll('#cards article')].map(card => card.id)")
        assert shown == expected

    def close(self) -> None:
        self._post("", {}, "DELETE")


@pytest.fixture
def browser() -> Iterator[Browser]:
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("needs chromium and chromedriver on the path")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([CHROMEDRIVER, f"--port={port}", "--silent"], stdout=subprocess.DEVNULL) as driver:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            window = Browser(port)
            yield window
            window.close()
        finally:
            driver.terminate()


def test_search_filter_sort_and_links_work_in_a_browser(browser: Browser, page: Path) -> None:
    every = [f"f{index}" for index in STATUSES]
    browser.open(page)
    browser.cards(every)
    assert browser.run("return document.title") == "Glossator report: tiny"  # no hostile script ran
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.run("return innerWidth === 400 && document.documentElement.scrollWidth <= 400")
    text = browser.run("return document.querySelector('#f0').textContent")
    assert f"dogs {BREAKOUT}" in text and IMAGE in text and "doggy" in text and "Counterexamples: 4 of 5" in text
    tokens = "document.querySelector('#f0 .text').querySelectorAll('span')"
    assert browser.run(f"return [...{tokens}].map(token => token.className)") == ["a10", "a5", "a1"]

    browser.write("[name=search]", "CATS dogs")
    browser.cards(["f5"])
    browser.click("#f5 .near a")  # to feature 0, which the search hides
    browser.cards(every)
    assert browser.run("return document.activeElement.id") == "f0"
    browser.write("[name=search]", "#3")
    browser.cards(["f3"])
    browser.click("#clear")
    browser.cards(every)
    browser.write("[name=status]", "dead")
    browser.cards(["f2"])
    browser.click("#clear")
    browser.write("[name=trusted]", "trusted")
    browser.write("[name=sort]", "simulation, low")
    browser.cards(["f5", "f0"])
    browser.write("[name=search]", "nothing like it")
    browser.cards([])
    assert "No feature matches" in browser.run("return document.querySelector('#cards').textContent")


def test_many_features_come_in_pages(browser: Browser, run: Run, tmp_path: Path) -> None:
    more = [feature_row(index, "waiting") for index in range(6, 120)]
    run.store.put_tables({"feature": pa.Table.from_pylist(more)})
    materialise_labels(run.store)
    assert write_report(run, tmp_path / "many.html") == 120
    browser.open(tmp_path / "many.html")
    browser.cards([f"f{index}" for index in range(50)])
    browser.click(".pager button:last-of-type")
    browser.cards([f"f{index}" for index in range(50, 100)])
    browser.run("location.hash = '#f117'")
    browser.cards([f"f{index}" for index in range(100, 120)])
    assert browser.run("return document.querySelector('.pager button:last-of-type').disabled")
    assert browser.run("return document.activeElement.id") == "f117"


def test_poles_have_their_signs_and_are_found_by_them(browser: Browser, run: Run, tmp_path: Path) -> None:
    run.store.execute("UPDATE dictionary SET signed = true, n_features = 6")
    write_report(run, tmp_path / "signed.html")
    assert Page(tmp_path / "signed.html").data["columns"]["name"] == ["0+", "1+", "2+", "0-", "1-", "2-"]
    browser.open(tmp_path / "signed.html")
    browser.write("[name=search]", "0-")
    browser.cards(["f3"])
    assert browser.run("return document.querySelector('#f3 h3').textContent") == "Feature 0-"
    browser.click("#clear")
    browser.write("[name=search]", "2")
    browser.cards(["f2", "f5"])


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")
def test_a_browser_draws_the_cards_without_a_network(page: Path, tmp_path: Path) -> None:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    ran = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout.count('<article class="card"') == len(STATUSES)
    assert "<title>Glossator report: tiny</title>" in ran.stdout
