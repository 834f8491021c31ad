"""The slots and the MLP of the encoder ``attention``, against their formulas and against single encoders."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diekae.encoders import Attention

COUNT, ROWS, KNOWN, ASKED, WIDTH = 3, 2, 7, 5, 32
HEADS, GROUPS, KEY, VALUE = 4, 2, 6, 5
SIZES: dict[str, Any] = {"heads": HEADS, "kv_heads": GROUPS, "key_size": KEY, "value_size": VALUE, "mlp_width": 10}
RANKS = pytest.mark.parametrize("rank", [None, 4, 0])
LEARNING = pytest.mark.parametrize("rank", [None, 4])


def make(count: int = COUNT, learned: bool = True, **options: Any) -> Attention:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = Attention(count, 24, WIDTH, Attention.make_options({**SIZES, **options}))
        with torch.no_grad():
            for parameter in encoder.parameters() if learned else ():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def read_of_k(encoder: Attention, count: int = COUNT) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States of K, their keys and values, and the three packed, [N, B, S, …]."""
    states = draw(count, ROWS, KNOWN, WIDTH)
    keys, values = draw(count, ROWS, GROUPS, KNOWN, KEY), draw(count, ROWS, GROUPS, KNOWN, VALUE)
    packed = torch.stack([encoder.pack(*one) for one in zip(states, keys, values, strict=True)])
    assert packed.shape[-1] == encoder.state_width
    return states, keys.transpose(2, 3), values.transpose(2, 3), packed


def turn(number: int, keys: Tensor) -> Tensor:
    """A stand-in for a rotation: linear, and different in every layer."""
    return (2 + number) * keys.flip(-1)


def slots_of(encoder: Attention, packed: Tensor, turned: Callable[[int, Tensor], Tensor] = turn) -> dict[str, Tensor]:
    return encoder.slots(packed, turned)


def thoughts(encoder: Attention, count: int = COUNT) -> Tensor:
    read, answer = draw(count, ROWS, ASKED, WIDTH, seed=1), draw(count, ROWS, ASKED, HEADS * VALUE, seed=2)
    return torch.stack(
        [encoder.mlp_output(*of_one) for of_one in zip(encoder.mlp_weights(), read, answer, strict=True)]
    )


@torch.no_grad()
@RANKS
def test_slots_are_the_decoders_keys_and_values_plus_the_trained_change(rank: int | None) -> None:
    encoder = make(rank=rank)
    states, keys, values, packed = read_of_k(encoder)
    slots = slots_of(encoder, packed)
    if rank == 0:
        assert torch.equal(slots["keys"], keys) and torch.equal(slots["values"], values)
        return
    weights = encoder.state_dict()
    for number in range(COUNT):
        for name, own, size in (("keys", keys, KEY), ("values", values, VALUE)):
            read = states[number] if rank is None else states[number] @ weights[f"{name}_down.weight"][number].T
            change = (read @ weights[f"{name}.weight"][number].T).unflatten(-1, (GROUPS, size))
            change = turn(number, change) if name == "keys" else change
            assert change.abs().max() > 0.1
            torch.testing.assert_close(slots[name][number], own[number] + change, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_mlp_equals_its_formula() -> None:
    encoder = make()
    found = thoughts(encoder)
    read, answer = draw(COUNT, ROWS, ASKED, WIDTH, seed=1), draw(COUNT, ROWS, ASKED, HEADS * VALUE, seed=2)
    for number in range(COUNT):
        w = {name: tensor[number] for name, tensor in encoder.state_dict().items()}
        heard = torch.cat([read[number] @ w["skip.weight"].T, answer[number] @ w["heard.weight"].T], -1)
        inner = heard / (heard.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * w["mlp_norm.weight"]
        gate, up = inner @ w["gate.weight"].T, inner @ w["inner.weight"].T
        want = (gate * gate.sigmoid() * up) @ w["up.weight"].T
        assert want.abs().max() > 0.1
        torch.testing.assert_close(found[number], want, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@RANKS
def test_an_untrained_encoder_changes_nothing(rank: int | None) -> None:
    encoder = make(learned=False, rank=rank)
    _, keys, values, packed = read_of_k(encoder)
    slots = slots_of(encoder, packed)
    assert torch.equal(slots["keys"], keys) and torch.equal(slots["values"], values)
    assert thoughts(encoder).count_nonzero() == 0
    assert make(rank=0, mlp_width=0).mlp_weights() == []
    assert not list(make(rank=0, mlp_width=0).parameters())


@torch.no_grad()
@LEARNING
def test_stacked_encoders_equal_single_encoders(rank: int | None) -> None:
    encoder = make(rank=rank)
    *_, packed = read_of_k(encoder)
    slots, found = slots_of(encoder, packed), thoughts(encoder)
    read, answer = draw(COUNT, ROWS, ASKED, WIDTH, seed=1), draw(COUNT, ROWS, ASKED, HEADS * VALUE, seed=2)
    for number in range(COUNT):
        alone = make(1, **dataclasses.asdict(encoder.sizes))
        alone.load_state_dict({name: tensor[number : number + 1] for name, tensor in encoder.state_dict().items()})
        mine = slots_of(alone, packed[number : number + 1], lambda _n, keys, number=number: turn(number, keys))
        for name, tensor in mine.items():
            torch.testing.assert_close(slots[name][number], tensor[0], atol=1e-5, rtol=1e-5)
        thought = alone.mlp_output(alone.mlp_weights()[0], read[number], answer[number])
        torch.testing.assert_close(found[number], thought, atol=1e-5, rtol=1e-5)


@LEARNING
def test_an_encoder_gets_no_gradient_from_other_encoders_targets(rank: int | None) -> None:
    encoder = make(rank=rank)
    *_, packed = read_of_k(encoder)

    def gradients(weights: Tensor) -> dict[str, Tensor]:
        encoder.zero_grad()
        slots = slots_of(encoder, packed)
        parts = [slots["keys"], slots["values"], thoughts(encoder)]
        sum((part.square().flatten(1).sum(1) * weights).sum() for part in parts).backward()
        return {name: parameter.grad.clone() for name, parameter in encoder.named_parameters()}

    before, after = gradients(torch.ones(COUNT)), gradients(torch.tensor([1.0, 7.0, 1.0]))
    assert before.keys() == dict(encoder.named_parameters()).keys()
    for name in before:
        assert all(before[name][number].abs().max() > 0 for number in range(COUNT)), f"{name} learns nothing"
        for number in (0, 2):
            assert torch.equal(after[name][number], before[name][number])
        assert not torch.equal(after[name][1], before[name][1])


@torch.no_grad()
def test_slots_have_the_decoders_type() -> None:
    encoder = make()
    *_, packed = read_of_k(encoder)
    assert {slots.dtype for slots in slots_of(encoder, packed.bfloat16()).values()} == {torch.bfloat16}


def test_impossible_sizes_are_refused() -> None:
    for options in ({"heads": 3}, {"key_size": 0}, {"rank": -1}, {"mlp_width": -1}):
        with pytest.raises(ValueError, match="must be positive and kv_heads must divide heads"):
            Attention.make_options({**SIZES, **options})
    with pytest.raises(ValueError, match="'head_size' is not known"):
        Attention.make_options({"head_size": 8})
