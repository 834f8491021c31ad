"""The catalogue's tables, and the digest that each of their rows holds."""

import hashlib
import sqlite3
from contextlib import closing

LAYOUT = 3
"""Version of the tables, kept in the file as `user_version`."""
APPLICATION = 0x4449454B
"""Says that a file is a catalogue, kept in it as `application_id`: ``DIEK``."""

# "memories" are files of prepared knowledge. A "place" is a file's path, or the id of a document given as a text.
# These names are older than the words of the code.
_TABLES = """
CREATE TABLE documents (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL,
    characters INTEGER NOT NULL DEFAULT 0, digest BLOB
);
CREATE TABLE passages (
    number INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL,
    heading TEXT NOT NULL, vector BLOB NOT NULL, digest BLOB
);
CREATE INDEX passages_of ON passages(document);
CREATE VIRTUAL TABLE terms USING fts5(
    words, tokenize = "porter unicode61 remove_diacritics 0 categories 'L* N* Co M*'"
);
CREATE TABLE sources (
    place TEXT PRIMARY KEY, document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
    size INTEGER NOT NULL, changed INTEGER NOT NULL, status INTEGER NOT NULL DEFAULT 0,
    inode INTEGER NOT NULL DEFAULT 0, digest BLOB
);
CREATE INDEX sources_of ON sources(document);
CREATE TABLE memories (
    document TEXT NOT NULL REFERENCES documents(id) ON DELETE CASCADE, bank TEXT NOT NULL, file TEXT NOT NULL UNIQUE,
    sha256 TEXT NOT NULL, bytes INTEGER NOT NULL, slots INTEGER NOT NULL, precision TEXT NOT NULL, digest BLOB,
    PRIMARY KEY (document, bank)
);
"""
EMBEDDER_TABLE = "CREATE TABLE IF NOT EXISTS embedder (name TEXT NOT NULL)"
"""Holds the name of the encoder of all vectors. Without it, or a row in it, they are of static embeddings or a
function; so catalogues of layout 3 that are older need no change."""
INDEXES_OF_LAYOUT_3 = (
    "CREATE INDEX documents_titled ON documents(title)",
    "CREATE INDEX memories_of ON memories(bank, file)",
)
COLUMNS = {
    "documents": "id, title, characters",
    "passages": "document, start, end, heading, vector",
    "sources": "place, document, size, changed, status, inode",
    "memories": "document, bank, file, sha256, bytes, slots, precision",
}
"""The columns of each table that the digests of its rows cover, in the order of the table."""
MARKS = (f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {LAYOUT}")


def tables_content() -> bytes:
    """Return the content of a catalogue without documents."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in (*_TABLES.split(";")[:-1], *INDEXES_OF_LAYOUT_3, *MARKS):
            connection.execute(statement)
        connection.commit()
        return connection.serialize()


def row_digest(*values: object) -> bytes:
    """Return a digest of a row's values; an SQL function of every connection. It detects damage, not forgery."""
    return hashlib.blake2b(repr(values).encode("utf-8", "backslashreplace"), digest_size=8).digest()


def insert(table: str) -> str:
    """Return the SQL that adds a row to a table, with its digest; the parameters are the columns of `COLUMNS`."""
    names = COLUMNS[table].split(", ")
    numbers = ", ".join(f"?{number}" for number in range(1, len(names) + 1))
    return f"INSERT INTO {table}({', '.join(names)}, digest) VALUES ({numbers}, row_digest({numbers}))"


def is_whole(table: str, alias: str = "") -> str:
    """Return the SQL expression that tells whether a row matches its digest."""
    prefix = f"{alias}." if alias else ""
    columns = ", ".join(prefix + name for name in COLUMNS[table].split(", "))
    return f"({prefix}digest IS row_digest({columns}))"


def write_digest(connection: sqlite3.Connection, table: str, where: str = "1", *values: object) -> None:
    """Write the digests of rows that were changed."""
    connection.execute(f"UPDATE {table} SET digest = row_digest({COLUMNS[table]}) WHERE {where}", values)
