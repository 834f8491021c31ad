"""The catalogue: which documents there are, where they came from, what was prepared of them. SQLite, one file.

Readers never wait: the journal is written ahead (WAL), so each sees the catalogue as it last was whole. Writers take
turns. SQLite's own full-text index (FTS5) of passages ranks by BM25 and changes in the same transaction as the rows, so
what is listed can be found and what is gone cannot, also after a kill.
"""

from __future__ import annotations

import math
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LAYOUT = 2
"""Version of the tables."""
_K1 = 1.2
"""How fast BM25 stops counting a word again: that of SQLite's function."""
PATIENCE = 60.0
"""Seconds that a writer waits for another."""
_BYTES = 2
"""Of each number of a passage's vector."""

_TABLES = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE passages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    heading TEXT NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX passages_of ON passages(document);
CREATE VIRTUAL TABLE terms USING fts5(
    words, tokenize = "porter unicode61 remove_diacritics 0 categories 'L* N* Co M*'"
);
CREATE TABLE sources (
    place TEXT PRIMARY KEY, document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    size INTEGER NOT NULL, changed INTEGER NOT NULL
);
CREATE INDEX sources_of ON sources(document);
CREATE TABLE memories (
    document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE, bank TEXT NOT NULL, file TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, slots INTEGER NOT NULL, precision TEXT NOT NULL,
    PRIMARY KEY (document, bank)
);
"""
_ENTRIES = """
SELECT d.id, d.title, length(d.text), m.slots, m.bytes, m.precision,
    (SELECT group_concat(place, char(10)) FROM sources WHERE document = d.id AND place != d.id)
FROM documents d LEFT JOIN memories m ON m.document = d.id AND m.bank = ?
"""


@dataclass(frozen=True)
class Entry:
    """One document, as it is listed."""

    id: str
    """SHA-256 of the text, in hexadecimal; a unique beginning of it names the document too."""
    title: str
    """Its file's name, or the beginning of its first line."""
    characters: int
    """Length of the text."""
    slots: int | None
    """Slots of the memory that was prepared, about one a token; None where this bank has prepared none yet."""
    bytes: int | None
    """Size of that memory's file."""
    precision: str | None
    """How it is kept: ``exact``, ``bf16`` or ``int8``."""
    places: tuple[str, ...]
    """Files that hold the text; none where it was given as a text."""


@dataclass(frozen=True)
class Prepared:
    """The file of one memory."""

    document: str
    """Id of the document."""
    bank: str
    """Which bank prepared it; see :attr:`diekae.store.KnowledgeStore.bank`."""
    file: str
    """Its path in the store's folder."""
    sha256: str
    """Digest of the file."""
    bytes: int
    """Size of the file."""
    slots: int
    """Slots of the memory."""
    precision: str
    """How it is kept."""


@dataclass(frozen=True)
class Indexed:
    """A passage as it is put into the catalogue."""

    start: int
    end: int
    heading: str
    words: str
    """Its words, with those of title and heading, between blanks."""
    vector: bytes
    """Its vector, fp16."""


class Shared(NamedTuple):
    """What a passage shares with a question."""

    score: float
    """BM25."""
    coverage: float
    """The score as a share of the highest that any passage could have, from 0 to 1."""


class Row(NamedTuple):
    """A passage as it comes out of the catalogue."""

    number: int
    document: str
    title: str
    heading: str
    start: int
    end: int
    text: str


class Vectors(NamedTuple):
    """The vectors of all passages."""

    state: tuple[int, int]
    """Changes with every change of the passages."""
    numbers: list[int]
    """The passages."""
    matrix: NDArray[np.float32]
    """[passages, dimensions]."""


