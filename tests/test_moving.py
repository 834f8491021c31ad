"""Decoder and bank move together, and what cannot move is refused before anything has."""

from typing import Any

import pytest
import torch

from builders import make_decoder, make_model
from diekae import DiekaeModel
from diekae.edit import Edit, edit_model

CASTLE = "the castle was built by king four in the north"
QUESTION = "who built the castle"


def places(model: DiekaeModel) -> set[tuple[str, torch.dtype]]:
    """Where the tensors of decoder and bank stand, and of what type they are."""
    tensors = [*model.decoder.parameters(), *model.bank.state_dict().values()]
    return {(tensor.device.type, tensor.dtype) for tensor in tensors}


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
def test_moving_the_model_moves_decoder_and_bank(encoder: str) -> None:
    model = make_model(encoder)
    assert model.to("meta") is model and model.device.type == "meta"
    assert places(model) == {("meta", torch.float32)}


def test_moving_to_the_same_device_changes_nothing() -> None:
    model = make_model()
    inputs, prepared = model.tokenize(QUESTION), model.prepare(CASTLE)
    want = model(**inputs, knowledge=prepared).logits
    for moved in (model.cpu(), model.to("cpu"), model.to(torch.float32), model.float(), model.to(torch.empty(0))):
        assert torch.equal(moved(**inputs, knowledge=prepared).logits, want)


@pytest.mark.parametrize(
    "change", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.to("meta", torch.float64)]
)
def test_the_decoders_type_is_not_changed(change: Any) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=r"frozen in torch.float32 and is not changed to .*load_decoder\(name, dtype="):
        change(model)
    assert places(model) == {("cpu", torch.float32)}
    model = make_model(decoder=make_decoder().to(torch.bfloat16))
    assert places(model.to(torch.bfloat16)) == {("cpu", torch.bfloat16)}, "the bank follows the decoder"


def test_an_unknown_device_is_refused() -> None:
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ValueError, match=f"cannot be moved to .*{device}.*expected a device of this machine"):
            make_model().to(device)


def quantised(model: DiekaeModel) -> None:
    model.decoder.is_quantized = True


def dispatched(model: DiekaeModel) -> None:
    model.decoder.hf_device_map = {"model.embed_tokens": 0, "model.layers": "cpu"}


def hooked(model: DiekaeModel) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    add_hook_to_module(model.decoder.model.layers[1], ModelHook())


def offloaded(model: DiekaeModel) -> None:
    model.decoder.model.layers[2].to("meta")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (quantised, "is quantised, .*load it onto the device that you want"),
        (
            dispatched,
            "spread over devices or offloaded by accelerate, and stays .* bank on cpu; to move it, load it whole",
        ),
        (hooked, "spread over devices or offloaded"),
        (offloaded, "spread over devices or offloaded"),
    ],
)
def test_a_decoder_that_cannot_be_moved_is_refused(change: Any, why: str) -> None:
    model = make_model()
    change(model)
    with pytest.raises(ValueError, match=f"the decoder .*{why}"):
        model.to("meta")
    assert all(tensor.device.type == "cpu" for tensor in model.bank.state_dict().values()), "nothing has moved"


def test_a_quantised_decoder_can_stay_on_its_device() -> None:
    model = make_model()
    quantised(model)
    assert places(model.to("cpu")) == {("cpu", torch.float32)}


def test_a_decoder_without_weights_is_refused() -> None:
    model = make_model().to("meta")
    with pytest.raises(ValueError, match="holds no weights"):
        model.to("cpu")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@torch.no_grad()
def test_a_moved_model_answers_the_same(encoder: str) -> None:
    model = make_model(encoder)
    prepared = model.prepare(CASTLE)
    edit_model(
        model,
        [Edit("the red house is", "red house", "blue"), Edit("the red house has", "red house", "two")],
        gate="mention",
    )
    texts = [QUESTION, "the red house is"]

    def logits() -> torch.Tensor:
        return model(**model.tokenize(texts), knowledge=[prepared, None]).logits.cpu()

    want = logits()
    assert places(model.cuda()) == {("cuda", torch.float32)}
    torch.testing.assert_close(logits(), want, atol=1e-3, rtol=1e-3)
    assert torch.equal(model.cpu().tokenize(texts)["input_ids"].cpu(), model.tokenize(texts)["input_ids"])
    torch.testing.assert_close(logits(), want, atol=1e-5, rtol=1e-5)
