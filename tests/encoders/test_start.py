"""A reader's start from the decoder's own attention."""

import math

import pytest
import torch
from builders import make_decoder, make_model, make_prompts
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from diekae.data.prompt import collate
from diekae.encoders.bank import Bank
from diekae.encoders.base import GroupedLinear, GroupedRMSNorm, Sample
from diekae.encoders.start import AttentionWeights, mean_rotation, reduce_attention
from diekae.inject.attention import attention_weights
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import DifferenceObjective
from diekae.training.run import _calibrate

HEADS, GROUPS, SIZE, W = 4, 2, 8, 24


def weights(seed: int = 0) -> AttentionWeights:
    draw = torch.Generator().manual_seed(seed)
    shapes = (W,), (HEADS, SIZE, W), (GROUPS, SIZE, W), (GROUPS, SIZE, W), (HEADS, W, SIZE)
    return AttentionWeights(*(torch.randn(*shape, generator=draw) for shape in shapes))


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, W, generator=torch.Generator().manual_seed(seed))


def scores(query: Tensor, key: Tensor, x: Tensor, k: Tensor) -> Tensor:
    """Every head's score of every pair, [H, x, k]."""
    share = len(query) // len(key)
    return torch.stack([(x @ q.T) @ (k @ key[h // share].T).T for h, q in enumerate(query)])


def test_a_start_at_full_size_asks_and_answers_as_the_decoder_does() -> None:
    whole, x, k = weights(), rows(50, 1), rows(60, 2)
    cut = reduce_attention(whole, SIZE, k, x)
    asked = scores(cut.query, cut.key, x, k) / math.sqrt(SIZE)
    torch.testing.assert_close(asked, scores(whole.query, whole.key, x, k), rtol=1e-3, atol=1e-3)
    for head in range(HEADS):
        got = cut.output[head] @ cut.value[head // 2]
        torch.testing.assert_close(got, whole.output[head] @ whole.value[head // 2], rtol=1e-3, atol=1e-3)


def test_a_smaller_start_is_better_than_leaving_dimensions_out() -> None:
    whole, x, k, size = weights(), rows(50, 1), rows(60, 2), 4
    want = scores(whole.query, whole.key, x, k)
    cut = reduce_attention(whole, size, k, x)
    error = (scores(cut.query, cut.key, x, k) / math.sqrt(size) - want).norm()
    left_out = (scores(whole.query[:, :size], whole.key[:, :size], x, k) - want).norm()
    assert 0 < error < 0.8 * left_out


def test_the_mean_rotation_is_the_mean_of_rotated_scores() -> None:
    span, place = 5, 9
    angles = torch.arange(20)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.02])
    cos, sin = (f(torch.cat([angles, angles], -1)) for f in (torch.cos, torch.sin))
    query, key = rows(1, 3)[0, :SIZE], rows(1, 4)[0, :SIZE]
    expected = []
    for distance in range(1, span + 1):
        turned = [
            apply_rotary_pos_emb(v[None, None, None], v[None, None, None], cos[p][None, None], sin[p][None, None])[0]
            for v, p in ((query, place), (key, place - distance))
        ]
        expected.append((turned[0] * turned[1]).sum())
    got = query @ mean_rotation(key[None, :, None], cos[1 : span + 1], sin[1 : span + 1])[0, :, 0]
    torch.testing.assert_close(got, torch.stack(expected).mean())


def test_a_started_reader_attends_to_the_anchor_and_to_k_as_the_decoder_would() -> None:
    decoder = make_decoder("opt")  # no rotary positions: the start is exact
    layer = attention_weights(decoder, (1,))
    heads, size, width = layer[0].query.shape
    options = {"width": heads * size, "heads": heads, "kv_heads": heads, "start": "decoder", "skip_width": 8}
    bank = Bank("reader", options, [1], width, width)
    draw = torch.Generator().manual_seed(0)
    known, seen = torch.randn(1, 2, 6, width, generator=draw), torch.randn(1, 2, 5, width, generator=draw)
    masks = torch.ones(2, 6, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)
    goal = torch.randn(1, 10, width, generator=draw)
    bank.encoder.start_from(layer, Sample(known, masks[0], seen, masks[1], masks[1], goal))
    got = bank.encoder(bank.prepare(known, masks[0]), seen, masks[1]).difference[0]

    def normed(states: Tensor) -> Tensor:
        return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6) * layer[0].norm

    anchor = normed(seen[0, 0, 0])
    want = torch.zeros(2, 5, width)
    for row in range(2):
        for place in range(5):
            for head in range(heads):
                query = layer[0].query[head] @ normed(seen[0, row, place])
                slots = torch.cat([anchor[None], normed(known[0, row])])
                shares = (slots @ layer[0].key[head].T @ query).softmax(0)
                values = slots @ layer[0].value[head].T
                want[row, place] += layer[0].output[head] @ (shares[1:] @ values[1:])
    gain = (want.flatten(0, 1) * goal[0]).sum() / want.square().sum()
    torch.testing.assert_close(got, gain * want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "gemma2", "mixtral"])
def test_a_start_explains_more_than_the_centre_and_is_no_identity(architecture: str) -> None:
    decoder = make_decoder(architecture)
    first = attention_weights(decoder, (0,))[0]
    heads, groups, size = len(first.query), len(first.key), first.key.shape[1]
    options = {"width": heads * size, "heads": heads, "kv_heads": groups, "start": "decoder"}
    model = make_model(decoder=decoder, layers="all", site="attention", encoder_options=options)
    objective, prompts = DifferenceObjective(model), make_prompts(12)
    _calibrate(objective, PromptDataset(prompts, scope="all", anchor="shared"), TrainingConfig())
    sums = objective(**collate(prompts, scope="all", anchor="shared"))
    assert bool((sums.errors < sums.spread).all())


def test_a_start_is_refused_with_other_sizes_and_other_attention() -> None:
    layer, sample = weights(), Sample(*[torch.zeros(1)] * 6)
    bank = Bank("reader", {"width": 16, "heads": 2, "start": "decoder"}, [0], W, W)
    with pytest.raises(ValueError, match="heads=4, kv_heads=2 and a width of at most 32"):
        bank.encoder.start_from([layer], sample)
    with pytest.raises(ValueError, match="layer 0 of GPT2LMHeadModel"):
        attention_weights(make_decoder("gpt2"), (0,))
    with pytest.raises(ValueError, match="start='tail' is not known"):
        Bank("reader", {"start": "tail"}, [0], W, W)
    token = Bank("token", {}, [0], W, W)
    assert not token.encoder.starts_from_decoder


@pytest.mark.parametrize(
    ("architecture", "name", "kept_less_one"),
    [("llama", "input_layernorm", False), ("gemma2", "input_layernorm", True), ("opt", "self_attn_layer_norm", False)],
)
def test_the_gain_of_the_norm_before_attention_is_read_off_it(
    architecture: str, name: str, kept_less_one: bool
) -> None:
    decoder = make_decoder(architecture)
    norm = next(module for place, module in decoder.named_modules() if place.endswith(f"layers.1.{name}"))
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1.0, 2.0, len(norm.weight)))
    expected = norm.weight + 1 if kept_less_one else norm.weight
    torch.testing.assert_close(attention_weights(decoder, (1,))[0].norm, expected.detach(), rtol=1e-4, atol=1e-4)


def test_a_norm_that_leaves_its_gain_to_the_maps_says_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    norm, linear = GroupedRMSNorm(3, W), GroupedLinear(3, W, 5)
    with torch.no_grad():
        norm.weight.normal_(1.0, 0.5, generator=draw)
    x = torch.randn(2, 2, 4, W, generator=draw)
    left, gain = norm.split(x, slice(1, 3))
    assert gain is not None and left.grad_fn is None, "an x that needs no gradient costs none"
    with torch.no_grad():
        whole, nothing = norm.split(x, slice(1, 3))
    assert nothing is None
    torch.testing.assert_close(linear(left, slice(1, 3), gain), linear(whole, slice(1, 3)))
