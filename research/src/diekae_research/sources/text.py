"""Any folder of documents: earlier sentences are the knowledge of later ones.

The documents are ``.txt`` and ``.md`` files, at any depth. Each yields some windows, one after the other:

    knowledge: The Ondrel Bridge crosses the Ondrel where the old ferry used to land. [...] It opened in 1932.
    input:     Its architect had not lived to see it.
    target:    She had died in the winter before, of a cold caught on the scaffold.

These examples are for the objectives `difference` and distillation: the decoder continues the input in another way
with K than without. Licence: that of your documents.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diekae.data.example import Example
from diekae.data.jsonl import DataError
from diekae.data.splits import split_of
from diekae_research.data.card import Card, Option
from diekae_research.data.marks import one_line
from diekae_research.data.request import MissingData, Request

SUFFIXES = (".txt", ".md")
_GAP = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’»)\]]))\s+|\n\s*\n\s*")
"""Between two sentences: white space after a full stop, or an empty line."""
_FEWEST = 4
"""Words of a sentence, at least; shorter pieces (list numbers, abbreviations, headings) join the next sentence."""
CARD = Card(
    title="Your own documents (.txt, .md)",
    licence="yours",
    homepage="",
    origin="your own documents (a folder of .txt and .md files, at any depth)",
    options={
        "knowledge": Option(300, "most words of K, which ends with a paragraph or a sentence"),
        "input": Option(40, "most words of the input: the one or two sentences after K"),
        "target": Option(30, "most words of the target: the sentence after these"),
        "windows": Option(4, "most examples of a document, one after another"),
    },
)


class Sentence(NamedTuple):
    """A sentence of a document, or a part of one that is longer than an input may be."""

    start: int
    """Its first character."""
    end: int
    """The character after its last one."""
    words: int
    """Number of words, at least one."""
    last: bool
    """Whether a paragraph ends with it."""


def load(request: Request) -> Iterator[Example]:
    """Return the windows of a part's documents; a hash of a document's path decides its part.

    A document that is not UTF-8, or too short for a window, is a bad record.

    Raises:
        DataError: An option is below 1.
        MissingData: The folder holds no document.
    """
    for name in CARD.options:
        if request.options[name] < 1:
            raise DataError(f"option {name} of source 'text' is {request.options[name]}; expected at least 1")
    lengths = tuple(int(request.options[name]) for name in ("knowledge", "input", "target"))

    def read(path: Path) -> list[Example]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"not UTF-8 (byte {error.start})") from error
        examples = windows(text, *lengths, most=int(request.options["windows"]))
        if not examples:
            raise DataError("shorter than three sentences")
        return examples

    return request.convert(_documents(request), read)


def _documents(request: Request) -> Iterator[tuple[str, Path]]:
    """Yield the name below the folder and the path of each of the part's documents, ordered by name."""
    folder = request.path("documents (.txt, .md)").parent
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }
    if not paths:
        raise MissingData(f"source 'text': no {' or '.join(SUFFIXES)} file in {folder}; it is read from {CARD.origin}")
    for name in sorted(paths):
        if split_of(name) == request.split:
            yield name, paths[name]


def windows(text: str, knowledge: int, input: int, target: int, *, most: int) -> list[Example]:
    """Cut a document into examples, from its beginning.

    Args:
        text: The document.
        knowledge: Words of K, at most. It ends with a paragraph if one ends in its last third.
        input: Words of the one or two sentences after K, at most.
        target: Words of the sentence after these, at most.
        most: Examples, at most. Later windows with less than a quarter of K's words are left out.

    Returns:
        The examples; none if the document has fewer than three sentences.
    """
    rest, examples = sentences(text, min(knowledge, input)), list[Example]()
    while len(rest) >= 3 and len(examples) < most:
        size = _knowledge_size(rest[:-2], knowledge)
        if examples and sum(sentence.words for sentence in rest[:size]) < knowledge / 4:
            break
        document, rest = rest[:size], rest[size:]
        both = len(rest) > 2 and rest[0].words + rest[1].words <= input
        asked, answer, rest = rest[: 1 + both], rest[1 + both], rest[2 + both :]
        examples.append(
            Example(
                (text[document[0].start : document[-1].end],),
                one_line(text[asked[0].start : asked[-1].end]),
                " ".join(text[answer.start : answer.end].split()[:target]),
            )
        )
    return examples


def _knowledge_size(sentences: list[Sentence], most: int) -> int:
    """Return how many of the sentences are K, at least one."""
    size, words, paragraph = 0, 0, 0
    while size < len(sentences) and (not size or words + sentences[size].words <= most):
        words += sentences[size].words
        size += 1
        if sentences[size - 1].last and words > most * 2 / 3:
            paragraph = size
    return paragraph or size


def sentences(text: str, most: int) -> list[Sentence]:
    """Return the sentences of a text; one of more than ``most`` words is cut into several."""
    text, parts, start = text.rstrip(), list[Sentence](), 0
    for end, after in [*(gap.span() for gap in _GAP.finditer(text)), (len(text), len(text))]:
        words = list(re.finditer(r"\S+", text[start:end]))
        if not words or (len(words) < _FEWEST and after < len(text)):
            continue
        paragraph = after == len(text) or text.count("\n", end, after) > 1
        for first in range(0, len(words), most):
            part, rest = words[first : first + most], words[first + most :]
            span = start + part[0].start(), start + part[-1].end()
            parts.append(Sentence(*span, len(part), paragraph and not rest))
        start = after
    return parts
