"""Exact differences, injected: the best that any encoder could do, in every architecture and at every site."""

import pytest
import torch
from torch import Tensor, nn

from builders import make_prompts
from decoders import EVERY_SITE, EVERYWHERE, LAYERS, MODULES, SITES, decoder_of, injecting, logits_of
from diekae.data.batch import Batch, collate
from diekae.inject.hookpoints import find_blocks, find_hookpoints, first_tensor
from diekae.training.differences import collect


def receiving(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns of x and columns in the run with knowledge of all positions that receive."""
    rows, columns = batch["receives"].nonzero(as_tuple=True)
    return rows, columns, columns + batch["offset"][rows]


def received(targets: Tensor, batch: Batch) -> Tensor:
    return torch.where(batch["receives"][..., None], targets, torch.zeros_like(targets))


@EVERYWHERE
@EVERY_SITE
@pytest.mark.parametrize("anchor", ["shared", "own"])
def test_exact_sequential_differences_give_the_logits_of_the_run_with_knowledge(
    kind: str, site: str, anchor: str
) -> None:
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
@pytest.mark.parametrize("layer", [1, 3])  # in a parallel block (Falcon) the first MLP never sees K
def test_one_independent_difference_equals_a_substitution(kind: str, site: str, layer: int) -> None:
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
