"""Word: .docx as Markdown, by python-docx.

The file's own elements are walked, for python-docx's lists of paragraphs and cells leave out what stands in content
controls (forms, cover pages) and what was inserted with changes tracked. What was deleted so, hidden text, headers,
footers, comments and the table of contents are left out.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diekae.store.kinds.base import Unreadable, markdown_table, need, one_line

UNPACKED = 200 * 10**6
"""Most bytes of a file once it is unpacked: a small file can hold a great deal of nothing."""
HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
WRAPPERS = ("sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo")
"""Elements that stand around paragraphs, rows and cells, and mean nothing here."""
UNSEEN = ("del", "moveFrom", "pPr", "rt", "Fallback")
"""Elements in a paragraph whose text is none of it: deleted, how a word is read, and the same text box once more."""
NOTES = ("footnote", "endnote")
COLUMNS = 63
"""Most columns of a table in Word."""


def read_word(path: Path) -> str:
    """Return a Word file as Markdown: headings, lists and tables are marked, and notes stand at the end.

    Raises:
        Unreadable: It is no Word file, is encrypted, or is too large once it is unpacked.
    """
    docx = need("docx")
    if not zipfile.is_zipfile(path):
        raise Unreadable(
            "is no Word file, or is damaged or has a password; open it in Word and save it anew as .docx, without one."
        )
    with zipfile.ZipFile(path) as packed:
        if (size := sum(part.file_size for part in packed.infolist())) > UNPACKED:
            raise Unreadable(f"has {size / 1e6:.0f} MB once unpacked, more than {UNPACKED / 1e6:.0f} MB; split it.")
    document = docx.Document(str(path))
    reading = _Reading(document)
    blocks = list(reading.blocks(document.element.body))
    return "\n".join([*_spaced(blocks), *reading.notes()])


@dataclass(frozen=True)
class _Block:
    text: str
    item: bool = False
    """Whether it is an item of a list, which stands close to the next."""


def _spaced(blocks: list[_Block]) -> Iterator[str]:
    """Yield lines, an empty one between two blocks unless both are items."""
    for number, block in enumerate(blocks):
        if number and not (block.item and blocks[number - 1].item):
            yield ""
        yield block.text


@dataclass
class _Reading:
    """One file while it is read."""

    document: Any
    counts: dict[tuple[str, int], int] = field(default_factory=dict)
    """How far each list has counted, by its number and level."""

    def blocks(self, parent: Any) -> Iterator[_Block]:
        """Yield what stands in the body or in a cell."""
        for element in _children(parent, ("p", "tbl")):
            block = self._paragraph(element) if _name(element) == "p" else _Block(self._table(element))
            if block.text.strip():
                yield block

    def notes(self) -> Iterator[str]:
        """Yield footnotes and endnotes, each under the mark that stands in the text."""
        for kind in NOTES:
            for note in _children(self._part(f"{kind}s"), (kind,)):
                text = one_line(" ".join(block.text for block in self.blocks(note)))
                if text and _value(note, "type") in (None, "normal"):
                    yield f"\n[^{_mark(kind, note)}]: {text}"

    def _part(self, kind: str) -> Any:
        """Return the elements of a part of the file; none where there is no such part."""
        for relation in self.document.part.rels.values():
            if relation.reltype.endswith(f"/{kind}") and not relation.is_external:
                return need("docx.oxml").parse_xml(relation.target_part.blob)
        return ()

    def _paragraph(self, element: Any) -> _Block:
        text = _text(element).strip()
        styles = list(self._styles(element))
        names = [_value(_child(style, "name"), "val") or "" for style in styles]
        if not text or any(name.lower().startswith("toc ") for name in names):
            return _Block("")
        if level := self._heading(element, styles, names):
            return _Block(f"{'#' * level} {one_line(text)}")
        mark = self._item(element, styles, names)
        return _Block(text) if mark is None else _Block(mark + text, item=True)

    def _styles(self, element: Any) -> Iterator[Any]:
        """Yield a paragraph's style and those that it is based on."""
        name = _value(_find(element, "pPr", "pStyle"), "val")
        for _ in self._known:  # a circle ends
            if (style := self._known.get(name)) is None:
                return
            yield style
            name = _value(_child(style, "basedOn"), "val")

    @cached_property
    def _known(self) -> dict[str | None, Any]:
        """Return all styles by their id."""
        return {_value(style, "styleId"): style for style in _children(self.document.styles.element, ("style",))}

    def _heading(self, element: Any, styles: list[Any], names: list[str]) -> int:
        """Return a heading's level, 0 for other paragraphs."""
        for name in names:
            if match := HEADING.fullmatch(name):
                return min(6, int(match[1]))
            if name.lower() == "title":
                return 1
        for holder in (element, *styles):
            if (level := _value(_find(holder, "pPr", "outlineLvl"), "val")) is not None:
                return 0 if int(level) > 8 else min(6, int(level) + 1)
        return 0

    def _item(self, element: Any, styles: list[Any], names: list[str]) -> str | None:
        """Return what stands before an item of a list; None for other paragraphs."""
        places = (_find(holder, "pPr", "numPr") for holder in (element, *styles))
        place = next((place for place in places if place is not None), None)
        number = _value(_child(place, "numId"), "val")
        if number in (None, "0"):
            return None
        level = int(_value(_child(place, "ilvl"), "val") or 0)
        kind, start = self._numbering(number, level)
        for other in [key for key in self.counts if key[0] == number and key[1] > level]:
            del self.counts[other]
        count = self.counts[number, level] = self.counts.get((number, level), start - 1) + 1
        digit = re.search(r"\d$", names[0]) if names else None  # "List Bullet 2" is a list of its own
        depth = max(level, int(digit[0]) - 1 if digit else 0)
        return "    " * depth + ("- " if kind in ("bullet", "none") else f"{count}. ")

    def _numbering(self, number: str, level: int) -> tuple[str, int]:
        """Return how a level of a list is marked, ``bullet`` or a way to count, and where it starts."""
        return self._levels.get((number, level), ("bullet", 1))

    @cached_property
    def _levels(self) -> dict[tuple[str | None, int], tuple[str, int]]:
        """Return the same for every level of every list, by the list's number."""
        numbering = self._part("numbering")
        kinds = {_value(kind, "abstractNumId"): kind for kind in _children(numbering, ("abstractNum",))}
        levels = {}
        for entry in _children(numbering, ("num",)):
            for level in _children(kinds.get(_value(_child(entry, "abstractNumId"), "val"), ()), ("lvl",)):
                mark, start = (_value(_child(level, name), "val") for name in ("numFmt", "start"))
                key = _value(entry, "numId"), int(_value(level, "ilvl") or 0)
                levels[key] = mark or "decimal", int(start or 1)
        return levels

    def _table(self, element: Any) -> str:
        """Lay out a table; a cell that spans several rows or columns is repeated, so that each row says all."""
        rows: list[list[str]] = []
        for row in _children(element, ("tr",)):
            if _find(row, "trPr", "del") is not None:
                continue
            cells = [""] * _columns(_find(row, "trPr", "gridBefore"), 0)
            for cell in _children(row, ("tc",)):
                text = "\n".join(_spaced(list(self.blocks(cell))))
                merged = _find(cell, "tcPr", "vMerge")
                if merged is not None and _value(merged, "val") != "restart" and rows and len(cells) < len(rows[-1]):
                    text = rows[-1][len(cells)]
                cells += [text] * _columns(_find(cell, "tcPr", "gridSpan"), 1)
            rows.append(cells)
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        if not rows:
            return ""
        # A table of one cell is a frame around text.
        return rows[0][0] if len(rows) == len(rows[0]) == 1 else markdown_table(rows)


