"""Word: .docx as Markdown, by python-docx.

The file's own elements are read, because python-docx's lists of paragraphs and cells lack content controls (forms,
cover pages) and tracked insertions. Left out are tracked deletions, hidden text, headers, footers, comments and the
table of contents.
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from diekae.readers.base import Unreadable, markdown_table, need, one_line

UNPACKED = 200 * 10**6
"""Most bytes of a file after unpacking: a small file may unpack to any size."""
HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
UNSEEN = ("del", "moveFrom", "pPr", "rt", "Fallback")
"""Elements of a paragraph whose text is not read: deleted text, pronunciation, the second copy of a text box."""
NOTES = ("footnote", "endnote")
COLUMNS = 63
"""Most columns of a table in Word."""
WRAPPERS = ("sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo")
"""Elements around paragraphs, rows and cells that do not change what is read."""


def read_word(path: Path) -> str:
    """Return a Word file as Markdown, with headings, lists and tables, and its notes at the end."""
    docx = need("docx")
    if not zipfile.is_zipfile(path):
        raise Unreadable(
            "is not a Word file, is damaged or has a password; open it in Word and save it again as .docx, without one."
        )
    with zipfile.ZipFile(path) as packed:
        if (size := sum(part.file_size for part in packed.infolist())) > UNPACKED:
            raise Unreadable(f"has {size / 1e6:.0f} MB after unpacking, more than {UNPACKED / 1e6:.0f} MB; split it.")
    document = docx.Document(str(path))
    converter = _MarkdownConverter(document)
    blocks = list(converter.blocks(document.element.body))
    return "\n".join([*_spaced(blocks), *converter.notes()])


@dataclass(frozen=True)
class _MarkdownBlock:
    """A paragraph, an item of a list, or a table."""

    text: str
    is_item: bool = False


def _spaced(blocks: list[_MarkdownBlock]) -> Iterator[str]:
    """Yield lines, with an empty one between two blocks unless both are items."""
    for number, block in enumerate(blocks):
        if number and not (block.is_item and blocks[number - 1].is_item):
            yield ""
        yield block.text


class _MarkdownConverter:
    """Converts the elements of one file, in order."""

    def __init__(self, document: Any) -> None:
        self._document = document
        self._styles = {attribute(style, "styleId"): style for style in children(document.styles.element, "style")}
        self._table_characters = 0
        self._list_marks = _ListMarks(lambda: self._part("numbering"))

    def blocks(self, parent: Any) -> Iterator[_MarkdownBlock]:
        """Yield the blocks of the body or of a cell."""
        for element in children(parent, "p", "tbl"):
            block = self._paragraph(element) if name_of(element) == "p" else _MarkdownBlock(self._table(element))
            if block.text.strip():
                yield block

    def notes(self) -> Iterator[str]:
        """Yield footnotes and endnotes, each with the mark that refers to it in the text."""
        for kind in NOTES:
            for note in children(self._part(f"{kind}s"), kind):
                text = one_line(" ".join(block.text for block in self.blocks(note)))
                if text and attribute(note, "type") in (None, "normal"):
                    yield f"\n[^{_note_mark(kind, note)}]: {text}"

    def _part(self, kind: str) -> Any:
        """Return the elements of a part of the file; none if there is no such part."""
        for relation in self._document.part.rels.values():
            if relation.reltype.endswith(f"/{kind}") and not relation.is_external:
                return need("docx.oxml").parse_xml(relation.target_part.blob)
        return ()

    def _paragraph(self, element: Any) -> _MarkdownBlock:
        text = _text(element).strip()
        styles = list(self._styles_of(element))
        names = [attribute(find(style, "name"), "val") or "" for style in styles]
        if not text or any(name.lower().startswith("toc ") for name in names):
            return _MarkdownBlock("")
        if level := _heading_level(element, styles, names):
            return _MarkdownBlock(f"{'#' * level} {one_line(text)}")
        mark = self._list_marks.mark(element, styles, names)
        return _MarkdownBlock(text) if mark is None else _MarkdownBlock(mark + text, is_item=True)

    def _styles_of(self, paragraph: Any) -> Iterator[Any]:
        """Yield a paragraph's style, and the styles that this is based on."""
        name = attribute(find(paragraph, "pPr", "pStyle"), "val")
        for _ in self._styles:  # a damaged file may have styles based on each other: no more steps than styles
            if (style := self._styles.get(name)) is None:
                return
            yield style
            name = attribute(find(style, "basedOn"), "val")

    def _count_copies(self, characters: int) -> None:
        """Refuse a file whose tables grow without end: a table in a merged cell is repeated in each of its columns."""
        self._table_characters += characters
        if self._table_characters > UNPACKED:
            raise Unreadable("has merged cells whose text grows too large; save it as plain text (.txt).")

    def _table(self, element: Any) -> str:
        """Return a table as Markdown; a cell over several rows or columns is repeated, so that each row is complete."""
        rows: list[list[str]] = []
        for row in children(element, "tr"):
            if find(row, "trPr", "del") is not None:
                continue
            cells = [""] * _column_count(find(row, "trPr", "gridBefore"), 0)
            for cell in children(row, "tc"):
                text = "\n".join(_spaced(list(self.blocks(cell))))
                merged = find(cell, "tcPr", "vMerge")
                continued = merged is not None and attribute(merged, "val") != "restart"
                if continued and rows and len(cells) < len(rows[-1]):
                    text = rows[-1][len(cells)]
                cells += [text] * _column_count(find(cell, "tcPr", "gridSpan"), 1)
            rows.append(cells)
            self._count_copies(sum(map(len, cells)))
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        if not rows:
            return ""
        # A table of one cell is a frame around text.
        return rows[0][0] if len(rows) == len(rows[0]) == 1 else markdown_table(rows)


