"""The file of what is trained for editing: it is read as it was written, and damage anywhere in it is noticed."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from builders import make_model
from diekae import DiekaeModel
from diekae.checkpoint import shipped_banks
from diekae.edit.trained_parts import FILE, TrainedParts, find_trained, load_trained
from diekae.knowledge.codec import DigestError, decode


@pytest.fixture
def path(tmp_path: Path, model: DiekaeModel, trained: TrainedParts) -> Path:
    trained.save(tmp_path / FILE, model)
    return tmp_path / FILE


def weights(parts: TrainedParts) -> dict[str, torch.Tensor]:
    assert parts.encoder is not None and parts.adapter is not None
    return {**parts.encoder.state_dict(), **parts.adapter.state_dict()}


def test_parts_are_saved_and_loaded(path: Path, model: DiekaeModel, trained: TrainedParts, tmp_path: Path) -> None:
    parts = load_trained(path, model)
    assert trained.adapter is not None and parts.adapter is not None
    assert parts.gate == trained.gate and parts.adapter.options == trained.adapter.options
    with pytest.raises(ValueError, match="trained for bank"):
        load_trained(path, make_model(model.config.encoder, seed=1))
    with pytest.raises(FileNotFoundError, match="edit train"):
        load_trained(tmp_path / "none", model)
    assert find_trained(model) == TrainedParts(), "nothing comes with the package for a random bank"


def test_another_bank_gets_the_shipped_gate_and_a_warning_about_the_adapter(
    path: Path,
    model: DiekaeModel,
    trained: TrainedParts,
    monkeypatch: pytest.MonkeyPatch,
    recwarn: pytest.WarningsRecorder,
) -> None:
    monkeypatch.setattr("diekae.edit.trained_parts.shipped_banks", lambda: {"tiny": path.parent})
    own = find_trained(model)
    assert own.encoder is not None and own.adapter is not None and not recwarn
    with pytest.warns(UserWarning, match="adapter that came with the package is for another bank"):
        other = find_trained(make_model(model.config.encoder, seed=1))
    assert other.encoder is not None and other.gate == trained.gate and other.adapter is None


def test_no_flipped_bit_and_no_shorter_file_is_accepted(
    path: Path, model: DiekaeModel, record_property: Callable[[str, object], None]
) -> None:
    content, draw = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    positions = [draw.randrange(header) for _ in range(100)] + [draw.randrange(len(content)) for _ in range(100)]
    record_property("tries", len(positions))
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match="holds nothing trained for editing, or is damaged"):
            load_trained(path, model)
    for length in (0, 5, 50, header, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="holds nothing trained for editing, or is damaged"):
            load_trained(path, model)


def rewrite(path: Path, **changes: object) -> None:
    """Write the file without a digest, as the format before did."""
    with safe_open(str(path), framework="pt") as file:
        info = json.loads(file.metadata()["diekae.checked"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del info["sha256"]
    save_file(tensors, path, {"diekae": json.dumps({**info, **changes})})


def test_a_file_of_the_format_before_is_read(path: Path, model: DiekaeModel) -> None:
    expected = weights(load_trained(path, model))
    rewrite(path, format=2)
    parts = load_trained(path, model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(parts).items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "it is not what was written"),
        ({"format": 4}, "format 4, expected 3; update diekae"),
        ({"format": 1}, "format 1, expected 3; train again"),
        ({"format": None}, "or is damaged"),
        ({"format": 2, "adapter": {"rank": 2}}, "or is damaged"),
        ({"format": 2, "gate": {"layers": [1, 2], "size": 3}}, "or is damaged"),
    ],
)
def test_another_file_is_refused_in_a_sentence(
    path: Path, model: DiekaeModel, changes: dict[str, object], message: str
) -> None:
    rewrite(path, **changes)
    with pytest.raises(ValueError, match=message):
        load_trained(path, model)


def test_what_ships_has_a_digest_under_the_older_name_that_is_checked() -> None:
    content = bytearray((shipped_banks()["smollm2"] / FILE).read_bytes())
    _, info = decode(bytes(content))
    assert info["format"] == 3 and len(set(info["sha256"])) > 1
    content[-1] ^= 1
    with pytest.raises(DigestError):
        decode(bytes(content))
