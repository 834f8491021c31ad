"""Knowledge that is read for the first time ("cold"): reading K and x once, against D(K, x)."""

from __future__ import annotations

from typing import Any

import torch

from diekae.inject.attached import Attached
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.run.timing import TimedCall, Times
from diekae_research.bench import floor
from diekae_research.bench.llama import llama2_7b, llama2_7b_bank
from diekae_research.bench.setting import Bench, Comparison

LONGEST = 2048
"""Longest K; beyond it D(K, x) takes minutes on a slow core."""
COMPARED_LENGTHS = (128, 1024)
"""|K| of the rows."""
AIMS = {("token", 1024): 0.15}
"""Aims by bank and |K|."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the rows "pass cold"."""
    times = {length: _time(bench, length) for length in bench.fitting_lengths(LONGEST)}
    rows = []
    for length in COMPARED_LENGTHS:
        if length not in times:
            continue
        for name in bench.names:
            title = f"pass cold, {name}, |K| {length}, against D(K,x)"
            least = _least(bench.model(name).attached, length, bench.inputs, len(bench.anchor))
            note = f"|x| {bench.inputs}; by operations, causal masks counted in full"
            ratio = times[length].ratio(name, "prompted")
            rows.append(Comparison(title, AIMS.get((name, length)), ratio, least, note=note))
    seconds = {str(length): values for length, values in times.items()}
    return {"rows": [*rows, _count_llama(bench.inputs)], "seconds": seconds}


def _time(bench: Bench, length: int) -> Times:
    """Time D(K, x) and every bank."""
    knowledge, ids, anchor = bench.ids(length), bench.question(), len(bench.anchor)
    whole = torch.cat([ids[:, :anchor], knowledge, ids[:, anchor:]], dim=1)
    ways: dict[str, TimedCall] = {"prompted": bench.bare(whole)}
    ways |= {name: _cold_pass(bench.model(name), knowledge, ids) for name in bench.names}
    return bench.seconds(f"cold, |K| {length}", ways)


def _cold_pass(model: DiekaeModel, knowledge: torch.Tensor, ids: torch.Tensor) -> TimedCall:
    """Return a call that prepares K and reads x."""

    def run() -> object:
        (prepared,) = read_documents(model.attached, model.anchor, knowledge.tolist())
        return model(ids, knowledge=prepared, use_cache=True, logits_to_keep=1)

    return run


def _least(attached: Attached, length: int, inputs: int, anchor: int = 1) -> float:
    """Return the operations of a cold pass as a ratio to those of D(K, x)."""
    decoder, columns = attached.decoder, anchor + inputs
    read = 0 if attached.bank.encoder.reads == "embeddings" else floor.states_pass(attached, anchor + length)
    prepare = floor.bank_prepare(attached, length, anchor)
    answer = floor.bank_pass(attached, columns, length, anchor) + floor.decoder_pass(decoder, columns)
    return (read + prepare + answer) / floor.decoder_pass(decoder, length + columns)


def _count_llama(inputs: int) -> Comparison:
    title = "pass cold, token, |K| 1024, against D(K,x), LLaMA2-7B's shape"
    least = _least(llama2_7b_bank(llama2_7b(), "token"), 1024, inputs)
    return Comparison(title, 0.65, None, least, note=f"|x| {inputs}; the paper measured 0.65; operations only")
