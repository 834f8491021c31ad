"""Quantised decoders: they are read exactly, take the banks of the plain decoder, and train banks of their own."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TorchAoConfig,
)

from builders import largest_change, logits_of, make_decoder, make_model, make_prompts, make_tokenizer
from cli_runs import succeed
from diekae import DiekaeModel
from diekae.checkpoint import CONFIG_NAME
from diekae.fingerprint import fingerprint, identify
from diekae.inject.hooks import frozen
from diekae.models import load_decoder
from diekae.run.score import lay_out
from diekae.training.objectives import OBJECTIVES

CASTLE = "the castle was built by king four in the north"
QUESTION = "who built the castle"
EIGHT, FOUR = {"load_in_8bit": True}, {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
BITSANDBYTES: dict[str, dict[str, Any]] = {
    "bitsandbytes, 8 bits": EIGHT,
    "bitsandbytes, 4 bits": FOUR,
    "bitsandbytes, 4 bits, scales too": {**FOUR, "bnb_4bit_use_double_quant": True},
}
"""Options of its configuration, by kind."""
KINDS = pytest.mark.parametrize("kind", ["torchao", "torchao as loaded", "quanto", "packed", *BITSANDBYTES])
SIZES = {"hidden_size": 64, "intermediate_size": 128}
"""Multiples of 64, which bitsandbytes' 4-bit kernel needs."""


class PackedLinear(nn.Module):
    """A linear map whose weights are packed into bytes: a row's scale is a buffer.

    When it is first used it packs them anew, into another shape, as bitsandbytes does on some CPUs.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        packed = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(packed.reshape(-1, 1), requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.weight.data = self.weight.data.reshape(len(self.scale), -1)
        return x @ (self.weight.to(x.dtype) * self.scale.to(x.dtype)).T


def quantised(decoder: PreTrainedModel, kind: str, folder: Path) -> PreTrainedModel:
    """A quantised copy of a decoder, int8 weights; norms and embeddings stay."""
    if kind == "packed":
        twin = copy.deepcopy(decoder)
        for module in list(twin.model.layers.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, PackedLinear(child))
        return twin
    if kind == "quanto":
        quanto = pytest.importorskip("optimum.quanto")
        twin = copy.deepcopy(decoder)
        quanto.quantize(twin, weights=quanto.qint8)
        quanto.freeze(twin)
        return twin
    pytest.importorskip("bitsandbytes" if kind in BITSANDBYTES else "torchao")
    decoder.save_pretrained(folder)
    if kind in BITSANDBYTES:
        return loaded(folder, decoder.dtype, BitsAndBytesConfig(**BITSANDBYTES[kind]))
    import torchao.quantization as torchao

    config = torchao.Int8WeightOnlyConfig()
    if kind == "torchao":
        twin = copy.deepcopy(decoder)
        torchao.quantize_(twin, config)
        return twin
    return loaded(folder, decoder.dtype, TorchAoConfig(config))


def loaded(folder: Path, dtype: torch.dtype, config: Any) -> PreTrainedModel:
    """The decoder in a folder, quantised while it is loaded."""
    decoder: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=dtype)
    return decoder


def unquantised(twin: PreTrainedModel, decoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of the decoder whose linear maps multiply by what those of its quantised twin multiply by."""
    copied = copy.deepcopy(decoder)
    for name, module in copied.named_modules():
        if isinstance(module, nn.Linear):
            basis = torch.eye(module.in_features, requires_grad=True)
            module.weight.data = twin.get_submodule(name)(basis).detach().T.contiguous()
    return copied


@KINDS
def test_reading_is_exact(kind: str, tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES)
    model = DiekaeModel.exact(quantised(decoder, kind, tmp_path), make_tokenizer())
    inputs = model.tokenize(QUESTION)
    ids = inputs["input_ids"][0].tolist()
    prompt = torch.tensor([[ids[0], *model.prompter.knowledge(CASTLE), *ids[1:]]])
    with torch.no_grad():
        want, of_plain = (of(prompt).logits[:, 1 - len(ids) :] for of in (model.decoder, decoder))
    assert largest_change(logits_of(model, inputs, CASTLE)[:, 1:], want) < 1e-5 < largest_change(want, of_plain)
    answers = model.generate(**inputs, knowledge=CASTLE, max_new_tokens=4)[0, len(ids) :]
    assert torch.equal(answers, model.decoder.generate(prompt, max_new_tokens=4)[0, prompt.shape[1] :])


