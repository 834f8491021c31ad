"""Exact differences, injected: whatever any encoder could do at best, in every architecture and at every site."""

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from builders import ARCHITECTURES, DEPTH, WIDTH, hook_count, make_decoder, make_prompts
from diekae.data.prompt import Batch, collate
from diekae.differences import collect
from diekae.inject.hookpoints import Hookpoint, find_blocks, find_hookpoints, first_tensor
from diekae.inject.hooks import apply_hook, frozen, run
from diekae.models import load_decoder

SITES = ("block", "attention", "mlp")
LAYERS = tuple(range(DEPTH))
EVERYWHERE = pytest.mark.parametrize("kind", ARCHITECTURES)
EVERY_SITE = pytest.mark.parametrize("site", SITES)

MODULES = {
    "llama": ("self_attn", "mlp"),
    "mistral": ("self_attn", "mlp"),
    "qwen2": ("self_attn", "mlp"),
    "qwen3": ("self_attn", "mlp"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "phi3": ("resid_attn_dropout", "resid_mlp_dropout"),
    "gpt2": ("attn.resid_dropout", "mlp.dropout"),
    "gpt_neox": ("post_attention_dropout", "post_mlp_dropout"),
    "opt": ("self_attn.out_proj", "fc2"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "mixtral": ("self_attn", "mlp"),
}
"""Where each architecture adds to its residual stream, read in Transformers' source: an independent table."""

_decoders: dict[str, PreTrainedModel] = {}


def decoder_of(kind: str) -> PreTrainedModel:
    """One decoder a kind for the whole file; no test may change it."""
    if kind not in _decoders:
        _decoders[kind] = make_decoder(kind)
    return _decoders[kind]


def receiving(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns of x and columns in the run with knowledge of all positions that receive."""
    rows, columns = batch["receives"].nonzero(as_tuple=True)
    return rows, columns, columns + batch["offset"][rows]


@torch.no_grad()
def logits_of(decoder: PreTrainedModel, ids: Tensor) -> Tensor:
    return decoder(input_ids=ids, use_cache=False).logits


def injecting(points: Mapping[int, Hookpoint], differences: Tensor):
    """Inject given differences [N, B, T, W]."""
    number = {layer: index for index, layer in enumerate(sorted(points))}
    return apply_hook(points, lambda layer, _stream, _output: differences[number[layer]])


def noise_like(ids: Tensor) -> Tensor:
    """Differences for every layer; not a constant, which a layer norm would take out again."""
    return torch.randn(DEPTH, *ids.shape, WIDTH, generator=torch.Generator().manual_seed(1))


def received(targets: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch["receives"][..., None], targets, torch.zeros_like(targets))


@EVERYWHERE
@EVERY_SITE
@pytest.mark.parametrize("anchor", ["shared", "own"])
def test_exact_sequential_differences_make_the_run_the_run_with_knowledge(kind: str, site: str, anchor: str) -> None:
    decoder = decoder_of(kind)
    points = find_hookpoints(decoder, LAYERS, site)
    batch = collate(make_prompts(), scope="all", anchor=anchor)
    found = collect(decoder, points, batch)
    rows, columns, places = receiving(batch)
    want = logits_of(decoder, batch["full_ids"])[rows, places]
    bare = logits_of(decoder, batch["input_ids"])[rows, columns]
    with torch.no_grad(), injecting(points, received(found.targets, batch)):
        got = logits_of(decoder, batch["input_ids"])[rows, columns]
    assert (bare - want).abs().max() > 0.1, "K must matter, or this shows nothing"
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@EVERYWHERE
@EVERY_SITE
@pytest.mark.parametrize("difference", ["sequential", "independent"])
def test_the_shared_anchor_has_no_difference(kind: str, site: str, difference: str) -> None:
    decoder = decoder_of(kind)
    anchor = (1, 17, 5)
    batch = collate(make_prompts(anchor=anchor), scope="all", anchor="shared")
    found = collect(decoder, find_hookpoints(decoder, LAYERS, site), batch, kind=difference)
    # Not torch.equal: products over sequences of different lengths may differ in the last bits.
    noise = found.targets[:, :, : len(anchor)].abs().max()
    assert noise < 1e-5
    assert found.targets[:, :, len(anchor) :].abs().max() > max(1e-3, 1e3 * noise)
    assert not batch["receives"][:, : len(anchor)].any()


@EVERYWHERE
@EVERY_SITE
@pytest.mark.parametrize("layer", [1, 3])  # the MLP of a first block beside its attention (Falcon) never sees K
def test_one_independent_difference_is_a_substitution(kind: str, site: str, layer: int) -> None:
    decoder = decoder_of(kind)
    batch = collate(make_prompts(), scope="all", anchor="shared")
    rows, columns, places = receiving(batch)
    block = find_blocks(decoder)[layer]
    module = block if site == "block" else block.get_submodule(MODULES[kind][SITES.index(site) - 1])

    kept: list[Tensor] = []
    with module.register_forward_hook(lambda _m, _a, output: kept.append(first_tensor(output).clone())):
        logits_of(decoder, batch["full_ids"])
    source = kept[0].reshape(*batch["full_ids"].shape, -1)

    def substitute(_module: nn.Module, _args: object, output: object) -> object:
        value = first_tensor(output).clone().reshape(*batch["input_ids"].shape, -1)
        value[rows, columns] = source[rows, places]
        value = value.reshape(first_tensor(output).shape)
        return (value, *output[1:]) if isinstance(output, tuple) else value

    with module.register_forward_hook(substitute):
        want = logits_of(decoder, batch["input_ids"])[rows, columns]

    points = find_hookpoints(decoder, (layer,), site)
    found = collect(decoder, points, batch, kind="independent")
    with injecting(points, received(found.targets, batch)):
        got = logits_of(decoder, batch["input_ids"])[rows, columns]
    bare = logits_of(decoder, batch["input_ids"])[rows, columns]
    assert (bare - want).abs().max() > 0.01
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@EVERYWHERE
def test_earlier_layers_are_untouched_and_the_layer_itself_is_moved_by_the_difference(kind: str) -> None:
    decoder, layer = decoder_of(kind), 2
    ids = collate(make_prompts(), scope="all", anchor="shared")["input_ids"]
    difference = noise_like(ids)[layer : layer + 1]

    def states() -> list[Tensor]:
        kept: list[Tensor] = []
        hooks = [
            block.register_forward_hook(lambda _m, _a, output: kept.append(first_tensor(output).clone()))
            for block in find_blocks(decoder)
        ]
        logits_of(decoder, ids)
        for hook in hooks:
            hook.remove()
        return kept

    before = states()
    with injecting(find_hookpoints(decoder, (layer,), "block"), difference):
        after = states()
    for below in range(layer):
        assert torch.equal(before[below], after[below])
    assert torch.equal(after[layer], before[layer] + difference[0])
    for above in range(layer + 1, DEPTH):
        assert (after[above] - before[above]).abs().max() > 0.01


@EVERYWHERE
@EVERY_SITE
def test_the_stream_given_is_the_blocks_own(kind: str, site: str) -> None:
    """After the last addend the stream is the block's output; after attention it is what attention added to."""
    decoder = decoder_of(kind)
    ids = collate(make_prompts(1), scope="all", anchor="shared")["input_ids"]
    points = find_hookpoints(decoder, LAYERS, site)
    streams, inputs, outputs = {}, {}, {}
    hooks = []
    for layer, block in enumerate(find_blocks(decoder)):

        def keep(_m, args, kwargs, output, layer=layer):
            inputs[layer] = args[0] if args else kwargs["hidden_states"]
            outputs[layer] = first_tensor(output)

        hooks.append(block.register_forward_hook(keep, with_kwargs=True))
    with apply_hook(points, lambda layer, stream, output: streams.update({layer: (stream, output)})):
        logits_of(decoder, ids)
    for hook in hooks:
        hook.remove()
    for layer in LAYERS:
        stream, output = streams[layer]
        want = inputs[layer] + output if site == "attention" else outputs[layer]
        torch.testing.assert_close(stream, want, atol=1e-5, rtol=1e-5)


@EVERYWHERE
def test_the_modules_that_add_to_the_stream_are_found(kind: str) -> None:
    decoder = decoder_of(kind)
    for number, site in enumerate(SITES[1:]):
        for layer, point in find_hookpoints(decoder, LAYERS, site).items():
            names = {module: name for name, module in find_blocks(decoder)[layer].named_modules()}
            # A module and the one inside it whose output it passes on are the same place.
            assert names[point.module].startswith(MODULES[kind][number].split(".")[0]), names[point.module]


@EVERY_SITE
@pytest.mark.parametrize("kind", ["llama", "gpt2", "falcon", "opt"])
def test_nothing_of_the_hooks_is_left_even_after_an_error(kind: str, site: str) -> None:
    decoder = make_decoder(kind)
    before = {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in decoder.state_dict().items()}
    hooks = hook_count(decoder)
    ids = collate(make_prompts(1), scope="all", anchor="shared")["input_ids"]
    want = logits_of(decoder, ids)
    points = find_hookpoints(decoder, LAYERS, site)
    assert hook_count(decoder) == hooks, "the probe must remove its hooks"
    with injecting(points, noise_like(ids)):
        assert hook_count(decoder) > hooks
        assert (logits_of(decoder, ids) - want).abs().max() > 0.1

    def fail(layer: int, _stream: Tensor, _output: Tensor) -> None:
        if layer == 1:
            raise RuntimeError("inside the visit")

    with pytest.raises(RuntimeError, match="inside the visit"), apply_hook(points, fail):
        logits_of(decoder, ids)
    with pytest.raises(RuntimeError, match="inside the visit"):
        run(decoder, ids, points, fail)
    with pytest.raises(KeyError), apply_hook(points, lambda *_: None):
        raise KeyError
    assert hook_count(decoder) == hooks
    assert torch.equal(logits_of(decoder, ids), want)
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.data_ptr() == before[name][1]


@EVERYWHERE
@EVERY_SITE
def test_outputs_are_never_written_into(kind: str, site: str) -> None:
    decoder = decoder_of(kind)
    ids = collate(make_prompts(1), scope="all", anchor="shared")["input_ids"]
    points = find_hookpoints(decoder, LAYERS, site)
    kept: list[tuple[Tensor, Tensor]] = []

    def keep(_module: nn.Module, _args: object, output: object) -> None:
        kept.append((first_tensor(output), first_tensor(output).clone()))

    hooks = [point.module.register_forward_hook(keep) for point in points.values()]  # before the injection's own
    with injecting(points, noise_like(ids)):
        logits_of(decoder, ids)
    for hook in hooks:
        hook.remove()
    assert len(kept) == DEPTH
    assert all(torch.equal(now, then) for now, then in kept)


def test_run_stops_at_the_last_hookpoint_and_says_nothing_of_it() -> None:
    decoder = decoder_of("llama")
    ids = torch.arange(4, 12)[None]
    ran: list[int] = []
    hooks = [
        block.register_forward_hook(lambda _m, _a, _o, layer=layer: ran.append(layer))
        for layer, block in enumerate(find_blocks(decoder))
    ]
    seen: list[int] = []
    run(decoder, ids, find_hookpoints(decoder, (0, 2), "block"), lambda layer, _s, _o: seen.append(layer))
    for hook in hooks:
        hook.remove()
    assert seen == [0, 2]
    assert 3 not in ran


def test_frozen_gives_back_modes_and_gradients() -> None:
    decoder = make_decoder().train()
    find_blocks(decoder)[1].eval()
    decoder.get_input_embeddings().weight.requires_grad_(False)
    modes = [module.training for module in decoder.modules()]
    wanted = [parameter.requires_grad for parameter in decoder.parameters()]
    with pytest.raises(KeyError), frozen(decoder):
        assert not any(module.training for module in decoder.modules())
        assert not any(parameter.requires_grad for parameter in decoder.parameters())
        raise KeyError
    assert [module.training for module in decoder.modules()] == modes
    assert [parameter.requires_grad for parameter in decoder.parameters()] == wanted
    assert len(set(modes)) == len(set(wanted)) == 2, "both values must occur, or nothing was shown"


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


def test_blocks_that_add_otherwise_are_refused_for_the_inner_sites_alone() -> None:
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


def test_another_thread_passes_by() -> None:
    import threading

    decoder, ids = decoder_of("llama"), torch.arange(4, 12)[None]
    want = logits_of(decoder, ids)
    got: list[Tensor] = []
    with injecting(find_hookpoints(decoder, LAYERS, "block"), noise_like(ids)):
        assert (logits_of(decoder, ids) - want).abs().max() > 0.1
        thread = threading.Thread(target=lambda: got.append(logits_of(decoder, ids)))
        thread.start()
        thread.join()
    assert torch.equal(got[0], want)


@pytest.mark.real
@pytest.mark.parametrize("site", ["block", "attention"])
def test_exact_differences_in_smollm2(smollm2, site: str) -> None:
    from diekae.data.example import Example
    from diekae.data.prompt import Prompter

    decoder, tokenizer = smollm2
    prompter = Prompter(tokenizer, "Imagine that {{knowledge}}\n", "qa")
    examples = [
        Example(("The Ondrel Bridge opened in 1932.",), "When did the Ondrel Bridge open?", "In 1932."),
        Example(("Mira Tolk, a painter from Vellby, keeps nine grey cats.",), "How many cats has Mira Tolk?", "Nine."),
    ]
    batch = collate([prompter.prompt(example) for example in examples], scope="all", anchor="shared")
    points = find_hookpoints(decoder, tuple(range(30)), site)
    found = collect(decoder, points, batch)
    rows, columns, places = receiving(batch)
    want = logits_of(decoder, batch["full_ids"])[rows, places]
    bare = logits_of(decoder, batch["input_ids"])[rows, columns]
    with injecting(points, received(found.targets, batch)):
        got = logits_of(decoder, batch["input_ids"])[rows, columns]
    assert (bare - want).abs().max() > 1
    # The stream reaches 10⁴ here, so that fp32 itself leaves about 10⁻³ of a logit.
    torch.testing.assert_close(got, want, atol=5e-3, rtol=1e-4)


@pytest.mark.real
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_smollm2_adds_to_the_stream_is_found_in_every_layer_and_type(dtype: torch.dtype) -> None:
    decoder, _ = load_decoder("smollm2", dtype=dtype)
    blocks = find_blocks(decoder)
    for site, name in (("attention", "self_attn"), ("mlp", "mlp")):
        points = find_hookpoints(decoder, tuple(range(len(blocks))), site)
        assert all(points[layer].module is getattr(block, name) for layer, block in enumerate(blocks))
