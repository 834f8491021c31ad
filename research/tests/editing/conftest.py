"""A tiny model whose bank is not the identity, and what was trained for editing with it: a random gate and adapter."""

import pytest
import torch

from builders import WIDTH, make_model
from diekae import DiekaeModel
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder
from diekae.edit.trained_parts import TrainedParts


@pytest.fixture(params=["reader", "attention"])
def model(request: pytest.FixtureRequest) -> DiekaeModel:
    return make_model(request.param)


@pytest.fixture
def trained(model: DiekaeModel) -> TrainedParts:
    options = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=0.9, nearly=0.99)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = EditAdapter.for_model(model, AdapterOptions(rank=2, slots=1, copies=2))
        return TrainedParts(PromptEncoder(WIDTH, options), options, adapter)
