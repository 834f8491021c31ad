"""Logits that predict targets, and their losses, against the decoder run row by row."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from builders import make_decoder, make_model, make_prompts
from diekae.data.batch import IGNORED, collate, run_of
from diekae.data.prompt import Prompt
from diekae.inject.hookpoints import stack_of
from diekae.run.score import batches, by_example, logits_at, nll, score, target_logits

PROMPTS = make_prompts(4)


@torch.no_grad()
def by_row(decoder: PreTrainedModel, prompts: list[Prompt], knowledge: bool, states: bool = False) -> Tensor:
    """What predicts each target token, row by row."""
    found = []
    for prompt in prompts:
        ids = prompt.anchor + (prompt.knowledge if knowledge else ()) + prompt.input + prompt.target
        row = torch.tensor([ids])
        whole = stack_of(decoder)(input_ids=row)[0] if states else decoder(input_ids=row).logits
        found.append(whole[0, -len(prompt.target) - 1 : -1])
    return torch.cat(found)


@torch.no_grad()
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("knowledge", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "gemma2"])
def test_logits_are_those_that_predict_the_targets(kind: str, knowledge: bool, states: bool) -> None:
    decoder = make_decoder(kind)
    batch = collate(PROMPTS, scope="all", anchor="shared")
    ids, offset = run_of(batch, knowledge)
    got = logits_at(decoder, ids, batch["labels"], offset, states=states)
    torch.testing.assert_close(got, by_row(decoder, PROMPTS, knowledge, states), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_decoder_stops_after_the_last_needed_column_and_the_head_runs_only_at_needed_ones() -> None:
    decoder, batch = make_decoder(), collate(PROMPTS, scope="all", anchor="shared")
    ids, offset = run_of(batch, True)
    columns: list[int] = []
    stack_of(decoder).register_forward_pre_hook(
        lambda _m, _a, kwargs: columns.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decoder.get_output_embeddings().register_forward_pre_hook(lambda _m, args: columns.append(args[0].shape[1]))
    logits_at(decoder, ids, batch["labels"], offset)
    rows, places = (batch["labels"] != IGNORED).nonzero(as_tuple=True)
    needed = set((places + offset[rows] - 1).tolist())
    assert columns == [max(needed) + 1, len(needed)]
    assert max(needed) + 1 < ids.shape[1] and len(needed) < max(needed)


@torch.no_grad()
def test_a_head_that_cannot_select_columns_runs_at_all_of_them() -> None:
    class Whole(type(make_decoder())):  # type: ignore[misc]
        def forward(self, *args, logits_to_keep=0, **kwargs):
            return super().forward(*args, **kwargs)

    decoder = make_decoder()
    decoder.__class__ = Whole
    batch = collate(PROMPTS, scope="all", anchor="shared")
    got = logits_at(decoder, batch["input_ids"], batch["labels"], torch.zeros_like(batch["offset"]))
    torch.testing.assert_close(got, by_row(make_decoder(), PROMPTS, False), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["bare", "prompted", "ours"])
def test_losses_are_nats_of_each_target_token_in_the_order_of_the_prompts(how: str) -> None:
    model = make_model("attention", effect=0.0)
    losses = score(lambda rows: target_logits(model, [PROMPTS[row] for row in rows], how), PROMPTS, 3)
    logits = by_row(model.decoder, PROMPTS, how != "bare").split([len(prompt.target) for prompt in PROMPTS])
    for loss, rows, prompt in zip(losses, logits, PROMPTS, strict=True):
        assert loss.dtype == torch.float64
        expected = F.cross_entropy(rows, torch.tensor(prompt.target), reduction="none").double()
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    found = nll(model, PROMPTS, how, batch_size=2)
    assert found.tokens.tolist() == [len(prompt.target) for prompt in PROMPTS]
    assert found.mean == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
    torch.testing.assert_close(found.first, torch.stack([loss[0] for loss in losses]), rtol=1e-5, atol=1e-6)


def test_given_prepared_knowledge_is_used() -> None:
    model = make_model("attention", effect=0.0)
    others = model.prepare_prompts(PROMPTS[::-1])
    swapped = [Prompt(p.anchor, q.knowledge, p.input, p.target) for p, q in zip(PROMPTS, PROMPTS[::-1], strict=True)]
    got = target_logits(model, PROMPTS, "ours", all_prepared=others)
    torch.testing.assert_close(got, target_logits(model, swapped, "prompted"), atol=1e-4, rtol=1e-5)
    assert not torch.allclose(got, target_logits(model, PROMPTS, "prompted"), atol=1e-2)


def test_similar_lengths_share_a_batch_and_all_examples_are_reported() -> None:
    found = list(batches(PROMPTS[::-1], 3))
    assert found == [([3, 2, 1], 3), ([0], 4)]
    seen: list[tuple[int, int]] = []

    def ones(rows) -> Tensor:
        return torch.ones(sum(len(PROMPTS[row].target) for row in rows))

    rows = [row for some, _ in by_example(ones, PROMPTS, 3, lambda *step: seen.append(step)) for row in some]
    assert sorted(rows) == [0, 1, 2, 3] and seen == [(3, 4), (4, 4)]
    for prompts, size in (([], 3), (PROMPTS, 0)):
        with pytest.raises(ValueError, match=f"got {len(prompts)} prompts and batch_size={size}"):
            list(batches(prompts, size))
