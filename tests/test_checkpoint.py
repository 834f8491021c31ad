"""A bank's folder: it is loaded unchanged, damage is refused, and a failing disk leaves the old bank whole."""

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from builders import SMALL, bare_logits, largest_change, logits_of, make_decoder, make_model
from diekae import DiekaeModel
from diekae.checkpoint import CONFIG_NAME, load_bank

CASTLE = "the castle was built by king four in the north and two towers are red"
QUESTION = "who built the castle"


def weights_of(folder: Path) -> Path:
    """The one weights file of a bank."""
    (path,) = folder.glob("bank-*.safetensors")
    return path


@pytest.mark.parametrize("encoder", ["reader", "token", "attention"])
@pytest.mark.parametrize("scope", ["all", "prompt"])
@pytest.mark.parametrize("half", [False, True])
def test_a_saved_bank_is_loaded_unchanged(encoder: str, scope: str, half: bool, tmp_path: Path) -> None:
    model = make_model(encoder, scope=scope, layers=(1, 3))
    with torch.no_grad():
        model.bank.bias.normal_(0, 0.1)
        model.bank.scale.fill_(1.5)
    inputs = model.tokenize(QUESTION)
    want = logits_of(model, inputs, CASTLE)
    assert largest_change(want, bare_logits(model, inputs)) > 0.1
    if half:
        model.bank.to(torch.bfloat16)
        torch.testing.assert_close(logits_of(model, inputs, CASTLE), want, atol=0.1, rtol=0.1)
    model.save_pretrained(tmp_path / "bank")
    assert sorted(os.listdir(tmp_path / "bank")) == [weights_of(tmp_path / "bank").name, CONFIG_NAME]
    back = DiekaeModel.from_pretrained(tmp_path / "bank", model.decoder, model.tokenizer)
    assert back.config == model.config and back.layers == (1, 3) and back.anchor == model.anchor
    got = logits_of(back, inputs, CASTLE)
    if half:
        torch.testing.assert_close(got, want, atol=0.1, rtol=0.1)
    else:
        assert torch.equal(got, want)
        assert back.bank.fingerprint() == model.bank.fingerprint()


def test_tensors_on_disk_are_named_by_decoder_layer(tmp_path: Path) -> None:
    model = make_model(layers=(1, 3))
    model.save_pretrained(tmp_path)
    saved = load_file(weights_of(tmp_path))
    assert {name.split(".")[1] for name in saved} == {"1", "3"}
    assert torch.equal(saved["layers.3.up.weight"], model.bank.encoder.up.weight[1])


def test_another_decoder_is_refused(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    other = make_decoder(seed=1)
    with pytest.raises(ValueError, match="was made for decoder .*check=False"):
        DiekaeModel.from_pretrained(tmp_path, other, model.tokenizer)
    inputs = model.tokenize(QUESTION)
    back = DiekaeModel.from_pretrained(tmp_path, other, model.tokenizer, check=False)
    assert torch.equal(back.bank.encoder.up.weight, model.bank.encoder.up.weight)
    assert largest_change(logits_of(back, inputs, CASTLE), bare_logits(back, inputs)) > 0.1
    same = DiekaeModel.from_pretrained(tmp_path, make_decoder().to(torch.bfloat16), model.tokenizer)
    assert same.layers == model.layers


def test_a_damaged_bank_is_refused(tmp_path: Path) -> None:
    model = make_model()
    with pytest.raises(FileNotFoundError, match="is not a bank"):
        DiekaeModel.from_pretrained(tmp_path / "nowhere", model.decoder)
    model.save_pretrained(tmp_path)
    weights, description = (weights_of(tmp_path)).read_bytes(), json.loads((tmp_path / CONFIG_NAME).read_text())

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            DiekaeModel.from_pretrained(tmp_path, model.decoder)

    flipped = bytearray(weights)
    flipped[-5] ^= 1
    for damaged in (bytes(flipped), weights[:-8], b""):
        (weights_of(tmp_path)).write_bytes(damaged)
        refused("is damaged")
    (weights_of(tmp_path)).write_bytes(weights)
    for text in (
        "",
        "{",
        "[]",
        "[" * 100_000,
        "\xff",
        '{"model_type": "llama"}',
        json.dumps({**description, "config": None}),
    ):
        (tmp_path / CONFIG_NAME).write_text(text)
        refused("describes no bank")
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**description, "format": 99}))
    refused("format 99; update diekae")
    for config in ({"layers": [0, 1]}, {"encoder": "token", "encoder_options": SMALL["token"]}):
        changed = {**description, "config": {**description["config"], **config}}
        (tmp_path / CONFIG_NAME).write_text(json.dumps(changed))
        refused("do not fit the bank.s configuration")
    smaller = {**description["config"], "encoder_options": {**SMALL["reader"], "mlp_width": 8}}
    (tmp_path / CONFIG_NAME).write_text(json.dumps({**description, "config": smaller}))
    refused("has shape")
    (tmp_path / CONFIG_NAME).write_text(json.dumps(description))
    assert DiekaeModel.from_pretrained(tmp_path, model.decoder).layers == model.layers


