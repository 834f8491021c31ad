"""One row of table 4, measured in a process that does nothing else: ``python -m diekae_research.tables.probe '{…}'``.

The C library's allocator is left as it is, for one that is told to keep freed memory shows other peaks.
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
from diekae.run.score import lay_out
from diekae_research.evaluation.peak_memory import peak_memory

INPUT_TOKENS = 10
"""Tokens of x: what the paper takes for an example input (section 5.4)."""
OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "can't allocate memory")
"""What a process says that asked for more than there is; one that the system killed says nothing."""
WAYS = ("bare", "prompted", "ours", "ours_prepared")
"""D(x); D(K, x); ours, K read in the same call; ours, K prepared before."""


@dataclass(frozen=True)
class Row:
    """What is measured."""

    model: str
    """Name or folder of the decoder."""
    way: str
    """One of :data:`WAYS`."""
    tokens: int
    """Tokens of the context: anchor, K and x together."""
    encoder: str
    """``reader`` or ``token``; of no account for D."""
    preset: str
    """What the bank is besides."""
    device: str
    """Where."""
    dtype: str = "bf16"
    """Type of the decoder's weights, as :attr:`diekae_research.tables.plan.Plan.dtype`, decided."""


def probe(row: Row) -> dict[str, int]:
    """Measure a row in a fresh process.

    Returns:
        ``peak`` and ``added`` in bytes; nothing where there is not enough memory.

    Raises:
        RuntimeError: The process failed otherwise; with the end of what it said.
    """
    command = [sys.executable, "-m", __name__, json.dumps(asdict(row))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == -signal.SIGKILL or any(sign in done.stderr for sign in OUT_OF_MEMORY):
        return {}
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"measuring {row.way} at {row.tokens} tokens ended with {done.returncode}: {said[0]}")
    found: dict[str, int] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(row: Row) -> dict[str, int]:
    """Measure a row in this process."""
    decoder, tokenizer = load_decoder(row.model, dtype=DTYPES[row.dtype], device=row.device)
    config = DiekaeConfig.preset(row.preset)
    if config.encoder != row.encoder:
        config = DiekaeConfig.preset(row.preset, encoder=row.encoder, encoder_options={})
    model = DiekaeModel(decoder, config, tokenizer)
    call = _call(model, _prompt(model, row.tokens), row.way)
    if row.tokens > 2 * INPUT_TOKENS:  # what the first call of all allocates for good is no part of this one
        with torch.no_grad():
            _call(model, _prompt(model, 2 * INPUT_TOKENS), row.way)()
    found = peak_memory(call, row.device)
    return {"peak": found.peak, "added": found.added}


def _call(model: DiekaeModel, prompt: Prompt, way: str) -> Callable[[], object]:
    """Return a call that reads the context and predicts the next token, keys and values kept as generation needs."""

    def read(ids: torch.Tensor) -> object:
        return model.decoder(input_ids=ids, use_cache=True, logits_to_keep=1)

    batch = lay_out(model, [prompt])
    if way in ("bare", "prompted"):
        return lambda: read(batch["input_ids" if way == "bare" else "full_ids"])
    with torch.no_grad():
        ready = model.prepare_prompts([prompt]) if way == "ours_prepared" else None

    def injected() -> object:
        all_prepared = model.prepare_prompts([prompt]) if ready is None else ready
        with model.behind(all_prepared, batch["input_ids"]):
            return read(batch["input_ids"])

    return injected


def _prompt(model: DiekaeModel, tokens: int) -> Prompt:
    """Lay out one row whose context has so many tokens; which they are does not matter."""
    anchor = model.anchor
    known = tokens - INPUT_TOKENS - len(anchor)
    return Prompt(anchor, (5,) * known, (6,) * INPUT_TOKENS, ())


if __name__ == "__main__":
    print(json.dumps(measure(Row(**json.loads(sys.argv[1])))))
