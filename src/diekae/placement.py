"""Where a decoder's weights stand: on one device, spread over several, or offloaded to RAM or disk by accelerate."""

from collections.abc import Iterator, Mapping

import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook
from torch import Tensor, nn
from transformers import PreTrainedModel


def input_device(decoder: PreTrainedModel) -> torch.device:
    """Return the device that the decoder's inputs must be on: that of its token embeddings, where they compute."""
    weight: Tensor = decoder.get_input_embeddings().weight  # type: ignore[assignment]
    if weight.is_meta:
        for parameter, hook, _ in _offloaded(decoder).values():
            if parameter is weight:
                return torch.device(0 if hook.execution_device is None else hook.execution_device)
    return weight.device


def stays(decoder: PreTrainedModel) -> bool:
    """Tell whether the decoder is spread over devices or offloaded, so that it cannot be moved."""
    mapped: Mapping[str, object] = getattr(decoder, "hf_device_map", None) or {}
    devices = {str(tensor.device) for tensor in decoder.parameters()}
    spread = len(devices) > 1 or len({str(device) for device in mapped.values()}) > 1
    return spread or any(hasattr(module, "_hf_hook") for module in decoder.modules())


def weights(decoder: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the decoder's parameters by name, in order, each as it computes; offloaded ones are read one by one.

    A weight that is tied to another is yielded once. Weights that nobody brings stay on the device ``meta``.
    """
    parameters = dict(decoder.named_parameters())
    offloaded = _offloaded(decoder)
    # Spread over devices or offloaded, tied weights are parameters of their own.
    tied: Mapping[str, str] = getattr(decoder, "all_tied_weights_keys", None) or {}
    for name, parameter in sorted(parameters.items()):
        source = parameters.get(tied.get(name, ""))
        if source is not None and (parameter.is_meta or parameter.device != source.device):
            continue
        if name in offloaded:
            _, hook, key = offloaded[name]
            yield name, hook.weights_map[key]
        else:
            yield name, parameter


def missing_weights(decoder: PreTrainedModel) -> list[str]:
    """Return the names of parameters that hold no values (device ``meta``) and that no hook of accelerate brings."""
    missing = [name for name, parameter in decoder.named_parameters() if parameter.is_meta]
    return sorted(set(missing) - set(_offloaded(decoder))) if missing else []


def _offloaded(decoder: PreTrainedModel) -> dict[str, tuple[Tensor, AlignDevicesHook, str]]:
    """Return the offloaded parameters by name: each with the hook that brings it, and its name there."""
    brought = {}
    for path, module in decoder.named_modules():
        for hook in _hooks_of(module):
            if isinstance(hook, AlignDevicesHook) and hook.offload:
                for name, parameter in module.named_parameters(recurse=hook.place_submodules):
                    brought[f"{path}.{name}" if path else name] = parameter, hook, name
    return brought


def _hooks_of(module: nn.Module) -> list[ModelHook]:
    """Return accelerate's hooks of one module."""
    hook = getattr(module, "_hf_hook", None)
    if hook is None:
        return []
    return list(hook.hooks) if isinstance(hook, SequentialHook) else [hook]
