"""Banks on disk: a folder with ``config.json`` and one safetensors file, whose tensors are named by decoder layer.

Several processes may save into one folder, and others read it meanwhile: a reader gets one of the saved banks, whole.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
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
from diekae.fields import check_table, check_types
from diekae.files import locked, write_atomically
from diekae.fingerprint import DecoderIdentity, identify
from diekae.hub import download_bank, is_hub_id

CONFIG_NAME = "config.json"
FORMAT = 2
"""Version of the layout of a bank's folder."""


@dataclass(frozen=True)
class SavedBank:
    """The content of a bank's folder."""

    folder: Path
    """The folder."""
    config: DiekaeConfig
    """The bank's configuration."""
    tensors: dict[str, Tensor]
    """Weights by layer, as :meth:`Bank.state_by_layer` names them."""
    anchor: tuple[int, ...]
    """Tokens of the anchor that the bank was trained with."""
    decoder_name: str
    """Name or path of the decoder."""
    decoder: DecoderIdentity
    """What tells the decoder from others."""

    def check_decoder(self, decoder: PreTrainedModel) -> None:
        """Refuse a decoder that the bank was not made for (ValueError); a quantised form of its decoder is accepted."""
        present = identify(decoder)
        if not self.decoder.fits(present):
            quantized = present.quantized and f" in quantised form ({present.quantized})"
            raise ValueError(
                f"the bank in {str(self.folder)!r} was made for decoder {self.decoder_name!r} "
                f"({self.decoder.fingerprint}), but this one is {decoder.config.name_or_path!r}{quantized} "
                f"({present.fingerprint}); load the right decoder, or pass check=False at your own risk."
            )


def shipped_banks() -> dict[str, Path]:
    """Return the folders of the banks that come with the package, by name; each has a README with its results."""
    banks = Path(str(files("diekae"))) / "banks"
    return {path.parent.name: path.parent for path in sorted(banks.glob(f"*/{CONFIG_NAME}"))}


def save_bank(
    folder: Path,
    bank: Bank,
    config: DiekaeConfig,
    decoder: PreTrainedModel,
    anchor: tuple[int, ...],
    dtype: torch.dtype | None = None,
    decoder_name: str | None = None,
) -> None:
    """Write a bank's folder; the decoder is not saved.

    A failure leaves an older bank in the folder as it was; another process that saves is waited for. The weights keep
    their types, unless ``dtype`` is given. The decoder is loaded later by ``decoder_name``, by default the name it has
    now.

    Raises:
        OSError: The disk is full, or the folder is not writable.
    """
    # The digest in the name of the weights' file keeps old and new weights apart, so that replacing `config.json`,
    # which names the file, is the single step that replaces the old bank by the new one.
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
        "decoder": {"name": decoder_name or decoder.config.name_or_path, **vars(identify(decoder))},
        "weights": name,
        "sha256": digest,
    }
    _write(folder, name, weights, json.dumps(description, indent=2) + "\n")


def _write(folder: Path, name: str, weights: bytes, description: str) -> None:
    """Write the weights' file and ``config.json``, and remove the weights of older banks."""
    with locked(folder) as has_locks:
        existed = (folder / name).exists()
        write_atomically(folder / name, weights)
        try:
            write_atomically(folder / CONFIG_NAME, description)
        except BaseException:
            if has_locks and not existed:
                (folder / name).unlink()
            raise
        # Without a lock, another process may be about to name its file in `config.json`.
        for old in folder.glob("bank-*.safetensors") if has_locks else ():
            if old.name != name:
                old.unlink()


def load_bank(folder: Path, revision: str | None = None) -> SavedBank:
    """Read a bank's folder.

    Args:
        folder: The folder. If there is none of this name: the name of a shipped bank, or ``user/bank`` on the hub.
        revision: Branch, tag or commit of a bank on the hub.

    Raises:
        FileNotFoundError: The folder contains no bank.
        ValueError: The bank is damaged, or its format is not supported; or a revision is given for a folder.
    """
    shipped = shipped_banks()
    path = folder if folder.exists() else shipped.get(str(folder), folder)
    if path is folder and len(folder.parts) == 2 and is_hub_id(str(folder)):
        path = download_bank(str(folder), revision)
    elif revision is not None:
        raise ValueError(f"revision={revision!r} is for a bank on the hub, and {str(folder)!r} is none; leave it out.")
    if not (path / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is not a bank: {CONFIG_NAME} is missing; give what was saved, the name of a shipped bank "
            f"({', '.join(shipped)}), or the id of a bank on the hub (user/bank)."
        )
    while True:
        text = (path / CONFIG_NAME).read_bytes()
        saved, weights, digest = _describe(folder, path / CONFIG_NAME, text)
        try:
            return dataclasses.replace(saved, tensors=_load_weights(weights, digest))
        except FileNotFoundError:
            # Another process may have saved since: then `config.json` names the new file.
            if (path / CONFIG_NAME).read_bytes() == text:
                raise


@dataclass
class _Description:
    """The keys of ``config.json``, and the types of their values."""

    format: int
    config: Mapping[str, Any]
    layers: tuple[int, ...]
    anchor: tuple[int, ...]
    decoder: Mapping[str, str]
    weights: str
    sha256: str


def _describe(folder: Path, path: Path, text: bytes) -> tuple[SavedBank, Path, str]:
    """Return a bank without its weights, and path and digest of the weights' file, from the text of ``config.json``."""
    try:
        values = json.loads(text)
        check_table(values, "the description")
        check_types(_Description, values)
        encoder, name = values["config"]["encoder"], values["decoder"]["name"]
        # Absent in banks of older versions: then quantised forms of the decoder are not known.
        known = {key: values["decoder"].get(key, "") for key in ("norms", "embeddings", "quantized")}
        decoder = DecoderIdentity(values["decoder"]["fingerprint"], **known)
    except (ValueError, LookupError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} describes no bank ({error or repr(error)}); save it again.") from error
    _check_format(folder, values["format"], encoder)
    try:
        config = DiekaeConfig.from_dict(values["config"])
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error
    saved = SavedBank(folder, config, {}, tuple(values["anchor"]), name, decoder)
    return saved, path.parent / Path(values["weights"]).name, values["sha256"]


def _check_format(folder: Path, format: int, encoder: object) -> None:
    """Refuse a bank whose format is newer than this version, or one whose banks no longer work (ValueError)."""
    if format > FORMAT:
        raise ValueError(f"{str(folder)!r} has format {format}; update diekae to read it.")
    if format < FORMAT and encoder == "attention":
        raise ValueError(
            f"{str(folder)!r} is a bank of format {format}, whose encoders project x themselves; in format {FORMAT} "
            "the decoder's attention reads K. Train it again with its recipe, or read without training: "
            "DiekaeModel.exact(decoder, tokenizer)."
        )


def _load_weights(path: Path, digest: str) -> dict[str, Tensor]:
    """Read the weights' file of a bank; FileNotFoundError if it is missing, ValueError if it is damaged."""
    try:
        weights = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{str(path.parent)!r} is not a bank: {path.name} is missing; give what was saved."
        ) from error
    if hashlib.sha256(weights).hexdigest() != digest:
        raise ValueError(f"{str(path)!r} is damaged: it is not the file that {CONFIG_NAME} describes.")
    try:
        return load(weights)
    except SafetensorError as error:
        raise ValueError(f"{str(path)!r} is not a safetensors file: {error}.") from error
