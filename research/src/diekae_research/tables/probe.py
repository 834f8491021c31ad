"""One measurement of table 4 in a new process: ``python -m diekae_research.tables.probe '{…}'``.

The process leaves the C library's allocator as it is. An allocator that keeps freed memory would change the peaks.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from diekae.config import DiekaeConfig
from diekae.data.prompt import Prompt
from diekae.model import DiekaeModel
from diekae.models import DTYPES, load_decoder
from diekae.run.peak_memory import peak_memory
from diekae.run.score import lay_out

INPUT_TOKENS = 10
"""|x|: the paper's example input (section 5.4)."""
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")
"""Signs of a process that ran out of memory. One that the system killed prints nothing."""


@dataclass(frozen=True)
class PeakRequest:
    """What is measured."""

    model: str
    """Name or folder of the decoder."""
    way: str
    """``bare``: D(x). ``prompted``: D(K, x). ``ours``: a bank that reads K in the measured call. ``ours_prepared``: a
    bank with K prepared before."""
    tokens: int
    """Length of the context in tokens: anchor, K and x together."""
    encoder: str
    """Encoder of the bank; unused by ``bare`` and ``prompted``."""
    preset: str
    """Preset of the bank."""
    device: str
    """Where the decoder runs."""
    dtype: str = "bf16"
    """Type of the decoder's weights: ``bf16`` or ``fp32``."""


def probe(request: PeakRequest) -> dict[str, int]:
    """Measure in a new process.

    Returns:
        ``peak`` and ``added`` in bytes; empty if there is not enough memory.

    Raises:
        RuntimeError: The process failed for another reason; the message has its last line.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(request))]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode == -signal.SIGKILL or any(sign in process.stderr for sign in OUT_OF_MEMORY):
        return {}
    if process.returncode:
        last_line = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        what = f"measuring {request.way} at {request.tokens} tokens"
        raise RuntimeError(f"{what} ended with {process.returncode}: {last_line}")
    peaks: dict[str, int] = json.loads(process.stdout.strip().splitlines()[-1])
    return peaks


def measure(request: PeakRequest) -> dict[str, int]:
    """Measure in this process."""
    decoder, tokenizer = load_decoder(request.model, dtype=DTYPES[request.dtype], device=request.device)
    config = DiekaeConfig.preset(request.preset)
    if config.encoder != request.encoder:
        config = DiekaeConfig.preset(request.preset, encoder=request.encoder, encoder_options={})
    model = DiekaeModel(decoder, config, tokenizer)
    call = _make_call(model, request.tokens, request.way)
    if request.tokens > 2 * INPUT_TOKENS:  # what the first call allocates for good is not part of the measured call
        with torch.no_grad():
            _make_call(model, 2 * INPUT_TOKENS, request.way)()
    with torch.no_grad():
        memory = peak_memory(call, request.device)
    return {"peak": memory.peak, "added": memory.added}


def _make_call(model: DiekaeModel, tokens: int, way: str) -> Callable[[], object]:
    """Return a call that reads a context of any tokens and predicts the next, with the cache that generation needs."""
    knowledge = (5,) * (tokens - INPUT_TOKENS - len(model.anchor))
    prompt = Prompt(model.anchor, knowledge, (6,) * INPUT_TOKENS, ())
    batch = lay_out(model, [prompt])

    def read(ids: torch.Tensor) -> object:
        return model.decoder(input_ids=ids, use_cache=True, logits_to_keep=1)

    if way in ("bare", "prompted"):
        return lambda: read(batch["input_ids" if way == "bare" else "full_ids"])
    with torch.no_grad():
        prepared_before = model.prepare_prompts([prompt]) if way == "ours_prepared" else None

    def read_with_bank() -> object:
        all_prepared = model.prepare_prompts([prompt]) if prepared_before is None else prepared_before
        with model.call_context(all_prepared, batch["input_ids"]):
            return read(batch["input_ids"])

    return read_with_bank


if __name__ == "__main__":
    print(json.dumps(measure(PeakRequest(**json.loads(sys.argv[1])))))
