"""What `group_by_length` saves: an epoch of the shipped bank's recipe with batches of like length, against random ones.

    python research/experiments/grouping.py --folder DATA --json research/results/grouping.json

The bank is untrained, which costs the same. Both epochs read the same examples, batch by batch in turn, so that a busy
machine slows both alike.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch.utils.data import RandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from diekae.data import load_mixture
from diekae.data.prompt import Batch
from diekae.inject.hooks import frozen
from diekae.model import DiekaeModel
from diekae.models import load_decoder
from diekae.provenance import write_json
from diekae.recipe import read_recipe
from diekae.training.dataset import PromptDataset
from diekae.training.objectives import OBJECTIVES

RECIPE = Path(__file__).parents[2] / "recipes" / "smollm2.toml"
EXAMPLES, BATCH, SEED = 192, 16, 0


def main() -> None:
    """Measure both orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = read_recipe(RECIPE, [f"folder={arguments.folder}"])
    decoder, tokenizer = load_decoder("smollm2", dtype=torch.float32)
    model = DiekaeModel(decoder, recipe.diekae, tokenizer)
    prompts = load_mixture(recipe.placed("train"), SEED, model.need_prompter())[:EXAMPLES]
    dataset = PromptDataset(prompts, scope=model.config.scope, anchor=model.config.anchor)
    draw = torch.Generator().manual_seed(SEED)
    orders = {
        "random": list(RandomSampler(dataset, generator=draw)),
        "grouped": list(LengthGroupedSampler(BATCH, lengths=dataset.lengths, generator=draw)),
    }
    objective = OBJECTIVES[recipe.stages[0].objective](model)
    seconds, padding, columns = dict.fromkeys(orders, 0.0), dict.fromkeys(orders, 0), dict.fromkeys(orders, 0)
    with frozen(decoder):
        for start in track(range(0, EXAMPLES, BATCH), "batches"):
            for name, order in orders.items():
                batch = dataset.collate([prompts[index] for index in order[start : start + BATCH]])
                began = time.process_time()
                sums = objective(**batch)
                (sums.loss / sums.positions).backward()
                seconds[name] += time.process_time() - began
                whole, empty = _columns(batch)
                columns[name] += whole
                padding[name] += empty
                model.bank.zero_grad()
    shares = {name: padding[name] / columns[name] for name in orders}
    result = {"examples": EXAMPLES, "batch": BATCH, "padding_share": shares, "seconds": seconds}
    result["ratio"] = seconds["grouped"] / seconds["random"]
    print(result)
    if arguments.json:
        write_json(arguments.json, result)


def _columns(batch: Batch) -> tuple[int, int]:
    """Count the columns of all runs, with K and without and of documents apart, and those that hold nothing."""
    parts: Any = batch
    seen = int(parts["input_mask"].sum())
    real = 2 * seen + int(parts["knowledge_mask"].sum())
    whole = parts["input_ids"].numel() + parts["full_ids"].numel()
    if "document_ids" in parts:
        real += int(parts["document_mask"].sum()) + int(parts["document_start"].sum())
        whole += parts["document_ids"].numel()
    return whole, whole - real


if __name__ == "__main__":
    main()
