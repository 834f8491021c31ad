"""A model for the tests of the store, which do not wait for the disk."""

import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from builders import make_model
from diekae import DiekaeModel
from diekae.store import verify

_connect = sqlite3.connect


class _Unsynced(sqlite3.Connection):
    """Never waits until a transaction is on the disk."""

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return super().execute(
            "PRAGMA synchronous = OFF" if sql.startswith("PRAGMA synchronous = ") else sql, *parameters
        )


@pytest.fixture(scope="module", autouse=True)
def unsynced() -> Iterator[None]:
    """Let no test wait for the disk: only a power cut could show it, and each file and transaction takes 10 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        patch.setattr(sqlite3, "connect", partial(_connect, factory=_Unsynced))
        patch.setattr(verify, "PATIENCE", 0.1)  # for a remover in another process, which most tests do not have
        yield


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SQLite wait for the disk as it does for users."""
    monkeypatch.setattr(sqlite3, "connect", _connect)


@pytest.fixture(scope="session")
def model() -> DiekaeModel:
    """A tiny model with a bank of the encoder ``reader``. All tests share it: do not change it."""
    return make_model("reader")