@KINDS
def test_the_bank_of_the_plain_decoder_is_accepted(kind: str, tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES)
    whole = make_model("attention", decoder=decoder)
    whole.save_pretrained(tmp_path / "bank")
    twin = quantised(decoder, kind, tmp_path / "decoder")
    model = DiekaeModel.from_pretrained(tmp_path / "bank", twin, make_tokenizer())
    inputs = model.tokenize(QUESTION)
    change = logits_of(model, inputs, CASTLE) - logits_of(whole, inputs, CASTLE)
    effect = logits_of(whole, inputs, CASTLE) - logits_of(whole, inputs)
    assert 0 < float(change.norm()) < 0.2 * float(effect.norm()), "as with the plain decoder, but for rounding"
    with pytest.raises(ValueError, match="prepared by bank .* prepare the knowledge again"):
        model(**inputs, knowledge=whole.prepare(CASTLE))
    # And back: a bank that was saved beside the quantised decoder.
    model.save_pretrained(tmp_path / "back")
    back = DiekaeModel.from_pretrained(tmp_path / "back", decoder, make_tokenizer())
    assert torch.equal(logits_of(back, inputs, CASTLE), logits_of(whole, inputs, CASTLE))


@KINDS
def test_the_bank_of_another_decoder_is_refused(kind: str, tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES)
    make_model("attention", decoder=decoder).save_pretrained(tmp_path / "bank")
    for change in ("model.norm.weight", "model.embed_tokens.weight"):
        other = copy.deepcopy(decoder)
        with torch.no_grad():
            other.get_parameter(change).mul_(1.1)
        twin = quantised(other, kind, tmp_path / change)
        with pytest.raises(ValueError, match=r"was made for .* in quantised form \(.*load the right decoder"):
            DiekaeModel.from_pretrained(tmp_path / "bank", twin, make_tokenizer())


def test_a_decoder_that_was_unpacked_says_so_and_keeps_the_banks_of_the_published_one(tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES)
    unpacked = copy.deepcopy(decoder)
    with torch.no_grad():  # as if from 8 bits, the embeddings among them
        for weight in unpacked.parameters():
            if weight.ndim > 1:
                weight.copy_((weight * 64).round() / 64)
    make_model("attention", decoder=decoder).save_pretrained(tmp_path / "bank")
    with pytest.raises(ValueError, match="was made for"):  # as any other decoder, if it does not say so
        DiekaeModel.from_pretrained(tmp_path / "bank", unpacked, make_tokenizer())
    plain = identify(unpacked)
    unpacked.config.unpacked_from = "gguf"
    assert identify(unpacked) == replace(plain, embeddings="", quantized="gguf")
    unpacked.save_pretrained(tmp_path / "unpacked")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "unpacked")
    model = DiekaeModel.from_pretrained(tmp_path / "bank", again, make_tokenizer())
    model.save_pretrained(tmp_path / "back")
    DiekaeModel.from_pretrained(tmp_path / "back", decoder, make_tokenizer())
    with torch.no_grad():
        again.model.norm.weight.mul_(1.1)
    with pytest.raises(ValueError, match=r"was made for .* in quantised form \(gguf\)"):
        DiekaeModel.from_pretrained(tmp_path / "bank", again, make_tokenizer())


def test_a_plain_decoder_with_the_same_norms_is_refused(tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES)
    make_model("attention", decoder=decoder).save_pretrained(tmp_path / "bank")
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight.mul_(1.1)
    with pytest.raises(ValueError, match="was made for"):
        DiekaeModel.from_pretrained(tmp_path / "bank", other, make_tokenizer())


def test_a_bank_of_an_older_version_is_accepted_beside_the_plain_decoder_alone(tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES)
    make_model("attention", decoder=decoder).save_pretrained(tmp_path / "bank")
    path = tmp_path / "bank" / CONFIG_NAME
    description = json.loads(path.read_text())
    description["decoder"] = {key: description["decoder"][key] for key in ("name", "fingerprint")}
    path.write_text(json.dumps(description))
    DiekaeModel.from_pretrained(tmp_path / "bank", decoder, make_tokenizer())
    with pytest.raises(ValueError, match="in quantised form"):
        DiekaeModel.from_pretrained(tmp_path / "bank", quantised(decoder, "packed", tmp_path), make_tokenizer())


