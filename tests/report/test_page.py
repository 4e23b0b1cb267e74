"""The report's page: hostile text is inert, nothing is loaded, the data say what the run file holds."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glossator import types
from glossator.agents.run import Run
from glossator.errors import UsageError
from glossator.report import cards, values, write_report
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from tests.report.tiny import BREAKOUT, IMAGE, STATUSES, Page, harvested


def test_hostile_text_is_inert(full_page: Path) -> None:
    seen = Page(full_page)
    scripts = [attributes for tag, attributes in seen.tags if tag == "script"]
    blocks = [{"type": "application/json", "id": name} for name in ("index", "evidence-0", "transcripts")]
    assert scripts == [*blocks, {}]
    assert "JSON.parse" in seen.code
    assert not {tag for tag, _ in seen.tags} & {"img", "iframe", "object", "embed", "link", "base"}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    for text in (f"model {BREAKOUT}", f"corpus {IMAGE}", f"broke at {IMAGE}", f"dogs {BREAKOUT}", f"abstained {IMAGE}"):
        assert text in seen.text  # shown as they are, as text
    for block in seen.inside["script"][:-1]:
        assert not set("<>&\u2028\u2029") & set(block)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|DOMParser", seen.code)


def test_hostile_names_are_inert(hostile: Run, tmp_path: Path) -> None:
    write_report(hostile, tmp_path / "x.html")
    seen = Page(tmp_path / "x.html")
    assert sum(tag == "script" for tag, _ in seen.tags) == 4
    assert not {tag for tag, _ in seen.tags} & {"img", "iframe", "object", "embed", "link", "base"}
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert seen.text.count(IMAGE) > 8 and f"predicted by llm:{BREAKOUT}" in seen.text
    assert seen.index["metrics"] == ["simulation", IMAGE]


@given(st.text() | st.sampled_from([BREAKOUT, IMAGE, "]]>", "<!--<script>", "\u2028\u2029", "\ud800"]))
def test_any_text_survives_its_json_block_and_cannot_leave_it(text: str) -> None:
    import json

    block = values.json_block({text: [text, 1.5, None]})
    assert not set("<>&\u2028\u2029") & set(block)
    kept = text.encode("utf-8", "replace").decode()
    assert json.loads(block) == {kept: [kept, 1.5, None]}


def test_nothing_is_loaded_from_elsewhere(full_page: Path) -> None:
    seen = Page(full_page)
    for tag, attributes in seen.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), f"<{tag} {name}={value}>"
        assert "style" not in attributes, "the policy would not let it apply"
    assert not re.search(r"url\(|@import", "".join(seen.inside["style"]))
    assert not re.search(r"fetch|XMLHttpRequest|import\(|\.src\b", seen.code)
    policy = next(
        a["content"] for tag, a in seen.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy and policy.startswith("default-src 'none'; style-src 'sha256-") and "script-src 'sha256-" in policy
    assert "unsafe" not in policy and "http" not in policy


def test_the_data_hold_every_feature_with_its_status_and_evidence(page: Path) -> None:
    seen = Page(page)
    index, block = seen.index, seen.block("evidence-0")
    assert index["feature"] == list(STATUSES)
    assert seen.texts("status") == list(STATUSES.values())
    assert seen.texts("explainer") == ["lexical", "lexical", None, None, None, "lexical"]
    assert index["label"][0] == f"dogs {BREAKOUT}" and index["label"][5] == "cats\u2028and dogs"
    assert index["trusted"] == [True, None, None, None, None, True]
    assert IMAGE in index["reason"][4] and index["reason"][1] == "no pattern"
    assert index["metrics"] == ["simulation", "adversarial"]
    assert index["values"] == [[0.75, None, None, None, None, 0.5], [-0.75, None, None, None, None, -0.5]]
    assert {len(column) for column in (index["label"], index["density"], block["card"], block["exemplars"])} == {6}
    assert block["card"][0][3] == [[0, 0.65, None, 9], [1, -0.85, None, 9]]  # metric, low, high, n
    assert block["card"][2][3] == []
    assert block["baselines"][0] == [["lookup-1", 0.375, 0.275, None, 9]]
    assert [row[1] for row in block["nulls"][0]] == ["permuted", "neighbour", "lexical"]
    assert block["tested"][0] == [[4, 5]] and block["tested"][2] == []
    assert [row[2:4] for row in block["counterexamples"][0]] == [[0.98, False], [0.02, True], [0.6, False]]


def test_features_beyond_a_block_have_evidence_of_their_own(run: Run, tmp_path: Path) -> None:
    run.store.execute(
        "INSERT INTO feature SELECT feature.* REPLACE (i AS feature, 'waiting' AS status) FROM feature, range(6, 300) r(i) WHERE feature = 0"
    )
    run.store.execute(
        "INSERT INTO exemplar SELECT * REPLACE (299 AS feature) FROM exemplar WHERE feature = 0 AND stratum = 'top'"
    )
    materialise_labels(run.store)
    assert write_report(run, tmp_path / "more.html") == 300
    seen = Page(tmp_path / "more.html")
    assert [len(seen.block(f"evidence-{k}")["card"]) for k in (0, 1)] == [256, 44]
    block = seen.block("evidence-1")
    assert [row[0] for row in block["exemplars"][-1]] == [1, 1, 1] and len(block["windows"]) == 3


def test_an_experiment_that_was_stored_twice_counts_once(run: Run, page: Path) -> None:
    before = Page(page).block("evidence-0")
    for table in ("experiment", "prediction"):
        run.store.execute(f"INSERT INTO {table} FROM {table}")
    write_report(run, page)
    after = Page(page).block("evidence-0")
    assert all(after[name] == before[name] for name in ("tested", "counterexamples"))


def test_windows_are_three_of_each_stratum_without_special_tokens(page: Path) -> None:
    seen = Page(page)
    block = seen.block("evidence-0")
    mine = block["exemplars"][0]
    assert [top for top, _, _ in mine] == [1] * 3 + [0] * 3
    _, window, levels = mine[0]
    pieces = [seen.index["pieces"][piece] for piece in block["windows"][window]]
    assert len(pieces) == types.WINDOW - 1  # the last one is special
    assert "".join(pieces[:3]) == f" doggy {BREAKOUT}"
    assert levels == "0a1521"  # token and level: 10, 5, at least 1 where active; silent tokens have none
    assert block["exemplars"][2] == []


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
        first, step, bars = cards._bars(counts.tolist(), float(threshold))
        assert sum(bars) == counts.sum() and len(bars) <= 33
        starts = 2.0 ** ((first + step * np.arange(len(bars))) / 8 - 16)  # as the page's script places them
        assert np.isclose(starts, threshold).any()
        assert (
            sum(b for b, s in zip(bars, starts, strict=True) if s >= threshold * 0.999)
            == counts[edges >= threshold].sum()
        )
    assert cards._bars([0] * BINS, 0.0)[2] == []


def test_the_summary_says_what_was_measured(page: Path) -> None:
    seen = Page(page)
    assert "21.5 (stated: 20.0)" in seen.text and "0.900 (none stated)" in seen.text
    assert sum(tag == "figure" for tag, _ in seen.tags) == 4  # two metrics, density, kinds of edits
    for status in STATUSES.values():
        assert status in seen.text
    assert "The score is the rule's" in seen.text
    assert "a model that read only the label" not in seen.text  # no such predictor here


def test_a_harvest_without_labels_is_reported_as_not_measured(tmp_path: Path) -> None:
    with Store(tmp_path / "fresh.duckdb") as store:
        store.put_tables(harvested())
        store.execute(
            "UPDATE feature SET density = NULL, max_activation = NULL, threshold = NULL, top_tokens = NULL, neighbours = NULL"
        )
        store.execute("UPDATE dictionary SET l0 = NULL, variance_explained = NULL, stated = NULL")
        materialise_labels(store)
        write_report(Run(store), tmp_path / "fresh.html")
    seen = Page(tmp_path / "fresh.html")
    assert seen.index["label"] == [None] * len(STATUSES)
    assert seen.index["density"] == [None] * len(STATUSES) and seen.index["metrics"] == []
    assert not [tag for tag, _ in seen.tags if tag == "figure"]
    assert "No score on test: not measured" in seen.text
    assert re.search(r"trusted\s*not measured", seen.text) and re.search(r"contradicted\s*not measured", seen.text)
    assert re.search(r"L0\s*not measured \(none stated\)", seen.text)
    for absent in ("Best and worst", "Debates", "Cascade", "Cost by purpose"):
        assert absent not in seen.text


def test_what_cannot_be_written_is_a_usage_error_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        write_report(run, tmp_path / "missing" / "report.html")
    with pytest.raises(UsageError, match="is a folder"):
        write_report(run, tmp_path)
    run.store.execute("DELETE FROM label")
    with pytest.raises(UsageError, match="no labels"):
        write_report(run, tmp_path / "report.html")
    assert not [path for path in tmp_path.iterdir() if ".html" in path.name or ".tmp" in path.name]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (values.figure(None), "not measured"),
        (values.figure(float("nan")), "not measured"),
        (values.figure(-0.0001), "0.000"),
        (values.figure(-0.5), "−0.500"),
        (values.interval(0.1, None), "not measured"),
        (values.percent(None), "not measured"),
        (values.share(0.00041), "0.041%"),
        (values.count(0), "0"),
        (values.count(None), "not measured"),
        (values.dollars(None), "no price known"),
        (values.dollars(0.0), "$0.00"),
        (values.dollars(0.00123), "$0.0012"),
        (values.dollars(1234.5), "$1,234.50"),
    ],
)
def test_values_are_written_for_people(written: str, said: str) -> None:
    assert written == said
