"""What training needs, estimated before the first question is asked: layers, space of K, memory and disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from diekae.data.example import Example
from diekae.free_memory import free_memory
from diekae.inject.hookpoints import find_blocks
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.run.peak_memory import peak_memory
from diekae.study.plan import bank_config, take_step

SHARE = 0.8
"""Share of the layers that read unless told otherwise: with fewer, a decoder of 135M answers worse."""
SPARE = 2.0
"""Disk that is needed, as a multiple of the checkpoints' size."""

USED = 0.8
"""Share of the free memory that training may take."""


@dataclass(frozen=True)
class Needs:
    """What training needs."""

    layers: int
    """Layers that read."""
    depth: int
    """Layers of the decoder."""
    layer_bytes: int
    """Bytes that a token of K takes in one layer."""
    parameters: int
    """The bank's parameters."""
    example_bytes: int | None
    """Memory that a step takes for each example; None where it cannot be measured."""
    batch_size: int
    """Examples at once that fit into memory."""

    def describe(self, wanted: int) -> str:
        """Return a line for the user, who wanted so many examples at once."""
        memory, fitted = "", ""
        if self.example_bytes is not None:
            memory = f"about {self.batch_size * self.example_bytes / 1e9:.1f} GB of memory, "
        if self.batch_size < wanted:
            fitted = f"; memory is short, so {self.batch_size} questions are learned from at once in place of {wanted}"
        size, whole = self.layers * self.layer_bytes, self.depth * self.layer_bytes
        return (
            f"{self.layers} of {self.depth} layers read: {size:,} bytes a token of K ({whole:,} "
            f"in all layers), {self.parameters / 1e6:.1f} M parameters; training needs {memory}"
            f"{disk_needed(self.parameters) / 1e6:.0f} MB of disk{fitted}"
        )


def estimate_needs(
    exact: DiekaeModel, text: str, out: Path, layers: int | None, bytes_per_token: int | None, batch_size: int
) -> Needs:
    """Estimate what training needs; memory by one step with one example, a long text of the documents.

    ``layers`` and ``bytes_per_token`` are what the user named, if anything; ``batch_size`` is wanted.

    Raises:
        ValueError: So many layers are impossible.
        OSError: The disk is too full.
        MemoryError: Not even one example fits.
    """
    depth = len(find_blocks(exact.decoder))
    slots = exact.prepare("a few words")
    layer_bytes = slots.nbytes // (depth * (len(slots) + len(slots.anchor_ids)))
    count = count_layers(depth, layers, bytes_per_token, layer_bytes)
    prompter = exact.need_prompter()
    config = bank_config(range(depth - count, depth), exact.config.format == "chat", exact.config.template)
    bank = DiekaeModel(exact.decoder, config, prompter.tokenizer)
    parameters = sum(parameter.numel() for parameter in bank.bank.parameters())
    check_disk(out, parameters)
    words = text.split()
    prompt = prompter.prompt(Example((text,), " ".join(words[:15]), " ".join(words[:8])))
    with frozen(exact.decoder):
        try:
            example_bytes: int | None = peak_memory(lambda: take_step(bank, [prompt]), exact.device).added
        except OSError:  # measured on Linux alone
            example_bytes = None
    free = free_memory(exact.device)
    fitting = batch_size if example_bytes is None else fit_batch(example_bytes, USED * free, batch_size)
    return Needs(count, depth, layer_bytes, parameters, example_bytes, fitting)


def fit_batch(example_bytes: int, available: float, wanted: int) -> int:
    """Return the examples at once that fit into memory: as many as wanted, halved as often as needed (MemoryError)."""
    size = wanted
    while size > 1 and size * example_bytes > available:
        size //= 2
    if size * example_bytes > available:
        raise MemoryError(
            f"training needs {example_bytes / 1e9:.1f} GB of memory for one question, and {available / 1e9:.1f} GB can "
            "be used; end other programs, or choose a smaller decoder or --dtype bf16."
        )
    return size


def count_layers(depth: int, layers: int | None, bytes_per_token: int | None, bytes_per_layer: int) -> int:
    """Return how many of the decoder's layers are to read, by what the user named, if anything.

    Raises:
        ValueError: Both are named, there are not so many layers, or not one layer fits.
    """
    if layers is not None and bytes_per_token is not None:
        raise ValueError("--layers and --bytes-per-token both say how many layers read; give one of them.")
    if layers is not None:
        if not 1 <= layers <= depth:
            raise ValueError(f"--layers {layers} must be from 1 to the decoder's {depth}.")
        return layers
    if bytes_per_token is not None:
        if bytes_per_token < bytes_per_layer:
            raise ValueError(
                f"--bytes-per-token {bytes_per_token} is less than one layer takes ({bytes_per_layer} bytes)."
            )
        return min(depth, bytes_per_token // bytes_per_layer)
    return max(1, round(SHARE * depth))


def check_disk(folder: Path, parameters: int) -> None:
    """Check that checkpoints fit on the disk; OSError if they do not."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = disk_needed(parameters), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{str(folder)!r} has {free / 1e6:.0f} MB free, and training needs about {needed / 1e6:.0f} MB.")


def disk_needed(parameters: int) -> float:
    """Return bytes of the checkpoints: bank and two moments of AdamW, each in fp32, a few times."""
    return SPARE * 3 * 4 * parameters + 50e6
