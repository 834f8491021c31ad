"""Decoders that accelerate spreads over devices or offloads: everything is as with the whole decoder."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from builders import largest_change, logits_of, make_decoder, make_model, make_prompts, make_tokenizer
from diekae import DiekaeModel
from diekae.edit import Edit, edit_model
from diekae.evaluation.layers import visible_nll
from diekae.fingerprint import fingerprint
from diekae.inject.attention_injector import AttentionInjector
from diekae.inject.hooks import frozen
from diekae.inject.slots import Slots
from diekae.knowledge import PreparedKnowledge
from diekae.run.score import lay_out, nll
from diekae.training.objectives import OBJECTIVES
from fake_devices import CPU, ELSEWHERE, elsewhere

CASTLE = "the castle was built by king four in the north"
QUESTIONS = ["who built the castle", "the red house is"]
BEGINNING = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu"}
"""Where :func:`spread` leaves the first modules; all layers behind them go elsewhere."""
Place = Callable[[PreTrainedModel], PreTrainedModel]


def spread(decoder: PreTrainedModel, last: str = "cpu:1", **options: Any) -> PreTrainedModel:
    head = "cpu" if decoder.config.tie_word_embeddings else "cpu:1"
    places = {**BEGINNING, "model.layers.2": "cpu:1", "model.layers.3": last, "model.norm": "cpu:1", "lm_head": head}
    return dispatch_model(copy.deepcopy(decoder), places, main_device="cpu", **options)


def load_auto(decoder: PreTrainedModel, folder: Path, **options: Any) -> PreTrainedModel:
    """Save a decoder, and load it where Transformers chooses."""
    decoder.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, device_map="auto", dtype=decoder.dtype, **options)


def load_half(decoder: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Save a decoder, and load it into too little RAM for all layers."""
    loaded = load_auto(decoder, folder, max_memory={"cpu": "110KB"}, offload_folder=folder / "offloaded")
    layers = [device for name, device in loaded.hf_device_map.items() if name.startswith("model.layers.")]
    assert set(layers) == {"cpu", "disk"}, loaded.hf_device_map
    return loaded