def _heading_level(paragraph: Any, styles: list[Any], style_names: list[str]) -> int:
    """Return a heading's level from 1 to 6, and 0 for other paragraphs."""
    for name in style_names:
        if match := HEADING.fullmatch(name):
            return min(6, int(match[1]))
        if name.lower() == "title":
            return 1
    for element in (paragraph, *styles):
        if (level := attribute(find(element, "pPr", "outlineLvl"), "val")) is not None:
            return 0 if int(level) > 8 else min(6, int(level) + 1)
    return 0


def _text(paragraph: Any) -> str:
    """Return the text of a paragraph, with that of links, fields, formulas, text boxes and insertions."""
    parts = []
    for element in paragraph:
        name = name_of(element)
        if name in UNSEEN or (name == "r" and is_on(find(element, "rPr", "vanish"))):
            continue
        if name == "t":
            parts.append(element.text or "")
        elif name in ("br", "cr", "tab", "noBreakHyphen"):
            parts.append({"tab": "\t", "noBreakHyphen": "-"}.get(name, "\n"))
        elif name in ("footnoteReference", "endnoteReference"):
            parts.append(f"[^{_note_mark(name.removesuffix('Reference'), element)}]")
        else:
            parts.append(f"\n{_text(element)}\n" if name == "p" else _text(element))
    return "".join(parts)


def _column_count(element: Any, default: int) -> int:
    """Return how many columns an element names."""
    return min(COLUMNS, int(attribute(element, "val") or default))


def _note_mark(kind: str, element: Any) -> str:
    """Return the mark of a note: its number for a footnote, and ``end`` with its number for an endnote."""
    number = attribute(element, "id") or ""
    return number if kind == "footnote" else f"end {number}"


def name_of(element: Any) -> str:
    """Return an element's name; an empty text for a comment."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def children(parent: Any, *names: str) -> Iterator[Any]:
    """Yield the children with one of these names, also those inside wrappers."""
    for element in parent:
        if name_of(element) in names:
            yield element
        elif name_of(element) in WRAPPERS:
            yield from children(element, *names)


def find(element: Any, *names: str) -> Any:
    """Return the element at the end of a path of names, or None. The start may be None too."""
    for name in names:
        if element is None:
            return None
        element = next((child for child in element if name_of(child) == name), None)
    return element


def attribute(element: Any, name: str) -> str | None:
    """Return an attribute, whatever its namespace; None if there is none, or no element."""
    if element is None:
        return None
    return next((str(value) for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)


def is_on(element: Any) -> bool:
    """Tell whether a switch is present and on."""
    return element is not None and attribute(element, "val") not in ("0", "false", "off")


class _ListMarks:
    """The marks of list items, given one after the other in the order of the document."""

    def __init__(self, read_numbering: Callable[[], Any]) -> None:
        """Use the part of the file that says how lists are marked; it is read when the first item needs it."""
        self._read_numbering = read_numbering
        self._counts: dict[tuple[str, int], int] = {}
        """How far each list has counted, by its number and level."""

    @cached_property
    def _levels(self) -> dict[tuple[str | None, int], tuple[str, int]]:
        """Return the kind of mark (``bullet``, or a way of counting) and the first number, by list number and level."""
        numbering = self._read_numbering()
        definitions = {attribute(element, "abstractNumId"): element for element in children(numbering, "abstractNum")}
        levels = {}
        for element in children(numbering, "num"):
            definition = definitions.get(attribute(find(element, "abstractNumId"), "val"), ())
            for level in children(definition, "lvl"):
                kind, start = (attribute(find(level, name), "val") for name in ("numFmt", "start"))
                key = attribute(element, "numId"), int(attribute(level, "ilvl") or 0)
                levels[key] = kind or "decimal", int(start or 1)
        return levels

    def mark(self, paragraph: Any, styles: Sequence[Any], style_names: Sequence[str]) -> str | None:
        """Return the mark of an item, indented by its level; None for a paragraph that is no item.

        The styles are that of the paragraph and those that it is based on.
        """
        candidates = (find(element, "pPr", "numPr") for element in (paragraph, *styles))
        item = next((element for element in candidates if element is not None), None)
        number = attribute(find(item, "numId"), "val")
        if number in (None, "0"):
            return None
        level = int(attribute(find(item, "ilvl"), "val") or 0)
        kind, start = self._levels.get((number, level), ("bullet", 1))
        for key in [key for key in self._counts if key[0] == number and key[1] > level]:
            del self._counts[key]  # deeper levels start again
        count = self._counts[number, level] = self._counts.get((number, level), start - 1) + 1
        digit = re.search(r"\d$", style_names[0]) if style_names else None  # "List Bullet 2" is a list of its own
        depth = max(level, int(digit[0]) - 1 if digit else 0)
        return "    " * depth + ("- " if kind in ("bullet", "none") else f"{count}. ")
