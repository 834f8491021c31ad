"""On a GPU: reading in all layers equals K in the prompt, in fp32 and in bf16. Skipped without a GPU."""

from dataclasses import replace

import pytest
import torch

from builders import make_decoder, make_model, make_prompts, make_tokenizer
from diekae import DiekaeModel, PreparedKnowledge
from diekae.data.batch import collate, to_device
from diekae.data.prompt import Prompt
from diekae.inject.hooks import frozen
from diekae.run.score import target_logits
from diekae.training.objectives import DistillObjective

DEVICE = "cuda"
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

KINDS = ("llama", "qwen3", "gemma2", "gpt_neox")
"""They have shared key heads; norms of keys; soft caps and windows; keys that are rotated in part."""


def exact(kind: str = "llama", dtype: torch.dtype = torch.float32) -> DiekaeModel:
    """A tiny decoder on the GPU, K read in all of its layers."""
    return DiekaeModel.exact(make_decoder(kind).to(DEVICE, dtype), make_tokenizer())


def padded(length: int) -> list[Prompt]:
    """Prompts of different lengths, the first with a longer K."""
    first, *others = make_prompts(3)
    return [replace(first, knowledge=tuple(range(4, 4 + length))), *others]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-3), (torch.bfloat16, 0.15)])
@torch.no_grad()
def test_reading_in_all_layers_equals_k_in_the_prompt(kind: str, dtype: torch.dtype, share: float) -> None:
    model, prompts = exact(kind, dtype), padded(30)
    bare, prompted, ours = (target_logits(model, prompts, how).float() for how in ("bare", "prompted", "ours"))
    change = (prompted - bare).abs().max()
    assert change > 0.1, "K must matter"
    assert (ours - prompted).abs().max() <= share * change


@torch.no_grad()
def test_generated_tokens_equal_those_with_k_in_the_prompt() -> None:
    model = exact()
    prompt = padded(30)[0]
    (prepared,) = model.prepare_prompts([prompt])
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    ids = torch.tensor([prompt.anchor + prompt.input], device=DEVICE)
    whole = torch.tensor([prompt.anchor + prompt.knowledge + prompt.input], device=DEVICE)
    ours = model.generate(ids, knowledge=prepared, **options)[0, ids.shape[1] :]
    prompted, bare = (model.decoder.generate(input_ids=one, **options)[0, one.shape[1] :] for one in (whole, ids))
    assert torch.equal(ours, prompted) and not torch.equal(ours, bare)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_row_without_knowledge_equals_the_bare_decoder(dtype: torch.dtype) -> None:
    model = exact(dtype=dtype)
    (prepared,) = model.prepare_prompts(make_prompts(1))
    ids = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 10, 11, 12]], device=DEVICE)
    bare = model.decoder(input_ids=ids).logits
    ours = model(ids, knowledge=[prepared, None]).logits
    assert torch.equal(ours[1], bare[1]) and not torch.equal(ours[0], bare[0])


@torch.no_grad()
def test_knowledge_from_a_file_is_moved_to_the_decoders_device(tmp_path) -> None:
    model = exact()
    (prepared,) = model.prepare_prompts(make_prompts(1))
    prepared.save(tmp_path / "memory")
    again = PreparedKnowledge.load(tmp_path / "memory")
    assert next(iter(again.tensors.values())).device.type == "cpu"
    ids = torch.tensor([[1, 5, 6, 7, 8]], device=DEVICE)
    assert torch.equal(model(ids, knowledge=again).logits, model(ids, knowledge=prepared).logits)


def test_a_step_of_distillation_has_gradients_in_every_layer() -> None:
    model = make_model("attention", decoder=make_decoder().to(DEVICE), layers="every:2", effect=0.1)
    objective = DistillObjective(model)
    batch = to_device(collate(padded(30), scope="all", anchor="shared"), model.device)
    with frozen(model.decoder):
        objective(**batch).loss.backward()
    for name, parameter in model.bank.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.flatten(1).any(1).all(), f"{name} has no gradient in some layer"
