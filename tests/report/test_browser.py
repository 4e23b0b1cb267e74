"""The page in a headless Chromium: search, filters, cards, transcripts, and proof that no hostile text ran."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from glossator.agents.run import Run
from glossator.report import write_report
from glossator.store.labels import materialise_labels
from tests.chromium import Browser, chromium, needs_chromium
from tests.report.tiny import BREAKOUT, IMAGE, STATUSES, Page, feature_row

pytestmark = needs_chromium
EVERY = [f"f{index}" for index in STATUSES]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as window:
        yield window


def nothing_ran(browser: Browser) -> None:
    assert browser.run("return document.title") == "Glossator report: tiny"
    assert browser.run("return document.querySelectorAll('img').length") == 0
    assert browser.run("return document.scripts.length") in (3, 4)  # ours alone
    assert browser.run("return performance.getEntriesByType('resource').length") == 0
    assert browser.complaints() == []  # no error of the script, and nothing that the policy had to refuse


def test_what_is_refused_and_what_breaks_would_be_noticed(browser: Browser, tmp_path: Path) -> None:
    policy = "default-src 'none'; script-src 'unsafe-inline'"
    (tmp_path / "bad.html").write_text(
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><img src="x.png"><script>none()</script>'
    )
    browser.open(tmp_path / "bad.html")
    said = " ".join(browser.complaints())
    assert "Content Security Policy" in said and "none is not defined" in said


def test_search_filter_sort_and_links_work(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.cards(EVERY)
    assert browser.run("return innerWidth === 400 && document.documentElement.scrollWidth <= 400")
    browser.write("[name=search]", "CATS dogs")
    browser.cards(["f5"])
    browser.click("#f5 header")
    browser.click("#f5 .near a")  # to feature 0, which the search hides
    browser.cards(EVERY)
    assert browser.run("return document.activeElement.id") == "f0"
    assert browser.run("return document.querySelector('#f0').classList.contains('open')")
    browser.write("[name=search]", "#3")
    browser.cards(["f3"])
    browser.click("#clear")
    browser.cards(EVERY)
    browser.write("[name=status]", "dead")
    browser.cards(["f2"])
    browser.click("#clear")
    browser.write("[name=explainer]", "lexical")
    browser.cards(["f0", "f1", "f5"])
    browser.write("[name=trusted]", "trusted")
    browser.write("[name=sort]", "simulation, low")
    browser.cards(["f5", "f0"])
    browser.write("[name=search]", "nothing like it")
    browser.cards([])
    assert "No feature matches" in browser.run("return document.querySelector('#cards').textContent")
    nothing_ran(browser)


def test_ranges_of_density_and_score_leave_out_what_was_not_measured(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.write("[name=density_from]", "0.002")
    browser.write("[name=density_to]", "0.004")
    browser.cards(["f1", "f3"])
    browser.click("#clear")
    browser.write("[name=score_from]", "-1")
    browser.cards(["f0", "f5"])
    browser.write("[name=metric]", "adversarial")
    browser.write("[name=score_to]", "-0.6")
    browser.cards(["f0"])


def test_a_card_shows_its_evidence_and_closes_again(browser: Browser, full_page: Path) -> None:
    browser.open(full_page, 1280)
    assert browser.run("return document.querySelectorAll('.inside').length") == 0  # drawn when it is opened
    browser.click("#f0 h3 button")
    text = browser.run("return document.querySelector('#f0').textContent")
    for part in (f"dogs {BREAKOUT}", IMAGE, "doggy", "Counterexamples: 4 of 5", f"hounds {BREAKOUT}", "detection 0.63 by llm:small", "Logits that it raises most", "−3.50"):  # fmt: skip
        assert part in text
    tokens = "document.querySelector('#f0 .text').querySelectorAll('span')"
    assert browser.run(f"return [...{tokens}].map(token => token.className)") == ["a10", "a5", "a1"]
    assert browser.run("return document.querySelectorAll('#f0 .hist rect').length") > 3
    assert browser.run("return document.querySelector('#f0 button').getAttribute('aria-expanded')") == "true"
    browser.click("#f2 header")
    text = browser.run("return document.querySelector('#f2').textContent")
    assert "not measured" in text and "No active window in test" in text
    browser.click("#f0 header")
    assert browser.run("return document.querySelectorAll('.inside').length") == 1
    browser.click("[name=opened]")
    browser.wait("return document.querySelectorAll('#cards .inside').length", len(STATUSES))
    nothing_ran(browser)


def test_hostile_names_do_not_run(browser: Browser, hostile: Run, tmp_path: Path) -> None:
    write_report(hostile, tmp_path / "x.html")
    browser.open(tmp_path / "x.html", 1280)
    browser.click("[name=opened]")
    browser.wait("return document.querySelectorAll('#cards .inside').length", len(STATUSES))
    browser.click("#d0 header")
    assert IMAGE in browser.run("return document.querySelector('#d0').textContent")
    assert "simulation over mismatched labels" in browser.run("return document.querySelector('#f0').textContent")
    browser.write("[name=sort]", "simulation, high")
    browser.cards(["f0", "f5", "f1", "f2", "f3", "f4"])
    nothing_ran(browser)


def test_a_transcript_is_read_from_its_list_and_from_a_card(browser: Browser, full_page: Path) -> None:
    browser.open(full_page, 1280)
    browser.click("#d0 header")
    text = browser.run("return document.querySelector('#d0').textContent")
    for part in (f"dogs {BREAKOUT}", f"cats {IMAGE}", "A 98% erred", "B 2% foresaw", "silent", "A leads by 1.0 nats", f"it said {BREAKOUT}",
                 f"[not borne out: 9, {IMAGE}]", "A or B is the same as A", f"A holds {IMAGE}", "On the split test: not measured"):  # fmt: skip
        assert part in text
    widths = browser.run(
        "return [...document.querySelectorAll('#d0 .chances')[0].children].map(part => part.offsetWidth)"
    )
    assert len(widths) == 4 and widths[0] > 2 * widths[1] > 0  # the policy lets them be as wide as the chances
    browser.click("#d0 header")
    assert browser.run("return document.querySelectorAll('#d0 .inside').length") == 0
    browser.click("#f0 header")
    browser.click("#f0 a[href='#d0']")
    browser.wait("return document.querySelectorAll('#d0 .inside').length", 1)
    assert browser.run("return document.activeElement.id") == "d0"
    nothing_ran(browser)


def test_many_features_come_in_pages(browser: Browser, run: Run, tmp_path: Path) -> None:
    more = [feature_row(index, "waiting") for index in range(6, 320)]
    run.store.put_tables({"feature": pa.Table.from_pylist(more)})
    materialise_labels(run.store)
    assert write_report(run, tmp_path / "many.html") == 320
    browser.open(tmp_path / "many.html")
    browser.cards([f"f{index}" for index in range(50)])
    browser.click(".pager button:last-of-type")
    browser.cards([f"f{index}" for index in range(50, 100)])
    browser.run("location.hash = '#f317'")
    browser.cards([f"f{index}" for index in range(300, 320)])
    assert browser.run("return document.querySelector('.pager button:last-of-type').disabled")
    assert browser.run("return document.activeElement.id") == "f317"
    assert "doggy" not in browser.run(
        "return document.querySelector('#f317').textContent"
    )  # the evidence of its own block
    assert "active on 31.8% of tokens" in browser.run("return document.querySelector('#f317').textContent")


def test_poles_have_their_signs_and_are_found_by_them(browser: Browser, run: Run, tmp_path: Path) -> None:
    run.store.execute("UPDATE dictionary SET signed = true, n_features = 6")
    write_report(Run(run.store), tmp_path / "signed.html")
    assert Page(tmp_path / "signed.html").index["names"] == ["0+", "1+", "2+", "0-", "1-", "2-"]
    browser.open(tmp_path / "signed.html")
    browser.write("[name=search]", "0-")
    browser.cards(["f3"])
    assert browser.run("return document.querySelector('#f3 h3').textContent") == "Feature 0-"
    browser.click("#clear")
    browser.write("[name=search]", "2")
    browser.cards(["f2", "f5"])
