"""How edits of the mechanism ``memory`` grow: quality on one fixed sample, and what an edit and a question cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diekae.data.prompt import Prompt
from diekae.edit.edit import Edit
from diekae.edit.edits import Edits, make_store
from diekae.edit.gate import Gate, MentionGate
from diekae.edit.trained import Trained
from diekae.model import DiekaeModel
from diekae_research.editing.asked import Asked


def with_edits(model: DiekaeModel, gate: Gate, trained: Trained, edits: Sequence[Edit]) -> Edits:
    """Return these edits in a store of this process, memories not yet prepared.

    Args:
        model: What is edited.
        gate: Decides.
        trained: Whose adapter is used.
        edits: In the order of their making.
    """
    made = Edits(model, make_store(model, None), gate, trained.adapter)
    for edit in edits:
        if made.store.duplicate(edit) is None:
            made.store.add(edit)
    made.refresh()
    return made


def asked(model: DiekaeModel, edits: Edits, name: str) -> Asked:
    """Return edits as a method."""
    return Asked(name=name, decoder=model.decoder, tokenizer=model.need_prompter().tokenizer, edits=edits)


def time_edits(model: DiekaeModel, trained: Trained, gate: Gate, edits: Sequence[Edit], folder: Path) -> dict[str, Any]:
    """Return milliseconds and bytes of an edit that is made whole: written, read by the gate and by the bank."""
    made = Edits(model, make_store(model, folder), gate, trained.adapter)
    start = time.perf_counter()
    made.add(edits)
    seconds = time.perf_counter() - start
    size = made.store.nbytes()
    made.store.close()
    return {"timed": len(edits), "ms_an_edit": 1000 * seconds / len(edits), "bytes_an_edit": size / len(edits)}


@torch.no_grad()
def time_queries(edits: Edits, model: DiekaeModel, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return milliseconds a question: what the gate takes, of that the search alone, and D(x)'s pass beside them."""
    prompter = model.need_prompter()
    texts = [str(prompter.tokenizer.decode(list(prompt.input))) for prompt in prompts]
    times: dict[str, list[float]] = {"gate": [], "mention": [], "bare": []}
    mention = MentionGate()
    mention.tell(edits.entries)
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
    found = {f"ms_{name}": statistics.median(values[3:] or values) for name, values in times.items()}
    return {**found, "gate_over_bare": found["ms_gate"] / found["ms_bare"]}
