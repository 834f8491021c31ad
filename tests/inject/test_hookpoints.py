"""Hookpoints are found in every architecture, and refused where they cannot be."""

import copy

import pytest
import torch
from torch import Tensor, nn

from builders import DEPTH, hook_count, make_decoder
from decoders import EVERYWHERE, LAYERS, MODULES, SITES, decoder_of
from diekae.inject.hookpoints import find_blocks, find_hookpoints, first_tensor
from diekae.models import load_decoder


@EVERYWHERE
def test_modules_that_add_to_the_stream_are_found(kind: str) -> None:
    decoder = decoder_of(kind)
    for number, site in enumerate(SITES[1:]):
        for layer, point in find_hookpoints(decoder, LAYERS, site).items():
            names = {module: name for name, module in find_blocks(decoder)[layer].named_modules()}
            # A module may pass on the output of one inside it; either of them is right.
            assert names[point.module].startswith(MODULES[kind][number].split(".")[0]), names[point.module]


def test_a_decoder_without_findable_blocks_is_refused() -> None:
    decoder = copy.deepcopy(decoder_of("llama"))
    decoder.model.layers = nn.ModuleList(list(decoder.model.layers)[:2])
    with pytest.raises(ValueError, match="LlamaForCausalLM.*could not be found"):
        find_blocks(decoder)
    with pytest.raises(ValueError, match="could not be found"):
        find_hookpoints(decoder, (0,), "block")


def test_two_stacks_of_the_decoders_depth_are_refused_by_name() -> None:
    decoder = copy.deepcopy(decoder_of("llama"))
    decoder.model.others = nn.ModuleList(nn.Identity() for _ in range(DEPTH))
    with pytest.raises(ValueError, match="model.layers, model.others"):
        find_blocks(decoder)


def test_unusual_blocks_are_refused_only_for_the_inner_sites() -> None:
    class Doubling(nn.Module):
        def __init__(self, block: nn.Module) -> None:
            super().__init__()
            self.block = block
            self.attention_type = getattr(block, "attention_type", None)

        def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
            return 2 * first_tensor(self.block(hidden_states, **kwargs))

    decoder = make_decoder()
    decoder.model.layers[1] = Doubling(decoder.model.layers[1])
    assert find_hookpoints(decoder, (1,), "block")[1].module is decoder.model.layers[1]
    with pytest.raises(ValueError, match="layer 1 .*site='block'"):
        find_hookpoints(decoder, (1,), "attention")
    assert hook_count(decoder) == hook_count(make_decoder())


@pytest.mark.real
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_that_add_to_the_stream_are_found_in_smollm2(dtype: torch.dtype) -> None:
    decoder, _ = load_decoder("smollm2", dtype=dtype)
    blocks = find_blocks(decoder)
    for site, name in (("attention", "self_attn"), ("mlp", "mlp")):
        points = find_hookpoints(decoder, tuple(range(len(blocks))), site)
        assert all(points[layer].module is getattr(block, name) for layer, block in enumerate(blocks))
