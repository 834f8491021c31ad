"""A decoder that the tests of methods share."""

from collections.abc import Iterator

import pytest
import torch
from transformers import PreTrainedModel

from builders import hook_count, make_decoder


@pytest.fixture
def state(request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """A decoder that must not be changed, in training mode to begin with so that a switch back is seen."""
    decoder = make_decoder()
    decoder.train()
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    flags = [p.requires_grad for p in decoder.parameters()]
    modules = [type(module) for module in decoder.modules()]
    yield decoder
    after = decoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[name], after[name]) for name in before), "a weight was written into"
    assert [p.requires_grad for p in decoder.parameters()] == flags
    assert [type(module) for module in decoder.modules()] == modules, "modules were left behind"
    assert all(module.training for module in decoder.modules())
    assert all(p.grad is None for p in decoder.parameters())
    assert hook_count(decoder) == 0
