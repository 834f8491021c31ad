"""A tiny model whose bank is not the identity, and what was trained for editing with it: a random gate and adapter."""

import pytest

from builders import make_model, make_trained_parts
from diekae import DiekaeModel
from diekae.edit.trained_parts import TrainedParts


@pytest.fixture(params=["reader", "attention"])
def model(request: pytest.FixtureRequest) -> DiekaeModel:
    return make_model(request.param)


@pytest.fixture
def trained(model: DiekaeModel) -> TrainedParts:
    return make_trained_parts(model)
