"""A decoder's fingerprint and window, and whether it can be injected into."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diekae.placement import input_device, missing_weights, weights

SAMPLES = 257
"""Weights sampled from each tensor, evenly spaced: enough to distinguish fine-tuned models, few enough for any size."""
SMALLEST = 2.0**-16
"""Weights with a smaller absolute value count as zero, because fp16 rounds them and bf16 does not."""
UNPACKED_FROM = "unpacked_from"
"""Key of a decoder's configuration: the quantised kind, such as ``gguf``, that its weights were unpacked from. They
differ a little from the published ones, as those of any quantised form do; without the key nobody could tell."""
CONFIG_KEYS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
)


@dataclass(frozen=True)
class DecoderIdentity:
    """What tells one decoder from another, on every device and in every type of its weights."""

    fingerprint: str
    """Digest of the sizes and of all weights. Of a quantised weight only its name, size and kind count, because its
    numbers depend on the type that it was quantised from."""
    norms: str
    """Digest of the sizes and of the norms' gains, which quantisation leaves alone; empty if there are none."""
    embeddings: str
    """Digest of the token embeddings; empty if they are or were quantised."""
    quantized: str
    """Kinds of the quantised weights, such as ``Int8Tensor``, and the kind that all weights were unpacked from, if the
    configuration names it (:data:`UNPACKED_FROM`); empty if no weight is or was quantised."""

    def fits(self, decoder: DecoderIdentity) -> bool:
        """Tell whether a bank of this decoder may stand beside another one: the same, or a quantised form of it.

        A quantised form is known by norms and embeddings. Decoders that differ in nothing but the matrices that were
        quantised, as some fine-tuned ones do, are not told apart by it.
        """
        if self.fingerprint == decoder.fingerprint:
            return True
        same = bool(self.norms) and self.norms == decoder.norms
        same = same and (not self.embeddings or not decoder.embeddings or self.embeddings == decoder.embeddings)
        return same and bool(self.quantized or decoder.quantized)


@torch.no_grad()
def identify(decoder: PreTrainedModel) -> DecoderIdentity:
    """Return what tells the decoder from others; offloaded weights are read one by one."""
    config = decoder.config.get_text_config(decoder=True)
    sizes = repr([(key, getattr(config, key, None)) for key in CONFIG_KEYS]).encode()
    whole, norms, embeddings = hashlib.sha256(sizes), hashlib.sha256(sizes), hashlib.sha256()
    unpacked = str(getattr(config, UNPACKED_FROM, ""))
    has_norms, embedded, kinds = False, False, {unpacked} - {""}
    embedding = decoder.get_input_embeddings().weight
    table = next((name for name, parameter in decoder.named_parameters() if parameter is embedding), "")
    for name, weight in weights(decoder):
        kind = quantized_kind(weight)
        content = f"{name}{_size(weight)}".encode() + (kind.encode() or _sample(weight))
        whole.update(content)
        if kind:
            kinds.add(kind)
        elif name == table:
            embeddings.update(content)
            embedded = not unpacked
        elif weight.ndim == 1 and not name.endswith("bias"):
            norms.update(content)
            has_norms = True
    return DecoderIdentity(
        whole.hexdigest()[:16],
        norms.hexdigest()[:16] if has_norms else "",
        embeddings.hexdigest()[:16] if embedded else "",
        " ".join(sorted(kinds)),
    )


def fingerprint(decoder: PreTrainedModel) -> str:
    """Return a digest of the decoder's sizes and weights, the same on every device and in fp32 and bf16.

    It is the same in fp16 too if the weights were published in bf16, which fp16 represents exactly except the smallest.
    A quantised decoder has a fingerprint of its own; see :class:`DecoderIdentity`.
    """
    return identify(decoder).fingerprint


def quantized_kind(weight: Tensor) -> str:
    """Return the kind of a quantised weight, such as ``Int8Tensor``; empty for numbers in floating point."""
    packed = hasattr(weight, "__tensor_flatten__")  # torchao's and quanto's: several tensors in one
    if not packed and weight.is_floating_point():
        return ""
    scheme = getattr(weight, "quant_type", "")  # bitsandbytes': nf4 or fp4
    return f"{type(weight).__name__}-{scheme}" if scheme else type(weight).__name__


def _size(weight: Tensor) -> tuple[int, ...]:
    """Return the shape of a weight; of numbers that are packed into bytes how many bytes they take.

    On some CPUs bitsandbytes packs 4-bit weights anew when they are first used, into another shape.
    """
    return tuple(weight.shape) if weight.is_floating_point() else (weight.nbytes,)


def _sample(weight: Tensor) -> bytes:
    """Return some weights of one tensor, evenly spaced, rounded as all types of weights round them."""
    flat = weight.detach().reshape(-1)
    sample = flat[:: max(1, flat.numel() // SAMPLES)].to("cpu", torch.bfloat16)
    sample = torch.where(sample.abs() < SMALLEST, torch.zeros_like(sample), sample)
    return sample.view(torch.int16).numpy().tobytes()


def check_whole(decoder: PreTrainedModel, bank: torch.nn.Module) -> None:
    """Refuse a decoder that lacks weights, or is on another device than its bank (ValueError)."""
    device = input_device(decoder)
    missing = missing_weights(decoder) if device.type != "meta" else []
    if missing:
        raise ValueError(
            f"{len(missing)} weights of the decoder, {missing[0]!r} first, hold no values (device 'meta'), and no hook "
            "of accelerate brings them; load the decoder with its weights, as load_decoder does, or offload it by "
            "accelerate.cpu_offload or disk_offload."
        )
    bank_device = next((tensor.device for tensor in (*bank.parameters(), *bank.buffers())), device)
    if bank_device != device:
        raise ValueError(
            f"the bank is on {bank_device}, but the decoder is on {device}; move both: model.to({str(device)!r})."
        )


def window(decoder: PreTrainedModel) -> int:
    """Return the decoder's window: the most tokens that it reads."""
    config = decoder.config.get_text_config(decoder=True)
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**20)
