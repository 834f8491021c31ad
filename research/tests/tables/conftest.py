"""Fixtures of the tables' tests."""

from pathlib import Path

import pytest
from small import write_data, write_decoder


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a decoder and data."""
    folder = tmp_path_factory.mktemp("tables")
    write_decoder(folder / "decoder")
    write_data(folder / "data")
    return folder
