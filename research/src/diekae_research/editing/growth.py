"""Time and size of edits, and time of questions to an edited model."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from diekae.data.prompt import Prompt
from diekae.edit.edit import Edit
from diekae.edit.edits import Edits, make_store
from diekae.edit.gate import Gate, MentionGate
from diekae.edit.trained_parts import TrainedParts
from diekae.model import DiekaeModel


def time_edits(model: DiekaeModel, trained: TrainedParts, gate: Gate, edits: Sequence[Edit]) -> dict[str, Any]:
    """Return milliseconds and bytes of an edit that is made completely: written, encoded by the gate, and prepared."""
    with tempfile.TemporaryDirectory() as folder:
        written = Edits(model, make_store(model, folder), gate, trained.adapter)
        start = time.perf_counter()
        written.add(edits)
        seconds = time.perf_counter() - start
        size = written.store.nbytes()
        written.store.close()
    return {"timed": len(edits), "ms_an_edit": 1000 * seconds / len(edits), "bytes_an_edit": size / len(edits)}


@torch.no_grad()
def time_queries(edits: Edits, model: DiekaeModel, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return median milliseconds a question: of the gate, of the search for mentions alone, and of a pass of D(x)."""
    prompter = model.need_prompter()
    texts = [str(prompter.tokenizer.decode(list(prompt.input))) for prompt in prompts]
    times: dict[str, list[float]] = {"gate": [], "mention": [], "bare": []}
    mention = MentionGate()
    mention.set_edits(edits.entries)
    for text, prompt in zip(texts, prompts, strict=True):
        ids = torch.tensor([prompt.anchor + prompt.input], device=model.device)
        for name, call in (
            ("gate", lambda text=text: edits.which([text])),
            ("mention", lambda text=text: mention.open([text])),
            ("bare", lambda ids=ids: model.decoder(ids, use_cache=False, logits_to_keep=1)),
        ):
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    medians = {f"ms_{name}": statistics.median(values[3:] or values) for name, values in times.items()}
    return {**medians, "gate_over_bare": medians["ms_gate"] / medians["ms_bare"]}
