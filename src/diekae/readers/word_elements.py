"""Word's XML elements by name, without their namespaces; python-docx gives them as lxml elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

WRAPPERS = ("sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo")
"""Elements around paragraphs, rows and cells that do not change what is read."""


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
