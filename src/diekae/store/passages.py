"""Documents cut into passages: what a question leads to, and what of a prepared document is read for it.

The cutting is by semantic-text-splitter: at headings, then paragraphs, list items, rows and sentences, and in the midst
of one only where it alone is too long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST, MOST = 64, 160
"""Tokens of a passage: neighbours are put together until there are so many, and never more."""
CHARACTERS = 4
"""Characters that stand for a token where there is no tokenizer."""
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)


@dataclass(frozen=True)
class Passage:
    """One passage of a document."""

    start: int
    """Its first character in the document's text."""
    end: int
    """The character behind its last."""
    heading: str
    """The headings above it, from the outermost: ``Manual > Cleaning``; empty where there is none."""


def split(text: str, tokenizer: PreTrainedTokenizerBase | None = None) -> list[Passage]:
    """Cut a document into passages, in order.

    Args:
        text: The document; Markdown's headings, lists and tables are known.
        tokenizer: Counts tokens; without one, four characters are a token.
    """
    headings = [(found.start(), len(found[1]), found[2]) for found in _HEADING.finditer(text)]
    pieces = _splitter(tokenizer).chunk_indices(text)
    return [Passage(start, start + len(piece), _above(headings, start)) for start, piece in pieces]


def _splitter(tokenizer: Any) -> Any:
    # Imported here: a store that is only listed needs no splitter.
    from semantic_text_splitter import MarkdownSplitter

    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        return MarkdownSplitter((LEAST * CHARACTERS, MOST * CHARACTERS))
    return MarkdownSplitter.from_huggingface_tokenizer(fast, (LEAST, MOST))


def _above(headings: list[tuple[int, int, str]], place: int) -> str:
    """Return the headings that stand above a place, its own among them."""
    path: dict[int, str] = {}
    for start, level, words in headings:
        if start > place:
            break
        path = {upper: known for upper, known in path.items() if upper < level}
        path[level] = words
    return " > ".join(path.values())
