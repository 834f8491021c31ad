"""The device of a model: an option of every verb, a key of recipes, and the same for bank and decoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from builders import make_decoder, make_model, make_tokenizer
from diekae import DiekaeModel, models
from diekae.cli import typer_app
from diekae.edit import edit_model
from diekae.recipe import make_recipe
from diekae.training.config import TrainingConfig
from diekae.training.trainer import arguments


class Asked(Exception):
    """Raised instead of loading a decoder; holds the device that was asked for."""


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this machine has two GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise :class:`Asked` when a decoder is loaded."""
    # The first two are imported before the third is changed: what they import would stay changed.
    for module in ("diekae.recipe.run", "diekae.cli.layers", "diekae.models"):
        monkeypatch.setattr(f"{module}.load_decoder", raise_asked)


def raise_asked(_name: str, *, dtype: Any = None, device: Any = None) -> None:
    raise Asked(str(device))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device")
    decoder = make_decoder()
    decoder.save_pretrained(folder / "decoder")
    make_tokenizer().save_pretrained(folder / "decoder")
    decoder.config.name_or_path = str(folder / "decoder")
    make_model("attention", decoder=decoder).save_pretrained(folder / "bank")
    (folder / "fact.txt").write_text("the tower is blue\n")
    row = {"knowledge": "the tower is blue", "input": "what is the tower", "target": "blue"}
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(4)))
    for part in ("train", "validation", "test"):
        (folder / f"{part}.jsonl").write_text((folder / "data.jsonl").read_text())
    (folder / "recipe.toml").write_text(
        f'decoder = "{folder / "decoder"}"\nfolder = "{folder}"\n'
        + "".join(f'[[data.{part}]]\nsource = "jsonl"\nfolder = "."\n' for part in ("train", "validation", "test"))
    )
    edit_model(make_model("attention", decoder=decoder), [], folder=folder / "edits", gate="mention")
    return folder


VERBS = {
    "ask": ("--bank", "bank", "--knowledge", "fact.txt", "what"),
    "evaluate": ("--bank", "bank", "--data", "data.jsonl"),
    "layers": ("--decoder", "decoder", "--data", "data.jsonl"),
    "serve": ("--bank", "bank"),
    "train": ("recipe.toml", "--out", "run"),
    "knowledge add": ("fact.txt", "--bank", "bank", "--store", "store"),
    "edit add": ("--prompt", "the sea is", "--subject", "sea", "--target", "red", "--bank", "bank", "--folder", "new"),
    "edit list": ("--bank", "bank", "--folder", "edits"),
    "edit revert": ("1", "--bank", "bank", "--folder", "edits"),
    "edit ask": ("what", "--bank", "bank", "--folder", "edits"),
}


def invoke(place: Path, monkeypatch: pytest.MonkeyPatch, verb: str, *options: str) -> Result:
    monkeypatch.chdir(place)
    return CliRunner().invoke(typer_app, [*verb.split(), *VERBS[verb], *options])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_loads_on_the_device_of_its_option(
    verb: str, place: Path, gpus: None, asked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, device in (((), "cuda:0"), (("--device", "cpu"), "cpu"), (("--device", "cuda:1"), "cuda:1")):
        result = invoke(place, monkeypatch, verb, *options)
        assert isinstance(result.exception, Asked) and str(result.exception) == device, result.output
    wrong = invoke(place, monkeypatch, verb, "--device", "gpu")
    assert "--device: device 'gpu' is not understood; expected auto, cpu, cuda or cuda:N." in str(wrong.exception)


def test_the_demo_and_recipes_load_on_their_device(
    place: Path, gpus: None, asked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr("diekae.cli.demo.EXACT", place / "bank")
    result = CliRunner().invoke(typer_app, ["demo", "--out", "demo", "--device", "cuda:1"])
    assert isinstance(result.exception, Asked) and str(result.exception) == "cuda:1"
    result = invoke(place, monkeypatch, "train", "--set", "device=cuda:1")
    assert str(result.exception) == "cuda:1", "the recipe's key"
    result = invoke(place, monkeypatch, "train", "--set", "device=cuda:1", "--device", "cpu")
    assert str(result.exception) == "cpu", "the option wins over the recipe"


def test_auto_is_a_gpu_if_there_is_one(gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(models.resolve_device("auto")) == str(models.resolve_device("cuda")) == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(models.resolve_device("auto")) == "cuda:1", "each of several processes has its own GPU"
    assert str(models.resolve_device("cuda:0")) == "cuda:0" and str(models.resolve_device("cpu")) == "cpu"
    with pytest.raises(ValueError, match="device 'cuda:2' is not here: PyTorch finds 2 CUDA devices"):
        models.resolve_device("cuda:2")


def test_without_a_gpu_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(models.resolve_device("auto")) == "cpu"
    with pytest.raises(ValueError, match="device 'cuda' is not here: PyTorch finds 0 CUDA devices; choose auto or cpu"):
        models.resolve_device("cuda")


def test_the_bank_is_on_the_device_of_its_decoder(place: Path) -> None:
    model = DiekaeModel.from_pretrained(place / "bank", device="cpu")
    assert {tensor.device.type for tensor in model.bank.state_dict().values()} == {model.device.type} == {"cpu"}


def test_training_runs_on_the_device_of_the_bank(tmp_path: Path, gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = arguments(TrainingConfig(), tmp_path, 1, False, torch.device("cpu"))
    assert on_cpu.use_cpu and on_cpu.device.type == "cpu", "the GPU is not used"
    monkeypatch.setattr("diekae.training.trainer.TrainingArguments", dict)
    assert not arguments(TrainingConfig(), tmp_path, 1, False, torch.device("cuda:1"))["use_cpu"]


def test_a_recipe_has_a_device() -> None:
    data = {part: [{"source": "facts"}] for part in ("train", "validation", "test")}
    assert make_recipe({"data": data}).device == "auto"
    assert make_recipe({"data": data, "device": "cpu"}).device == "cpu"
    with pytest.raises(ValueError, match="device='gpu' is not understood"):
        make_recipe({"data": data, "device": "gpu"})
