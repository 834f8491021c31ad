"""What is lost when the decoder's attention reads K in some layers alone, without any training.

    python research/experiments/layers_left_out.py --folder DATA --json research/results/layers-left-out.json

Layers are left out one after another, each time the one that costs least. The measure is what the decoder itself says
of K on training examples of Natural Questions and facts, greedily: KL(D(K,x) ‖ ours) in nats a token of those answers,
and the share of answers in which every token stays the most likely one, so that ours would say the same words.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional as F

from diekae.data.mixture import DataSpec, load_mixture
from diekae.data.prompt import Prompt
from diekae.knowledge import PreparedKnowledge
from diekae.model import DiekaeModel
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.run.score import batches, target_logits
from diekae.training.answers import answer_some

ROWS = 8
"""Examples a pass."""
TRIED = 6
"""Layers that are tried for each one that is left out: those that cost least when they were tried last."""


class Lost:
    """Measures what is lost without some layers."""

    def __init__(self, model: DiekaeModel, prompts: list[Prompt]) -> None:
        """Prepare K in all layers, and what D(K, x) makes of it."""
        self.model = model
        self.batches = [[prompts[row] for row in rows] for rows, _ in batches(prompts, ROWS)]
        with torch.no_grad():
            self.teacher = [target_logits(model, batch, "prompted").log_softmax(-1) for batch in self.batches]
            self.all_prepared = [model.prepare_prompts(batch) for batch in self.batches]

    @torch.no_grad()
    def __call__(self, layers: Iterable[int]) -> dict[str, float]:
        """Return nats a token, and the share of answers in the same words."""
        own = sorted(layers)
        model = DiekaeModel.exact(self.model.decoder, self.model.need_prompter().tokenizer, layers=own) if own else None
        nats, tokens, same, answers = 0.0, 0, 0, 0
        for batch, wanted, all_prepared in zip(self.batches, self.teacher, self.all_prepared, strict=True):
            if model is None:
                logits = target_logits(self.model, batch, "bare")
            else:
                given = [_thinned(prepared, own, model.bank.fingerprint()) for prepared in all_prepared]
                logits = target_logits(model, batch, "ours", all_prepared=given)
            nats += float(F.kl_div(logits.log_softmax(-1), wanted, log_target=True, reduction="sum"))
            agree = logits.argmax(-1) == wanted.argmax(-1)
            same += sum(bool(part.all()) for part in agree.split([len(prompt.target) for prompt in batch]))
            tokens, answers = tokens + len(wanted), answers + len(batch)
        return {"nats": nats / tokens, "same_words": same / answers}


def _thinned(prepared: PreparedKnowledge, layers: list[int], bank: str) -> PreparedKnowledge:
    """Return what a bank of some layers keeps of what one of all layers prepared."""
    tensors = {name: tensor[layers] for name, tensor in prepared.tensors.items()}
    anchor = {name: tensor[layers] for name, tensor in prepared.anchor.items()}
    return replace(prepared, tensors=tensors, anchor=anchor, bank=bank)


def left_out(lost: Lost, depth: int, least: int) -> list[dict[str, object]]:
    """Leave layers out until ``least`` are left; returns each step."""
    cost: dict[int, float] = dict.fromkeys(range(depth), 0.0)
    steps: list[dict[str, object]] = []
    while len(cost) > least:
        tried = sorted(cost, key=cost.__getitem__)[: TRIED if steps else depth]
        found = {layer: lost(kept for kept in cost if kept != layer) for layer in tried}
        cost |= {layer: figures["nats"] for layer, figures in found.items()}
        gone = min(found, key=lambda layer: found[layer]["nats"])
        del cost[gone]
        steps.append({"left_out": gone, "layers": sorted(cost), **found[gone]})
        print(steps[-1], file=sys.stderr, flush=True)
    return steps


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--limit", type=int, default=12, help="examples of each data set and format")
    parser.add_argument("--least", type=int, default=14, help="layers that are left at the end")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    decoder, tokenizer = load_decoder("smollm2", dtype=torch.float32)
    whole = DiekaeModel.exact(decoder, tokenizer)
    questions = str(given.folder / "natural_questions")
    specs = [
        spec
        for style in ("qa", "chat")
        for spec in (
            DataSpec("natural_questions", questions, limit=given.limit, longest=400, format=style),
            DataSpec("facts", limit=given.limit // 2, format=style),
            DataSpec("facts", limit=given.limit // 2, among=300, format=style),
        )
    ]
    prompts = load_mixture(specs, 0, whole.need_prompter())
    with TemporaryDirectory() as scratch:
        prompts = answer_some(whole, prompts, 1.0, Path(scratch) / "answers.json")
    lost = Lost(whole, prompts)
    depth = len(whole.layers)
    found = {
        "examples": len(prompts),
        "tokens": sum(map(len, lost.teacher)),
        "none": lost([]),
        "all": lost(range(depth)),
        "without_first": {n: lost(range(n, depth)) for n in (2, 4, 6, 8, 10)},
        "without_last": {n: lost(range(depth - n)) for n in (1, 2, 3, 4, 5, 7, 9)},
    }
    print(found, file=sys.stderr, flush=True)
    write_json(given.json, {**found, "steps": left_out(lost, depth, given.least)})


if __name__ == "__main__":
    main()
