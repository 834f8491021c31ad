"""Word's lists: the bullet or number before each item, as Word itself counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from diekae.readers.word_elements import attribute, children, find


class ListMarks:
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

        Args:
            paragraph: The paragraph's element.
            styles: The elements of its style and of the styles that this is based on.
            style_names: Their names.
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