@pytest.mark.parametrize(("name", "call"), [("replace", 1), ("replace", 2), ("fsync", 1), ("fsync", 3)])
def test_a_failing_disk_leaves_the_old_bank_whole(name: str, call: int, tmp_path: Path, monkeypatch) -> None:
    old, new = make_model(), make_model(seed=1)
    old.save_pretrained(tmp_path)
    before = sorted(os.listdir(tmp_path))
    real, calls = getattr(os, name), []

    def fail(*args):
        calls.append(args)
        if len(calls) == call:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        with pytest.raises(OSError, match="No space left"):
            new.save_pretrained(tmp_path)
    assert len(calls) == call, "the failure must have happened"
    assert sorted(os.listdir(tmp_path)) == before, "nothing temporary stays"
    back = DiekaeModel.from_pretrained(tmp_path, old.decoder)
    assert torch.equal(back.bank.encoder.up.weight, old.bank.encoder.up.weight)


def test_banks_saved_at_the_same_time_leave_one_that_readers_always_find(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    banks = [make_model(seed=seed) for seed in range(4)]
    banks[0].save_pretrained(tmp_path)
    ended = threading.Event()

    def save(model: DiekaeModel) -> None:
        for _ in range(25):
            model.save_pretrained(tmp_path)

    def read() -> int:
        reads = 0
        while not ended.is_set():
            load_bank(tmp_path)
            reads += 1
        return reads

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for writer in [pool.submit(save, model) for model in banks]:
                writer.result()
        finally:
            ended.set()
        assert all(reader.result() > 10 for reader in readers)
        record_property("tries", sum(reader.result() for reader in readers))
    assert sorted(os.listdir(tmp_path)) == [weights_of(tmp_path).name, CONFIG_NAME]
    saved = load_bank(tmp_path).tensors
    assert any(all(torch.equal(saved[n], t) for n, t in model.bank.state_by_layer().items()) for model in banks)


def test_a_folder_without_locks_keeps_the_files_of_others(tmp_path: Path, monkeypatch) -> None:
    old, new = make_model(), make_model(seed=1)
    old.save_pretrained(tmp_path)

    def fail(*_):
        raise OSError(38, "Function not implemented")

    with monkeypatch.context() as patch:
        patch.setattr("diekae.files.fcntl.flock", fail)
        new.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("bank-*"))) == 2
    assert torch.equal(load_bank(tmp_path).tensors["layers.1.up.weight"], new.bank.encoder.up.weight[1])
    new.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("bank-*"))) == 1


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path)
    (tmp_path / "bank-0123456789ab.safetensors").write_bytes(b"weights that no configuration names")
    model = make_model(seed=1)
    model.save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [weights_of(tmp_path).name, CONFIG_NAME]
