"""The bank on disk: a folder with ``config.json`` and ``bank.safetensors``, named by decoder layer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from transformers import PreTrainedModel

from diekae.config import DiekaeConfig
from diekae.encoders.bank import Bank
from diekae.files import write_atomically
from diekae.fingerprint import fingerprint

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "bank.safetensors"
FORMAT = 1
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


def save_bank(
    folder: Path, bank: Bank, config: DiekaeConfig, decoder: PreTrainedModel, anchor: tuple[int, ...]
) -> None:
    """Write a bank's folder; a bank that was there before stays whole until the new one is."""
    weights = save(bank.state_by_layer(), {"format": "pt"})
    description: dict[str, Any] = {
        "format": FORMAT,
        "config": config.to_dict(),
        "layers": list(bank.layers),
        "anchor": list(anchor),
        "decoder": {"name": decoder.config.name_or_path, "fingerprint": fingerprint(decoder)},
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_atomically(folder / WEIGHTS_NAME, weights)
    write_atomically(folder / CONFIG_NAME, json.dumps(description, indent=2) + "\n")


def load_bank(folder: Path) -> SavedBank:
    """Read a bank's folder.

    Raises:
        FileNotFoundError: The folder holds no bank.
        ValueError: It is damaged, or of a format this version does not know.
    """
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} is not a bank: {name} is missing; expected what save_pretrained wrote."
            )
    weights = (folder / WEIGHTS_NAME).read_bytes()
    try:
        description = json.loads((folder / CONFIG_NAME).read_text())
        if description["format"] > FORMAT:
            raise ValueError(f"{str(folder)!r} has format {description['format']}; update diekae to read it.")
        digest, decoder = description["sha256"], description["decoder"]
        config = DiekaeConfig.from_dict(description["config"])
        anchor = tuple(description["anchor"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder / CONFIG_NAME)!r} describes no bank ({error!r}); save it again.") from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ValueError(f"{str(folder / WEIGHTS_NAME)!r} is damaged: it is not the file that {CONFIG_NAME} describes.")
    try:
        tensors = load(weights)
    except SafetensorError as error:
        raise ValueError(f"{str(folder / WEIGHTS_NAME)!r} is not a safetensors file: {error}.") from error
    return SavedBank(config, tensors, anchor, decoder["name"], decoder["fingerprint"])