def _text(paragraph: Any) -> str:
    """Return the text of a paragraph: also in links, fields, formulas, text boxes and insertions."""
    parts = []
    for element in paragraph:
        name = _name(element)
        if name in UNSEEN or (name == "r" and _is_on(_find(element, "rPr", "vanish"))):
            continue
        if name == "t":
            parts.append(element.text or "")
        elif name in ("br", "cr", "tab", "noBreakHyphen"):
            parts.append({"tab": "\t", "noBreakHyphen": "-"}.get(name, "\n"))
        elif name in ("footnoteReference", "endnoteReference"):
            parts.append(f"[^{_mark(name.removesuffix('Reference'), element)}]")
        else:
            parts.append(f"\n{_text(element)}\n" if name == "p" else _text(element))
    return "".join(parts)


def _columns(element: Any, default: int) -> int:
    """Return how many columns an element names."""
    return min(COLUMNS, int(_value(element, "val") or default))


def _is_on(element: Any) -> bool:
    """Tell whether a switch is there and on."""
    return element is not None and _value(element, "val") not in ("0", "false", "off")


def _mark(kind: str, element: Any) -> str:
    """Return how a note is named: footnotes by their number, endnotes apart from them."""
    number = _value(element, "id") or ""
    return number if kind == "footnote" else f"end {number}"


def _name(element: Any) -> str:
    """Return an element's name without its namespace; nothing for comments."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _children(parent: Any, names: tuple[str, ...]) -> Iterator[Any]:
    """Yield the children of these names, also those within wrappers."""
    for element in parent:
        if _name(element) in names:
            yield element
        elif _name(element) in WRAPPERS:
            yield from _children(element, names)


def _child(element: Any, name: str) -> Any:
    return None if element is None else next((inner for inner in element if _name(inner) == name), None)


def _find(element: Any, *names: str) -> Any:
    """Return the element that a way of names leads to, or None."""
    for name in names:
        element = _child(element, name)
    return element


def _value(element: Any, name: str) -> str | None:
    """Return an attribute, whatever its namespace; None where there is none, or no element."""
    if element is None:
        return None
    return next((str(value) for key, value in element.attrib.items() if key.rpartition("}")[2] == name), None)
