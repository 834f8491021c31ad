"""Which elements of an HTML page are hidden: by the attribute ``hidden``, by their style, or by a style sheet in it.

Only rules that apply on every screen count. Later rules win; the precedence of selectors is ignored.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from diekae.readers.base import need

WORK = 2 * 10**6
"""Most comparisons of a rule with an element: a few seconds."""
_HIDES = re.compile(r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse))")
_SHOWS = re.compile(r"(?:^|[;\s])(?:display\s*:\s*(?!none)\w|visibility\s*:\s*visible)")
_COMMENT = re.compile(r"/\*.*?\*/|<!--|-->", re.DOTALL)
_RULE = re.compile(r"([^{}]*)\{([^{}]*)\}")
_BRACE = re.compile("[{};]")


def hidden_elements(soup: Any) -> list[Any]:
    """Return the elements of a parsed page that a browser does not show."""
    soupsieve = need("soupsieve")
    elements = soup.find_all(True)
    hidden = {id(element): element for element in elements if element.has_attr("hidden")}
    for selector, hides in islice(_rules(soup), WORK // max(1, len(elements))):
        try:
            if hides:
                hidden |= {id(element): element for element in soupsieve.select(selector, soup)}
            else:
                hidden = {key: element for key, element in hidden.items() if not soupsieve.match(selector, element)}
        except (soupsieve.SelectorSyntaxError, NotImplementedError):
            continue  # a selector of one browser
    for element in elements:
        style = str(element.get("style", "")).lower()
        if _HIDES.search(style):
            hidden[id(element)] = element
        elif _SHOWS.search(style):
            hidden.pop(id(element), None)
    return [element for element in hidden.values() if element.name not in ("html", "body")]


def _rules(soup: Any) -> Iterator[tuple[str, bool]]:
    """Yield the selector of each rule that hides or shows something, and whether it hides."""
    for sheet in soup("style"):
        for match in _RULE.finditer(_without_conditions(_COMMENT.sub("", sheet.get_text()))):
            declarations = match[2].lower()
            hides = _HIDES.search(declarations) is not None
            if hides or _SHOWS.search(declarations):
                yield match[1].strip(), hides


def _without_conditions(css: str) -> str:
    """Return a style sheet without its @-rules, such as rules for print."""
    parts, position = list[str](), 0
    while (start := css.find("@", position)) >= 0:
        parts.append(css[position:start])
        position = _end_of_rule(css, start)
    return "".join([*parts, css[position:]])


def _end_of_rule(css: str, start: int) -> int:
    """Return where an @-rule ends: at its semicolon, or where its braces are closed."""
    depth = 0
    for match in _BRACE.finditer(css, start):
        depth += {"{": 1, "}": -1, ";": 0}[match[0]]
        if depth <= 0:
            return match.end()
    return len(css)
