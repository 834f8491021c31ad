"""Texts out of files of each kind, and which files of a folder are read."""

import csv
import json
import os
import random
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from docx import Document
from docx.opc.constants import CONTENT_TYPE, RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from builders import write_pdf
from diekae.store.intake import AddResult, expand
from diekae.store.kinds import base, pages, word
from diekae.store.readers import READERS, find_documents, read_document


def read(path: Path, content: str | bytes) -> str:
    """Write a file and read it."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_document(path)


# Text and pages


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


def test_the_declaration_of_xml_is_no_text(tmp_path: Path) -> None:
    page = "<?xml version='1.0' encoding='UTF-8'?><!DOCTYPE html><html><body><p>the tower</p></body></html>"
    assert read(tmp_path / "a.xhtml", page) == "the tower"


def test_pdf_is_read_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pdf(tmp_path / "a.pdf", "The tower is red.")
    assert read_document(path) == "The tower is red."
    with pytest.raises(ValueError, match="holds no text; scanned"):
        read_document(write_pdf(tmp_path / "b.pdf", ""))
    monkeypatch.setattr(pages, "PAGES", 0)
    with pytest.raises(ValueError, match=r"a.pdf' has 1 pages, and at most 0 are read; split it"):
        read_document(path)


# Word


def word_file(path: Path, *parts: tuple[str, str] | str) -> Path:
    """A Word file of paragraphs, (style, text) each, and of elements in XML."""
    document = Document()
    for part in parts:
        if isinstance(part, tuple):
            document.add_paragraph(part[1], style=part[0])
        else:
            xml = parse_xml(part.replace(">", f" {nsdecls('w')}>", 1))
            document.element.body.insert(len(document.element.body) - 1, xml)
    document.save(str(path))
    return path


def test_headings_and_lists_of_word_are_markdown(tmp_path: Path) -> None:
    path = word_file(
        tmp_path / "a.docx",
        ("Title", "The tower"),
        ("Heading 2", "Its\nstory"),
        ("Normal", "It is\nred."),
        ("List Bullet", "stone"),
        ("List Bullet 2", "from the north"),
        ("List Bullet", "glass"),
        ("List Number", "go in"),
        ("List Number", "go up"),
        ("Normal", "So far."),
    )
    assert read_document(path).split("\n") == [
        *("# The tower", "", "## Its story", "", "It is", "red.", ""),
        *("- stone", "    - from the north", "- glass", "1. go in", "2. go up", "", "So far."),
    ]


def test_lists_count_by_level_and_begin_where_they_say(tmp_path: Path) -> None:
    document = Document()
    lists = document.part.numbering_part.element
    levels = "".join(
        f'<w:lvl w:ilvl="{n}"><w:start w:val="{start}"/><w:numFmt w:val="decimal"/></w:lvl>'
        for n, start in enumerate((4, 1))
    )
    lists.insert(0, parse_xml(f'<w:abstractNum {nsdecls("w")} w:abstractNumId="90">{levels}</w:abstractNum>'))
    lists.append(parse_xml(f'<w:num {nsdecls("w")} w:numId="91"><w:abstractNumId w:val="90"/></w:num>'))
    for level in (0, 1, 1, 0, 1):
        paragraph = document.add_paragraph("x", style="List Paragraph")
        place = f'<w:numPr {nsdecls("w")}><w:ilvl w:val="{level}"/><w:numId w:val="91"/></w:numPr>'
        paragraph._p.get_or_add_pPr().append(parse_xml(place))
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx").split("\n") == ["4. x", "    1. x", "    2. x", "5. x", "    1. x"]


def test_a_style_of_ones_own_is_the_heading_it_is_based_on(tmp_path: Path) -> None:
    document = Document()
    document.styles.add_style("Clause", 1).base_style = document.styles["Heading 3"]
    document.add_paragraph("Rent", style="Clause")
    outline = document.add_paragraph("Term")
    outline._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {nsdecls("w")} w:val="1"/>'))
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx") == "### Rent\n\n## Term"


def test_each_row_of_a_table_of_word_says_all(tmp_path: Path) -> None:
    document = Document()
    table = document.add_table(rows=3, cols=3)
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"{number}|x"
    table.cell(1, 0).merge(table.cell(2, 0)).text = "down"
    table.cell(1, 1).merge(table.cell(1, 2)).text = "across\ntwo"
    document.add_table(rows=1, cols=1).cell(0, 0).text = "framed"
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx").split("\n") == [
        r"| 0\|x | 1\|x | 2\|x |",
        "| --- | --- | --- |",
        "| down | across two | across two |",
        r"| down | 7\|x | 8\|x |",
        *("", "framed"),
    ]


def run(text: str, how: str = "") -> str:
    """A run of Word, in XML."""
    return f"<w:r><w:rPr>{how}</w:rPr><w:t>{text}</w:t></w:r>"


def test_word_keeps_what_is_seen_and_leaves_out_what_is_not(tmp_path: Path) -> None:
    tracked = (
        f'<w:ins w:id="1">{run(" inserted")}</w:ins><w:del w:id="2"><w:r><w:delText>gone</w:delText></w:r></w:del>'
    )
    form = f"<w:sdt><w:sdtContent>{run(' filled')}</w:sdtContent></w:sdt><w:hyperlink>{run(' linked')}</w:hyperlink>"
    hidden = run("unseen", "<w:vanish/>") + run(" shown", '<w:vanish w:val="0"/>')
    box = f"<w:r><w:pict><w:txbxContent><w:p>{run('a box')}</w:p></w:txbxContent></w:pict></w:r>"
    path = word_file(
        tmp_path / "a.docx",
        f"<w:p>{run('kept')}{tracked}{form}{hidden}</w:p>",
        f"<w:sdt><w:sdtContent><w:p>{run('a form')}</w:p></w:sdtContent></w:sdt>",
        f"<w:p>{box}{run('after')}</w:p>",
    )
    assert read_document(path) == "kept inserted filled linked shown\n\na form\n\na box\nafter"


def test_notes_of_word_stand_at_the_end(tmp_path: Path) -> None:
    document = Document()
    paragraph = document.add_paragraph("The tower")
    paragraph._p.append(parse_xml(f'<w:r {nsdecls("w")}><w:footnoteReference w:id="2"/></w:r>'))
    document.add_paragraph("is red.")
    notes = "".join(
        f"<w:footnote {kind}><w:p>{run(text)}</w:p></w:footnote>"
        for kind, text in (('w:id="0" w:type="separator"', "no"), ('w:id="2"', "Built in 1932."))
    )
    content = f"<w:footnotes {nsdecls('w')}>{notes}</w:footnotes>".encode()
    part = Part(PackURI("/word/footnotes.xml"), CONTENT_TYPE.WML_FOOTNOTES, content, document.part.package)
    document.part.relate_to(part, RELATIONSHIP_TYPE.FOOTNOTES)
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx") == "The tower[^2]\n\nis red.\n\n[^2]: Built in 1932."


def test_a_word_file_that_swells_or_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = word_file(tmp_path / "a.docx", ("Normal", "the tower"))
    monkeypatch.setattr(word, "UNPACKED", 1000)
    with pytest.raises(ValueError, match="a.docx' has 1 MB after unpacking, more than 0 MB; split it"):
        read_document(path)
    for content in (b"PK", b"\xd0\xcf\x11\xe0" + bytes(2000)):  # the second as a file with a password begins
        with pytest.raises(ValueError, match="b.docx' is not a Word file, is damaged or has a password"):
            read(tmp_path / "b.docx", content)


# Rows and records

NAMES = ("name", "born in", "height, m", 'said "so"')


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("seed", range(5))
def test_each_row_of_a_table_stands_alone(delimiter: str, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    values = ["Ada, L.", "a; b", "x|y", "1,5", "two\nlines", "", '"quoted"', "ü"]
    rows = [[draw.choice(values) for _ in NAMES] for _ in range(30)]
    with open(tmp_path / "a.csv", "w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([NAMES, *rows])
    want = [
        "; ".join(f"{name}: {' '.join(cell.split())}" for name, cell in zip(NAMES, row, strict=True) if cell)
        for row in rows
        if any(row)
    ]
    assert len(want) > 20 and read_document(tmp_path / "a.csv").split("\n") == want


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a,b\n", "a; b"),
        ("2,3\n4,5\n", "column 1: 2; column 2: 3\ncolumn 1: 4; column 2: 5"),
        (",2019,2020\nPeru,1.5,\n", "column 1: Peru; 2019: 1.5"),
        ("text\nhello, world\nyes, no\n", "text: hello, world\ntext: yes, no"),
        ("a,b,c\n1,2\n\n1,2,3,4\n", "a: 1; b: 2\na: 1; b: 2; c: 3; column 4: 4"),
    ],
)
def test_tables_are_seldom_as_they_should_be(content: str, text: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", content) == text
    assert read(tmp_path / "a.tsv", content.replace(", ", "{}").replace(",", "\t").replace("{}", ", ")) == text


def leaves(value: Any) -> list[str]:
    """All scalars in a value."""
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in leaves(inner)]
    return [str(value)]


def random_value(draw: random.Random, depth: int) -> Any:
    kind = draw.choice(("dict", "list", "scalar")) if depth else "scalar"
    if kind == "scalar":
        return draw.choice([draw.randint(0, 10**6), f"word {draw.randint(0, 10**6)}"])
    inner = [random_value(draw, depth - 1) for _ in range(draw.randint(1, 3))]
    return inner if kind == "list" else {f"key{number}": value for number, value in enumerate(inner)}


@pytest.mark.parametrize("seed", range(20))
def test_all_that_stands_in_json_is_said_in_its_order(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    entries = [random_value(draw, 4) for _ in range(5)]
    files = {"list.json": json.dumps(entries), "object.json": json.dumps({"all": {"of": entries[0]}})}
    files["lines.jsonl"] = "\n".join(map(json.dumps, entries))
    texts = {name: read(tmp_path / name, content) for name, content in files.items()}
    assert texts["list.json"] == texts["lines.jsonl"] and texts["list.json"].count("\n") == len(entries) - 1
    for name, value in (("list.json", entries), ("object.json", entries[0])):
        place = 0
        for leaf in leaves(value):
            place = texts[name].index(leaf, place) + len(leaf)


def test_json_is_laid_out_in_lines_that_say_what_they_are(tmp_path: Path) -> None:
    people = [
        {"name": "Ada", "born": 1815, "tags": ["a", "b"]},
        {"name": "Bob", "kids": [{"name": "Cid", "age": 3.10}], "ok": True},
    ]
    content = json.dumps({"count": 2, "at": {"city": "Turin", "street": None}, "people": people})
    assert read(tmp_path / "a.json", content.replace("3.1", "3.10")).split("\n") == [
        *("count: 2", "at.city: Turin", "at.street: none", "people[1]: name: Ada; born: 1815; tags: a, b"),
        "people[2]: name: Bob; kids[1]: (name: Cid; age: 3.10); ok: true",
    ]
    assert read(tmp_path / "b.jsonl", '{"a": "x\\ny"}\n\n{"a": "one\u2028line"}\r\n') == "a: x y\na: one line"


# E-mail


def mail(**head: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in head.items():
        message[name] = value
    return message


def test_mail_is_its_head_and_its_text(tmp_path: Path) -> None:
    message = mail(From="Ada Löve <ada@x.org>", To="bob@x.org", Subject="Der Türm", Received="from nowhere")
    message["Date"] = "Mon, 01 Jan 2024 10:00:00 +0000"
    message.set_content("The tower is red.\n")
    message.add_alternative("<p>The tower is <b>blue</b>.</p>", subtype="html")
    message.add_attachment(b"secret", maintype="application", subtype="pdf", filename="plän.pdf")
    assert read(tmp_path / "a.eml", bytes(message)).split("\n") == [
        *("From: Ada Löve <ada@x.org>", "To: bob@x.org", "Date: Mon, 01 Jan 2024 10:00:00 +0000", "Subject: Der Türm"),
        *("Attachments, not read: plän.pdf", "", "The tower is red."),
    ]


def test_html_of_mail_is_read_as_pages_are(tmp_path: Path) -> None:
    message = mail(Subject="tower")
    message.set_content("<style>p {}</style><h2>It</h2><p>is <b>château</b></p>", subtype="html", charset="latin-1")
    assert read(tmp_path / "a.eml", bytes(message)) == "Subject: tower\n\n## It\n\nis **château**"
    cut_off = b'Subject: tower\nContent-Type: multipart/mixed; boundary="x"\n\nit is red\n'
    assert read(tmp_path / "b.eml", cut_off) == "Subject: tower\n\nit is red"
    with pytest.raises(
        ValueError, match="c.eml' is not an e-mail: it has none of From, To, Cc, Date, Subject; .* name it"
    ):
        read(tmp_path / "c.eml", "the tower is red")


# What cannot be read


def test_a_missing_library_and_an_unknown_kind_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word_file(tmp_path / "b.docx", ("Normal", "x"))
    for module in ("pypdf", "docx"):
        monkeypatch.setitem(sys.modules, module, None)
    for path in (write_pdf(tmp_path / "a.pdf", "x"), tmp_path / "b.docx"):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'diekae\[documents\]'"):
            read_document(path)
    (tmp_path / "a.odt").write_bytes(b"PK")
    with pytest.raises(ValueError, match="of a kind that cannot be read"):
        read_document(tmp_path / "a.odt")
    with pytest.raises(FileNotFoundError, match="no file at"):
        read_document(tmp_path / "none.txt")


def test_a_file_of_an_unknown_kind_is_read_as_text_where_it_may_be(tmp_path: Path) -> None:
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
def test_what_cannot_be_read_is_named_with_what_to_do(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name}' {why}") as caught:
        read(tmp_path / name, content)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    for suffix in READERS:
        path = tmp_path / f"a{suffix}"
        with open(path, "wb") as file:
            file.truncate(base.LARGEST + 10**6)
        with pytest.raises(ValueError, match=f"a{suffix}' has 51 MB, and at most 50 MB are read; split it"):
            read_document(path)


@pytest.mark.parametrize("suffix", sorted({*READERS} - {".txt", ".text", ".md", ".markdown", ".rst"}))
def test_a_damaged_file_is_read_or_named_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    """Any bytes lost or changed: never an exception of the library beneath."""
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


# Folders


def names_of(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_what_is_not_read_of_a_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    for name in (
        "a.txt",
        "deep/b.PDF",
        "picture.png",
        "deep/noname",
        "deep/deeper/c.csv",
        ".git/d.txt",
        ".e.txt",
        "~$f.docx",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    found, skipped = find_documents(folder)
    assert names_of(found) == ["a.txt", "b.PDF", "c.csv"] and names_of(skipped) == ["noname", "picture.png"]


def test_links_that_lead_out_of_the_folder_are_skipped_and_named(tmp_path: Path) -> None:
    folder, outside = tmp_path / "docs", tmp_path / "docs-of-others"
    for name in (folder / "inner" / "a.txt", outside / "secret.txt"):
        name.parent.mkdir(parents=True)
        name.write_text("x")
    links = {
        "file.txt": outside / "secret.txt",
        "folder": outside,
        "up": tmp_path,
        "nowhere.txt": folder / "none.txt",
        "circle.txt": folder / "circle.txt",
        "within.txt": folder / "inner" / "a.txt",
        "around": folder / "inner",
        ".hidden.txt": outside / "secret.txt",
    }
    for name, target in links.items():
        os.symlink(target, folder / name)
    found, skipped = find_documents(folder)
    assert names_of(found) == ["a.txt", "within.txt"]
    assert names_of(skipped) == ["circle.txt", "file.txt", "folder", "nowhere.txt", "up"]


def test_a_store_among_the_documents_is_passed_by(tmp_path: Path) -> None:
    for name in (
        "kept/catalogue.sqlite",
        "kept/catalogue.sqlite-wal",
        "kept/memories/bank/x.safetensors",
        "memories/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found, skipped = find_documents(tmp_path)
    assert names_of(found) == ["a.txt"] and not skipped


def test_what_is_skipped_is_noted_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "deep" / "b.png").write_text("x")
    added = AddResult()
    inputs = expand([tmp_path, tmp_path / "deep", "a text\n"], {}, added)
    assert [content for content, _ in inputs] == [tmp_path / "a.txt", "a text\n"]
    assert added.skipped == [str(tmp_path / "deep" / "b.png")] and not added.failed and not added.gone
