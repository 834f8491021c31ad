"""Knowledge that was never seen: reading it and x once, against D(K, x)."""

from __future__ import annotations

from typing import Any

import torch

from diekae.inject.attached import Attached
from diekae.model import DiekaeModel
from diekae.prepare import read_documents
from diekae.run.timing import Times, Way
from diekae_research.bench import floor
from diekae_research.bench.inference import curve
from diekae_research.bench.setting import Bench, Row, beside_llama2_7b, llama2_7b

MOST = 2048
"""Longest K: D(K, x) takes minutes beyond it on a slow core."""


@torch.no_grad()
def measure(bench: Bench) -> dict[str, Any]:
    """Measure the row "one pass cold"."""
    seconds: dict[str, Times] = {}
    for length in bench.fitting(MOST):
        known, ids = bench.ids(length), bench.question()
        anchor = len(bench.anchor)
        whole = torch.cat([ids[:, :anchor], known, ids[:, anchor:]], dim=1)
        ways = {"prompted": bench.bare(whole)}
        ways |= {name: _cold(bench.model(name), known, ids) for name in bench.names}
        seconds[str(length)] = bench.seconds(f"cold, |K| {length}", ways)
    rows = []
    for length in (128, 1024):
        if (at := seconds.get(str(length))) is None:
            continue
        for name in bench.names:
            aim = 0.15 if (name, length) == ("token", 1024) else None
            title = f"pass cold, {name}, |K| {length}, against D(K,x)"
            note = f"|x| {bench.inputs}; by operations, causal masks counted in full"
            least = _least(bench.model(name).attached, length, bench.inputs, len(bench.anchor))
            rows.append(Row(title, aim, at.ratio(name, "prompted"), least, note=note))
    points = sorted(seconds, key=int)
    ways_of = {name: [seconds[point][name] for point in points] for name in seconds[points[0]]} if points else {}
    return {
        "rows": [row.to_dict() for row in rows + _llama_rows(bench.inputs)],
        "seconds": seconds,
        "curves": {"knowledge": curve([int(point) for point in points], ways_of)},
    }


def _cold(model: DiekaeModel, known: torch.Tensor, ids: torch.Tensor) -> Way:
    """Prepare K and read x."""

    def run() -> object:
        (prepared,) = read_documents(model.attached, model.anchor, known.tolist())
        return model(ids, knowledge=prepared, use_cache=True, logits_to_keep=1)

    return run


def _least(attached: Attached, length: int, inputs: int, anchor: int = 1) -> float:
    """Return the operations of a cold pass against those of D(K, x)."""
    decoder, columns = attached.decoder, anchor + inputs
    states = 0 if attached.bank.encoder.reads == "embeddings" else floor.states_pass(attached, anchor + length)
    ours = (
        states
        + floor.bank_prepare(attached, length, anchor)
        + floor.bank_pass(attached, columns, length, anchor)
        + floor.decoder_pass(decoder, columns)
    )
    return ours / floor.decoder_pass(decoder, length + columns)


def _llama_rows(inputs: int) -> list[Row]:
    """Count LLaMA2-7B's shape."""
    title = "pass cold, token, |K| 1024, against D(K,x), LLaMA2-7B's shape"
    least = _least(beside_llama2_7b(llama2_7b(), "token"), 1024, inputs)
    return [Row(title, 0.65, None, least, note=f"|x| {inputs}; the paper measured 0.65; operations alone")]
