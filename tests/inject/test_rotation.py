"""The trained change of K's keys and values is rotated as the decoder rotates its own.

Independently: hooks on the last layer's own maps of keys and values add the same matrices' products in D(K, x), at the
columns of anchor and K. No column of K is read by a later layer, so nothing else changes.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from builders import DEPTH, make_tokenizer
from diekae import DiekaeConfig, DiekaeModel
from diekae.encoders import Attention
from diekae.prepare import rotated
from readings import (
    CASTLE,
    CHANGE,
    GROUPED,
    OFF,
    QUESTIONS,
    VARIANTS,
    exact_model,
    in_prompt,
    make_variant,
    off,
    ours,
    prompted,
)

LAST = DEPTH - 1
NORMED = ("k_norm", "k_layernorm")
"""Names of the norms between the projection of keys and their rotation."""


def make(name: str, **options: Any) -> DiekaeModel:
    """A bank in all layers, without an MLP."""
    sizes = {"mlp_width": 0, **options}
    return make_bank(make_variant(name), sizes)


def make_bank(decoder: PreTrainedModel, sizes: dict[str, Any]) -> DiekaeModel:
    config = DiekaeConfig.preset("attention", layers="all", template="{knowledge}", encoder_options=sizes)
    return DiekaeModel(decoder, config, make_tokenizer())


def encoder_of(model: DiekaeModel) -> Attention:
    encoder = model.bank.encoder
    assert isinstance(encoder, Attention)
    return encoder


def change(model: DiekaeModel, layers: slice = slice(LAST, None)) -> tuple[Tensor, Tensor]:
    """Give the encoders of some layers random maps; return those of the last, keys' and values' [G · d, W]."""
    encoder, draw = encoder_of(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in ("keys", "values"):
            weight = getattr(encoder, name).weight
            weight[layers] = 0.3 * torch.randn(weight[layers].shape, generator=draw)
    return encoder.keys.weight[LAST].detach(), encoder.values.weight[LAST].detach()


def adding(read: list[Tensor], weight: Tensor, end: int, shape: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """A hook that adds to a map's output what another makes of the same columns before ``end``."""

    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        more = read[-1] @ weight.T
        more[:, end:] = 0
        return output + shape(more, output)

    return hook


def as_heads(more: Tensor, output: Tensor) -> Tensor:
    """Lay [B, S, G · d] out as an output is: flat, or by heads before or after the columns."""
    if output.ndim == 3:
        return more
    heads = more.unflatten(-1, (-1, output.shape[-1]))
    return heads if output.shape[1] == more.shape[1] else heads.transpose(1, 2)


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    [
        "llama",
        "llama, one key head",
        "llama, yarn",
        "llama, llama3 rope",
        "qwen2",
        "qwen3",
        "gemma2",
        "gemma3_text",
        "gemma3, alternating",
        "mixtral",
        "mistral, window shorter than K",
        "phi, half rotary",
        "stablelm",
        "gpt_oss",
        "cohere",
        "cohere2, layers without positions",
        "smollm3, layers without positions",
        "glm",
        "olmo2",
    ],
)
def test_the_trained_change_equals_changed_maps_in_the_decoder(name: str) -> None:
    model = make(name)
    attention = model.attached.sites[LAST].module
    of_keys, of_values = change(model)
    ids, known = in_prompt(model, QUESTIONS[0], CASTLE)
    end, read = len(model.anchor) + known, list[Tensor]()
    before = prompted(model, QUESTIONS[0], CASTLE)
    keys = next(
        (getattr(attention, norm) for norm in NORMED if isinstance(getattr(attention, norm, None), nn.Module)), None
    )
    handles = [
        attention.register_forward_pre_hook(
            lambda _m, args, kwargs: read.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        ),
        (keys or attention.k_proj).register_forward_hook(adding(read, of_keys, end, as_heads)),
        attention.v_proj.register_forward_hook(adding(read, of_values, end, as_heads)),
    ]
    want = model.decoder(input_ids=ids).logits[0, end:]
    for handle in handles:
        handle.remove()
    assert off(want, before) > CHANGE
    assert off(ours(model, QUESTIONS[0], CASTLE), want) <= OFF


