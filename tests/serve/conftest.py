"""Servers on a tiny random model, for the tests of the server."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from served import Serve, Served, running_server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers that end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(running_server(**{"store": tmp_path / "store", **options}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with documents, for a whole file of tests."""
    with running_server(store=tmp_path_factory.mktemp("served") / "store") as served:
        yield served