@pytest.fixture(params=["spread", "spread and disk", "cpu_offload", "disk_offload", "device_map=auto"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Copy a decoder, and spread or offload the copy; ``cpu:1`` is a second device meanwhile."""
    places: dict[str, Place] = {
        "spread": spread,
        "spread and disk": lambda decoder: spread(decoder, "disk", offload_dir=tmp_path / "part"),
        "cpu_offload": lambda decoder: cpu_offload(copy.deepcopy(decoder), CPU),
        "disk_offload": lambda decoder: disk_offload(copy.deepcopy(decoder), tmp_path / "all", CPU),
        "device_map=auto": lambda decoder: load_half(decoder, tmp_path / "saved"),
    }
    with elsewhere() if "spread" in request.param else nullcontext():
        yield places[request.param]


def plain(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, to be compared."""
    return tensor.detach().cpu()


@pytest.mark.parametrize(("encoder", "tied"), [("attention", False), ("attention", True), ("reader", True)])
def test_a_bank_reads_and_answers_as_beside_the_whole_decoder(place: Place, encoder: str, tied: bool) -> None:
    decoder = make_decoder(tie_word_embeddings=tied)
    whole, model = make_model(encoder, decoder=decoder), make_model(encoder, decoder=place(decoder))
    assert fingerprint(model.decoder) == fingerprint(decoder) and model.device == CPU
    prepared, expected = model.prepare(CASTLE), whole.prepare(CASTLE)
    assert prepared.bank == expected.bank and prepared.device == CPU
    assert all(torch.equal(prepared.tensors[name], tensor) for name, tensor in expected.tensors.items())
    inputs = model.tokenize(QUESTIONS)
    for knowledge, options in ((expected, {}), ([expected, None], {"num_beams": 2})):
        assert torch.equal(logits_of(model, inputs, knowledge), logits_of(whole, inputs, knowledge))
        answers = [m.generate(**inputs, knowledge=knowledge, max_new_tokens=3, **options) for m in (whole, model)]
        assert torch.equal(*answers)
    assert largest_change(logits_of(whole, inputs, expected), logits_of(whole, inputs)) > 1e-3, "K must matter"


def test_reading_is_exact(place: Place) -> None:
    model = DiekaeModel.exact(place(make_decoder("gemma3_text")), make_tokenizer())
    inputs = model.tokenize(QUESTIONS[0])
    ids = inputs["input_ids"][0].tolist()
    prompt = torch.tensor([[ids[0], *model.prompter.knowledge(CASTLE), *ids[1:]]])
    with torch.no_grad():
        want = model.decoder(prompt).logits[:, 1 - len(ids) :]
    ours = logits_of(model, inputs, model.prepare(CASTLE, chunk_size=4))[:, 1:]
    assert largest_change(ours, want) < 1e-4 < largest_change(logits_of(model, inputs)[:, 1:], want)


def test_slots_and_encoders_stand_with_their_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    slots: dict[int, set[torch.device]] = {}
    weights: dict[int, list[Sequence[Tensor]]] = {}
    join, of_layer = Slots.joined, AttentionInjector._weights_on

    def joined(self: Slots, keys: Tensor, values: Tensor, growing: bool = False) -> list[Tensor]:
        both = join(self, keys, values, growing)
        slots.setdefault(self.number, set()).update(tensor.device for tensor in both)
        return both

    def of_mlp(self: AttentionInjector, device: torch.device, number: int) -> Sequence[Tensor]:
        weights.setdefault(number, []).append(of_layer(self, device, number))
        return weights[number][-1]

    monkeypatch.setattr(Slots, "joined", joined)
    monkeypatch.setattr(AttentionInjector, "_weights_on", of_mlp)
    with elsewhere():
        model = make_model("attention", decoder=spread(make_decoder()))
        model.generate(**model.tokenize(QUESTIONS), knowledge=CASTLE, max_new_tokens=3, min_new_tokens=3)
    layers = [CPU, CPU, ELSEWHERE, ELSEWHERE]
    assert slots == {number: {device} for number, device in enumerate(layers)}
    for number, device in enumerate(layers):
        assert len(weights[number]) == 3 and all(w.device == device for maps in weights[number] for w in maps)
    assert weights[3][0] is weights[3][2], "an encoder is copied to its layer once a call"


def test_attention_to_k_is_shown_on_the_device_of_the_input() -> None:
    shown: list[dict[int, Tensor]] = [{}, {}]
    with elsewhere():
        decoder = make_decoder()
        for seen, of_model in zip(shown, (decoder, spread(decoder)), strict=True):
            model = make_model("attention", decoder=of_model)
            inputs = model.tokenize(QUESTIONS)
            with torch.no_grad(), model.call_context(CASTLE, inputs["input_ids"], watch=seen.__setitem__):
                model.decoder(**inputs)
    assert len(shown[0]) == 4 and all(torch.equal(shown[0][number], shown[1][number]) for number in range(4))


def test_targets_are_scored_alike(place: Place) -> None:
    decoder, prompts = make_decoder(), make_prompts(3)
    whole, model = make_model("attention", decoder=decoder), make_model("attention", decoder=place(decoder))
    for way in ("bare", "prompted", "ours"):
        torch.testing.assert_close(nll(model, prompts, way).total, nll(whole, prompts, way).total)


def test_layers_are_measured_alike(tmp_path: Path) -> None:
    decoder, prompts = make_decoder(), make_prompts(2)
    offloaded = disk_offload(copy.deepcopy(decoder), tmp_path, CPU)
    assert visible_nll(offloaded, prompts, [(), (2,)]) == visible_nll(decoder, prompts, [(), (2,)])


@pytest.mark.parametrize(
    ("encoder", "name", "options"),
    [
        ("attention", "difference", {}),
        ("reader", "difference", {}),
        ("token", "cross_entropy", {}),
        ("attention", "distill", {"gradient_checkpointing": True}),
    ],
)
def test_training_has_the_same_gradients(place: Place, encoder: str, name: str, options: dict[str, bool]) -> None:
    decoder, steps = make_decoder(), []
    for of_model in (decoder, place(decoder)):
        model = make_model(encoder, decoder=of_model)
        batch: Any = lay_out(model, make_prompts(3))
        with frozen(of_model):
            loss = OBJECTIVES[name](model, **options)(**batch).loss
            loss.backward()
        steps.append((loss.detach(), {n: p.grad for n, p in model.bank.named_parameters() if p.grad is not None}))
    (want_loss, want), (loss, grads) = steps
    torch.testing.assert_close(plain(loss), plain(want_loss))
    assert set(grads) == set(want) and any(bool(grad.any()) for grad in want.values())
    for parameter, grad in want.items():
        torch.testing.assert_close(plain(grads[parameter]), plain(grad))


def test_edits_speak_alike(place: Place) -> None:
    decoder = make_decoder()
    edit = [Edit("the red house is", "red house", "blue")]
    models = [make_model("attention", decoder=of_model) for of_model in (decoder, place(decoder))]
    inputs = models[0].tokenize(QUESTIONS)
    bare = logits_of(models[0], inputs)
    for model in models:
        edit_model(model, edit, gate="mention")
    whole, ours = (logits_of(model, inputs) for model in models)
    assert torch.equal(ours, whole) and largest_change(whole, bare) > 1e-3


def test_a_trained_bank_is_loaded_beside_it(place: Place, tmp_path: Path) -> None:
    decoder = make_decoder()
    whole = make_model("attention", decoder=decoder)
    whole.save_pretrained(tmp_path / "bank")
    whole.prepare(CASTLE).save(tmp_path / "castle")
    model = DiekaeModel.from_pretrained(tmp_path / "bank", place(decoder), make_tokenizer())
    knowledge = PreparedKnowledge.load(tmp_path / "castle")
    inputs = model.tokenize(QUESTIONS)
    assert torch.equal(logits_of(model, inputs, knowledge), logits_of(whole, inputs, knowledge))


def test_with_enough_memory_auto_loads_the_whole_decoder(tmp_path: Path) -> None:
    decoder = make_decoder()
    whole, model = (make_model("attention", decoder=of) for of in (decoder, load_auto(decoder, tmp_path)))
    inputs = model.tokenize(QUESTIONS)
    assert fingerprint(model.decoder) == fingerprint(decoder)
    assert torch.equal(logits_of(model, inputs, CASTLE), logits_of(whole, inputs, CASTLE))
    assert model.to("meta").device.type == "meta", "it is on one device, and can be moved"


def test_it_stays_where_it_is(place: Place) -> None:
    model = make_model(decoder=place(make_decoder()))
    assert model.to("cpu") is model
    with pytest.raises(ValueError, match="stays where it was loaded, with the bank on cpu"):
        model.to("meta")
    assert all(tensor.device == CPU for tensor in model.bank.state_dict().values()), "nothing has moved"
