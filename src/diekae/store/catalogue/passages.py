"""The catalogue's tables of passages: where they stand in their documents, their words and their vectors.

The words are in SQLite's own full-text index (FTS5), which changes in the same transaction as the other tables. So what
is listed can be found, and what was removed cannot, also after a kill.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diekae.store.catalogue.database import CatalogueDatabase
from diekae.store.catalogue.tables import EMBEDDER_TABLE, insert, is_whole
from diekae.store.embedders import same_embedder
from diekae.store.passages import Passage
from diekae.store.words import is_character

_K1 = 1.2
"""BM25's k1 in SQLite's function: how fast the gain of further occurrences of a word declines."""
_BYTES = 2
"""Size of each number of a passage's vector."""


@dataclass(frozen=True)
class IndexedPassage(Passage):
    """A passage of a new document, with its entries in the search index."""

    words: str
    """Words of its text, title and heading, separated by blanks."""
    vector: bytes
    """Its vector, fp16."""
    embedder: str = ""
    """The encoder that made the vector; see :attr:`diekae.store.embedders.Embedder.name`."""


class WordMatch(NamedTuple):
    """How well the words of a passage match those of a question."""

    score: float
    """BM25."""
    coverage: float
    """The score as a share of the highest that any passage could have, from 0 to 1."""


class PassageVectors(NamedTuple):
    """The vectors of all passages."""

    state: tuple[int, int]
    """Changes with every change of the passages."""
    numbers: list[int]
    """The passages' numbers, one a row of the matrix."""
    documents: list[int]
    """The numbers of their documents."""
    matrix: NDArray[np.float32]
    """[passages, dimensions]."""


