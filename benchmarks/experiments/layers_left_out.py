"""What is lost when the decoder's attention reads K in some layers alone, without any training.

    python benchmarks/experiments/layers_left_out.py --folder DATA --json benchmarks/results/layers-left-out.json

KL(D(K,x) ‖ ours) in nats a target token, on training examples of Natural Questions, facts and Wizard of Wikipedia:
without the first layers, without the last ones, and the sets that a bank was chosen from.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from torch.nn import functional as F

from diekae.data.mixture import DataSpec, load_mixture
from diekae.model import DiekaeModel
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.run.score import target_logits

SETS = {
    "every second": list(range(1, 30, 2)),
    "ten": [5, 8, 10, 12, 14, 16, 18, 20, 22, 23],
    "twelve": [0, 4, 7, 8, 10, 11, 15, 17, 18, 20, 21, 23],
    "fourteen": [0, 2, 4, 7, 8, 10, 11, 14, 17, 18, 20, 21, 23, 24],
    "fifteen": [6, 7, 8, 9, 10, 11, 14, 15, 17, 18, 20, 21, 22, 23, 24],
    "sixteen": [0, 1, 3, 5, 7, 8, 9, 10, 11, 14, 15, 17, 18, 20, 21, 23],
    "seventeen": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 18, 20, 21, 23, 24],
    "twenty": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15, 17, 18, 20, 21, 23, 24],
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the raw data sets")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    decoder, tokenizer = load_decoder("smollm2", dtype=torch.float32)
    whole = DiekaeModel.exact(decoder, tokenizer)
    depth = len(whole.layers)
    specs = [
        DataSpec("natural_questions", str(given.folder / "natural_questions"), limit=16, longest=250, format="qa"),
        DataSpec("facts", limit=16, format="qa"),
        DataSpec(
            "wizard_of_wikipedia", str(given.folder / "wizard_of_wikipedia"), limit=6, longest=150, format="plain"
        ),
    ]
    prompts = sorted(load_mixture(specs, 0, whole.need_prompter()), key=lambda prompt: len(prompt.knowledge))
    batches = [prompts[start : start + 8] for start in range(0, len(prompts), 8)]
    with torch.no_grad():
        teacher = [target_logits(whole, batch, "prompted").log_softmax(-1) for batch in batches]

    @torch.no_grad()
    def lost(layers: Iterable[int]) -> float:
        own = sorted(layers)
        model = DiekaeModel.exact(decoder, tokenizer, layers=own) if own else None
        total = 0.0
        for batch, wanted in zip(batches, teacher, strict=True):
            logits = target_logits(whole, batch, "bare") if model is None else target_logits(model, batch, "ours")
            total += float(F.kl_div(logits.log_softmax(-1), wanted, log_target=True, reduction="sum"))
        return total / sum(map(len, teacher))

    found = {
        "examples": len(prompts),
        "tokens": sum(map(len, teacher)),
        "none": lost([]),
        "all": lost(range(depth)),
        "without_first": {n: lost(range(n, depth)) for n in (2, 4, 6, 8, 10)},
        "without_last": {n: lost(range(depth - n)) for n in (1, 2, 3, 4, 5, 7, 9)},
        "sets": {name: {"layers": layers, "kl": lost(layers)} for name, layers in SETS.items()},
    }
    write_json(given.json, found)


if __name__ == "__main__":
    main()
