"""Hooks at hookpoints: what they are given, what they change, and that they leave nothing behind."""

import threading

import pytest
import torch
from torch import Tensor, nn

from builders import DEPTH, hook_count, make_decoder, make_prompts
from decoders import EVERY_SITE, EVERYWHERE, LAYERS, decoder_of, injecting, logits_of, noise_like
from diekae.data.batch import collate
from diekae.inject.hookpoints import find_blocks, find_hookpoints, first_tensor
from diekae.inject.hooks import apply_hook, contiguous_head, frozen, run


@EVERYWHERE
def test_a_difference_moves_its_layer_and_leaves_earlier_layers_unchanged(kind: str) -> None:
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
def test_hooks_get_the_stream_right_after_the_hookpoint(kind: str, site: str) -> None:
    """After the last addend it is the block's output; after attention, its input plus the attention's output."""
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


@EVERY_SITE
@pytest.mark.parametrize("kind", ["llama", "gpt2", "falcon", "opt"])
def test_no_hook_remains_after_an_error(kind: str, site: str) -> None:
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
            raise RuntimeError("inside the hook")

    with pytest.raises(RuntimeError, match="inside the hook"), apply_hook(points, fail):
        logits_of(decoder, ids)
    with pytest.raises(RuntimeError, match="inside the hook"):
        run(decoder, ids, points, fail)
    with pytest.raises(KeyError), apply_hook(points, lambda *_: None):
        raise KeyError
    assert hook_count(decoder) == hooks
    assert torch.equal(logits_of(decoder, ids), want)
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.data_ptr() == before[name][1]


@EVERYWHERE
@EVERY_SITE
def test_module_outputs_are_never_written_into(kind: str, site: str) -> None:
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


def test_run_stops_at_the_last_hookpoint_without_an_error() -> None:
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


def test_frozen_restores_modes_and_gradients() -> None:
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


def test_hooks_do_not_act_in_another_thread() -> None:
    decoder, ids = decoder_of("llama"), torch.arange(4, 12)[None]
    want = logits_of(decoder, ids)
    got: list[Tensor] = []
    with injecting(find_hookpoints(decoder, LAYERS, "block"), noise_like(ids)):
        assert (logits_of(decoder, ids) - want).abs().max() > 0.1
        thread = threading.Thread(target=lambda: got.append(logits_of(decoder, ids)))
        thread.start()
        thread.join()
    assert torch.equal(got[0], want)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_the_head_reads_a_copy_of_its_slice_inside_the_block_alone(rows: int) -> None:
    """Of a slice, PyTorch would copy the head's weights for each row."""
    decoder, strides = make_decoder(), []
    ids = torch.arange(5 * rows).view(rows, 5)
    with contiguous_head(decoder):
        head: nn.Module = decoder.get_output_embeddings()
        head.register_forward_pre_hook(lambda _head, args: strides.append(args[0].stride()[0]))
        inside = decoder(ids, logits_to_keep=2).logits
    outside = decoder(ids, logits_to_keep=2).logits
    width = decoder.config.hidden_size
    assert strides == [2 * width, 5 * width] and torch.allclose(inside, outside, atol=1e-5)
