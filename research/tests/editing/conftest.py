"""A tiny model whose bank is not the identity."""

import pytest

from builders import make_model
from diekae import DiekaeModel


@pytest.fixture(params=["reader", "attention"])
def model(request: pytest.FixtureRequest) -> DiekaeModel:
    return make_model(request.param)
