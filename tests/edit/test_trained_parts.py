"""The file of what is trained for editing: damage anywhere in it is noticed."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diekae import DiekaeModel
from diekae.checkpoint import shipped_banks
from diekae.edit.trained_parts import FILE, TrainedParts, load_trained


@pytest.fixture
def path(tmp_path: Path, model: DiekaeModel, trained: TrainedParts) -> Path:
    trained.save(tmp_path / FILE, model)
    return tmp_path / FILE


def weights(parts: TrainedParts) -> dict[str, torch.Tensor]:
    assert parts.encoder is not None and parts.adapter is not None
    return {**parts.encoder.state_dict(), **parts.adapter.state_dict()}


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
        info = json.loads(file.metadata()["diekae"])
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


def test_what_ships_has_a_digest() -> None:
    with safe_open(str(shipped_banks()["smollm2"] / FILE), framework="pt") as file:
        info = json.loads(file.metadata()["diekae"])
    assert info["format"] == 3 and len(set(info["sha256"])) > 1
