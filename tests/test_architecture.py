"""The house rules of the design, enforced: directions of imports, who may import torch, sizes of files and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "glossator"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVEL = {
    "types": 0, "rows": 0, "errors": 0, "config": 1, "planted": 1, "planted_family": 2, "prompts": 2, "llm": 2, "store": 2, "harness": 2,
    "scorers": 3, "agents": 4, "pipeline": 5, "arguments": 6, "progress": 6, "rating": 6, "show": 6, "show_debate": 6, "show_schema": 6, "summary": 6, "validation": 6, "report": 6, "exchange": 6, "night": 7, "commands": 8, "cli": 9,
}  # fmt: skip
MOST_LINES, MOST_FUNCTION, MOST_PARAMETERS = 400, 60, 8


def room(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "glossator" else {node.module}
            )
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_and_never_back(path: Path) -> None:
    mine = room(path)
    if mine == "__init__":
        return
    assert mine in LEVEL, f"{path}: no room for this file in the house"
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "glossator" or len(parts) == 1 or parts[1] == "__version__":
            continue
        other = parts[1]
        assert other == mine or LEVEL[other] < LEVEL[mine], f"{path}: imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_harness_imports_torch(path: Path) -> None:
    if room(path) == "harness" or path == PACKAGE / "llm" / "local.py":
        return
    assert not {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} & {
        "torch",
        "sae_lens",
        "transformers",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_hold_one_idea(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES, f"{path}: over {MOST_LINES} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or 0) - node.lineno + 1
            assert size <= MOST_FUNCTION, f"{path}:{node.lineno} {node.name}: {size} lines"
            names = [
                a.arg
                for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                if a.arg not in ("self", "cls")
            ]
            if any("app.command" in ast.unparse(decorator) for decorator in node.decorator_list):
                continue  # a command's parameters are its flags
            assert len(names) <= MOST_PARAMETERS, f"{path}:{node.lineno} {node.name}: {len(names)} parameters"


@pytest.mark.parametrize("path", [p for p in FILES if p.read_text().strip()], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path}: no docstring"


def test_the_package_and_its_help_load_no_heavy_library() -> None:
    script = (
        "import sys, glossator, glossator.cli\n"
        "heavy = {'torch', 'transformers', 'sae_lens', 'duckdb', 'scipy', 'pyarrow', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names_are_sorted_and_exist() -> None:
    import glossator

    assert list(glossator.__all__) == sorted(glossator.__all__)
    assert all(hasattr(glossator, name) for name in glossator.__all__)
