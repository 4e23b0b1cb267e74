"""Readers: from a file, a folder, a data set's name or Python itself to documents.

A source is one of `python-docs` (the documentation that every Python carries), `themes` (our own passages),
`hf:NAME[:CONFIG[:SPLIT]]` (a Hugging Face data set), or a path to text, JSONL, CSV, Parquet or a folder of them.
A document is what must not be torn between splits: a top-level module, an article, a file, a record.
Nothing here is random, and nothing that is read is ever executed.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from pathlib import Path

import pyarrow.parquet as pq

from glossator.config import data_path
from glossator.errors import CorpusError
from glossator.types import Document

SUFFIXES = (".txt", ".md", ".rst", ".jsonl", ".csv", ".parquet")
_HEADING = re.compile(r"^ = [^=](?:.*[^=])? = ?$")  # how WikiText writes the title of an article
_SECTION_CHARS = 20_000  # a long text without headings is cut between paragraphs into documents of about this
_LEAST_DOCSTRING = 40


def read_corpus(sources: Iterable[str]) -> Iterator[Document]:
    """All documents of the sources, in order. Raises CorpusError where one is missing, empty or not text."""
    for source in sources:
        found = False
        for document in _read(source):
            if any(passage.strip() for passage in document.passages):
                found = True
                yield document
        if not found:
            raise CorpusError(f"{source}: holds no text; name a file or folder with text in it")


def _read(source: str) -> Iterator[Document]:
    if source == "python-docs":
        return python_docs()
    if source == "themes":
        return _themes(data_path("corpus", "passages.jsonl"))
    if source.startswith("hf:"):
        return _hugging_face(source)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise CorpusError(
            f"{source}: no such file or folder (built-in corpora: python-docs, themes; data sets: hf:NAME)"
        )
    return _file(path)


def _folder(path: Path) -> Iterator[Document]:
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not files:
        raise CorpusError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
    for file in files:
        yield from _file(file)


def _file(path: Path) -> Iterator[Document]:
    match path.suffix.lower():
        case ".jsonl":
            return _jsonl(path)
        case ".csv":
            return _csv(path)
        case ".parquet":
            return _parquet(path)
        case _:
            return _text(path)


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror})") from error
    if b"\0" in raw[:4096]:
        raise CorpusError(f"{path}: is not text (it holds zero bytes)")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: is not UTF-8 text (byte {error.start}); convert it first") from error


def _text(path: Path) -> Iterator[Document]:
    """Articles where WikiText headings stand, else sections of about 20,000 characters between paragraphs."""
    text = _decode(path)
    lines = text.splitlines(keepends=True)
    titles = {i for i, line in enumerate(lines) if _HEADING.match(line.rstrip("\r\n"))}
    if titles:
        bounds = sorted({0, *titles, len(lines)})
        for begin, end in pairwise(bounds):
            title = lines[begin].strip(" =\r\n") if begin in titles else "(preamble)"
            yield Document(f"{path.name}:{begin + 1}:{title}", ("".join(lines[begin:end]),))
        return
    start, size, section = 1, 0, []
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text), 1):
        section.append(paragraph)
        size += len(paragraph)
        if size >= _SECTION_CHARS:
            yield Document(f"{path.name}:paragraph {start}", ("\n\n".join(section),))
            start, size, section = number + 1, 0, []
    if section:
        yield Document(f"{path.name}:paragraph {start}", ("\n\n".join(section),))


def _document(record: dict[str, object], path: Path, row: int) -> Document:
    for key in ("text", "content", "body", "passage", "document"):
        value = record.get(key)
        if isinstance(value, str):
            name = record.get("id") or record.get("name") or record.get("title")
            tag = record.get("theme") or record.get("tag")
            return Document(
                f"{path.name}:{_whole(str(name or row))}",
                (_whole(value),),
                (_whole(str(tag)),) if tag else (),
            )
    raise CorpusError(
        f"{path}: row {row} has no text column (text, content, body); found {', '.join(map(str, record))[:80]}"
    )


def _whole(text: str) -> str:
    """Text with `?` for halves of surrogate pairs, which JSON can spell and tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _jsonl(path: Path) -> Iterator[Document]:
    for row, line in enumerate(_decode(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{path}: row {row} is not JSON ({error.msg})") from error
        if isinstance(record, str):
            record = {"text": record}
        if not isinstance(record, dict):
            raise CorpusError(f"{path}: row {row} is neither an object nor a string")
        yield _document(record, path, row)


def _csv(path: Path) -> Iterator[Document]:
    csv.field_size_limit(sys.maxsize)
    row = 1
    try:
        for row, record in enumerate(csv.DictReader(io.StringIO(_decode(path), newline="")), 2):
            yield _document({str(k): v for k, v in record.items()}, path, row)
    except csv.Error as error:
        raise CorpusError(f"{path}: after row {row} is not CSV ({error})") from error


def _parquet(path: Path) -> Iterator[Document]:
    row = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                row += 1
                yield _document(record, path, row)
    except (OSError, ValueError) as error:
        raise CorpusError(f"{path}: is not a Parquet file ({str(error).splitlines()[0]})") from error


def _hugging_face(source: str) -> Iterator[Document]:
    from datasets import load_dataset  # takes seconds to import

    name, config, split = [*source[3:].split(":"), "", ""][:3]
    try:
        rows = load_dataset(name, config or None, split=split or "train", streaming=True)
    except (OSError, ValueError, ConnectionError) as error:
        raise CorpusError(f"{source}: cannot be loaded ({str(error).splitlines()[0]})") from error
    for row, record in enumerate(rows, 1):
        yield _document(record, Path(name), row)


def _themes(path: Path) -> Iterator[Document]:
    yield from _jsonl(path)


# --------------------------------------------------------------------------- Python's own documentation


def python_docs() -> Iterator[Document]:
    """`pydoc_data.topics` and the docstrings of the standard library, read from source without importing it.

    A document is a top-level module (docstrings repeat inside a package) or a help topic; a passage is a docstring.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "python-docs: this Python carries no pydoc_data; install its documentation package"
        ) from error
    for topic, text in sorted(topics.items()):
        yield Document(f"topic:{topic}", (text,))
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "__pycache__",
    }
    files = sorted(p for p in root.rglob("*.py") if not skip & set(p.relative_to(root).parts[:-1]))
    for module, members in groupby(files, key=lambda p: p.relative_to(root).parts[0].removesuffix(".py")):
        passages = [doc for member in members for doc in _docstrings(member)]
        if passages:
            yield Document(f"module:{module}", tuple(dict.fromkeys(passages)))


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # templates and deliberately broken files of some distributions
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _LEAST_DOCSTRING:
                yield text
