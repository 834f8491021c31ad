"""Texts out of files of each kind."""

import sys
from pathlib import Path

import pytest
from builders import write_pdf

from diekae.store.readers import find_documents, read_document


def test_plain_text_and_markdown_are_kept_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("\ufeff# Tower  \n\n\n\n\nIt is *red*.\n", encoding="utf-8")
    assert read_document(tmp_path / "a.md") == "# Tower\n\nIt is *red*."


def test_html_keeps_what_a_reader_sees(tmp_path: Path) -> None:
    (tmp_path / "a.HTML").write_bytes(
        "<html><head><meta charset='latin-1'><title>no</title><style>p {}</style></head><body><script>no()</script>"
        "<h2>Château</h2><p>It is <a href='http://x'>red</a><br>and old.</p><ul><li>one</li></ul>"
        "<table><tr><th>year</th></tr><tr><td>1932</td></tr></table></body></html>".encode("latin-1")
    )
    text = read_document(tmp_path / "a.HTML")
    assert "## Château" in text and "It is red" in text and "* one" in text and "| 1932 |" in text
    assert "no" not in text.split() and "http" not in text and "{}" not in text


def test_pdf_is_read_page_by_page(tmp_path: Path) -> None:
    assert read_document(write_pdf(tmp_path / "a.pdf", "The tower is red.")) == "The tower is red."
    with pytest.raises(ValueError, match="holds no text; scanned"):
        read_document(write_pdf(tmp_path / "b.pdf", ""))
    (tmp_path / "c.pdf").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="cannot be read as PDF"):
        read_document(tmp_path / "c.pdf")


def test_a_missing_library_and_an_unknown_kind_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'diekae\[documents\]'"):
        read_document(write_pdf(tmp_path / "a.pdf", "x"))
    (tmp_path / "a.docx").write_bytes(b"PK")
    with pytest.raises(ValueError, match="of no kind that can be read"):
        read_document(tmp_path / "a.docx")
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_document(tmp_path / "none.txt")
    assert [path.name for path in find_documents(tmp_path)] == ["a.pdf"]


def test_a_file_of_an_unknown_kind_is_read_as_text_where_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("the tower is red\n")
    assert read_document(tmp_path / "notes", any_kind=True) == "the tower is red"
    with pytest.raises(ValueError, match="of no kind that can be read"):
        read_document(tmp_path / "notes")
    (tmp_path / "a.docx").write_bytes(b"PK\x00\x03")
    with pytest.raises(ValueError, match="is no text; expected plain text, or one of .txt"):
        read_document(tmp_path / "a.docx", any_kind=True)
