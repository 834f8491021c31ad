"""The documents of all examples, and the choice of several or long ones around an example's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from diekae.data.example import Example
from diekae.data.prompt import Prompter

FILLED = 0.8
"""Least share of a requested length; examples for which the documents do not reach it are left out."""


@dataclass(frozen=True)
class DocumentPool:
    """The documents of all examples, each once."""

    texts: tuple[str, ...]
    """The documents."""
    tokens: tuple[int, ...]
    """Length of each document in its template."""
    document_of: tuple[int, ...]
    """Index of each example's document."""

    @classmethod
    def of(cls, examples: Sequence[Example], prompter: Prompter) -> DocumentPool:
        """Collect the documents of examples; several documents of an example are joined by line breaks."""
        texts = ["\n".join(example.knowledge) for example in examples]
        distinct = tuple(dict.fromkeys(texts))
        tokens = tuple(len(prompter.knowledge(text)) for text in distinct)
        return cls(distinct, tokens, tuple(distinct.index(text) for text in texts))

    def others(self, example: int) -> Iterator[int]:
        """Yield all documents but the example's own; the first one differs from example to example."""
        document, count = self.document_of[example], len(self.texts)
        return ((document + step) % count for step in range(1, count))

    def several(self, example: int, number: int) -> list[int] | None:
        """Return some documents, the example's own at a position that differs between examples; None if too few."""
        if number > len(self.texts):
            return None
        documents = [other for other, _ in zip(self.others(example), range(number - 1), strict=False)]
        documents.insert(example % number, self.document_of[example])
        return documents

    def long(self, example: int, length: int) -> list[int] | None:
        """Return whole documents of about ``length`` tokens together, the own one in the middle; None if too few."""
        documents, total = [self.document_of[example]], self.tokens[self.document_of[example]]
        if total > length:
            return None
        for other in self.others(example):
            if total + self.tokens[other] <= length:
                documents.insert(len(documents) % 2 * len(documents), other)
                total += self.tokens[other]
        return documents if total >= FILLED * length else None
