"""How much attention K's slots get, against the weights of Transformers' eager attention with K in the prompt."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from builders import DEPTH
from diekae import DiekaeModel
from diekae.prepare import read_documents
from readings import CASTLE, OFF, QUESTIONS, RIVER, SHIP, in_prompt, make_exact, make_variant, off, right_padded

GAIN = 9.0
"""Factor of the random weights, so that attention prefers some tokens to others."""
KINDS = pytest.mark.parametrize(
    "name",
    [
        "llama",
        "llama, one key head",
        "qwen3",
        "phi3",
        "gpt_neox, half rotary",
        "mistral, window shorter than K",
        "mixtral",
    ],
)


def pair(name: str, attention: str = "sdpa", **options: Any) -> tuple[DiekaeModel, DiekaeModel]:
    """The model that is watched, and one of the same weights whose decoder returns its attention weights."""
    decoders = [make_variant(name, kind, gain=GAIN) for kind in (attention, "eager")]
    return make_exact(decoders[0], **options), make_exact(decoders[1], **options)


@torch.no_grad()
def in_the_prompt(model: DiekaeModel, question: str, knowledge: str) -> Tensor:
    """Weights of all layers from x's columns after the anchor to K's, [layers, H, T, K]."""
    ids, known = in_prompt(model, question, knowledge)
    start = len(model.anchor)
    weights = torch.cat(model.decoder(input_ids=ids, output_attentions=True, use_cache=False).attentions)
    assert off(weights.sum(-1), torch.ones(weights.shape[:-1])) < 1e-5
    return weights[:, :, start + known :, start : start + known]


@torch.no_grad()
def watched(model: DiekaeModel, inputs: dict[str, Tensor], knowledge: Any, **options: Any) -> Tensor:
    """The weights of one forward, [layers, B, H, columns, slots]; watching does not change its logits."""
    given: dict[int, Tensor] = {}
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with model.call_context(knowledge, ids, mask, watch=given.__setitem__, **options):
        logits = model.decoder(**inputs).logits
    with model.call_context(knowledge, ids, mask, **options):
        assert off(model.decoder(**inputs).logits[mask.bool()], logits[mask.bool()]) <= OFF
    assert sorted(given) == list(range(len(model.layers)))
    return torch.stack([given[number] for number in sorted(given)])


@KINDS
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_weights_equal_those_with_k_in_the_prompt(name: str, attention: str) -> None:
    model, eager = pair(name, attention)
    want = in_the_prompt(eager, QUESTIONS[0], CASTLE)
    got = watched(model, model.tokenize(QUESTIONS[0]), CASTLE)[:, 0]
    assert got.shape[2] == want.shape[2] + len(model.anchor)
    assert off(got[:, :, len(model.anchor) :], want) <= 1e-5
    assert want.amax() > 0.1 and want.std() > 5e-3, "not all alike"
    assert not got[:, :, : len(model.anchor)].any(), "x's own anchor stands before K"


@KINDS
@pytest.mark.parametrize("pad", ["left", "right"])
def test_each_row_of_a_padded_batch_attends_to_its_own_slots(name: str, pad: str) -> None:
    model, eager = pair(name)
    questions, knowledge = [QUESTIONS[2], QUESTIONS[0], QUESTIONS[1]], [SHIP, CASTLE, None]
    inputs = model.tokenize(questions) if pad == "left" else right_padded(model, questions)
    got = watched(model, inputs, knowledge)
    assert got.shape[1] == 3 and len(set(map(len, (model.need_prompter().knowledge(k) for k in (SHIP, CASTLE))))) == 2
    for row, (question, known) in enumerate(zip(questions, knowledge, strict=True)):
        columns = inputs["attention_mask"][row].bool()
        assert not got[:, row, :, ~columns].any(), "padding gives nothing"
        if known is None:
            assert not got[:, row].any(), "a row without knowledge gives nothing"
            continue
        want = in_the_prompt(eager, question, known)
        mine = got[:, row][:, :, columns][:, :, len(model.anchor) :]
        assert off(mine[..., : want.shape[-1]], want) <= 1e-5
        assert not mine[..., want.shape[-1] :].any(), "nothing is given to the slots of another row's padding"


def test_one_prepared_document_is_watched_in_two_rows() -> None:
    model, eager = pair("llama")
    inputs = model.tokenize(QUESTIONS[:2])
    got = watched(model, inputs, model.prepare(CASTLE))
    for row, question in enumerate(QUESTIONS[:2]):
        columns = inputs["attention_mask"][row].bool()
        want = in_the_prompt(eager, question, CASTLE)
        assert off(got[:, row][:, :, columns][:, :, 1:], want) <= 1e-5


def test_columns_that_receive_nothing_have_zero_weights() -> None:
    model = make_exact()
    inputs = model.tokenize(QUESTIONS[0])
    every = watched(model, inputs, CASTLE)
    some = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
    some[:, 5:] = True
    got = watched(model, inputs, CASTLE, injection_mask=some)
    assert not got[:, :, :, :5].any() and got[:, :, :, 5:].any()
    assert every[:, :, :, 1:5].any()
    assert off(got[0, :, :, 5:], every[0, :, :, 5:]) <= 1e-5, "in the first layer nothing else has changed"


def test_a_bank_of_some_layers_is_watched_in_these_layers() -> None:
    layers = (1, 3)
    model, eager = pair("llama", layers=layers)
    got = watched(model, model.tokenize(QUESTIONS[0]), CASTLE)[:, 0, :, 1:]
    assert len(got) == 2 < DEPTH
    full, weights = pair("llama")[0], in_the_prompt(eager, QUESTIONS[0], CASTLE)
    assert (
        off(watched(full, full.tokenize(QUESTIONS[0]), CASTLE)[list(layers), 0, :, 1:], weights[list(layers)]) <= 1e-5
    )
    assert got.shape == weights[:2].shape


def test_slots_of_several_documents_keep_the_order_of_the_documents() -> None:
    model = make_exact()
    inputs, texts = model.tokenize(QUESTIONS[0]), [RIVER, CASTLE, SHIP]
    together = watched(model, inputs, [texts])
    lengths = [len(model.prepare(text)) for text in texts]
    order = [1, 2, 0]
    parts = together.split(lengths, dim=-1)
    moved = watched(model, inputs, [[texts[number] for number in order]])
    assert off(moved, torch.cat([parts[number] for number in order], dim=-1)) <= 1e-5


def test_passages_are_watched_at_their_slots() -> None:
    model = make_exact()
    prepared = model.prepare(CASTLE)
    inputs, columns = model.tokenize(QUESTIONS[0]), [0, 4, 5, 6, 20]
    every = watched(model, inputs, prepared)[0]
    some = watched(model, inputs, prepared.take(columns))[0]
    want = every[..., columns]
    # In the first layer queries and keys are the same. With fewer slots, each gets more, in the same proportions.
    ratio = some[:, :, 1:] / want[:, :, 1:]
    assert off(ratio, ratio[..., :1].expand_as(ratio)) <= 1e-3 and (ratio > 1).all()


@pytest.mark.parametrize("beams", [1, 2])
def test_generated_tokens_are_watched_one_by_one(beams: int) -> None:
    model, eager = pair("llama")
    inputs, given = model.tokenize(QUESTIONS[0]), dict[int, list[Tensor]]()
    ids = inputs["input_ids"]

    def watch(number: int, weights: Tensor) -> None:
        given.setdefault(number, []).append(weights)

    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "num_beams": beams}
    with model.call_context(CASTLE, ids, inputs["attention_mask"], watch=watch):
        made = model.decoder.generate(**inputs, **options)
    assert torch.equal(made, model.generate(**inputs, knowledge=CASTLE, **options))
    assert [tuple(weights.shape[:1]) for weights in given[0]][0] == (beams,)
    if beams > 1:
        return
    got = torch.cat([torch.cat(given[number], dim=2) for number in range(DEPTH)])
    known = list(model.need_prompter().knowledge(CASTLE))
    whole = torch.cat([ids[:, :1], torch.tensor([known]), made[:, 1:-1]], dim=1)
    with torch.no_grad():
        weights = torch.cat(eager.decoder(input_ids=whole, output_attentions=True, use_cache=False).attentions)
    assert off(got[:, :, 1:], weights[:, :, 1 + len(known) :, 1 : 1 + len(known)]) <= 1e-5


def test_a_chat_header_has_zero_weights_and_k_is_watched_after_it() -> None:
    model, eager = pair("llama")
    anchor: Sequence[int] = (1, 17, 5)
    known, x = model.need_prompter().knowledge(CASTLE), [9, 8, 7, 30]
    (prepared,) = read_documents(model.attached, anchor, [known])
    ids = torch.tensor([[*anchor, *x]])
    got = watched(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, prepared)[:, 0]
    with torch.no_grad():
        whole = torch.tensor([[*anchor, *known, *x]])
        weights = torch.cat(eager.decoder(input_ids=whole, output_attentions=True, use_cache=False).attentions)
    assert off(got[:, :, 3:], weights[:, :, 3 + len(known) :, 3 : 3 + len(known)]) <= 1e-5
    assert not got[:, :, :3].any()
