"""Splits documents into passages, the units that a search finds and the decoder reads.

semantic-text-splitter splits at headings, then paragraphs, list items, rows and sentences, and inside a sentence only
if the sentence alone is too long. It may split a table between rows although the whole table fits into a passage. This
module joins such tables again.
"""

from __future__ import annotations

import copy
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST, MOST = 64, 160
"""Tokens of a passage: pieces are joined until they have the first number, but never more than the second."""
BLOCK = 16_000
"""Most characters that are split at once: for a text without good places to split, the time grows quadratically."""
LONGEST_HEADING = 200
"""Most characters of a heading that are kept: each passage below it repeats them."""
CHARACTERS = 4
"""How many characters count as a token if there is no tokenizer."""
_HEADING = re.compile(
    r"^ {0,3}(?P<fence>`{3,}(?=[^`\n]*$)|~{3,}).*?(?:^ {0,3}(?P=fence)|\Z)"  # code: a # in it is no heading
    r"|^ {0,3}(?P<level>#{1,6})[ \t](?P<words>[^\n]*)",
    re.MULTILINE | re.DOTALL,
)
_TABLE = re.compile(r"(?:^ {0,3}\|[^\n]*(?:\n|\Z)){2,}", re.MULTILINE)
Span = tuple[int, int]
"""The first character, and one past the last."""


@dataclass(frozen=True)
class Passage:
    """One passage of a document, without its text."""

    start: int
    """Its first character in the document's text."""
    end: int
    """One past its last character."""
    heading: str
    """The headings above it, from the outermost: ``Manual > Cleaning``; empty if there is none."""


def split(text: str, tokenizer: PreTrainedTokenizerBase | None = None) -> list[Passage]:
    """Split a document into passages, in order; Markdown's headings, lists and tables are recognized.

    Without a tokenizer, four characters count as a token.
    """
    starts, paths = _headings(text)
    splitter, count_tokens = _splitter(tokenizer)
    spans = [
        (block + start, block + start + len(piece))
        for block, end in _blocks(text)
        for start, piece in splitter.chunk_indices(text[block:end])
    ]
    spans = _with_whole_tables(text, spans, lambda start, end: count_tokens(text[start:end]) <= MOST)
    return [Passage(start, end, paths[bisect_right(starts, start)]) for start, end in spans]


def token_counter(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[str], float]:
    """Return a function that counts the tokens of a text as :func:`split` does."""
    return _splitter(tokenizer)[1]


def _blocks(text: str) -> Iterator[Span]:
    """Yield the parts of a text that are split one by one; each begins at a heading, a paragraph, a line or a word."""
    start = 0
    while len(text) - start > BLOCK:
        middle, end = start + BLOCK // 2, start + BLOCK
        places = (text.rfind(mark, middle, end) for mark in ("\n#", "\n\n", "\n", " "))
        cut = next((place for place in places if place >= 0), end)
        yield start, cut
        start = cut
    yield start, len(text)


def _headings(text: str) -> tuple[list[int], list[str]]:
    """Return where each heading starts, and the path of headings before the first one, after it, and so on."""
    starts, paths, above = list[int](), [""], dict[int, str]()  # above: headings by their level
    for match in _HEADING.finditer(text):
        words = (match["words"] or "").strip()
        if (bare := words.rstrip("#")) != words and bare[-1:] in ("", " ", "\t"):
            words = bare.rstrip()  # "## Title ##" is the heading "Title"
        if words:
            level = len(match["level"])
            words = words if len(words) <= LONGEST_HEADING else words[: LONGEST_HEADING - 1] + "…"
            above = {upper: title for upper, title in above.items() if upper < level} | {level: words}
            starts.append(match.start("level"))
            paths.append(" > ".join(above.values()))
    return starts, paths


def _with_whole_tables(text: str, spans: list[Span], fits: Callable[[int, int], bool]) -> list[Span]:
    """Put split tables together that fit into a passage, with the text before or after it if that fits too."""
    for table in _TABLE.finditer(text):
        start, end = _trimmed(text, table.start(), table.end())
        # The table is in spans[first:stop].
        first, stop = bisect_right(spans, (start, len(text))) - 1, bisect_left(spans, (end, 0))
        if stop - first < 2 or not fits(start, end):
            continue
        left, right = spans[first][0], spans[stop - 1][1]
        if fits(left, end):
            start = left
        elif fits(start, right):
            end = right
        parts = [_trimmed(text, *part) for part in ((left, start), (start, end), (end, right))]
        spans[first:stop] = [(part_start, part_end) for part_start, part_end in parts if part_start < part_end]
    return spans


def _trimmed(text: str, start: int, end: int) -> Span:
    """Return a span without the blanks at its ends."""
    piece = text[start:end].rstrip()
    return start + len(piece) - len(piece.lstrip()), start + len(piece)


@lru_cache(maxsize=1)  # copying the vocabulary takes longer than splitting a document
def _splitter(tokenizer: Any) -> tuple[Any, Callable[[str], float]]:
    """Return the splitter, and a function that counts tokens."""
    # Imported here because a store that is only listed needs no splitter.
    from semantic_text_splitter import MarkdownSplitter

    fast = copy.deepcopy(getattr(tokenizer, "backend_tokenizer", None))
    if fast is None:
        return MarkdownSplitter((LEAST * CHARACTERS, MOST * CHARACTERS)), lambda text: len(text) / CHARACTERS
    # Earlier calls of the tokenizer may have left both on, and truncated tokens would not be counted.
    fast.no_truncation()
    fast.no_padding()
    splitter = MarkdownSplitter.from_huggingface_tokenizer(fast, (LEAST, MOST))
    return splitter, lambda text: len(fast.encode(text, add_special_tokens=False).ids)