class Catalogue:
    """The tables, through one connection a thread."""

    def __init__(self, path: Path) -> None:
        """Open the catalogue, or begin one.

        Raises:
            ValueError: The file is no catalogue, is damaged, or was written by a newer version.
            OSError: It cannot be opened or written.
        """
        self.path = path
        self._local = threading.local()
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.reading() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > LAYOUT:
            raise ValueError(f"{str(path)!r} has layout {version}, newer than {LAYOUT}; update diekae to read it.")
        if 0 < version < LAYOUT:
            raise ValueError(
                f"{str(path)!r} has layout {version}, which knows no passages (now {LAYOUT}); add the documents to a "
                "new store."
            )
        if version == 0:
            self._begin()

    def _begin(self) -> None:
        """Make the tables, unless another process was first."""
        with self.writing() as connection:
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _TABLES.split(";")[:-1]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {LAYOUT}")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read the catalogue as it is at this moment, whatever is written meanwhile."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Write as the only writer; all of it is kept when the block ends well, and nothing otherwise."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._connection()
            connection.execute(begin)
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise OSError(
                f"the catalogue {str(self.path)!r} cannot be used ({error}); expected a folder that can be written, on "
                f"a local disk, and no other writer for more than {PATIENCE:.0f} s."
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{str(self.path)!r} is not a catalogue, or is damaged ({error}); restore it from a copy, or add the "
                "documents to a new store."
            ) from error

    def close(self) -> None:
        """Close this thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def entries(self, bank: str = "", ids: Sequence[str] | None = None) -> list[Entry]:
        """Return all documents, or those of the given ids, in the order they were added.

        Args:
            bank: Whose memory is meant.
            ids: Documents, whole ids.
        """
        with self.reading() as connection:
            chosen = "" if ids is None else f"WHERE d.id IN ({','.join('?' * len(ids))})"
            rows = connection.execute(f"{_ENTRIES} {chosen} ORDER BY d.number", (bank, *(ids or ())))
            return [
                Entry(document, title, length, slots, size, precision, tuple(places.split("\n")) if places else ())
                for document, title, length, slots, size, precision, places in rows
            ]

    def banks(self) -> list[str]:
        """Return the banks that have prepared something."""
        with self.reading() as connection:
            return [row[0] for row in connection.execute("SELECT DISTINCT bank FROM memories ORDER BY bank")]

    def find(self, name: str) -> str:
        """Return the id of a document that is named by a beginning of its id, a file or a title.

        Raises:
            ValueError: None or several are so named.
        """
        asks = (
            ("SELECT id FROM documents WHERE id = ?", name),
            ("SELECT document FROM sources WHERE place = ?", str(Path(name).resolve())),
            ("SELECT id FROM documents WHERE title = ?", name),
            ("SELECT id FROM documents WHERE id GLOB ?", f"{name}*" if re.fullmatch("[0-9a-f]{4,}", name) else None),
        )
        with self.reading() as connection:
            for ask, value in asks:
                found = [row[0] for row in connection.execute(ask, (value,))]
                if len(found) == 1:
                    return str(found[0])
                if found:
                    raise ValueError(f"{name!r} names {len(found)} documents; give more of the id: {found}.")
        raise ValueError(
            f"the store has no document {name!r}; expected an id, at least four characters of its beginning, a file or "
            "a title, as `diekae knowledge list` shows them."
        )

    def text(self, document: str) -> str:
        """Return a document's text.

        Raises:
            ValueError: It is gone.
        """
        with self.reading() as connection:
            row = connection.execute("SELECT text FROM documents WHERE id = ?", (document,)).fetchone()
        if row is None:
            raise ValueError(f"document {document[:12]} is gone from {str(self.path)!r}; search again.")
        return str(row[0])

    def holds(self, document: str) -> bool:
        """Tell whether there is a document of that id."""
        with self.reading() as connection:
            return connection.execute("SELECT 1 FROM documents WHERE id = ?", (document,)).fetchone() is not None

    def put(
        self,
        document: str,
        title: str,
        text: str,
        place: str,
        size: int = 0,
        changed: int = 0,
        passages: Sequence[Indexed] | None = None,
    ) -> list[str] | None:
        """Note a document and where it came from; returns files of memories that nobody names any more.

        A place that held another text before lets go of it. Where the document is new and no passages are given,
        nothing is noted, and None is returned.

        Args:
            document: Its id.
            title: Its title.
            text: All of it.
            place: The file that holds it, or its own id where it was given as a text.
            size: Bytes of the file.
            changed: When the file was last changed, in nanoseconds.
            passages: What it is found by; only read where the document is new.

        Raises:
            ValueError: Their vectors have other dimensions than those that are there.
        """
        with self.writing() as connection:
            held = connection.execute("SELECT document FROM sources WHERE place = ?", (place,)).fetchone()
            if connection.execute("SELECT 1 FROM documents WHERE id = ?", (document,)).fetchone() is None:
                if passages is None:
                    return None
                self._check_vectors(connection, passages)
                values = (document, title, text)
                done = connection.execute("INSERT INTO documents(id, title, text) VALUES (?, ?, ?)", values)
                for one in passages:
                    row = connection.execute(
                        "INSERT INTO passages(document, start, end, heading, vector) VALUES (?, ?, ?, ?, ?)",
                        (done.lastrowid, one.start, one.end, one.heading, one.vector),
                    )
                    connection.execute("INSERT INTO terms(rowid, words) VALUES (?, ?)", (row.lastrowid, one.words))
            connection.execute("INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)", (place, document, size, changed))
            return _drop_if_unused(connection, held[0]) if held is not None else []

    def _check_vectors(self, connection: sqlite3.Connection, passages: Sequence[Indexed]) -> None:
        row = connection.execute("SELECT vector FROM passages LIMIT 1").fetchone()
        for passage in passages if row is not None else ():
            if len(passage.vector) != len(row[0]):
                raise ValueError(
                    f"the embedder gives {len(passage.vector) // _BYTES} dimensions, but passages of "
                    f"{str(self.path)!r} have {len(row[0]) // _BYTES}; open the store with the embedder it was filled "
                    "with."
                )

    def drop(self, document: str) -> list[str]:
        """Forget a document; returns the files of its memories, to be removed afterwards."""
        with self.writing() as connection:
            connection.execute("DELETE FROM sources WHERE document = ?", (document,))
            return _drop_if_unused(connection, document)

    def leave(self, place: str) -> list[str]:
        """Forget that a file held a document, and the document if nothing else holds it; returns files as above."""
        with self.writing() as connection:
            row = connection.execute("SELECT document FROM sources WHERE place = ?", (place,)).fetchone()
            connection.execute("DELETE FROM sources WHERE place = ?", (place,))
            return _drop_if_unused(connection, row[0]) if row is not None else []

    def sources(self) -> dict[str, tuple[str, int, int]]:
        """Return each file's document, size and time of change."""
        with self.reading() as connection:
            rows = connection.execute("SELECT place, document, size, changed FROM sources WHERE place != document")
            return {place: (document, size, changed) for place, document, size, changed in rows}

    def prepared(self, bank: str | None = None, document: str | None = None) -> list[Prepared]:
        """Return the memories, of one bank or of all, of one document or of all."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT document, bank, file, sha256, bytes, slots, precision FROM memories"
                " WHERE (?1 IS NULL OR bank = ?1) AND (?2 IS NULL OR document = ?2) ORDER BY file",
                (bank, document),
            )
            return [Prepared(*row) for row in rows]

    def search(self, words: Sequence[str]) -> dict[int, Shared]:
        """Return what passages share with some words, by number: BM25 (Robertson et al., 1994), and how much of them.

        A word's weight is ln(1 + (N − n + ½) / (n + ½)), as in Lucene, N passages of which n hold it. SQLite's own,
        without the 1, is nothing where half of the passages hold a word: in a store of two, that is every word.
        """
        scores: dict[int, float] = {}
        most = 0.0
        with self.reading() as connection:
            total = connection.execute("SELECT count(*) FROM passages").fetchone()[0]
            ask = "SELECT rowid, -bm25(terms) FROM terms WHERE terms MATCH ?"
            for word in dict.fromkeys(words):
                rows = connection.execute(ask, ('"' + word.replace('"', '""') + '"',)).fetchall()
                odds = (total - len(rows) + 0.5) / (len(rows) + 0.5)
                most += math.log(1 + odds) * (_K1 + 1)
                # SQLite never lets a weight fall below a millionth (`fts5_aux.c`, `fts5Bm25GetData`).
                weight = math.log(1 + odds) / max(math.log(odds), 1e-6)
                for number, score in rows:
                    scores[number] = scores.get(number, 0.0) + weight * score
        return {number: Shared(score, score / most) for number, score in scores.items()}

    def vectors(self, known: Vectors | None = None) -> Vectors:
        """Return the vectors of all passages; ``known``, what an earlier call returned, if nothing has changed."""
        with self.reading() as connection:
            ask = "SELECT count(*), coalesce(max(number), 0) FROM passages"
            state: tuple[int, int] = connection.execute(ask).fetchone()
            if known is not None and known.state == state:
                return known
            rows = connection.execute("SELECT number, vector FROM passages ORDER BY number").fetchall()
        values = [np.frombuffer(vector, dtype=np.float16) for _, vector in rows]
        width = max(map(len, values), default=0)
        if any(len(value) != width for value in values):
            raise ValueError(f"{str(self.path)!r} holds vectors of different embedders; add the documents anew.")
        matrix = np.stack(values).astype(np.float32) if values else np.zeros((0, 0), np.float32)
        return Vectors(state, [number for number, _ in rows], matrix)

    def numbers(self, documents: Sequence[str]) -> set[int]:
        """Return the numbers of some documents' passages."""
        ask = (
            "SELECT p.number FROM passages p JOIN documents d ON d.number = p.document WHERE d.id IN "
            f"({','.join('?' * len(documents))})"
        )
        with self.reading() as connection:
            return {row[0] for row in connection.execute(ask, list(documents))}

    def passages(self, numbers: Sequence[int]) -> list[Row]:
        """Return passages by their numbers, in that order; those that are gone are left out."""
        ask = (
            "SELECT p.number, d.id, d.title, p.heading, p.start, p.end FROM passages p"
            f" JOIN documents d ON d.number = p.document WHERE p.number IN ({','.join('?' * len(numbers))})"
        )
        with self.reading() as connection:
            rows = {row[0]: row for row in connection.execute(ask, list(numbers))}
            texts: dict[str, str] = {}
            for document in {row[1] for row in rows.values()}:  # once each; and SQLite's own substr ends at a NUL
                row = connection.execute("SELECT text FROM documents WHERE id = ?", (document,)).fetchone()
                texts[document] = row[0]
        known = [rows[number] for number in numbers if number in rows]
        return [
            Row(number, document, title, heading, start, end, texts[document][start:end])
            for number, document, title, heading, start, end in known
        ]


def _drop_if_unused(connection: sqlite3.Connection, document: str) -> list[str]:
    """Remove a document that no source names; returns the files of its memories."""
    if connection.execute("SELECT 1 FROM sources WHERE document = ?", (document,)).fetchone() is not None:
        return []
    files = [row[0] for row in connection.execute("SELECT file FROM memories WHERE document = ?", (document,))]
    own = "SELECT p.number FROM passages p JOIN documents d ON d.number = p.document WHERE d.id = ?"
    connection.execute(f"DELETE FROM terms WHERE rowid IN ({own})", (document,))
    connection.execute(f"DELETE FROM passages WHERE number IN ({own})", (document,))
    connection.execute("DELETE FROM documents WHERE id = ?", (document,))
    return files
