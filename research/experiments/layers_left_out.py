"""What is lost when the decoder's attention reads K in some of its layers only, without training?

    python research/experiments/layers_left_out.py --folder DATA --json research/results/layers-left-out.json

Layers are left out one after another, each time the one that costs least. The targets are the decoder's own greedy
answers with K, on training examples of Natural Questions and facts. There are two measures: KL(D(K,x) ‖ ours) in nats a
token of those answers, and the share of answers in which every token stays the likeliest, so that ours would generate
the same words.
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
from diekae.training.greedy_targets import use_greedy_targets

ROWS = 8
"""Examples of a pass."""
TRIED = 6
"""Candidates for each layer that is left out: those that cost least when they were last tried."""


class LossWithout:
    """Measures what is lost without some layers."""

    def __init__(self, model: DiekaeModel, prompts: list[Prompt]) -> None:
        """Prepare K in all layers, and compute the distributions of D(K, x)."""
        self.model = model
        self.batches = [[prompts[row] for row in rows] for rows, _ in batches(prompts, ROWS)]
        with torch.no_grad():
            self.teacher = [target_logits(model, batch, "prompted").log_softmax(-1) for batch in self.batches]
            self.all_prepared = [model.prepare_prompts(batch) for batch in self.batches]

    @torch.no_grad()
    def __call__(self, layers: Iterable[int]) -> dict[str, float]:
        """Return nats a token, and the share of answers in the same words, when these layers alone read K."""
        layers = sorted(layers)
        tokenizer = self.model.need_prompter().tokenizer
        model = DiekaeModel.exact(self.model.decoder, tokenizer, layers=layers) if layers else None
        nats, tokens, same, answers = 0.0, 0, 0, 0
        for batch, teacher, all_prepared in zip(self.batches, self.teacher, self.all_prepared, strict=True):
            if model is None:
                logits = target_logits(self.model, batch, "bare")
            else:
                bank = model.bank.fingerprint()
                selected = [select_layers(prepared, layers, bank) for prepared in all_prepared]
                logits = target_logits(model, batch, "ours", all_prepared=selected)
            nats += float(F.kl_div(logits.log_softmax(-1), teacher, log_target=True, reduction="sum"))
            agree = logits.argmax(-1) == teacher.argmax(-1)
            same += sum(bool(answer.all()) for answer in agree.split([len(prompt.target) for prompt in batch]))
            tokens, answers = tokens + len(teacher), answers + len(batch)
        return {"nats": nats / tokens, "same_words": same / answers}


def select_layers(prepared: PreparedKnowledge, layers: list[int], bank: str) -> PreparedKnowledge:
    """Return what a bank of some layers prepares, out of what a bank of all layers prepared."""
    tensors = {name: tensor[layers] for name, tensor in prepared.tensors.items()}
    anchor = {name: tensor[layers] for name, tensor in prepared.anchor.items()}
    return replace(prepared, tensors=tensors, anchor=anchor, bank=bank)


def leave_out(loss_without: LossWithout, depth: int, least: int) -> list[dict[str, object]]:
    """Leave layers out until ``least`` are left, and return each step."""
    cost: dict[int, float] = dict.fromkeys(range(depth), 0.0)
    steps: list[dict[str, object]] = []
    while len(cost) > least:
        candidates = sorted(cost, key=cost.__getitem__)[: TRIED if steps else depth]
        losses = {layer: loss_without(other for other in cost if other != layer) for layer in candidates}
        cost |= {layer: loss["nats"] for layer, loss in losses.items()}
        cheapest = min(losses, key=lambda layer: losses[layer]["nats"])
        del cost[cheapest]
        steps.append({"left_out": cheapest, "layers": sorted(cost), **losses[cheapest]})
        print(steps[-1], file=sys.stderr, flush=True)
    return steps


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder with a folder for each data set")
    parser.add_argument("--limit", type=int, default=12, help="examples of each data set and format")
    parser.add_argument("--least", type=int, default=14, help="layers that are left at the end")
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    arguments = parser.parse_args()
    decoder, tokenizer = load_decoder("smollm2", dtype=torch.float32)
    model = DiekaeModel.exact(decoder, tokenizer)
    questions = str(arguments.folder / "natural_questions")
    specs = []
    for style in ("qa", "chat"):
        specs += [
            DataSpec("natural_questions", questions, limit=arguments.limit, longest=400, format=style),
            DataSpec("facts", limit=arguments.limit // 2, format=style),
            DataSpec("facts", limit=arguments.limit // 2, among=300, format=style),
        ]
    prompts = load_mixture(specs, 0, model.need_prompter())
    with TemporaryDirectory() as folder:
        prompts = use_greedy_targets(model, prompts, 1.0, Path(folder) / "answers.json")
    loss_without = LossWithout(model, prompts)
    depth = len(model.layers)
    result = {
        "examples": len(prompts),
        "tokens": sum(map(len, loss_without.teacher)),
        "none": loss_without([]),
        "all": loss_without(range(depth)),
        "without_first": {n: loss_without(range(n, depth)) for n in (2, 4, 6, 8, 10)},
        "without_last": {n: loss_without(range(depth - n)) for n in (1, 2, 3, 4, 5, 7, 9)},
    }
    print(result, file=sys.stderr, flush=True)
    write_json(arguments.json, {**result, "steps": leave_out(loss_without, depth, arguments.least)})


if __name__ == "__main__":
    main()
