"""Attention over parts equals attention over all slots, whichever way it is computed."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from builders import make_model
from diekae.encoders import KnowledgeBatch
from diekae.encoders.partial_attention import Part, additive_mask, attend, attend_part, fold_heads, join, unfold_heads

ROWS, HEADS, SIZE = 3, 2, 8


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def part(slots: int, visible: Tensor | None = None, gain: float = 1.0, seed: int = 0) -> Part:
    # Strided, as prepared knowledge is: slots before heads.
    keys, values = (draw(ROWS, slots, HEADS, SIZE, seed=seed + n).transpose(1, 2) for n in range(2))
    return Part(gain * keys, values, None if visible is None else additive_mask(visible, keys.dtype))


def by_hand(query: Tensor, parts: list[Part], scale: float) -> Tensor:
    """Softmax in double precision over all slots."""
    scores = []
    for one in parts:
        mask = one.mask if one.mask is not None else torch.zeros(())
        if one.causal:
            mask = torch.full(query.shape[2:3] * 2, -torch.inf).triu(1)
        scores.append((query.double() @ one.keys.double().transpose(-1, -2)) * scale + mask.double())
    values = torch.cat([one.values.double() for one in parts], dim=2)
    return (torch.cat(scores, dim=-1).softmax(-1) @ values).to(query.dtype)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("queries", [1, 5])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_attention_over_several_parts_equals_attention_over_all(
    gradients: bool, queries: int, scale: float | None
) -> None:
    query = 3 * draw(ROWS, HEADS, queries, SIZE)
    hidden = torch.ones(ROWS, 1, 1, 40, dtype=torch.bool)
    hidden[0, ..., 7:] = False
    parts = [part(40, hidden), part(9, gain=4.0, seed=1), part(queries, seed=2)._replace(causal=True)]
    with torch.set_grad_enabled(gradients):
        got = attend(query, parts, scale)
    want = by_hand(query, parts, SIZE**-0.5 if scale is None else scale)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(attend(query, [join(parts, queries)], scale), want, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_the_kernel_equals_plain_products(causal: bool) -> None:
    query = 5 * draw(ROWS, HEADS, 6, SIZE)
    one = part(6)._replace(causal=causal)
    with torch.no_grad():
        kernel = attend_part(query, one, 0.7)
    products = attend_part(query, one, 0.7)
    torch.testing.assert_close(kernel.output, products.output, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kernel.log_sum, products.log_sum, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gradients", [False, True])
def test_a_part_without_visible_slots_has_no_weight(gradients: bool) -> None:
    query = draw(ROWS, HEADS, 4, SIZE)
    visible = torch.ones(ROWS, 1, 1, 10, dtype=torch.bool)
    visible[1] = False
    known, own = part(10, visible), part(4, seed=3)
    with torch.set_grad_enabled(gradients):
        got = attend(query, [known, own])
        alone = F.scaled_dot_product_attention(query, own.keys, own.values)
        empty = attend(query, [part(0), own])
    assert got.isfinite().all()
    torch.testing.assert_close(got[1], alone[1], atol=1e-6, rtol=1e-6)
    assert (got[0] - alone[0]).abs().max() > 0.1
    torch.testing.assert_close(empty, alone, atol=1e-6, rtol=1e-6)


def test_scores_far_apart_do_not_overflow() -> None:
    query = 100 * draw(ROWS, HEADS, 3, SIZE)
    parts = [part(5, gain=50.0), part(5, seed=4)]
    with torch.no_grad():
        got = attend(query, parts)
    torch.testing.assert_close(got, by_hand(query, parts, SIZE**-0.5), atol=1e-4, rtol=1e-4)


def test_folded_queries_equal_grouped_attention() -> None:
    query, groups, share = draw(2, ROWS, 5, 6, SIZE), 2, 3
    keys, values = draw(2 * ROWS, groups, 9, SIZE), draw(2 * ROWS, groups, 9, SIZE, seed=5)
    got = unfold_heads(F.scaled_dot_product_attention(fold_heads(query, groups), keys, values), 2, ROWS, 5)
    flat = query.flatten(0, 1).transpose(1, 2)
    wide = F.scaled_dot_product_attention(
        flat, keys.repeat_interleave(share, 1), values.repeat_interleave(share, 1)
    ).transpose(1, 2)
    torch.testing.assert_close(got, wide.flatten(2).unflatten(0, (2, ROWS)), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["token", "reader"])
def test_encoders_compute_the_same_with_and_without_gradients(name: str) -> None:
    model = make_model(name)
    bank, width = model.bank, model.bank.encoder.width
    count = 1 if name == "token" else len(bank.layers)
    known, x, more = (draw(count, ROWS, length, width) for length in (11, 6, 1))
    masks = [torch.ones(ROWS, length, dtype=torch.bool) for length in (11, 6, 1)]
    masks[0][1, 8:] = False
    masks[1][2, :2] = False
    prepared = bank.prepare(known, masks[0])
    prepared = KnowledgeBatch(
        {key: value.detach() for key, value in prepared.tensors.items()}, prepared.mask, prepared.token_count
    )
    found = []
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            first = bank(prepared.map(lambda tensor, _: tensor), x, masks[1])
            second = bank(prepared.map(lambda tensor, _: tensor), more, masks[2], slice(None), first.x_cache)
        found.append((first.difference.detach(), second.difference.detach()))
    for without, with_them in zip(*found, strict=True):
        torch.testing.assert_close(without, with_them, atol=1e-5, rtol=1e-5)


def test_cached_values_are_computed_once_for_each_name() -> None:
    knowledge = KnowledgeBatch({}, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1))
    calls: list[str] = []

    def get(name: str) -> int:
        return knowledge.cached(name, lambda: calls.append(name) or len(calls))

    assert [get(name) for name in ("x", "x", "y", "x", "y")] == [1, 1, 2, 1, 2]
