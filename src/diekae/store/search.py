"""Which passages answer a question: BM25 of their words, plus the cosine of their vectors and the question's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from diekae.store.catalogue import Catalogue, IndexedPassage, PassageVectors
from diekae.store.passages import split
from diekae.store.words import Embedder, Vectors, passage_words, query_words, static_embedder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LIKENESS_WEIGHT = 1.0
"""Weight of the cosine, beside the share of the best BM25 score."""


@dataclass(frozen=True)
class FoundPassage:
    """A passage that a search returned."""

    id: str
    """Id of its document."""
    title: str
    """Title of its document."""
    heading: str
    """The headings above it, from the outermost; empty if there is none."""
    text: str
    """The passage."""
    start: int
    """Its first character in the document."""
    end: int
    """One past its last character."""
    score: float
    """Share of the best BM25 score, plus the cosine; comparable within one search only."""
    coverage: float
    """Its BM25 score as a share of the highest that any passage could have, from 0 to 1."""
    likeness: float
    """Cosine of its vector and the question's, from -1 to 1."""
    searched: int
    """Passages in the store: the more there are, the better is the best match of a question that none answers."""


class PassageSearch:
    """Searches the passages of a catalogue, and makes their entries in the index."""

    def __init__(self, catalogue: Catalogue, embed: Embedder | None) -> None:
        """Search this catalogue with this embedder; with WordLlama's static embeddings if None."""
        self._catalogue, self._embed = catalogue, embed
        self._vectors: PassageVectors | None = None

    @property
    def embedder(self) -> Embedder:
        """Return what turns texts into vectors."""
        return self._embed or static_embedder()

    def index(self, title: str, text: str, tokenizer: PreTrainedTokenizerBase | None) -> list[IndexedPassage]:
        """Split a document into passages, with the words and the vector that each is found by."""
        passages = split(text, tokenizer)
        texts = [text[passage.start : passage.end] for passage in passages]
        vectors = self.embedder([f"{title}. {p.heading} {body}" for p, body in zip(passages, texts, strict=True)])
        return [
            IndexedPassage(
                passage.start,
                passage.end,
                passage.heading,
                passage_words(title, texts[0], passage.heading, body),
                vector.tobytes(),
            )
            for passage, body, vector in zip(passages, texts, vectors.astype(np.float16), strict=True)
        ]

    def search(self, question: str, k: int, documents: Sequence[str]) -> list[FoundPassage]:
        """Return the best k passages; see :meth:`diekae.store.KnowledgeStore.search`."""
        if not isinstance(question, str):
            raise TypeError(f"the question is {question!r}; expected a text.")
        question = question.encode("utf-8", "replace").decode()  # lone surrogates are in no document
        vector = self.embedder([question])[0]
        # In one state of the catalogue: another process may remove documents meanwhile.
        with self._catalogue.reading():
            # Another thread may replace the attribute meanwhile: this search works with what it has read.
            self._vectors = vectors = self._catalogue.passages.vectors(self._vectors)
            if not vectors.numbers:
                return []
            likeness = self._likeness(vector, vectors)
            matches = self._catalogue.passages.match_words(query_words(question))
            best = max((match.score for match in matches.values()), default=0.0) or 1.0
            shares = [matches[number].score / best if number in matches else 0.0 for number in vectors.numbers]
            scores = np.array(shares) + LIKENESS_WEIGHT * likeness
            rows = np.argsort(-scores, kind="stable").tolist()
            if documents:
                ids = [self._catalogue.documents.find(name) for name in documents]
                allowed = self._catalogue.passages.numbers(ids)
                rows = [row for row in rows if vectors.numbers[row] in allowed]
            row_of = {vectors.numbers[row]: row for row in rows[:k]}
            passages = self._catalogue.passages.select(list(row_of), self._catalogue.documents.text)
        return [
            FoundPassage(
                id=passage.document,
                title=passage.title,
                heading=passage.heading,
                text=passage.text,
                start=passage.start,
                end=passage.end,
                score=float(scores[row_of[passage.number]]),
                coverage=matches[passage.number].coverage if passage.number in matches else 0.0,
                likeness=float(likeness[row_of[passage.number]]),
                searched=len(vectors.numbers),
            )
            for passage in passages
        ]

    def _likeness(self, vector: Vectors, vectors: PassageVectors) -> NDArray[np.float32]:
        """Return the cosine of the question's vector and each passage's, [passages]."""
        dimensions = vectors.matrix.shape[1]
        if len(vector) != dimensions:
            raise ValueError(
                f"the embedder gives {len(vector)} dimensions, but passages of {str(self._catalogue.path)!r} have "
                f"{dimensions}; open the store with the embedder it was filled with."
            )
        # Not by numpy: its threads go on waiting busily for a while, and would double the time of the answer's first
        # token, which is read right after the search.
        likeness = torch.from_numpy(vectors.matrix) @ torch.tensor(vector, dtype=torch.float32)
        return np.asarray(likeness)
