"""What is wrong with a night.toml: all of it at once, each with its line, and what is meant by what is right."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from glossator.config import Night, read_night, refuse
from glossator.config.toml_lines import line_of, lines_of
from glossator.errors import UsageError
from glossator.night.checking import mistakes
from glossator.night.deadline import moment
from glossator.night.plan import forecast
from glossator.night.template import Wanted, template, write_template

NOW = datetime.datetime(2026, 11, 21, 19, 0)
WRONG = """\
run = "no/such/folder/x.duckdb"
raport = "x.html"
[subject]
model = "./nothing"
dictionaries = ["demi", 7]
[corpus]
text = [
  "pythn-docs",
  "themes",
]
tokens = "many"
[harvest]
controls = ["random-dict"]
[features]
order = "sise"
which = "densty > 0"
active_on = "nope.txt"
[explain]
explainer = "onsehot"
[score]
scorers = ["rul", "detection"]
nulls = 1
[llm]
concurency = 7
writer = '''opnai:gpt'''
effort = "hgh"
prices = "p.toml"
[limits]
usd = 0
tokens = true
deadline = "2020-01-01 07:00"
[nowhere]
x = 1
"""


def found(text: str, folder: Path) -> dict[str, tuple[int | None, str]]:
    """key -> line and message; of a key with several, the last."""
    (folder / "night.toml").write_text(text)
    written = read_night(folder / "night.toml")
    return {one.key: (one.line, one.message) for one in (*written.mistakes, *mistakes(written, NOW))}


def test_every_mistake_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    told = found(WRONG, tmp_path)
    assert {key: line for key, (line, _) in told.items()} == {
        "run": 1, "raport": 2, "subject.model": 4, "subject.dictionaries": 5, "corpus.text": 7, "corpus.tokens": 11, "harvest.controls": 13,
        "features.order": 15, "features.which": 16, "features.active_on": 17, "explain.explainer": 19, "score.scorers": 21, "score.nulls": 22,
        "llm.concurency": 24, "llm.writer": 25, "llm.effort": 26, "llm.prices": 27, "limits.usd": 29, "limits.tokens": 30, "limits.deadline": 31,
        "nowhere": 32,
    }  # fmt: skip


def test_a_mistake_names_the_nearest_right_word(tmp_path: Path) -> None:
    told = {key: message for key, (_, message) in found(WRONG, tmp_path).items()}
    assert "did you mean report?" in told["raport"]
    assert "did you mean concurrency?" in told["llm.concurency"]
    assert "did you mean python-docs?" in told["corpus.text"]
    assert "did you mean random-dictionary?" in told["harvest.controls"]
    assert "did you mean rule?" in told["score.scorers"]
    assert '"density"' in told["features.which"]
    assert "did you mean limits.usd?" in found('run = "x.duckdb"\n[llm]\nusd = 3\n', tmp_path)["llm.usd"][1]
    assert "is past" in told["limits.deadline"]


def test_one_wrong_entry_of_a_list_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text(WRONG)
    written = read_night(tmp_path / "night.toml")
    assert written.night.subject.dictionaries == ("demi",)
    messages = [
        one.message for one in (*written.mistakes, *mistakes(written, NOW)) if one.key == "subject.dictionaries"
    ]
    assert any("7 is not text" in one for one in messages) and any("demi: no such folder" in one for one in messages)


def test_what_asks_a_model_needs_one_and_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    base = template("night.toml", Wanted())
    assert found(base, tmp_path) == {}
    told = found(base.replace('explainer = "lexical"', 'explainer = "cascade"'), tmp_path)
    assert "explain.explainer asks a language model" in told["llm.writer"][1]
    told = found(base.replace('scorers = ["rule"]', 'scorers = ["rule", "detection"]'), tmp_path)
    assert "score.scorers asks a language model" in told["llm.writer"][1]
    told = found(template("night.toml", Wanted(llm="openai:gpt-6-luna")), tmp_path)
    assert "OPENAI_API_KEY" in told["llm.writer"][1]
    (tmp_path / "plan.toml").write_text(template("night.toml", Wanted(llm="openai:gpt-6-luna")))
    assert forecast(read_night(tmp_path / "plan.toml")).stages, "a plan asks nobody, and needs no key"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-0123456789")
    assert found(template("night.toml", Wanted(llm="openai:gpt-6-luna")), tmp_path) == {}
    told = found(template("night.toml", Wanted(llm="openai:nobody-knows")).replace("# usd", "usd"), tmp_path)
    assert list(told) == ["limits.usd"] and "no price is known" in told["limits.usd"][1]


def test_a_night_without_a_harvest_needs_something_to_harvest(tmp_path: Path) -> None:
    assert set(found('run = "x.duckdb"\n', tmp_path)) == {"subject.model", "subject.dictionaries", "corpus.text"}
    assert set(found("", tmp_path)) == {"run", "subject.model", "subject.dictionaries", "corpus.text"}


def test_another_harvest_is_refused_with_the_way_out(planted_file: Path, tmp_path: Path) -> None:
    (tmp_path / "run.duckdb").write_bytes(planted_file.read_bytes())
    told = found('run = "run.duckdb"\n[corpus]\ntext = ["themes"]\ntokens = 5\n[harvest]\n', tmp_path)
    assert set(told) == {"corpus.text", "corpus.tokens"}
    assert "name another file under run" in told["corpus.text"][1]
    assert found('run = "run.duckdb"\n[features]\nwhich = "0-99"\n', tmp_path)["features.which"][1].endswith(
        "has features 0 to 19, not 99"
    )
    assert found('run = "run.duckdb"\n', tmp_path) == {}


def test_refusing_lists_mistakes_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "night.toml").write_text(WRONG)
    written = read_night(tmp_path / "night.toml")
    with pytest.raises(UsageError) as told:
        refuse(written.path, written.mistakes)
    lines = [int(line.split()[1].rstrip(":")) for line in str(told.value).splitlines()[1:]]
    assert lines == sorted(lines) and len(lines) == len(written.mistakes) and told.value.exit_code == 2


@pytest.mark.parametrize(("text", "said"), [("x = = 3", "is no TOML"), ("\udcff", "UTF-8"), (None, "glossator init")])
def test_what_is_no_toml_is_one_line(text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "night.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=said):
        read_night(tmp_path / "night.toml")


def test_lines_are_found_past_strings_and_lists_of_several_lines() -> None:
    text = 'a = """\nb = 1\n[c]\n"""\nd = [\n  "]",  # ]\n  "e = 2",\n]\n[f."g h"]\n\'i\' = { j = 1 }\nk.l = "#"\n[[m]]\nn = 1\n'
    lines = lines_of(text)
    assert lines == {
        ("a",): 1,
        ("d",): 5,
        ("f", "g h"): 9,
        ("f", "g h", "i"): 10,
        ("f", "g h", "k", "l"): 11,
        ("m",): 12,
        ("m", "n"): 13,
    }
    assert line_of(lines, ("f", "g h", "i", "j")) == 10 and line_of(lines, ("z",)) is None


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    night = Night.model_validate(
        {
            "run": "a.duckdb",
            "report": "/r.html",
            "corpus": {"text": ["themes", "t.txt"]},
            "llm": {"writer": "files:m@out", "reader": "openai:x"},
        }
    )
    (tmp_path / "t.txt").write_text("x")
    placed = night.located(tmp_path)
    assert (placed.run, placed.report) == (str(tmp_path / "a.duckdb"), "/r.html")
    assert placed.corpus.text == ("themes", str(tmp_path / "t.txt"))
    assert (placed.llm.writer, placed.llm.reader) == (f"files:m@{tmp_path / 'out'}", "openai:x")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("07:00", "2026-11-22 07:00"), ("7:05", "2026-11-22 07:05"), ("23:30", "2026-11-21 23:30"), ("8h", "2026-11-22 03:00"),
        ("1h30m", "2026-11-21 20:30"), ("90m", "2026-11-21 20:30"), ("2026-12-24 07:00", "2026-12-24 07:00"), (datetime.time(7), "2026-11-22 07:00"),
        (datetime.datetime(2026, 11, 22, 1), "2026-11-22 01:00"),
    ],
)  # fmt: skip
def test_deadlines_mean_the_next_such_time(written: str | datetime.time | datetime.datetime, meant: str) -> None:
    assert f"{moment(written, NOW):%Y-%m-%d %H:%M}" == meant


@pytest.mark.parametrize("written", ["", "25:00", "soon", "2020-01-01", "0h", "8 days", "-3h"])
def test_what_is_no_deadline_is_refused(written: str) -> None:
    with pytest.raises(UsageError):
        moment(written, NOW)


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(), Wanted(llm="openai:gpt-6-luna"), Wanted("gpt2", ("gpt2-small-res-jb:blocks.6.hook_resid_pre",), (), ("texts/",), "best_of:4", "local:m"),
        Wanted('a "b"\\c', ("neurons",), ("model.layers.3",), ("ü.txt",)),
    ],
)  # fmt: skip
def test_what_init_writes_is_read_without_a_complaint_and_says_what_was_wanted(wanted: Wanted, tmp_path: Path) -> None:
    write_template(tmp_path / "night.toml", wanted)
    written = read_night(tmp_path / "night.toml")
    assert not written.mistakes
    assert written.night.subject.model == wanted.model
    assert written.night.llm.writer == wanted.llm
    assert written.night.explain.explainer == (wanted.explainer or ("cascade" if wanted.llm else "lexical"))
    with pytest.raises(UsageError, match="is there already"):
        write_template(tmp_path / "night.toml", wanted)