@KINDS
def test_its_fingerprint_does_not_depend_on_its_type_or_use(kind: str, tmp_path: Path) -> None:
    decoder = make_decoder(**SIZES).to(torch.bfloat16)
    narrow = quantised(decoder, kind, tmp_path / "narrow")
    wide = quantised(copy.deepcopy(decoder).float(), kind, tmp_path / "wide")
    assert fingerprint(narrow) == fingerprint(wide) != fingerprint(decoder)
    assert identify(narrow).quantized and not identify(decoder).quantized
    with torch.no_grad():
        narrow(torch.tensor([[1, 5, 6]]))
    assert fingerprint(narrow) == fingerprint(wide)


def test_bitsandbytes_forms_are_told_apart(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    make_decoder(**SIZES).save_pretrained(tmp_path)
    forms = [EIGHT, FOUR, {**FOUR, "bnb_4bit_quant_type": "fp4"}]
    prints = {fingerprint(loaded(tmp_path, torch.float32, BitsAndBytesConfig(**form))) for form in forms}
    assert len(prints) == 3


@pytest.mark.parametrize("kind", BITSANDBYTES)
def test_a_folder_that_holds_it_is_asked(kind: str, tmp_path: Path) -> None:
    decoder = quantised(make_decoder(**SIZES), kind, tmp_path / "plain")
    decoder.save_pretrained(tmp_path / "quantised")
    make_tokenizer().save_pretrained(tmp_path / "quantised")
    assert fingerprint(load_decoder(str(tmp_path / "quantised"))[0]) == fingerprint(decoder)
    (tmp_path / "castle.txt").write_text(CASTLE)
    output = succeed("ask", QUESTION, "--decoder", tmp_path / "quantised", "--knowledge", tmp_path / "castle.txt")
    assert "castle.txt" in output and CASTLE in output


@pytest.mark.real
@pytest.mark.parametrize("kind", ["bitsandbytes, 8 bits", "bitsandbytes, 4 bits"])
def test_exact_reading_rounds_less_than_the_quantisation(
    kind: str, tmp_path: Path, smollm2: tuple[PreTrainedModel, PreTrainedTokenizerBase]
) -> None:
    plain, tokenizer = smollm2
    model = DiekaeModel.exact(quantised(plain, kind, tmp_path), tokenizer)
    bridge = "The Ondrel Bridge crosses the river Sava. Tilda Roe built it in 1907."
    inputs = model.tokenize("Who built the bridge?")
    ids, length = inputs["input_ids"][0].tolist(), len(model.anchor)
    prompt = torch.tensor([[*ids[:length], *model.prompter.knowledge(bridge), *ids[length:]]])
    with torch.no_grad():
        want, of_plain = (of(prompt).logits[:, length - len(ids) :] for of in (model.decoder, plain))
    ours = logits_of(model, inputs, bridge)[:, length:]
    assert float((ours - want).norm()) < float((of_plain - want).norm())
    assert "Tilda Roe" in model.chat("Who built the bridge?", knowledge=bridge, max_new_tokens=20)


@KINDS
@pytest.mark.parametrize("name", ["difference", "cross_entropy", "distill"])
def test_a_bank_is_trained_beside_it(kind: str, name: str, tmp_path: Path) -> None:
    def gradients(of_model: PreTrainedModel) -> dict[str, torch.Tensor]:
        model = make_model("attention", decoder=of_model, layers=(1, 2))
        batch: Any = lay_out(model, make_prompts(3))
        with frozen(of_model):
            OBJECTIVES[name](model)(**batch).loss.backward()
        assert all(parameter.grad is None for parameter in of_model.parameters())
        return {n: p.grad for n, p in model.bank.named_parameters() if p.grad is not None}

    decoder = make_decoder(**SIZES)
    twin = quantised(decoder, kind, tmp_path)
    ours = gradients(twin)
    plain = gradients(unquantised(twin, decoder))
    assert set(ours) == set(plain) and ours
    rounding = 0.2 if kind == "bitsandbytes, 8 bits" else 1e-4  # which rounds states to 8 bits, too
    for parameter, grad in plain.items():
        assert float((ours[parameter] - grad).norm()) < rounding * float(grad.norm()), parameter
