"""Moving a model to a device: decoder and bank move together, and the frozen decoder keeps its type."""

from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedModel

from diekae.placement import input_device, stays


class MovesWithDecoder(nn.Module):
    """A module that moves to a device together with its decoder, which is not a submodule.

    Each method moves both, or refuses before anything is moved.
    """

    editor: Any
    """The model's edits, which move too; None if there are none."""

    @property
    def decoder(self) -> PreTrainedModel:
        """Return the decoder."""
        raise NotImplementedError

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, as :meth:`torch.nn.Module.to` does. A type is allowed only if it is the decoder's.

        Raises:
            ValueError: The type is another, the decoder cannot be moved, or there is no such device.
        """
        try:
            device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
            if device is not None:
                device = torch.empty(0, device=device).device  # with its index, and an error if it does not exist
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"the model cannot be moved to {args or kwargs} ({reason}); expected a device of this machine, such as "
                "'cpu' or 'cuda'."
            ) from error
        check_dtype(self.decoder, dtype)
        if stays(self.decoder):
            elsewhere = input_device(self.decoder) != device
        else:
            elsewhere = any(tensor.device != device for tensor in self.decoder.parameters())
        if device is not None and elsewhere:
            check_movable(self.decoder)
            self.decoder.to(device, non_blocking=non_blocking)  # type: ignore[arg-type]
        moved = super().to(*args, **kwargs)
        if self.editor is not None and device is not None:
            self.editor.to(device)
        return moved

    def cuda(self, device: int | torch.device | None = None) -> Self:
        """Move to a GPU; see :meth:`to`."""
        return self.to(torch.device("cuda", device) if isinstance(device, int) else device or "cuda")

    def cpu(self) -> Self:
        """Move to the CPU; see :meth:`to`."""
        return self.to("cpu")

    def float(self) -> Self:
        """Set the bank's type to fp32, which must be the decoder's; see :meth:`to`."""
        return self.to(torch.float32)

    def half(self) -> Self:
        """Set the bank's type to fp16, which must be the decoder's; see :meth:`to`."""
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        """Set the bank's type to bf16, which must be the decoder's; see :meth:`to`."""
        return self.to(torch.bfloat16)

    def double(self) -> Self:
        """Set the bank's type to fp64, which must be the decoder's; see :meth:`to`."""
        return self.to(torch.float64)


def check_dtype(decoder: PreTrainedModel, dtype: torch.dtype | None) -> None:
    """Refuse a type that is not the decoder's, by a ValueError."""
    if dtype is not None and dtype != decoder.dtype:
        raise ValueError(
            f"the decoder is frozen in {decoder.dtype} and is not changed to {dtype}; load it in that type "
            f"(load_decoder(name, dtype={dtype})), or change the bank alone: model.bank.to({dtype})."
        )


def check_movable(decoder: PreTrainedModel) -> None:
    """Refuse a decoder that is quantised, spread over devices, offloaded, or without weights, by a ValueError."""
    if any(getattr(decoder, name, None) for name in ("is_quantized", "quantization_method", "hf_quantizer")):
        raise ValueError(
            "the decoder is quantised, and its weights stay where they were loaded; load it onto the device that you "
            "want, and create the model there."
        )
    if stays(decoder):
        raise ValueError(
            "the decoder is spread over devices or offloaded by accelerate, and stays where it was loaded, with the "
            f"bank on {input_device(decoder)}; to move it, load it whole on one device, without device_map."
        )
    if decoder.device.type == "meta":
        raise ValueError("the decoder holds no weights (device 'meta'); load it with them, as load_decoder does.")
