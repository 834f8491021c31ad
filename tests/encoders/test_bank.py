"""The bank measures the centre and scale of its targets, and applies them to what its encoders return."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from builders import SMALL
from diekae.encoders.bank import Bank

COUNT, ROWS, KNOWN, ASKED, WIDE, WIDTH = 3, 2, 7, 5, 24, 32
"""Encoders, rows, tokens of K, positions of x, embedding width, decoder width."""
LAYERS = (2, 5, 8)
ATTENTION = {"heads": 4, "kv_heads": 2, "key_size": 6, "value_size": 5, "mlp_width": 10}


def make_bank(name: str) -> Bank:
    """A bank whose parameters are all random."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        bank = Bank(name, ATTENTION if name == "attention" else SMALL[name], LAYERS, WIDE, WIDTH)
        with torch.no_grad():
            for parameter in bank.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return bank


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def differences(bank: Bank) -> Tensor:
    """What the bank returns for some K and x."""
    count, width = (1, WIDE) if bank.encoder.reads == "embeddings" else (COUNT, WIDTH)
    masks = [torch.ones(ROWS, length, dtype=torch.bool) for length in (KNOWN, ASKED)]
    knowledge = bank.prepare(draw(count, ROWS, KNOWN, width, seed=1), masks[0])
    return bank(knowledge, draw(count, ROWS, ASKED, width, seed=2), masks[1]).difference


@pytest.mark.parametrize("name", ["reader", "token", "attention"])
@torch.no_grad()
def test_each_layer_is_centred_and_scaled_at_the_receiving_positions(name: str) -> None:
    bank = make_bank(name)
    targets = draw(COUNT, ROWS, ASKED, WIDTH) * torch.tensor([1.0, 10.0, 0.1])[:, None, None, None] + 3
    receives = torch.ones(ROWS, ASKED, dtype=torch.bool)
    receives[0, :2] = False
    computes_differences = bank.encoder.reads != "attention"
    raw = differences(bank) if computes_differences else None
    bank.calibrate(targets.masked_fill(~receives[..., None], 1e6), receives)
    samples = targets[:, receives]
    if raw is None:
        # Slots add no constant to the difference, so its centre stays zero.
        assert bank.bias.count_nonzero() == 0
        torch.testing.assert_close(bank.scale, samples.square().mean((1, 2)).sqrt())
    else:
        torch.testing.assert_close(bank.bias, samples.mean(1))
        torch.testing.assert_close(bank.scale, samples.var(1, correction=0).mean(1).sqrt())
        want = bank.bias[:, None, None] + bank.scale[:, None, None, None] * raw
        torch.testing.assert_close(differences(bank), want)
    constant = torch.full_like(targets, 2.0 if computes_differences else 0.0)
    bank.calibrate(constant, receives)
    assert torch.equal(bank.scale, torch.ones(COUNT)), "a target that never changes must not scale to zero"


def change_in_place(tensor: Tensor) -> None:
    with torch.no_grad():
        tensor.add_(1)


def replace_by_another(tensor: Tensor) -> None:
    tensor.data = tensor.data + 1


@pytest.mark.parametrize("change", [change_in_place, replace_by_another])
def test_the_fingerprint_sees_changed_weights(change: Callable[[Tensor], None]) -> None:
    bank = make_bank("reader")
    for name, tensor in (*bank.named_parameters(), *bank.named_buffers()):
        before = bank.fingerprint()
        assert bank.fingerprint() == before
        change(tensor)
        assert bank.fingerprint() != before, name


def test_a_look_at_the_weights_sees_changes_that_pytorch_does_not_count() -> None:
    bank = make_bank("reader")
    for name, tensor in (*bank.named_parameters(), *bank.named_buffers()):
        before = bank.fingerprint()
        tensor.data.add_(1)
        assert bank.fingerprint() == before, "only a look sees it"
        assert bank.fingerprint(look=True) != before, name
        assert bank.fingerprint() == bank.fingerprint(look=True)


def test_a_bank_made_in_inference_mode_has_a_fingerprint() -> None:
    with torch.inference_mode():
        bank = make_bank("reader")
        assert bank.fingerprint() == make_bank("reader").fingerprint()
    assert bank.fingerprint() == make_bank("reader").fingerprint()
