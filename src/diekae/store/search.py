"""Which passages answer a question: by BM25 of their words, and the cosine of their vectors and the question's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from diekae.model import DiekaeModel
from diekae.progress import Progress, silent
from diekae.store.catalogue import Catalogue, IndexedPassage, PassageVectors
from diekae.store.embedders import Embedder, EmbedderKind, Vectors
from diekae.store.passages import split
from diekae.store.words import passage_words, query_words


class Ranking(NamedTuple):
    """How a search ranks passages, chosen on the development questions of `diekae-research documents`."""

    words: float
    """Weight of the share of the best BM25 score, beside the cosine."""
    document: float
    """Weight of the best sum of share and cosine in a passage's document. With it, the document is found by words and
    likeness alike, and the passage in it by likeness above all."""


RANKINGS: dict[EmbedderKind, Ranking] = {"static": Ranking(1.0, 0.0), "encoder": Ranking(0.3, 1.0)}
"""By the kind of embedder: static embeddings are too coarse to tell passages of one document apart."""
EMBEDDED_AT_ONCE = 256
"""Passages of a document that are embedded before progress is reported."""


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
    """Its rank's score, from words and likeness; see :class:`Ranking`. Comparable within one search only."""
    coverage: float
    """Its BM25 score as a share of the highest that any passage could have, from 0 to 1."""
    likeness: float
    """Cosine of its vector and the question's, from -1 to 1."""
    searched: int
    """Passages in the store: the more there are, the better is the best match of a question that none answers."""
    embedder: EmbedderKind
    """What the likeness comes from: ``static`` embeddings or an ``encoder``. Their cosines have other scales."""


class PassageSearch:
    """Searches the passages of a catalogue, and makes their entries in the index."""

    def __init__(self, catalogue: Catalogue, model: DiekaeModel | None, embedder: Embedder) -> None:
        """Search this catalogue with this embedder; the model's tokenizer cuts documents, if there is a model."""
        self._catalogue, self._model, self._embedder = catalogue, model, embedder
        self._vectors: PassageVectors | None = None

    def index(self, title: str, text: str, progress: Progress = silent) -> list[IndexedPassage]:
        """Split a document into passages, with the words and the vector that each is found by."""
        passages = split(text, None if self._model is None else self._model.need_prompter().tokenizer)
        texts = [text[passage.start : passage.end] for passage in passages]
        described = [f"{title}. {p.heading} {body}" for p, body in zip(passages, texts, strict=True)]
        vectors: list[Vectors] = []
        for start in range(0, len(texts), EMBEDDED_AT_ONCE):
            vectors += list(self._embedder.embed(described[start : start + EMBEDDED_AT_ONCE]))
            if len(texts) > EMBEDDED_AT_ONCE:
                progress(f"embedding {title}", len(vectors), len(texts))
        return [
            IndexedPassage(
                passage.start,
                passage.end,
                passage.heading,
                passage_words(title, texts[0], passage.heading, body),
                vector.astype(np.float16).tobytes(),
                self._embedder.name,
            )
            for passage, body, vector in zip(passages, texts, vectors, strict=True)
        ]

    def search(self, question: str, k: int, documents: Sequence[str]) -> list[FoundPassage]:
        """Return the best k passages; see :meth:`diekae.store.KnowledgeStore.search`."""
        if not isinstance(question, str):
            raise TypeError(f"the question is {question!r}; expected a text.")
        question = question.encode("utf-8", "replace").decode()  # lone surrogates are in no document
        vector = self._embedder.embed([question])[0]
        # In one state of the catalogue: another process may remove documents meanwhile.
        with self._catalogue.reading():
            # Another thread may replace the attribute meanwhile: this search works with what it has read.
            self._vectors = vectors = self._catalogue.passages.vectors(self._vectors)
            if not vectors.numbers:
                return []
            self._catalogue.passages.check_embedder(self._embedder.name)
            likeness = self._likeness(vector, vectors)
            matches = self._catalogue.passages.match_words(query_words(question))
            best = max((match.score for match in matches.values()), default=0.0) or 1.0
            shares = [matches[number].score / best if number in matches else 0.0 for number in vectors.numbers]
            scores = self._scores(np.array(shares), likeness, vectors.documents)
            rows = np.argsort(-scores, kind="stable").tolist()
            if documents:
                ids = [self._catalogue.documents.find(name) for name in documents]
                allowed = self._catalogue.passages.numbers(ids)
                rows = [row for row in rows if vectors.numbers[row] in allowed]
            row_of = {vectors.numbers[row]: row for row in rows[:k]}
            passages = self._catalogue.passages.select(list(row_of), self._catalogue.documents.text)
        return [
            FoundPassage(
                **passage,
                score=float(scores[row_of[number]]),
                coverage=matches[number].coverage if number in matches else 0.0,
                likeness=float(likeness[row_of[number]]),
                searched=len(vectors.numbers),
                embedder=self._embedder.kind,
            )
            for number, passage in passages.items()
        ]

    def _scores(
        self, shares: NDArray[np.float64], likeness: NDArray[np.float32], documents: Sequence[int]
    ) -> NDArray[np.float64]:
        """Return the score of each passage, [passages]; see :class:`Ranking`."""
        ranking = RANKINGS[self._embedder.kind]
        scores: NDArray[np.float64] = ranking.words * shares + likeness
        if ranking.document:
            numbers, rows = np.unique(documents, return_inverse=True)
            best = np.full(len(numbers), -np.inf)
            np.maximum.at(best, rows, shares + likeness)
            scores += ranking.document * best[rows]
        return scores

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
