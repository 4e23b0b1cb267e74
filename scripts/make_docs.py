"""Write docs/cli.md, docs/schema.md and docs/graphs.md from the code. `--check` fails where they are stale."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from glossator.agents.debate.graph import debate_graph
from glossator.agents.graphs.cascade import cascade_graph
from glossator.agents.graphs.label import label_graph
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
    """From the comments in the database itself; `glossator sql RUN.duckdb --schema` shows those of a run file."""
    parts = [
        "<!-- written by scripts/make_docs.py -->",
        "# Schema of a run file",
        "",
        "Views are the public face; they keep their columns. `glossator sql run.duckdb --schema` shows the same, of your file.",
        "",
    ]
    with Store(":memory:") as store:
        for kind, heading in (("view", "Views"), ("table", "Tables")):
            parts += [f"## {heading}", ""]
            found = f"SELECT {kind}_name, comment FROM duckdb_{kind}s() WHERE NOT internal ORDER BY {kind}_name"
            for name, meaning in store.sql(found):
                parts += [f"### {name}", "", f"{meaning}.", "", "| column | type | meaning |", "| --- | --- | --- |"]
                columns = store.sql(
                    "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
                    [name],
                )
                parts += [f"| {column} | {type_} | {said} |" for column, type_, said in columns] + [""]
    return "\n".join(parts)


GRAPHS = """
A solid arrow is always taken; of dotted ones, that whose words hold. Every node that is visited is a row of `step`, and the
view `flow` counts them: how many features went which way, and with what came of it.

- `label` (`glossator label --explainer label:K`): a draft, read on the split `select`; experiments on the subject that try to
  break it; a new sentence by someone who is shown where the old one is wrong. It is taken only if it is better on `select`.
- `cascade` (`--explainer cascade`): the lexical rule stands where it predicts `select` well and is more than a list of tokens.
  Elsewhere a sentence, as in `label`; where that still reads badly, further candidates; where the two best that differ lie
  close, a debate. Thresholds: `CascadeConfig`.
- `debate` (`glossator debate`): two rivals predict texts, the most telling are measured, until one hypothesis leads.

Scores on `test` come after `freeze`, as a stage of their own: they compare with the labels of other features.
"""


def graphs_page() -> str:
    drawn: dict[str, Any] = {"label": label_graph(), "cascade": cascade_graph(), "debate": debate_graph().compile()}
    parts = ["<!-- written by scripts/make_docs.py -->", "# The graphs", GRAPHS]
    for name, graph in drawn.items():
        parts += [f"## {name}", "", "```mermaid", graph.get_graph().draw_mermaid().strip(), "```", ""]
    return "\n".join(parts)


PAGES = {"cli.md": cli_reference, "schema.md": schema_reference, "graphs.md": graphs_page}


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
