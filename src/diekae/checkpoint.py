"""The bank on disk: a folder with ``config.json`` and one safetensors file, its tensors named by decoder layer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from diekae.config import DiekaeConfig
from diekae.encoders.bank import Bank
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint

CONFIG_NAME = "config.json"
FORMAT = 2
"""Version of the folder's layout."""


@dataclass(frozen=True)
class SavedBank:
    """What a bank's folder holds."""

    config: DiekaeConfig
    """The bank's configuration."""
    tensors: dict[str, Tensor]
    """Weights by layer, as :meth:`Bank.state_by_layer` names them."""
    anchor: tuple[int, ...]
    """Tokens of the anchor the bank was trained with."""
    decoder_name: str
    """Name or path of the decoder."""
    decoder_fingerprint: str
    """Fingerprint of the decoder."""


def shipped_banks() -> dict[str, Path]:
    """Return the folders of the banks that come with the package, by name; each has a README with its figures."""
    place = Path(str(files("diekae"))) / "banks"
    return {path.parent.name: path.parent for path in sorted(place.glob(f"*/{CONFIG_NAME}"))}


def save_bank(
    folder: Path,
    bank: Bank,
    config: DiekaeConfig,
    decoder: PreTrainedModel,
    anchor: tuple[int, ...],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a bank's folder; a bank that was there before stays whole until the new one is.

    With ``dtype`` the weights are kept in that floating-point type; bf16 halves the file.

    The weights' file carries its digest in its name, so that the renaming of ``config.json``, which names it, is the
    one moment in which the new bank takes the old one's place.
    """
    tensors = bank.state_by_layer()
    if dtype is not None:
        tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    weights = save(tensors, {"format": "pt"})
    digest = hashlib.sha256(weights).hexdigest()
    name = f"bank-{digest[:12]}.safetensors"
    description: dict[str, Any] = {
        "format": FORMAT,
        "config": config.to_dict(),
        "layers": list(bank.layers),
        "anchor": list(anchor),
        "decoder": {"name": decoder.config.name_or_path, "fingerprint": fingerprint(decoder)},
        "weights": name,
        "sha256": digest,
    }
    known = (folder / name).exists()
    write_atomically(folder / name, weights)
    try:
        write_atomically(folder / CONFIG_NAME, json.dumps(description, indent=2) + "\n")
    except BaseException:
        if not known:
            (folder / name).unlink()
        raise
    for old in folder.glob("bank-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_bank(folder: Path) -> SavedBank:
    """Read a bank's folder; the name of a shipped bank stands for its folder, where there is no other of that name.

    Raises:
        FileNotFoundError: The folder holds no bank.
        ValueError: It is damaged, or of a format this version does not know.
    """
    shipped = shipped_banks()
    if not folder.exists():
        folder = shipped.get(str(folder), folder)
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is not a bank: {CONFIG_NAME} is missing; give what was saved, or the name of a shipped "
            f"bank ({', '.join(shipped)})."
        )
    try:
        description = json.loads(path.read_text())
        if description["format"] > FORMAT:
            raise ValueError(f"{str(folder)!r} has format {description['format']}; update diekae to read it.")
        if description["format"] < FORMAT and description["config"]["encoder"] == "attention":
            raise ValueError(
                f"{str(folder)!r} is a bank of format {description['format']}, whose encoders project x themselves; "
                f"now the decoder's attention reads K (format {FORMAT}). Train it anew by its recipe, or read without "
                "training: DiekaeModel.exact(decoder, tokenizer)."
            )
        saved = SavedBank(
            DiekaeConfig.from_dict(description["config"]),
            {},
            tuple(description["anchor"]),
            description["decoder"]["name"],
            description["decoder"]["fingerprint"],
        )
        file, digest = folder / Path(description["weights"]).name, description["sha256"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{str(path)!r} describes no bank ({error!r}); save it again.") from error
    if not file.is_file():
        raise FileNotFoundError(f"{str(folder)!r} is not a bank: {file.name} is missing; give what was saved.")
    weights = file.read_bytes()
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ValueError(f"{str(file)!r} is damaged: it is not the file that {CONFIG_NAME} describes.")
    try:
        return dataclasses.replace(saved, tensors=load(weights))
    except SafetensorError as error:
        raise ValueError(f"{str(file)!r} is not a safetensors file: {error}.") from error
