"""The texts of pages and e-mails, and the errors for files that cannot be read."""

import random
import sys
import time
from pathlib import Path

import pytest

from builders import write_pdf
from diekae.readers import READERS, base, pages, read_document
from diekae.readers.base import Unreadable
from diekae.readers.reading import text_of
from document_files import mail, read, word_file


def test_plain_text_and_markdown_are_kept_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("\ufeff# Tower  \n\n\n\n\nIt is *red*.\n", encoding="utf-8")
    assert read_document(tmp_path / "a.md") == "# Tower\n\nIt is *red*."


def test_html_keeps_what_a_reader_sees(tmp_path: Path) -> None:
    (tmp_path / "a.HTML").write_bytes(
        "<html><head><meta charset='latin-1'><title>no</title><style>p {}</style></head><body><script>no()</script>"
        "<h2>Château</h2><p>It is <a href='http://x'>red</a><br>and old.</p><ul><li>one</li></ul><!-- no -->"
        "<table><tr><th>year</th></tr><tr><td>1932</td></tr></table></body></html>".encode("latin-1")
    )
    text = read_document(tmp_path / "a.HTML")
    assert "## Château" in text and "It is red" in text and "* one" in text and "| 1932 |" in text
    assert "no" not in text.split() and "http" not in text and "{}" not in text


def test_the_xml_declaration_is_not_text(tmp_path: Path) -> None:
    page = "<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE html><html><body><p>the tower</p></body></html>"
    assert read(tmp_path / "a.xhtml", page) == "the tower"


def test_html_that_is_hidden_is_not_read(tmp_path: Path) -> None:
    page = """<style>
        /* .shown { display: none } */ @import url(x); @media print { .shown { display: none } }
        .menu, .a > b { color: red; display:none } .menu.open { display: block }
        p::-webkit-x(( { display: none }
        #ghost { VISIBILITY: hidden; }
        .box { display: flex }
    </style>
    <p>shown1</p><p hidden>secret</p><p style="color: red; Display : none">secret</p><div style="display:none">secret
    <p style="display:block">secret</p></div><p class=shown>shown2</p><p class=menu>secret</p>
    <p class="menu open">shown3</p><p class=menu style="display:inline">shown4</p><p id=ghost>secret</p>
    <p class=a>shown5<b>secret</b></p><p style="opacity: 0.5; display-x: none">shown6</p><p class=box>shown7</p>"""
    assert read(tmp_path / "a.html", page).split() == [f"shown{number}" for number in range(1, 8)]


@pytest.mark.parametrize(
    "damage", ["<![x[ y ", "<!" * 30_000, "<a " * 30_000, "<!--" * 30_000, "<a href='" * 30_000, "&#" * 30_000, "\x00"]
)
def test_damaged_html_is_read_in_seconds(damage: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f"<p>before</p>{damage}<p>after</p>")
    start = time.process_time()
    assert text_of(tmp_path / "a.html", pages.read_html).startswith("before")
    assert time.process_time() - start < 10


def test_a_large_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.html' has 11 MB of HTML, and at most 10 MB are read; split it"):
        read(tmp_path / "a.html", "x" * 11 * 10**6)


