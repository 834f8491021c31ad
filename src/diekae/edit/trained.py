"""What was trained for editing with one bank: a gate's encoder and a memory adapter, in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from diekae.checkpoint import shipped_banks
from diekae.edit.adapter import AdapterOptions, EditAdapter
from diekae.edit.learned import GateOptions, PromptEncoder
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint
from diekae.model import DiekaeModel

FILE = "editing.safetensors"
FORMAT = 2
"""Version of the file."""


@dataclass(frozen=True)
class Trained:
    """What editing with one bank has learned; either part may be missing."""

    encoder: PromptEncoder | None = None
    """The learned gate's."""
    gate: GateOptions = GateOptions()
    """Its sizes and thresholds."""
    adapter: EditAdapter | None = None
    """Makes an edit's memory of a document's."""

    def __repr__(self) -> str:
        """Say on one line which parts there are."""
        gate = "no gate" if self.encoder is None else f"gate of layers {', '.join(map(str, self.gate.layers))}"
        adapter = "no adapter" if self.adapter is None else f"adapter of rank {self.adapter.options.rank}"
        return f"Trained({gate}, {adapter})"

    def save(self, path: str | Path, model: DiekaeModel) -> None:
        """Write both parts in bf16."""
        tensors: dict[str, torch.Tensor] = {}
        info: dict[str, Any] = {"format": FORMAT, "decoder": fingerprint(model.decoder)}
        info["bank"] = model.bank.fingerprint()
        if self.encoder is not None:
            info["gate"] = dataclasses.asdict(self.gate)
            tensors |= {f"gate.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        if self.adapter is not None:
            info["adapter"] = {**dataclasses.asdict(self.adapter.options), "shapes": self.adapter.shapes}
            tensors |= {f"adapter.{name}": tensor for name, tensor in self.adapter.state_dict().items()}
        kept = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
        write_atomically(Path(path), save(kept, {"diekae": json.dumps(info)}))


def find_trained(model: DiekaeModel) -> Trained:
    """Return what came with the package for a model: the gate by its decoder, the adapter by its bank; or nothing."""
    decoder = fingerprint(model.decoder)
    for folder in shipped_banks().values():
        path = folder / FILE
        if path.is_file() and (info := _read(path)[0])["decoder"] == decoder and info["format"] == FORMAT:
            found = _make(info, path, model)
            if info["bank"] == model.bank.fingerprint() or found.adapter is None:
                return found
            warnings.warn(
                "The adapter that came with the package is for another bank than this one: edits speak as plain "
                "documents do, which is less surely. `diekae-research edit train` makes an adapter for this bank.",
                stacklevel=2,
            )
            return dataclasses.replace(found, adapter=None)
    return Trained()


def load_trained(path: str | Path, model: DiekaeModel) -> Trained:
    """Read what :meth:`Trained.save` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, of a newer format, or was trained for another decoder or bank.
    """
    info = _read(Path(path))[0]
    if info["format"] != FORMAT:
        todo = "update diekae to read it" if info["format"] > FORMAT else "train it anew (`diekae-research edit train`)"
        raise ValueError(f"{str(path)!r} has format {info['format']}, expected {FORMAT}; {todo}.")
    for name, own in (("decoder", fingerprint(model.decoder)), ("bank", model.bank.fingerprint())):
        if info[name] != own and not (name == "bank" and "adapter" not in info):
            raise ValueError(f"{str(path)!r} was trained for {name} {info[name]}, but this {name} is {own}.")
    return _make(info, Path(path), model)


def _make(info: dict[str, Any], path: Path, model: DiekaeModel) -> Trained:
    """Build what a file describes."""
    tensors = _read(path)[1]
    encoder, options, adapter = None, GateOptions(), None
    if "gate" in info:
        options = GateOptions(**{**info["gate"], "layers": tuple(info["gate"]["layers"])})
        encoder = PromptEncoder(tensors["gate.query"].shape[2], options)
        encoder.load_state_dict(_part(tensors, "gate"))
    if "adapter" in info:
        shapes = info["adapter"].pop("shapes")
        adapter = EditAdapter(shapes, AdapterOptions(**info["adapter"])).to(model.device)
        adapter.load_state_dict(_part(tensors, "adapter"))
    return Trained(encoder, options, adapter)


def _part(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    names = [name for name in tensors if name.startswith(f"{part}.")]
    return {name.removeprefix(f"{part}."): tensors[name].float() for name in names}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"no file at {str(path)!r}; expected what `diekae-research edit train` wrote.")
    try:
        with safe_open(str(path), framework="pt") as file:
            return json.loads(file.metadata()["diekae"]), {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} holds nothing trained for editing, or is damaged: {error}") from error
