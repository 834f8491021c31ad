"""A tiny edited model: 128 words, a random bank that is not the identity, and a random gate encoder."""

from collections.abc import Callable

import pytest
import torch

from builders import make_model, make_trained_parts
from diekae import DiekaeModel
from diekae.edit import Edit
from diekae.edit.trained_parts import TrainedParts


@pytest.fixture(params=["reader", "attention"])
def model(request: pytest.FixtureRequest) -> DiekaeModel:
    return make_model(request.param)


@pytest.fixture
def trained(model: DiekaeModel) -> TrainedParts:
    """A gate that opens only for nearly equal texts, and an adapter that changes what was prepared."""
    return make_trained_parts(model, spread=0.3)


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
