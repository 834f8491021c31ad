"""Transactions on SQLite files: all or nothing, one writer, a stable view for readers, and errors in plain words."""

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from diekae.sqlite import open_database, sqlite_errors, transaction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database with a table of numbers."""
    connection = open_database(tmp_path / "numbers.sqlite")
    connection.execute("CREATE TABLE numbers (number INTEGER)")
    connection.close()
    return tmp_path / "numbers.sqlite"


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    opened = open_database(path)
    yield opened
    opened.close()


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


def insert(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("INSERT INTO numbers VALUES (?)", (number,))


def test_a_block_is_written_whole_or_not_at_all(connection: sqlite3.Connection) -> None:
    with transaction(connection, write=True):
        insert(connection, 1)
    with pytest.raises(KeyboardInterrupt), transaction(connection, write=True):
        insert(connection, 2)
        raise KeyboardInterrupt
    assert numbers(connection) == [1] and not connection.in_transaction


def test_an_inner_block_joins_the_outer_one(connection: sqlite3.Connection) -> None:
    with pytest.raises(ZeroDivisionError), transaction(connection, write=True):
        with transaction(connection, write=True):
            insert(connection, 1)
        assert numbers(connection) == [1]
        raise ZeroDivisionError
    assert numbers(connection) == [], "the outer block rolled back both"


def test_a_kill_inside_a_block_leaves_nothing_of_it(path: Path) -> None:
    child = os.fork()
    if child == 0:
        theirs = open_database(path)
        with transaction(theirs, write=True):
            insert(theirs, 1)
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    connection = open_database(path)
    with transaction(connection, write=True):
        insert(connection, 2)
    assert numbers(connection) == [2], "the file is whole, and the lock is free"


def test_a_reader_sees_one_state_while_another_writes(connection: sqlite3.Connection, path: Path) -> None:
    writer = open_database(path)
    with transaction(connection, write=False):
        assert numbers(connection) == []
        with transaction(writer, write=True):
            insert(writer, 1)
        assert numbers(connection) == [], "the state of the first query"
    assert numbers(connection) == [1]


def test_there_is_one_writer_and_the_error_of_another_is_in_plain_words(
    connection: sqlite3.Connection, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diekae.sqlite.PATIENCE", 0.0)
    other = open_database(path)
    with (
        transaction(connection, write=True),
        pytest.raises(OSError, match=r"^'numbers' cannot be used \(database is locked\); expected a folder on a local"),
        sqlite_errors("'numbers'", "a list of numbers", "restore it from a copy"),
        transaction(other, write=True),
    ):
        pass


def test_another_file_is_refused_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"not a database " * 100)
    with (
        pytest.raises(
            ValueError, match=r"^'text' is not a list of numbers, or is damaged \(.*\); restore it from a copy"
        ),
        sqlite_errors("'text'", "a list of numbers", "restore it from a copy"),
    ):
        open_database(tmp_path / "text")


def test_a_missing_table_and_bytes_that_are_no_text_are_damage(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE texts (text TEXT)")
    connection.execute("INSERT INTO texts VALUES (CAST(x'ff' AS TEXT))")
    for query in ("SELECT * FROM nothing", "SELECT text FROM texts"):
        with (
            pytest.raises(ValueError, match=r"^'a' is not a list, or is damaged \(.*\); restore it"),
            sqlite_errors("'a'", "a list", "restore it"),
        ):
            connection.execute(query).fetchall()


@pytest.mark.parametrize("log_is_left", [False, True])
def test_a_file_is_read_where_nothing_can_be_written(
    path: Path, log_is_left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = open_database(path)
    insert(writer, 1)
    if not log_is_left:
        writer.close()
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may write everywhere
    before = sorted(path.parent.iterdir())
    reader = open_database(path, read_only=True)
    with transaction(reader, write=False):
        assert numbers(reader) == [1]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        insert(reader, 2)
    assert sorted(path.parent.iterdir()) == before
    writer.close()
