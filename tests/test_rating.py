"""`glossator rate` as a rater meets it: keys, screens, stops, what reaches the terminal; piped, and in a pseudo-terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import subprocess
import termios
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from glossator.agents.others.rated import summarise
from glossator.agents.others.ratings import sitting
from glossator.agents.run import Run
from glossator.config import HarvestConfig
from glossator.errors import UsageError
from glossator.harness.contexts import Corpus
from glossator.harness.harvest import Harvest
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.rating import keys_of, outcome, rate, rater_name
from glossator.rows import ExplanationRow, ScoreRow
from glossator.store.labels import materialise_labels
from glossator.store.store import Store
from glossator.types import Vocabulary, visible
from tests.agents.planted_run import planted_run
from tests.mini import GLOSSATOR
from tests.test_label_llm import path  # noqa: F401  a fixture: a harvested run file
from tests.test_shown import told

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r\n\ud800 [bold]:smile:"


@pytest.fixture
def run(
    planted_subject: PlantedSubject, planted_dictionary: PlantedDictionary, planted_corpus: Corpus, planted_harvest: Harvest,
    planted_config: HarvestConfig,
) -> Iterator[Run]:  # fmt: skip
    made = planted_run(planted_subject, planted_dictionary, planted_corpus, planted_harvest, planted_config)
    labelled(made.store)
    yield made
    made.store.close()


def labelled(store: Store, explainer: str = "typed-by-hand", text: str = "some words") -> None:
    store.put_now(
        *(
            ExplanationRow(f"{explainer}-{i}", "planted", i, explainer, "a-model", f"{text} {chr(97 + i)}", None, False, None, "")
            for i in range(12)
        ),
        *(
            ScoreRow(f"{explainer}-{i}", "planted", i, explainer, "llm:reader", None, "simulation", "test", 0.0707 * i, None, None, 9, None, "")
            for i in range(12)
        ),
    )  # fmt: skip
    materialise_labels(store)


class Sat:
    """One sitting with given keys, on a console of so many columns, and a clock of which each look takes a second."""

    def __init__(
        self, run: Run, keys: Iterable[str], n: int = 12, *, against: str | None = None, width: int = 80, plain: bool = False, colour: bool = False
    ) -> None:  # fmt: skip
        left, ticks = iter(keys), iter(range(1000, 9999))
        file = io.StringIO()
        console = Console(
            file=file, width=width, markup=False, emoji=False, highlight=False,
            force_terminal=colour, color_system="truecolor" if colour else None,
        )  # fmt: skip
        self.asked = sitting(run, "ada", n, 0, against)
        self.finished = rate(run, self.asked, lambda: next(left, None), console, plain=plain, clock=lambda: next(ticks))
        self.text = file.getvalue()


def rows(store: Store) -> list[tuple[object, ...]]:
    return store.sql("SELECT explanation_id, rival_id, judgement, rater, seconds FROM rating ORDER BY rated_at")


# ------------------------------------------------------------------ keys


def test_each_key_is_stored_as_its_word(run: Run) -> None:
    sat = Sat(run, "12345", 5)
    assert sat.finished and "5 rated by ada, none left" in sat.text
    words = ("wrong", "poor", "half", "good", "right")
    assert rows(run.store) == [
        (shown.labels[0][0], None, word, "ada", 1.0) for shown, word in zip(sat.asked.left, words, strict=True)
    ]


def test_keys_of_pairs_are_stored_with_the_label_that_was_shown_first_in_front(run: Run) -> None:
    labelled(run.store, "imported:theirs", "their words")
    sat = Sat(run, "Ab=n", 4, against="imported:theirs")
    words = ("a better", "b better", "both alike", "neither")
    assert rows(run.store) == [
        (shown.labels[0][0], shown.labels[1][0], word, "ada", 1.0)
        for shown, word in zip(sat.asked.left, words, strict=True)
    ]
    assert re.findall(r"^ A (\w+)", sat.text, re.MULTILINE) == [
        "some" if shown.labels[0][0].startswith("typed") else "their" for shown in sat.asked.left
    ]


def test_a_skipped_label_is_noted_and_the_next_is_shown(run: Run) -> None:
    sat = Sat(run, "s4", 2)
    assert sat.finished and [row[2] for row in rows(run.store)] == ["skipped", "good"]
    assert Sat(run, "", 2).asked.left == ()


def test_undo_takes_back_one_judgement_after_another_and_asks_again(run: Run) -> None:
    sat = Sat(run, "123uu45q", 6)
    assert [row[2] for row in rows(run.store)] == ["wrong", "good", "right"]
    assert [row[0] for row in rows(run.store)] == [shown.labels[0][0] for shown in sat.asked.left[:3]]
    assert sat.text.count("taken back; rate it anew") == 2
    assert re.findall(r"(\d) of 6", sat.text) == list("12343234")


def test_there_is_nothing_to_take_back_at_first(run: Run) -> None:
    sat = Sat(run, "u3", 1)
    assert "there is nothing to take back yet" in sat.text and [row[2] for row in rows(run.store)] == ["half"]


@pytest.mark.parametrize("keys", ["12q", "12"], ids=["q", "end of input"])
def test_a_stop_keeps_what_was_rated_and_the_same_command_goes_on(run: Run, keys: str) -> None:
    sat = Sat(run, keys, 5)
    assert not sat.finished and "2 rated by ada, 3 left: run the same command again to go on" in sat.text
    on = Sat(run, "345", 5)
    assert on.finished and "3 of 5" in on.text and "1 of 5" not in on.text and "2 of them rated before" in on.text
    assert len({row[0] for row in rows(run.store)}) == 5
    done = Sat(run, "5", 5)
    assert done.finished and done.text == "ada has rated all 5 labels of this sample; a larger --n has more\n"


def test_a_key_that_means_nothing_is_told_and_nothing_is_stored(run: Run) -> None:
    sat = Sat(run, ["9", "", "45", "\x1b[A", "a", "2"], 1)
    assert [row[2] for row in rows(run.store)] == ["poor"]
    assert sat.text.count("is none of 1, 2, 3, 4, 5, s, q") == 5 and "\x1b" not in sat.text


def test_a_judgement_is_on_disk_before_the_next_key_is_asked_for(run: Run) -> None:
    seen = []

    def keys() -> Iterator[str]:
        for _ in range(3):
            seen.append(len(rows(run.store)))
            yield "4"

    Sat(run, keys(), 3)
    assert seen == [0, 1, 2]


# ------------------------------------------------------------------ what is seen


@pytest.mark.parametrize("against", [None, "imported:theirs"])
def test_the_screen_is_blind(run: Run, against: str | None) -> None:
    """No explainer, model, score or index; the labels, and nothing else that differs from one explainer to another."""
    labelled(run.store, "imported:theirs", "their words")
    text = Sat(run, "s" * 12, against=against).text
    assert "some words" in text
    told_by = ("typed", "hand", "imported", "theirs", "model", "reader", "llm", "simulation", "0.07", "0.7", "feature", "planted")  # fmt: skip
    assert [word for word in told_by if word in text.lower()] == []
    ours = [line for line in text.splitlines() if not line.startswith((" + ", " - ", "   "))]
    numbers = set(re.findall(r"\d+", re.sub(r"\d+ of 12|\d+ labels|\d+ rated", "", "\n".join(ours))))
    assert numbers <= set("12345"), "keys alone"


def test_firing_tokens_are_marked_without_colour_and_shaded_with_it(run: Run) -> None:
    plain, coloured = Sat(run, "q", plain=True, colour=True), Sat(run, "q", colour=True)
    assert "\x1b" not in plain.text and "«" in plain.text
    assert "\x1b[2J" in coloured.text and "48;2;" in coloured.text and "«" in coloured.text
    shown, vocabulary = plain.asked.left[0], run.lexicon.vocabulary
    for ids, values in zip(
        shown.firing.windows.ids[:, shown.firing.windows.scored], shown.firing.activations, strict=True
    ):
        for token in ids[values >= np.float32(shown.threshold)].tolist():
            assert re.search(f"«[^»]*{re.escape(vocabulary.pieces[token])}[^«]*»", plain.text)
    marked = " ".join(re.findall("«([^»]*)»", plain.text))
    assert vocabulary.join(shown.silent[0].tolist()) not in marked


@pytest.mark.parametrize("width", [80, 150])
def test_a_screen_fits(run: Run, width: int) -> None:
    text = Sat(run, "s" * 12, width=width).text
    assert max(map(len, text.splitlines())) <= min(width, 110)
    for screen in text.split(" of 12")[1:]:
        assert screen.count("\n") <= 36


def test_nothing_in_a_label_or_in_the_corpus_speaks_to_the_terminal(run: Run) -> None:
    run.store.execute("UPDATE explanation SET text = ?", [EVIL.replace("\ud800", "")])
    materialise_labels(run.store)
    v = run.lexicon.vocabulary
    poisoned = Vocabulary(
        tuple(piece + "\x1b[31m\x9b\x07\u202e" for piece in v.pieces), v.starts_word, v.special, v.index
    )
    run.lexicon.vocabulary = poisoned
    text = Sat(run, "s" * 12, plain=True, colour=True).text
    assert {c for c in text if not c.isprintable()} == {"\n"}
    assert "\\x1b]0;owned\\x07" in text and "\\u202e" in text and "[bold]:smile:" in text
    assert not any("\x1b[31m" in Sat(run, keys, colour=True).text for keys in ("", "\x1b[31m"))


def test_what_is_not_printable_is_shown_as_its_escape() -> None:
    assert visible(EVIL) == "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202egnp.exe\\r\\n\\ud800 [bold]:smile:"
    assert visible("naïve\u00a0日本 «»") == "naïve 日本 «»"


def test_a_label_of_great_length_does_not_fill_the_screen(run: Run) -> None:
    run.store.execute("UPDATE explanation SET text = repeat('x', 100000)")
    materialise_labels(run.store)
    text = Sat(run, "q").text
    assert "98,000 more characters" in text.replace("\n", " ").replace("  ", " ") and len(text) < 10_000


def test_figures_are_shown_with_intervals_and_reasons(run: Run) -> None:
    labelled(run.store, "imported:theirs", "their words")
    Sat(run, "123451234512")
    Sat(run, "aab=naabbaab", against="imported:theirs")
    console = Console(file=io.StringIO(), width=150, color_system=None)
    console.print(outcome(summarise(run), "planted"))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "24 ratings by 1 rater (ada 24), 0 skipped" in said
    assert re.search(r"typed-by-hand +12 +2\.75 +\[\d\.\d\d, \d\.\d\d\]", said)
    assert re.search(r"simulation +llm:reader +12 +-?\d\.\d\d +\[-?\d\.\d\d, \d\.\d\d\]", said)
    assert re.search(r"imported:theirs against typed-by-hand, 12 features: \d to \d, 1 alike, 1 neither", said)
    assert re.search(r"imported:theirs is preferred on \d of 10 \(\d+% to \d+%\) features that were decided", said)
    assert "the score gives both sides the same throughout" in said and "shown first was preferred in 6 of 10" in said


def test_without_ratings_that_is_said(run: Run) -> None:
    console = Console(file=io.StringIO(), width=150, color_system=None)
    console.print(outcome(summarise(run), "planted"))
    assert isinstance(console.file, io.StringIO) and "nothing has been rated yet" in console.file.getvalue()


# ------------------------------------------------------------------ who rates, and how keys come


def test_lines_are_keys_where_nobody_sits_at_a_terminal() -> None:
    keys = keys_of(io.TextIOWrapper(io.BytesIO(b" 4 \n\n\xff\n5"), encoding="utf-8"))
    assert [keys() for _ in range(5)] == ["4", "", "\ufffd", "5", None]


def test_a_rater_has_a_name() -> None:
    assert rater_name(" ada ") == "ada" and rater_name(None)
    for bad in ("", "  ", "x" * 101, "a\x1bb"):
        with pytest.raises(UsageError, match=r"^--rater '"):
            rater_name(bad)


# ------------------------------------------------------------------ the command


def test_piped_keys_rate_and_end_with_the_figures(path: Path) -> None:  # noqa: F811
    with Store(path) as store:
        labelled(store)
    command = [GLOSSATOR, "rate", str(path), "--n", "4", "--rater", "ada"]
    done = subprocess.run(
        command, input="4\nz\nu\n2\n3\ns\n5\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 ratings by 1 rater (ada 3), 1 skipped" in done.stdout and "Spearman" in done.stdout
    with Store(path) as store:
        assert [row[2] for row in rows(store)] == ["poor", "half", "skipped", "right"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--n", "0"), "--n 0: write how many labels to rate, 1 or more"),
        (("--against", "nobody"), "--against nobody: planted has labels of typed-by-hand; name one of its explainers"),
        (("--rater", ""), "--rater '': write a name of 1 to 100 printable characters"),
        (("--dictionary", "other"), "--dictionary other: this run has planted; name one of them"),
    ],
)
def test_wrong_flags_are_told_in_one_line(
    path: Path,  # noqa: F811
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Store(path) as store:
        labelled(store)
    code, shown, complained = told(capsys, "rate", path, *words)
    assert (code, shown, complained) == (2, "", f"glossator: {said}\n")


def test_without_labels_the_way_out_is_told_and_a_summary_of_nothing_is_one_line(
    path: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, complained = told(capsys, "rate", path)
    assert code == 2 and complained.count("\n") == 1 and f"run `glossator label {path}` first" in complained
    code, said, _ = told(capsys, "rate", path, "--summary")
    assert code == 0 and "nothing has been rated yet" in said


def test_at_a_terminal_a_key_counts_when_it_is_pressed_and_ctrl_c_loses_nothing(path: Path) -> None:  # noqa: F811
    with Store(path) as store:
        labelled(store)
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    command = [GLOSSATOR, "rate", str(path), "--rater", "ada"]
    child = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    seen = ""
    for key, then in ((b"4", "1 of 12"), (b"\x1b[A", "2 of 12"), (b"2", "is none of"), (b"\x03", "3 of 12")):
        seen += _until(ours, then)
        while termios.tcgetattr(ours)[3] & termios.ICANON:  # what is pressed before a key is asked for does not count
            time.sleep(0.01)
        os.write(ours, key)
    seen += _until(ours, "what was written is kept")
    assert child.wait(30) == 3
    os.close(ours)
    assert seen.count("\x1b[2J") == 3 and "noted: good" in seen and "'\\x1b[A' is none of" in seen
    with Store(path) as store:
        assert [row[2] for row in rows(store)] == ["good", "poor"]
        assert all(float(str(row[4])) > 0 for row in rows(store))


def _until(terminal: int, words: str) -> str:
    """What the terminal shows up to these words."""
    seen, end = b"", time.monotonic() + 60
    while words not in seen.decode("utf-8", "replace"):
        assert time.monotonic() < end, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 65536)
    return seen.decode("utf-8", "replace")