def test_many_references_to_one_page_are_refused_in_seconds(tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter()
    page = writer.add_blank_page(100, 100)
    tree = writer.root_object["/Pages"].get_object()
    tree[pypdf.generic.NameObject("/Kids")] = pypdf.generic.ArrayObject([page.indirect_reference] * 100_000)
    writer.write(tmp_path / "a.pdf")
    start = time.process_time()
    with pytest.raises(Unreadable, match="has 100,000 pages, and at most 2,000 are read"):
        text_of(tmp_path / "a.pdf", pages.read_pdf)
    assert time.process_time() - start < 10


class Panic(BaseException):
    """What a library in Rust raises when it fails."""


@pytest.mark.parametrize(
    "error", [Panic("a\ud800"), AssertionError(), MemoryError(), RecursionError(), StopIteration(2)]
)
def test_whatever_a_reader_raises_is_an_error_of_the_file(error: BaseException, tmp_path: Path) -> None:
    def fail(path: Path) -> str:
        raise error

    with pytest.raises(Unreadable, match="plain text") as caught:
        text_of(tmp_path, fail)
    str(caught.value).encode()


def test_halves_of_characters_in_files_are_replaced(tmp_path: Path) -> None:
    assert read(tmp_path / "a.json", r'{"a": "x \ud800 y"}') == "a: x ? y"
    assert read(tmp_path / "a.html", "<p>x &#xD800; y</p>").encode()


def test_pdf_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pdf(tmp_path / "a.pdf", "The tower is red.")
    assert read_document(path) == "The tower is red."
    with pytest.raises(ValueError, match="holds no text; scanned"):
        read_document(write_pdf(tmp_path / "b.pdf", ""))
    monkeypatch.setattr(pages, "PAGES", 0)
    with pytest.raises(Unreadable, match=r"has 1 pages, and at most 0 are read; split it"):
        text_of(path, READERS[".pdf"])


def test_mail_has_its_header_and_its_text(tmp_path: Path) -> None:
    message = mail(From="Ada Löve <ada@x.org>", To="bob@x.org", Subject="Der Türm", Received="from nowhere")
    message["Date"] = "Mon, 01 Jan 2024 10:00:00 +0000"
    message.set_content("The tower is red.\n")
    message.add_alternative("<p>The tower is <b>blue</b>.</p>", subtype="html")
    message.add_attachment(b"secret", maintype="application", subtype="pdf", filename="plän.pdf")
    assert read(tmp_path / "a.eml", bytes(message)).split("\n") == [
        *("From: Ada Löve <ada@x.org>", "To: bob@x.org", "Date: Mon, 01 Jan 2024 10:00:00 +0000", "Subject: Der Türm"),
        *("Attachments, not read: plän.pdf", "", "The tower is red."),
    ]


def test_html_mail_is_read_as_html_pages_are(tmp_path: Path) -> None:
    message = mail(Subject="tower")
    message.set_content("<style>p {}</style><h2>It</h2><p>is <b>château</b></p>", subtype="html", charset="latin-1")
    assert read(tmp_path / "a.eml", bytes(message)) == "Subject: tower\n\n## It\n\nis **château**"
    cut_off = b'Subject: tower\nContent-Type: multipart/mixed; boundary="x"\n\nit is red\n'
    assert read(tmp_path / "b.eml", cut_off) == "Subject: tower\n\nit is red"
    with pytest.raises(
        ValueError, match="c.eml' is not an e-mail: it has none of From, To, Cc, Date, Subject; .* name it"
    ):
        read(tmp_path / "c.eml", "the tower is red")


def test_a_missing_library_and_an_unknown_kind_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word_file(tmp_path / "b.docx", ("Normal", "x"))
    for module in ("pypdf", "docx"):
        monkeypatch.setitem(sys.modules, module, None)
    for path in (write_pdf(tmp_path / "a.pdf", "x"), tmp_path / "b.docx"):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'diekae\[documents\]'"):
            text_of(path, READERS[path.suffix])
    (tmp_path / "a.odt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="of a kind that cannot be read"):
        read_document(tmp_path / "a.odt")
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_document(tmp_path / "none.txt")


def test_a_file_of_an_unknown_kind_is_read_as_text_if_allowed(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("the tower is red\n")
    assert read_document(tmp_path / "notes", any_kind=True) == "the tower is red"
    with pytest.raises(ValueError, match="of a kind that cannot be read"):
        read_document(tmp_path / "notes")
    (tmp_path / "a.odt").write_bytes(b"PK\x00\x03")
    with pytest.raises(ValueError, match="is not a text; expected plain text, or one of .txt"):
        read_document(tmp_path / "a.odt", any_kind=True)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.pdf", b"nothing of the kind", "cannot be read as PDF .*save it again, or as plain text"),
        ("a.txt", "château".encode("latin-1"), "is not UTF-8 .*save it as UTF-8"),
        ("a.csv", "château,2".encode("utf-16"), "is not UTF-8"),
        ("b.csv", b'a,b\n"' + b"x" * 200_000, "cannot be read as CSV .*field larger"),
        ("a.json", b"[" * 100_000, "is nested too deeply to be read; save it as plain text"),
        ("b.json", b'{"a": 1}\n{"a": 2}', "is not JSON .*line 2 .*name it .jsonl"),
        ("a.jsonl", b'{"a": 1}\n\n{"a"', r"has no JSON in line 3 \(.*; correct or remove"),
        ("a.html", b"<div>" * 5000 + b"x", "is nested too deeply"),
        (
            "a.eml",
            b"Subject: x\nContent-Type: text/plain; charset=nonesuch\n\nhello",
            "cannot be read as EML .*nonesuch",
        ),
        ("a.md", b" \n", "holds no text"),
    ],
)
def test_the_error_for_an_unreadable_file_says_what_to_do(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}' {why}") as caught:
        read(tmp_path / name, content)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_large_files_are_refused_without_reading(tmp_path: Path) -> None:
    for suffix in READERS:
        path = tmp_path / f"a{suffix}"
        with open(path, "wb") as file:
            file.truncate(base.LARGEST + 10**6)
        with pytest.raises(ValueError, match=f"a{suffix}' has 51 MB, and at most 50 MB are read; split it"):
            read_document(path)


@pytest.mark.parametrize("suffix", sorted({*READERS} - {".txt", ".text", ".md", ".markdown", ".rst"}))
def test_a_damaged_file_is_read_or_raises_a_value_error(suffix: str, tmp_path: Path) -> None:
    """Lost or changed bytes never raise an exception of the library that reads the file."""
    path = tmp_path / f"a{suffix}"
    message = mail(From="a@x.org", Subject="tower")
    message.set_content("the tower")
    message.add_attachment(b"x" * 99, maintype="image", subtype="png", filename="a.png")
    content = {
        ".pdf": lambda: write_pdf(path, "the tower").read_bytes(),
        ".docx": lambda: word_file(path, ("Heading 1", "the"), ("List Bullet", "tower")).read_bytes(),
        ".eml": lambda: bytes(message),
        ".csv": lambda: b'a,b\n"the","tower"\n',
        ".tsv": lambda: b"a\tb\nthe\ttower\n",
        ".json": lambda: b'{"a": [1, {"b": "the tower"}]}',
        ".jsonl": lambda: b'{"a": 1}\n{"a": "the tower"}\n',
    }.get(suffix, lambda: b"<table><tr><td>the</td></tr></table><!-- x --><p>tower &amp; so</p>")()
    draw = random.Random(suffix)
    assert "tower" in read(path, content)
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 8)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(damaged)) :]
        try:
            assert read(path, bytes(damaged)).strip()
        except ValueError as error:
            assert str(error).startswith(repr(str(path))), error
