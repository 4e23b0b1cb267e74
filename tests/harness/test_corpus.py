"""Readers give the text that is there, and name the file and the row where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glossator.errors import CorpusError
from glossator.harness.corpus import python_docs, read_corpus
from glossator.types import Document


def read(*paths: Path | str) -> list[Document]:
    return list(read_corpus(str(p) for p in paths))


def texts(*paths: Path | str) -> list[str]:
    return [passage for document in read(*paths) for passage in document.passages]


def wrote(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ------------------------------------------------------------------ text


def test_a_short_text_is_one_document_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = wrote(tmp_path / "a.txt", b"\xef\xbb\xbfOne.\n\nTwo.\n")
    assert texts(path) == ["One.\n\nTwo.\n"]
    assert read(path)[0].name == "a.txt:paragraph 1"


def test_a_long_text_is_cut_between_paragraphs_and_nothing_is_lost(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {i} " + "word " * 400 for i in range(40)]
    found = read(wrote(tmp_path / "long.txt", "\n\n".join(paragraphs)))
    assert len(found) > 2
    assert len({d.name for d in found}) == len(found)
    assert "\n\n".join(d.passages[0] for d in found) == "\n\n".join(paragraphs)
    assert all(len(d.passages[0]) < 25_000 for d in found)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_wikitext_is_cut_at_the_titles_of_articles_and_not_at_sections(tmp_path: Path, end: str) -> None:
    body = "\n = Robert Boulter = \n\n He acts . \n = = Career = = \n\n Later . \n = M = \n\n A film . \n"
    found = read(wrote(tmp_path / "wiki.txt", body.replace("\n", end)))
    assert [d.name for d in found] == ["wiki.txt:2:Robert Boulter", "wiki.txt:8:M"]
    assert "Career" in found[0].passages[0]
    assert "A film" not in found[0].passages[0]


def test_text_before_the_first_title_is_a_document_of_its_own(tmp_path: Path) -> None:
    found = read(wrote(tmp_path / "wiki.txt", "Foreword .\n = Title = \nBody .\n"))
    assert [d.name.split(":")[-1] for d in found] == ["(preamble)", "Title"]


# ------------------------------------------------------------------ tables


def test_jsonl_reads_objects_and_strings_names_them_and_skips_blank_lines(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "first", "theme": "dogs"}, "second", {"title": "t", "content": "third"}]
    path = wrote(tmp_path / "c.jsonl", "\n\n".join(json.dumps(r) for r in rows))
    assert read(path) == [
        Document("c.jsonl:a", ("first",), ("dogs",)),
        Document("c.jsonl:3", ("second",)),
        Document("c.jsonl:t", ("third",)),
    ]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85"])
def test_jsonl_rows_may_hold_characters_that_only_python_takes_for_line_ends(tmp_path: Path, character: str) -> None:
    text = f"one{character}two"
    path = wrote(tmp_path / "c.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\r\n" + '"last"\n')
    assert texts(path) == [text, "last"]


def test_jsonl_halves_of_surrogate_pairs_become_text_that_tokenizers_accept(tmp_path: Path) -> None:
    path = wrote(tmp_path / "c.jsonl", '{"id": "\\ud800", "text": "a \\ud83d b"}\n')
    (document,) = read(path)
    assert document.passages[0].encode().startswith(b"a ")
    assert document.name.encode()


def test_csv_keeps_quoted_line_breaks_and_commas(tmp_path: Path) -> None:
    path = wrote(tmp_path / "c.csv", 'id,text\n1,"a, b\nc"\n2,d\n')
    assert read(path) == [Document("c.csv:1", ("a, b\nc",)), Document("c.csv:2", ("d",))]


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_csv_may_end_its_lines_in_any_way(tmp_path: Path, end: str) -> None:
    assert texts(wrote(tmp_path / "c.csv", end.join(["id,text", "1,a", "2,b"]))) == ["a", "b"]


def test_parquet_reads_every_row_group(tmp_path: Path) -> None:
    rows = [f"text {i}" for i in range(30)]
    pq.write_table(pa.table({"body": rows}), tmp_path / "c.parquet", row_group_size=7)
    assert texts(tmp_path / "c.parquet") == rows


def test_a_folder_is_read_in_order_of_names_below_it_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    wrote(tmp_path / "b.md", "second")
    wrote(tmp_path / "a.txt", "first")
    wrote(tmp_path / "sub" / "c.JSONL", '"third"')
    wrote(tmp_path / "ignored.png", b"\x89PNG\0")
    wrote(tmp_path / "empty.txt", "")
    assert texts(tmp_path) == ["first", "second", "third"]


def test_several_sources_are_read_one_after_the_other(tmp_path: Path) -> None:
    a, b = wrote(tmp_path / "a.txt", "A"), wrote(tmp_path / "b.txt", "B")
    assert texts(b, a) == ["B", "A"]


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", "", "holds no text"),
        ("blank.txt", " \n\n\t\n", "holds no text"),
        ("empty.jsonl", "\n", "holds no text"),
        ("blank.jsonl", '{"text": "  "}\n', "holds no text"),
        ("binary.txt", b"MZ\0\0\x90", "not text"),
        ("wide.txt", "text".encode("utf-16"), "not text"),
        ("latin.txt", "caf\xe9 noir".encode("latin-1"), "not UTF-8 text (byte 3)"),
        ("bad.jsonl", '{"text": "a"}\n{"text": \n', "row 2 is not JSON"),
        ("number.jsonl", '{"text": "a"}\n\n17\n', "row 3 is neither"),
        ("column.jsonl", '{"text": "a"}\n{"txet": "b"}\n', "row 2 has no text column"),
        ("null.jsonl", '{"text": null}\n', "row 1 has no text column"),
        ("column.csv", "id,words\n1,a\n", "row 2 has no text column"),
        ("short.csv", "id,text\n1,a\n2\n", "row 3 has no text"),
        ("bad.parquet", "PAR1 is not enough", "not a Parquet file"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_file_and_row(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    path = wrote(tmp_path / name, content)
    with pytest.raises(CorpusError) as caught:
        read(path)
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_text_names_the_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"number": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(CorpusError, match=r"n\.parquet: row 1 has no text column.*found number"):
        read(tmp_path / "n.parquet")


def test_a_missing_path_names_itself_and_the_built_in_corpora(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"gone\.txt: no such file.*python-docs"):
        read(tmp_path / "gone.txt")


def test_a_folder_without_text_files_is_refused(tmp_path: Path) -> None:
    wrote(tmp_path / "a.png", "x")
    with pytest.raises(CorpusError, match=r"no \.txt, .* file in this folder"):
        read(tmp_path)


def test_a_bad_file_in_a_folder_is_named(tmp_path: Path) -> None:
    wrote(tmp_path / "a.txt", "fine")
    wrote(tmp_path / "b.txt", b"\xff\xfe\xfd")
    with pytest.raises(CorpusError, match=r"b\.txt: is not UTF-8"):
        read(tmp_path)


def test_an_empty_source_is_named_although_another_has_text(tmp_path: Path) -> None:
    good, empty = wrote(tmp_path / "good.txt", "text"), wrote(tmp_path / "empty.txt", "")
    with pytest.raises(CorpusError, match=r"empty\.txt: holds no text"):
        read(good, empty)


# ------------------------------------------------------------------ built in


def test_python_docs_gives_topics_and_one_document_for_each_module() -> None:
    documents = {}
    for document in python_docs():
        documents[document.name] = document
        if document.name == "module:csv":  # modules come in order: the rest is more of the same
            break
    assert documents["topic:assert"].passages[0].lstrip().startswith("The")
    package = documents["module:asyncio"]
    assert len(package.passages) > 50
    assert len(set(package.passages)) == len(package.passages)
    assert not any(name.startswith("module:asyncio.") for name in documents)
    assert len(documents["module:ast"].passages) > 10


def test_themes_are_passages_with_unique_names_and_a_tag() -> None:
    found = read("themes")
    assert len(found) > 500
    assert len({d.name for d in found}) == len(found)
    assert all(len(d.tags) == 1 and len(d.passages) == 1 for d in found)
