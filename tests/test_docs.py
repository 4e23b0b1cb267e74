"""Generated pages are fresh, every command is documented with an example, every command line that a page shows parses, links
and anchors lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

import pytest
import typer

from glossator.cli import app
from glossator.config import read_night

ROOT = Path(__file__).parent.parent
GLOSSATOR = typer.main.get_command(app)
COMMANDS = GLOSSATOR.commands  # type: ignore[attr-defined]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]
USES = ("use_label.md", "use_score.md", "use_debate.md", "use_sql.md")


def text_of(page: Path) -> str:
    """A page as Markdown: of a notebook, its cells of text."""
    if page.suffix != ".ipynb":
        return page.read_text("utf-8")
    cells = json.loads(page.read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def command_lines(text: str) -> Iterator[list[str]]:
    """The words after `glossator` of every command line in the fenced blocks of a page, continued lines joined."""
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in (block if kind in ("", "console", "bash", "sh") else "").replace("\\\n", " ").splitlines():
            if found := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?glossator (.*)", line):
                yield list(
                    takewhile(lambda word: word not in ("|", ">", "<", "&", "&&"), shlex.split(found[1], comments=True))
                )


def parse(words: list[str]) -> None:
    """Raises what the command line would raise: an unknown command or flag, a value of the wrong kind, too many words."""
    context = typer.Context(GLOSSATOR)
    name, command, rest = GLOSSATOR.resolve_command(context, list(words))  # type: ignore[attr-defined]
    command.make_context(name, rest, parent=context)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).replace(" ", "-") for heading in headings}


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_with_an_example_that_parses(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    assert command.epilog and command.epilog.startswith(f"Example: glossator {name}")
    assert f"## `glossator {name}`" in (ROOT / "docs" / "cli.md").read_text()


def test_commands_in_the_readme_exist() -> None:
    used = set(re.findall(r"^(?:\.venv/bin/)?glossator (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert used, "README shows no command"
    assert used <= set(COMMANDS), used - set(COMMANDS)
    targets = set(re.findall(r"\bmake (\w+)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= targets
    assert targets <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "cli.md"], ids=lambda p: p.name)
def test_every_command_line_of_a_page_parses(page: Path) -> None:
    wrong = []
    for words in command_lines(text_of(page)):
        try:
            parse(words)
        except Exception as error:
            wrong.append(f"glossator {shlex.join(words)}: {error}")
    assert not wrong


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_example_in_a_commands_help_parses(name: str) -> None:
    parse(shlex.split(COMMANDS[name].epilog.removeprefix("Example: glossator ")))


def test_a_flag_that_does_not_exist_is_found_out() -> None:
    lines = list(command_lines("```console\n$ A=b glossator sql run.duckdb \\\n  --colour red  # why\n```"))
    assert lines == [["sql", "run.duckdb", "--colour", "red"]]
    with pytest.raises(Exception, match="--colour"):
        parse(lines[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_flags_in_running_text_exist(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for said in re.findall(r"`glossator ([a-z][^`]*)`", prose):
        name, *rest = said.split()
        assert name in COMMANDS, f"{page.name}: glossator {said}"
        known = {flag for option in COMMANDS[name].params for flag in (*option.opts, *option.secondary_opts)}
        assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known, f"{page.name}: glossator {said}"


def test_each_of_the_four_uses_has_a_page_that_says_what_it_does_not_show() -> None:
    for name in USES:
        text = (ROOT / "docs" / name).read_text("utf-8")
        assert len(list(command_lines(text))) >= 3, name
        assert "does not show" in text or "does not say" in text, f"{name}: say what the result does not show"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", text_of(page)):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {target}#{anchor}"


def test_the_run_file_of_the_page_on_labelling_is_one_that_can_be_read(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```toml\n(.*?)^```", (ROOT / "docs" / "use_label.md").read_text("utf-8"), re.M | re.S)
    night = tmp_path / "night.toml"
    night.write_text(text, "utf-8")
    assert not read_night(night).mistakes
    night.write_text(text.replace("explainer =", "explaner ="), "utf-8")
    assert read_night(night).mistakes


def test_continuous_integration_runs_the_test_command_of_the_readme() -> None:
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert lines[-1] == "make test"
