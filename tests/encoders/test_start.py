"""An encoder's start from the decoder's own attention."""

import pytest
import torch
from builders import make_decoder, make_model, make_prompts
from torch import Tensor

from diekae.data.prompt import collate
from diekae.encoders.bank import Bank
from diekae.encoders.base import GroupedLinear, GroupedRMSNorm, Sample
from diekae.encoders.start import AttentionWeights, reduce_attention
from diekae.inject.attention import attention_weights
from diekae.training.config import TrainingConfig
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import DifferenceObjective
from diekae.training.run import calibrate

HEADS, GROUPS, SIZE, W = 4, 2, 8, 24


def weights(seed: int = 0) -> AttentionWeights:
    draw = torch.Generator().manual_seed(seed)
    shapes = (W,), (HEADS, SIZE, W), (GROUPS, SIZE, W), (GROUPS, SIZE, W), (HEADS, W, SIZE), (SIZE // 2,)
    biases = (HEADS, SIZE), (GROUPS, SIZE)
    return AttentionWeights(*(torch.randn(*shape, generator=draw) for shape in (*shapes, *biases)))


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, W, generator=torch.Generator().manual_seed(seed))


def scores(query: Tensor, key: Tensor, x: Tensor, k: Tensor) -> Tensor:
    """Every head's score of every pair, [H, x, k]."""
    share = len(query) // len(key)
    return torch.stack([(x @ q.T) @ (k @ key[h // share].T).T for h, q in enumerate(query)])


def test_a_start_at_full_size_asks_and_answers_as_the_decoder_does() -> None:
    whole, x, k = weights(), rows(50, 1), rows(60, 2)
    cut = reduce_attention(whole, SIZE, k, x)
    asked = scores(cut.query, cut.key, x, k)
    torch.testing.assert_close(asked, scores(whole.query, whole.key, x, k), rtol=1e-3, atol=1e-3)
    for head in range(HEADS):
        got = cut.output[head] @ cut.value[head // 2]
        torch.testing.assert_close(got, whole.output[head] @ whole.value[head // 2], rtol=1e-3, atol=1e-3)


def test_a_smaller_start_is_better_than_leaving_dimensions_out() -> None:
    whole, x, k, size = weights(), rows(50, 1), rows(60, 2), 4
    whole.key[:, [1, 3, 5, 7]] *= 5  # two pairs carry the scores
    want = scores(whole.query, whole.key, x, k)
    cut = reduce_attention(whole, size, k, x)
    error = (scores(cut.query, cut.key, x, k) - want).norm()
    left_out = (scores(whole.query[:, :size], whole.key[:, :size], x, k) - want).norm()
    assert 0 < error < 0.8 * left_out


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gemma3_text", "phi3", "mixtral"])
def test_a_start_explains_more_than_the_centre_and_is_no_identity(architecture: str) -> None:
    decoder = make_decoder(architecture)
    model = make_model("attention", decoder=decoder, encoder_options={}, effect=0.0)
    objective, prompts = DifferenceObjective(model), make_prompts(12)
    calibrate(model, PromptDataset(prompts, scope="all", anchor="shared"), TrainingConfig())
    sums = objective(**collate(prompts, scope="all", anchor="shared"))
    assert bool((sums.errors < sums.spread).all())


def test_a_start_is_refused_with_other_sizes_and_other_attention() -> None:
    layer, sample = weights(), Sample(*[torch.zeros(1)] * 6)
    bank = Bank("attention", {"heads": 2, "kv_heads": 2, "head_size": 8}, [0], W, W)
    with pytest.raises(ValueError, match="heads=4, kv_heads=2 and a head_size of at most 8"):
        bank.encoder.start_from([layer], sample)
    with pytest.raises(ValueError, match="layer 0 of GPT2LMHeadModel"):
        attention_weights(make_decoder("gpt2"), (0,))
    with pytest.raises(ValueError, match="start='tail' is not known"):
        Bank("attention", {"start": "tail"}, [0], W, W)
    partial = make_decoder()
    partial.model.rotary_emb.inv_freq = partial.model.rotary_emb.inv_freq[:2]
    with pytest.raises(ValueError, match="turn all 8 dimensions of a head"):
        attention_weights(partial, (0,))
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


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi3"])
@pytest.mark.parametrize("layer", [1, 3])
def test_a_start_at_full_size_is_transformers_attention_with_k_less_that_without(architecture: str, layer: int) -> None:
    sizes = {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]} if architecture == "gemma3_text" else {}
    decoder, known, asked, rows_ = make_decoder(architecture, **sizes), 7, 5, 2
    block = decoder.model.layers[layer]
    width, anchor = decoder.config.hidden_size, 1
    draw = torch.Generator().manual_seed(0)
    for name, parameter in block.self_attn.named_parameters():
        if parameter.ndim == 1:  # biases begin at zero and gains at one, which would hide that they are left out
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * (2.0 if "bias" in name else 0.5))
    knowledge, x = (torch.randn(1, rows_, length, width, generator=draw) for length in (known, asked))
    model = make_model("attention", decoder=decoder, encoder_options={"mlp_width": 0}, layers=(layer,), effect=0.0)
    encoder, masks = model.bank.encoder, [torch.ones(rows_, length, dtype=torch.bool) for length in (known, asked)]
    sample = Sample(knowledge, masks[0], x, masks[1], masks[1], torch.ones(1))
    encoder.start_from(attention_weights(decoder, (layer,)), sample)
    got = encoder(encoder.prepare(knowledge, masks[0]), x, masks[1]).difference[0]
    kind = (decoder.config.layer_types[layer],) if architecture == "gemma3_text" else ()

    def read(states: Tensor, places: Tensor) -> Tensor:
        turn = decoder.model.rotary_emb(states, places[None], *kind)
        length = states.shape[1]
        mask = torch.full((length, length), -1e9).triu(1)[None, None]
        out: Tensor = block.self_attn(block.input_layernorm(states), position_embeddings=turn, attention_mask=mask)[0]
        return out[:, -asked:]

    places = torch.arange(known), torch.arange(asked) + known - anchor
    want = read(torch.cat([knowledge[0], x[0]], dim=1), torch.cat(places)) - read(x[0], places[1])
    assert want.abs().max() > 0.1
    # The product of value and output is cut through a decomposition, which costs some digits.
    torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-2)


def test_a_start_from_norms_needs_them_and_whole_heads() -> None:
    decoder, sample = make_decoder("qwen3"), Sample(*[torch.zeros(1)] * 6)
    layer = attention_weights(decoder, (0,))
    for options in ({"norms": False}, {"head_size": 4}):
        model = make_model("attention", decoder=decoder, encoder_options=options, layers=(0,), effect=0.0)
        with pytest.raises(ValueError, match="needs norms=True and head_size=8"):
            model.bank.encoder.start_from(layer, sample)
    decoder.model.layers[0].self_attn.k_norm = torch.nn.RMSNorm(16)
    with pytest.raises(ValueError, match=r"gain of 8; in layer 0 of Qwen3ForCausalLM it has the shape \(16,\)"):
        attention_weights(decoder, (0,))
