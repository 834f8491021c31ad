"""Gradient checkpointing of the decoder: the same gradients, from less that is kept."""

import threading
from typing import Any

import pytest
import torch
from objective_runs import gradients, layout
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from builders import SITES, hook_count, make_decoder, make_model, make_prompts
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.training.config import TrainingConfig
from diekae.training.objectives import OBJECTIVES


def train_step(model: DiekaeModel, name: str, *, thread: bool = False, **options: bool) -> tuple[Tensor, Any, int]:
    """Return the loss, the bank's gradients, and the number of values kept for the backward pass."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    model.bank.zero_grad(set_to_none=True)
    with frozen(model.decoder):
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = OBJECTIVES[name](model, **options)(**layout(model, make_prompts(3))).loss
        assert hook_count(model.decoder) == 0 and not any("forward" in vars(b) for b in find_blocks(model.decoder))
        if thread:  # as on a GPU
            worker = threading.Thread(target=loss.backward)
            worker.start()
            worker.join()
        else:
            loss.backward()
    assert hook_count(model.decoder) == 0
    return loss.detach(), gradients(model), sum(kept.values())


@pytest.mark.parametrize("name", ["cross_entropy", "distill"])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
@pytest.mark.parametrize(("encoder", "site"), SITES)
def test_checkpointing_leaves_loss_and_gradients_as_they_are(
    encoder: str, site: str, scope: str, kind: str, name: str
) -> None:
    model = make_model(encoder, decoder=make_decoder(kind), layers=(1, 3), site=site, scope=scope)
    loss, grads, kept = train_step(model, name)
    assert all(float(grad.abs().max()) > 0 for grad in grads.values())
    for thread in (False, True):
        found_loss, found, kept_less = train_step(model, name, thread=thread, gradient_checkpointing=True)
        assert torch.equal(found_loss, loss)
        assert set(found) == set(grads)
        for parameter, grad in grads.items():
            torch.testing.assert_close(found[parameter], grad, rtol=1e-6, atol=1e-7)
        assert kept_less < 0.8 * kept


def test_dropout_of_the_decoder_stays_off() -> None:
    model = make_model(decoder=make_decoder("opt", dropout=0.5), layers=(1, 3))
    losses = [train_step(model, "cross_entropy", gradient_checkpointing=True)[0] for _ in range(2)]
    assert torch.equal(*losses)


def test_an_objective_without_gradients_through_the_decoder_refuses_it() -> None:
    with pytest.raises(ValueError, match="gradient_checkpointing is for objective='cross_entropy' or 'distill'"):
        TrainingConfig(objective="difference", gradient_checkpointing=True)