class PassageTable:
    """Passages, found by words and compared by vectors."""

    def __init__(self, database: CatalogueDatabase) -> None:
        self._database = database

    def insert(self, document: int, passages: Sequence[IndexedPassage]) -> None:
        """Add the passages of a document, given by its number; ValueError if their vectors are of another embedder."""
        with self._database.writing() as connection:
            if connection.execute("SELECT 1 FROM passages LIMIT 1").fetchone() is None:
                self._keep_embedder(connection, passages)
            else:
                self._check_vectors(connection, passages)
            for passage in passages:
                values = (document, passage.start, passage.end, passage.heading, passage.vector)
                done = connection.execute(insert("passages"), values)
                connection.execute("INSERT INTO terms(rowid, words) VALUES (?, ?)", (done.lastrowid, passage.words))

    def delete(self, document: str) -> None:
        """Remove the passages of a document, given by its id."""
        numbers = "SELECT p.number FROM passages p JOIN documents d ON d.number = p.document WHERE d.id = ?"
        with self._database.writing() as connection:
            connection.execute(f"DELETE FROM terms WHERE rowid IN ({numbers})", (document,))
            connection.execute(f"DELETE FROM passages WHERE number IN ({numbers})", (document,))

    def match_words(self, words: Sequence[str]) -> dict[int, WordMatch]:
        """Return the passages that contain some of the words, by number, with their BM25 (Robertson et al., 1994).

        A word's weight is ln(1 + (N − n + ½) / (n + ½)), as in Lucene, with N passages of which n contain it. SQLite's
        own weight lacks the 1, and is zero for a word in half of the passages: in a store of two, for every word.
        """
        scores: dict[int, float] = {}
        highest = 0.0
        query = "SELECT rowid, -bm25(terms) FROM terms WHERE terms MATCH ?"
        with self._database.reading() as connection:
            total = connection.execute("SELECT count(*) FROM passages").fetchone()[0]
            for word in dict.fromkeys(words):
                phrase = '"' + word.replace('"', '""') + '"' + ("*" if is_character(word) else "")
                rows = connection.execute(query, (phrase,)).fetchall()
                odds = (total - len(rows) + 0.5) / (len(rows) + 0.5)
                highest += math.log(1 + odds) * (_K1 + 1)
                # SQLite never lets a weight fall below a millionth (`fts5_aux.c`, `fts5Bm25GetData`).
                weight = math.log(1 + odds) / max(math.log(odds), 1e-6)
                for number, score in rows:
                    scores[number] = scores.get(number, 0.0) + weight * score
        return {number: WordMatch(score, score / highest) for number, score in scores.items()}

    def vectors(self, earlier: PassageVectors | None = None) -> PassageVectors:
        """Return the vectors of all passages; given ``earlier`` ones, only new ones are read, unless some are gone."""
        query = (
            f"SELECT number, document, vector, {is_whole('passages')} FROM passages WHERE number > ? ORDER BY number"
        )
        with self._database.reading() as connection:
            state: tuple[int, int] = connection.execute(
                "SELECT count(*), coalesce(max(number), 0) FROM passages"
            ).fetchone()
            if earlier is not None and earlier.state == state:
                return earlier
            rows = [] if earlier is None else connection.execute(query, (earlier.state[1],)).fetchall()
            if earlier is None or len(rows) != state[0] - earlier.state[0]:
                earlier, rows = None, connection.execute(query, (0,)).fetchall()
        self._database.check_rows(all(row[-1] for row in rows), "the vector of a passage")
        numbers, documents = [row[0] for row in rows], [row[1] for row in rows]
        values = [np.frombuffer(row[2], dtype=np.float16) for row in rows]
        if earlier is not None and earlier.numbers:
            numbers, documents = earlier.numbers + numbers, earlier.documents + documents
            values = [*earlier.matrix[:1], *values]
        if len({len(value) for value in values}) > 1:
            raise ValueError(
                f"{str(self._database.path)!r} holds vectors of different embedders; add the documents to a new store."
            )
        if not values:
            return PassageVectors(state, numbers, documents, np.zeros((0, 0), np.float32))
        matrix = np.stack(values).astype(np.float32)
        if earlier is not None and earlier.numbers:
            matrix = np.concatenate([earlier.matrix, matrix[1:]])
        return PassageVectors(state, numbers, documents, matrix)

    def numbers(self, documents: Sequence[str]) -> set[int]:
        """Return the numbers of some documents' passages."""
        query = (
            "SELECT p.number FROM passages p JOIN documents d ON d.number = p.document"
            " WHERE d.id IN (SELECT value FROM json_each(?))"
        )
        return {row[0] for row in self._database.rows(query, json.dumps(list(documents)))}

    def select(self, numbers: Sequence[int], read_text: Callable[[str], str]) -> dict[int, dict[str, Any]]:
        """Return passages by their numbers, in that order, without those that have been removed.

        Of each: ``id`` and ``title`` of its document, ``heading``, ``text``, ``start`` and ``end``. ``read_text``
        returns the text of a document.
        """
        query = (
            "SELECT p.number, d.id, d.title, p.heading, p.start, p.end,"
            f" {is_whole('passages', 'p')} AND {is_whole('documents', 'd')}"
            " FROM passages p JOIN documents d ON d.number = p.document"
            f" WHERE p.number IN ({','.join('?' * len(numbers))})"
        )
        with self._database.reading() as connection:
            rows = {row[0]: row for row in connection.execute(query, list(numbers))}
            # Each text is read once, and cut here: SQLite's substr ends at a NUL.
            texts = {document: read_text(document) for document in {row[1] for row in rows.values()}}
        self._database.check_rows(all(row[-1] for row in rows.values()), "a passage")
        return {
            number: dict(id=id, title=title, heading=heading, text=texts[id][start:end], start=start, end=end)
            for number, id, title, heading, start, end, _ in (rows[n] for n in numbers if n in rows)
        }

    def check_embedder(self, name: str) -> None:
        """Refuse the embedder of a name if the vectors here are of another, by a ValueError."""
        with self._database.reading() as connection:
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'embedder'").fetchone() is not None
            row = connection.execute("SELECT name FROM embedder").fetchone() if known else None
        stored = "" if row is None else str(row[0])
        if not same_embedder(stored, name):
            stored, name = (each or "the static embeddings or a function" for each in (stored, name))
            raise ValueError(
                f"the passages of {str(self._database.path)!r} have vectors of {stored}, but the store was opened with "
                f"{name}, whose vectors cannot be compared with them; open the store with the embedder it was filled "
                "with (embedder=…, --embedder), or add the documents to a new store."
            )

    def _keep_embedder(self, connection: sqlite3.Connection, passages: Sequence[IndexedPassage]) -> None:
        """Keep the name of the embedder of the first passages; all later ones must have the same."""
        connection.execute(EMBEDDER_TABLE)
        connection.execute("DELETE FROM embedder")
        names = {passage.embedder for passage in passages if passage.embedder}
        connection.executemany("INSERT INTO embedder(name) VALUES (?)", [(name,) for name in names])

    def _check_vectors(self, connection: sqlite3.Connection, passages: Sequence[IndexedPassage]) -> None:
        (vector,) = connection.execute("SELECT vector FROM passages LIMIT 1").fetchone()
        for name in {passage.embedder for passage in passages}:
            self.check_embedder(name)
        for passage in passages:
            if len(passage.vector) != len(vector):
                raise ValueError(
                    f"the embedder gives {len(passage.vector) // _BYTES} dimensions, but passages of "
                    f"{str(self._database.path)!r} have {len(vector) // _BYTES}; open the store with the embedder it "
                    "was filled with."
                )
