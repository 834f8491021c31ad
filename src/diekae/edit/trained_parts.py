"""What is trained for editing with one bank: the gate's encoder and the adapter, in one safetensors file."""

import dataclasses
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diekae.checkpoint import shipped_banks
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.prompt_encoder import GateOptions, PromptEncoder
from diekae.files import as_path, write_atomically
from diekae.fingerprint import fingerprint
from diekae.knowledge.codec import DAMAGED, decode, encode
from diekae.model import DiekaeModel

FILE = "editing.safetensors"
FORMAT = 3
"""Version of the file."""
WITHOUT_DIGEST = 2
"""The version before, which had no digest and is still read."""


@dataclass(frozen=True)
class TrainedParts:
    """The trained parts of editing; either may be missing."""

    encoder: PromptEncoder | None = None
    """Encoder of the learned gate."""
    gate: GateOptions = GateOptions()
    """The encoder's sizes, and the gate's thresholds."""
    adapter: EditAdapter | None = None
    """Turns the prepared knowledge of a statement into that of an edit."""

    def __repr__(self) -> str:
        gate = "no gate" if self.encoder is None else f"gate of layers {', '.join(map(str, self.gate.layers))}"
        adapter = "no adapter" if self.adapter is None else f"adapter of rank {self.adapter.options.rank}"
        return f"TrainedParts({gate}, {adapter})"

    def save(self, path: str | Path, model: DiekaeModel) -> None:
        """Write both parts in bf16, with a digest of the whole file."""
        tensors: dict[str, Tensor] = {}
        info: dict[str, Any] = {"format": FORMAT, "decoder": fingerprint(model.decoder)}
        info["bank"] = model.bank.fingerprint()
        if self.encoder is not None:
            info["gate"] = dataclasses.asdict(self.gate)
            tensors |= {f"gate.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        if self.adapter is not None:
            info["adapter"] = {**dataclasses.asdict(self.adapter.options), "shapes": self.adapter.shapes}
            tensors |= {f"adapter.{name}": tensor for name, tensor in self.adapter.state_dict().items()}
        write_atomically(Path(path), encode(tensors, info, "bf16"))


def find_trained(model: DiekaeModel) -> TrainedParts:
    """Return the parts that came with the package: the gate for the model's decoder, the adapter for its bank."""
    decoder = fingerprint(model.decoder)
    for folder in shipped_banks().values():
        path = folder / FILE
        if not path.is_file():
            continue
        info, tensors = _read(path)
        if info["decoder"] != decoder:
            continue
        parts = _build(info, tensors, path, model)
        if info["bank"] == model.bank.fingerprint() or parts.adapter is None:
            return parts
        warnings.warn(
            "The adapter that came with the package is for another bank, so edits are injected as plain documents and "
            "the target is stated less reliably. `diekae-research edit train` makes an adapter for this bank.",
            stacklevel=2,
        )
        return dataclasses.replace(parts, adapter=None)
    return TrainedParts()


def load_trained(path: str | Path, model: DiekaeModel) -> TrainedParts:
    """Read a file that :meth:`TrainedParts.save` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of another format, or was trained for another decoder or bank.
    """
    info, tensors = _read(as_path(path))
    for name, expected in (("decoder", fingerprint(model.decoder)), ("bank", model.bank.fingerprint())):
        if info[name] != expected and not (name == "bank" and "adapter" not in info):
            raise ValueError(f"{str(path)!r} was trained for {name} {info[name]}, but this {name} is {expected}.")
    return _build(info, tensors, Path(path), model)


def _build(info: dict[str, Any], tensors: dict[str, Tensor], path: Path, model: DiekaeModel) -> TrainedParts:
    """Build the parts of a file."""
    encoder, options, adapter = None, GateOptions(), None
    try:
        if "gate" in info:
            options = GateOptions(**{**info["gate"], "layers": tuple(info["gate"]["layers"])})
            encoder = PromptEncoder(tensors["gate.query"].shape[2], options)
            encoder.load_state_dict(_with_prefix(tensors, "gate."))
        if "adapter" in info:
            sizes = dict(info["adapter"])
            shapes = sizes.pop("shapes")
            adapter = EditAdapter(shapes, AdapterOptions(**sizes)).to(model.device)
            adapter.load_state_dict(_with_prefix(tensors, "adapter."))
    except (*DAMAGED, ValueError, IndexError) as error:
        raise _damaged(path, error) from error
    return TrainedParts(encoder, options, adapter)


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, in fp32 and without it."""
    return {name.removeprefix(prefix): tensors[name].float() for name in tensors if name.startswith(prefix)}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the JSON values and tensors of a file that is whole and of a known format."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected what `diekae-research edit train` wrote.")
    try:
        tensors, info = decode(path.read_bytes())
        file_format = int(info["format"])
        if file_format < WITHOUT_DIGEST or file_format > FORMAT:
            remedy = "update diekae to read it" if file_format > FORMAT else "train again"
            raise ValueError(f"it has format {file_format}, expected {FORMAT}; {remedy}")
        if file_format == FORMAT and "sha256" not in info:
            raise ValueError("it is not what was written")
        return info, tensors
    except (*DAMAGED, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{str(path)!r} holds nothing trained for editing, or is damaged: {error}. Take it from the package or a copy, "
        "or train again (`diekae-research edit train`)."
    )
