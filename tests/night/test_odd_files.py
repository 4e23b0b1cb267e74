"""A night.toml that means harm, or is merely odd: what would only come out in the night is told before it, and nothing is a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from glossator.config import read_night
from glossator.errors import UsageError
from glossator.night.choosing import prompts_in
from tests.night.test_written import found

BASE = """\
run = "x.duckdb"
{top}
[subject]
model = "demo"
dictionaries = ["demo"]
{subject}
[corpus]
text = [{text}]
{more}
"""
PLAIN = {"top": "", "subject": "", "text": '"themes"', "more": ""}


@pytest.mark.parametrize(
    ("place", "line", "key", "said"),
    [
        ("top", 'report = "./x.duckdb"', "report", "is the run file, which it would overwrite"),
        ("top", 'report = "night.toml"', "report", "is this file, which it would overwrite"),
        ("top", 'report = "."', "report", "is a folder"),
        ("top", 'report = "a\\u0000"', "report", "NUL"),
        ("subject", 'device = "gpu"', "subject.device", "write cpu, cuda"),
        ("text", '"themes", ""', "corpus.text", "holds an empty name"),
        ("text", '"a\\u0000b"', "corpus.text", "no such file"),
        ("more", '[limits]\ndeadline = "999999999999h"', "limits.deadline", "beyond all calendars"),
        ("more", "[limits]\nusd = inf", "limits.usd", "finite"),
        ("more", "[llm]\ntimeout = inf", "llm.timeout", "86400"),
        ("more", "[harvest]\nworkers = 1000000", "harvest.workers", "1024"),
        ("more", f"[features]\nwhich = '{'NOT ' * 400}true'", "features.which", "nested hundreds deep"),
        ("more", f"[features]\nwhich = '{'+'.join(['density'] * 600)} > 0'", "features.which", "nested hundreds deep"),
        ("more", '[features]\nwhich = "feature = \'x\'"', "features.which", "Could not convert"),
        ("more", '[features]\nactive_on = "a\\u0000"', "features.active_on", "null"),
    ],
)  # fmt: skip
def test_what_would_only_come_out_in_the_night_is_told_before(
    place: str, line: str, key: str, said: str, tmp_path: Path
) -> None:
    assert found(BASE.format(**PLAIN), tmp_path) == {}
    at, message = found(BASE.format(**PLAIN | {place: line}), tmp_path)[key]
    assert said in message and at is not None


def test_errors_of_values_that_were_made_up_are_none_of_a_condition(tmp_path: Path) -> None:
    more = '[features]\nwhich = "ln(max_activation - 5) > 0"'  # the one that was made up is at 1
    assert found(BASE.format(**PLAIN | {"more": more}), tmp_path) == {}


def test_a_file_that_is_overwritten_by_way_of_a_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one")
    (tmp_path / "r.html").symlink_to(tmp_path / "prompts.txt")
    given = {"top": 'report = "r.html"', "more": '[features]\nactive_on = "prompts.txt"'}
    assert "the file of prompts" in found(BASE.format(**PLAIN | given), tmp_path)["report"][1]


def test_a_mark_of_byte_order_is_no_mistake_and_controls_are_shown(tmp_path: Path) -> None:
    assert found("\ufeff" + BASE.format(**PLAIN), tmp_path) == {}
    written = read_night(tmp_path / "night.toml")
    assert "\x1b" not in str(written.mistake("subject.model", "\x1b[31mred\nnew line"))


def test_a_prompt_is_a_line_whatever_bytes_it_holds(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffone\u2028still one\x0c\x1c!\r\n\r\ntwo\x00\n".encode())
    assert prompts_in(file) == ["one\u2028still one\x0c\x1c!", "two\x00"]
    file.write_bytes(b"ok\n\xff\xfe")
    with pytest.raises(UsageError, match=r"not UTF-8 text \(byte 3\)"):
        prompts_in(file)
    with file.open("wb") as sparse:
        sparse.truncate(1 << 27)
    with pytest.raises(UsageError, match="128 MB, at most 64 MB"):
        prompts_in(file)
