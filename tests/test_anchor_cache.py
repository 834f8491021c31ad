"""The anchor, which every question begins with, is read once and not in every call."""

import pytest
import torch

from builders import ARCHITECTURES, make_decoder, make_model, make_tokenizer
from diekae import DiekaeModel

CASTLE = "the castle was built by king four in the north and two towers are red"
QUESTION = "who built the castle"


def chat_model(kind: str = "llama") -> DiekaeModel:
    """A model whose anchor has several tokens."""
    model = DiekaeModel.exact(make_decoder(kind), make_tokenizer(chat=True))
    assert model.config.format == "chat" and len(model.anchor) > 1
    return model


def columns_read(model: DiekaeModel, inputs: dict, knowledge, **options) -> tuple[list[int], torch.Tensor]:
    """The columns of each forward of the decoder in a generation of three tokens, and all logits."""
    read: list[int] = []
    hook = model.decoder.get_input_embeddings().register_forward_pre_hook(
        lambda _module, args: read.append(args[0].shape[1])
    )
    logits: list[torch.Tensor] = []

    def keep(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits.append(scores.clamp(min=-1e4))  # end tokens are at -inf
        return scores

    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "logits_processor": [keep], **options}
    try:
        model.generate(**inputs, knowledge=knowledge, **options)
    finally:
        hook.remove()
    return read, torch.stack(logits)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES.keys() - {"gpt2", "opt", "falcon"}))  # without rotary positions
def test_later_questions_are_read_behind_the_anchor(kind: str) -> None:
    model = chat_model(kind)
    inputs, anchor = model.tokenize(QUESTION), len(model.anchor)
    castle = model.prepare(CASTLE)
    rest = inputs["input_ids"].shape[1] - anchor
    first, _ = columns_read(model, inputs, castle)
    later, logits = columns_read(model, inputs, castle)
    whole, expected = columns_read(model, inputs, castle, renormalize_logits=False)
    assert (first, later, whole) == ([anchor, rest, 1, 1], [rest, 1, 1], [anchor + rest, 1, 1])
    assert (logits - expected).abs().max() < 1e-4
    other, other_logits = columns_read(model, model.tokenize("where are the dogs from"), model.prepare("seven dogs"))
    assert other[1:] == [1, 1] and (other_logits[0] - logits[0]).abs().max() > 1e-2


def test_several_rows_are_read_behind_the_anchor() -> None:
    model = chat_model()
    inputs = model.tokenize([QUESTION, QUESTION])
    knowledge = [model.prepare(CASTLE), model.prepare("a river has seven dogs")]
    _, logits = columns_read(model, inputs, knowledge)
    read, expected = columns_read(model, inputs, knowledge, renormalize_logits=False)
    assert read[0] == inputs["input_ids"].shape[1] and (logits - expected).abs().max() < 1e-4
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-2


def test_changed_weights_are_seen() -> None:
    model = chat_model()
    inputs, castle = model.tokenize(QUESTION), model.prepare(CASTLE)
    columns_read(model, inputs, castle)
    with torch.no_grad():
        model.decoder.get_decoder().layers[0].mlp.down_proj.weight.mul_(1.5)
    _, logits = columns_read(model, inputs, castle)
    _, expected = columns_read(model, inputs, castle, renormalize_logits=False)
    assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_ways_of_generating_read_all_of_x(change: dict) -> None:
    model = chat_model()
    inputs = model.tokenize(QUESTION)
    read, _ = columns_read(model, inputs, CASTLE, **change)
    assert inputs["input_ids"].shape[1] in read


def test_rows_without_knowledge_and_padded_rows_read_all_of_x() -> None:
    model = chat_model()
    inputs = model.tokenize([QUESTION, QUESTION])
    length, castle = inputs["input_ids"].shape[1], model.prepare(CASTLE)
    assert columns_read(model, inputs, [castle, None])[0][0] == length
    assert columns_read(model, inputs, None)[0][0] == length
    padded = model.tokenize([QUESTION, "where"])
    assert columns_read(model, padded, [castle, castle])[0][0] == padded["input_ids"].shape[1]


def test_an_anchor_of_its_own_is_not_read_ahead() -> None:
    model = make_model("attention", anchor="own")
    inputs = model.tokenize(QUESTION)
    assert columns_read(model, inputs, CASTLE)[0][-3] == inputs["input_ids"].shape[1]