@torch.no_grad()
@pytest.mark.parametrize("rotary", [1.0, 0.5])
def test_the_trained_change_equals_changed_fused_maps(rotary: float) -> None:
    """GPT-NeoX computes queries, keys and values of each head in one product."""
    model = make("gpt_neox, half rotary" if rotary < 1 else "gpt_neox")
    attention = model.attached.sites[LAST].module
    of_keys, of_values = change(model)
    ids, known = in_prompt(model, QUESTIONS[0], CASTLE)
    end = len(model.anchor) + known
    heads, size = 4, of_keys.shape[0] // 4

    def hook(_module: nn.Module, args: Any, output: Tensor) -> Tensor:
        more = torch.stack([args[0] @ weight.T for weight in (0 * of_keys, of_keys, of_values)], dim=2)
        more[:, end:] = 0
        return output + more.unflatten(-1, (heads, size)).transpose(2, 3).flatten(2)

    before = prompted(model, QUESTIONS[0], CASTLE)
    with attention.query_key_value.register_forward_hook(hook):
        want = model.decoder(input_ids=ids).logits[0, end:]
    assert off(want, before) > CHANGE
    assert off(ours(model, QUESTIONS[0], CASTLE), want) <= OFF


@torch.no_grad()
@pytest.mark.parametrize("rank", [None, 4])
def test_the_change_of_every_layer_reaches_the_logits(rank: int | None) -> None:
    model = make("llama", rank=rank)
    exact = prompted(model, QUESTIONS[0], CASTLE)
    assert off(ours(model, QUESTIONS[0], CASTLE), exact) <= OFF, "untrained it is D(K, x)"
    for layer in range(DEPTH):
        for name in ("keys", "values"):
            weight = getattr(encoder_of(model), name).weight
            weight[layer] = torch.randn(weight[layer].shape, generator=torch.Generator().manual_seed(layer))
            assert off(ours(model, QUESTIONS[0], CASTLE), exact) > 1e-3, f"{name} of layer {layer}"
            weight[layer] = 0
    assert off(ours(model, QUESTIONS[0], CASTLE), exact) <= OFF


@torch.no_grad()
def test_a_change_of_low_rank_equals_the_product_of_its_matrices() -> None:
    low, full = make("llama", rank=4), make("llama")
    change(low, slice(None))
    for name in ("keys", "values"):
        down, up = getattr(encoder_of(low), f"{name}_down").weight, getattr(encoder_of(low), name).weight
        getattr(encoder_of(full), name).weight.copy_(up @ down)
    want = ours(full, QUESTIONS[0], CASTLE)
    assert off(want, prompted(full, QUESTIONS[0], CASTLE)) > CHANGE
    assert off(ours(low, QUESTIONS[0], CASTLE), want) <= OFF


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_without_positions_are_found(dtype: torch.dtype) -> None:
    for name, turned in (
        ("smollm3, layers without positions", [True, True, True, False]),
        ("cohere2, layers without positions", [True, True, True, False]),
        ("llama", [True] * DEPTH),
        ("llama, linear rope", [True] * DEPTH),
        ("gpt_neox", [True] * DEPTH),  # a quarter of the dimensions
    ):
        sites = make_bank(make_variant(name, hidden_size=64).to(dtype), {"mlp_width": 0}).attached.sites
        assert [site.rotary for site in sites.values()] == turned, name


def test_keys_with_an_unknown_rotation_are_read_but_cannot_be_trained() -> None:
    latent = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    experts = {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
    }
    decoder = make_variant("deepseek_v2", **{**GROUPED, **latent, **experts, "num_key_value_heads": 4})
    exact = make_bank(decoder, {"rank": 0, "mlp_width": 0})
    assert off(ours(exact, QUESTIONS[0], CASTLE), prompted(exact, QUESTIONS[0], CASTLE)) <= OFF
    trained = make_bank(decoder, {"mlp_width": 0})
    with pytest.raises(ValueError, match="DeepseekV2ForCausalLM rotates its keys in its own way.*'rank': 0"):
        ours(trained, QUESTIONS[0], CASTLE)


@torch.no_grad()
@pytest.mark.parametrize("name", VARIANTS)
def test_keys_rotated_further_are_those_of_a_run_at_later_positions(name: str) -> None:
    model = exact_model(name)
    prepared = model.prepare(CASTLE)
    ids = torch.tensor([[*model.anchor, *model.need_prompter().knowledge(CASTLE)]])
    steps = torch.full([len(prepared)], 7)
    moved = rotated(model.attached, prepared.tensors, steps)["keys"]

    def keys_at(first: int) -> Tensor:
        cache = DynamicCache()  # without the configuration, so that no window forgets keys
        positions = torch.arange(ids.shape[1])[None] + first
        model.decoder(input_ids=ids, position_ids=positions, cache=cache, use_cache=True)
        keys = torch.stack([layer.keys[0] for layer in cache.layers]).transpose(1, 2)
        return keys[:, len(model.anchor) :]

    assert prepared.positions is not None
    begin = int(prepared.positions[0]) - len(model.anchor)
    assert off(prepared.tensors["keys"], keys_at(begin)) <= OFF
    assert off(moved, keys_at(begin + 7)) <= OFF
