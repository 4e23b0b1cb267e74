"""Write docs/cli.md and docs/schema.md from the code. `--check` fails where they are stale."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click

from glossator.cli import app
from glossator.store.store import Store

ROOT = Path(__file__).parent.parent
EXIT_CODES = """
## Exit codes

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed: one line says what and how to go on |
| 2 | bad usage: a flag, a file, a hook, a feature or a query is wrong |
| 3 | stopped in good order (Ctrl-C, a budget): what was written is kept, run the same command again |
"""


def cli_reference() -> str:
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="glossator", title="Command line")
    return "<!-- written by scripts/make_docs.py -->\n" + text.strip() + "\n" + EXIT_CODES


def schema_reference() -> str:
    parts = [
        "<!-- written by scripts/make_docs.py -->",
        "# Schema of a run file",
        "",
        "Views are the public face; they keep their columns.",
        "",
    ]
    with Store(":memory:") as store:
        for kind, heading in (("VIEW", "Views"), ("BASE TABLE", "Tables")):
            parts += [f"## {heading}", ""]
            names = store.sql(
                "SELECT table_name FROM information_schema.tables WHERE table_type = ? ORDER BY table_name", [kind]
            )
            for (name,) in names:
                parts += [f"### {name}", "", "| column | type |", "| --- | --- |"]
                columns = store.sql(
                    "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = ? ORDER BY ordinal_position",
                    [name],
                )
                parts += [f"| {column} | {kind_} |" for column, kind_ in columns] + [""]
    return "\n".join(parts)


PAGES = {"cli.md": cli_reference, "schema.md": schema_reference}


def main() -> None:
    stale = [
        name
        for name, make in PAGES.items()
        if not (ROOT / "docs" / name).exists() or (ROOT / "docs" / name).read_text() != make()
    ]
    if "--check" in sys.argv:
        raise SystemExit(f"stale: {', '.join(stale)}; run make docs" if stale else 0)
    for name in stale:
        (ROOT / "docs" / name).write_text(PAGES[name]())
        print(f"docs/{name} written")


if __name__ == "__main__":
    main()
