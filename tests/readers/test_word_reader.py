"""Word files as Markdown."""

from pathlib import Path

import pytest
from docx import Document
from docx.opc.constants import CONTENT_TYPE, RELATIONSHIP_TYPE
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from diekae.readers import read_document, word
from document_files import read, run, word_file


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


def test_lists_are_numbered_by_level_from_their_start_value(tmp_path: Path) -> None:
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


def test_a_style_based_on_a_heading_is_a_heading(tmp_path: Path) -> None:
    document = Document()
    document.styles.add_style("Clause", 1).base_style = document.styles["Heading 3"]
    document.add_paragraph("Rent", style="Clause")
    outline = document.add_paragraph("Term")
    outline._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {nsdecls("w")} w:val="1"/>'))
    document.save(str(tmp_path / "a.docx"))
    assert read_document(tmp_path / "a.docx") == "### Rent\n\n## Term"


def test_merged_cells_of_a_word_table_are_repeated(tmp_path: Path) -> None:
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


def test_word_keeps_visible_text_and_leaves_out_hidden_text(tmp_path: Path) -> None:
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


def test_notes_of_word_are_at_the_end(tmp_path: Path) -> None:
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


def test_word_files_too_large_after_unpacking_and_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = word_file(tmp_path / "a.docx", ("Normal", "the tower"))
    monkeypatch.setattr(word, "UNPACKED", 1000)
    with pytest.raises(ValueError, match="has 1 MB after unpacking, more than 0 MB; split it"):
        word.read_word(path)
    for content in (b"PK", b"\xd0\xcf\x11\xe0" + bytes(2000)):  # the second as a file with a password begins
        with pytest.raises(ValueError, match="b.docx' is not a Word file, is damaged or has a password"):
            read(tmp_path / "b.docx", content)


def test_tables_that_multiply_their_text_are_refused(tmp_path: Path) -> None:
    """Each table in a cell over 63 columns has its text 63 times: five of them, a thousand million times."""
    table = f"<w:p>{run('tower')}</w:p>"
    for _ in range(6):
        cell = f'<w:tc><w:tcPr><w:gridSpan w:val="63"/></w:tcPr>{table}</w:tc>'
        table = f"<w:tbl><w:tr>{cell}</w:tr></w:tbl>"
    with pytest.raises(ValueError, match="has merged cells whose text grows too large"):
        read_document(word_file(tmp_path / "a.docx", table))
