"""A tiny edited model: 128 words, a random bank that is not the identity, and a random gate encoder."""

from collections.abc import Callable

import pytest
import torch

from builders import WIDTH, make_model
from diekae import DiekaeModel
from diekae.edit import Edit
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder
from diekae.edit.trained_parts import TrainedParts


@pytest.fixture(params=["reader", "attention"])
def model(request: pytest.FixtureRequest) -> DiekaeModel:
    return make_model(request.param)


@pytest.fixture
def trained(model: DiekaeModel) -> TrainedParts:
    """A gate that opens only for nearly equal texts, and an adapter that changes what was prepared."""
    options = GateOptions(layers=(1, 2), heads=2, head_width=8, mentioned=0.9, nearly=0.99)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapter = EditAdapter.for_model(model, AdapterOptions(rank=2, slots=1, copies=2))
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if "up_" in name:
                    parameter.normal_(0.0, 0.3)
        return TrainedParts(PromptEncoder(WIDTH, options), options, adapter)


@pytest.fixture
def edits() -> list[Edit]:
    return [
        Edit("the red house is", "red house", "blue", aliases=("tall tower",)),
        Edit("the king of the island is", "island", "old man"),
        Edit("the bridge by the lake is", "bridge", "green"),
    ]


@pytest.fixture
def logits(model: DiekaeModel) -> Callable[..., torch.Tensor]:
    def run(*texts: str, **options: object) -> torch.Tensor:
        with torch.no_grad():
            output: torch.Tensor = model(**model.tokenize(texts), **options).logits
        return output

    return run
