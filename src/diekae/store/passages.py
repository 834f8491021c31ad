"""Documents cut into passages: what a question leads to, and what of a prepared document is read for it.

The cutting is by semantic-text-splitter: at headings, then paragraphs, list items, rows and sentences, and in the midst
of one only where it alone is too long. It knows no difference between a table and its rows, so tables that it cut are
put together here where they fit.
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST, MOST = 64, 160
"""Tokens of a passage: neighbours are put together until there are so many, and never more."""
CHARACTERS = 4
"""Characters that stand for a token where there is no tokenizer."""
_HEADING = re.compile(
    r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)"  # code, in which a # is a comment
    r"|^ {0,3}(?P<level>#{1,6})[ \t](?P<words>[^\n]*)",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(r"(?:^ {0,3}\|[^\n]*(?:\n|\Z)){2,}", re.MULTILINE)
Span = tuple[int, int]
"""First character, and the one behind the last."""


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
    starts, paths = _headings(text)
    splitter, size = _splitter(tokenizer)
    pieces = [(start, start + len(piece)) for start, piece in splitter.chunk_indices(text)]
    whole = _with_whole_tables(text, pieces, lambda start, end: size(text[start:end]) <= MOST)
    return [Passage(start, end, paths[bisect_right(starts, start)]) for start, end in whole]


def _headings(text: str) -> tuple[list[int], list[str]]:
    """Return where each heading stands; and all headings above a place before the first, behind it, and so on."""
    starts, paths, above = list[int](), [""], dict[int, str]()
    for match in _HEADING.finditer(text):
        words = (match["words"] or "").strip()
        if (bare := words.rstrip("#")) != words and bare[-1:] in ("", " ", "\t"):
            words = bare.rstrip()  # the heading is closed by the same mark
        if words:
            level = len(match["level"])
            above = {upper: known for upper, known in above.items() if upper < level} | {level: words}
            starts.append(match.start("level"))
            paths.append(" > ".join(above.values()))
    return starts, paths


def _with_whole_tables(text: str, pieces: list[Span], fits: Callable[[int, int], bool]) -> list[Span]:
    """Put tables together that were cut and fit into a passage, with what stands before or behind if that fits too."""
    for table in _TABLE.finditer(text):
        start, end = _trimmed(text, table.start(), table.end())
        first, stop = bisect_right(pieces, (start, len(text))) - 1, bisect_left(pieces, (end, 0))
        if stop - first < 2 or not fits(start, end):
            continue
        left, right = pieces[first][0], pieces[stop - 1][1]
        if fits(left, end):
            start = left
        elif fits(start, right):
            end = right
        spans = [_trimmed(text, *span) for span in ((left, start), (start, end), (end, right))]
        pieces[first:stop] = [(begin, behind) for begin, behind in spans if begin < behind]
    return pieces


def _trimmed(text: str, start: int, end: int) -> Span:
    piece = text[start:end].rstrip()
    return start + len(piece) - len(piece.lstrip()), start + len(piece)


@lru_cache(maxsize=1)  # made from all of a vocabulary, which takes longer than to cut a document
def _splitter(tokenizer: Any) -> tuple[Any, Callable[[str], float]]:
    """Return what cuts, and what counts tokens."""
    # Imported here: a store that is only listed needs no splitter.
    from semantic_text_splitter import MarkdownSplitter

    fast = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
    if fast is None:
        return MarkdownSplitter((LEAST * CHARACTERS, MOST * CHARACTERS)), lambda text: len(text) / CHARACTERS
    # Whoever tokenized last may have left both on, and what is cut off would not be counted.
    fast.no_truncation()
    fast.no_padding()
    splitter = MarkdownSplitter.from_huggingface_tokenizer(fast, (LEAST, MOST))
    return splitter, lambda text: len(fast.encode(text, add_special_tokens=False).ids)
