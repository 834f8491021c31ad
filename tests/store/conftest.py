"""A model for the tests of the store."""

import pytest

from builders import make_model
from diekae import DiekaeModel


@pytest.fixture(scope="session")
def model() -> DiekaeModel:
    """A tiny model with a bank of the encoder ``reader``. All tests share it: do not change it."""
    return make_model("reader")
